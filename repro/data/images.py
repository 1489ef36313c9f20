"""Labelled images in three splits, with the same methods as the other kinds of data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from repro.data.base import Batch
from repro.data.splits import Splits


class Images(NamedTuple):
    """``pixels`` [N, channels, height, width], float32; ``labels`` LongTensor [N]."""

    pixels: Tensor
    labels: Tensor

    def batches(self, size: int, limit: int = 0) -> list[Images]:
        """In parts of ``size`` images, of the first ``limit`` (0: all)."""
        stop = limit or len(self.labels)
        return [Images(*part) for part in zip(*(x[:stop].split(size) for x in self), strict=True)]

    def to(self, device: torch.device | str) -> Images:
        return Images(*(x.to(device) for x in self))


@dataclass(frozen=True, eq=False)
class ImageData(Splits[Images]):
    """A classification task on images.

    Attributes:
        train, validation, test: disjoint; hyper-parameters are chosen on ``validation``.
        classes: labels are in ``range(classes)``.
        fingerprint: hash of all pixels and labels.
    """

    name: str
    train: Images
    validation: Images
    test: Images
    classes: int
    source: str
    description: str
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def sequence(self) -> int:
        return 1

    def rows(self, indices: Tensor) -> Batch:
        """Training images ``indices`` (LongTensor [batch])."""
        return _batch(self.train.pixels[indices], self.train.labels[indices])

    def held_out_batches(self, batches: int, batch: int) -> list[Batch]:
        """The first test images, the same for all arms and seeds."""
        return [_batch(*part) for part in self.test.batches(batch, batches * batch)]

    def describe(self) -> dict[str, Any]:
        """What a record keeps about its data; JSON."""
        return self.described(classes=self.classes, shape=list(self.train.pixels.shape[1:]))


def _batch(pixels: Tensor, labels: Tensor) -> Batch:
    return Batch(pixels, labels, torch.zeros(labels.shape, dtype=torch.uint8))
