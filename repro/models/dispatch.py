"""How tokens meet their experts: four ways to compute one thing.

``y[t] = sum_k weights[t, k] * E_{indices[t, k]}(x[t])`` with ``E_e(x) = W_down[e] (silu(W_gate[e] x) * W_up[e] x)``.

- `naive`: the formula, expert by expert; what the others are tested against and FLOPs are counted on.
- `dense`: every expert on every token as two large matmuls, weighted by zero where not selected; best when nearly all
  experts are selected.
- `grouped`: tokens sorted by expert, one grouped matmul per projection; for sparse routing on accelerators.
- `lean`: the same with its backward written out, which gathers where autograd would scatter and keeps less; for sparse
  routing on CPUs, where it is faster than `grouped` (docs/performance.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Dispatch = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
_forced: ContextVar[str | None] = ContextVar("dispatch", default=None)


def naive(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Expert by expert.

    Args:
        x: tokens ``[T, d]``.
        indices: selected experts ``[T, K]``, distinct within a token.
        weights: their gate weights ``[T, K]``.
        gate_up: ``[N, 2f, d]``, the rows of W_gate above those of W_up.
        down: ``[N, d, f]``.

    Returns:
        ``[T, d]`` in the type of x.
    """
    y = torch.zeros_like(x)
    for expert in range(gate_up.shape[0]):
        token, slot = torch.where(indices == expert)
        if token.numel() == 0:
            continue
        gate, up = F.linear(x[token], gate_up[expert]).chunk(2, dim=-1)
        out = F.linear(F.silu(gate) * up, down[expert]) * weights[token, slot, None]
        y = y.index_add(0, token, out.to(y.dtype))
    return y


def dense(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """All experts on all tokens. Arguments as `naive`."""
    experts, width, hidden = gate_up.shape[0], gate_up.shape[1] // 2, x.shape[1]
    h = F.linear(x, gate_up.reshape(-1, hidden)).view(-1, experts, 2 * width)
    weight = torch.zeros(x.shape[0], experts, dtype=weights.dtype, device=x.device).scatter(1, indices, weights)
    gate, up = h.chunk(2, dim=-1)
    a = F.silu(gate) * up * weight[..., None].to(h.dtype)
    return F.linear(a.reshape(-1, experts * width), down.transpose(0, 1).reshape(hidden, experts * width))


def grouped(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Sorted by expert. Arguments as `naive`."""
    k = indices.shape[1]
    flat = indices.reshape(-1)
    order = flat.argsort(stable=True)
    ends = torch.bincount(flat, minlength=gate_up.shape[0]).cumsum(0).to(torch.int32)
    h = F.grouped_mm(x[order // k], gate_up.transpose(1, 2), offs=ends)
    gate, up = h.chunk(2, dim=-1)
    a = F.silu(gate) * up * weights.reshape(-1)[order][:, None].to(h.dtype)
    y = F.grouped_mm(a, down.transpose(1, 2), offs=ends)
    # back to token order by a permutation and a sum over K: unlike index_add, deterministic on every device
    back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
    return y[back].view(-1, k, x.shape[1]).sum(1)


class _Lean(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        k, width = indices.shape[1], down.shape[2]
        flat = indices.reshape(-1)
        order = flat.to(torch.int16).argsort(stable=True)  # short integers sort faster
        ends = torch.bincount(flat, minlength=gate_up.shape[0]).cumsum(0).to(torch.int32)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        token, back = order // k, back.view(indices.shape)
        weight = weights.reshape(-1).index_select(0, order)[:, None].to(x.dtype)
        h = F.grouped_mm(x.index_select(0, token), gate_up.transpose(1, 2), offs=ends)
        a = F.silu(h[:, :width]).mul_(h[:, width:]).mul_(weight)
        y = F.grouped_mm(a, down.transpose(1, 2), offs=ends)
        ctx.save_for_backward(x, token, back, ends, weight, h, a, gate_up, down)
        ctx.gate_dtype = weights.dtype
        return F.embedding_bag(back, y, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, token, back, ends, weight, h, a, gate_up, down = ctx.saved_tensors
        width = a.shape[1]
        gate, up = h[:, :width], h[:, width:]
        dy = dy.index_select(0, token)
        d_down = F.grouped_mm(dy.t(), a, offs=ends)
        da = F.grouped_mm(dy, down, offs=ends)
        activated = F.silu(gate)
        d_weight = torch.linalg.vecdot(da, activated * up)
        da.mul_(weight)
        dh = torch.empty_like(h)
        torch.mul(da, activated, out=dh[:, width:])
        dh[:, :width] = torch.ops.aten.silu_backward(da.mul_(up), gate)
        d_gate_up = F.grouped_mm(dh.t(), x.index_select(0, token), offs=ends)
        dx = F.embedding_bag(back, F.grouped_mm(dh, gate_up, offs=ends), mode="sum")
        d_weights = d_weight.index_select(0, back.view(-1)).view(back.shape).to(ctx.gate_dtype)
        return dx, None, d_weights, d_gate_up, d_down


def lean(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Sorted by expert, backward written out; differentiable once. Arguments as `naive`."""
    return _Lean.apply(x, indices, weights, gate_up, down)


WAYS: dict[str, Dispatch] = {"naive": naive, "dense": dense, "grouped": grouped, "lean": lean}


def choose(tokens: int, experts: int, k: int, device: str = "cpu") -> str:
    """Which way is fastest for a shape: `dense` when every expert is selected anyway, else `lean` or `grouped`."""
    if k >= experts:
        return "dense"
    return "lean" if device == "cpu" else "grouped"


def run_experts(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The experts on the tokens, by the way that `choose` or `forced` says. Arguments as `naive`."""
    way = _forced.get() or choose(x.shape[0], gate_up.shape[0], indices.shape[1], x.device.type)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, gate_up, down = x.to(dtype), gate_up.to(dtype), down.to(dtype)
    return WAYS[way](x, indices, weights, gate_up, down)


@contextlib.contextmanager
def forced(way: str) -> Iterator[None]:
    """Use one way everywhere inside the block. Raises KeyError for an unknown one."""
    WAYS[way]
    token = _forced.set(way)
    try:
        yield
    finally:
        _forced.reset(token)
