"""Which experts tokens go to, by layer and frequency; and pictures of forecasts."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from papers.moirai_moe.method import moe_layers, token_representations
from repro.data.series import SEASONS, Windows
from repro.evaluation.forecasts import sample_quantiles
from repro.evaluation.pictures import chart
from repro.models.forecasting import PatchDecoder
from repro.models.moe import Routing, usage, usage_entropy
from repro.runner.outcome import Context, Picture
from repro.training.initial import generator

#: Cells whose first window is drawn, by set of windows.
DRAWN = {
    "test": ("sine 24", "square 96"),
    "unseen": ("bumps 12",),
    "bundled": ("sunspots", "co2"),
    "ett": ("ETTh1",),
}


@torch.no_grad()
def routes(model: PatchDecoder, z: Tensor, labels: Tensor) -> list[Tensor]:
    """Selected experts of every layer, LongTensor [B, N, K], for scaled patches ``z`` [B, N, P]."""
    found: list[Tensor] = []

    def keep(_module: object, _args: object, routing: Routing) -> None:
        found.append(routing.indices.unflatten(0, z.shape[:2]))

    with ExitStack() as hooks:
        for layer in moe_layers(model):
            hooks.enter_context(layer.router.register_forward_hook(keep))
        model(z, labels)
    return found


def label_distance(indices: Tensor, labels: Tensor, experts: int) -> float:
    """Mean total variation, over pairs of labels, between how they use the experts: 0 if alike, 1 if disjoint.

    Args:
        indices: [B, N, K]. labels: [B].
    """
    shares = [usage(indices[labels == label], experts) for label in labels.unique()]
    pairs = [(a - b).abs().sum() / 2 for i, a in enumerate(shares) for b in shares[:i]]
    return float(torch.stack(pairs).mean())


def routing_scores(
    model: PatchDecoder, scaled: Tensor, labels: Tensor, context: Context
) -> tuple[dict[str, float], dict[str, Any]]:
    """How experts are used on series [N, T] in units of their past.

    Returns:
        Of the first and the last layer the entropy of usage (1: all experts alike) and the distance between labels;
        ``label_convergence``, how much smaller the latter is in the last layer; ``label_excess``, the distance in the
        first layer beyond that of shuffled labels. Tables: shares by layer, label and expert.
    """
    z = scaled.unflatten(1, (-1, model.patch))[:, :-1].to(context.device)
    which = routes(model, z, labels.to(context.device))
    count = moe_layers(model)[0].experts.count
    shuffled = labels[torch.randperm(len(labels), generator=generator("shuffled labels", context.seed))]
    distances = [label_distance(i.cpu(), labels, count) for i in which]
    chance = [label_distance(i.cpu(), shuffled, count) for i in which]
    metrics = {
        "usage_entropy_first": usage_entropy(which[0].cpu(), count),
        "usage_entropy_last": usage_entropy(which[-1].cpu(), count),
        "usage_narrowing": usage_entropy(which[0].cpu(), count) - usage_entropy(which[-1].cpu(), count),
        "label_distance_first": distances[0],
        "label_distance_last": distances[-1],
        "label_convergence": distances[0] - distances[-1],
        "label_excess": distances[0] - chance[0],
    }
    tables = {
        f"layer {number}": {
            f"season {SEASONS[label]}": [round(s, 4) for s in usage(i.cpu()[labels == label], count).tolist()]
            for label in labels.unique().tolist()
        }
        for number, i in enumerate(which, 1)
    }
    return metrics, {"shares": tables, "label_distance": distances, "label_distance_shuffled": chance}


@torch.no_grad()
def cluster_agreement(model: PatchDecoder, dense: PatchDecoder, scaled: Tensor, context: Context) -> list[float]:
    """Normalised mutual information, percent, between the expert that weighs most for a token and the cluster that the
    same token has in the dense model, by layer: do the clusters mean anything in the model that is routed by them?"""
    from sklearn.metrics import normalized_mutual_info_score

    z = scaled.unflatten(1, (-1, model.patch))[:, :-1].to(context.device)
    labels = torch.zeros(len(z), dtype=torch.long, device=z.device)
    out = []
    for layer, chosen, tokens in zip(
        moe_layers(model), routes(model, z, labels), token_representations(dense, z), strict=True
    ):
        router: Any = layer.router
        cluster = torch.cdist(tokens, router.centroids.to(tokens.dtype)).argmin(1)
        out.append(100 * normalized_mutual_info_score(cluster.cpu(), chosen[..., 0].flatten().cpu()))
    return out


def forecast_pictures(name: str, windows: Windows, samples: Tensor) -> dict[str, Picture]:
    """Forecasts of some windows: the end of the past, what came, the median, and the band of 80 %.

    Args:
        samples: [N, S, H].
    """
    out = {}
    for cell in DRAWN.get(name, ()):
        if cell not in windows.cells:
            continue
        rows = (windows.cell == windows.cells.index(cell)).nonzero().ravel().tolist()
        if not rows:
            continue
        row = rows[0]
        low, median, high = (q[row].tolist() for q in sample_quantiles(samples, (0.1, 0.5, 0.9)))
        future = windows.future[row].tolist()
        past = [v for v in windows.past[row].tolist() if v == v][-2 * len(future) - 32 :]
        ahead = list(range(1, len(future) + 1))
        out[f"{name} {cell}"] = chart(
            {
                "observed": {"x": list(range(1 - len(past), 1)) + ahead, "y": _rounded(past + future)},
                "median and 80 %": {
                    "x": ahead, "y": _rounded(median), "low": _rounded(low), "high": _rounded(high)
                },
            },
            "steps ahead", "value", f"Forecast of a series of {cell} ({name}), with what came.",
        )  # fmt: skip
    return out


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{v:.4g}") for v in values]
