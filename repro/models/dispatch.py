"""How tokens meet their experts: four ways to compute one thing.

``y[t] = sum_k weights[t, k] * E_{indices[t, k]}(x[t])`` with ``E_e(x) = W_down[e] (silu(W_gate[e] x) * W_up[e] x)``.

- `naive`: the formula, expert by expert; what the others are tested against and FLOPs are counted on.
- `dense`: every expert on every token as two large matmuls, weighted by zero where not selected; best when nearly all
  experts are selected.
- `grouped`: tokens sorted by expert, one grouped matmul per projection; for sparse routing on accelerators. Not for
  all sizes (`groupable`).
- `lean`: the same with its backward written out, which gathers where autograd would scatter and keeps less; for sparse
  routing on CPUs, where it is faster than `grouped` (docs/performance.md). Sizes that are not groupable it runs expert
  by expert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from repro.models.transforms import transformed
from repro.models.ways import in_force

Dispatch = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


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


def groupable(dtype: torch.dtype, hidden: int, width: int) -> bool:
    """Whether ``F.grouped_mm`` takes experts of these sizes: their rows must be whole 16 bytes, and not float64."""
    return dtype != torch.float64 and not any(size * dtype.itemsize % 16 for size in (hidden, width))


def grouped(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Sorted by expert. Arguments as `naive`. Raises ValueError for sizes that are not `groupable`."""
    hidden, width = down.shape[1:]
    if not groupable(x.dtype, hidden, width):
        raise ValueError(
            f"grouped products need rows of whole 16 bytes and no float64, not hidden size {hidden} and width {width} "
            f"in {x.dtype}; naive, dense and, on the CPU, lean take them"
        )
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


#: Blocks of experts: about so many bytes of rows each, and only when all rows together exceed the second figure. A
#: block's rows then stay in a core's cache from the gather to the last product (docs/performance.md).
BLOCK_BYTES = 1 << 20
BLOCKS_FROM = 4 << 20


def _blocks(
    rows: int, experts: int, row_bytes: int, ends: Tensor, together: bool = True
) -> list[tuple[slice, slice, Tensor]]:
    """Adjacent experts that are run together: which experts, which rows, and where each expert's rows end in them.
    Each is a block of its own unless they may be run ``together``."""
    each = experts if together else 1
    if together and rows * row_bytes > BLOCKS_FROM:
        each = min(experts, max(1, round(BLOCK_BYTES * experts / (rows * row_bytes))))
    out, start = [], 0
    for first in range(0, experts, each):
        chosen = slice(first, min(first + each, experts))
        end = int(ends[chosen.stop - 1])
        out.append((chosen, slice(start, end), ends[chosen] - start))
        start = end
    return out


def _product(into: Tensor | None, part: slice, a: Tensor, b: Tensor, stops: Tensor) -> Tensor:
    """Grouped product of a block; written to its part of ``into`` unless that is None."""
    if len(stops) > 1:
        if into is None:
            return F.grouped_mm(a, b, offs=stops)
        into[part] = F.grouped_mm(a, b, offs=stops)
        return into
    # of one expert: a plain product, which can be written in place
    whole = b.dim() == 2
    b = b if whole else b[0]
    if into is None:
        product = a @ b
        return product[None] if whole else product
    torch.mm(a, b, out=into[part.start] if whole else into[part])
    return into


def _sorted(flat: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """Stable order of the selections by expert, LongTensor, and where each expert's end, int32 [N]; on the CPU."""
    # numpy sorts short integers by counting, four times as fast as torch sorts them
    short = np.uint8 if experts <= 256 else np.uint16
    order = torch.from_numpy(flat.numpy().astype(short).argsort(kind="stable"))
    return order, torch.bincount(flat, minlength=experts).cumsum(0).to(torch.int32)


class _Lean(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        k, width, hidden = indices.shape[1], down.shape[2], x.shape[1]
        order, ends = _sorted(indices.reshape(-1), gate_up.shape[0])
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel()))
        token, back = order // k, back.view(indices.shape)
        weight = weights.reshape(-1).index_select(0, order)[:, None].to(x.dtype)
        row_bytes = (3 * width + 2 * hidden) * x.element_size()
        blocks = _blocks(order.numel(), down.shape[0], row_bytes, ends, groupable(x.dtype, hidden, width))
        y: Any = None if len(blocks) == 1 else x.new_empty(order.numel(), hidden)
        kept = []
        for experts, rows, stops in blocks:
            h = _product(None, rows, x.index_select(0, token[rows]), gate_up[experts].transpose(1, 2), stops)
            a = F.silu(h[:, :width]).mul_(h[:, width:]).mul_(weight[rows])
            y = _product(y, rows, a, down[experts].transpose(1, 2), stops)
            kept += [h, a]
        ctx.save_for_backward(x, token, back, weight, gate_up, down, *kept)
        ctx.blocks, ctx.gate_dtype = blocks, weights.dtype
        return F.embedding_bag(back, y, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, token, back, weight, gate_up, down, *kept = ctx.saved_tensors
        width = down.shape[2]
        d_weight = weight.new_empty(len(token))
        d_gate_up: Any = None
        d_down: Any = None
        d_rows: Any = None
        if len(ctx.blocks) > 1:
            d_gate_up, d_down = torch.empty_like(gate_up), torch.empty_like(down)
            d_rows = x.new_empty(len(token), x.shape[1])
        for (experts, rows, stops), h, a in zip(ctx.blocks, kept[::2], kept[1::2], strict=True):
            gate, up = h[:, :width], h[:, width:]
            dy_rows = dy.index_select(0, token[rows])
            d_down = _product(d_down, experts, dy_rows.t(), a, stops)
            da = _product(None, rows, dy_rows, down[experts], stops)
            activated = F.silu(gate)
            d_weight[rows] = torch.linalg.vecdot(da, activated * up)
            da.mul_(weight[rows])
            dh = torch.empty_like(h)
            torch.mul(da, activated, out=dh[:, width:])
            torch.ops.aten.silu_backward.grad_input(da.mul_(up), gate, grad_input=dh[:, :width])
            d_gate_up = _product(d_gate_up, experts, dh.t(), x.index_select(0, token[rows]), stops)
            d_rows = _product(d_rows, rows, dh, gate_up[experts], stops)
        dx = F.embedding_bag(back, d_rows, mode="sum")
        d_weights = d_weight.index_select(0, back.view(-1)).view(back.shape).to(ctx.gate_dtype)
        return dx, None, d_weights, d_gate_up, d_down


def lean(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Sorted by expert, backward written out; differentiable once, on the CPU. Arguments as `naive`; at most 65,536
    experts."""
    return _Lean.apply(x, indices, weights, gate_up, down)


WAYS: dict[str, Dispatch] = {"naive": naive, "dense": dense, "grouped": grouped, "lean": lean}


def choose(tokens: int, experts: int, k: int, device: str = "cpu") -> str:
    """Which way is fastest for a shape: `dense` when every expert is selected anyway, else `lean` or `grouped`."""
    if k >= experts:
        return "dense"
    return "lean" if device == "cpu" else "grouped"


def run_experts(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The experts on the tokens, by the way that `choose` or `repro.models.ways.forced` says. Arguments as `naive`."""
    way = in_force() or choose(x.shape[0], gate_up.shape[0], indices.shape[1], x.device.type)
    if way == "lean" and transformed(x, weights, gate_up, down):
        # a compiler cannot look into the grouped product of float32; only `dense` depends on no value, as vmap demands
        way = "naive" if torch.compiler.is_compiling() else "dense"
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, gate_up, down = x.to(dtype), gate_up.to(dtype), down.to(dtype)
    return WAYS[way](x, indices, weights, gate_up, down)
