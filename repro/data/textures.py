"""Textured objects: small colour images of a shape filled with a pattern, drawn anew for every image.

A class is a pair of a shape (disc, square, triangle, cross, ring) and a pattern (plain, horizontal stripes, vertical
stripes, checks). Position, size, both colours of the pattern, its phase, the background and specks on it are random, so
that neither colour nor place gives a class away, and classes share what edges and patterns look like: early layers that
were learned on some of them serve the others. Mirroring an image left to right does not change its class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from repro.data.base import order_seed
from repro.data.images import ImageData, Images

SIZE = 16
SHAPES = ("disc", "square", "triangle", "cross", "ring")
PATTERNS = ("plain", "rows", "columns", "checks")
CLASSES = len(SHAPES) * len(PATTERNS)
#: Stripe width in pixels, specks on the background, and the standard deviation of the noise.
STRIPE, SPECKS, NOISE = 2, 4, 0.08


def _inside(shape: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Which pixels a shape covers: bool [N, SIZE, SIZE]; x, y in units of its radius."""
    square, radius = torch.maximum(x.abs(), y.abs()), x * x + y * y
    options = torch.stack((
        radius < 1,
        square < 0.87,
        (y.abs() < 0.87) & (x.abs() < 0.57 * (y + 0.9)),
        (square < 1) & (torch.minimum(x.abs(), y.abs()) < 0.38),
        (radius < 1) & (radius > 0.3),
    ))  # fmt: skip
    return options[shape, torch.arange(len(shape))]


def _stripes(pattern: Tensor, phase: Tensor) -> Tensor:
    """Which pixels have the pattern's second colour: bool [N, SIZE, SIZE]; ``phase`` [N, 2] in pixels."""
    axis = torch.arange(SIZE)
    rows = ((axis + phase[:, :1]) // STRIPE % 2 == 1)[:, :, None].expand(-1, -1, SIZE)
    columns = ((axis + phase[:, 1:]) // STRIPE % 2 == 1)[:, None, :].expand(-1, SIZE, -1)
    options = torch.stack((torch.zeros_like(rows), rows, columns, rows ^ columns))
    return options[pattern, torch.arange(len(pattern))]


def draw(labels: Tensor, generator: torch.Generator) -> Tensor:
    """One image per label (LongTensor [N], shape * 4 + pattern): float [N, 3, SIZE, SIZE], multiples of 1/255 in 0..1.

    Raises ValueError for a label that is no class.
    """
    count = len(labels)
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < CLASSES:
        raise ValueError(f"labels lie in 0..{CLASSES - 1}")

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    axis = torch.arange(SIZE, dtype=torch.float32)
    y, x = axis.view(1, -1, 1), axis.view(1, 1, -1)
    radius = uniform(count, 1, 1, low=4.2, high=6.5)
    centre = uniform(count, 2, 1, 1, low=5.5, high=SIZE - 6.5)
    inside = _inside(labels // len(PATTERNS), (x - centre[:, 0]) / radius, (y - centre[:, 1]) / radius)
    first, background = uniform(count, 3, 1, 1), uniform(count, 3, 1, 1)
    # the second colour is the first one half a turn on, so that a pattern can be told from noise
    second = (first + 0.5) % 1.0
    stripes = _stripes(labels % len(PATTERNS), torch.randint(0, 2 * STRIPE, (count, 2), generator=generator))
    page = background.expand(-1, -1, SIZE, SIZE).clone()
    for _ in range(SPECKS):
        at = uniform(count, 2, 1, 1, high=float(SIZE))
        speck = (x - at[:, 0]).square() + (y - at[:, 1]).square() < 1.7
        page = torch.where(speck[:, None], uniform(count, 3, 1, 1), page)
    page = torch.where(inside[:, None], torch.where(stripes[:, None], second, first), page)
    page = page + NOISE * torch.randn(page.shape, generator=generator)
    return (page.clamp(0, 1) * 255).round() / 255


def textures(
    seed: int = 0, *, train: int = 150, validation: int = 10, test: int = 100, name: str = "textures"
) -> ImageData:  # fmt: skip
    """A classification task on textured objects.

    Args:
        train, validation, test: images of each class in the splits.

    Raises ValueError for a split without an image.
    """

    def made(split: str, count: int) -> Images:
        if count < 1:
            raise ValueError(f"the {split} split has no image")
        generator = torch.Generator().manual_seed(order_seed(f"textures {split}", seed))
        labels = torch.arange(CLASSES).repeat(count)
        return Images(draw(labels, generator), labels)

    return ImageData(
        name=name,
        train=made("train", train),
        validation=made("validation", validation),
        test=made("test", test),
        classes=CLASSES,
        source="generated",
        description=f"{len(SHAPES)} shapes in {len(PATTERNS)} patterns, {SIZE} x {SIZE} pixels in colour, every image "
        "drawn anew.",
        details={"draw_seed": seed},
    )
