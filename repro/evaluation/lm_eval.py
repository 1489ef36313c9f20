"""Bridge to lm-evaluation-harness: models trained here, on tasks that need no network, and on the usual ones."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repro.data.base import LanguageData, fingerprint
from repro.data.cache import cache_dir
from repro.data.errors import MissingData
from repro.evaluation import tasks as definitions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

#: Tasks that ship with the project, by the data set whose held-out items they ask.
LOCAL_TASKS: Mapping[str, str] = {
    "word_problems_exact": "word-problems",
    "word_problems_choice": "word-problems",
    "gsm8k_exact": "gsm8k",
}
#: The harness's own tasks that papers here report, by their folder in the harness. They need the hub.
HUB_TASKS: Mapping[str, str] = {"arc_easy": "arc", "hellaswag": "hellaswag", "piqa": "piqa"}
_TASKS = Path(str(definitions.__file__)).parent


def evaluate_with_lm_eval(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[str],
    *,
    data: LanguageData | None = None,
    limit: int | None = None,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    verbose: bool = False,
) -> dict[str, float]:
    """Zero-shot results of a causal language model, greedy decoding, as ``{"task/metric": value, "task/n": items}``.

    Args:
        model: a `transformers` causal language model; moved to ``device`` if one is given, and left in its mode.
        tokenizer: its tokenizer.
        tasks: names from `LOCAL_TASKS` and `HUB_TASKS`, or of any other task of the harness (slower to look up).
        data: the data set whose held-out items the local tasks ask. Default: loaded by name.
        limit: at most this many items of every task, the same ones each time; None or a negative number: all.
        batch_size: sequences per forward pass.
        verbose: let the harness write its progress and warnings.

    Random number generators are left as they were found. Raises ValueError for a task that does not exist or data that
    do not belong to it, MissingData when a task's data cannot be had.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    if not tasks:
        return {}
    if device is not None:
        model.to(device)  # type: ignore[arg-type]
    training = model.training
    with _undisturbed(), contextlib.nullcontext() if verbose else _silent():
        folders = [str(_TASKS), *_harness_folders(tasks)]
        manager = TaskManager(include_path=folders, include_defaults=_needs_all(tasks))
        for name in tasks:
            if name not in manager.all_tasks:
                raise ValueError(f"unknown lm-eval task {name!r}; shipped: {', '.join((*LOCAL_TASKS, *HUB_TASKS))}")
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_batch_size=batch_size)
        specs = [_local(name, data, lm.max_length) if name in LOCAL_TASKS else name for name in tasks]
        try:
            found = simple_evaluate(
                model=lm,
                tasks=specs,
                task_manager=manager,
                num_fewshot=0,
                limit=limit if limit is not None and limit >= 0 else None,
                bootstrap_iters=0,
                log_samples=False,
            )
        except (OSError, FileNotFoundError) as error:
            names = ", ".join(name for name in tasks if name not in LOCAL_TASKS)
            raise MissingData(
                f"the data of lm-eval task {names} are absent ({error}): they come from the hub"
            ) from error
        finally:
            model.train(training)
    assert found is not None
    return _flat(found)


def tasks_for(data: LanguageData) -> tuple[str, ...]:
    """Tasks that fit a model trained on ``data``: local ones where they ask its held-out items, the hub's three for the
    large real sets, none for the rest."""
    if data.name in ("metamath", "slimpajama"):
        return tuple(HUB_TASKS)
    return tuple(task for task, name in LOCAL_TASKS.items() if name == data.name)


def zero_shot(model: Any, data: LanguageData, items: int, device: str) -> dict[str, float]:
    """`evaluate_with_lm_eval` on `tasks_for` the data; ``items`` of each task, all of them when not positive."""
    tasks = tasks_for(data)
    if not tasks:
        return {}
    return evaluate_with_lm_eval(
        model, data.tokenizer, tasks, data=data, limit=items if items > 0 else None, device=device
    )


def _needs_all(tasks: Sequence[str]) -> bool:
    """Whether the harness has to read its thousands of task files to find a name."""
    return any(name not in LOCAL_TASKS and name not in HUB_TASKS for name in tasks)


def _harness_folders(tasks: Sequence[str]) -> list[str]:
    import lm_eval.tasks

    root = Path(lm_eval.tasks.__file__).parent
    return [str(root / HUB_TASKS[name]) for name in tasks if name in HUB_TASKS]


def _local(name: str, data: LanguageData | None, max_length: int) -> dict[str, Any]:
    """The shipped task ``name`` with its file of items, and with room left for the question."""
    import yaml

    wanted = LOCAL_TASKS[name]
    if data is None or data.name != wanted:
        if data is not None:
            raise ValueError(f"task {name!r} asks items of {wanted!r}, not of {data.name!r}")
        from repro.data.registry import load_language

        data = load_language(wanted, 128)
    spec: dict[str, Any] = yaml.safe_load((_TASKS / f"{name}.yaml").read_text(encoding="utf-8"))
    files = {"test": str(_write_items(name, data))}
    spec["dataset_kwargs"] = {"data_files": files, "cache_dir": str(cache_dir() / "datasets")}
    if options := spec.get("generation_kwargs"):
        options["max_gen_toks"] = min(options["max_gen_toks"], max(1, max_length // 2))
    return spec


def _write_items(name: str, data: LanguageData) -> Path:
    """The held-out items of ``data`` as the JSON lines that task ``name`` reads, in a fixed random order."""
    rows = [made for item in data.held_out_items if (made := _item(name, item))]
    random.Random("lm-eval items").shuffle(rows)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    place = cache_dir() / "lm-eval" / f"{name}-{fingerprint(text)}" / f"{name}.jsonl"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = place.with_suffix(f".{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(place)
    return place


def _item(name: str, item: Mapping[str, Any]) -> dict[str, Any] | None:
    if name == "word_problems_choice":
        if item["style"] != "direct":
            return None
        choices = [str(n) for n in range(item["modulus"])]
        return {"query": item["query"], "choices": choices, "gold": choices.index(item["answer"])}
    if name == "gsm8k_exact":
        return {"question": item["query"], "answer": item["response"]}
    return {"query": item["query"], "answer": item["answer"]}


def _flat(found: Mapping[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for task, metrics in found["results"].items():
        named = {key: value for key, value in metrics.items() if isinstance(value, (int, float)) and "," in key}
        for key, value in named.items():
            metric, _, filtered = key.partition(",")
            if not metric.endswith("_stderr"):
                alone = sum(other.startswith(f"{metric},") for other in named) == 1
                flat[f"{task}/{metric}" if alone else f"{task}/{metric}/{filtered}"] = float(value)
        counts = found.get("n-samples", {}).get(task)
        if counts:
            flat[f"{task}/n"] = float(counts["effective"])
    return flat


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """The harness seeds every generator it knows; give the caller's states back."""
    python, legacy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep progress bars and notices of the harness off the terminal; errors are raised, not printed."""
    from repro.data.cache import quiet

    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with quiet(), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
