"""From a fresh model to an outcome: the frame of every experiment that trains on data under a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.base import IGNORED, Batch, LanguageData, TupleData
from repro.evaluation.loss import held_out_loss
from repro.profiling.counts import count_parameters, count_step
from repro.profiling.memory import saved_bytes, training_bytes
from repro.runner.outcome import Context, Outcome
from repro.training.loop import Optimisation, Trained, train

#: Rows that the profile is counted on.
PROFILED_ROWS = 64


class Fitted(NamedTuple):
    """What training left: the outcome so far, and the held-out batches for further analysis."""

    outcome: Outcome
    held_out: list[Batch]


def predict(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits and auxiliary loss of a causal language model of transformers, or of a module that returns the two."""
    found = model(input_ids=inputs, use_cache=False) if hasattr(model, "generate") else model(inputs)
    return (found.logits, getattr(found, "aux_loss", None)) if hasattr(found, "logits") else found


def batch_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Cross-entropy in nats per target that counts, and the auxiliary loss."""
    logits, auxiliary = predict(model, batch.inputs)
    return F.cross_entropy(logits.flatten(0, -2).float(), batch.targets.flatten(), ignore_index=IGNORED), auxiliary


def evaluate(model: nn.Module, batches: list[Batch]) -> dict[str, float]:
    """``loss`` (nats per token) and ``accuracy``; where answers are marked ``answer_loss``, and accuracy is on them."""
    found = held_out_loss(lambda inputs: predict(model, inputs)[0], batches)
    out = {"loss": found["loss"]}
    if "answer_loss" in found:
        out["answer_loss"] = found["answer_loss"]
    out["accuracy"] = found.get("answer_accuracy", found["accuracy"])
    return out


def profile_training(
    model: nn.Module, loss: Callable[[Batch], tuple[Tensor, Tensor | None]], sample: Batch, rows: int
) -> dict[str, float]:
    """What fairness is audited on, counted on the model itself before training.

    Args:
        loss: a batch to (loss, auxiliary loss or None).
        sample: some rows, on the model's device.
        rows: how many the whole training reads.

    Returns:
        parameters (`repro.profiling.counts.count_parameters`), ``train_tokens``, ``train_flops``,
        ``forward_flops_per_token``, ``activation_bytes_per_token`` and ``state_bytes``. Padding counts as tokens: it is
        computed on.
    """
    positions = sample.targets.numel()
    tokens = float(rows * (positions // len(sample.targets)))
    forward, step = count_step(model, lambda: sum(x for x in loss(sample) if x is not None))  # type: ignore[arg-type, return-value]
    counted = count_parameters(model)
    return counted | {
        "train_tokens": tokens,
        "train_flops": step / positions * tokens,
        "forward_flops_per_token": forward / positions,
        "activation_bytes_per_token": saved_bytes(model, lambda: loss(sample)[0]) / positions,
        "state_bytes": training_bytes(counted["params_trainable"]),
    }


def train_on(
    model: nn.Module,
    data: Any,
    optimisation: Optimisation,
    context: Context,
    measure: Callable[[], dict[str, float]],
    *,
    batch: int,
    loss: Callable[[nn.Module, Batch], tuple[Tensor, Tensor | None]] = batch_loss,
    **loop: Any,
) -> tuple[Trained, Outcome]:
    """Profile a model and train it in the data order that the run's seed gives.

    Args:
        data: has ``train_order``, ``rows`` and ``describe``.
        measure: called at every evaluation; holds ``loss``.
        batch: training rows of a batch.
        loss: (model, batch) to (loss, auxiliary loss or None).
        loop: as in `repro.training.loop.train`; progress, engine and keep are those of the context.

    Returns:
        What training left, and an outcome with curves, profile and data, without metrics.
    """
    needed = optimisation.steps * loop.get("accumulate", 1)
    order = data.train_order(max(1, needed), batch, context.seed)  # the profile reads a row even where no step does
    sample = data.rows(order[0, : min(batch, PROFILED_ROWS)]).to(context.device)
    profile = profile_training(model, lambda b: loss(model, b), sample, order.numel() if needed else 0)
    batches: Iterator[Batch] = (data.rows(rows).to(context.device) for rows in order)
    own = {"progress": context.progress, "engine": context.engine, "keep": context.keep}
    trained = train(model, batches, lambda b: loss(model, b), measure, optimisation, **(own | loop))
    profile |= {"train_s": trained.train_s, "tokens_per_s": profile["train_tokens"] / max(trained.train_s, 1e-9)}
    return trained, Outcome(curves=trained.curves(), profile=profile, data=data.describe(), diverged=trained.diverged)


def fit(
    model: nn.Module,
    data: LanguageData | TupleData,
    optimisation: Optimisation,
    context: Context,
    *,
    batch: int,
    eval_batches: int,
    evaluations: int,
    average_last: int = 1,
    dtype: str = "float32",
    loss: Callable[[nn.Module, Batch], tuple[Tensor, Tensor | None]] = batch_loss,
    **loop: Any,
) -> Fitted:
    """Train a model, already initialised, on a data set in the order that the run's seed gives; measure it.

    Args:
        batch: rows of a batch, in training and evaluation.
        eval_batches: held-out batches, the same for every arm and seed.
        evaluations, dtype, loop: as in `repro.training.loop.train`; engine and keep are those of the context.
        average_last: final metrics are the mean over so many last evaluations.
        loss: (model, batch) to (loss, auxiliary loss or None).

    Returns:
        An outcome with curves, profile and the metrics of `evaluate`, ``final_loss`` being that of the last evaluation
        alone.
    """
    held_out = [b.to(context.device) for b in data.held_out_batches(eval_batches, batch)]
    trained, outcome = train_on(
        model, data, optimisation, context, lambda: evaluate(model, held_out), batch=batch, evaluations=evaluations,
        dtype=dtype, loss=loss, **loop,
    )  # fmt: skip
    last = trained.evaluations[-1]
    outcome.metrics = {name: trained.mean_of_last(name, average_last) for name in last}
    outcome.metrics["final_loss"] = last["loss"]
    return Fitted(outcome, held_out)
