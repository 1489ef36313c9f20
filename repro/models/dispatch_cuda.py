"""How tokens meet their experts on CUDA: a fifth way for `repro.models.dispatch`, named ``cuda``.

It is `dispatch.dense` for layers that are small for a GPU, and else `lean` below: tokens sorted by expert, grouped
matmuls, one fused kernel between them (`repro.models.fused_cuda`), the backward written out, and nothing that waits for
the device (docs/performance.md). `accelerated` puts it in force; the runner does so for runs on CUDA.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from repro.models import dispatch, fused_cuda
from repro.models.transforms import transformed
from repro.models.ways import forced

#: Multiplications of one projection up to which a GPU is done with all experts on all tokens before the many kernels of
#: sorting and moving rows are even issued.
DENSE_UP_TO = 24e9


def sorted_by_expert(flat: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Stable order of the selections ``[T K]`` by expert, LongTensor, and where each expert's end, int32 ``[N]``."""
    # fewer bits are fewer passes of the sort; and unlike bincount nothing here waits for the device
    values, order = flat.to(torch.uint8 if experts <= 256 else torch.int32).sort(stable=True)
    ends = torch.searchsorted(values.to(torch.int32), torch.arange(experts, device=flat.device).int(), right=True)
    return order, ends.to(torch.int32)


class _Lean(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        k = indices.shape[1]
        order, ends = sorted_by_expert(indices.reshape(-1), down.shape[0])
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        token, back = order // k, back.view(indices.shape)
        weight = weights.reshape(-1).index_select(0, order)[:, None].to(x.dtype)
        h = F.grouped_mm(x.index_select(0, token), gate_up.transpose(1, 2), offs=ends)
        activate, ctx.activate_backward = fused_cuda.ways(h)
        a = activate(h, weight)
        y = F.grouped_mm(a, down.transpose(1, 2), offs=ends)
        ctx.save_for_backward(x, token, back, weight, gate_up, down, ends, h, a)
        ctx.gate_dtype = weights.dtype
        return F.embedding_bag(back, y, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, token, back, weight, gate_up, down, ends, h, a = ctx.saved_tensors
        dy_rows = dy.index_select(0, token)
        d_down = F.grouped_mm(dy_rows.t(), a, offs=ends)
        da = F.grouped_mm(dy_rows, down, offs=ends)
        dh, d_weight = ctx.activate_backward(da, h, weight)
        d_gate_up = F.grouped_mm(dh.t(), x.index_select(0, token), offs=ends)
        dx = F.embedding_bag(back, F.grouped_mm(dh, gate_up, offs=ends), mode="sum")
        d_weights = d_weight.index_select(0, back.view(-1)).view(back.shape).to(ctx.gate_dtype)
        return dx, None, d_weights, d_gate_up, d_down


def lean(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Sorted by expert, backward written out; differentiable once. Arguments as `dispatch.naive`."""
    return _Lean.apply(x, indices, weights, gate_up, down)


def choose(tokens: int, experts: int, k: int, size: int) -> str:
    """Which way is fastest for a shape: ``dense`` or ``lean``.

    Args:
        size: hidden size times width of an expert.
    """
    return "dense" if k >= experts or tokens * experts * size <= DENSE_UP_TO else "lean"


def cuda(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """By the way that `choose` says. Arguments as `dispatch.naive`.

    What grouped products do not take (`dispatch.groupable`) runs expert by expert. Where the computation is
    compiled or transformed autograd has the backward.
    """
    way = choose(x.shape[0], down.shape[0], indices.shape[1], down[0].numel())
    if way == "dense":
        return dispatch.dense(x, indices, weights, gate_up, down)
    if not dispatch.groupable(x.dtype, *down.shape[1:]):
        return dispatch.naive(x, indices, weights, gate_up, down)
    if transformed(x, weights, gate_up, down):
        return dispatch.grouped(x, indices, weights, gate_up, down)
    return lean(x, indices, weights, gate_up, down)


NAME = "cuda"
dispatch.WAYS[NAME] = cuda


def accelerated(device: str) -> AbstractContextManager[None]:
    """Inside the block experts run by `cuda` where ``device`` is one of CUDA, and as ever elsewhere."""
    return forced(NAME) if device.startswith("cuda") else nullcontext()
