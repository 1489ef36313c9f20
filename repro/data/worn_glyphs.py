"""Glyphs that are hard to read: cut out of their page at a random place, partly covered, and noisy.

Ten classes of `repro.data.glyphs`, drawn as there and then worn, so that small networks neither fail nor reach all of
them, and ways of training can be told apart.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from repro.data.base import order_seed
from repro.data.glyphs import SIZE as PAGE
from repro.data.glyphs import alphabet, draw
from repro.data.images import ImageData, Images

SIZE = 12
#: Side of the square that covers part of an image, and standard deviation of the noise beside the glyphs' own.
COVER, NOISE = 5, 0.25


def wear(pages: Tensor, generator: Generator) -> Tensor:
    """Pages ``[N, 1, 16, 16]`` to ``[N, 1, SIZE, SIZE]``: every one cut at a place of its own, covered, made noisy."""
    count, room = len(pages), PAGE - SIZE + 1

    def window(low: int, high: int, length: int) -> Tensor:
        """Rows and columns of a square of ``length`` with its corner in ``[low, high)``: [N, 2, length]."""
        corner = torch.randint(low, high, (count, 2, 1), generator=generator)
        return corner + torch.arange(length)

    rows, columns = window(0, room, SIZE).unbind(1)
    cut = pages[torch.arange(count)[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    rows, columns = window(0, SIZE - COVER + 1, COVER).unbind(1)
    cut[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]] = 0.0
    return (cut + NOISE * torch.randn(cut.shape, generator=generator)).unsqueeze(1)


def worn_glyphs(
    seed: int = 0, *, classes: int = 10, train: int = 6000, validation: int = 1000, test: int = 2000
) -> ImageData:
    """A classification task on ``classes`` glyphs, drawn from ``seed`` as all of its images are.

    Args:
        train, validation, test: images of the splits, spread evenly over the classes.

    Raises ValueError for a split that does not give every class an image.
    """
    strokes = alphabet(classes, seed)

    def made(split: str, count: int) -> Images:
        if count < classes:
            raise ValueError(f"{count} images are too few for {classes} classes")
        generator = torch.Generator().manual_seed(order_seed(f"worn glyphs {split}", seed))
        labels = torch.arange(count) % classes
        labels = labels[torch.randperm(count, generator=generator)]
        parts = [wear(draw(strokes[part], generator), generator) for part in labels.split(2000)]
        return Images(torch.cat(parts), labels)

    return ImageData(
        name="worn-glyphs",
        train=made("train", train),
        validation=made("validation", validation),
        test=made("test", test),
        classes=classes,
        source="generated",
        description=f"{classes} glyphs in {SIZE} x {SIZE} grey pixels: cut at a random place, partly covered, noisy.",
        details={"alphabet_seed": seed},
    )
