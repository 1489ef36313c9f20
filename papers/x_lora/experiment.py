"""The arms of X-LoRA: take a frozen model and frozen adapters, train what mixes them, measure it on pure and spliced
rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from papers.x_lora.method import Reads, XLora, last_hidden
from papers.x_lora.paper import Config
from repro.data.base import Batch, order_seed
from repro.data.markov import DomainRows, joined
from repro.evaluation.domain_losses import Excess, excess
from repro.profiling.counts import count_flops, count_parameters
from repro.runner import Context, Outcome
from repro.training.adapter_bench import AdapterBench, BenchSpec, adapter_bench, published_bench
from repro.training.fit import batch_loss, profile_training
from repro.training.loop import Optimisation, train

#: Arms that mix without a head.
FIXED = ("base", "single", "own", "uniform")
#: Rows that are timed and counted.
COUNTED = 8


def run(config: Config, context: Context) -> Outcome:
    """Measure one arm on one bench."""
    bench = load(config, context)
    mixture = mixture_of(config, bench, context)
    outcome = Outcome(profile={"train_tokens": 0.0, "params_head": 0.0})
    if config.gate not in FIXED:
        outcome.profile["params_head"] = float(sum(p.numel() for p in mixture.head.parameters()))
        if config.trained:
            fit(config, bench, mixture, context, outcome)
    mixture.eval()
    found = {kind: measured(config, bench, mixture, kind) for kind in bench.tests}
    told = given(bench, mixture, owners(bench), "pure", config.eval_batch)
    outcome.metrics = {f"excess_{kind}": e.mean for kind, e in found.items()} | {
        "excess_settled": found["pure"].settled,
        "loss": sum(found[kind].mean for kind in kinds(config)) / len(kinds(config)),
        "worst_percent": max(
            100 * (a / b - 1) for a, b in zip(found["pure"].settled_domains, told.settled_domains, strict=True)
        ),
    }
    outcome.tables = {f"{kind}_domains": e.domains for kind, e in found.items()}
    outcome.tables["spliced_after"] = found["spliced"].after
    if config.gate not in FIXED:
        more, outcome.tables["own_share_by_module"] = gate_statistics(config, bench, mixture)
        outcome.metrics |= more
    outcome.metrics["forward_mflops_per_token"], outcome.profile["forward_s"] = cost(config, bench, mixture)
    outcome.profile |= bench.profile() | count_parameters(mixture) | {
        "eval_tokens": float(sum(rows.targets.numel() for rows in bench.tests.values()))
    }  # fmt: skip
    outcome.data = bench.describe()
    return outcome


def load(config: Config, context: Context) -> AdapterBench:
    """The bench of a run: generated and trained under the run's seed, or published. Raises MissingData."""
    rows = 2 * config.steps * config.batch  # as many of each kind as there are in all
    if config.data == "markov":
        return adapter_bench(
            spec_of(config, context.seed), rows, device=context.device,
            progress=lambda done, parts: context.progress(done, parts, None),
            meanwhile=[spec_of(config, context.seed + 1)],
        )  # fmt: skip
    return published_bench(
        config.model, config.adapters, config.folders.split(), config.data.split("+"), rows, sequence=config.sequence,
        piece=config.piece, test=config.test, seed=context.seed, dtype=config.dtype, limit=config.limit,
        device=context.device,
    )  # fmt: skip


def spec_of(config: Config, seed: int) -> BenchSpec:
    """The generated bench."""
    return BenchSpec(
        symbols=config.symbols, tilt=config.tilt, domains=config.domains, others=config.others, same=config.same,
        share=config.share, sequence=config.sequence, piece=config.piece, layers=config.layers, hidden=config.hidden,
        width=config.hidden * 11 // 4, steps=config.base_steps, batch=config.base_batch, lr=config.base_lr,
        rank=config.rank, alpha=2.0 * config.rank, adapter_steps=config.adapter_steps, adapter_lr=config.adapter_lr,
        test=config.test, seed=seed,
    )  # fmt: skip


# --- gates -------------------------------------------------------------------------------------------------------


def mixture_of(config: Config, bench: AdapterBench, context: Context) -> XLora:
    """X-LoRA, or what an ablation makes of it. Raises ValueError for an unknown gate."""
    readers: dict[str, Reads] = {"token": last_hidden, "module": last_hidden, **dict.fromkeys(FIXED, last_hidden)}
    readers |= {
        "sequence": sequence_mean, "prefix": prefix_mean, "constant": nothing, "embedding": embeddings(bench.model),
        "shuffled": shuffled(context.seed),
    }  # fmt: skip
    if config.gate not in readers:
        raise ValueError(f"gate is one of {', '.join(readers)}, not {config.gate!r}")
    return XLora(
        bench.model, bench.adapters, depth=config.depth, size=config.size, layerwise=config.gate != "token",
        top_k=config.top_k, reads=readers[config.gate], seed=order_seed("scaling head", context.seed) % 2**31,
    ).to(context.device)  # fmt: skip


def sequence_mean(ids: Tensor, output: Any) -> Tensor:
    """One gate per row: the mean over all tokens, [B, 1, d]. It sees what is still to come, which favours it."""
    return last_hidden(ids, output).mean(1, keepdim=True)


def prefix_mean(ids: Tensor, output: Any) -> Tensor:
    """The mean over the tokens so far, [B, T, d]."""
    hidden = last_hidden(ids, output)
    return hidden.cumsum(1) / torch.arange(1, hidden.shape[1] + 1, device=ids.device)[:, None]


def nothing(ids: Tensor, output: Any) -> Tensor:
    """Zeros: only the head's biases act, a mixture that is learned and the same for all tokens."""
    return torch.zeros_like(last_hidden(ids, output))


def embeddings(model: Any) -> Reads:
    """The input embedding of the token alone, scaled to the size that the final norm gives: no context."""

    def reads(ids: Tensor, output: Any) -> Tensor:
        found = model.get_input_embeddings()(ids)
        return found * found.square().mean(-1, keepdim=True).clamp(min=1e-12).rsqrt()

    return reads


def shuffled(seed: int) -> Reads:
    """The hidden states of a batch, dealt out at random over its tokens: right in distribution, never the token's."""
    generator = torch.Generator().manual_seed(order_seed("shuffled gates", seed))

    def reads(ids: Tensor, output: Any) -> Tensor:
        hidden = last_hidden(ids, output)
        order = torch.randperm(ids.numel(), generator=generator).to(ids.device)
        return hidden.flatten(0, 1)[order].view(hidden.shape)

    return reads


def owners(bench: AdapterBench) -> Callable[[DomainRows], Tensor]:
    """Gates [B, T, 1, n] that give every target to the adapter of its domain: told, not found out."""
    own = torch.tensor(bench.own)

    def gates(rows: DomainRows) -> Tensor:
        return F.one_hot(own.to(rows.domains.device)[rows.domains], len(bench.adapters)).float()[:, :, None]

    return gates


# --- training and measuring --------------------------------------------------------------------------------------


def fit(config: Config, bench: AdapterBench, mixture: XLora, context: Context, outcome: Outcome) -> None:
    """Train the head, in place; curves and cost into the outcome."""
    judged = [bench.tests[kind] for kind in kinds(config)]
    few = [rows.take(slice(None, None, max(1, len(rows.inputs) // 64))) for rows in judged]
    rows = training_rows(config, bench)
    batches: list[Batch] = [
        rows.take(slice(i, i + config.batch)).batch() for i in range(0, len(rows.inputs), config.batch)
    ]

    def evaluate() -> dict[str, float]:
        losses = [excess(lambda part: logits(mixture, part), rows, config.eval_batch).mean for rows in few]
        return {"loss": sum(losses) / len(losses)}

    outcome.profile |= profile_training(
        mixture, lambda b: batch_loss(mixture, b), batches[0], len(rows.inputs)
    )  # fmt: skip
    trained = train(
        mixture, batches, lambda b: batch_loss(mixture, b), evaluate,
        Optimisation(config.lr, config.steps, config.warmup, config.schedule, weight_decay=0.0, clip=config.clip),
        evaluations=config.evaluations, dtype=config.autocast, progress=context.progress,
    )  # fmt: skip
    outcome.curves, outcome.diverged = trained.curves(), trained.diverged
    outcome.profile["train_s"] = trained.train_s


def kinds(config: Config) -> tuple[str, ...]:
    """Kinds of rows that the head is trained on."""
    return ("pure", "spliced") if config.spliced else ("pure",)


def training_rows(config: Config, bench: AdapterBench) -> DomainRows:
    """Pure rows, every so-manieth replaced by a spliced one, evenly spread."""
    count = config.steps * config.batch
    marks = (torch.arange(count + 1) * config.spliced).floor().long().diff()
    return bench.mixed.take(2 * torch.arange(count) + marks)


def logits(mixture: XLora, rows: DomainRows) -> Tensor:
    """[rows, T, vocabulary], two passes."""
    return mixture(rows.inputs).logits


def given(
    bench: AdapterBench, mixture: XLora, gates: Callable[[DomainRows], Tensor | None], kind: str, batch: int
) -> Excess:
    """Excess under gates that need no head, in one pass."""

    def predict(rows: DomainRows) -> Tensor:
        with mixture.fixed(gates(rows)):
            return bench.model(input_ids=rows.inputs, use_cache=False).logits

    return excess(predict, bench.tests[kind], batch)


def measured(config: Config, bench: AdapterBench, mixture: XLora, kind: str) -> Excess:
    """Excess of the arm on rows of one kind. Of the single adapters the best on just these rows, in hindsight."""
    bank, batch = mixture.bank, config.eval_batch
    if config.gate == "base":
        return given(bench, mixture, lambda _: None, kind, batch)
    if config.gate == "uniform":
        return given(bench, mixture, lambda _: bank.uniform(), kind, batch)
    if config.gate == "own":
        return given(bench, mixture, owners(bench), kind, batch)
    if config.gate == "single":
        alone = [given(bench, mixture, lambda _, i=i: bank.one(i), kind, batch) for i in range(len(bank))]  # type: ignore[misc]
        return min(alone, key=lambda e: e.mean)
    return excess(lambda rows: logits(mixture, rows), bench.tests[kind], batch)


@torch.no_grad()
def gate_statistics(config: Config, bench: AdapterBench, mixture: XLora) -> tuple[dict[str, float], list[float]]:
    """How lambda is spread on pure and spliced rows; and the mean lambda of the domain's own adapter, by module."""
    rows = joined(list(bench.tests.values()))
    found, owned = [], []
    for start in range(0, len(rows.inputs), config.eval_batch):
        part = rows.take(slice(start, start + config.eval_batch))
        gates = mixture.scalings(part.inputs).float()
        gates = gates.expand(*part.inputs.shape, *gates.shape[2:])
        found.append(gates.flatten(0, 1).cpu())
        owned.append((gates * owners(bench)(part)).sum(-1).flatten(0, 1).cpu())
    gates, owned_all = torch.cat(found).double(), torch.cat(owned).double()
    return spread(gates) | {"own_share": float(owned_all.mean())}, owned_all.mean(0).tolist()


def spread(gates: Tensor) -> dict[str, float]:
    """Of gates [tokens, modules, adapters] that sum to one:

    ``gate_entropy``: entropy over log n, mean of all tokens and modules; ``active_adapters``: mean exp of the entropy;
    ``module_variance``: the part of the gates' variance that lies between modules of one token, percent, the rest being
    between tokens; ``largest_share``: mean gate of the adapter that has most.
    """
    entropy = -(gates * gates.clamp(min=1e-12).log()).sum(-1)
    total = gates.flatten(0, 1).var(0, correction=0).sum()
    within = gates.var(1, correction=0).mean(0).sum()
    return {
        "gate_entropy": float(entropy.mean() / math.log(gates.shape[-1])),
        "active_adapters": float(entropy.exp().mean()),
        "module_variance": 100 * float(within / total.clamp(min=1e-12)),
        "largest_share": float(gates.mean((0, 1)).max()),
    }


@torch.no_grad()
def cost(config: Config, bench: AdapterBench, mixture: XLora) -> tuple[float, float]:
    """Of reading some rows, without a cache: FLOPs of matrix products per token, in millions, and seconds, the fastest
    of three. Arms without a head read once, with one adapter (``single``, ``own``), none (``base``) or all."""
    rows = bench.tests["pure"].take(slice(0, COUNTED))

    def read() -> None:
        if config.gate not in FIXED:
            logits(mixture, rows)
            return
        gates = None if config.gate == "base" else mixture.bank.uniform()
        with mixture.fixed(gates):
            bench.model(input_ids=rows.inputs, use_cache=False)

    if config.gate in ("single", "own"):  # one adapter is all that is loaded
        mixture.release()
        mixture = XLora(bench.model, bench.adapters[:1]).eval()
    flops = count_flops(read) / rows.inputs.numel()
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        read()
        times.append(time.perf_counter() - begun)
    return flops / 1e6, min(times)
