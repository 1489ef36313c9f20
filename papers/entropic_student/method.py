"""Entropic Student (arXiv 2108.11898): a small encoder learns to send what a teacher's features need, and no more.

    stage 1   min over encoder, prior, decoder   sum_l |h_l(x) - t_l(x)|^2 + beta * sum -log2 p(v + u)
    stage 2   min over decoder, later layers     1/2 CE(y, s(x)) + 1/2 tau^2 KL(teacher(x) | s(x))

t_1..t_L are the teacher's features behind each of its stages. The encoder, the prior and the decoder stand for the
teacher's first part; h_1 is the decoder's output, and h_2..h_L follow from it through copies of the teacher's later
stages, which stage 1 leaves as they are. v is the encoder's output, u ~ U(-1/2, 1/2) stands for rounding while the
encoder learns; in stage 2 encoder and prior are fixed, and v is rounded and range-coded into bytes. All sums of stage 1
are over elements and images alike, so that beta is the price of a bit in squared error.

What is sent does not depend on the task that stage 2 is for: one encoder serves a tail for every task.

    student = Student(encoder(3, 24), FactorisedPrior(24), decoder(24, 256), stages, head)   # ResNet-50's
    student.begin_distillation()
    for x in batches:
        seen = student(x, noise)
        stage_one_loss(seen.features, teacher_features(x), seen.bits, beta).backward(); ...
    code = student.begin_tuning()
    for x, y in batches:
        stage_two_loss(student(x).logits, teacher(x), y).backward(); ...
    messages = send(student, code, x)                     # list of bytes, on the device
    logits = receive(student, code, messages, (55, 55))   # on the server
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repro.models.entropy import FactorisedCode
from repro.models.gdn import GDN1

#: Label of an image that has none: it counts in distillation only.
UNLABELLED = -1


def encoder(channels: int, c: int) -> nn.Sequential:
    """Of images [N, channels, H, W]: [N, c, H/4 - 1, W/4 - 1]; widths 4c, 2c, c, no biases."""
    return nn.Sequential(
        nn.Conv2d(channels, 4 * c, 5, 2, 2, bias=False), GDN1(4 * c),
        nn.Conv2d(4 * c, 2 * c, 5, 2, 2, bias=False), GDN1(2 * c),
        nn.Conv2d(2 * c, c, 2, bias=False),
    )  # fmt: skip


def decoder(c: int, features: int) -> nn.Sequential:
    """From [N, c, h, w] to the teacher's first features [N, features, h + 1, w + 1]."""
    return nn.Sequential(
        nn.Conv2d(c, 2 * features, 2, padding=1, bias=False), GDN1(2 * features, inverse=True),
        nn.Conv2d(2 * features, features, 2, bias=False), GDN1(features, inverse=True),
        nn.Conv2d(features, features, 2, padding=1, bias=False),
    )  # fmt: skip


class Seen(NamedTuple):
    """``features``: behind the decoder and each later stage; ``logits`` [N, classes]; ``bits`` [N], of each image."""

    features: list[Tensor]
    logits: Tensor
    bits: Tensor


class Student(nn.Module):
    """Encoder, entropy model and decoder in front of a teacher's later stages.

    Args:
        encoder: images to [N, C, h, w].
        prior: of its C channels; anything with ``prior(v, noise) -> (values, bits)`` and ``prior.code()``.
        decoder: values to what the first of ``stages`` takes.
        stages: the teacher's, behind the part that is replaced; copied.
        head: features of the last stage to logits; copied.
    """

    def __init__(
        self, encoder: nn.Module, prior: Any, decoder: nn.Module, stages: Iterable[nn.Module], head: nn.Module
    ) -> None:
        super().__init__()
        self.encoder, self.prior, self.decoder = encoder, prior, decoder
        self.stages = nn.ModuleList(copy.deepcopy(stage) for stage in stages)
        self.head = copy.deepcopy(head)
        self.still: tuple[nn.Module, ...] = ()

    def tail(self, v: Tensor) -> tuple[list[Tensor], Tensor]:
        """The server's part: features and logits from values [N, C, h, w]."""
        features = [self.decoder(v)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features, self.head(features[-1])

    def forward(self, x: Tensor, noise: Generator | None = None) -> Seen:
        """With noise for rounding while the encoder learns, with rounding and no gradient to it where ``noise`` is
        None."""
        v, bits = self.prior(self.encoder(x), noise)
        return Seen(*self.tail(v), bits.flatten(1).sum(1))

    def freeze(self, *parts: nn.Module) -> None:
        """Keep these parts as they are from now on, batch norm's statistics too; all others learn."""
        self.still = parts
        for module in (self.encoder, self.prior, self.decoder, self.stages, self.head):
            module.requires_grad_(not any(module is part for part in parts))
        self.train(self.training)

    def train(self, mode: bool = True) -> Student:
        super().train(mode)
        for part in self.still:
            part.eval()
        return self

    def begin_distillation(self) -> None:
        """Stage 1: encoder, prior and decoder learn."""
        self.freeze(self.stages, self.head)

    def begin_tuning(self) -> FactorisedCode:
        """Stage 2: decoder and tail learn. Returns the code, which is fixed from here on."""
        self.freeze(self.encoder, self.prior)
        return self.prior.code()


def stage_one_loss(features: Sequence[Tensor], targets: Sequence[Tensor], bits: Tensor, beta: float) -> Tensor:
    """Squared distance of every pair of features plus ``beta`` for every bit, summed over all elements and images.

    Targets may be fewer: the first features are compared.
    """
    pairs = zip(features, targets, strict=False)
    return torch.stack([(h - t).square().sum() for h, t in pairs]).sum() + beta * bits.sum()


def stage_two_loss(
    logits: Tensor, teacher: Tensor, labels: Tensor, *, alpha: float = 0.5, tau: float = 1.0
) -> Tensor:  # fmt: skip
    """``alpha`` times cross-entropy plus ``1 - alpha`` times distillation at temperature ``tau``, nats an image.

    Labels may be `UNLABELLED`: the cross-entropy is the mean over the others.
    """
    said, target = ((z / tau).log_softmax(1) for z in (logits, teacher))
    kept = F.kl_div(said, target, reduction="batchmean", log_target=True)
    total = F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum")
    return alpha * total / (labels != UNLABELLED).sum().clamp(min=1) + (1 - alpha) * tau**2 * kept


@torch.no_grad()
def send(student: Student, code: FactorisedCode, x: Tensor) -> list[bytes]:
    """Images [N, C, H, W] to a message each: all that the device does."""
    return [code.encode(symbols) for symbols in code.symbols(student.encoder(x))]


@torch.no_grad()
def receive(student: Student, code: FactorisedCode, messages: Sequence[bytes], size: tuple[int, int]) -> Tensor:
    """Logits [N, classes] from messages of latents of ``size`` (h, w): all that the server does."""
    symbols = torch.stack([code.decode(message, size[0] * size[1]) for message in messages])
    v = code.values(symbols.view(len(messages), -1, *size)).to(next(student.parameters()).device)
    return student.tail(v)[1]
