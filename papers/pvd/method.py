"""Progressive volume distillation: a trained radiance field of any kind teaches one of any other, without images.

Both fields are split alike (`repro.models.radiance_fields`): block 1 gives a feature [s, z] of a point, s being the
log-density, block 2 a colour. Both are asked about the *same* points on rays of random cameras, so that they can be
compared at every place inside:

    L = w_rgb |C_s - C_t| + w_f |f_s - f_t| + w_c |c_s - c_t| + w_s |s_s - s_t|        (+ w_1 L1 of a VM student)

with |.| the length of the vector of all differences, neither squared nor averaged. Training goes from the inside out:

| stage | steps of 30,000 | terms |
|---|---|---|
| 1 | to 2,000 | feature alone; block 2 does not run |
| 2 | to 5,000 | feature, colour and log-density of points; nothing is composed into pixels |
| 3 | the rest | all, and rendered pixels |

w_f shrinks by 0.995 in every step, to 4e-5 of itself by the end of stage 1: the feature is a warm start. Densities are
compared as clamped logarithms, s in [-2, 7]. The student takes over every part of the teacher that has the same name
and shape, and the teacher's occupied cells, in which all samples lie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.models.radiance_fields import Point, RadianceField, VMField, truncated_exp
from repro.models.volume_rendering import Composed, OccupancyGrid, Rays, compose, sample_occupied
from repro.training.radiance import PointCost, Tally, norm, point_cost

#: Steps that the boundaries and the decay of the feature's weight are published for.
PUBLISHED_STEPS = 30_000


@dataclass(frozen=True)
class Weights:
    """Of the terms; ``decay`` multiplies that of the feature in every step."""

    pixels: float = 1.0
    feature: float = 2e-3
    colour: float = 2e-3
    density: float = 2e-3
    sparsity: float = 1e-4
    decay: float = 0.995

    def feature_after(self, steps: int) -> float:
        """Weight of the feature after so many steps."""
        return self.feature * self.decay**steps


def scaled_decay(steps: int, decay: float = 0.995) -> float:
    """The decay a step with which the feature's weight falls as far over ``steps`` steps as it does over 30,000."""
    return decay ** (PUBLISHED_STEPS / steps)


# --- stages ---------------------------------------------------------------------------------------------------

FEATURE = frozenset({"feature"})
POINTS = frozenset({"feature", "colour", "density"})
ALL = POINTS | {"pixels"}


class Stage(NamedTuple):
    """Terms that count in steps below ``until``."""

    until: int
    terms: frozenset[str]


def stages(order: str, steps: int, first: float = 2 / 30, second: float = 5 / 30) -> tuple[Stage, ...]:
    """What counts when.

    Args:
        order: ``progressive``; ``together``: all terms from the first step; ``points``: never pixels; ``pixels``:
            pixels alone; ``reversed``: the progressive stages, the last one first.
        first, second: shares of the training where stages 1 and 2 end.

    Raises ValueError for another order.
    """
    one, two = round(first * steps), round(second * steps)
    if order == "progressive":
        return Stage(one, FEATURE), Stage(two, POINTS), Stage(steps, ALL)
    if order == "reversed":
        return Stage(steps - two, ALL), Stage(steps - one, POINTS), Stage(steps, FEATURE)
    whole = {"together": ALL, "points": POINTS, "pixels": frozenset({"pixels"})}
    if order not in whole:
        raise ValueError(f"order is progressive, reversed, {', '.join(whole)}, not {order!r}")
    return (Stage(steps, whole[order]),)


def terms_at(plan: Sequence[Stage], step: int, features: bool) -> frozenset[str]:
    """Terms of a step. Without ``features`` (one of the fields has none) that term is left out, and where nothing else
    would count, those of points count instead: stage 1 falls away and stage 2 begins at once."""
    terms = next(s.terms for s in plan if step < s.until)
    return terms if features else (terms - FEATURE or POINTS - FEATURE)


# --- what is compared -----------------------------------------------------------------------------------------

DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "norm": lambda a, b: norm(a - b),
    "mse": F.mse_loss,
    "l1": lambda a, b: (a - b).abs().sum(),
    "smooth-l1": lambda a, b: F.smooth_l1_loss(a, b, beta=0.05),
}
#: How densities are compared: as clamped logarithms, as logarithms, or as densities.
DENSITIES: dict[str, Callable[[Point], Tensor]] = {
    "clamped": lambda point: point.log_density,
    "log": lambda point: point.raw,
    "sigma": lambda point: truncated_exp(point.raw),
}


def inherit(student: RadianceField, teacher: RadianceField) -> list[str]:
    """Give the student, in place, what the teacher has under the same name in the same shape; the names.

    Fields on hash grids and on frequencies share both small networks, those on planes the colour network.
    """
    own = student.state_dict()
    taken = {k: v for k, v in teacher.state_dict().items() if k in own and own[k].shape == v.shape}
    student.load_state_dict(taken, strict=False)
    return sorted(taken)


class Distillation:
    """A teacher, a student, and the loss between them.

    Args:
        teacher: frozen.
        grid: the teacher's occupied cells; samples of both fields lie in them.
        plan: as `stages` gives it.
        samples: along a ray that meets an occupied cell.
        distance: a name of `DISTANCES`.
        density: a name of `DENSITIES`.
    """

    def __init__(
        self, teacher: RadianceField, student: RadianceField, grid: OccupancyGrid | None, plan: Sequence[Stage],
        weights: Weights, *, samples: int, distance: str = "norm", density: str = "clamped",
    ) -> None:  # fmt: skip
        self.teacher, self.student, self.grid = teacher.requires_grad_(False).eval(), student, grid
        self.plan, self.weights, self.samples = plan, weights, samples
        self.distance, self.log_density = DISTANCES[distance], DENSITIES[density]
        self.costs: tuple[PointCost, PointCost] = (point_cost(teacher), point_cost(student))
        self.tally = Tally()

    def loss(self, step: int, rays: Rays, background: Tensor, places: torch.Generator | None = None) -> Tensor:
        """The loss of a step, counted from 0.

        Args:
            background: colours [R, 3] behind the rays.
            places: draws the places of samples, on the CPU.
        """
        found = sample_occupied(rays, self.grid, self.samples, places)
        x = found.points.flatten(0, 1)
        d = rays.directions[found.hit, None].expand_as(found.points).flatten(0, 1)
        terms = terms_at(self.plan, step, self.both_have_features)
        seen_along = None if terms <= FEATURE else d
        with torch.no_grad():
            t = self.teacher(x, seen_along)
        s = self.student(x, seen_along)
        self.count(len(x), seen_along is not None)

        total = x.new_zeros(())
        if "feature" in terms:
            total = total + self.weights.feature_after(step + 1) * self.distance(s.feature, t.feature)
        if "colour" in terms:
            total = total + self.weights.colour * self.distance(s.colour, t.colour)
        if "density" in terms:
            total = total + self.weights.density * self.distance(self.log_density(s), self.log_density(t))
        if "pixels" in terms:
            behind = background[found.hit]
            pixels = [self.composed(p, found.delta).over(behind) for p in (s, t)]
            total = total + self.weights.pixels * self.distance(*pixels)
            if isinstance(self.student, VMField):
                total = total + self.weights.sparsity * self.student.sparsity()
        return total

    @property
    def both_have_features(self) -> bool:
        return all(hasattr(field, "colour_net") for field in (self.teacher, self.student))

    def composed(self, said: Point, delta: Tensor) -> Composed:
        assert said.colour is not None
        shape = (len(delta), self.samples)
        return compose(said.density.view(shape), said.colour.view(*shape, 3), delta)

    def count(self, points: int, colours: bool) -> None:
        teacher, student = (cost.both if colours else cost.feature for cost in self.costs)
        self.tally.asked(points, teacher)
        self.tally.learned(points, student)
