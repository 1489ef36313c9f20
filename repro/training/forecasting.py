"""From a fresh model of series to an outcome: the frame of experiments that train forecasters under a seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repro.data.series import SeriesBatch, SeriesData
from repro.models.moe import Experts, TopKRouter
from repro.profiling.counts import count_parameters, count_step
from repro.profiling.memory import saved_bytes, training_bytes
from repro.runner.outcome import Context
from repro.training.initial import generator
from repro.training.loop import Optimisation, Trained, train

#: Rows that the profile is counted on.
PROFILED_ROWS = 16

Loss = Callable[[nn.Module, SeriesBatch], tuple[Tensor, Tensor | None]]


class FittedSeries(NamedTuple):
    """What training left; the model has its last weights."""

    trained: Trained
    profile: dict[str, float]


@torch.no_grad()
def uniform_start(model: nn.Module, seed: int) -> nn.Module:
    """Draw all weights anew, in place: matrices and biases of linear layers U(-b, b) with ``b = 1 / sqrt(inputs)``,
    torch's default, experts likewise, one by one; norms 1 and other vectors 0.

    Every tensor has a generator of its own, seeded by ``seed`` and its name, so that models that share a name and a
    shape start alike.
    """
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"initial {path}.{name}"
            if isinstance(module, Experts):
                for expert in range(module.count):
                    parameter[expert].copy_(_uniform(parameter[expert], parameter.shape[-1], f"{full} {expert}", seed))
            elif isinstance(module, nn.Linear):
                parameter.copy_(_uniform(parameter, module.in_features, full, seed))
            elif isinstance(module, TopKRouter):
                parameter.copy_(_uniform(parameter, parameter.shape[1], full, seed))
            else:
                parameter.fill_(1.0 if name == "weight" and parameter.dim() == 1 else 0.0)
    return model


def _uniform(like: Tensor, inputs: int, name: str, seed: int) -> Tensor:
    bound = inputs**-0.5
    return torch.empty(like.shape).uniform_(-bound, bound, generator=generator(name, seed))


def fit_series(
    model: nn.Module,
    data: SeriesData,
    optimisation: Optimisation,
    context: Context,
    loss: Loss,
    *,
    batch: int,
    tokens_per_row: int,
    evaluate: Callable[[], dict[str, float]],
    evaluations: int = 10,
    dtype: str = "float32",
) -> FittedSeries:
    """Train a model, already initialised and on the device, in the data order of the run's seed.

    Args:
        loss: (model, batch) to (loss, auxiliary loss or None).
        batch: rows of a step.
        tokens_per_row: tokens that the model reads of a row, for the profile.
        evaluate, evaluations, dtype: as in `repro.training.loop.train`.
    """
    order = data.train_order(optimisation.steps, batch, context.seed)
    sample = data.rows(order[0, : min(batch, PROFILED_ROWS)]).to(context.device)
    profile = profile_series(model, lambda: loss(model, sample), len(sample.values), tokens_per_row, order.numel())
    trained = train(
        model, (data.rows(rows).to(context.device) for rows in order), lambda b: loss(model, b), evaluate, optimisation,
        evaluations=evaluations, dtype=dtype, progress=context.progress,
    )  # fmt: skip
    profile |= {"train_s": trained.train_s, "tokens_per_s": profile["train_tokens"] / max(trained.train_s, 1e-9)}
    return FittedSeries(trained, profile)


def profile_series(
    model: nn.Module, loss: Callable[[], tuple[Tensor, Tensor | None]], rows: int, tokens_per_row: int, trained: int
) -> dict[str, float]:
    """What fairness is audited on, counted on the model itself before training: parameters, ``train_tokens``,
    ``train_flops``, ``forward_flops_per_token``, ``activation_bytes_per_token``, ``state_bytes``.

    Args:
        rows: of the batch that ``loss`` is of. trained: rows that the whole training reads.
    """

    def total() -> Tensor:
        own, auxiliary = loss()
        return own if auxiliary is None else own + auxiliary

    model.train()
    forward, step = count_step(model, total)
    counted = count_parameters(model)
    tokens = rows * tokens_per_row
    return counted | {
        "train_tokens": float(trained * tokens_per_row),
        "train_flops": step / tokens * trained * tokens_per_row,
        "forward_flops_per_token": forward / tokens,
        "activation_bytes_per_token": saved_bytes(model, total) / tokens,
        "state_bytes": training_bytes(counted["params_trainable"]),
    }
