"""The arms of Chain-of-Experts: build, train, measure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from papers.coe.method import ChainOfExperts
from papers.coe.paper import Config
from repro.data import load
from repro.data.base import Batch, LanguageData, TupleData
from repro.models.moe import asymmetry, coactivation, diagonal_ratio, usage_entropy
from repro.models.norm import RMSNorm
from repro.runner import Context, Outcome
from repro.training.fit import fit, predict
from repro.training.initial import generator, initialise
from repro.training.loop import Optimisation


class TupleModel(nn.Module):
    """For the tuple tasks: the sum of the symbols' embeddings, the layers, a linear read-out. No attention."""

    def __init__(self, config: Config, data: TupleData):
        super().__init__()
        self.embed = nn.Embedding(data.vocab_size, config.hidden)
        self.layers = nn.ModuleList(
            sublayer(config, whole_batch=True) for _ in range(config.layers * config.depth_scale)
        )
        self.norm = RMSNorm(config.hidden, eps=1e-6)
        self.head = nn.Linear(config.hidden, data.classes, bias=False)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Symbols ``[B, slots]`` to logits ``[B, classes]`` and the balance loss."""
        h, total = self.embed(inputs).sum(1, keepdim=True), None
        for layer in self.layers:
            h, aux = layer(h)
            if aux is not None:
                total = aux if total is None else total + aux
        return self.head(self.norm(h[:, 0])), total


def per_pass(config: Config) -> int:
    """K of one pass: the reference K, scaled and shifted as the arm says."""
    return int(config.k * config.k_scale) + config.k_extra


def sublayer(config: Config, whole_batch: bool = False) -> ChainOfExperts:
    """One mixture-of-experts layer as an arm has it."""
    return ChainOfExperts(
        config.hidden,
        config.expert_width,
        int(config.experts * config.pool_scale),
        per_pass(config),
        config.passes,
        config.shared_experts,
        config.gating,  # type: ignore[arg-type]
        config.residual,  # type: ignore[arg-type]
        config.aux_alpha,
        whole_batch,
    )


def language_model(config: Config, vocab: int, pad: int | None = None, eos: int | None = None) -> nn.Module:
    """The decoder of an arm: the published shape with ``attention="mla"``, a small plain one otherwise."""
    from papers.coe.model import CoEConfig, CoEForCausalLM
    from papers.coe.published import published_config

    arm: dict[str, Any] = {
        "vocab_size": vocab,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers * config.depth_scale,
        "num_attention_heads": config.heads,
        "n_routed_experts": int(config.experts * config.pool_scale),
        "n_shared_experts": config.shared_experts,
        "num_experts_per_tok": per_pass(config),
        "moe_intermediate_size": config.expert_width,
        "passes": config.passes,
        "gating": config.gating,
        "residual": config.residual,
        "aux_loss_alpha": config.aux_alpha,
        "pad_token_id": pad,
        "eos_token_id": eos,
    }
    if config.attention == "mla":
        return CoEForCausalLM(published_config(**arm))
    return CoEForCausalLM(CoEConfig(max_position_embeddings=max(2048, config.sequence), **arm))


def run(config: Config, context: Context) -> Outcome:
    """Train one arm on one setting and measure it."""
    data = load(config.data, config.sequence)
    if isinstance(data, TupleData):
        model: nn.Module = TupleModel(config, data)
    else:
        tokenizer = data.tokenizer
        vocab = max(config.vocab, data.vocab_size)
        model = language_model(config, vocab, tokenizer.pad_token_id, tokenizer.eos_token_id)
    initialise(model, context.seed, std=config.init_std)
    model.to(context.device)

    steps = config.steps * config.length_scale
    outcome, held_out = fit(
        model,
        data,
        Optimisation(
            config.lr_chain if config.passes > 1 and config.lr_chain else config.lr,
            steps,
            config.warmup,
            config.schedule,
            (config.beta1, config.beta2),
            config.weight_decay,
            config.clip,
        ),
        context,
        batch=config.batch,
        eval_batches=config.eval_batches,
        evaluations=config.evaluations,
        average_last=config.average_last,
        dtype=config.dtype,
    )
    outcome.profile |= passes(model)
    routing, outcome.tables = analyse(model, held_out, context.seed)
    outcome.metrics |= routing
    if config.lm_eval_items and isinstance(data, LanguageData):
        from repro.evaluation import zero_shot

        outcome.metrics |= zero_shot(model, data, config.lm_eval_items, context.device)
    return outcome


def passes(model: nn.Module) -> dict[str, float]:
    """Passes through routed experts, and through all experts, that a token makes in the whole model."""
    layers = [m for m in model.modules() if isinstance(m, ChainOfExperts)]
    return {
        "routed_passes": float(sum(layer.routed_passes() for layer in layers)),
        "expert_passes": float(sum(layer.expert_passes() for layer in layers)),
    }


@torch.no_grad()
def analyse(model: nn.Module, batches: list[Batch], seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Routing on held-out tokens: usage, and co-activation of the first two passes with a shuffled null (App. D)."""
    layers = [m for m in model.modules() if isinstance(m, ChainOfExperts)]
    experts = [layer.experts.count for layer in layers]
    chosen: dict[tuple[int, int], list[Tensor]] = {}
    passes: list[list[Tensor]] = [[] for _ in layers]  # of one batch, in the order in which the passes run
    handles = [
        router.register_forward_hook(lambda _m, _x, out, seen=seen: seen.append(out.indices.cpu()))
        for layer, seen in zip(layers, passes, strict=True)
        for router in layer.routers
    ]
    for batch in batches:
        predict(model, batch.inputs)
        mask = (batch.targets != -100).flatten().cpu()
        for i, seen in enumerate(passes):
            for t, indices in enumerate(seen):
                chosen.setdefault((i, t), []).append(indices[mask])
            seen.clear()
    for handle in handles:
        handle.remove()
    picks = {key: torch.cat(parts) for key, parts in chosen.items()}
    balance = [usage_entropy(p, experts[i]) for (i, _), p in picks.items()]
    metrics = {"load_balance": sum(balance) / len(balance)}
    tables: dict[str, Any] = {}
    ratios, skew, excess = [], [], []
    for i in range(len(layers)):
        if (i, 1) not in picks or layers[i].k == experts[i]:
            continue
        first, second = picks[i, 0], picks[i, 1]
        matrix = coactivation(first, second, experts[i])
        shuffled = second[torch.randperm(len(second), generator=generator("co-activation null", seed))]
        null = coactivation(first, shuffled, experts[i])
        ratios.append(diagonal_ratio(matrix))
        skew.append(asymmetry(matrix))
        excess.append(asymmetry(matrix) - asymmetry(null))
        tables.setdefault("coactivation", {})[f"layer {i}"] = [[round(v) for v in row] for row in matrix.tolist()]
    if ratios:
        metrics["coactivation_ratio"] = median(ratios)
        metrics["coactivation_asymmetry"] = median(skew)
        metrics["coactivation_asymmetry_excess"] = median(excess)
    return metrics, tables


def median(values: list[float]) -> float:
    """Middle value; mean of the two middle ones."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))
