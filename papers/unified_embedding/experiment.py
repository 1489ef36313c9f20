"""What is measured: click prediction under tables of every kind and size, and angles in single-layer models."""

from __future__ import annotations

from typing import Any

import torch
from scipy.stats import spearmanr
from torch import nn

from papers.unified_embedding.method import (
    Collisions,
    SingleLayer,
    UnifiedEmbedding,
    codes_of_values,
    expected_collisions,
    measured_collisions,
    pairwise_angles,
)
from papers.unified_embedding.paper import Config
from repro.data import clicks, token_kinds  # noqa: F401  hashed with the run
from repro.data.base import order_seed
from repro.data.clicks import ClickData
from repro.data.registry import load_clicks
from repro.evaluation.clicks import evaluate_clicks
from repro.evaluation.scaling import power_law
from repro.models.dcn import DCNV2, ClickModel, initialise_clicks
from repro.models.feature_tables import FeatureTables, proportional_rows
from repro.runner import Context, Outcome
from repro.training.loop import Optimisation
from repro.training.selected import Selected, fit_selected

#: Rows of a batch in evaluation.
EVALUATED = 4096


def run(config: Config, context: Context) -> Outcome:
    """One run of the kind that the configuration names. Raises ValueError for another kind."""
    if config.kind not in ("score", "angles"):
        raise ValueError(f"kind is score or angles, not {config.kind!r}")
    return (score if config.kind == "score" else angles)(config, data_of(config, context), context)


def data_of(config: Config, context: Context) -> ClickData:
    """Generated data are drawn, and the bundled ones split, under the run's seed; real ones are split once."""
    options: dict[str, Any] = {}
    if config.rows:
        small = config.rows // 4
        options["rows"] = config.rows if config.data == "token-kinds" else (config.rows, small, small)
    real = config.data in ("movielens", "avazu", "criteo")
    return load_clicks(config.data, seed=0 if real else context.seed, **options)


def rows_of(config: Config, data: ClickData, budget: float) -> int:
    """Rows of all tables together at a budget in percent; every feature has one at least."""
    return max(len(data.sizes), round(data.vocab_size * budget / 100))


def embedding_of(config: Config, data: ClickData, budget: float, seed: int) -> nn.Module:
    """The tables of an arm. Raises ValueError for an unknown kind, or a width that chunks do not divide."""
    functions = order_seed("hash functions", seed) % 2**31
    rows = rows_of(config, data, budget)
    if config.table == "whole":
        return FeatureTables(data.sizes, config.dim)
    if config.table == "split":
        split = proportional_rows(data.sizes, rows, config.whole_up_to)
        return FeatureTables(data.sizes, config.dim, split, seed=functions)
    if config.table != "multiplex" or config.dim % config.chunks:
        raise ValueError(f"no table {config.table!r} of width {config.dim} in {config.chunks} chunks")
    return UnifiedEmbedding(
        [config.chunks] * len(data.sizes), config.chunks * rows, config.dim // config.chunks, seed=functions,
        salted=config.salted,
    )  # fmt: skip


def model_of(config: Config, data: ClickData, budget: float, seed: int, head: str) -> ClickModel:
    """Tables and the layers above, initialised. Raises ValueError for an unknown head."""
    embedding = embedding_of(config, data, budget, seed)
    features, width = len(data.sizes), len(data.sizes) * config.dim
    if head not in ("dcn", "single", "parallel"):
        raise ValueError(f"head is dcn, single or parallel, not {head!r}")
    above: nn.Module
    if head == "dcn":
        above = DCNV2(width + data.dense, config.cross, [int(h) for h in config.hidden.split(",")])
    else:
        above = SingleLayer(features, config.dim, order_seed("theta", seed), parallel=head == "parallel")
    model = ClickModel(embedding, above, features)
    initialise_clicks(model, seed)
    return model


def fitted(
    config: Config, model: ClickModel, data: ClickData, context: Context, steps: int, lr: float, evaluations: int
) -> Selected:
    """The model, trained with Adam, with the weights of its best AUC on validation rows."""
    validation = [batch.to(context.device) for batch in data.validation.batches(EVALUATED)]
    optimisation = Optimisation(lr, steps, warmup=0.0, betas=(0.9, 0.999), weight_decay=0.0, clip=0.0)
    return fit_selected(
        model.to(context.device), data, optimisation, context, batch=config.batch, evaluations=evaluations,
        validate=lambda m: evaluate_clicks(m, validation), worth=lambda found: found["auc"],
    )  # fmt: skip


def tested(model: ClickModel, data: ClickData, context: Context) -> dict[str, float]:
    """`evaluate_clicks` on all test rows, and the error."""
    found = evaluate_clicks(model, (batch.to(context.device) for batch in data.test.batches(EVALUATED)))
    return {"error": 100 - found["auc"], **found}


@torch.no_grad()
def row_norm2(model: ClickModel, data: ClickData) -> float:
    """Squared norm of the rows that training rows use, mean."""
    device = next(model.parameters()).device
    used = torch.cat([
        model.embedding.codes(part.long().to(device)).unique() for part in data.train.ids.split(1 << 16)  # type: ignore[operator]
    ]).unique()  # fmt: skip
    weight: Any = model.embedding.embedding
    return float(weight.weight[used].square().sum(-1).mean())


def score(config: Config, data: ClickData, context: Context) -> Outcome:
    """Train one model and test it; count its collisions."""
    model = model_of(config, data, config.budget, context.seed, config.head)
    found = fitted(config, model, data, context, config.steps, config.lr, config.evaluations)
    outcome = found.outcome
    outcome.metrics = tested(model, data, context) | {
        "validation_auc": found.validation["auc"],
        "best_step": float(found.step),
        "row_norm2": row_norm2(model, data),
    }
    if "best_auc" in data.details:
        outcome.metrics["best_auc"] = data.details["best_auc"]
    if isinstance(model.head, SingleLayer):
        outcome.metrics["angle"] = float(pairwise_angles(model.head.theta).mean())
    if config.chunks == 1:
        counted = measured_collisions([codes.cpu() for codes in codes_of_values(model.embedding, data.sizes)])
        outcome.metrics |= collisions(counted, config, data)
        outcome.tables["collisions"] = {
            "feature": list(data.features), "values": list(data.sizes),
            "intra": counted.intra.tolist(), "inter": counted.inter.tolist(),
        }  # fmt: skip
    return outcome


def collisions(counted: Collisions, config: Config, data: ClickData) -> dict[str, float]:
    """Means over all values, and the first over its expectation."""
    rows = rows_of(config, data, config.budget)
    tables: int | list[int | None] = rows
    if config.table == "whole":
        tables = [None] * len(data.sizes)
    elif config.table == "split":
        tables = proportional_rows(data.sizes, rows, config.whole_up_to)
    share = torch.tensor(data.sizes, dtype=torch.float64) / data.vocab_size
    intra = float(counted.intra @ share)
    expected = float(expected_collisions(data.sizes, tables).intra @ share)
    return {
        "intra": intra,
        "inter": float(counted.inter @ share),
        "intra_ratio": intra / expected if expected else 1.0,
    }


def angles(config: Config, data: ClickData, context: Context) -> Outcome:
    """Single-layer models from parallel weights, over table sizes: how far the weights turn, how long rows grow."""
    budgets = sorted((float(b) for b in config.budgets.split(",")), reverse=True)
    turned, norms, scores = [], [], []
    outcome = Outcome()
    for done, budget in enumerate(budgets):
        model = model_of(config, data, budget, context.seed, "single")
        found = fitted(config, model, data, context, config.angle_steps, config.angle_lr, 1)
        turned.append(float(pairwise_angles(model.head.theta).mean()))  # type: ignore[arg-type]
        norms.append(row_norm2(model, data))
        scores.append(tested(model, data, context))
        outcome.diverged |= found.outcome.diverged
        outcome.data = found.outcome.data
        for name, value in found.outcome.profile.items():
            total = name.startswith("train_")
            outcome.profile[name] = outcome.profile.get(name, 0.0) + value if total else max(
                outcome.profile.get(name, 0.0), value
            )  # fmt: skip
        context.progress(done + 1, len(budgets), None)
    outcome.metrics = scores[-1] | {
        "angle_rank": float(spearmanr(budgets, turned).statistic),
        "angle_smallest": turned[-1],
        "angle_largest": turned[0],
        "norm_exponent": power_law([100 / b for b in budgets], norms).exponent,
        "row_norm2": norms[-1],
    }
    for name, values in (("angle", turned), ("row_norm2", norms), ("auc", [s["auc"] for s in scores])):
        outcome.curves[f"{name}_by_rows"] = {"x": budgets, "y": values, "of": "rows, percent of values"}
    return outcome
