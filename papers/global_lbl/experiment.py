"""The arms of global-batch load balancing: build, train, and look at who uses which expert."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from papers.global_lbl.method import (
    BalancedMoE,
    balance_loss,
    pooled,
    selection_counts,
    set_scope,
    start_step,
    synchronised,
)
from papers.global_lbl.model import GlobalLBLConfig, GlobalLBLForCausalLM
from papers.global_lbl.paper import Config
from repro.data import load_language
from repro.data.base import IGNORED, Batch, order_seed
from repro.data.domains import DomainData
from repro.evaluation.specialisation import (
    frequencies,
    load_imbalance,
    mutual_information,
    peak_frequency,
    selection_table,
    shuffled_information,
    top_score_sum,
)
from repro.runner import Context, Outcome
from repro.training.fit import fit, predict
from repro.training.initial import generator, initialise
from repro.training.loop import Optimisation


def language_model(
    config: Config, vocab: int, pad: int | None = None, eos: int | None = None, seed: int = 0
) -> GlobalLBLForCausalLM:
    """The decoder of an arm."""
    return GlobalLBLForCausalLM(
        GlobalLBLConfig(
            vocab_size=vocab,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=max(2048, config.sequence),
            tie_word_embeddings=config.tied,
            n_routed_experts=config.experts,
            n_shared_experts=config.shared,
            num_experts_per_tok=int(config.k * config.k_scale),
            moe_intermediate_size=config.width,
            gating=config.gating,
            balance_scope=config.scope,
            balance_span=config.bsz // config.micro_batch,
            balance_weight=config.weight * config.weight_scale,
            micro_share=config.micro_share,
            micro_batch=config.micro_batch,
            shuffle_seed=seed,
            bias_rate=config.bias_rate,
            z_loss_weight=config.z_weight,
            pad_token_id=pad,
            eos_token_id=eos,
        )
    )


class Kept:
    """What the balance of a model's layers keeps from step to step, for a training that is kept as it goes on.

    That is the scope it was switched to, where the shuffles stand, and the loads of the last step, by which biases are
    yet to move.
    """

    def __init__(self, model: nn.Module):
        self.layers = [m for m in model.modules() if isinstance(m, BalancedMoE)]

    def state_dict(self) -> dict[str, Any]:
        return {"layers": [self._of(layer) for layer in self.layers]}

    @staticmethod
    def _of(layer: BalancedMoE) -> dict[str, Any]:
        balance, loads = layer.balance, layer.loads
        if loads and balance.scope != "micro":  # several processes have loads of their own
            loads = [synchronised(torch.cat(loads).sum(0, keepdim=True, dtype=loads[0].dtype), balance.process_group)]
        draws = balance.generator
        return {
            "scope": balance.scope, "span": balance.span, "loads": loads,
            "generator": None if draws is None else draws.get_state(),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for layer, kept in zip(self.layers, state["layers"], strict=True):
            balance = layer.balance
            balance.scope, balance.span = kept["scope"], kept["span"]
            layer.loads = [load.to(layer.experts.down_proj.device) for load in kept["loads"]]
            if balance.scope != "micro" and dist.is_initialized() and dist.get_rank():
                layer.loads = [torch.zeros_like(load) for load in layer.loads]
            balance.generator = None
            if kept["generator"] is not None:
                balance.generator = torch.Generator()
                balance.generator.set_state(kept["generator"])


def run(config: Config, context: Context) -> Outcome:
    """Train one arm on one setting and measure it."""
    data = load_language(config.data, config.sequence, micro_batch=config.micro_batch)
    assert isinstance(data, DomainData)
    tokenizer = data.tokenizer
    vocab = max(config.vocab, data.vocab_size)
    seed = order_seed("shuffled selections", context.seed)
    model: nn.Module = language_model(config, vocab, tokenizer.pad_token_id, tokenizer.eos_token_id, seed)
    initialise(model, context.seed, std=config.init_std)
    model.to(context.device)
    switch = round(config.switch_at * config.steps)

    def before_step(step: int) -> None:
        start_step(model, step)
        if switch and step == switch:
            set_scope(model, config.switch_to)  # type: ignore[arg-type]

    # all micro-batches of a step in one pass, or cut into so many passes; the rows and their order stay the same
    accumulate = config.passes
    outcome, held_out = fit(
        model,
        data,
        Optimisation(
            config.lr,
            config.steps,
            config.warmup,
            config.schedule,
            (config.beta1, config.beta2),
            config.weight_decay,
            config.clip,
        ),
        context,
        batch=config.batch // accumulate,
        eval_batches=config.eval_batches * accumulate,
        evaluations=config.evaluations,
        average_last=config.average_last,
        dtype=config.dtype,
        accumulate=accumulate,
        before_step=before_step,
        stateful={"balance": Kept(model)},
    )
    outcome.metrics["perplexity"] = math.exp(min(outcome.metrics["loss"], 50.0))
    labels = data.held_out_domains(config.eval_batches * accumulate, config.batch // accumulate)
    found, outcome.tables = analyse(model, held_out, labels, data, context.seed)
    outcome.metrics |= found
    return outcome


@torch.no_grad()
def analyse(
    model: nn.Module, batches: list[Batch], labels: list[Tensor], data: DomainData, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Section 5 on held-out rows: which expert serves which domain, and how even the load is, in all and locally."""
    layers = [m for m in model.modules() if isinstance(m, BalancedMoE)]
    seen: list[list[Any]] = [[] for _ in layers]
    handles = [
        layer.router.register_forward_hook(
            lambda _m, _x, out, into=into: into.append((out.scores.cpu(), out.indices.cpu()))
        )
        for layer, into in zip(layers, seen, strict=True)
    ]
    model.eval()
    losses = []
    for batch in batches:
        logits = predict(model, batch.inputs)[0].flatten(0, 1).float()
        losses.append(F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED, reduction="none").cpu())
    for handle in handles:
        handle.remove()
    domain = torch.cat([part.flatten() for part in labels])
    kinds = len(data.domains)
    sums = torch.bincount(domain, torch.cat(losses).double(), minlength=kinds)
    means = sums / domain.bincount(minlength=kinds)
    tables: dict[str, Any] = {
        "domains": list(data.domains),
        "loss": {name: round(float(value), 6) for name, value in zip(data.domains, means, strict=True)},
        "frequency": {},
    }
    parts: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        parts.setdefault(name, []).append(value)

    for index, (layer, kept) in enumerate(zip(layers, seen, strict=True)):
        scores, indices = (torch.cat(column) for column in zip(*kept, strict=True))
        experts, k = layer.experts.count, layer.router.k
        table = selection_table(indices, domain, experts, kinds)
        note("domain_information", mutual_information(table))
        draw = generator(f"domains at random, layer {index}", seed)
        note("shuffled_information", shuffled_information(indices, domain, experts, kinds, draw))
        note("domain_peak", peak_frequency(table, k))
        note("top_score_sum", top_score_sum(scores, indices))
        note("imbalance", float(load_imbalance(table.sum(0))))
        # held-out rows come micro-batch by micro-batch too; a last one may be incomplete
        size = layer.micro_batch * data.sequence
        groups = len(indices) // size
        counts = selection_counts(indices[: groups * size], experts, groups)
        shares = scores[: groups * size] / scores[: groups * size].sum(-1, keepdim=True)
        shares = shares.view(groups, size, experts).mean(1)
        note("local_imbalance", float(load_imbalance(counts).mean()))
        note("extra_constraint", float(balance_loss(counts, shares) - balance_loss(pooled(counts), shares)))
        shown = frequencies(table, k)
        tables["frequency"][f"layer {index}"] = [[round(v, 4) for v in row] for row in shown.tolist()]
    metrics = {name: sum(values) / len(values) for name, values in parts.items()}
    metrics["domain_peak"], metrics["imbalance"] = max(parts["domain_peak"]), max(parts["imbalance"])
    metrics["top_score_sum_first"] = parts["top_score_sum"][0]
    metrics["top_score_sum_last"] = parts["top_score_sum"][-1]
    return metrics, tables
