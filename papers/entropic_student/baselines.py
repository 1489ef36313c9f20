"""What the student is compared with: few channels in eight bits, a learned codec for pixels, an encoder that is not
learned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor, nn

from papers.entropic_student.method import encoder
from repro.models.gdn import GDN1


class EightBits(nn.Module):
    """In the place of a prior (CR+BQ): values pass while the encoder learns, and are then rounded to 256 steps between
    the smallest and the largest value that `calibrate` saw. No entropy code: a byte for every value, and nothing
    for the range, which both sides know."""

    low: Tensor
    step: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("step", torch.ones(()))

    @torch.no_grad()
    def calibrate(self, v: Tensor) -> None:
        """Set the range from values of training images."""
        self.low.copy_(v.min())
        self.step.copy_((v.max() - v.min()).clamp(min=1e-12) / 255)

    def forward(self, v: Tensor, noise: Generator | None) -> tuple[Tensor, Tensor]:
        if noise is None:
            v = (((v - self.low) / self.step).round().clamp(0, 255) * self.step + self.low).detach()
        return v, torch.full_like(v, 8.0).detach()

    def code(self) -> EightBitCode:
        return EightBitCode(float(self.low), float(self.step))


class EightBitCode:
    """The same interface as `repro.models.entropy.FactorisedCode`, a byte a symbol."""

    def __init__(self, low: float, step: float) -> None:
        self.low, self.step = low, step

    def symbols(self, v: Tensor) -> Tensor:
        return ((v.cpu() - self.low) / self.step).round().clamp(0, 255).int()

    def values(self, symbols: Tensor) -> Tensor:
        return symbols.float() * self.step + self.low

    def ideal_bits(self, symbols: Tensor) -> float:
        return 8.0 * symbols.numel()

    def encode(self, symbols: Tensor) -> bytes:
        return symbols.to(torch.uint8).numpy().tobytes()

    def decode(self, message: bytes, count: int) -> Tensor:
        return torch.from_numpy(np.frombuffer(message, np.uint8).astype(np.int32)).view(-1, count)


def narrow_encoder(channels: int, c: int, sent: int) -> nn.Sequential:
    """The student's encoder with ``sent`` channels at its end in place of c."""
    *wide, _ = encoder(channels, c)
    return nn.Sequential(*wide, nn.Conv2d(2 * c, sent, 2, bias=False))


def pixel_decoder(c: int, width: int, channels: int) -> nn.Sequential:
    """From [N, c, h, w] to images [N, channels, 4 (h + 1), 4 (w + 1)]."""
    return nn.Sequential(
        nn.Conv2d(c, 2 * width, 2, padding=1, bias=False), GDN1(2 * width, inverse=True),
        nn.ConvTranspose2d(2 * width, width, 5, 2, 2, output_padding=1, bias=False), GDN1(width, inverse=True),
        nn.ConvTranspose2d(width, channels, 5, 2, 2, output_padding=1),
    )  # fmt: skip


class Gain(nn.Module):
    """A learned factor for each channel of [N, C, H, W]: the rate of an encoder that does not learn."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor.view(1, -1, 1, 1)


def drawn_encoder(channels: int, c: int) -> nn.Sequential:
    """An encoder as it was drawn, which does not learn, with a gain behind it, which does."""
    fixed = encoder(channels, c)
    fixed.requires_grad_(False)
    return nn.Sequential(fixed, Gain(c))
