"""The arms of layer-wise quantisation: take a pretrained model, give its blocks bits in one order, measure the loss."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from papers.layerwise_quant.method import (
    allocate,
    at_random,
    average_bits,
    block_weights,
    by_lim,
    by_zd,
    dynamic,
    lim,
    reverse,
    zd,
)
from papers.layerwise_quant.paper import RECIPES, Config, moved_counts
from repro.data.base import Batch
from repro.evaluation.loss import held_out_loss
from repro.models.blocks import decoder_blocks, without_blocks
from repro.models.quantise import FULL, Bank, BlockBits, Quantiser
from repro.runner import Context, Outcome
from repro.zoo.build import unigram_loss
from repro.zoo.subject import Subject, calibration, study

#: Share of the loss with all blocks moved up to which a model counts as close to the original, percent.
CLOSE = 20.0
#: Percent of the blocks at which depths are compared, and of the bytes saved at which quantising and dropping are.
COMPARED = (20, 40, 60, 80)
SAVED = (10, 20, 30, 40)
#: Variance of the share of normal weights above one standard deviation when mean and deviation are the sample's own:
#: p (1 - p) - phi(1)^2 - phi(1)^2 / 2, times 1 / N.
PHI = math.exp(-0.5) / math.sqrt(2 * math.pi)
ABOVE = 0.5 * math.erfc(1 / math.sqrt(2))
ZD_VARIANCE = ABOVE * (1 - ABOVE) - 1.5 * PHI**2


def run(config: Config, context: Context) -> Outcome:
    """Measure one arm on one model: the loss with 10, 20, ... percent of its blocks moved to the lower width."""
    subject = study(config, context, RECIPES)
    model, data = subject.model, subject.data
    depth = len(decoder_blocks(model))
    tokens = calibration(data, config.calibration_rows, config.batch, context)
    batches = [b.to(context.device) for b in data.held_out_batches(config.eval_batches, config.batch)]
    widths = {config.high, config.low}
    if config.treat in ("uniform", "dynamic"):
        widths |= set(range(config.low, config.high + 1))
    quantiser = Quantiser(config.quantiser, config.group)  # type: ignore[arg-type]
    bank = Bank(model, widths, quantiser, tokens, at_once=4 if config.model != "zoo" else 0)
    bench = Bench(config, context, subject, bank, batches, tokens, depth)
    outcome = Outcome(data=subject.describe(), profile=profile(bench))
    full, high, low = (bench.loss([bits] * depth) for bits in (FULL, config.high, config.low))
    bench.base, bench.span = high, low - high
    outcome.metrics = {
        "loss": full,
        "gap": unigram_loss(data, batches) - full,
        "loss_high": high - full,
        "loss_low": low - high,
        "perplexity_high": math.exp(high),
        "perplexity_low": math.exp(low),
    }
    if config.treat == "quantise":
        outcome.metrics |= moved(bench, outcome)
    elif config.treat == "prune":
        outcome.metrics |= pruned(bench, outcome)
    else:
        bits = budgets(bench)
        outcome.metrics |= bench.at(50, bench.loss(bits) - high)
        outcome.profile["weight_bytes_50"] = float(bank.nbytes(bits))
        outcome.tables["bits"] = bits
    if config.analyse:
        outcome.metrics |= analysis(bench, outcome)
    if config.benchmarks and config.treat in ("quantise", "prune"):
        outcome.metrics |= benchmarks(bench)
    return outcome


class Bench:
    """What the measurements of one run share: model, quantised weights, text, and losses found before."""

    def __init__(
        self, config: Config, context: Context, subject: Subject, bank: Bank, batches: list[Batch],
        tokens: list[Tensor], depth: int,
    ):  # fmt: skip
        self.config, self.context, self.subject = config, context, subject
        self.bank, self.batches, self.tokens, self.depth = bank, batches, tokens, depth
        self.base = self.span = math.nan
        self._seen: dict[tuple[int, ...], float] = {}
        self._sensitivity: list[float] = []

    def evaluate(self) -> float:
        """Held-out loss of the model as it is, nats."""
        model = self.subject.model
        return held_out_loss(lambda ids: model(input_ids=ids, use_cache=False).logits, self.batches)["loss"]

    def loss(self, bits: Sequence[BlockBits]) -> float:
        """Held-out loss with these bits, nats."""
        key = tuple(b for b in bits if isinstance(b, int))
        if len(key) == len(bits) and key in self._seen:
            return self._seen[key]
        with self.bank.applied(bits):
            found = self.evaluate()
        if len(key) == len(bits):
            self._seen[key] = found
        self.context.progress(len(self._seen), len(self._seen) + 1, found)
        return found

    def damage(self, order: Sequence[int], k: int) -> float:
        """Loss with the first k of an order moved, minus that with none, nats."""
        return self.loss(allocate(order, k, self.config.high, self.config.low)) - self.base

    def share(self, damage: float) -> float:
        """In percent of the loss with all blocks moved."""
        return 100 * damage / self.span if self.span else math.nan

    def at(self, percent: int, damage: float) -> dict[str, float]:
        """The metrics of one percentage."""
        return {f"damage_{percent}": damage, f"share_{percent}": self.share(damage)}

    def sensitivity(self) -> list[float]:
        """Damage of each block moved alone, nats."""
        if not self._sensitivity:
            self._sensitivity = [
                self.damage([i, *(j for j in range(self.depth) if j != i)], 1) for i in range(self.depth)
            ]
        return self._sensitivity

    def orders(self, name: str, draws: int) -> list[list[int]]:
        """The order of an arm, or its random ones."""
        if name == "lim":
            return [by_lim(lim(self.subject.model, self.tokens))]
        if name == "zd":
            return [by_zd(zd(self.subject.model))]
        if name == "sequential":
            return [list(range(self.depth))]
        if name == "measured":
            return [by_lim(torch.tensor(self.sensitivity(), dtype=torch.float64))]
        if name in ("random", "random-first"):
            draw = random.Random(f"random orders/{self.context.seed}")
            found = [at_random(self.depth, draw) for _ in range(draws)]
            return found if name == "random" else [[*(i for i in one if i), 0] for one in found]
        raise ValueError(f"order is lim, zd, sequential, measured, random or random-first, not {name!r}")


# --- arms -----------------------------------------------------------------------------------------------------


def moved(bench: Bench, outcome: Outcome) -> dict[str, float]:
    """Damage by share of blocks moved, and at equal bytes saved; means over random orders."""
    config, depth = bench.config, bench.depth
    orders = bench.orders(config.order, config.draws)
    if config.backwards:
        orders = [reverse(order) for order in orders]
    counts = moved_counts(depth, config)
    curves = [{p: bench.damage(order, k) for p, k in counts.items()} for order in orders]
    out: dict[str, float] = {}
    for percent, k in counts.items():
        out |= bench.at(percent, mean(curve[percent] for curve in curves))
        bits = allocate(orders[0], k, config.high, config.low)
        outcome.profile[f"weight_bytes_{percent}"] = float(bench.bank.nbytes(bits))
        outcome.profile[f"average_bits_{percent}"] = average_bits(bits)
    exact = [
        tolerated([(100 * counts[p] / depth, bench.share(d)) for p, d in curve.items()]) for curve in curves
    ]  # fmt: skip
    out["tolerated"] = mean(exact)
    whole = bench.bank.nbytes([config.high] * depth)
    for percent in SAVED:
        k = round(percent / 100 * depth * config.high / (config.high - config.low))
        if len(orders) == 1 and 0 < k <= depth:
            out[f"saved_{percent}"] = bench.damage(orders[0], k)
            left = bench.bank.nbytes(allocate(orders[0], k, config.high, config.low))
            outcome.profile[f"saved_bytes_{percent}"] = float(whole - left)
    if config.versus:
        out |= advantage(bench, orders[0])
    outcome.tables["orders"] = orders
    outcome.curves = by_percent(bench, {p: out[f"damage_{p}"] for p in counts})
    return out


def tolerated(curve: Sequence[tuple[float, float]], close: float = CLOSE) -> float:
    """Percent of blocks at which the share of the loss first exceeds ``close``, by straight lines from (0, 0) through
    the points (percent of blocks, share) to (100, 100)."""
    points = [(0.0, 0.0), *curve, (100.0, 100.0)]
    for (x, y), (right, above) in itertools.pairwise(points):
        if above > close:
            return x + (right - x) * (close - y) / (above - y)
    return 100.0


def advantage(bench: Bench, order: Sequence[int]) -> dict[str, float]:
    """Mean over `COMPARED` of the share that random orders lose beyond that of ``order``, percent."""
    counts = {p: max(1, (p * bench.depth + 50) // 100) for p in COMPARED}
    own = mean(bench.share(bench.damage(order, k)) for k in counts.values())
    out = {}
    for name, metric in (("random", "advantage"), ("random-first", "advantage_first")):
        others = bench.orders(name, bench.config.draws)
        out[metric] = mean(bench.share(bench.damage(o, k)) for o in others for k in counts.values()) - own
    return out


def pruned(bench: Bench, outcome: Outcome) -> dict[str, float]:
    """Damage of dropping blocks by the order, the others at the higher width."""
    config, depth = bench.config, bench.depth
    order = bench.orders(config.order, config.draws)[0]
    if config.backwards:
        order = reverse(order)
    counts = moved_counts(depth, config) | {p: round(p / 100 * depth) for p in SAVED}
    each = bench.bank.nbytes([config.high] * depth) / depth
    found: dict[int, float] = {0: 0.0}
    with bench.bank.applied([config.high] * depth):
        for k in sorted(set(counts.values()) - {0}):
            with without_blocks(bench.subject.model, order[:k]):
                found[k] = bench.evaluate() - bench.base
    out: dict[str, float] = {}
    for percent, k in moved_counts(depth, config).items():
        out |= bench.at(percent, found[k])
    for percent in SAVED:
        k = round(percent / 100 * depth)
        if k:
            out[f"saved_{percent}"] = found[k]
            outcome.profile[f"saved_bytes_{percent}"] = each * k
    outcome.tables["orders"] = [order]
    outcome.curves = by_percent(bench, {p: out[f"damage_{p}"] for p in moved_counts(depth, config)})
    return out


def budgets(bench: Bench) -> list[BlockBits]:
    """Bits of the arms whose average lies half way between the widths: one width, or bits per linear layer."""
    config, depth = bench.config, bench.depth
    average = (config.high + config.low) / 2
    if config.treat == "uniform":
        if average != int(average):
            raise ValueError(f"no whole number of bits lies half way between {config.low} and {config.high}")
        return [int(average)] * depth
    if config.treat != "dynamic":
        raise ValueError(f"treat is quantise, prune, uniform or dynamic, not {config.treat!r}")
    widths = range(config.low, config.high + 1)
    if not config.ordered:
        return dynamic(bench.bank, average, widths)
    order = bench.orders(config.order, config.draws)[0]
    return dynamic(bench.bank, average, widths, reverse(order) if config.backwards else order, depth // 2)


# --- analysis -------------------------------------------------------------------------------------------------


def correlation(a: Any, b: Any) -> float:
    """Spearman's rank correlation; 0 where one side is constant."""
    found = float(spearmanr(a, b).statistic)
    return found if math.isfinite(found) else 0.0


def analysis(bench: Bench, outcome: Outcome) -> dict[str, float]:
    """What each block costs alone, and what the scores know of it."""
    model, depth = bench.subject.model, bench.depth
    alone = bench.sensitivity()
    top = max(alone)
    lims, zds = lim(model, bench.tokens), zd(model)
    config = bench.config
    other = calibration(bench.subject.data, config.calibration_rows, config.batch, bench.context, draw=1)
    again = lim(model, other)
    places = reverse(by_lim(lims))
    chance = math.sqrt(ZD_VARIANCE / len(block_weights(decoder_blocks(model)[0])))
    for name, values in (("lim", lims.tolist()), ("zd", zds.tolist()), ("sensitivity", alone)):
        outcome.curves[f"{name}_by_block"] = {"x": list(range(depth)), "y": values, "of": "block"}
    return {
        "sensitivity_ratio": top / max(min(alone), 0.01 * top) if top > 0 else 0.0,
        "top_share": bench.share(top),
        "sensitivity_sum": bench.share(sum(alone)),
        "rank_lim": correlation(lims, alone),
        "rank_zd": correlation(-zds, alone),
        "rank_flattened": correlation(lims, lim(model, bench.tokens, flattened=True)),
        "rank_resampled": correlation(lims, again),
        "zd_signal": float(zds.std(correction=1)) / chance,
        "first_rank": float(places.index(0) + 1),
        "last_rank": float(places.index(depth - 1) + 1),
    }


def benchmarks(bench: Bench) -> dict[str, float]:
    """Average of the paper's tasks through lm-eval, in full precision, and what 30 and 50 % of the blocks cost."""
    from repro.evaluation.few_shot import average_score

    config, subject = bench.config, bench.subject

    def score() -> float:
        return 100 * average_score(
            subject.model, subject.tokenizer, config.benchmarks.split(), limit=config.benchmark_items
        )

    out = {"score": score()}
    orders = bench.orders(config.order, 1)
    order = reverse(orders[0]) if config.backwards else orders[0]
    for percent in (30, 50):
        k = (percent * bench.depth + 50) // 100
        if config.treat == "prune":
            with bench.bank.applied([config.high] * bench.depth), without_blocks(subject.model, order[:k]):
                found = score()
        else:
            with bench.bank.applied(allocate(order, k, config.high, config.low)):
                found = score()
        out[f"score_lost_{percent}"] = out["score"] - found
    return out


def profile(bench: Bench) -> dict[str, float]:
    """What every arm of a seed shares: the model, its training, and how much text it is calibrated and judged on."""
    subject = bench.subject
    shared = {
        "eval_tokens": float(sum(b.tokens for b in bench.batches)),
        "calibration_tokens": float(sum(t.numel() for t in bench.tokens)),
        "weight_bytes_high": float(bench.bank.nbytes([bench.config.high] * bench.depth)),
        "weight_bytes_low": float(bench.bank.nbytes([bench.config.low] * bench.depth)),
    }
    return subject.profile() | shared


def by_percent(bench: Bench, damages: Mapping[int, float]) -> dict[str, dict[str, Any]]:
    """Curves over the percent of blocks moved."""
    x = [0, *damages]
    of = "percent of the blocks moved"
    losses = [0.0, *damages.values()]
    shown: dict[str, Callable[[float], float]] = {
        "share_by_percent": bench.share, "perplexity_by_percent": lambda d: math.exp(bench.base + d)
    }  # fmt: skip
    return {name: {"x": x, "y": [function(d) for d in losses], "of": of} for name, function in shown.items()}


def mean(values: Any) -> float:
    """Of some numbers."""
    found = list(values)
    return sum(found) / len(found)
