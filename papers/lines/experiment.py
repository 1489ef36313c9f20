"""The arms of LiNeS: take a pretrained model and its fine-tuned models, edit or merge them, measure what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

from papers.lines.method import ALPHAS, GRIDS, choose_alpha, lines, lines_merged, merge_alpha
from papers.lines.paper import Config
from repro.evaluation.merging import lead, normalised, recovered, search
from repro.models.task_vectors import (
    State,
    Vector,
    apply,
    choose_tall_masks,
    consensus_mask,
    masked,
    task_vector,
    ties,
    total,
)
from repro.runner import Context, Outcome
from repro.training.merge_bench import BenchSpec, merge_bench

#: How much of its target accuracy an edited model may lose, in percent of the fine-tuned model's.
MAY_LOSE = 1.0


def run(config: Config, context: Context) -> Outcome:
    """Measure one arm on one bench."""
    bench = load(config, context)
    clock = time.perf_counter()
    vectors = [task_vector(state, bench.base) for state in bench.tuned]
    outcome = (single if config.what == "single" else merged)(config, context, bench, vectors)
    outcome.data = bench.describe()
    outcome.profile |= bench.profile() | {"edit_s": time.perf_counter() - clock}
    outcome.metrics["forward_flops"] = outcome.profile["forward_flops"]
    outcome.profile["evaluations"] = outcome.metrics["evaluations"]
    return outcome


def load(config: Config, context: Context) -> Any:
    """The bench of a run: of glyphs, trained under the run's seed, or published models.

    Raises MissingData when published models or their data cannot be had.
    """
    if config.data == "glyphs":
        spec = bench_spec(config, context.seed)
        return merge_bench(
            spec, device=context.device, progress=lambda done, parts: context.progress(done, parts, None),
            meanwhile=[bench_spec(config, context.seed + 1)],
        )  # fmt: skip
    from repro.training.clip_bench import EIGHT, ClipBench

    tasks = [task for task in EIGHT if not config.only or task.name in config.only.split()]
    return ClipBench(
        config.model, config.tuned, tasks, validation=config.validation, test=config.test, batch=config.batch,
        device=context.device,
    )  # fmt: skip


def bench_spec(config: Config, seed: int) -> BenchSpec:
    """The bench of glyphs."""
    return BenchSpec(
        kind=config.kind, tasks=config.tasks, base_classes=config.base_classes, base_images=config.base_images,
        images=config.images, validation=config.validation, test=config.test, layers=config.layers,
        hidden=config.hidden, width=2 * config.hidden, steps=config.steps, lr=config.lr,
        tune_steps=config.tune_steps, tune_lr=config.tune_lr, head_noise=config.head_noise, seed=seed,
    )  # fmt: skip


# --- merging --------------------------------------------------------------------------------------------------


def merged(config: Config, context: Context, bench: Any, vectors: list[Vector]) -> Outcome:
    """Merge all models, choose the coefficient on validation data, measure every task."""
    tuned = {
        split: [bench.accuracy(s, t, split) for t, s in enumerate(bench.tuned)] for split in ("validation", "test")
    }
    vector, spent = merge(config, bench, vectors)

    def model(coefficient: float) -> State:
        if config.scaling == "plain":
            return apply(bench.base, vector, coefficient)
        edited = lines_merged(vectors, vector, coefficient, schedule=config.schedule, seed=context.seed)  # type: ignore[arg-type]
        return apply(bench.base, edited)

    grid = grid_of(config)

    def score(coefficient: float) -> float:
        found = normalised(bench.accuracies(model(coefficient), "validation"), tuned["validation"])
        context.progress(grid.index(coefficient) + 1, len(grid), 100 - found)
        return found

    chosen, scores = search(grid, score)
    accuracies = bench.accuracies(model(chosen))
    zero = bench.accuracies(bench.base)
    result = normalised(accuracies, tuned["test"])
    outcome = Outcome()
    outcome.metrics = {
        "error": 100 - result,
        "normalised": result,
        "accuracy": 100 * fmean(accuracies),
        "accuracy_tuned": 100 * fmean(tuned["test"]),
        "zero_shot": normalised(zero, tuned["test"]),
        "coefficient": chosen,
        "alpha": merge_alpha(vectors, vector),
        "evaluations": float(len(grid)),
        "mask_evaluations": float(spent),
    }
    outcome.tables = {"accuracy": accuracies, "accuracy_tuned": tuned["test"], "accuracy_zero_shot": zero}
    outcome.curves = {
        "validation_normalised": {"x": list(scores), "y": list(scores.values()), "of": "coefficient (lambda or beta)"}
    }
    return outcome


def grid_of(config: Config) -> tuple[float, ...]:
    """Values of the coefficient that are tried."""
    grid = GRIDS["ties" if config.merge == "ties" else "other"]
    if config.grid == "paper":
        return grid
    if config.grid == "fine":
        return tuple(round(i / 40, 3) for i in range(1, round(40 * grid[-1]) + 1))
    raise ValueError(f"grid is paper or fine, not {config.grid!r}")


def merge(config: Config, bench: Any, vectors: list[Vector]) -> tuple[Vector, int]:
    """The merged update before any coefficient, and how many evaluations of the tasks it took."""
    if config.merge == "sum":
        return total(vectors), 0
    if config.merge == "ties":
        return ties(vectors, config.keep), 0
    if config.merge == "consensus":
        summed = total(vectors)

        def accuracy(task: int, vector: State) -> float:
            return bench.accuracy(apply(bench.base, vector), task, "validation")

        masks = choose_tall_masks(vectors, summed, accuracy)
        return masked(summed, consensus_mask(masks)), 5
    raise ValueError(f"merge is sum, ties or consensus, not {config.merge!r}")


# --- one fine-tuned model -------------------------------------------------------------------------------------


def single(config: Config, context: Context, bench: Any, vectors: list[Vector]) -> Outcome:
    """Edit each fine-tuned model; its own task is the target, all others are control tasks."""
    splits = {"validation": ("validation", 0), "test": ("test", 0), "curve": ("test", config.curve_images)}
    tuned = {
        name: [bench.accuracy(s, t, split, limit) for t, s in enumerate(bench.tuned)]
        for name, (split, limit) in splits.items()
    }
    zero = {name: bench.accuracies(bench.base, split, limit) for name, (split, limit) in splits.items()}
    tasks = range(len(vectors))

    def model(task: int, alpha: float, scaling: str = config.scaling) -> State:
        if scaling == "plain":
            return apply(bench.base, vectors[task], alpha)
        return apply(bench.base, lines(vectors[task], alpha, schedule=config.schedule, seed=context.seed))

    def pair(state: State, task: int, name: str) -> tuple[float, float]:
        """Target accuracy over the fine-tuned model's, control accuracy over the pretrained model's, all on the same
        images; percent."""
        found = bench.accuracies(state, *splits[name])
        others = [t for t in tasks if t != task]
        target = 100 * found[task] / tuned[name][task]
        return target, normalised([found[t] for t in others], [zero[name][t] for t in others])

    chosen: list[float] = []
    results: dict[str, list[tuple[float, float]]] = {"tuned": [], "chosen": [], "kept": []}
    curve: dict[float, list[tuple[float, float]]] = {alpha: [] for alpha in ALPHAS}
    plain: dict[float, list[tuple[float, float]]] = {alpha: [] for alpha in ALPHAS}
    for task in tasks:
        scores = {}
        for alpha in ALPHAS:
            state = model(task, alpha)
            scores[alpha] = pair(state, task, "validation")
            curve[alpha].append(pair(state, task, "curve"))
            alike = state if config.scaling == "plain" else model(task, alpha, "plain")
            plain[alpha].append(curve[alpha][-1] if alike is state else pair(alike, task, "curve"))
        allowed = {alpha: s[1] for alpha, s in scores.items() if s[0] >= 100 - MAY_LOSE} or {1.0: 0.0}
        picks = {
            "tuned": 1.0,
            "chosen": choose_alpha(scores, config.weight),
            "kept": max(allowed, key=allowed.__getitem__),
        }
        chosen.append(picks["chosen"])
        found = {alpha: pair(model(task, alpha), task, "test") for alpha in set(picks.values())}
        for name, alpha in picks.items():
            results[name].append(found[alpha])
        context.progress(task + 1, len(vectors), None)
    target, control = ({n: fmean(p[i] for p in pairs) for n, pairs in results.items()} for i in (0, 1))
    points, uniform = (
        {alpha: (fmean(p[0] for p in ps), fmean(p[1] for p in ps)) for alpha, ps in found.items()}
        for found in (curve, plain)
    )
    outcome = Outcome()
    outcome.metrics = {
        "error": 100 - (config.weight * target["chosen"] + control["chosen"]) / (config.weight + 1),
        "target": target["chosen"],
        "control": control["chosen"],
        "target_kept": target["kept"],
        "control_kept": control["kept"],
        "control_tuned": control["tuned"],
        "forgotten": 100 - control["tuned"],
        "recovered": share_back(control["chosen"], control["tuned"]),
        "recovered_kept": share_back(control["kept"], control["tuned"]),
        "target_at_zero": points[0.0][0],
        "coefficient": fmean(chosen),
        "evaluations": float(len(ALPHAS)),
        "zero_shot": normalised(zero["test"], tuned["test"]),
        "over_uniform": lead([p for alpha, p in points.items() if alpha < 1], list(uniform.values())),
    }
    outcome.tables = {"alphas": chosen, "pairs": {name: [list(p) for p in pairs] for name, pairs in results.items()}}
    outcome.curves = {
        name: {"x": list(points), "y": [p[i] for p in points.values()], "of": "alpha"}
        for i, name in enumerate(("target_by_alpha", "control_by_alpha"))
    }
    return outcome


def share_back(control: float, tuned: float) -> float:
    """Percent of what fine-tuning cost on the control tasks that is back; nan where it cost nothing."""
    measure: Callable[..., float] = recovered
    return measure(control, tuned, 100.0) if tuned < 100 else math.nan
