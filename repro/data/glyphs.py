"""Stroke glyphs: as many classes of small grey images as one likes, drawn anew for every image.

A class is four strokes between points of a 4 x 4 grid. An image is its class drawn with shaken end points, turned,
scaled, moved, with pen strokes of varying width, and with noise. Classes share strokes and points, so that what is
learned on some of them serves others: a model pretrained on the first classes can be fine-tuned on later ones.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from repro.data.base import order_seed
from repro.data.images import ImageData, Images

SIZE = 16
GRID = 4
STROKES = 4
#: How an image differs from its class: standard deviations (pixels, radians, shares), and that of the noise.
SHAKE, TURN, SCALE, MOVE, NOISE = 0.3, 0.12, 0.10, 0.6, 0.15
#: Ways to draw that change how pixels look and not what is drawn.
STYLES = ("plain", "inverted", "striped", "dotted", "faint", "outlined", "shaded")


def alphabet(classes: int, seed: int = 0, first: int = 0) -> Tensor:
    """Strokes of classes ``first`` to ``first + classes - 1``: float [classes, STROKES, 2 ends, 2 coordinates], in
    pixels, centred on 0. The sequence of classes has no end, and no two of it are the same set of strokes."""
    generator = torch.Generator().manual_seed(order_seed("glyph alphabet", seed))
    points = GRID * GRID
    pairs = torch.combinations(torch.arange(points), 2)
    seen: set[tuple[int, ...]] = set()
    chosen: list[Tensor] = []
    while len(chosen) < first + classes:
        strokes = torch.randperm(len(pairs), generator=generator)[:STROKES].sort().values
        if (key := tuple(strokes.tolist())) not in seen:
            seen.add(key)
            chosen.append(pairs[strokes])
    ends = torch.stack(chosen[first:])
    at = torch.stack((ends // GRID, ends % GRID), -1).float()
    return (at - (GRID - 1) / 2) * (SIZE * 0.62 / (GRID - 1))


def draw(strokes: Tensor, generator: torch.Generator, style: str = "plain") -> Tensor:
    """One image per row of ``strokes`` [N, STROKES, 2, 2]: float [N, 1, SIZE, SIZE], ink near 1, paper near 0.

    Raises ValueError for an unknown style.
    """
    if style not in STYLES:
        raise ValueError(f"a style is one of {', '.join(STYLES)}, not {style!r}")
    count = len(strokes)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    ends = strokes + SHAKE * normal(*strokes.shape)
    angle, scale = TURN * normal(count), torch.exp(SCALE * normal(count))
    rotation = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), -1).view(count, 1, 2, 2)
    ends = (ends @ rotation) * scale.view(-1, 1, 1, 1) + MOVE * normal(count, 1, 1, 2) + (SIZE - 1) / 2
    axis = torch.arange(SIZE, dtype=torch.float32)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).view(1, 1, -1, 2)
    start, along = ends[:, :, :1], ends[:, :, 1:] - ends[:, :, :1]  # [N, STROKES, 1, 2]
    share = ((pixels - start) * along).sum(-1) / (along.square().sum(-1) + 1e-6)
    nearest = start + share.clamp(0, 1)[..., None] * along
    distance = (pixels - nearest).square().sum(-1).amin(1)  # squared, [N, SIZE * SIZE]
    width = 0.7 * torch.exp(0.15 * normal(count, 1))
    ink = torch.exp(-distance / (2 * width.square()))
    if style == "outlined":
        ink = torch.exp(-(distance.sqrt() - 1.6).square() / (2 * 0.45**2))
    page = _style(ink.view(count, SIZE, SIZE), style, normal)
    return (page + NOISE * normal(count, SIZE, SIZE)).unsqueeze(1)


def _style(ink: Tensor, style: str, normal) -> Tensor:  # type: ignore[no-untyped-def]
    axis = torch.arange(SIZE, dtype=torch.float32)
    if style == "inverted":
        return 1 - ink
    if style == "striped":
        phase = math.tau * normal(len(ink), 1, 1)
        return ink + 0.8 * torch.sin(math.tau * axis.view(1, 1, -1) / 4 + phase)
    if style == "dotted":
        return ink + 1.2 * (normal(*ink.shape) > 1.3)
    if style == "faint":
        return 0.35 * ink + 0.6
    if style == "shaded":
        slope = normal(len(ink), 2, 1, 1)
        return ink + 0.15 * (slope[:, 0] * (axis.view(1, -1, 1) - 7.5) + slope[:, 1] * (axis.view(1, 1, -1) - 7.5))
    return ink


def glyphs(
    seed: int = 0, *, classes: int = 60, first: int = 0, style: str = "plain", train: int = 12000,
    validation: int = 600, test: int = 2000, name: str = "glyphs",
) -> ImageData:  # fmt: skip
    """A classification task on ``classes`` glyphs, those from ``first`` on of the alphabet of ``seed``.

    Args:
        train, validation, test: images of the splits, spread evenly over the classes.

    Raises ValueError for an unknown style or a split that does not give every class an image.
    """
    strokes = alphabet(classes, seed, first)

    def made(split: str, count: int) -> Images:
        if count < classes:
            raise ValueError(f"{count} images are too few for {classes} classes")
        generator = torch.Generator().manual_seed(order_seed(f"glyphs {split} {first} {style}", seed))
        labels = torch.arange(count) % classes
        labels = labels[torch.randperm(count, generator=generator)]
        parts = [draw(strokes[part], generator, style) for part in labels.split(2000)]
        return Images(torch.cat(parts), labels)

    return ImageData(
        name=name,
        train=made("train", train),
        validation=made("validation", validation),
        test=made("test", test),
        classes=classes,
        source="generated",
        description=f"{classes} glyphs of {STROKES} strokes on a {GRID} x {GRID} grid, {SIZE} x {SIZE} grey pixels, "
        "every image drawn anew.",
        details={"alphabet_seed": seed, "first_class": first, "style": style},
    )


def glyph_tasks(
    seed: int = 0, *, tasks: int = 6, classes: int = 10, base: int = 60, kind: str = "classes", train: int = 2000,
    validation: int = 100, test: int = 500,
) -> list[ImageData]:  # fmt: skip
    """Tasks to fine-tune a model on that was pretrained on the first ``base`` glyphs.

    ``kind``: ``classes``, new glyphs, drawn as those of pretraining (what has to change is what the strokes mean
    together); ``styles``, known glyphs (task t has classes ``t * classes`` and following), drawn in a style that
    pretraining did not have (what has to change is how pixels are read).

    Raises ValueError for another kind, and for more styles or known glyphs than there are.
    """
    if kind not in ("classes", "styles"):
        raise ValueError(f"kind is classes or styles, not {kind!r}")
    if kind == "styles" and (tasks >= len(STYLES) or tasks * classes > base):
        raise ValueError(f"no {tasks} tasks: {len(STYLES) - 1} styles, {base} known glyphs")
    new = kind == "classes"
    return [
        glyphs(
            seed, classes=classes, first=t * classes + (base if new else 0), style="plain" if new else STYLES[t + 1],
            train=train, validation=validation, test=test, name=f"glyphs-{t if new else STYLES[t + 1]}",
        )
        for t in range(tasks)
    ]  # fmt: skip
