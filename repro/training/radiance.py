"""Training and measuring radiance fields: from pictures, or by any loss on rays.

    trained = fit_views(recipe, data, seed)      # a field, its occupied cells, curves, costs
    measure(trained.field, trained.grid, data.test, samples=32)

Costs are counted in points: a field says what a point costs (`PointCost`), the training how many it asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repro.data.analytic_scenes import RadianceData, Views
from repro.evaluation.images import psnr, ssim
from repro.models.radiance_fields import RadianceField, VMField, make_field
from repro.models.volume_rendering import Composed, OccupancyGrid, Rays, compose, sample_occupied
from repro.profiling.counts import count_flops, count_parameters
from repro.training.checkpoints import Built, Checkpoint, Part
from repro.training.classify import seeded_start
from repro.training.initial import generator
from repro.training.loop import Optimisation, Trained


@dataclass(frozen=True)
class Recipe:
    """How a field is made and trained.

    Attributes:
        kind, shape: as `repro.models.radiance_fields.make_field` takes them.
        clip, inward: of its log-density.
        lr: of the field; networks on top of ``vm`` planes take ``slow`` of it.
        loss: of pixels: ``mse``, or ``norm``, the length of the vector of all differences of a batch.
        sampling: ``grid``: samples in cells that the field itself marks as occupied; ``whole``: along all of the ray.
        rays, samples: of a step, and of a ray.
        cells, threshold: of the grid of occupied cells, along an edge, and the density that marks one.
        refresh: steps between two looks at all cells; they start after a tenth of the training.
        sparsity: weight of the L1 term of ``vm``.
    """

    kind: str
    shape: Mapping[str, Any] = field(default_factory=dict)
    clip: tuple[float, float] = (-2.0, 7.0)
    inward: bool = False
    lr: float = 1e-2
    slow: float = 0.1
    steps: int = 500
    loss: str = "mse"
    sampling: str = "grid"
    rays: int = 256
    samples: int = 16
    cells: int = 32
    threshold: float = 0.3
    refresh: int = 25
    sparsity: float = 1e-4
    evaluations: int = 20
    test_samples: int = 32

    @property
    def optimisation(self) -> Optimisation:
        """AdamW as torch-ngp sets it, the rate falling to zero along a cosine."""
        return Optimisation(self.lr, self.steps, 0.0, "cosine", (0.9, 0.99), 0.0, clip=0.0)

    def field(self, seed: int, device: str = "cpu") -> RadianceField:
        """With the weights of the seed: modules of one name and shape start alike in all kinds."""
        made = make_field(self.kind, **self.shape, clip=self.clip, inward=self.inward)
        seeded_start(made, seed)
        return made.to(device)

    def grid(self, device: str = "cpu") -> OccupancyGrid:
        return OccupancyGrid(self.cells, self.threshold).to(device)


class PointCost(NamedTuple):
    """FLOPs of one point through block 1, and through both blocks. Interpolation is not counted."""

    feature: float
    both: float


def point_cost(model: RadianceField, points: int = 64) -> PointCost:
    """Counted on the field itself."""
    device = next(model.parameters()).device
    x, d = torch.zeros(points, 3, device=device), torch.ones(points, 3, device=device) / math.sqrt(3)
    with torch.no_grad():
        return PointCost(count_flops(lambda: model(x)) / points, count_flops(lambda: model(x, d)) / points)


@dataclass(slots=True)
class Tally:
    """FLOPs so far. A point that is learned from counts as three passes forward."""

    flops: float = 0.0
    points: float = 0.0

    def learned(self, points: int, per_point: float) -> None:
        self.flops += 3 * points * per_point
        self.points += points

    def asked(self, points: int, per_point: float) -> None:
        self.flops += points * per_point
        self.points += points


def processor_s(device: str) -> float:
    """A clock in seconds: of this process's work on the CPU, as others may use the machine; else of the wall."""
    if device.startswith("cpu"):
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


# --- rendering ------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What a field shows along rays: pixels [R, 3] in front of the background, alpha [R], points asked for."""

    pixels: Tensor
    alpha: Tensor
    points: int


def render(
    model: RadianceField, rays: Rays, grid: OccupancyGrid | None, samples: int, background: Tensor,
    generator: torch.Generator | None = None,
) -> Seen:  # fmt: skip
    """Render rays.

    Args:
        grid: cells that hold something; None for samples along all of the ray.
        background: [3] or [R, 3].
        generator: of the places of samples; None for even ones.
    """
    found = sample_occupied(rays, grid, samples, generator)
    count = len(found.hit)
    pixels = background.expand(len(rays.origins), 3)
    alpha = pixels.new_zeros(len(pixels))
    if count:
        part = compose_points(model, found.points, rays.directions[found.hit], found.delta)
        behind = pixels[found.hit]
        pixels = pixels.index_put((found.hit,), part.over(behind))
        alpha = alpha.index_put((found.hit,), part.alpha)
    return Seen(pixels, alpha, count * samples)


def compose_points(model: RadianceField, points: Tensor, directions: Tensor, delta: Tensor) -> Composed:
    """Ask for points [H, S, 3] along directions [H, 3], and compose."""
    rays, samples = points.shape[:2]
    said = model(points.flatten(0, 1), directions[:, None].expand(-1, samples, 3).flatten(0, 1))
    assert said.colour is not None
    return compose(said.density.view(rays, samples), said.colour.view(rays, samples, 3), delta)


@torch.no_grad()
def photograph(
    model: RadianceField, grid: OccupancyGrid | None, views: Views, samples: int, background: float = 1.0
) -> Tensor:
    """Pictures of a field from the cameras of ``views``, [V, H, W, 3] on the CPU, in [0, 1]."""
    device = next(model.parameters()).device
    behind = torch.full((3,), background, device=device)
    out = []
    for view in range(len(views)):
        rays = Rays(*(x.to(device) for x in views.rays(view)))
        parts = [
            render(model, Rays(*part), grid, samples, behind).pixels
            for part in zip(*(x.split(4096) for x in rays), strict=True)
        ]
        out.append(torch.cat(parts).cpu().view(*views.size, 3))
    return torch.stack(out).clamp(0, 1)


class Measured(NamedTuple):
    """Metrics of pictures, and the pictures [V, H, W, 3]."""

    metrics: dict[str, float]
    images: Tensor


def measure(
    model: RadianceField, grid: OccupancyGrid | None, views: Views, samples: int, *, structure: bool = True
) -> Measured:
    """``psnr`` in dB and ``ssim``, each the mean over views; ``loss``, the mean squared error; ``dead``: 1 when all
    pictures are one colour."""
    images = photograph(model, grid, views, samples)
    truth = views.over()
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(images, truth, strict=True)]
    found = {
        "loss": float(np.mean([np.mean((a.astype(np.float64) - b) ** 2) for a, b in pairs])),
        "psnr": fmean(psnr(a, b) for a, b in pairs),
        "dead": float(float(images.flatten(0, 2).std(0).max()) < 1e-3),
    }
    if structure and min(views.size) >= 11:
        found["ssim"] = fmean(ssim(a, b) for a, b in pairs)
    return Measured(found, images)


# --- training -------------------------------------------------------------------------------------------------


def optimizer_of(model: RadianceField, optimisation: Optimisation, slow: float) -> torch.optim.Optimizer:
    """AdamW without weight decay; the networks of a ``vm`` field take ``slow`` of the rate of its planes and lines."""
    gentle = [*model.colour_net.parameters(), *model.basis.parameters()] if isinstance(model, VMField) else []
    chosen = {id(p) for p in gentle}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if id(p) not in chosen], "factor": 1.0},
        {"params": gentle, "factor": slow},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=optimisation.lr, betas=optimisation.betas, eps=1e-15,
        weight_decay=optimisation.weight_decay, fused=True,
    )  # fmt: skip


def train_field(
    model: RadianceField, loss: Callable[[int], Tensor], optimisation: Optimisation,
    evaluate: Callable[[], dict[str, float]], *, evaluations: int, slow: float = 0.1, tally: Tally | None = None,
    progress: Callable[[int, int, float | None], None] = lambda *_: None,
) -> Trained:  # fmt: skip
    """Train by a loss of the step, counted from 0.

    ``evaluate`` holds ``loss``. Evaluations also get ``flops`` and ``train_s`` up to there, in `processor_s`. Training
    stops with ``diverged`` when an evaluation's loss is not finite.
    """
    device = str(next(model.parameters()).device)
    optimizer = optimizer_of(model, optimisation, slow)
    steps = optimisation.steps
    marks = {round(steps * (i + 1) / evaluations) for i in range(min(evaluations, steps))}
    out = Trained()
    running, since = torch.zeros((), device=device), 0
    began = processor_s(device)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = optimisation.lr * group["factor"] * optimisation.factor(step)
        one = loss(step)
        one.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        running += one.detach()
        since += 1
        if step + 1 in marks:
            out.train_s += processor_s(device) - began
            out.steps.append(step + 1)
            out.train_loss.append(float(running) / since)
            running.zero_()
            since = 0
            found = evaluate()
            out.evaluations.append({**found, "flops": tally.flops if tally else math.nan, "train_s": out.train_s})
            if not math.isfinite(found["loss"]):
                out.diverged = True
                break
            began = processor_s(device)
        if step % 20 == 0 or step + 1 in marks:
            progress(step + 1, steps, out.evaluations[-1]["loss"] if out.evaluations else None)
    return out


class Fitted(NamedTuple):
    """A field, its occupied cells (None where samples go along all of the ray), and what its training left."""

    field: RadianceField
    grid: OccupancyGrid | None
    trained: Trained
    tally: Tally


def norm(difference: Tensor) -> Tensor:
    """Length of the vector of all entries: neither squared nor averaged, so it grows with the root of the batch.
    Its gradient at zero is zero."""
    return (difference.square().sum() + 1e-12).sqrt()


def pixel_loss(name: str, pixels: Tensor, truth: Tensor) -> Tensor:
    """``mse`` or ``norm``. Raises ValueError for another."""
    if name == "mse":
        return (pixels - truth).square().mean()
    if name == "norm":
        return norm(pixels - truth)
    raise ValueError(f"loss is mse or norm, not {name!r}")


def fit_views(
    recipe: Recipe, data: RadianceData, seed: int, device: str = "cpu",
    progress: Callable[[int, int, float | None], None] = lambda *_: None,
) -> Fitted:  # fmt: skip
    """Train a field from pictures. Backgrounds are random colours in training. Raises ValueError for an unknown way of
    sampling."""
    if recipe.sampling not in ("grid", "whole"):
        raise ValueError(f"sampling is grid or whole, not {recipe.sampling!r}")
    model = recipe.field(seed, device)
    grid = recipe.grid(device) if recipe.sampling == "grid" else None
    cost, tally = point_cost(model), Tally()
    rays, seen = data.train.all_rays()
    rays, seen = Rays(rays.origins.to(device), rays.directions.to(device)), seen.to(device)
    order, places = generator("ray order", seed), generator("sample places", seed)
    behind, cells = generator("backgrounds", seed), generator("cells", seed)

    def look(rounds: int, decay: float = 0.95) -> None:
        if grid is not None:
            grid.update(model.density, cells, rounds=rounds, decay=decay)
            tally.asked(rounds * grid.resolution**3, cost.feature)

    def loss(step: int) -> Tensor:
        if step >= recipe.steps // 10 and step % recipe.refresh == 0:
            look(1)
        rows = torch.randint(len(seen), (recipe.rays,), generator=order).to(device)
        background = torch.rand(recipe.rays, 3, generator=behind).to(device)
        shown = render(model, rays.take(rows), grid, recipe.samples, background, places)
        tally.learned(shown.points, cost.both)
        truth = seen[rows, :3] + (1 - seen[rows, 3:]) * background
        total = pixel_loss(recipe.loss, shown.pixels, truth)
        if isinstance(model, VMField):
            total = total + recipe.sparsity * model.sparsity()
        return total

    def evaluate() -> dict[str, float]:
        return measure(model, grid, data.validation, recipe.test_samples, structure=False).metrics

    trained = train_field(
        model, loss, recipe.optimisation, evaluate, evaluations=recipe.evaluations, slow=recipe.slow, tally=tally,
        progress=progress,
    )  # fmt: skip
    look(8, 0.0)
    return Fitted(model, grid, trained, tally)


# --- kept -----------------------------------------------------------------------------------------------------


def fitted_part(
    name: str, recipe: Recipe, data: Callable[[], RadianceData], made_of: Mapping[str, Any], seed: int,
    device: str = "cpu", progress: Callable[[int, int, float | None], None] = lambda *_: None,
) -> Part:  # fmt: skip
    """A field trained from pictures as weights that runs share; its card holds curves and costs.

    Args:
        data: gives the pictures; called only when they are needed.
        made_of: everything that decides them.
    """

    def build() -> Built:
        fitted = fit_views(recipe, data(), seed, device, progress)
        state = {f"field.{k}": v for k, v in fitted.field.state_dict().items()}
        if fitted.grid is not None:
            state["occupied"] = fitted.grid.occupied.to(torch.uint8)
        trained = fitted.trained
        card = {
            "steps": trained.steps, "evaluations": trained.evaluations, "train_loss": trained.train_loss,
            "diverged": trained.diverged, "train_s": trained.train_s, "flops": fitted.tally.flops,
            "points": fitted.tally.points,
        }  # fmt: skip
        return Built(state, card)

    identity = {**asdict(recipe), "data": dict(made_of), "seed": seed, "device": device.partition(":")[0]}
    return Part(name, identity, build, __name__)


def restored(recipe: Recipe, found: Checkpoint, seed: int, device: str = "cpu") -> Fitted:
    """The field of a part again."""
    model = recipe.field(seed, device)
    model.load_state_dict({k.removeprefix("field."): v for k, v in found.state.items() if k.startswith("field.")})
    grid = None
    if "occupied" in found.state:
        grid = recipe.grid(device)
        grid.occupied = found.state["occupied"].bool().to(device)
    card = found.card
    trained = Trained(
        list(card["steps"]), list(card["evaluations"]), list(card["train_loss"]), card["diverged"], card["train_s"]
    )
    return Fitted(model.eval(), grid, trained, Tally(card["flops"], card["points"]))


def size_of(model: RadianceField, cost: PointCost | None = None) -> dict[str, float]:
    """Parameters, bytes in float32 and FLOPs of a point, for a profile."""
    counted = count_parameters(model)
    cost = cost or point_cost(model)
    return counted | {"storage_bytes": 4 * counted["params_total"], "flops_per_point": cost.both}


def first_at(curve: Iterable[Mapping[str, float]], metric: str, target: float, cost: str) -> float | None:
    """What a training had cost at the first evaluation with ``metric`` of at least ``target``; None without one."""
    return next((e[cost] for e in curve if e[metric] >= target), None)
