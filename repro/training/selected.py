"""Training with the weights of the best validation kept, which is what is then tested."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from repro.data.base import Batch
from repro.runner.outcome import Context, Outcome
from repro.training.fit import batch_loss, train_on
from repro.training.loop import Optimisation


class Selected(NamedTuple):
    """An outcome with curves, profile and data, without metrics; the best validation, and its step."""

    outcome: Outcome
    validation: dict[str, float]
    step: int


def fit_selected(
    model: nn.Module,
    data: Any,
    optimisation: Optimisation,
    context: Context,
    *,
    batch: int,
    evaluations: int,
    validate: Callable[[nn.Module], dict[str, float]],
    worth: Callable[[dict[str, float]], float] = lambda found: -found["loss"],
    dtype: str = "float32",
    loss: Callable[[nn.Module, Batch], tuple[Tensor, Tensor | None]] = batch_loss,
) -> Selected:
    """Train a model, already initialised, in the data order of the run's seed; leave it with its best weights.

    Args:
        data: has ``train_order``, ``rows`` and ``describe``.
        batch: training rows of a step.
        evaluations, dtype: as in `repro.training.loop.train`.
        validate: measures the model; holds ``loss``. Never read test data here.
        worth: of what ``validate`` found; the highest is kept, the first of equals.
        loss: (model, batch) to (loss, auxiliary loss or None).
    """
    best: tuple[float, int, dict[str, Tensor]] = (-math.inf, -1, {})
    seen = 0

    def measure() -> dict[str, float]:
        nonlocal best, seen
        found = validate(model)
        if not best[2] or worth(found) > best[0]:
            value = worth(found)
            weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            best = (value if math.isfinite(value) else -math.inf, seen, weights)
        seen += 1
        return found

    trained, outcome = train_on(
        model, data, optimisation, context, measure, batch=batch, evaluations=evaluations, dtype=dtype, loss=loss
    )
    with torch.no_grad():
        model.load_state_dict(best[2])
    return Selected(outcome, trained.evaluations[best[1]], trained.steps[best[1]])
