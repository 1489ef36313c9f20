"""The small teacher that experiments use, in the parts that the method asks for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from repro.models.resnet import BasicBlock, Pool


class Teacher(nn.Module):
    """A residual network: ``first`` (stem and stage 1, a quarter of the resolution), later ``stages``, ``head``.

    Args:
        channels: of the image.
        widths: channels of the stages; stage 1 halves the resolution as the stem does, stage 2 keeps it, others halve.
        blocks: of a stage.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: int, classes: int) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(channels, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        self.first = nn.Sequential(stem, stage(widths[0], widths[0], 2, blocks))
        self.stages = nn.ModuleList(
            stage(a, b, 1 if place == 0 else 2, blocks) for place, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.head = nn.Sequential(Pool(), nn.Linear(widths[-1], classes))

    def features(self, x: Tensor) -> list[Tensor]:
        """Behind ``first`` and each later stage."""
        found = [self.first(x)]
        for later in self.stages:
            found.append(later(found[-1]))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)[-1])


def stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    more = (BasicBlock(outputs, outputs) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *more)
