"""Evaluation: held-out loss, and the bridge to lm-evaluation-harness. Importing this package imports no torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repro.evaluation.lm_eval import HUB_TASKS, LOCAL_TASKS, evaluate_with_lm_eval, tasks_for, zero_shot
    from repro.evaluation.loss import held_out_loss

_WHERE = {
    "HUB_TASKS": "lm_eval",
    "LOCAL_TASKS": "lm_eval",
    "evaluate_with_lm_eval": "lm_eval",
    "held_out_loss": "loss",
    "tasks_for": "lm_eval",
    "zero_shot": "lm_eval",
}
__all__ = ["HUB_TASKS", "LOCAL_TASKS", "evaluate_with_lm_eval", "held_out_loss", "tasks_for", "zero_shot"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"repro.evaluation.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'repro.evaluation' has no attribute {name!r}")
