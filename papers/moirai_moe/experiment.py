"""The arms of Moirai-MoE: train a forecaster on series of several frequencies, forecast series that are known in kind
and such that are not, and look at which experts tokens go to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from papers.moirai_moe import method
from papers.moirai_moe.analysis import cluster_agreement, forecast_pictures, routing_scores
from papers.moirai_moe.paper import Config
from papers.moirai_moe.pretrained import dense_part, fit_forecaster, scale_of
from repro.data.base import fingerprint, order_seed
from repro.data.bundled_series import bundled_windows, ett_windows
from repro.data.registry import load_series
from repro.data.series import SeriesData, Windows
from repro.evaluation.forecasts import cell_scores, relative_scores
from repro.models.forecasting import PatchDecoder
from repro.runner import Context, Outcome
from repro.training.checkpoints import Checkpoint, obtain
from repro.training.forecasting import uniform_start
from repro.training.initial import generator


def run(config: Config, context: Context) -> Outcome:
    """Train one arm, or take the dense model that other arms need too, and measure it. Raises MissingData for real data
    that is not at hand."""
    real = ett_windows(config.past, config.horizon, patch=config.patch) if config.target == "ett" else None
    data = load(config, context.seed)
    base: Checkpoint | None
    if config.gating == "none" and not config.by_label:
        (base,) = obtain([dense_part(config, data, context, config.lr)], progress=_waiting(context))
        model = _dense(config, base)
        outcome = Outcome(
            curves=base.card["curves"], profile=dict(base.card["profile"]), diverged=bool(base.card["diverged"])
        )
        outcome.metrics["loss"] = base.card["loss"]
        outcome.profile["total_tokens"] = outcome.profile["train_tokens"]
    else:
        model, base = build(config, data, context)
        found = fit_forecaster(config, data, context, model.to(context.device))
        outcome = Outcome(curves=found.trained.curves(), profile=found.profile, diverged=found.trained.diverged)
        outcome.metrics["loss"] = found.trained.evaluations[-1]["loss"]
        spent = found.profile["train_tokens"]
        outcome.profile["total_tokens"] = spent + (base.card["profile"]["train_tokens"] if base else 0.0)
    outcome.data = data.describe()
    if outcome.diverged:
        return outcome
    model.to(context.device).eval()
    measure(config, model, data, real, context, outcome)
    if config.gating != "none":
        scaled = scale_of(data.test)
        metrics, outcome.tables["experts"] = routing_scores(model, scaled, data.test.labels, context)
        outcome.metrics |= metrics
        if base is not None:
            agreement = cluster_agreement(model, _dense(config, base).to(context.device), scaled, context)
            outcome.metrics["cluster_agreement"] = sum(agreement) / len(agreement)
            outcome.tables["experts"]["cluster_agreement"] = [round(a, 2) for a in agreement]
    return outcome


def load(config: Config, seed: int) -> SeriesData:
    """The corpus of a run, which belongs to its seed."""
    return load_series(
        config.data, seed=seed, kind=config.kind, train=config.train, test=config.test, unseen=config.unseen,
        past=config.past, horizon=config.horizon,
    )  # fmt: skip


def build(config: Config, data: SeriesData, context: Context) -> tuple[PatchDecoder, Checkpoint | None]:
    """A fresh model with the weights of the seed, and the dense model that its centroids are from. Raises ValueError
    for an unknown gating."""
    shape = (config.patch, config.hidden, config.heads)
    base: Checkpoint | None = None
    if config.gating == "none":
        labels = len(data.seasons) if config.by_label else 0
        model = method.dense(*shape, config.width, config.layers, labels=labels, head=config.head)
    elif config.gating == "linear":
        model = method.linear_moe(
            *shape, config.width // config.k, config.layers, config.experts, k=config.k, balance=config.balance,
            head=config.head,
        )  # fmt: skip
    elif config.gating in ("cluster", "random"):
        (base,) = obtain([dense_part(config, data, context, config.base_lr)], progress=_waiting(context))
        model = method.moirai_moe(
            *shape, config.width // config.k, centroids(config, _dense(config, base), data, context.seed), k=config.k,
            affinity=config.affinity, head=config.head,
        )  # fmt: skip
    else:
        raise ValueError(f"gating is none, linear, cluster or random, not {config.gating!r}")
    uniform_start(model, context.seed)
    return model, base


def centroids(config: Config, model: PatchDecoder, data: SeriesData, seed: int) -> list[Tensor]:
    """Of every layer, from the tokens of some training series in the dense model."""
    rows = torch.randperm(len(data.train), generator=generator("series to cluster", seed))[: config.cluster_rows]
    values = data.train[rows, : config.past + config.horizon - config.patch]
    known = round(0.3 * values.shape[1] / config.patch) * config.patch
    z = scale_of_values(values, known).unflatten(1, (-1, config.patch))
    tokens = method.token_representations(model, z)
    if config.gating == "random":
        return [
            method.random_centroids(t, config.experts, generator(f"centroids {i}", seed)) for i, t in enumerate(tokens)
        ]
    return [method.cluster_centroids(t, config.experts, order_seed(f"k-means {i}", seed)) for i, t in enumerate(tokens)]


def scale_of_values(values: Tensor, known: int) -> Tensor:
    """Values [B, T] in units of their first ``known`` steps."""
    beginning = values[:, :known]
    loc, scale = method.standardise(beginning, torch.ones_like(beginning, dtype=torch.bool))
    return (values - loc) / scale


def measure(
    config: Config, model: PatchDecoder, data: SeriesData, real: Windows | None, context: Context, outcome: Outcome
) -> None:
    """Forecast all sets of windows; scores are relative to the seasonal naive forecast."""
    sets: dict[str, Windows | None] = {
        "": data.test, "unseen": data.unseen, "bundled": bundled_windows(config.past, patch=config.patch), "ett": real,
    }  # fmt: skip
    cells: dict[str, Any] = {}
    marks: dict[str, str] = {}
    for name, windows in sets.items():
        if windows is None:
            continue
        samples = model.sample(
            windows.past.to(context.device), windows.future.shape[1], config.samples,
            order_seed(f"forecasts {name}", context.seed), windows.labels.to(context.device), config.rows,
        ).cpu()  # fmt: skip
        for score, value in relative_scores(windows, samples).items():
            outcome.metrics[f"{name}_{score}" if name else score] = value
        cells |= {
            f"{name} {cell}".strip(): {k: round(v, 4) for k, v in found.items()}
            for cell, found in cell_scores(windows, samples).items()
        }
        marks[name or "test"] = fingerprint(*windows.parts())
        if config.pictures and context.seed == 0:
            outcome.pictures |= forecast_pictures(name or "test", windows, samples)
    outcome.tables["cells"] = cells
    outcome.data["forecast"] = marks


def _dense(config: Config, base: Checkpoint) -> PatchDecoder:
    model = method.dense(config.patch, config.hidden, config.heads, config.width, config.layers, head=config.head)
    model.load_state_dict(base.state)
    return model.eval()


def _waiting(context: Context) -> Any:
    return lambda done, of: context.progress(done, of, None)
