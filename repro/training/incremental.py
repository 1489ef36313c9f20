"""What learners of class-incremental streams share: heads that grow, distillation, a weight-aligned head, and the loop
over the images of one task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.images import Images
from repro.training.initial import generator


@dataclass(frozen=True, slots=True)
class Sgd:
    """Stochastic gradient descent with momentum, for ``epochs`` passes.

    Args:
        schedule: ``cosine`` to zero, or ``steps``: times 0.1 at each of ``milestones``, given as shares of the epochs.
    """

    lr: float
    epochs: int
    batch: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()

    def factor(self, epoch: int) -> float:
        """Multiplier of the learning rate in an epoch counted from 0. Raises ValueError for an unknown schedule."""
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        if self.schedule == "steps":
            return 0.1 ** sum(epoch >= round(share * self.epochs) for share in self.milestones)
        raise ValueError(f"unknown schedule {self.schedule!r}")


def augmented(pixels: Tensor, draws: torch.Generator, crop: int = 0, brightness: float = 0.0) -> Tensor:
    """Images [N, C, H, W], each mirrored with probability one half; with ``crop`` moved by up to so many pixels, zeros
    coming in; with ``brightness`` b multiplied by a factor in 1 - b .. 1 + b."""
    count, _, height, width = pixels.shape
    mirrored = torch.rand(count, generator=draws) < 0.5
    pixels = torch.where(mirrored.to(pixels.device).view(-1, 1, 1, 1), pixels.flip(3), pixels)
    if crop:
        padded = F.pad(pixels, (crop,) * 4)
        at = torch.randint(0, 2 * crop + 1, (2, count, 1), generator=draws).to(pixels.device)
        rows = at[0] + torch.arange(height, device=pixels.device)
        columns = at[1] + torch.arange(width, device=pixels.device)
        image = torch.arange(count, device=pixels.device)[:, None, None]
        pixels = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if brightness:
        factor = 1 + brightness * (2 * torch.rand(count, 1, 1, 1, generator=draws) - 1)
        pixels = (pixels * factor.to(pixels.device)).clamp(0, 1)
    return pixels


def train_task(
    model: nn.Module,
    images: Images,
    loss: Callable[[Tensor, Tensor], Tensor],
    recipe: Sgd,
    draws: torch.Generator,
    *,
    augment: Callable[[Tensor, torch.Generator], Tensor] = augmented,
    observe: Callable[[int], None] = lambda _: None,
) -> list[float]:
    """Train the parameters that ask for a gradient on the images of one task.

    Args:
        images: on the model's device.
        loss: (pixels, labels) to a scalar.
        draws: CPU generator of order and augmentation.
        observe: called with the epoch after every backward pass, before the step.

    Returns:
        Mean loss of each epoch. It stops after an epoch whose loss is not finite.
    """
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=recipe.lr, momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )  # fmt: skip
    device, count = images.labels.device, len(images.labels)
    losses: list[float] = []
    model.train()
    for epoch in range(recipe.epochs):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * recipe.factor(epoch)
        total = torch.zeros((), device=device)
        for rows in torch.randperm(count, generator=draws).split(recipe.batch):
            if len(rows) == 1 and count > 1:
                continue  # batch norm has no variance of one image of one pixel
            rows = rows.to(device)
            value = loss(augment(images.pixels[rows], draws), images.labels[rows])
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            observe(epoch)
            optimizer.step()
            total += value.detach() * len(rows)
        losses.append(float(total) / count)
        if not math.isfinite(losses[-1]):
            break
    model.eval()
    return losses


@torch.no_grad()
def grown(head: nn.Linear | None, inputs: int, outputs: int, seed: int, purpose: str) -> nn.Linear:
    """A linear head of more inputs or outputs that keeps what there was: old weights in the first rows and columns, the
    rest U(-1/sqrt(inputs), 1/sqrt(inputs)) from a generator of its own, new biases 0.

    Raises ValueError for a head that would shrink.
    """
    new = nn.Linear(inputs, outputs)
    new.weight.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator(purpose, seed))
    new.bias.zero_()
    if head is not None:
        if head.in_features > inputs or head.out_features > outputs:
            raise ValueError(
                f"a head of {head.out_features} x {head.in_features} does not shrink to {outputs}x{inputs}"
            )
        new.weight[: head.out_features, : head.in_features] = head.weight
        new.bias[: head.out_features] = head.bias
        new.to(head.weight.device)
    return new


@torch.no_grad()
def align_rows(head: nn.Linear, known: int, *, enlarge: bool = True) -> float:
    """Weight alignment (Zhao et al., 2020, Eq. 8): scale the rows of classes ``known`` and later, in place, so that
    their mean norm is that of the rows before. Returns the factor.

    ``enlarge`` False: rows that are already smaller stay. The method was made for new classes whose rows are too large;
    after short training they can be the smaller ones, and enlarging them would favour new classes still more.
    """
    norms = head.weight.norm(dim=1)
    gamma = norms[:known].mean() / norms[known:].mean()
    if not enlarge:
        gamma = gamma.clamp(max=1.0)
    head.weight[known:] *= gamma
    return float(gamma)


def distillation(logits: Tensor, old: Tensor, temperature: float = 2.0) -> Tensor:
    """Cross-entropy of softened outputs against those of the old model, nats; both [N, classes]."""
    return F.cross_entropy(logits / temperature, (old / temperature).softmax(1))
