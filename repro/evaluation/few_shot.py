"""Few-shot benchmarks through lm-evaluation-harness, each task with its own number of examples."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from repro.data.errors import MissingData

#: What a task is scored by, the first that it has.
SCORES = ("acc_norm", "acc", "exact_match")


def few_shot(
    model: Any, tokenizer: Any, tasks: Mapping[str, int], *, limit: int | None = None, batch_size: int = 1
) -> dict[str, dict[str, float]]:
    """Results of every task with its number of in-context examples, as ``{task: {metric: value}}``, without filters and
    standard errors; groups (``mmlu``) are given as the harness averages them.

    Args:
        model, tokenizer: of transformers; the model stays where it is.
        tasks: name in the harness to number of examples.
        limit: at most so many items of every task; all of them where None or not positive.
        batch_size: sequences per forward pass.

    Random number generators are left as they were found. Raises ValueError for a task that does not exist, MissingData
    when its data cannot be had.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from repro.evaluation.lm_eval import _silent, _undisturbed

    out: dict[str, dict[str, float]] = {}
    with _undisturbed(), _silent():
        manager = TaskManager()
        if unknown := [name for name in tasks if name not in manager.all_tasks]:
            raise ValueError(f"unknown lm-eval task {unknown[0]!r}")
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        for name, shots in tasks.items():
            try:
                found: Any = simple_evaluate(
                    model=lm, tasks=[name], task_manager=manager, num_fewshot=shots,
                    limit=limit if limit is not None and limit > 0 else None, bootstrap_iters=0, log_samples=False,
                )  # fmt: skip
            except OSError as error:
                raise MissingData(
                    f"the data of lm-eval task {name} are absent ({error}): they come from the hub"
                ) from error
            results = found.get("groups", {}).get(name) or found["results"][name]
            out[name] = {
                key.partition(",")[0]: float(value)
                for key, value in results.items()
                if isinstance(value, (int, float)) and "," in key and not key.partition(",")[0].endswith("_stderr")
            }
    return out


def score_of(metrics: Mapping[str, float]) -> float:
    """The number that a benchmark table shows: length-normalised accuracy, else accuracy, else exact match.

    Raises ValueError when there is none of them.
    """
    for name in SCORES:
        if name in metrics:
            return metrics[name]
    raise ValueError(f"no score among {', '.join(metrics)}")


def average_score(model: Any, tokenizer: Any, tasks: Sequence[str], *, limit: int | None = None) -> float:
    """Mean score over tasks given as ``name:shots``, between 0 and 1."""
    parsed: dict[str, int] = {}
    for task in tasks:
        name, _, shots = task.partition(":")
        parsed[name] = int(shots or 0)
    with contextlib.suppress(AttributeError):
        model.eval()
    found = few_shot(model, tokenizer, parsed, limit=limit)
    return sum(score_of(metrics) for metrics in found.values()) / len(found)
