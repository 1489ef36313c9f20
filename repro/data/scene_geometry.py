"""Solids on a floor before a wall, seen by a pinhole camera: where they stand, and what every pixel's ray meets.

World: x to the right, y away from the camera, z up, floor at z = 0, wall at y = ``wall``; lengths in units of about
half an object. Camera frame: x right, y down, z forward; ``depth`` is the coordinate along z. Every solid is convex,
a scaled and turned version of one in [-1, 1]^3, so that a ray meets it in an interval which is an intersection of
intervals: exact, and the same code for what is seen and for what lies in shadow.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

SOLIDS = ("sphere", "box", "cone", "cylinder", "panel")
SPHERE, BOX, CONE, CYLINDER, PANEL = range(5)
#: Half-extents across, along and up: (low, high). Of the round ones the first two are equal; a sphere's are all equal.
EXTENTS = (
    ((0.62, 0.92), (0.62, 0.92), (0.62, 0.92)),
    ((0.50, 0.80), (0.50, 0.80), (0.45, 0.80)),
    ((0.62, 0.90), (0.62, 0.90), (0.70, 1.05)),
    ((0.46, 0.70), (0.46, 0.70), (0.55, 0.95)),
    ((0.70, 1.00), (0.07, 0.10), (0.65, 1.00)),
)
#: Half the width of the image, at depth 1.
HALF_VIEW = 0.55
#: Pixels (of 32 x 32) that every object shows, share of its outline that it shows, and lead of the main object over the
#: next in pixels. Size of the images on which this is decided, so that a scene is the same at all sizes.
VISIBLE, SHARE, LEAD, JUDGED = 14, 0.3, 1.15, 32
TRIES, ROUNDS = 12, 400
RAYS_AT_ONCE = 2**15


class Layout(NamedTuple):
    """Shape and place of all that is in N scenes of at most K objects."""

    solid: Tensor
    """LongTensor [N, K]: index into `SOLIDS`, -1 where there is no object. Objects stand from near to far."""
    centre: Tensor
    """[N, K, 3], world."""
    extent: Tensor
    """[N, K, 3]: half-extents in the object's own frame."""
    yaw: Tensor
    """[N, K]: turn about the vertical, radians."""
    height: Tensor
    """[N]: of the camera above the floor."""
    pitch: Tensor
    """[N]: of the camera, downwards, radians."""
    wall: Tensor
    """[N]: distance of the wall."""

    @property
    def radius(self) -> Tensor:
        """[N, K]: of a ball around the centre that holds the object."""
        return self.extent.norm(dim=-1)


class Surface(NamedTuple):
    """What the rays through N images of S x S pixel centres meet first."""

    depth: Tensor
    """[N, S, S]: along the camera's axis, not along the ray."""
    slot: Tensor
    """LongTensor [N, S, S]: object, K for the floor, K + 1 for the wall."""
    face: Tensor
    """LongTensor [N, S, S]: which smooth piece of the object's surface."""
    normal: Tensor
    """[N, S, S, 3]: unit, world, towards the camera."""
    point: Tensor
    """[N, S, S, 3]: world."""
    outline: Tensor
    """LongTensor [N, K]: pixels that the object would have if nothing stood before it."""


def camera_axes(pitch: Tensor) -> Tensor:
    """World directions of the camera's right, down and forward: [N, 3, 3] for pitch [N]."""
    sine, cosine, zero = pitch.sin(), pitch.cos(), torch.zeros_like(pitch)
    right = torch.stack((zero + 1, zero, zero), -1)
    return torch.stack((right, torch.stack((zero, -sine, -cosine), -1), torch.stack((zero, cosine, -sine), -1)), 1)


def pixel_rays(size: int) -> Tensor:
    """Rays through the pixel centres in the camera frame, third coordinate 1: [size * size, 3]."""
    axis = ((torch.arange(size) + 0.5) / size * 2 - 1) * HALF_VIEW
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack((right, down, torch.ones_like(right)), -1).view(-1, 3)


def combine(axes: Tensor, rays: Tensor) -> Tensor:
    """Camera-frame vectors [..., 3] in the world, axes [..., 3, 3]; without a matrix product, for equal bits."""
    return axes[..., 0, :] * rays[..., :1] + axes[..., 1, :] * rays[..., 1:2] + axes[..., 2, :] * rays[..., 2:]


def _slab(origin: Tensor, along: Tensor, low: float = -1.0, high: float = 1.0) -> tuple[Tensor, Tensor]:
    along = torch.where(along.abs() < 1e-9, 1e-9, along)
    first, second = (low - origin) / along, (high - origin) / along
    return torch.minimum(first, second), torch.maximum(first, second)


def _roots(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Both solutions of a t^2 + 2 b t + c = 0 in order; infinities that make an interval empty where there is none."""
    a = torch.where(a.abs() < 1e-9, 1e-9, a)
    inside = b * b - a * c
    root = inside.clamp_min(0).sqrt()
    first, second = (-b - root) / a, (-b + root) / a
    none = inside < 0
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    return low.masked_fill(none, math.inf), high.masked_fill(none, -math.inf)


def meet(solid: int, origin: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays [M, 3], in the frame of a solid in [-1, 1]^3, enter it: t [M], infinite for none, and face [M].

    Faces: of a box 2 * axis + (0, 1) for the negative and positive side; else 0 the curved one, 1 top and 2 bottom.
    """
    x, y, z = origin.unbind(-1)
    u, v, w = along.unbind(-1)
    face = torch.zeros_like(x, dtype=torch.long)
    if solid == SPHERE:
        enter, leave = _roots(u * u + v * v + w * w, x * u + y * v + z * w, x * x + y * y + z * z - 1)
    elif solid in (BOX, PANEL):
        bounds = [_slab(*pair) for pair in ((x, u), (y, v), (z, w))]
        enter, axis = torch.stack([low for low, _ in bounds]).max(0)
        leave = torch.stack([high for _, high in bounds]).amin(0)
        face = 2 * axis + (along.gather(-1, axis[:, None])[:, 0] < 0)
    else:
        low, high = _slab(z, w)
        if solid == CYLINDER:
            first, second = _roots(u * u + v * v, x * u + y * v, x * x + y * y - 1)
        else:  # the distance from the axis grows from 0 at z = 1 to 1 at z = -1
            wide, widening = (1 - z) / 2, -w / 2
            steep = u * u + v * v - widening * widening
            one, two = _roots(steep, x * u + y * v - wide * widening, x * x + y * y - wide * wide)
            # steeper than the cone, a ray is inside it before the first or after the second meeting, not between
            infinite = torch.full_like(one, math.inf)
            upwards = (steep < 0) & (widening < 0)
            downwards = (steep < 0) & (widening >= 0)
            first = torch.where(downwards, two, torch.where(upwards, -infinite, one))
            second = torch.where(downwards, infinite, torch.where(upwards, one, two))
        enter, leave = torch.maximum(first, low), torch.minimum(second, high)
        face = torch.where(low > first, torch.where(w < 0, 1, 2), 0)
    missed = (enter > leave) | (enter <= 0)
    return enter.masked_fill(missed, math.inf), face


def own_frame(layout: Layout, scene: Tensor, slot: Tensor, vectors: Tensor, place: bool) -> Tensor:
    """World vectors [M, 3] (points, with ``place``) in the frames of objects, in units of length: not yet scaled."""
    if place:
        vectors = vectors - layout.centre[scene, slot]
    yaw = layout.yaw[scene, slot]
    sine, cosine = yaw.sin(), yaw.cos()
    x, y, z = vectors.unbind(-1)
    return torch.stack((cosine * x + sine * y, cosine * y - sine * x, z), -1)


def _cast(layout: Layout, pairs: Tensor, origin: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    """t and face of pairs (scene, slot, pixel) [M, 3] with rays [M, 3]."""
    scene, slot, _ = pairs.unbind(-1)
    extent = layout.extent[scene, slot]
    origin = own_frame(layout, scene, slot, origin, True) / extent
    along = own_frame(layout, scene, slot, along, False) / extent
    solids = layout.solid[scene, slot]
    enter, face = torch.full_like(origin[:, 0], math.inf), torch.zeros_like(scene)
    for solid in range(len(SOLIDS)):
        rows = (solids == solid).nonzero()[:, 0]
        if len(rows):
            enter[rows], face[rows] = meet(solid, origin[rows], along[rows])
    return enter, face


def _normals(layout: Layout, scene: Tensor, slot: Tensor, face: Tensor, point: Tensor) -> Tensor:
    """Outward unit normals [M, 3], world, at points of objects."""
    extent, solid = layout.extent[scene, slot], layout.solid[scene, slot]
    local = own_frame(layout, scene, slot, point, True) / extent
    x, y, z = local.unbind(-1)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    side = torch.stack((x, y, zero), -1)
    mantle = torch.stack((x, y, (1 - z) / 4), -1)
    flat = torch.stack((zero, zero, torch.where(face == 1, one, -one)), -1)
    square = torch.nn.functional.one_hot(face // 2, 3) * (face % 2 * 2.0 - 1)[:, None]
    solid, curved = solid[:, None], (face == 0)[:, None]
    found = torch.where(solid == CONE, torch.where(curved, mantle, flat), torch.where(curved, side, flat))
    found = torch.where(solid == SPHERE, local, torch.where((solid == BOX) | (solid == PANEL), square, found))
    found = found / extent  # the normal of a scaled surface
    yaw = layout.yaw[scene, slot]
    sine, cosine = yaw.sin(), yaw.cos()
    x, y, z = found.unbind(-1)
    return torch.nn.functional.normalize(torch.stack((cosine * x - sine * y, sine * x + cosine * y, z), -1), dim=-1)


def trace(layout: Layout, size: int) -> Surface:
    """Look at the scenes through size x size pixel centres."""
    # a few scenes at a time, so that what is computed with stays in the processor's cache
    at_once = max(1, RAYS_AT_ONCE // size**2)
    parts = [_trace(Layout(*part), size) for part in zip(*(x.split(at_once) for x in layout), strict=True)]
    return Surface(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _trace(layout: Layout, size: int) -> Surface:
    count, slots = layout.solid.shape
    rays = combine(camera_axes(layout.pitch)[:, None], pixel_rays(size)[None])  # [N, P, 3]
    eye = torch.stack((torch.zeros_like(layout.height), torch.zeros_like(layout.height), layout.height), -1)
    # only pixels near an object are tried; how near does not matter to what is found
    to = layout.centre - eye[:, None]
    reach = to.square().sum(-1) - (1.05 * layout.radius).square()
    aimed = torch.einsum("nkc,npc->nkp", to, rays)
    near = (aimed > 0) & (aimed.square() > reach[..., None] * rays.square().sum(-1)[:, None])
    pairs = (near & (layout.solid >= 0)[..., None]).nonzero()
    scene, slot, pixel = pairs.unbind(-1)
    enter, found = _cast(layout, pairs, eye[scene], rays[scene, pixel])
    depth = torch.full((count, slots + 2, size * size), math.inf)
    face = torch.zeros((count, slots + 2, size * size), dtype=torch.uint8)
    depth[scene, slot, pixel], face[scene, slot, pixel] = enter, found.to(torch.uint8)
    outline = (depth[:, :slots] < math.inf).sum(-1)
    down, away = rays[..., 2], rays[..., 1]
    depth[:, slots] = torch.where(down < -1e-6, -layout.height[:, None] / down, math.inf)
    depth[:, slots + 1] = torch.where(away > 1e-6, layout.wall[:, None] / away, math.inf)
    first, owner = depth.min(1)
    face = face.gather(1, owner[:, None])[:, 0].long()
    point = eye[:, None] + first[..., None] * rays
    normal = torch.zeros_like(point)
    normal[..., 2] = (owner == slots).float()
    normal[..., 1] = -(owner == slots + 1).float()
    scene, pixel = (owner < slots).nonzero(as_tuple=True)
    normal[scene, pixel] = _normals(layout, scene, owner[scene, pixel], face[scene, pixel], point[scene, pixel])
    square = (count, size, size)
    return Surface(
        first.view(square), owner.view(square), face.view(square), normal.view(*square, 3), point.view(*square, 3),
        outline,
    )  # fmt: skip


def shadows(layout: Layout, surface: Surface, light: Tensor) -> Tensor:
    """Which pixels another object hides from the light (unit directions towards it [N, 3]): bool [N, S, S]."""
    count, slots = layout.solid.shape
    shape = surface.slot.shape
    point, owner = surface.point.view(count, -1, 3), surface.slot.view(count, -1)
    across = torch.nn.functional.normalize(torch.stack((light[:, 1], -light[:, 0], torch.zeros_like(light[:, 0])), -1))
    upward = torch.linalg.cross(light, across)
    near = torch.zeros(count, slots, point.shape[1])
    for axis in (across, upward):
        near += ((point * axis[:, None]).sum(-1)[:, None] - (layout.centre * axis[:, None]).sum(-1)[..., None]).square()
    hidden = near < (1.05 * layout.radius).square()[..., None]
    hidden &= (layout.solid >= 0)[..., None] & (owner[:, None] != torch.arange(slots)[None, :, None])
    pairs = hidden.nonzero()
    scene, _, pixel = pairs.unbind(-1)
    enter, _ = _cast(layout, pairs, point[scene, pixel], light[scene])
    dark = torch.zeros(count, point.shape[1], dtype=torch.bool)
    lit = enter < math.inf
    dark[scene[lit], pixel[lit]] = True
    return dark.view(shape)


def _propose(main: Tensor, number: Tensor, most: int, generator: torch.Generator) -> tuple[Layout, Tensor]:
    """Layouts of ``number`` [N] objects, slot 0 of class ``main`` [N], and whether all found a place: bool [N]."""
    count = len(main)

    def uniform(*shape: int, low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    height, pitch = uniform(count, low=2.3, high=3.3), uniform(count, low=0.30, high=0.48)
    wall = uniform(count, low=7.0, high=9.0)
    solid = torch.randint(0, len(SOLIDS), (count, most), generator=generator)
    solid[:, 0] = main
    bounds = torch.tensor(EXTENTS)[solid]
    extent = uniform(count, most, 3, low=bounds[..., 0], high=bounds[..., 1])
    wide = (solid == SPHERE) | (solid == CONE) | (solid == CYLINDER)
    extent[..., 1] = torch.where(wide, extent[..., 0], extent[..., 1])
    extent[..., 2] = torch.where(solid == SPHERE, extent[..., 0], extent[..., 2])
    extent[:, 0] *= 1.12
    # a panel never shows its edge only
    yaw = uniform(count, most, low=-1.0, high=1.0) * torch.where(solid == PANEL, 0.8, math.pi)
    footprint = torch.where(wide, extent[..., 0], extent[..., :2].norm(dim=-1))
    solid = solid.masked_fill(torch.arange(most) >= number[:, None], -1)
    place, fits = torch.zeros(count, most, 2), torch.ones(count, dtype=torch.bool)
    rows = torch.arange(count)
    for k in range(most):
        # evenly in the picture's height, not along the floor: most of the floor that one sees is far away
        away = 1 / uniform(count, TRIES, low=1 / (wall - 1.1)[:, None], high=1 / 3.3)
        tried = torch.stack((uniform(count, TRIES, low=-0.44, high=0.44) * away, away), -1)
        apart = (tried[:, :, None] - place[:, None, :k]).norm(dim=-1)
        free = (apart > footprint[:, None, :k] + footprint[:, k, None, None] + 0.1).all(-1)
        place[:, k] = tried[rows, free.float().argmax(-1)]
        fits &= free.any(-1) | (solid[:, k] < 0)
    layout = Layout(solid, torch.cat((place, extent[..., 2:]), -1), extent, yaw, height, pitch, wall)
    return layout, fits


def _clear(layout: Layout) -> Tensor:
    """Whether everything can be told from the picture, and slot 0 shows most: bool [N]."""
    surface = trace(layout, JUDGED)
    slots = layout.solid.shape[1]
    seen = torch.nn.functional.one_hot(surface.slot.flatten(1), slots + 2).sum(1)[:, :slots]
    there = layout.solid >= 0
    good = (seen >= VISIBLE) & (seen >= SHARE * surface.outline) | ~there
    return good.all(1) & (seen[:, 0] >= LEAD * seen[:, 1:].amax(1)) if slots > 1 else good.all(1)


def draw(main: Tensor, objects: tuple[int, int], generator: torch.Generator) -> Layout:
    """Scenes in which an object of class ``main`` (LongTensor [N]) shows the most pixels.

    Args:
        objects: fewest and most objects of a scene.

    Raises ValueError for a class or a number of objects that cannot be.
    """
    if not 1 <= objects[0] <= objects[1] <= 5:
        raise ValueError(f"a scene has 1 to 5 objects, from fewest to most, not {objects}")
    if len(main) and not 0 <= int(main.min()) <= int(main.max()) < len(SOLIDS):
        raise ValueError(f"classes lie in 0..{len(SOLIDS) - 1}")
    chosen: Layout | None = None
    pending = torch.arange(len(main))
    # drawn before any is refused: full scenes are refused more often
    number = torch.randint(objects[0], objects[1] + 1, (len(main),), generator=generator)
    for _ in range(ROUNDS):
        trial, fits = _propose(main[pending], number[pending], objects[1], generator)
        if chosen is None:
            chosen = Layout(*(part.clone() for part in trial))
        kept = fits.nonzero()[:, 0]
        kept = kept[_clear(Layout(*(part[kept] for part in trial)))]
        for whole, part in zip(chosen, trial, strict=True):
            whole[pending[kept]] = part[kept]
        left = torch.ones(len(pending), dtype=torch.bool)
        left[kept] = False
        pending = pending[left]
        if not len(pending):
            return _near_to_far(chosen)
    raise RuntimeError(f"no clear scene of {objects} objects within {ROUNDS} draws")


def _near_to_far(layout: Layout) -> Layout:
    forward = camera_axes(layout.pitch)[:, 2]
    depth = (layout.centre * forward[:, None]).sum(-1).masked_fill(layout.solid < 0, math.inf)
    order = depth.argsort(dim=1, stable=True)
    solid, yaw = layout.solid.gather(1, order), layout.yaw.gather(1, order)
    wide = order[..., None].expand(-1, -1, 3)
    return layout._replace(
        solid=solid, yaw=yaw, centre=layout.centre.gather(1, wide), extent=layout.extent.gather(1, wide)
    )
