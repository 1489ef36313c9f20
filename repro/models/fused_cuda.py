"""The activation between the two products of the experts, one kernel forward and one backward, in Triton.

Rows are selections in the order of experts, R of them, f the width of an expert; ``gate`` and ``up`` are the halves
``h[:, :f]`` and ``h[:, f:]`` of the first product ``h [R, 2f]``, ``w [R, 1]`` the gate weights:

    a        = silu(gate) * up * w                                            [R, f]
    d_weight = sum_f da * silu(gate) * up                                     [R]
    d_gate   = da * w * up * s * (1 + gate * (1 - s)),  s = sigmoid(gate)     [R, f], left half of dh [R, 2f]
    d_up     = da * w * silu(gate)                                            [R, f], right half

`activation` and `activation_backward` are these formulas in operations of torch, each of which reads and writes all
rows; `fused` and `fused_backward` read every entry once and write every result once. They compute in float32, store in
the type of h, and repeat bit for bit: a row's sum belongs to one program. `ways` says which pair serves a tensor.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Forward = Callable[[Tensor, Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

_plain: ContextVar[bool] = ContextVar("plain", default=False)

#: What the kernels take.
TYPES = (torch.float32, torch.bfloat16, torch.float16)
#: Columns that a program has in registers at a time.
WIDEST = 1024

#: ``triton.language`` once `_kernels` has imported it: importing this module needs no triton.
tl: Any = None


def activation(h: Tensor, weight: Tensor) -> Tensor:
    """``silu(gate) * up * w``.

    Args:
        h: gate beside up ``[R, 2f]``.
        weight: gate weights ``[R, 1]`` in the type of h.

    Returns:
        ``[R, f]``.
    """
    width = h.shape[1] // 2
    return F.silu(h[:, :width]).mul_(h[:, width:]).mul_(weight)


def activation_backward(da: Tensor, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `activation`.

    Args:
        da: gradient of its result ``[R, f]``; overwritten.

    Returns:
        Gradients of h ``[R, 2f]`` and of the gate weights ``[R]``.
    """
    width = h.shape[1] // 2
    gate, up = h[:, :width], h[:, width:]
    activated = F.silu(gate)
    d_weight = torch.linalg.vecdot(da, activated * up)
    da.mul_(weight)
    dh = torch.empty_like(h)
    torch.mul(da, activated, out=dh[:, width:])
    torch.ops.aten.silu_backward.grad_input(da.mul_(up), gate, grad_input=dh[:, :width])
    return dh, d_weight


def fused(h: Tensor, weight: Tensor) -> Tensor:
    """`activation` in one kernel; a type of `TYPES`."""
    h, rows, width = h.contiguous(), h.shape[0], h.shape[1] // 2
    a = h.new_empty(rows, width)
    if a.numel():
        with _on(h):
            _kernels()[0][(rows,)](h, weight.contiguous(), a, width, BLOCK=_block(width))
    return a


def fused_backward(da: Tensor, h: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """`activation_backward` in one kernel; a type of `TYPES`. Leaves ``da`` as it is."""
    h, rows, width = h.contiguous(), h.shape[0], h.shape[1] // 2
    dh, d_weight = torch.empty_like(h), h.new_empty(rows)
    if rows:
        with _on(h):
            _kernels()[1][(rows,)](
                da.contiguous(), h, weight.contiguous(), dh, d_weight, width, BLOCK=_block(width)
            )  # fmt: skip
    return dh, d_weight


def ways(h: Tensor) -> tuple[Forward, Backward]:
    """Forward and backward for such an h: the kernels on CUDA where they run, else the operations of torch."""
    if h.is_cuda and h.dtype in TYPES and not _plain.get() and usable(h.device, h.dtype):
        return fused, fused_backward
    return activation, activation_backward


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Inside the block `ways` gives the operations of torch, whatever the device."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


@functools.cache
def usable(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernels compile and run here: tried once, with a warning where they do not.

    There may be no triton, or none of the C compiler and Python headers that it builds its launcher with.
    """
    h, weight = torch.ones(1, 2, device=device, dtype=dtype), torch.ones(1, 1, device=device, dtype=dtype)
    try:
        fused_backward(fused(h, weight), h, weight)
    except Exception as found:  # a compiler fails in ways of its own, and none of them may end a run
        said = f"{type(found).__name__}: {str(found).partition(chr(10))[0][:200]}"
        warnings.warn(f"experts run without their fused kernels, more slowly: {said}", RuntimeWarning, stacklevel=2)
        return False
    return True


def _block(width: int) -> int:
    return min(WIDEST, 1 << (width - 1).bit_length()) if width else 1


def _on(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    # triton launches on the current device, which need not be the tensor's
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


@functools.cache
def _kernels() -> tuple[Any, Any]:
    """Forward and backward, compiled at their first call. Raises ImportError without triton."""
    global tl  # the kernels find it among the globals of the module
    import triton
    import triton.language

    tl = triton.language
    return triton.jit(_activation_forward), triton.jit(_activation_backward)


# One program has one row. Its number is taken as 64 bits: R * 2f passes 2^31.


def _activation_forward(h, weight, a, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    w = tl.load(weight + row).to(tl.float32)
    h += row * 2 * width
    a += row * width
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < width
        gate = tl.load(h + column, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(h + width + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(a + column, (gate * tl.sigmoid(gate) * up * w).to(a.dtype.element_ty), mask=inside)


def _activation_backward(da, h, weight, dh, d_weight, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    w = tl.load(weight + row).to(tl.float32)
    da += row * width
    h += row * 2 * width
    dh += row * 2 * width
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < width
        d = tl.load(da + column, mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(h + column, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(h + width + column, mask=inside, other=0.0).to(tl.float32)
        s = tl.sigmoid(gate)
        total += d * gate * s * up
        d *= w
        tl.store(dh + column, (d * up * s * (1 + gate * (1 - s))).to(dh.dtype.element_ty), mask=inside)
        tl.store(dh + width + column, (d * gate * s).to(dh.dtype.element_ty), mask=inside)
    tl.store(d_weight + row, tl.sum(total, 0).to(d_weight.dtype.element_ty))
