"""Radiance fields (x in [-1, 1]^3, unit d) -> (density, colour) of four kinds, split alike into two blocks.

Block 1 turns a position into a feature whose first number is the log-density s; block 2 turns the rest and the
direction into a colour. So fields of different kinds can be compared, and taught by one another, at the same places:
the feature of a point, its density and colour, and what is rendered from them.

| kind | block 1 | block 2 |
|---|---|---|
| ``hash`` | hash grid of several levels, small network | network on [SH(d), z] |
| ``mlp`` | frequencies, network with a skip connection, the same small network | the same |
| ``vm`` | sums of products of a plane and a line (vector-matrix decomposition) | the same |
| ``dense`` | dense grid of s and SH coefficients of colour | SH sum |
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: z: how many numbers block 1 gives beside the log-density.
FEATURES = 15
#: Gradients of exp are those at no more than this.
LIMIT = 12.0
PRIMES = (1, 2654435761, 805459861)


class Point(NamedTuple):
    """What a field says about N points.

    Attributes:
        raw: log-density before it is clamped, [N].
        log_density: s, clamped, [N].
        feature: [s, z], [N, 16]; None for fields without z.
        colour: [N, 3] in [0, 1]; None where only block 1 was asked.
    """

    raw: Tensor
    log_density: Tensor
    feature: Tensor | None
    colour: Tensor | None

    @property
    def density(self) -> Tensor:
        """sigma = exp(s) per unit of length."""
        return truncated_exp(self.log_density)


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor) -> Tensor:
        ctx.save_for_backward(s)
        return s.exp()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * ctx.saved_tensors[0].clamp(-LIMIT, LIMIT).exp()


def truncated_exp(s: Tensor) -> Tensor:
    """exp(s), whose gradient is that at s clamped to +-12."""
    return _TruncatedExp.apply(s)


class _InwardClamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(s)
        ctx.range = low, high
        return s.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (s,), (low, high), g = ctx.saved_tensors, ctx.range, gradients[0]
        passes = ((s >= low) & (s <= high)) | ((s < low) & (g < 0)) | ((s > high) & (g > 0))
        return g * passes, None, None


def inward_clamp(s: Tensor, low: float, high: float) -> Tensor:
    """clamp(s, low, high) whose gradient passes outside as well where a step against it leads back inside."""
    return _InwardClamp.apply(s, low, high)


# --- encodings ------------------------------------------------------------------------------------------------


def spherical_harmonics(d: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics of unit directions [N, 3] below ``degree`` (1 to 4), [N, degree^2].

    Raises ValueError for another degree.
    """
    if not 1 <= degree <= 4:
        raise ValueError(f"degree is 1 to 4, not {degree}")
    x, y, z = d.unbind(-1)
    out = [torch.full_like(x, 0.5 / math.sqrt(math.pi))]
    if degree > 1:
        c = math.sqrt(3 / (4 * math.pi))
        out += [-c * y, c * z, -c * x]
    if degree > 2:
        c = 0.5 * math.sqrt(15 / math.pi)
        out += [
            c * x * y, -c * y * z, 0.25 * math.sqrt(5 / math.pi) * (3 * z * z - 1), -c * x * z,
            0.5 * c * (x * x - y * y),
        ]  # fmt: skip
    if degree > 3:
        a, b = 0.25 * math.sqrt(35 / (2 * math.pi)), 0.25 * math.sqrt(21 / (2 * math.pi))
        c = 0.5 * math.sqrt(105 / math.pi)
        out += [
            -a * y * (3 * x * x - y * y), c * x * y * z, b * y * (1 - 5 * z * z),
            0.25 * math.sqrt(7 / math.pi) * z * (5 * z * z - 3), b * x * (1 - 5 * z * z), 0.5 * c * z * (x * x - y * y),
            a * x * (3 * y * y - x * x),
        ]  # fmt: skip
    return torch.stack(out, -1)


def frequencies(x: Tensor, octaves: int) -> Tensor:
    """x and sin, cos of 2^k x for k below ``octaves``: [N, 3] to [N, 3 + 6 octaves]."""
    angles = x[:, None, :] * 2.0 ** torch.arange(octaves, device=x.device)[:, None]
    return torch.cat((x, torch.stack((angles.sin(), angles.cos()), 2).flatten(1)), 1)


class HashGrid(nn.Module):
    """Features at the corners of grids of growing resolution, interpolated linearly.

    A level with no more corners than the table has rows stores each corner in a row of its own; in finer levels corners
    share rows by a hash.

    Args:
        levels, width: grids, and features of each.
        log2_rows: a level has at most 2^this rows.
        coarsest, finest: cells along an edge of the first and last grid.
    """

    resolutions: Tensor
    rows: Tensor
    first: Tensor
    corners: Tensor

    def __init__(self, levels: int, width: int, log2_rows: int, coarsest: int, finest: int) -> None:
        super().__init__()
        growth = (finest / coarsest) ** (1 / max(1, levels - 1))
        resolutions = [math.ceil(coarsest * growth**level - 1e-9) for level in range(levels)]
        rows = [min(2**log2_rows, -(-((r + 1) ** 3) // 8) * 8) for r in resolutions]
        self.width = width
        #: Levels that need no hash come first.
        self.plain = sum((r + 1) ** 3 <= n for r, n in zip(resolutions, rows, strict=True))
        self.register_buffer("resolutions", torch.tensor(resolutions), persistent=False)
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        self.register_buffer("first", torch.tensor([sum(rows[:i]) for i in range(levels)]), persistent=False)
        steps = torch.arange(8)
        self.register_buffer("corners", torch.stack((steps & 1, steps >> 1 & 1, steps >> 2), 1), persistent=False)
        self.table = nn.Parameter(torch.empty(sum(rows), width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.uniform_(self.table, -1e-4, 1e-4)

    @property
    def features(self) -> int:
        """Numbers per point."""
        return len(self.resolutions) * self.width

    def places(self, corner: Tensor, level: int) -> Tensor:
        """Rows of the table for corners [..., 3] of a level."""
        x, y, z = corner.unbind(-1)
        if level < self.plain:
            edge = self.resolutions[level] + 1
            row = (z * edge + y) * edge + x
        else:
            row = (x * PRIMES[0]) ^ (y * PRIMES[1]) ^ (z * PRIMES[2])
            row = row % self.rows[level]
        return row + self.first[level]

    def forward(self, x: Tensor) -> Tensor:
        """Points [N, 3] in [-1, 1] to [N, levels * width]."""
        scaled = (x[:, None, :] + 1) / 2 * self.resolutions[:, None]
        lower = torch.minimum(scaled.floor(), (self.resolutions - 1)[:, None].float()).clamp_min(0)
        into = scaled - lower
        corner = lower.long()[:, :, None] + self.corners  # [N, L, 8, 3]
        rows = torch.cat(
            [self.places(corner[:, level], level)[:, None] for level in range(len(self.resolutions))], 1
        ).flatten(0, 1)
        near = torch.stack((1 - into, into), -1)  # [N, L, 3, 2]
        parts = [near[:, :, axis, self.corners[:, axis]] for axis in range(3)]
        weights = (parts[0] * parts[1] * parts[2]).flatten(0, 1)
        found = F.embedding_bag(rows, self.table, per_sample_weights=weights, mode="sum")
        return found.view(len(x), self.features)

    def naive(self, x: Tensor) -> Tensor:
        """The same, level by level and corner by corner."""
        out = []
        for level in range(len(self.resolutions)):
            edge = self.resolutions[level]
            scaled = (x + 1) / 2 * edge
            lower = torch.minimum(scaled.floor(), (edge - 1).float()).clamp_min(0)
            total = torch.zeros(len(x), self.width, dtype=self.table.dtype, device=x.device)
            for step in self.corners:
                weight = torch.where(step.bool(), scaled - lower, 1 - (scaled - lower)).prod(1)
                total = total + weight[:, None] * self.table[self.places(lower.long() + step, level)]
            out.append(total)
        return torch.cat(out, 1)


# --- networks -------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """Linear layers of ``sizes`` without bias, ReLU between them."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class SkipNetwork(nn.Module):
    """``layers`` linear layers with ReLU between them; the input joins again behind the layer of index ``skip``."""

    def __init__(self, inputs: int, width: int, outputs: int, layers: int, skip: int) -> None:
        super().__init__()
        sizes = [inputs, *(width + inputs * (i == skip) for i in range(layers - 1))]
        self.skip = skip
        self.layers = nn.ModuleList(
            nn.Linear(size, width if i < layers - 1 else outputs) for i, size in enumerate(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for i, layer in enumerate(self.layers):
            h = layer(h)
            if i < len(self.layers) - 1:
                h = F.relu(h)
            if i == self.skip:
                h = torch.cat((x, h), 1)
        return h


# --- fields ---------------------------------------------------------------------------------------------------


class RadianceField(nn.Module, ABC):
    """The frame of all kinds: block 1 is `feature`, block 2 is `colour`.

    Attributes:
        clip: range that the log-density is clamped to, (-2, 7) as published.
        inward: gradients that lead back into the range pass the clamp.
        clip_feature: z is clamped to the same range.
    """

    clip_feature = False

    def __init__(self, clip: tuple[float, float] = (-2.0, 7.0), inward: bool = False) -> None:
        super().__init__()
        self.clip, self.inward = clip, inward

    @abstractmethod
    def feature(self, x: Tensor) -> Tensor:
        """Points [N, 3] to [N, 1 + ...], the raw log-density first."""

    @abstractmethod
    def colour(self, z: Tensor, d: Tensor) -> Tensor:
        """What stands behind the log-density, and directions [N, 3], to colours [N, 3]."""

    def clamp(self, s: Tensor) -> Tensor:
        return inward_clamp(s, *self.clip) if self.inward else s.clamp(*self.clip)

    def forward(self, x: Tensor, d: Tensor | None = None) -> Point:
        """What the field says about points [N, 3] seen along ``d`` [N, 3]; without ``d`` only block 1 runs."""
        found = self.feature(x)
        raw, z = found[:, 0], found[:, 1:]
        s = self.clamp(raw)
        if self.clip_feature:
            z = z.clamp(*self.clip)
        feature = torch.cat((s[:, None], z), 1) if z.shape[1] == FEATURES else None
        return Point(raw, s, feature, None if d is None else self.colour(z, d))

    def density(self, x: Tensor) -> Tensor:
        """sigma of points, [N]."""
        return self(x).density


class _WithColourNetwork(RadianceField):
    def __init__(self, hidden: int, clip: tuple[float, float], inward: bool) -> None:
        super().__init__(clip, inward)
        self.colour_net = Plain(16 + FEATURES, hidden, hidden, 3)

    def colour(self, z: Tensor, d: Tensor) -> Tensor:
        return torch.sigmoid(self.colour_net(torch.cat((spherical_harmonics(d, 4), z), 1)))


class HashField(_WithColourNetwork):
    """Instant-NGP: a hash grid under two small networks."""

    def __init__(
        self, levels: int = 14, log2_rows: int = 19, coarsest: int = 16, finest: int = 2048, hidden: int = 64,
        clip: tuple[float, float] = (-2.0, 7.0), inward: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(hidden, clip, inward)
        self.grid = HashGrid(levels, 2, log2_rows, coarsest, finest)
        self.sigma_net = Plain(self.grid.features, hidden, 1 + FEATURES)

    def feature(self, x: Tensor) -> Tensor:
        return self.sigma_net(self.grid(x))


class MLPField(_WithColourNetwork):
    """NeRF: a network on frequencies. ``inner``: what it gives to the small network that `HashField` has as well."""

    def __init__(
        self, octaves: int = 10, layers: int = 8, width: int = 256, skip: int = 3, inner: int = 28, hidden: int = 64,
        clip: tuple[float, float] = (-2.0, 7.0), inward: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(hidden, clip, inward)
        self.octaves = octaves
        self.network = SkipNetwork(3 + 6 * octaves, width, inner, layers, skip)
        self.sigma_net = Plain(inner, hidden, 1 + FEATURES)

    def feature(self, x: Tensor) -> Tensor:
        return self.sigma_net(self.network(frequencies(x, self.octaves)))


class VMField(_WithColourNetwork):
    """TensoRF: density and z are sums, over the three ways to split the axes, of products of a plane and a line."""

    clip_feature = True
    #: Axes of the planes (first across, second down) and of the lines.
    planes = ((0, 1), (0, 2), (1, 2))
    lines = (2, 1, 0)

    def __init__(
        self, resolution: int = 300, density_rank: int = 16, colour_rank: int = 48, hidden: int = 64,
        clip: tuple[float, float] = (-2.0, 7.0), inward: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(hidden, clip, inward)
        self.density_rank, rank = density_rank, density_rank + colour_rank
        self.plane = nn.Parameter(torch.empty(3, rank, resolution, resolution))
        self.line = nn.Parameter(torch.empty(3, rank, resolution))
        self.basis = nn.Linear(3 * colour_rank, FEATURES, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.plane, std=0.1)
        nn.init.normal_(self.line, std=0.1)

    def products(self, x: Tensor) -> Tensor:
        """Of planes and lines at points [N, 3], [3, rank, N]."""
        flat = torch.stack([x[:, axes] for axes in self.planes])[:, :, None]  # [3, N, 1, 2]
        place = torch.stack([x[:, axis] for axis in self.lines])
        fake = torch.stack((torch.zeros_like(place), place), -1)[:, :, None]
        on_plane = F.grid_sample(self.plane, flat, align_corners=True)[..., 0]
        on_line = F.grid_sample(self.line[..., None], fake, align_corners=True)[..., 0]
        return on_plane * on_line

    def feature(self, x: Tensor) -> Tensor:
        products = self.products(x)
        s = products[:, : self.density_rank].sum((0, 1))
        z = self.basis(products[:, self.density_rank :].flatten(0, 1).T)
        return torch.cat((s[:, None], z), 1)

    def sparsity(self) -> Tensor:
        """Mean size of the density's factors: the L1 term of training, summed over planes and lines."""
        rank = self.density_rank
        return sum(
            (self.plane[i, :rank].abs().mean() + self.line[i, :rank].abs().mean() for i in range(3)),
            start=self.plane.new_zeros(()),
        )


class DenseField(RadianceField):
    """Plenoxels without sparsity: a dense grid of log-densities and SH coefficients."""

    def __init__(
        self, resolution: int = 128, degree: int = 3, clip: tuple[float, float] = (-2.0, 7.0), inward: bool = False
    ) -> None:
        super().__init__(clip, inward)
        self.degree = degree
        self.grid = nn.Parameter(torch.empty(1, 1 + 3 * degree**2, resolution, resolution, resolution))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.grid, std=0.02)

    def feature(self, x: Tensor) -> Tensor:
        return F.grid_sample(self.grid, x.view(1, 1, 1, -1, 3), align_corners=True)[0, :, 0, 0].T

    def colour(self, z: Tensor, d: Tensor) -> Tensor:
        directional = spherical_harmonics(d, self.degree)
        return torch.sigmoid((z.view(len(z), 3, self.degree**2) * directional[:, None]).sum(-1))


KINDS: dict[str, type[RadianceField]] = {"hash": HashField, "mlp": MLPField, "vm": VMField, "dense": DenseField}


def make_field(kind: str, **shape: Any) -> RadianceField:
    """A field with torch's random weights. Raises ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"a field is {', '.join(KINDS)}, not {kind!r}")
    return KINDS[kind](**shape)
