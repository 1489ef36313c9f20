"""Parameters and floating-point operations, counted.

FLOPs are those of the algorithm, not of the way it is carried out: they are counted by torch's flop counter while the
experts run one by one on the tokens routed to them (`repro.models.dispatch.naive`) and attention runs as plain matrix
products (full square, causal masking not discounted). Two FLOPs per multiply-accumulate; element-wise work is not
counted. A step's backward pass is counted as it runs, and so is attention over the neighbours in a graph, which is free
where it is sparse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from repro.models.ways import forced


@runtime_checkable
class PartlyActive(Protocol):
    """A module of which one token touches a part."""

    def idle_parameters(self) -> int:
        """Parameters that one token does not touch."""
        ...


def count_parameters(model: nn.Module) -> dict[str, float]:
    """``params_total``, ``params_trainable`` and ``params_active``: those that one token can touch.

    A module whose tokens touch only a part says so by ``idle_parameters()``.
    """
    total = sum(p.numel() for p in model.parameters())
    idle = sum(m.idle_parameters() for m in model.modules() if isinstance(m, PartlyActive))
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"params_total": float(total), "params_trainable": float(trainable), "params_active": float(total - idle)}


def count_flops(function: Callable[[], Any]) -> float:
    """FLOPs of the matrix products that ``function()`` carries out, backward passes inside it included."""
    with forced("naive"), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def count_step(model: nn.Module, loss: Callable[[], torch.Tensor]) -> tuple[float, float]:
    """FLOPs of one forward pass and of one whole training step (forward and backward). Leaves no gradients."""
    with torch.no_grad():
        forward = count_flops(loss)
    step = count_flops(lambda: loss().backward())
    for parameter in model.parameters():
        parameter.grad = None
    return forward, step
