"""When a backward pass that is written out cannot be used."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transformed(*tensors: Tensor) -> bool:
    """Whether the computation is traced or transformed rather than carried out on plain tensors: ``torch.compile``,
    ``torch.func`` (grad, vmap, jvp...), forward-mode derivatives, or tensors of a class of their own (fake ones,
    distributed ones).

    `torch.autograd.Function` without rules for these raises there, and values cannot be read; a fast path then gives
    way to operations of torch.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in tensors)
    )
