"""The arms of DeepSeekMoE: build, train, measure, and take the trained layers apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from papers.deepseekmoe.baselines import AlwaysOn, HashLayer
from papers.deepseekmoe.method import Ablation, DeepSeekMoE, Shape, ablated, segment
from papers.deepseekmoe.model import DeepSeekMoEConfig, DeepSeekMoEForCausalLM
from papers.deepseekmoe.paper import Config
from repro.data import load_language
from repro.data.base import Batch
from repro.models.moe import usage_entropy
from repro.runner import Context, Outcome
from repro.training.fit import evaluate, fit
from repro.training.initial import initialise
from repro.training.loop import Optimisation


class StepDecay(Optimisation):
    """With ``schedule="step"`` the paper's: warm-up, then constant, times 0.316 at 80 % of the steps and once more at
    90 %."""

    def factor(self, step: int) -> float:
        """Multiplier of the learning rate at a step counted from 0."""
        if self.schedule != "step":
            return super().factor(step)
        ramp = max(1, round(self.warmup * self.steps))
        if step < ramp:
            return (step + 1) / ramp
        return 0.316 ** ((step >= 0.8 * self.steps) + (step >= 0.9 * self.steps))


def layer_shape(config: Config) -> Shape:
    """Routed and shared experts of an arm. Without a router: no routed ones, and as many "shared" as are always on."""
    width = round(config.width * config.widen)
    if config.router == "none":
        return Shape(0, 0, config.experts if config.shared < 0 else config.shared, width)
    active = round(config.active * config.active_scale * config.segments)
    whole = segment(config.experts, config.active, width, config.segments, config.shared)
    return whole._replace(active=active - config.shared)


def language_model(
    config: Config, vocab: int, pad: int | None = None, eos: int | None = None
) -> DeepSeekMoEForCausalLM:  # fmt: skip
    """The decoder of an arm."""
    shape = layer_shape(config)
    return DeepSeekMoEForCausalLM(
        DeepSeekMoEConfig(
            vocab_size=vocab,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=max(2048, config.sequence),
            n_routed_experts=shape.routed,
            n_shared_experts=shape.shared,
            num_experts_per_tok=shape.active,
            moe_intermediate_size=shape.width,
            router=config.router,
            aux_loss_alpha=config.alpha,
            pad_token_id=pad,
            eos_token_id=eos,
        )
    )


def run(config: Config, context: Context) -> Outcome:
    """Train one arm on one setting and measure it."""
    data = load_language(config.data, config.sequence)
    tokenizer = data.tokenizer
    model: nn.Module = language_model(
        config, max(config.vocab, data.vocab_size), tokenizer.pad_token_id, tokenizer.eos_token_id
    )  # fmt: skip
    initialise(model, context.seed, std=config.init_std)
    model.to(context.device)

    outcome, held_out = fit(
        model,
        data,
        StepDecay(
            config.lr,
            config.steps,
            config.warmup,
            config.schedule,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            clip=config.clip,
        ),
        context,
        batch=config.batch,
        eval_batches=config.eval_batches,
        evaluations=config.evaluations,
        average_last=config.average_last,
        dtype=config.dtype,
    )
    total, active = expert_parameters(model)
    outcome.profile |= {"expert_params_total": float(total), "expert_params_active": float(active)}
    found, outcome.tables = analyse(model, held_out)
    outcome.metrics |= found
    if config.lm_eval_items:
        from repro.evaluation import zero_shot

        outcome.metrics |= zero_shot(model, data, config.lm_eval_items, context.device)
    return outcome


def expert_parameters(model: nn.Module) -> tuple[int, int]:
    """Parameters of all expert FFNs, and of those that one token activates; routers, norms, attention not counted."""
    total = idle = 0
    for module in model.modules():
        if isinstance(module, (DeepSeekMoE, HashLayer, AlwaysOn)):
            router = module.router.weight.numel() if isinstance(module, DeepSeekMoE) else 0
            total += sum(p.numel() for p in module.parameters()) - router
            idle += 0 if isinstance(module, AlwaysOn) else module.idle_parameters()
    return total, total - idle


#: Fractions of the routed experts that are disabled in turn, as in the paper's Figure 4 (0 to 4/16).
FRACTIONS = (0.0, 1 / 16, 1 / 8, 3 / 16, 1 / 4)
#: Routed experts that stay active in the analysis of fewer of them (Figure 5: 4 of 7 match GShard).
FEW = 4
#: Random replacements that the yardstick of the shared expert is averaged over.
DRAWS = 3


def analyse(model: nn.Module, batches: list[Batch]) -> tuple[dict[str, float], dict[str, Any]]:
    """Section 4.5 on the trained model: experts disabled, replaced, left out; and how evenly they are used."""
    layers = [m for m in model.modules() if isinstance(m, DeepSeekMoE)]
    if not layers:
        return {"loss_few": evaluate(model, batches)["loss"]}, {}
    shape = layers[0].shape

    def loss(**change: Any) -> dict[str, float]:
        with ablated(model, Ablation(**change)):
            return evaluate(model, batches)

    plain = loss()
    metrics = {"load_balance": balance(model, layers, batches)}
    tables: dict[str, Any] = {"disabled": {}}
    for fraction in FRACTIONS:
        if round(fraction * shape.routed) + shape.active <= shape.routed:
            found = loss(disabled=fraction)
            tables["disabled"][f"{fraction:.4f}"] = found["loss"]
            for name in ("loss", "answer_loss"):
                if name in found:
                    key = f"{'' if name == 'loss' else 'answer_'}disabled_{round(16 * fraction)}_16"
                    metrics[key] = 100 * (found[name] / plain[name] - 1)
    metrics["loss_few"] = loss(extra=min(0, FEW - shape.active))["loss"]
    if shape.active < shape.routed:
        lost = [loss(replaced=draw)["loss"] - plain["loss"] for draw in range(DRAWS)]
        metrics["routed_replaced"] = sum(lost) / DRAWS
        if shape.shared:
            metrics["shared_removed"] = loss(shared=False, extra=1)["loss"] - plain["loss"]
            metrics["shared_over_routed"] = metrics["shared_removed"] - 10 * metrics["routed_replaced"]
    return metrics, tables


@torch.no_grad()
def balance(model: nn.Module, layers: list[DeepSeekMoE], batches: list[Batch]) -> float:
    """Entropy of expert usage on held-out tokens over log N', mean over layers."""
    seen: list[list[Tensor]] = [[] for _ in layers]
    handles = [
        layer.router.register_forward_hook(lambda _m, _x, out, into=into: into.append(out.indices.cpu()))
        for layer, into in zip(layers, seen, strict=True)
    ]
    for batch in batches:
        model(input_ids=batch.inputs, use_cache=False)
    for handle in handles:
        handle.remove()
    found = [usage_entropy(torch.cat(i), layer.shape.routed) for layer, i in zip(layers, seen, strict=True)]
    return sum(found) / len(found)
