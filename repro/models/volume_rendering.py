"""Volume rendering of radiance fields in the cube [-1, 1]^3: cameras, samples along rays, and their composition.

Samples lie only where a grid of cells is marked as occupied. Every ray that meets such a cell gets the same number of
samples, spread evenly over the occupied length of the ray, so that a step is one dense batch of points; the others show
the background and cost nothing. A grid with all cells marked gives the stratified samples of the original NeRF.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Rays(NamedTuple):
    """``origins`` and unit ``directions``, both [R, 3]."""

    origins: Tensor
    directions: Tensor

    def take(self, indices: Tensor) -> Rays:
        return Rays(self.origins[indices], self.directions[indices])


def hemisphere(count: int, radius: float, generator: torch.Generator, lowest: float = 0.0) -> Tensor:
    """Camera centres [count, 3], uniform on the part of the upper hemisphere above ``lowest`` degrees, but for the 11
    degrees around the pole; z is up."""
    drawn = torch.rand(count, 2, generator=generator)
    low = math.sin(math.radians(lowest))
    height = low + (0.98 - low) * drawn[:, 0]
    azimuth = 2 * math.pi * drawn[:, 1]
    across = (1 - height**2).sqrt()
    return radius * torch.stack((across * azimuth.cos(), across * azimuth.sin(), height), 1)


def look_at(centres: Tensor, target: Tensor | None = None) -> Tensor:
    """Rotations [B, 3, 3] of cameras at ``centres`` [B, 3] that look at ``target`` (the origin): columns are the
    camera's right, its up, and the direction against its gaze. Not defined for a camera straight above its target."""
    back = nn.functional.normalize(centres - (0 if target is None else target), dim=1)
    up = torch.tensor([0.0, 0.0, 1.0], device=centres.device).expand_as(back)
    right = nn.functional.normalize(torch.linalg.cross(up, back), dim=1)
    return torch.stack((right, torch.linalg.cross(back, right), back), 2)


def pixel_rays(centres: Tensor, rotations: Tensor, pixels: Tensor, size: tuple[int, int], focal: float) -> Rays:
    """Rays through the middle of pixels of pinhole cameras.

    Args:
        centres, rotations: of the camera of every ray, [R, 3] and [R, 3, 3].
        pixels: row and column of every ray, LongTensor [R, 2].
        size: height and width of the image.
        focal: focal length in pixels.
    """
    height, width = size
    x = (pixels[:, 1] + 0.5 - width / 2) / focal
    y = (height / 2 - pixels[:, 0] - 0.5) / focal
    local = torch.stack((x, y, -torch.ones_like(x)), 1)
    directions = (rotations @ local[:, :, None])[:, :, 0]
    return Rays(centres, nn.functional.normalize(directions, dim=1))


def view_rays(centre: Tensor, rotation: Tensor, size: tuple[int, int], focal: float) -> Rays:
    """All rays of one camera, row by row, [height * width, 3]."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    pixels = torch.stack((rows.flatten(), columns.flatten()), 1).to(centre.device)
    count = len(pixels)
    return pixel_rays(centre.expand(count, 3), rotation.expand(count, 3, 3), pixels, size, focal)


def random_rays(
    count: int, size: tuple[int, int], focal: float, radius: float, generator: torch.Generator, lowest: float = 0.0
) -> Rays:
    """Rays of random pixels, each of a camera of its own on the hemisphere; ``generator`` and result on the CPU."""
    centres = hemisphere(count, radius, generator, lowest)
    rows = torch.randint(size[0], (count,), generator=generator)
    columns = torch.randint(size[1], (count,), generator=generator)
    return pixel_rays(centres, look_at(centres), torch.stack((rows, columns), 1), size, focal)


def cube_interval(rays: Rays) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the cube, [R] each and not before the origin; both equal for a ray that misses it."""
    inverse = 1 / torch.where(rays.directions.abs() < 1e-9, torch.full_like(rays.directions, 1e-9), rays.directions)
    one, other = (-1 - rays.origins) * inverse, (1 - rays.origins) * inverse
    near = torch.minimum(one, other).amax(1).clamp_min(0)
    far = torch.maximum(one, other).amin(1)
    return near, torch.maximum(near, far)


class OccupancyGrid(nn.Module):
    """Which of ``resolution``^3 cells of the cube hold anything; all of them at first.

    Buffers: ``density`` [G, G, G], the largest density seen in a cell of late; ``occupied``, bool. Indices are x, y, z.
    """

    density: Tensor
    occupied: Tensor

    def __init__(self, resolution: int = 32, threshold: float = 0.3) -> None:
        super().__init__()
        self.resolution, self.threshold = resolution, threshold
        self.register_buffer("density", torch.zeros((resolution,) * 3))
        self.register_buffer("occupied", torch.ones((resolution,) * 3, dtype=torch.bool))

    @torch.no_grad()
    def update(
        self, density: Callable[[Tensor], Tensor], generator: torch.Generator, *, rounds: int = 1, decay: float = 0.95
    ) -> None:
        """Look at one random point a cell in each round, and mark the cells anew.

        Args:
            density: of points [N, 3], per unit of length, [N].
            generator: on the CPU.
            decay: of what was seen before this call.
        """
        n, device = self.resolution, self.density.device
        axis = torch.arange(n, dtype=torch.float32)
        cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        self.density *= decay
        for _ in range(rounds):
            points = (cells + torch.rand(cells.shape, generator=generator)) * (2 / n) - 1
            found = torch.cat([density(part) for part in points.to(device).split(2**15)])
            self.density = torch.maximum(self.density, found.view(n, n, n))
        self.occupied = self.density > self.threshold

    def contains(self, points: Tensor) -> Tensor:
        """Whether points [..., 3] lie in occupied cells; points outside of the cube count as on its border."""
        cell = ((points + 1) * (self.resolution / 2)).long().clamp(0, self.resolution - 1)
        flat = (cell[..., 0] * self.resolution + cell[..., 1]) * self.resolution + cell[..., 2]
        return self.occupied.flatten()[flat]

    @property
    def share(self) -> float:
        """Share of the cells that are occupied."""
        return float(self.occupied.float().mean())


class Samples(NamedTuple):
    """Samples along the rays that meet anything.

    Attributes:
        hit: indices of these rays, [H].
        points: [H, S, 3].
        distances: from the origin, increasing along a ray, [H, S].
        delta: length of the ray that one sample stands for, [H].
    """

    hit: Tensor
    points: Tensor
    distances: Tensor
    delta: Tensor


@torch.no_grad()
def sample_occupied(
    rays: Rays, grid: OccupancyGrid | None, samples: int, generator: torch.Generator | None = None, pieces: int = 64
) -> Samples:
    """Spread ``samples`` over the occupied length of every ray.

    Args:
        grid: None for all of the cube.
        generator: on the CPU, draws a place inside every sample's share of the length; None for the middle.
        pieces: of a ray, each occupied or not as its middle is.
    """
    near, far = cube_interval(rays)
    piece = (far - near) / pieces
    middle = near[:, None] + (torch.arange(pieces, device=near.device) + 0.5) * piece[:, None]
    if grid is None:
        inside = torch.ones_like(middle, dtype=torch.bool)
    else:
        inside = grid.contains(rays.origins[:, None] + middle[..., None] * rays.directions[:, None])
    hit = (inside.any(1) & (far > near)).nonzero()[:, 0]
    upto = inside[hit].cumsum(1)
    total = upto[:, -1:].float()
    if generator is None:
        place = torch.full((len(hit), samples), 0.5, device=near.device)
    else:
        # drawn for all rays, so that what a ray draws does not depend on which others hit
        place = torch.rand(len(near), samples, generator=generator).to(near.device)[hit]
    wanted = (torch.arange(samples, device=near.device) + place) / samples * total
    wanted = torch.minimum(wanted, total * (1 - 1e-6))
    index = torch.searchsorted(upto.float(), wanted, right=True)
    into = wanted - (upto.gather(1, index).float() - 1)
    distances = near[hit, None] + (index + into) * piece[hit, None]
    points = rays.origins[hit, None] + distances[..., None] * rays.directions[hit, None]
    return Samples(hit, points, distances, total[:, 0] * piece[hit] / samples)


class Composed(NamedTuple):
    """``colour`` [R, 3] without background, ``alpha`` [R], ``weights`` of the samples [R, S]."""

    colour: Tensor
    alpha: Tensor
    weights: Tensor

    def over(self, background: Tensor) -> Tensor:
        """In front of ``background`` ([3] or [R, 3])."""
        return self.colour + (1 - self.alpha)[:, None] * background


def compose(density: Tensor, colour: Tensor, delta: Tensor) -> Composed:
    """C = sum_i T_i alpha_i c_i with alpha_i = 1 - exp(-sigma_i delta_i) and T_i = prod_{j<i} (1 - alpha_j).

    Args:
        density: sigma, [R, S]; colour: [R, S, 3]; delta: [R] or [R, S].
    """
    depth = density * (delta[:, None] if delta.dim() == 1 else delta)
    before = depth.cumsum(1) - depth
    weights = torch.exp(-before) * -torch.expm1(-depth)
    return Composed((weights[..., None] * colour).sum(1), weights.sum(1), weights)


def compose_naive(density: Tensor, colour: Tensor, delta: Tensor) -> Composed:
    """The same, sample by sample as the formula says."""
    left = torch.ones_like(density[:, 0])
    total = torch.zeros_like(colour[:, 0])
    weights = []
    for i in range(density.shape[1]):
        alpha = 1 - torch.exp(-density[:, i] * (delta if delta.dim() == 1 else delta[:, i]))
        weights.append(left * alpha)
        total = total + weights[-1][:, None] * colour[:, i]
        left = left * (1 - alpha)
    return Composed(total, 1 - left, torch.stack(weights, 1))
