"""Plane waves on a torus: images in which all places are alike, so that position tells nothing about the content.

A class is a wave vector of whole numbers (direction and frequency); phase and amplitude are random for every image, so
that the joint distribution of an image is the same after any shift that wraps around its edges.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from repro.data.base import order_seed
from repro.data.images import ImageData, Images

SIZE = 8
#: Periods over the image, down and across.
VECTORS = ((1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 2), (2, 1), (1, 2), (2, -1), (1, -2))
NOISE = 0.05


def draw(labels: Tensor, generator: Generator) -> Tensor:
    """One image per label (LongTensor [N]): float [N, 1, SIZE, SIZE], in [0, 1] but for the noise. Raises ValueError
    for a label that is no class."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(VECTORS):
        raise ValueError(f"labels lie in 0..{len(VECTORS) - 1}")
    count = len(labels)
    place = torch.arange(SIZE) * (2 * math.pi / SIZE)
    vectors = torch.tensor(VECTORS, dtype=torch.float32)[labels]
    phase = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    amplitude = 0.25 + 0.2 * torch.rand(count, 1, 1, generator=generator)
    down, across = vectors[:, :1, None] * place[:, None], vectors[:, 1:, None] * place
    wave = 0.5 + amplitude * torch.cos(down + across + phase)
    return (wave + NOISE * torch.randn(wave.shape, generator=generator)).unsqueeze(1)


def waves(seed: int = 0, *, train: int = 1080, validation: int = 180, test: int = 540) -> ImageData:
    """Plane waves of ten classes, drawn from ``seed``.

    Args:
        train, validation, test: images of the splits, spread evenly over the classes; as many as of `digits`.

    Raises ValueError for a split that does not give every class an image.
    """

    def made(split: str, count: int) -> Images:
        if count < len(VECTORS):
            raise ValueError(f"{count} images are too few for {len(VECTORS)} classes")
        generator = torch.Generator().manual_seed(order_seed(f"waves {split}", seed))
        labels = torch.arange(count) % len(VECTORS)
        labels = labels[torch.randperm(count, generator=generator)]
        return Images(draw(labels, generator), labels)

    return ImageData(
        name="waves",
        train=made("train", train),
        validation=made("validation", validation),
        test=made("test", test),
        classes=len(VECTORS),
        source="generated",
        description=f"Plane waves of {len(VECTORS)} wave vectors on a torus of {SIZE} x {SIZE} pixels, phase and "
        "amplitude at random.",
        details={"draw_seed": seed},
    )
