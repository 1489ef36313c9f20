"""Scenes of a few soft solids whose density and colour are formulas, and exact pictures of them.

A scene fills the cube [-1, 1]^3. Every solid is a ball or a box with a density that falls off as a logistic function
of the distance to its surface; its colour is a base, a 3-D texture of waves, and a part that depends on the direction
it is seen from. Nothing is fitted: density and colour can be asked for at any point, and pictures are computed from
them by quadrature that is fine enough not to matter (`Views`). So what a radiance field learns can be compared with the
truth in pixels and in space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from repro.data.base import fingerprint, order_seed
from repro.models.volume_rendering import Rays, compose, cube_interval, hemisphere, look_at, view_rays

#: Distance of all cameras from the centre, and their focal length in widths of the image.
RADIUS, FOCAL = 3.2, 1.6
#: Elevation in degrees below which no camera stands.
LOWEST = 5.0


@dataclass(frozen=True, eq=False)
class Scene:
    """K soft solids.

    Attributes:
        centres: [K, 3]; sizes: half edges of boxes, [K, 3], or radius of balls, thrice.
        boxes: whether a solid is a box, bool [K].
        density: inside, per unit of length, [K].
        softness: length over which the density falls off.
        base: colours, [K, 3] in [0, 1].
        waves: wave vectors of the texture, [K, 3]; phases: of its three colour channels, [K, 3].
        texture, shine: amplitudes of the texture and of what depends on the direction.
        lights: unit vectors, [K, 3]: seen from there a solid is bright.
    """

    centres: Tensor
    sizes: Tensor
    boxes: Tensor
    density: Tensor
    softness: float
    base: Tensor
    waves: Tensor
    phases: Tensor
    texture: float
    shine: float
    lights: Tensor

    def parts(self, x: Tensor) -> Tensor:
        """Density of every solid at points [N, 3], [N, K]."""
        away = x[:, None] - self.centres
        outside = away.abs() - self.sizes
        box = outside.clamp_min(0).norm(dim=2) + outside.amax(2).clamp_max(0)
        distance = torch.where(self.boxes, box, away.norm(dim=2) - self.sizes[:, 0])
        return self.density * torch.sigmoid(-distance / self.softness)

    def sigma(self, x: Tensor) -> Tensor:
        """Density of points [N, 3] per unit of length, [N]: the sum over solids."""
        return self.parts(x).sum(1)

    def colour(self, x: Tensor, d: Tensor) -> Tensor:
        """Colour of points [N, 3] seen along unit directions ``d`` [N, 3]: that of solids, weighted by density."""
        parts = self.parts(x)
        share = parts / parts.sum(1, keepdim=True).clamp_min(1e-12)
        wave = torch.sin((x[:, None] * self.waves).sum(2)[..., None] + self.phases)
        bright = -(d[:, None] * self.lights).sum(2)
        one = self.base + self.texture * wave + self.shine * bright[..., None]
        return (share[..., None] * one.clamp(0, 1)).sum(1)

    def render(self, rays: Rays, steps: int = 128) -> Tensor:
        """Colour times alpha, and alpha, of rays: [R, 4]. ``steps``: of the quadrature, by the midpoint rule."""
        near, far = cube_interval(rays)
        out = torch.zeros(len(near), 4)
        for part in torch.nonzero(far > near)[:, 0].split(4096):
            delta = (far[part] - near[part]) / steps
            t = near[part, None] + (torch.arange(steps) + 0.5) * delta[:, None]
            directions = rays.directions[part, None].expand(-1, steps, 3)
            points = rays.origins[part, None] + t[..., None] * directions
            sigma = self.sigma(points.flatten(0, 1)).view(t.shape)
            seen = compose(sigma, torch.zeros(*t.shape, 3), delta)
            # colour counts only where there is something to see
            solid = (seen.weights > 1e-5).flatten().nonzero()[:, 0]
            colour = torch.zeros(t.numel(), 3)
            colour[solid] = self.colour(points.flatten(0, 1)[solid], directions.flatten(0, 1)[solid])
            rgb = (seen.weights[..., None] * colour.view(*t.shape, 3)).sum(1)
            out[part] = torch.cat((rgb, seen.alpha[:, None]), 1)
        return out


@dataclass(frozen=True, eq=False)
class Views:
    """Pictures of one scene from known cameras.

    Attributes:
        centres, rotations: of cameras, [V, 3] and [V, 3, 3] (camera to world, as `look_at` gives them).
        images: [V, H, W, 4]: colour times alpha, alpha.
        focal: in pixels.
    """

    centres: Tensor
    rotations: Tensor
    images: Tensor
    focal: float

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[1], self.images.shape[2]

    def rays(self, view: int) -> Rays:
        """All rays of a view, row by row."""
        return view_rays(self.centres[view], self.rotations[view], self.size, self.focal)

    def over(self, background: float = 1.0) -> Tensor:
        """The pictures in front of a grey background, [V, H, W, 3]."""
        return self.images[..., :3] + (1 - self.images[..., 3:]) * background

    def all_rays(self) -> tuple[Rays, Tensor]:
        """Rays of all views and what is seen along them, [R, 4]."""
        parts = [self.rays(view) for view in range(len(self))]
        joined = Rays(torch.cat([r.origins for r in parts]), torch.cat([r.directions for r in parts]))
        return joined, self.images.flatten(0, 2)


@dataclass(frozen=True, eq=False)
class RadianceData:
    """Pictures to learn a scene from, to choose by, and to be tested on.

    Attributes:
        name: as the registry knows it.
        radius, lowest: distance of cameras, and the elevation in degrees that they do not go below.
        scene: the formulas; None for real pictures.
    """

    name: str
    train: Views
    validation: Views
    test: Views
    radius: float
    lowest: float
    source: str
    description: str
    scene: Scene | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            parts = [x for v in (self.train, self.validation, self.test) for x in (v.images, v.centres)]
            object.__setattr__(self, "fingerprint", fingerprint(*parts))

    def describe(self) -> dict[str, Any]:
        """What a record keeps about its data; JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "train_views": len(self.train),
            "validation_views": len(self.validation),
            "test_views": len(self.test),
            "size": list(self.train.size),
            **self.details,
        }


def draw_scene(seed: int, *, solids: int = 5, density: float = 30.0, softness: float = 0.025, texture: float = 0.25,
               frequency: float = 12.0, shine: float = 0.12) -> Scene:  # fmt: skip
    """A scene of its seed: balls and boxes in the inner part of the cube, which may overlap.

    Args:
        density: inside of solids, per unit of length; each has between 0.7 and 1.3 times that.
        frequency: length of wave vectors, radians per unit of length.
    """
    generator = torch.Generator().manual_seed(order_seed("analytic scene", seed))

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def unit(count: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)

    boxes = torch.arange(solids) % 2 == 1
    # spread around the vertical axis, so that every view shows most of them
    angle = 2 * math.pi * (torch.arange(solids) + 0.6 * draw(solids)) / solids
    out = 0.3 + 0.3 * draw(solids)
    centres = torch.stack((out * angle.cos(), out * angle.sin(), 0.9 * draw(solids) - 0.45), 1)
    ball = (0.2 + 0.16 * draw(solids, 1)).expand(-1, 3)
    sizes = torch.where(boxes[:, None], 0.14 + 0.18 * draw(solids, 3), ball)
    return Scene(
        centres, sizes, boxes, density * (0.7 + 0.6 * draw(solids)), softness, 0.25 + 0.5 * draw(solids, 3),
        frequency * unit(solids), 2 * math.pi * draw(solids, 3), texture, shine, unit(solids),
    )  # fmt: skip


def photograph(scene: Scene, count: int, size: int, generator: torch.Generator, steps: int = 128) -> Views:
    """Square pictures from random places of the hemisphere."""
    centres = hemisphere(count, RADIUS, generator, LOWEST)
    rotations = look_at(centres)
    focal = FOCAL * size
    images = [
        scene.render(view_rays(c, r, (size, size), focal), steps) for c, r in zip(centres, rotations, strict=True)
    ]
    return Views(centres, rotations, torch.stack(images).view(count, size, size, 4), focal)


@lru_cache(maxsize=4)
def analytic_scene(
    seed: int = 0, size: int = 40, train: int = 24, validation: int = 2, test: int = 6, solids: int = 5,
    density: float = 30.0, texture: float = 0.25, frequency: float = 12.0,
) -> RadianceData:  # fmt: skip
    """Pictures of the scene of a seed.

    Args:
        size: pixels along an edge.
        train, validation, test: views.
        solids, density, texture, frequency: as in `draw_scene`.
    """
    scene = draw_scene(seed, solids=solids, density=density, texture=texture, frequency=frequency)
    views, held, tests = (
        photograph(scene, count, size, torch.Generator().manual_seed(order_seed(f"{split} cameras", seed)))
        for split, count in (("train", train), ("validation", validation), ("test", test))
    )
    return RadianceData(
        "analytic-scene", views, held, tests, RADIUS, LOWEST, "generated",
        "Soft balls and boxes with textures, given by formulas; pictures by fine quadrature.", scene,
        {"scene_seed": seed, "solids": solids, "density": density, "texture": texture, "frequency": frequency},
    )  # fmt: skip
