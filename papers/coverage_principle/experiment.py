"""What is measured: exact coverage, trained models by k-cutoff, and thresholds of learning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata, spearmanr
from torch import Tensor, nn

from papers.coverage_principle.method import Coverage, Ints, Subset, cosine_gap, swapped
from papers.coverage_principle.paper import BUCKETS, Config
from repro.data.base import Batch
from repro.data.multi_hop import SPECIAL, MultiHop, multi_hop
from repro.evaluation.scaling import crossing, power_law
from repro.runner import Context, Outcome
from repro.training.fit import profile_training
from repro.training.initial import generator, initialise
from repro.training.loop import Optimisation, Trained, train

#: Smallest bucket of equal k-cutoff that counts in a trend or a gap.
ENOUGH = 20
#: Position of x2, where the first bridge can be known.
AT = 1


def run(config: Config, context: Context) -> Outcome:
    """One run of the kind that the configuration names. Raises ValueError for another kind."""
    kinds: dict[str, Callable[[Config, Context], Outcome]] = {
        "coverage": exact_coverage, "train": trained_model, "scaling": learned_scaling,
    }  # fmt: skip
    if config.kind not in kinds:
        raise ValueError(f"kind is one of {', '.join(kinds)}, not {config.kind!r}")
    return kinds[config.kind](config, context)


def draw(config: Config, seed: int, size: int = 0, rows: int = -1, task: str = "") -> MultiHop:
    """The functions and the training set of a run."""
    return multi_hop(
        task or config.data, size or config.size, config.rows if rows < 0 else rows, seed, seen=config.seen,
        last=config.last,  # type: ignore[arg-type]
        spread=config.spread,
    )  # fmt: skip


def numbers(text: str, kind: type = float) -> list[Any]:
    """``"16,24"`` as a list."""
    return [kind(part) for part in text.split(",")]


# --- coverage, exactly ----------------------------------------------------------------------------------------------


def same_bridge(drawn: MultiHop) -> Ints:
    """What a fragment (x1, x2) amounts to, [n^2]: its bridge b; (b, x2) where x2 acts on a second path as well."""
    b = drawn.tables[0].ravel()
    return b * drawn.size + np.arange(drawn.size**2) % drawn.size if drawn.task == "non-tree" else b


def coverage_of(drawn: MultiHop, chance: bool = False, targets: Ints | None = None) -> Coverage:
    """Coverage of the training set by fragments (x1, x2). Equivalences by chance are left out unless asked for."""
    alike: dict[Subset, Ints] | None = None if chance else {(0, 1): same_bridge(drawn)}
    given = drawn.targets if targets is None else targets
    return Coverage(drawn.domain[drawn.train], given[drawn.train], drawn.size, [(0, 1)], alike)


def share_covered(drawn: MultiHop, k: int, **options: Any) -> float:
    """Share of the unseen combinations of seen primitives that are in Cover_k(D); 1 where there are none."""
    rows = drawn.of_type(0)
    return float(coverage_of(drawn, **options).covered(drawn.domain[rows], k).mean()) if len(rows) else 1.0


def rows_for_cover(drawn: MultiHop, k: int, share: float) -> int:
    """Least N of which that share is covered, by bisection over nested training sets; the whole pool if none is."""
    low, high = 1, len(drawn.pool)
    while low < high:
        middle = (low + high) // 2
        if share_covered(drawn.with_rows(middle), k) >= share:
            high = middle
        else:
            low = middle + 1
    return high


def exact_coverage(config: Config, context: Context) -> Outcome:
    """The exponent of the data that coverage at evidence k needs, without any training."""
    sizes = numbers(config.sizes, int)
    needed: list[list[int]] = []
    left = []
    for done, size in enumerate(sizes):
        needed.append([])
        for i in range(config.draws):
            drawn = draw(config, 100_000 * context.seed + i, size, 0)
            rows = rows_for_cover(drawn, config.k, config.share)
            needed[-1].append(rows)
            left.append(1 - share_covered(drawn.with_rows(rows), config.k))
        context.progress(done + 1, len(sizes), None)
    means = [math.exp(sum(map(math.log, rows)) / len(rows)) for rows in needed]
    fit = power_law(sizes, means) if len(sizes) > 1 else None
    # the same inputs with answers that follow from nothing, by the definition as it stands
    drawn = draw(config, 100_000 * context.seed, sizes[0], 0).with_rows(needed[0][0])
    shuffled = np.random.default_rng(context.seed).permutation(drawn.targets)
    return Outcome(
        metrics={
            "error": sum(left) / len(left),
            "exponent": fit.exponent if fit else math.nan,
            "exponent_r2": fit.r2 if fit else math.nan,
            "rows_needed": means[-1],
            "covered_shuffled": share_covered(drawn, config.k, chance=True, targets=shuffled),
        },
        curves={"rows_needed": {"x": sizes, "y": means, "of": "n"}},
        profile={"draws": float(config.draws)},
        data={"name": config.data, "source": "generated", "sizes": sizes, "draws": config.draws},
        tables={"rows_needed": dict(zip(map(str, sizes), needed, strict=True))},
    )


# --- trained models -------------------------------------------------------------------------------------------------


def language_model(config: Config, symbols: int, width: int = 8) -> nn.Module:
    """GPT-2 as transformers has it (learned positions, tied head), without dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=max(config.vocab, symbols + 1 + SPECIAL),
            n_positions=max(config.positions, width),
            n_embd=config.hidden,
            n_layer=config.layers,
            n_head=config.heads,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )


@torch.no_grad()
def answered(model: nn.Module, drawn: MultiHop, rows: Ints, thought: str, device: str = "cpu") -> Ints:
    """The model's answer to rows of the domain, as symbols [rows]; it writes out its own steps (greedy) before."""
    tokens, prompt = drawn.tokens(rows, thought)  # type: ignore[arg-type]
    out = []
    for part in torch.from_numpy(tokens).split(4096):
        text = part[:, :prompt].to(device)
        for _ in range(part.shape[1] - prompt):
            text = torch.cat([text, model(input_ids=text, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        out.append(text[:, -1].cpu().numpy() - SPECIAL)
    return np.concatenate(out) if out else np.empty(0, np.int64)


def step_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, None]:
    """Cross-entropy in nats on what stands behind the prompt."""
    logits = model(input_ids=batch.inputs, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten()), None


def fitted(
    config: Config,
    drawn: MultiHop,
    context: Context,
    measure: Callable[[nn.Module], dict[str, float]],
    evaluations: int,
) -> tuple[nn.Module, Trained, dict[str, float], dict[str, Any]]:
    """A model trained on a draw: it, what was measured on the way, its profile, and what the data are."""
    data = drawn.language(config.thought)  # type: ignore[arg-type]
    model = initialise(language_model(config, drawn.size), context.seed, std=config.init_std).to(context.device)
    order = data.train_order(config.steps, config.batch, context.seed)
    sample = data.rows(order[0, :64]).to(context.device)
    profile = profile_training(model, lambda b: step_loss(model, b), sample, order.numel())
    trained = train(
        model,
        (data.rows(rows).to(context.device) for rows in order),
        lambda batch: step_loss(model, batch),
        lambda: measure(model),
        Optimisation(
            config.lr, config.steps, config.warmup, "constant", (config.beta1, config.beta2), config.weight_decay,
            config.clip,
        ),
        evaluations=evaluations,
        dtype=config.dtype,
        progress=context.progress,
    )  # fmt: skip
    profile |= {"train_s": trained.train_s, "train_rows": float(len(drawn.train)), "steps": float(config.steps)}
    return model, trained, profile, {**data.describe(), "seen": config.seen, "last": config.last}


def trained_model(config: Config, context: Context) -> Outcome:
    """Train one model and take its accuracy apart: by k-cutoff, by type, and beside the best constant answers."""
    drawn = draw(config, context.seed)
    test = [drawn.of_type(kind, config.tests, context.seed) for kind in range(2 ** len(drawn.tables))]
    cutoff = coverage_of(drawn).cutoff(drawn.domain[test[0]], BUCKETS) if config.data in MATCHED else None
    some = drawn.train[: config.tests]
    loss_rows = drawn.language(config.thought).held_out_batches(1, 512)[0].to(context.device)  # type: ignore[arg-type]

    def right(model: nn.Module, rows: Ints) -> Any:
        return answered(model, drawn, rows, config.thought, context.device) == drawn.targets[rows]

    def measure(model: nn.Module) -> dict[str, float]:
        hit = right(model, test[0])
        out = {
            "loss": float(step_loss(model, loss_rows)[0]),
            "accuracy": float(hit.mean()),
            "accuracy_train": float(right(model, some).mean()),
            **{f"accuracy_type{kind}": mean(right(model, test[kind])) for kind in range(1, min(4, len(test)))},
        }
        if cutoff is not None:
            out |= {f"accuracy_k{k}": mean(hit[cutoff == k]) for k in range(BUCKETS + 1)}
        return out

    model, trained, profile, about = fitted(config, drawn, context, measure, config.evaluations)
    metrics = dict(trained.evaluations[-1])
    metrics["error"] = 1 - metrics["accuracy"]
    unseen = np.concatenate(test[1:])
    metrics["unseen_excess"] = excess(drawn, unseen, right(model, unseen))
    tables: dict[str, Any] = {}
    if cutoff is not None:
        hit = right(model, test[0])
        found = by_cutoff(cutoff, hit)
        metrics |= found.metrics
        metrics["uncovered_excess"] = excess(drawn, test[0][cutoff == 0], hit[cutoff == 0])
        metrics["covered_excess"] = excess(drawn, test[0][cutoff > 0], hit[cutoff > 0])
        shown = np.bincount(drawn.entries[0][drawn.train], minlength=drawn.size**2)[drawn.entries[0][test[0]]]
        metrics["k_partial"] = partial_rank(hit, cutoff, shown)
        metrics["k_sample"] = partial_rank(hit, cutoff)
        weights = shared_weights(config, context.seed)
        metrics["accuracy_matched"] = sum(w * found.accuracy.get(k, math.nan) for k, w in weights.items() if w)
        metrics["covered_by_chance"] = float(
            (coverage_of(drawn, chance=True).covered(drawn.domain[test[0]], 1) & (cutoff == 0)).mean()
        )
        untrained = initialise(language_model(config, drawn.size), context.seed, std=config.init_std)
        gaps, tables["gaps"] = bridge_states(config, drawn, model, untrained.to(context.device), context)
        metrics |= gaps
        tables["buckets"] = {str(k): {"inputs": n, "accuracy": found.accuracy[k]} for k, n in found.inputs.items()}
    return Outcome(metrics, trained.curves(), profile, about, tables, trained.diverged)


#: Tasks on three inputs, whose fragments (x1, x2) coverage is computed for.
MATCHED = ("two-hop", "non-tree")


def mean(values: Any) -> float:
    """Mean, nan for nothing."""
    return float(np.mean(values)) if len(values) else math.nan


def excess(drawn: MultiHop, rows: Ints, hit: Any) -> float:
    """Accuracy minus that of the best answer that reads no more than one input, fitted to the training set.

    The candidates: the most frequent output, overall and for every value of one of the inputs.
    """
    if not len(rows):
        return math.nan
    best = 0.0
    for column in range(-1, drawn.arity):
        values = np.zeros(len(drawn.domain), np.int64) if column < 0 else drawn.domain[:, column]
        counts = np.zeros((drawn.size, drawn.size))
        np.add.at(counts, (values[drawn.train], drawn.targets[drawn.train]), 1)
        best = max(best, float((counts.argmax(1)[values[rows]] == drawn.targets[rows]).mean()))
    return mean(hit) - best


class Buckets(NamedTuple):
    """Accuracy and number of inputs by k-cutoff, and what is read off them."""

    accuracy: dict[int, float]
    inputs: dict[int, int]
    metrics: dict[str, float]


def by_cutoff(cutoff: Ints, hit: Any) -> Buckets:
    """Accuracy per k-cutoff; Spearman's rank correlation of the two over buckets; gap of the ends of the covered part.

    Buckets of fewer than `ENOUGH` inputs count in neither.
    """
    inputs = {int(k): int(n) for k, n in enumerate(np.bincount(cutoff)) if n}
    accuracy = {k: mean(hit[cutoff == k]) for k in inputs}
    large = [k for k, n in inputs.items() if n >= ENOUGH]
    covered = [k for k in large if k > 0]
    rank = gap = math.nan
    if len(large) > 2:
        scores = [accuracy[k] for k in large]
        rank = float(spearmanr(large, scores).statistic) if len(set(scores)) > 1 else 0.0
    if len(covered) > 1:
        gap = accuracy[covered[-1]] - accuracy[covered[0]]
    return Buckets(accuracy, inputs, {"k_spearman": rank, "bucket_gap": gap})


def partial_rank(x: Any, y: Any, given: Any = None) -> float:
    """Spearman's rank correlation of two measures over inputs; with ``given``, the part that this does not explain.

    nan where a measure does not vary.
    """
    columns = [rankdata(v) for v in (x, y, given) if v is not None]
    if min(float(np.ptp(c)) for c in columns) == 0:
        return math.nan
    r = np.corrcoef(columns)
    if given is None:
        return float(r[0, 1])
    left = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
    return float((r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt(left)) if left > 1e-12 else math.nan


def shared_weights(config: Config, seed: int) -> dict[int, float]:
    """Weights of k-cutoffs common to 2-HOP and NON-TREE: the smaller of the two shares, renormalised."""
    shares = []
    for task in MATCHED:
        drawn = draw(config, seed, task=task)
        cutoff = coverage_of(drawn).cutoff(drawn.domain[drawn.of_type(0, config.tests, seed)], BUCKETS)
        shares.append(np.bincount(cutoff, minlength=BUCKETS + 1) / max(1, len(cutoff)))
    low = np.minimum(*shares)
    return {k: float(w / low.sum()) for k, w in enumerate(low)} if low.sum() else {}


# --- representations ------------------------------------------------------------------------------------------------


@torch.no_grad()
def states(model: nn.Module, drawn: MultiHop, fragments: Ints, device: str) -> list[Tensor]:
    """MLP output of every layer at the position of x2 for fragments (x1, x2), [layers] of [fragments, d]."""
    found: list[Tensor] = []
    handles = [
        block.mlp.register_forward_hook(lambda _m, _x, out: found.append(out[:, AT]))
        for block in model.transformer.h  # type: ignore[union-attr]
    ]
    text = np.stack(np.divmod(fragments, drawn.size), 1) + SPECIAL
    model(input_ids=torch.from_numpy(text).to(device), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def bridge_states(
    config: Config, drawn: MultiHop, model: nn.Module, untrained: nn.Module, context: Context
) -> tuple[dict[str, float], dict[str, Any]]:
    """Do states cluster by the bridge, and across contexts? Trained minus untrained, over all seen fragments.

    ``gap_across`` compares fragments of different x2 only, ``gap_within`` of equal x2 only: the token x2 itself then
    counts on neither side.
    """
    fragments = np.flatnonzero(drawn.seen[0].ravel())
    bridge = torch.from_numpy(drawn.tables[0].ravel()[fragments]).to(context.device)
    x2 = torch.from_numpy(fragments % drawn.size).to(context.device)
    mixed = bridge[torch.randperm(len(bridge), generator=generator("shuffled bridges", context.seed))]
    both = bridge * drawn.size + x2
    layers: dict[str, list[float]] = {}
    pairs = zip(
        states(model, drawn, fragments, context.device),
        states(untrained, drawn, fragments, context.device),
        strict=True,
    )
    for after, before in pairs:
        for name, groups, same in (
            ("gap_across", bridge, False), ("gap_within", bridge, True), ("gap_shuffled", mixed, False),
        ):  # fmt: skip
            gap = cosine_gap(after, groups, x2, same) - cosine_gap(before, groups, x2, same)
            layers.setdefault(name, []).append(gap)
        layers.setdefault("iicg_bridge", []).append(cosine_gap(after, bridge))
        layers.setdefault("iicg_bridge_x2", []).append(cosine_gap(after, both))
    chosen = max(0, config.layers // 2 - 1)
    metrics = {name: values[chosen] for name, values in layers.items()}
    metrics["context_dependence"] = metrics["gap_within"] - metrics["gap_across"]
    metrics["trace_follows"] = follows(config, drawn, model, context)
    return metrics, layers


@torch.no_grad()
def follows(config: Config, drawn: MultiHop, model: nn.Module, context: Context) -> float:
    """Causal tracing: how often the answer to a training row becomes that of another row's bridge, when the state at x2
    after the middle block is that row's.

    Only swaps between different bridges of equal x2 count whose new answer was shown in training.
    """
    rows = drawn.train[:512]
    columns = drawn.columns[rows]
    source = torch.randperm(len(rows), generator=generator("traced rows", context.seed)).numpy()
    for x2 in range(drawn.size):  # swap among rows of one x2
        here = np.flatnonzero(columns[:, 1] == x2)
        source[here] = here[np.argsort(source[here])]
    asked = columns[:, : drawn.arity].copy()
    asked[:, 0] = columns[source, 0]
    number = np.ravel_multi_index(list(asked.T), (drawn.size,) * drawn.arity)
    kept = (columns[:, 3] != columns[source, 3]) & (drawn.targets[number] != columns[:, -1])
    kept &= drawn.types[number] == 0
    if not kept.any():
        return math.nan
    block = model.get_submodule(f"transformer.h.{max(0, config.layers // 2 - 1)}")
    with swapped(block, AT, torch.from_numpy(source).to(context.device)):
        given = answered(model, drawn, rows, config.thought, context.device)
    return mean((given == drawn.targets[number])[kept])


# --- thresholds of learning -----------------------------------------------------------------------------------------


def learned_scaling(config: Config, context: Context) -> Outcome:
    """Training rows at which the accuracy on unseen combinations reaches a level, per n, and their exponent over n."""
    sizes, factors = numbers(config.sizes, int), numbers(config.factors)
    needed, curves, reached, learned = [], {}, [], []
    profile: dict[str, float] = {}
    about: dict[str, Any] = {}
    for size in sizes:
        grid: list[int] = []
        scores: list[float] = []
        for factor in factors:
            drawn = draw(config, context.seed, size, 0)
            rows = min(round(factor * size**2), len(drawn.pool) - 1)
            if grid and rows <= grid[-1]:
                continue
            drawn = drawn.with_rows(rows)
            test, some = drawn.of_type(0, config.tests, context.seed), drawn.train[: config.tests]

            def measure(
                model: nn.Module, drawn: MultiHop = drawn, test: Ints = test, some: Ints = some
            ) -> dict[str, float]:
                hit = answered(model, drawn, test, config.thought, context.device) == drawn.targets[test]
                fit = answered(model, drawn, some, config.thought, context.device) == drawn.targets[some]
                return {"loss": 1 - float(hit.mean()), "train": float(fit.mean())}

            _, trained, seen, about = fitted(config, drawn, context, measure, 1)
            for name in ("train_tokens", "train_flops", "train_s"):
                profile[name] = profile.get(name, 0.0) + seen[name]
            profile |= {name: seen[name] for name in ("params_total", "params_active")}
            grid.append(len(drawn.train))
            scores.append(1 - trained.evaluations[-1]["loss"])
            learned.append(trained.evaluations[-1]["train"])
            reached.append(trained.diverged)
        needed.append(crossing(grid, scores, config.level))
        curves[f"accuracy_n{size}"] = {"x": grid, "y": scores, "of": "training rows"}
    fit = power_law(sizes, needed) if len(sizes) > 1 else None
    return Outcome(
        {
            "error": 1 - scores[-1],
            "rows_needed": needed[-1],
            "exponent": fit.exponent if fit else math.nan,
            "exponent_r2": fit.r2 if fit else math.nan,
            "accuracy_train": min(learned),
        },
        curves,
        profile,
        {**about, "sizes": sizes},
        {"rows_needed": dict(zip(map(str, sizes), needed, strict=True))},
        any(reached),
    )
