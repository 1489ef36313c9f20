"""Ordinary differential equations with a network on the right-hand side, in fixed steps, and the time as features."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def euler(field: Callable[[Tensor, Tensor], Tensor], z: Tensor, steps: int) -> Tensor:
    """Euler's method for ``dz/dt = field(z, t)`` from t = 0 to 1, in equal steps; ``t`` is a scalar tensor.

    Gradients pass through every step by ordinary back-propagation, which keeps the activations of all of them; the
    adjoint method (Chen et al., 2018) integrates backwards instead.
    """
    for i in range(steps):
        z = z + field(z, z.new_tensor(i / steps)) / steps
    return z


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of times ``[B]`` in [0, 1] at ``width / 2`` frequencies, a geometric sequence from 1 down to
    nearly 1e-4 radians per thousandth: ``[B, width]``, as positions of transformers are embedded.

    Raises ValueError for an odd width.
    """
    if width % 2:
        raise ValueError(f"width has to be even, not {width}")
    half = width // 2
    rates = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(1e4) / half))
    angle = 1000 * t[:, None] * rates
    return torch.cat((angle.sin(), angle.cos()), 1)
