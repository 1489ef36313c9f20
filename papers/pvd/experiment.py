"""The arms of PVD: a field learns a scene from pictures, or from another field; all pairs of kinds in one run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from papers.pvd.method import Distillation, Weights, inherit, scaled_decay, stages
from papers.pvd.paper import CLOSE, KINDS, SHAPES, Config, by_kind
from repro.data.analytic_scenes import RadianceData
from repro.data.registry import load_radiance
from repro.evaluation.pictures import sheet
from repro.models.volume_rendering import OccupancyGrid, random_rays, sample_occupied
from repro.runner import Context, Outcome
from repro.runner.outcome import Picture
from repro.training.checkpoints import obtain
from repro.training.initial import generator
from repro.training.loop import Trained
from repro.training.radiance import (
    Fitted,
    Measured,
    Recipe,
    first_at,
    fitted_part,
    measure,
    restored,
    size_of,
    train_field,
)

Progress = Callable[[int, int, float | None], None]


def run(config: Config, context: Context) -> Outcome:
    """Train one arm on one setting and measure it. Raises MissingData for real data that is not at hand, ValueError for
    an unknown way of learning."""
    lesson = Lesson(config, context)
    if config.learns == "views":
        return from_views(lesson)
    if config.learns == "teacher":
        return from_teacher(lesson)
    if config.learns == "all-pairs":
        return all_pairs(lesson)
    raise ValueError(f"learns is views, teacher or all-pairs, not {config.learns!r}")


class Lesson:
    """What the fields of one run have in common: pictures, and fields that were trained from them."""

    def __init__(self, config: Config, context: Context) -> None:
        self.config, self.context = config, context
        self.data = load(config, context.seed)

    def recipe(self, kind: str, **changes: Any) -> Recipe:
        """How a field learns in this configuration, from pictures unless ``changes`` say otherwise."""
        c = self.config
        given: dict[str, Any] = {
            "kind": kind, "shape": SHAPES[c.size][kind], "clip": (c.clip_min, c.clip_max), "inward": c.inward,
            "lr": by_kind(c.view_rates, kind), "slow": c.slow, "steps": c.view_steps, "loss": c.loss, "rays": c.rays,
            "samples": c.samples, "cells": c.cells, "threshold": c.threshold, "refresh": c.refresh,
            "sparsity": c.sparsity, "evaluations": c.evaluations, "test_samples": c.test_samples,
        }  # fmt: skip
        return Recipe(**{**given, **changes})

    def whole(self, **changes: Any) -> Recipe:
        """As the original NeRF learns: samples along all of the ray, and room for emptiness in the densities."""
        c = self.config
        given: dict[str, Any] = {
            "sampling": "whole", "samples": c.whole_samples, "test_samples": c.whole_samples,
            "clip": (c.whole_clip, c.clip_max), "lr": by_kind(c.whole_rates, "mlp"),
        }  # fmt: skip
        return self.recipe("mlp", **{**given, **changes})

    def fitted(self, *recipes: Recipe, seed: int | None = None) -> list[Fitted]:
        """Fields trained from pictures, made once and shared by runs. ``seed``: of another scene."""
        seed = self.context.seed if seed is None else seed
        options = made_of(self.config, seed)
        parts = [
            fitted_part(
                f"{r.kind}-{r.sampling}-field", plain(r), partial(load, self.config, seed), options, seed,
                self.context.device, self.context.progress,
            )
            for r in recipes
        ]  # fmt: skip
        found = obtain(parts)
        return [restored(r, one, seed, self.context.device) for r, one in zip(recipes, found, strict=True)]


def plain(recipe: Recipe) -> Recipe:
    """A field that is trained from pictures has the ordinary clamp: an ablation of students has the same teacher."""
    return dataclasses.replace(recipe, inward=False)


def made_of(config: Config, seed: int) -> dict[str, Any]:
    """Options of the pictures."""
    return {
        "name": config.data, "seed": seed, "size": config.image, "train": config.train_views,
        "validation": config.validation_views, "test": config.test_views,
        **({"density": config.density} if config.data == "analytic-scene" else {"scene": config.scene}),
    }  # fmt: skip


def load(config: Config, seed: int) -> RadianceData:
    """The pictures of a run; a generated scene belongs to its seed. Raises MissingData for real data that is absent."""
    options = {k: v for k, v in made_of(config, seed).items() if k != "name"}
    return load_radiance(config.data, **options)


# --- from pictures --------------------------------------------------------------------------------------------


def from_views(lesson: Lesson) -> Outcome:
    """A field of a kind from pictures."""
    config = lesson.config
    changes: dict[str, Any] = {"steps": config.steps}
    if config.lr:
        changes["lr"] = config.lr
    recipe = lesson.whole(**changes) if config.whole else lesson.recipe(config.student, **changes)
    (fitted,) = lesson.fitted(recipe)
    found = tested(lesson, fitted)
    outcome = outcome_of(lesson, fitted, found)
    if lesson.context.seed == 0:
        outcome.pictures["views"] = compared(lesson.data, {"this field": found.images})
    return outcome


def tested(lesson: Lesson, fitted: Fitted) -> Measured:
    """On the test views; with as many samples as a field without a grid needs."""
    c = lesson.config
    return measure(fitted.field, fitted.grid, lesson.data.test, c.test_samples if fitted.grid else c.whole_samples)


def outcome_of(lesson: Lesson, fitted: Fitted, found: Measured) -> Outcome:
    """Metrics, curves and profile of a field, whatever it learned from."""
    trained, last = fitted.trained, fitted.trained.evaluations[-1]
    metrics = {
        "error_db": -found.metrics["psnr"],
        "validation_error_db": -last["psnr"],
        "psnr": found.metrics["psnr"],
        "ssim": found.metrics.get("ssim", math.nan),
        "dead": found.metrics["dead"],
        "log2_train_flops": math.log2(max(fitted.tally.flops, 1.0)),
        "log2_train_time": math.log2(max(trained.train_s, 1e-9)),
    }
    if lesson.data.scene is not None:
        metrics["density_error"] = density_error(lesson, fitted)
    profile = size_of(fitted.field) | {
        "train_steps": float(trained.steps[-1]),
        "train_rays": float(trained.steps[-1] * lesson.config.rays),
        "train_points": fitted.tally.points,
        "train_flops": fitted.tally.flops,
        "flops_over_share": fitted.tally.flops,
        "train_s": trained.train_s,
        "occupied_share": fitted.grid.share if fitted.grid is not None else 1.0,
    }
    metrics["parameters"] = profile["params_total"]
    curves = {name: curve for name, curve in trained.curves().items() if name in ("loss", "psnr", "train_loss")}
    return Outcome(metrics, curves, profile, lesson.data.describe(), {}, trained.diverged)


@torch.no_grad()
def density_error(lesson: Lesson, fitted: Fitted, points: int = 4096) -> float:
    """Mean difference of opacity from the scene's formulas, over random points of the cube, percent: what a field
    lets through of light over a twentieth of the unit of length."""
    assert lesson.data.scene is not None
    x = torch.rand(points, 3, generator=generator("points of the cube", lesson.context.seed)) * 2 - 1
    truth = lesson.data.scene.sigma(x)
    at = x.to(lesson.context.device)
    found = fitted.field.density(at)
    if fitted.grid is not None:
        found = found * fitted.grid.contains(at)
    opacity = [1 - torch.exp(-0.05 * sigma.double()) for sigma in (found.cpu(), truth)]
    return 100 * float((opacity[0] - opacity[1]).abs().mean())


# --- from a teacher -------------------------------------------------------------------------------------------


class Taught(NamedTuple):
    """A student, and the names of what it took over from its teacher."""

    fitted: Fitted
    inherited: list[str]


def from_teacher(lesson: Lesson) -> Outcome:
    """A student of one kind from a teacher of another, beside the same kind from pictures."""
    config, seed = lesson.config, lesson.context.seed
    teacher_recipe = lesson.recipe(config.teacher)
    if config.wrong_scene:
        (teacher,) = lesson.fitted(teacher_recipe, seed=seed + 1)
    else:
        (teacher,) = lesson.fitted(teacher_recipe)
    references = lesson.fitted(lesson.whole(), lesson.recipe(config.student)) if config.references else []
    taught = distil(lesson, teacher, lesson.recipe(config.student), reference=references[0] if references else None)
    found, of_teacher = tested(lesson, taught.fitted), tested(lesson, teacher)
    outcome = outcome_of(lesson, taught.fitted, found)
    outcome.metrics |= {
        "teacher_psnr": of_teacher.metrics["psnr"],
        "behind_teacher_db": of_teacher.metrics["psnr"] - found.metrics["psnr"],
        "inherited": float(sum(taught.fitted.field.state_dict()[k].numel() for k in taught.inherited)),
        **(speed_ups(taught.fitted.trained, teacher, *references) if references else {}),
    }
    outcome.profile["flops_over_share"] = taught.fitted.tally.flops / (config.share_of_whole or 1.0)
    outcome.profile["teacher_flops"] = teacher.tally.flops
    outcome.profile["teacher_s"] = teacher.trained.train_s
    if seed == 0:
        outcome.pictures["views"] = compared(
            lesson.data, {"the teacher": of_teacher.images, "the student": found.images}
        )
    return outcome


def distil(
    lesson: Lesson, teacher: Fitted, recipe: Recipe, reference: Fitted | None = None, steps: int = 0,
    evaluations: int = 0,
) -> Taught:  # fmt: skip
    """Teach a fresh field.

    Args:
        reference: whose FLOPs a share is taken of, where the configuration asks for one.
        steps, evaluations: 0 for those of the configuration.
    """
    config, context, data = lesson.config, lesson.context, lesson.data
    rate = config.lr or by_kind(config.rates, recipe.kind)
    student = recipe.field(context.seed, context.device)
    # a student of the teacher's own kind would inherit all of it and have nothing to learn
    inherited = inherit(student, teacher.field) if config.inherit and type(student) is not type(teacher.field) else []
    draw, places = generator("camera poses", context.seed), generator("sample places", context.seed)
    behind = generator("backgrounds", context.seed)
    size, focal = data.train.size, data.train.focal

    def rays_of(source: torch.Generator, count: int) -> Any:
        return random_rays(count, size, focal, data.radius, source, data.lowest)

    def lessons(length: int) -> Distillation:
        return Distillation(
            teacher.field, student, teacher.grid, stages(config.order, length, config.first, config.second),
            Weights(config.weight_pixels, config.weight_feature, config.weight_colour, config.weight_density,
                    config.sparsity, scaled_decay(length, config.decay)),
            samples=config.samples, distance=config.distance, density=config.compares,
        )  # fmt: skip

    length = steps or config.steps
    if config.share_of_whole and reference is not None:
        met = mean_hits(rays_of(generator("rays to count", 0), 4096), teacher.grid, config.rays)
        costs = lessons(length).costs
        length = max(10, round(
            config.share_of_whole * reference.tally.flops
            / (met * config.samples * (costs[0].both + 3 * costs[1].both))
        ))  # fmt: skip
    teaching = lessons(length)

    def loss(step: int) -> Tensor:
        rays = rays_of(draw, config.rays)
        background = torch.rand(config.rays, 3, generator=behind).to(context.device)
        return teaching.loss(step, type(rays)(*(x.to(context.device) for x in rays)), background, places)

    def evaluate() -> dict[str, float]:
        return measure(student, teacher.grid, data.validation, config.test_samples, structure=False).metrics

    optimisation = dataclasses.replace(recipe, lr=rate, steps=length).optimisation
    trained = train_field(
        student, loss, optimisation, evaluate, evaluations=evaluations or config.evaluations, slow=config.slow,
        tally=teaching.tally, progress=context.progress,
    )  # fmt: skip
    return Taught(Fitted(student.eval(), teacher.grid, trained, teaching.tally), inherited)


def mean_hits(rays: Any, grid: OccupancyGrid | None, of: int) -> float:
    """How many of ``of`` rays meet an occupied cell."""
    if grid is not None:
        rays = type(rays)(*(x.to(grid.occupied.device) for x in rays))
    return of * len(sample_occupied(rays, grid, 1).hit) / len(rays.origins)


def speed_ups(taught: Trained, teacher: Fitted, whole: Fitted, scratch: Fitted) -> dict[str, float]:
    """How much less a student needs to be as good, on validation views, as the same network from pictures in the end,
    minus 0.1 dB; in doublings. A student that never gets there counts as no faster (0), and not as ``reached``.

    Returns:
        ``speedup_flops`` and ``speedup_time``: against samples along all of the ray; ``speedup_steps``: in steps,
        against samples in occupied cells; ``speedup_with_teacher_time``: with the teacher's training.
    """

    def of(reference: Trained, cost: str, extra: float = 0.0) -> tuple[float, float]:
        goal = reference.evaluations[-1]["psnr"] - 0.1
        theirs = first_at(points(reference), "psnr", goal, cost)
        own = first_at(points(taught), "psnr", goal, cost)
        if theirs is None:  # the reference diverged
            return math.nan, 0.0
        return (0.0, 0.0) if own is None else (math.log2(max(theirs, 1e-9) / max(own + extra, 1e-9)), 1.0)

    flops, reached = of(whole.trained, "flops")
    return {
        "speedup_flops": flops,
        "reached": reached,
        "speedup_time": of(whole.trained, "train_s")[0],
        "speedup_with_teacher_time": of(whole.trained, "train_s", teacher.trained.train_s)[0],
        "speedup_steps": of(scratch.trained, "step")[0],
    }


def points(trained: Trained) -> list[dict[str, float]]:
    """Evaluations with their steps."""
    return [{**e, "step": float(s)} for s, e in zip(trained.steps, trained.evaluations, strict=True)]


# --- all pairs ------------------------------------------------------------------------------------------------


def all_pairs(lesson: Lesson) -> Outcome:
    """Every kind teaches every kind. ``margin``: PSNR of a student minus the lower of its teacher's and of that of its
    own kind from pictures; a pair is close when that is above `CLOSE`."""
    config, data = lesson.config, lesson.data
    fields = dict(zip(KINDS, lesson.fitted(*(lesson.recipe(kind) for kind in KINDS)), strict=True))
    from_pictures = {kind: tested(lesson, f) for kind, f in fields.items()}
    quality = {kind: m.metrics["psnr"] for kind, m in from_pictures.items()}
    psnr: dict[str, dict[str, float]] = {}
    metrics: dict[str, float] = {}
    shown: list[Tensor] = []
    total, last = 0.0, None
    for teacher in KINDS:
        psnr[teacher] = {"from pictures": quality[teacher]}
        shown += [data.test.over()[0], from_pictures[teacher].images[0]]
        for student in KINDS:
            taught = distil(lesson, fields[teacher], lesson.recipe(student), steps=config.pair_steps, evaluations=1)
            found = tested(lesson, taught.fitted)
            psnr[teacher][student] = found.metrics["psnr"]
            margin = found.metrics["psnr"] - min(quality[teacher], quality[student])
            metrics[f"margin_{teacher}_{student}"] = margin
            metrics["dead"] = metrics.get("dead", 0.0) + found.metrics["dead"] / len(KINDS) ** 2
            shown.append(found.images[0])
            total += taught.fitted.tally.flops
            last = taught.fitted
    margins = {(t, s): metrics[f"margin_{t}_{s}"] for t in KINDS for s in KINDS}
    across = [m for (t, s), m in margins.items() if t != s]
    mean = sum(psnr[t][s] for t in KINDS for s in KINDS if t != s) / len(across)
    metrics |= {
        "pairs_close": float(sum(m > -CLOSE for m in across)),
        "mean_margin": sum(across) / len(across),
        "psnr": mean,
        "error_db": -mean,
    }
    assert last is not None
    outcome = Outcome(metrics, profile={"train_flops": total, "train_steps": float(16 * config.pair_steps)},
                      data=data.describe(), tables={"psnr_by_teacher_and_student": psnr})  # fmt: skip
    if lesson.context.seed == 0:
        outcome.pictures["pairs"] = sheet(
            torch.stack(shown).permute(0, 3, 1, 2),
            "One test view. Rows: teachers (" + ", ".join(KINDS) + "). Columns: the truth, the teacher, and its "
            "students in the same order.",
            columns=2 + len(KINDS), scale=2,
        )  # fmt: skip
    return outcome


# --- pictures -------------------------------------------------------------------------------------------------


def compared(data: RadianceData, rows: dict[str, Tensor]) -> Picture:
    """Test views: the truth, then for every row of ``rows`` its pictures and four times their difference from it."""
    truth = data.test.over()
    parts, words = [truth], ["the truth"]
    for name, images in rows.items():
        parts += [images, 1 - (4 * (images - truth).abs()).clamp(0, 1)]
        words += [name, "four times its error (dark is wrong)"]
    return sheet(
        torch.cat(parts).permute(0, 3, 1, 2), f"{len(truth)} test views. From the top: {', '.join(words)}.",
        columns=len(truth), scale=2,
    )  # fmt: skip
