"""The arms of LLM-Drop: take a pretrained model, drop sublayers by one rule, measure what that costs."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from papers.llm_drop.method import (
    Dropped,
    Similarity,
    blocks,
    choose,
    choose_random,
    degradation_ratio,
    iterative,
    kv_cache,
    similarities,
    without,
)
from papers.llm_drop.paper import RECIPES, Config, dropped_counts
from repro.data.base import Batch, LanguageData
from repro.evaluation.loss import held_out_loss
from repro.profiling.counts import count_flops, count_parameters
from repro.runner import Context, Outcome
from repro.zoo.build import unigram_loss
from repro.zoo.subject import Subject, calibration, study, text

#: Calibration sets of the zoo's models, by what they are called in metrics.
CALIBRATIONS = {"text": "stdlib-bpe", "prose": "stdlib-prose", "recall": "recall-stdlib"}


def run(config: Config, context: Context) -> Outcome:
    """Measure one arm on one model: the loss after dropping 10, 20, ... percent of the blocks' number of sublayers."""
    subject = study(config, context, RECIPES)
    model, data = subject.model, subject.data
    depth = len(blocks(model))
    counts = dropped_counts(depth, config)
    clock = time.perf_counter()
    tokens = drawn(config, data, config.calibration, context)
    found = similarities(model, tokens, runs=sorted({n for n in counts.values() if n}) if config.drop == "run" else ())
    batches = [b.to(context.device) for b in data.held_out_batches(config.eval_batches, config.batch)]
    answers = bool(batches[0].answers.any())
    intact = measure(model, batches)
    unigram = unigram_loss(data, batches, answers_only=answers)
    outcome = Outcome(data=subject.describe(), profile=profile(subject, batches, tokens))
    outcome.metrics = {"loss": intact["loss"], "accuracy": intact["accuracy"], "gap": unigram - intact["loss"]}
    outcome.tables = {
        "similarity": {name: getattr(found, name).tolist() for name in ("attention", "mlp", "block")},
        "dropped": {},
    }
    damage, accuracy = [0.0], [intact["accuracy"]]
    for done, (percent, n, options) in enumerate(selections(config, found, tokens, model, counts, context)):
        results = []
        for dropped in options:
            with without(model, dropped):
                results.append(measure(model, batches))
        lost = statistics.median(r["loss"] for r in results) - intact["loss"]
        right = statistics.median(r["accuracy"] for r in results)
        damage.append(lost)
        accuracy.append(right)
        outcome.metrics |= {
            f"damage_{percent}": lost,
            f"gap_share_{percent}": 100 * lost / outcome.metrics["gap"],
            f"accuracy_{percent}": right,
        }
        outcome.tables["dropped"][str(n)] = (
            {"attention": options[0].attention, "mlp": options[0].mlp}
            if len(options) == 1
            else sorted(r["loss"] - intact["loss"] for r in results)
        )
        if config.order == "random":
            with without(model, choose(found, n, config.drop)):  # type: ignore[arg-type]
                ranked = measure(model, batches)["loss"]
            outcome.metrics[f"percentile_{percent}"] = percentile(ranked, [r["loss"] for r in results])
        context.progress(done + 1, len(counts), lost)
    x = [0, *counts]
    outcome.curves = {
        "damage_by_percent": {"x": x, "y": damage, "of": "percent of the blocks' number dropped"},
        "accuracy_by_percent": {"x": x, "y": accuracy, "of": "percent of the blocks' number dropped"},
        **{
            f"{name}_similarity": {"x": list(range(depth)), "y": getattr(found, name).tolist(), "of": "block"}
            for name in ("attention", "mlp")
        },
    }
    if config.analyse:
        outcome.metrics |= ranking(config, context, subject, found)
        half = choose(found, depth // 2, "attention")
        outcome.metrics |= savings(model, half, batches[0])
        if config.benchmarks:
            outcome.metrics |= benchmarks(config, subject, found, depth, context)
        if config.speed_tokens:
            outcome.profile |= speed(model, half, batches[0], config.speed_tokens, outcome.metrics["damage_50"])
    elif config.benchmarks:
        outcome.metrics |= benchmarks(config, subject, found, depth, context)
    outcome.profile["measure_s"] = time.perf_counter() - clock
    return outcome


# --- the model ------------------------------------------------------------------------------------------------


def drawn(config: Config, data: LanguageData, name: str, context: Context, draw: int = 0) -> list[Tensor]:
    """Calibration tokens of a data set, ``[rows, T]`` each. ``draw``: another sample of the same seed."""
    data = data if name == data.name else text(config, name)
    return calibration(data, config.calibration_rows, config.batch, context, draw)


def measure(model: Any, batches: list[Batch]) -> dict[str, float]:
    """Held-out loss in nats and accuracy; on the marked answers alone where there are any."""
    found = held_out_loss(lambda ids: model(input_ids=ids, use_cache=False).logits, batches)
    prefix = "answer_" if "answer_loss" in found else ""
    return {name: found[prefix + name] for name in ("loss", "accuracy")}


# --- what is dropped ------------------------------------------------------------------------------------------


def selections(
    config: Config, found: Similarity, tokens: list[Tensor], model: Any, counts: dict[int, int], context: Context
) -> Iterator[tuple[int, int, list[Dropped]]]:
    """Per percentage: it, the number n, and what an arm drops: one choice, or one per random draw."""
    kind: Any = config.drop
    depth = len(found.attention)
    rounds = list(iterative(model, tokens, max(counts.values()), kind)) if config.order == "iterative" else []
    for percent, n in counts.items():
        if config.order == "score":
            options = [choose(found, n, kind)]
        elif config.order == "reversed":
            options = [choose(Similarity(-found.attention, -found.mlp, -found.block), n, kind)]
        elif config.order == "iterative":
            options = [rounds[n - 1]] if n else [Dropped()]
        elif config.order == "random":
            draw = random.Random(f"random subsets/{kind}/{n}/{context.seed}")
            options = [choose_random(depth, n, kind, draw) for _ in range(config.draws)]
        else:
            raise ValueError(f"order is score, reversed, iterative or random, not {config.order!r}")
        yield percent, n, options


def percentile(value: float, others: list[float]) -> float:
    """Percent of the others that are lower; ties count half."""
    return 100 * sum((o < value) + 0.5 * (o == value) for o in others) / len(others)


# --- analysis -------------------------------------------------------------------------------------------------


def correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rank correlation."""
    return float(spearmanr(a.numpy(), b.numpy()).statistic)


def ranking(config: Config, context: Context, subject: Subject, found: Similarity) -> dict[str, float]:
    """How attention ranks by depth, over calibration sets and checkpoints, and how importance grows in training."""
    model, data, zoo = subject.model, subject.data, subject.zoo
    depth = len(found.attention)
    importance = {name: float(1 - getattr(found, name).mean()) for name in ("attention", "mlp", "block")}
    out = {f"{name}_importance": value for name, value in importance.items()}
    out["importance_gap"] = importance["mlp"] - importance["attention"]
    out["importance_gap_median"] = float(found.attention.median() - found.mlp.median())
    out["depth_trend"] = correlation(found.attention, torch.arange(depth, dtype=torch.float64))
    again = similarities(model, drawn(config, data, config.calibration, context, draw=1))
    out["rank_resampled"] = correlation(found.attention, again.attention)
    if config.published_drop:
        wanted = {int(index) for index in config.published_drop.split()}
        out["published_overlap"] = 100 * len(wanted & set(choose(found, len(wanted)).attention)) / len(wanted)
    if zoo is None:
        return out
    sets = {
        name: similarities(model, drawn(config, data, data_set, context)).attention
        for name, data_set in CALIBRATIONS.items()
    }
    for name in ("prose", "recall"):
        out[f"rank_{name}"] = correlation(sets["text"], sets[name])
    tokens = drawn(config, data, config.calibration, context)
    for share in zoo.card["checkpoints"]:
        percent = round(100 * share)
        early = similarities(zoo.model(at=share, device=context.device), tokens)
        out[f"rank_at_{percent}"] = correlation(early.attention, found.attention)
        for name in ("attention", "mlp", "block"):
            out[f"{name}_growth_{percent}"] = importance[name] - float(1 - getattr(early, name).mean())
    return out


def savings(model: Any, half: Dropped, batch: Batch) -> dict[str, float]:
    """What dropping half of the attentions saves, counted: parameters, FLOPs of a forward pass, bytes of the KV cache;
    each in percent of the intact model."""

    def counted() -> tuple[float, float, float]:
        ids = batch.inputs[:1]
        with torch.no_grad():
            flops = count_flops(lambda: model(input_ids=ids, use_cache=False))
            cache = model(input_ids=ids, past_key_values=kv_cache(model), use_cache=True).past_key_values
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        return count_parameters(model)["params_total"], flops, float(held)

    before = counted()
    with without(model, half):
        after = counted()
    names = ("params", "flops", "kv_cache")
    return {f"{name}_kept_50": 100 * a / b for name, a, b in zip(names, after, before, strict=True)}


@torch.no_grad()
def speed(model: Any, half: Dropped, batch: Batch, tokens: int, lost: float, rounds: int = 5) -> dict[str, float]:
    """Tokens a second with all and with half of the attentions, prefill and decoding one by one, in turns; medians.

    A measurement of a busy machine: it goes into the profile, and no verdict rests on it. ``gamma`` is the paper's
    ratio with the loss in the place of the score, in hundredths of a nat per percent.
    """
    ids = batch.inputs
    seen: dict[str, list[float]] = {}

    def once(name: str) -> None:
        cache = kv_cache(model)
        began = time.perf_counter()
        logits = model(input_ids=ids, past_key_values=cache, use_cache=True).logits
        filled = time.perf_counter()
        for _ in range(tokens):
            last = logits[:, -1:].argmax(-1)
            logits = model(input_ids=last, past_key_values=cache, use_cache=True).logits
        float(logits[0, 0, 0])  # waits for an accelerator
        ended = time.perf_counter()
        seen.setdefault(f"prefill_{name}", []).append(ids.numel() / (filled - began))
        seen.setdefault(f"decode_{name}", []).append(len(ids) * tokens / (ended - filled))

    for _ in range(rounds):
        once("intact")
        with without(model, half):
            once("half")
    medians = {name: statistics.median(values[1:] or values) for name, values in seen.items()}
    out = {f"{name}_tokens_per_s": value for name, value in medians.items()}
    for part in ("prefill", "decode"):
        out[f"{part}_time_speedup_50"] = medians[f"{part}_half"] / medians[f"{part}_intact"]
    out["gamma_time_50"] = degradation_ratio(100 * lost, out["decode_time_speedup_50"])
    return out


def benchmarks(config: Config, subject: Subject, found: Similarity, depth: int, context: Context) -> dict[str, float]:
    """Average of the paper's tasks through lm-eval, intact, and what is lost with 20 and 50 percent dropped; points."""
    from repro.evaluation.few_shot import average_score

    def score() -> float:
        return 100 * average_score(
            subject.model, subject.tokenizer, config.benchmarks.split(), limit=config.benchmark_items
        )

    intact = score()
    out = {"score": intact}
    counts = dropped_counts(depth, config)
    for percent in (p for p in (20, 50) if p in counts):
        with without(subject.model, choose(found, counts[percent], config.drop)):  # type: ignore[arg-type]
            out[f"score_lost_{percent}"] = intact - score()
    return out


def profile(subject: Subject, batches: list[Batch], tokens: list[Tensor]) -> dict[str, float]:
    """What every arm of a seed shares: the model, its training, and how much text it is calibrated and judged on."""
    shared = {
        "eval_tokens": float(sum(b.tokens for b in batches)),
        "calibration_tokens": float(sum(t.numel() for t in tokens)),
    }
    held = subject.zoo.card["held_out"] if subject.zoo else {}
    return subject.profile() | shared | {f"zoo_loss_{n}": v["loss"] for n, v in held.items()}
