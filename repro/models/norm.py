"""RMSNorm with its backward written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from repro.models.transforms import transformed


class RMSNorm(nn.RMSNorm):
    """``y = x / sqrt(mean(x^2) + eps) * w`` over the last dimension (Zhang and Sennrich, 2019); ``torch.nn.RMSNorm``.

    torch composes it of single operations on the CPU; where a float32 gradient is wanted there, this one goes over the
    rows half as often (docs/performance.md). Everywhere else, and under torch.compile and torch.func, it is torch's.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``x [..., d]`` to the same shape."""
        plain = (
            x.device.type != "cpu" or x.dtype != torch.float32 or self.weight is None or len(self.normalized_shape) > 1
        )
        if plain or not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or transformed(x, self.weight):
            return super().forward(x)
        return _RMSNorm.apply(x, self.weight, torch.finfo(x.dtype).eps if self.eps is None else self.eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:  # type: ignore[override]
        inverse = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(eps).rsqrt_().unsqueeze(-1)
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x, weight, inverse = ctx.saved_tensors
        size = x.shape[-1]
        product = (dy * x).reshape(-1, size)
        d_weight = torch.mv(product.t(), inverse.reshape(-1))
        # dx = w dy / r - x mean(w dy x) / r^3
        pull = torch.mv(product, weight).view(inverse.shape).mul_(inverse).mul_(inverse).mul_(inverse).div_(size)
        return (dy * weight).mul_(inverse).sub_(x * pull), d_weight, None
