"""Generalised divisive normalisation, the activation of learned codecs (Balle et al., 2016), in its simplified form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Keeps the slope of the stored square roots away from zero.
PEDESTAL = 2.0**-36


class _Bounded(torch.autograd.Function):
    """max(x, bound) whose gradient passes where it would lead back above the bound."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def, override]
        (x,) = ctx.saved_tensors
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None


def bounded(x: Tensor, bound: float) -> Tensor:
    """``max(x, bound)``; below the bound a gradient that would raise x still passes, any other is zero."""
    return _Bounded.apply(x, bound)  # type: ignore[no-untyped-call]


class GDN1(nn.Module):
    """``y_i = x_i / (beta_i + sum_j gamma_ij |x_j|)`` over the channels of [N, C, H, W] (Johnston et al., 2019).

    Args:
        channels: C.
        inverse: multiply instead of dividing (IGDN).
        gamma: of a channel on itself at the start; others 0, beta 1.

    beta (at least ``beta_min``) and gamma (at least 0) are stored as square roots.
    """

    def __init__(self, channels: int, *, inverse: bool = False, gamma: float = 0.1, beta_min: float = 1e-6) -> None:
        super().__init__()
        self.inverse, self.initial, self.beta_min = inverse, gamma, beta_min
        self.beta_root = nn.Parameter(torch.empty(channels))
        self.gamma_root = nn.Parameter(torch.empty(channels, channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.beta_root.fill_((1 + PEDESTAL) ** 0.5)
        self.gamma_root.copy_((self.initial * torch.eye(len(self.beta_root)) + PEDESTAL).sqrt())

    @property
    def beta(self) -> Tensor:
        """[C]"""
        return bounded(self.beta_root, (self.beta_min + PEDESTAL) ** 0.5).square() - PEDESTAL

    @property
    def gamma(self) -> Tensor:
        """[C, C], rows are outputs"""
        return bounded(self.gamma_root, PEDESTAL**0.5).square() - PEDESTAL

    def forward(self, x: Tensor) -> Tensor:
        norm = F.conv2d(x.abs(), self.gamma[:, :, None, None], self.beta)
        return x * norm if self.inverse else x / norm
