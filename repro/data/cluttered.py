"""Glyphs somewhere on a textured ground: small grey images of which most is beside the question.

A glyph of 20 x 20 pixels (`repro.data.glyphs`, enlarged) stands at a random place of a page of 32 x 32 whose ground is
one of four textures with grain. Who asks for the glyph needs neither its place nor the ground, but a codec for images
pays for both. The same pages can be asked three questions: which glyph (``class``), where it stands (``place``), and on
which texture (``ground``).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from repro.data.base import order_seed
from repro.data.glyphs import alphabet
from repro.data.glyphs import draw as draw_glyphs
from repro.data.images import ImageData, Images

SIZE, GLYPH = 32, 20
#: Cells along a side that ``place`` tells apart.
CELLS = 3
GROUNDS = ("coarse", "fine", "level waves", "slanted waves")
#: Standard deviation of the ground and of its grain, in shares of full scale.
TEXTURE, GRAIN = 0.12, 0.04
TASKS = ("class", "place", "ground")


class Pages(NamedTuple):
    """``pixels`` float [N, 1, SIZE, SIZE], multiples of 1/255 in 0..1; the answers are LongTensors [N]."""

    pixels: Tensor
    glyph: Tensor
    place: Tensor
    ground: Tensor


def texture(kinds: Tensor, generator: Generator) -> Tensor:
    """A texture of each kind (LongTensor [N]), of zero mean and about unit variance: [N, 1, SIZE, SIZE]."""
    count = len(kinds)

    def blobs(cells: int) -> Tensor:
        grid = torch.randn(count, 1, cells + 3, cells + 3, generator=generator)
        wide = F.interpolate(grid, size=SIZE + 3 * SIZE // cells, mode="bicubic", align_corners=True)
        return 1.2 * wide[:, :, :SIZE, :SIZE]

    axis = torch.arange(SIZE, dtype=torch.float32)
    phase = math.tau * torch.rand(count, 1, 1, 1, generator=generator)
    length = 5 + 3 * torch.rand(count, 1, 1, 1, generator=generator)
    slant = torch.stack((axis[:, None].expand(SIZE, SIZE), (axis[:, None] + axis[None, :]) / math.sqrt(2)))
    waves = math.sqrt(2) * torch.sin(math.tau * slant[None] / length + phase)
    options = torch.stack((blobs(4), blobs(12), waves[:, :1], waves[:, 1:]))
    return options[kinds, torch.arange(count)]


def draw(labels: Tensor, strokes: Tensor, generator: Generator) -> Pages:
    """A page for each label (LongTensor [N]); ``strokes`` as of `repro.data.glyphs.alphabet`, of all classes."""
    count, room = len(labels), SIZE - GLYPH + 1
    ground = torch.randint(len(GROUNDS), (count,), generator=generator)
    page = 0.4 + 0.1 * torch.randn(count, 1, 1, 1, generator=generator) + TEXTURE * texture(ground, generator)
    ink = draw_glyphs(strokes[labels], generator)
    ink = F.interpolate(ink, size=GLYPH, mode="bilinear", align_corners=False)
    ink = ((ink - 0.3) / 0.4).clamp(0, 1)  # leaves the glyph's own noise behind
    corner = torch.randint(room, (count, 2), generator=generator)
    at = corner[:, :, None] + torch.arange(GLYPH)
    cover = torch.zeros(count, SIZE, SIZE)
    cover[torch.arange(count)[:, None, None], at[:, 0, :, None], at[:, 1, None, :]] = ink[:, 0]
    level = 0.85 + 0.1 * torch.rand(count, 1, 1, 1, generator=generator)
    page = page + cover[:, None] * (level - page) + GRAIN * torch.randn(page.shape, generator=generator)
    cell = corner * CELLS // room
    return Pages((page.clamp(0, 1) * 255).round() / 255, labels, cell[:, 0] * CELLS + cell[:, 1], ground)


def cluttered(
    seed: int = 0, *, task: str = "class", classes: int = 20, train: int = 4000, validation: int = 500, test: int = 2000
) -> ImageData:
    """A question about pages: ``class`` (``classes`` glyphs), ``place`` (a cell of 3 x 3) or ``ground`` (of four).

    All questions of a seed are about the same pages.

    Args:
        train, validation, test: images of the splits, spread evenly over the glyphs.

    Raises ValueError for another question, or a split that does not show every glyph.
    """
    if task not in TASKS:
        raise ValueError(f"task is {', '.join(TASKS[:-1])} or {TASKS[-1]}, not {task!r}")
    strokes = alphabet(classes, seed)

    def made(split: str, count: int) -> Images:
        if count < classes:
            raise ValueError(f"{count} images are too few for {classes} classes")
        generator = torch.Generator().manual_seed(order_seed(f"cluttered {split}", seed))
        labels = torch.arange(count) % classes
        labels = labels[torch.randperm(count, generator=generator)]
        parts = [draw(part, strokes, generator) for part in labels.split(1000)]
        answer = {"class": "glyph"}.get(task, task)
        return Images(torch.cat([p.pixels for p in parts]), torch.cat([getattr(p, answer) for p in parts]))

    return ImageData(
        name="cluttered",
        train=made("train", train),
        validation=made("validation", validation),
        test=made("test", test),
        classes={"class": classes, "place": CELLS**2, "ground": len(GROUNDS)}[task],
        source="generated",
        description=f"{classes} glyphs at random places of a textured ground, {SIZE} x {SIZE} grey pixels.",
        details={"draw_seed": seed, "task": task},
    )
