"""Rendered scenes: a few solids on a floor before a wall, with the ground truth of every task that one may set on them.

A scene holds spheres, boxes, cones, cylinders and upright panels that hide each other partly. From one seed come the
picture, its class (the object that shows most), the number of objects of each class, boxes, semantic and instance
segmentation, depth, surface normals and edges. All of it is computed from the solids and exact: what the ray through
the middle of a pixel meets. Pictures are averages over several rays a pixel, with patterns, light, shadows and noise.

A scene can be drawn in several domains that share all ground truth and nothing else but, where they show them, its
colours and its light.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from repro.data import scene_looks
from repro.data.base import order_seed
from repro.data.cache import cached, column
from repro.data.images import ImageData, Images
from repro.data.scene_geometry import SOLIDS, Layout, camera_axes, draw, trace
from repro.data.splits import Splits

if TYPE_CHECKING:
    from datasets import Dataset

#: Classes of objects; in `Scenes.semantic` they follow the two below.
CLASSES = SOLIDS
BACKGROUND = ("floor", "wall")
DOMAINS = scene_looks.DOMAINS
#: Values of `Scenes.edges`.
CREASE, BORDER = 1, 2
#: Scenes drawn together, from generators of their own: a larger set begins with a smaller one.
CHUNK = 100
#: Of these so many are painted at once, for speed.
PAINTED = 20
#: Rays along the side of a pixel of the picture.
RAYS = 2


class Scenes(NamedTuple):
    """N scenes of at most K objects, S x S pixels. Objects are numbered from near to far."""

    pixels: Tensor
    """Float [N, 3, S, S]: RGB, multiples of 1/255."""
    labels: Tensor
    """LongTensor [N]: class of the object that shows the most pixels."""
    counts: Tensor
    """LongTensor [N, 5]: objects of each class."""
    boxes: Tensor
    """Float [N, K, 4]: left, top, right, bottom of what is visible of each object, in pixels; right and bottom are the
    first column and row behind it. Zeros where there is no object."""
    box_classes: Tensor
    """LongTensor [N, K]: -1 where there is no object."""
    semantic: Tensor
    """LongTensor [N, S, S]: 0 floor, 1 wall, 2 + class."""
    instances: Tensor
    """LongTensor [N, S, S]: 0 floor and wall, 1 + number of the object."""
    edges: Tensor
    """LongTensor [N, S, S]: `BORDER` where the right or the lower neighbour belongs to another instance, `CREASE` where
    it belongs to another face of the same object, or to the floor at the foot of the wall; else 0."""
    depth: Tensor
    """Float [N, S, S]: distance along the camera's axis, in the unit of length (objects are one to two high)."""
    normals: Tensor
    """Float [N, 3, S, S]: unit, towards the camera; x right, y down, z into the picture (so that z < 0 mostly)."""

    @property
    def present(self) -> Tensor:
        """Which classes a scene holds: bool [N, 5]."""
        return self.counts > 0

    @property
    def salient(self) -> Tensor:
        """Pixels of the object that comes nearest to the camera: bool [N, S, S]."""
        depth = self.depth.masked_fill(self.instances == 0, float("inf")).flatten(1)
        nearest = self.instances.flatten(1).gather(1, depth.argmin(1, keepdim=True))
        return self.instances == nearest[..., None]

    def take(self, indices: Tensor) -> Scenes:
        """The scenes ``indices`` (LongTensor [batch])."""
        return Scenes(*(part[indices] for part in self))

    def batches(self, size: int, limit: int = 0) -> list[Scenes]:
        """In parts of ``size`` scenes, of the first ``limit`` (0: all)."""
        stop = limit or len(self.labels)
        return [Scenes(*part) for part in zip(*(x[:stop].split(size) for x in self), strict=True)]

    def to(self, device: torch.device | str) -> Scenes:
        return Scenes(*(x.to(device) for x in self))


@dataclass(frozen=True, eq=False)
class SceneData(Splits[Scenes]):
    """Scenes in three disjoint splits.

    Attributes:
        domain: one of `DOMAINS`.
        fingerprint: hash of all pixels and all ground truth.
    """

    name: str
    train: Scenes
    validation: Scenes
    test: Scenes
    domain: str
    description: str
    source: str = "generated"
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def sequence(self) -> int:
        return 1

    @property
    def classes(self) -> int:
        return len(CLASSES)

    def rows(self, indices: Tensor) -> Scenes:
        """Training scenes ``indices`` (LongTensor [batch])."""
        return self.train.take(indices)

    def held_out_batches(self, batches: int, batch: int) -> list[Scenes]:
        """The first test scenes, the same for all arms and seeds."""
        return self.test.batches(batch, batches * batch)

    def images(self) -> ImageData:
        """The same pictures as a classification task."""
        return ImageData(
            name=self.name,
            train=Images(self.train.pixels, self.train.labels),
            validation=Images(self.validation.pixels, self.validation.labels),
            test=Images(self.test.pixels, self.test.labels),
            classes=self.classes,
            source=self.source,
            description=self.description,
            details=self.details,
        )

    def describe(self) -> dict[str, Any]:
        """What a record keeps about its data; JSON."""
        return self.described(classes=self.classes, shape=list(self.train.pixels.shape[1:]), domain=self.domain)


def scenes(
    seed: int = 0, *, domain: str = "render", size: int = 32, objects: tuple[int, int] = (2, 5), cue: str = "shape",
    agreement: float = 1.0, train: int = 3000, validation: int = 500, test: int = 1000, name: str = "scenes",
) -> SceneData:  # fmt: skip
    """Scenes with their ground truth.

    Scenes of one seed are the same in all domains, at all sizes and under all cues; a larger split begins with a
    smaller one.

    Args:
        domain: one of `DOMAINS`.
        size: pixels along a side, 16 to 256.
        objects: fewest and most objects of a scene, 1 to 5; all numbers between are equally frequent.
        cue: what besides its shape tells an object's class: ``shape`` (nothing), ``colour``, ``texture``.
        agreement: share of the objects whose cue is that of their class; the others' is drawn from all classes.
        train, validation, test: scenes of the splits.

    Raises ValueError for what is outside these.
    """
    if domain not in DOMAINS:
        raise ValueError(f"a domain is one of {', '.join(DOMAINS)}, not {domain!r}")
    if not 16 <= size <= 256:
        raise ValueError(f"scenes have 16 to 256 pixels a side, not {size}")

    def made(split: str, count: int) -> Scenes:
        if count < 1:
            raise ValueError(f"the {split} split has no scene")
        drawn: dict[str, Any] = {"split": split, "count": count, "seed": seed, "size": size, "objects": list(objects)}
        shown = drawn | {"domain": domain, "cue": cue, "agreement": agreement}
        truth = cached("scenes-truth", drawn, __name__, lambda: _table(_truth, **drawn))
        pixels = cached("scenes-pixels", shown, __name__, lambda: _table(_pixels, **shown))
        return _read(pixels, truth, count, size, objects[1])

    return SceneData(
        name=name,
        train=made("train", train),
        validation=made("validation", validation),
        test=made("test", test),
        domain=domain,
        description=f"{objects[0]} to {objects[1]} solids of {len(CLASSES)} classes on a floor before a wall, {size} x "
        f"{size} pixels in colour, drawn as {domain}; with boxes, segmentation, depth, normals and edges.",
        details={"draw_seed": seed, "objects": list(objects), "cue": cue, "agreement": agreement},
    )


def scene_classes(seed: int = 0, *, objects: tuple[int, int] = (1, 2), **options: Any) -> ImageData:
    """Which solid shows most: the pictures of `scenes`, with its options, as a classification task."""
    return scenes(seed, objects=objects, name="scene-classes", **options).images()


@lru_cache(maxsize=128)  # of the ground truth and of the pictures, mostly one after the other
def _layouts(split: str, seed: int, objects: tuple[int, int], chunk: int) -> tuple[Layout, Tensor]:
    generator = torch.Generator().manual_seed(order_seed(f"scenes {split} {objects[0]} {objects[1]} {chunk}", seed))
    labels = (torch.arange(CHUNK) % len(CLASSES))[torch.randperm(CHUNK, generator=generator)]
    return draw(labels, objects, generator), labels


def _truth(split: str, seed: int, size: int, objects: list[int], chunk: int) -> dict[str, Tensor]:
    """Ground truth of one chunk, as the cache keeps it."""
    layout, labels = _layouts(split, seed, (objects[0], objects[1]), chunk)
    surface = trace(layout, size)
    count, slots = layout.solid.shape
    rows = torch.arange(count)[:, None, None]
    instances = (surface.slot + 1).where(surface.slot < slots, 0)
    kinds = torch.cat((layout.solid + 2, torch.tensor([[0, 1]]).expand(count, -1)), 1)
    piece = surface.slot * 8 + surface.face
    edges = torch.zeros_like(instances)
    for axis in (1, 2):
        part = edges.narrow(axis, 0, size - 1)
        part[(piece.diff(dim=axis) != 0) & (part == 0)] = CREASE
        part[instances.diff(dim=axis) != 0] = BORDER
    masks = instances[:, None] == torch.arange(1, slots + 1)[:, None, None]
    seen = masks.flatten(2).any(-1)
    ends = [_span(masks.any(2)), _span(masks.any(3))]
    boxes = torch.stack((ends[0][0], ends[1][0], ends[0][1], ends[1][1]), -1).float() * seen[..., None]
    axes = camera_axes(layout.pitch)[:, None, None]
    normals = (axes * surface.normal[..., None, :]).sum(-1).permute(0, 3, 1, 2)
    return {
        "labels": labels[:, None],
        "counts": torch.nn.functional.one_hot(layout.solid + 1, len(CLASSES) + 1).sum(1)[:, 1:],
        "boxes": boxes,
        "box_classes": layout.solid.where(seen, -1),
        "semantic": kinds[rows, surface.slot].to(torch.uint8),
        "instances": instances.to(torch.uint8),
        "edges": edges.to(torch.uint8),
        "depth": surface.depth,
        "normals": normals,
    }


def _span(hit: Tensor) -> tuple[Tensor, Tensor]:
    """First true place and the place behind the last, along the last axis."""
    length = hit.shape[-1]
    return hit.int().argmax(-1), length - hit.flip(-1).int().argmax(-1)


def _pixels(
    split: str, seed: int, size: int, objects: list[int], domain: str, cue: str, agreement: float, chunk: int
) -> dict[str, Tensor]:  # fmt: skip
    """Pictures of one chunk."""
    layout, _ = _layouts(split, seed, (objects[0], objects[1]), chunk)
    look, strokes = (
        torch.Generator().manual_seed(order_seed(f"scene {of} {split} {chunk}", seed)) for of in ("looks", domain)
    )  # fmt: skip
    dressed = scene_looks.dress(layout, look, cue, agreement)
    pages = []
    for part in torch.arange(CHUNK).split(PAINTED):
        placed, looks = Layout(*(x[part] for x in layout)), scene_looks.Look(*(x[part] for x in dressed))
        pages.append(scene_looks.paint(placed, looks, trace(placed, RAYS * size), domain, size, strokes))
    return {"pixels": (torch.cat(pages) * 255).round().to(torch.uint8)}


def _table(make: Any, count: int, **options: Any) -> Dataset:
    from datasets import Dataset

    chunks = [make(chunk=chunk, **options) for chunk in range(-(-count // CHUNK))]
    return Dataset.from_dict({
        name: torch.cat([chunk[name] for chunk in chunks])[:count].flatten(1).numpy() for name in chunks[0]
    })  # fmt: skip


def _read(pixels: Dataset, truth: Dataset, count: int, size: int, slots: int) -> Scenes:
    def part(table: Dataset, name: str, *shape: int) -> Tensor:
        return torch.from_numpy(column(table, name).copy()).view(count, *shape)

    return Scenes(
        pixels=part(pixels, "pixels", 3, size, size).float() / 255,
        labels=part(truth, "labels").long(),
        counts=part(truth, "counts", len(CLASSES)).long(),
        boxes=part(truth, "boxes", slots, 4),
        box_classes=part(truth, "box_classes", slots).long(),
        semantic=part(truth, "semantic", size, size).long(),
        instances=part(truth, "instances", size, size).long(),
        edges=part(truth, "edges", size, size).long(),
        depth=part(truth, "depth", size, size),
        normals=part(truth, "normals", 3, size, size),
    )
