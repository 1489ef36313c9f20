"""The dense model that token clusters are taken from: trained once for a seed, and an arm of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from papers.moirai_moe import method
from papers.moirai_moe.paper import Config
from repro.data.series import SeriesBatch, SeriesData, Windows
from repro.models.forecasting import PatchDecoder
from repro.runner.outcome import Context
from repro.training.checkpoints import Built, Part
from repro.training.forecasting import FittedSeries, fit_series, uniform_start
from repro.training.loop import Optimisation

#: What decides the dense model, besides the learning rate and the seed.
DECIDES = (
    "data", "kind", "train", "test", "unseen", "past", "horizon", "patch", "hidden", "heads", "width", "layers",
    "head", "steps", "batch", "warmup", "schedule", "weight_decay", "clip", "known", "evaluations", "dtype",
)  # fmt: skip


def dense_part(config: Config, data: SeriesData, context: Context, lr: float) -> Part:
    """The dense model with one projection, trained at a learning rate; its card holds curves and profile."""

    def build() -> Built:
        model = method.dense(config.patch, config.hidden, config.heads, config.width, config.layers, head=config.head)
        uniform_start(model, context.seed)
        found = fit_forecaster(config, data, context, model.to(context.device), lr=lr)
        card: dict[str, Any] = {
            "curves": found.trained.curves(),
            "profile": found.profile,
            "diverged": found.trained.diverged,
            "loss": found.trained.evaluations[-1]["loss"],
        }
        return Built(model.state_dict(), card)

    identity = {name: getattr(config, name) for name in DECIDES} | {"lr": lr, "seed": context.seed}
    return Part("dense-forecaster", identity | {"device": context.device}, build, "papers.moirai_moe.pretrained")


def fit_forecaster(
    config: Config, data: SeriesData, context: Context, model: PatchDecoder, lr: float | None = None
) -> FittedSeries:
    """Train on the next patch; evaluated on the horizon of the test windows, in nats a step, each patch given the true
    ones before it and all scaled by the past."""
    steps = round(config.steps * config.length) if lr is None else config.steps
    optimisation = Optimisation(
        lr or config.lr, steps, config.warmup, config.schedule, (0.9, 0.98), config.weight_decay, config.clip
    )
    values = torch.cat((data.test.past, data.test.future), 1).to(context.device)
    labels = data.test.labels.to(context.device)

    def loss(_: Any, batch: SeriesBatch) -> tuple[Tensor, Tensor | None]:
        return method.next_patch_loss(model, batch.values, batch.labels, config.known)

    def evaluate() -> dict[str, float]:
        return {"loss": float(method.scaled_loss(model, values, config.past // config.patch, labels)[0])}

    return fit_series(
        model, data, optimisation, context, loss, batch=config.batch, evaluate=evaluate,
        tokens_per_row=(config.past + config.horizon) // config.patch - 1, evaluations=config.evaluations,
        dtype=config.dtype,
    )  # fmt: skip


def scale_of(windows: Windows) -> Tensor:
    """Past and future of windows without gaps, in units of the past: [N, C + H]."""
    loc, scale = method.standardise(windows.past, ~windows.past.isnan())
    return (torch.cat((windows.past, windows.future), 1) - loc) / scale
