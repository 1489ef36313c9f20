"""The published models on the meta device: what LISA, LoRA and full fine-tuning train, hold and compute, exactly.

Memory is counted for one row of 1024 tokens without checkpointing, as in the paper's memory study, with everything in
16 bits, the moments too: 59 GB for full fine-tuning of a 7B model leave no room for float32. Activations are what
autograd keeps in a forward pass of the architecture itself; twice, with attention as plain matrix products (the paper
names no flash attention) and as a fused kernel, which keeps no scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from papers.lisa.method import LISA, decoder_layers, never_trained
from repro.profiling.architectures import ARCHITECTURES, Architecture, on_meta
from repro.profiling.training_memory import StepMemory, step_memory
from repro.training.finetune import with_lora

#: Of the paper's memory study.
TOKENS = 1024
#: Bytes of a moment: mixed precision, and everything in 16 bits.
FLOAT, HALF = 4, 2
GB = 1e9


#: Models that the paper or its replication trains, with the number of layers that are drawn.
MODELS = {
    "llama-2-7b": 2, "mistral-7b": 2, "llama-3.1-8b": 2, "tinyllama": 2, "llama-2-70b": 4, "qwen-2.5-3b": 2,
}  # fmt: skip


class _Fused(torch.autograd.Function):
    """Attention as far as memory goes: what a fused kernel keeps for the backward pass, and an output of its shape."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, tokens, width = query.shape
        out = query.new_empty(batch, tokens, heads, width)
        ctx.save_for_backward(query, key, value, out, query.new_empty(batch, heads, tokens, dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise NotImplementedError("it has no values, only shapes")


def fused_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """An attention of transformers: heads first, ``[B, H, T, D]``, to ``[B, T, H, D]``."""
    return _Fused.apply(query, key, value), None  # type: ignore[no-untyped-call]


def counted(shape: Architecture, fused: bool = False) -> Any:
    """The model in bfloat16 without storage; attention as plain matrix products, or as a fused kernel."""
    from transformers import AttentionInterface

    AttentionInterface.register("counted_fused", fused_attention)
    return on_meta(shape, torch.bfloat16, "counted_fused" if fused else "eager").train()


def trainable(model: nn.Module) -> int:
    """Number of parameters that are trained now."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def memory(model: nn.Module, moment_bytes: int = HALF, tokens: int = TOKENS) -> StepMemory:
    """Of a step on one row."""
    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    mask = torch.zeros(1, 1, tokens, tokens, dtype=torch.bfloat16, device="meta")  # given: to make one, values are read
    found: Any = model

    def loss() -> Any:
        return found(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss

    return step_memory(model, loss, moment_bytes=moment_bytes)


def step_flops(model: nn.Module, tokens: int = TOKENS) -> float:
    """FLOPs of the matrix products of a step on one row, from the shapes of what is trained now.

    Forward: 2 for each weight that multiplies and 4 t d for each attention. Backward: as much again for the gradient
    of what comes in, wherever something below is trained, and 2 for each weight whose gradient is wanted. The embedding
    multiplies nothing.
    """
    layers = decoder_layers(model)
    linears = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    total = sum(tokens * m.weight.numel() * (4 + 2 * m.weight.requires_grad) for m in linears.values())
    embedding: Any = model
    if not any(p.requires_grad for p in embedding.get_input_embeddings().parameters()):
        # nothing is trained below the first layer: what it reads needs no gradient
        first: Any = layers[0]
        for part in (first.self_attn.q_proj, first.self_attn.k_proj, first.self_attn.v_proj):
            reads = [m for name, m in part.named_modules() if isinstance(m, nn.Linear) and "lora_B" not in name]
            total -= sum(2 * tokens * m.weight.numel() for m in reads)
    config: Any = model.config
    return total + 12.0 * tokens * tokens * config.hidden_size * len(layers)


#: Attention, by what it is called in the figures.
ATTENTION = {"": False, "_fused": True}
#: Ranks of LoRA: the paper's for 7B and 70B, and that of an independent replication.
RANKS = (128, 16)


def held(shape: Architecture, fused: bool, gamma: int = 2) -> dict[str, StepMemory]:
    """Memory of a step per way of training: ``full``, ``lisa``, ``lora128``, ``lora16``; ``lora128wide`` and so on with
    adapters in 32 bits, peft's default."""
    model = counted(shape, fused)
    found = {"full": memory(model)}
    LISA(model, gamma).before_step(0)
    found["lisa"] = memory(model)
    for rank in RANKS:
        for suffix, dtype in (("", torch.bfloat16), ("wide", torch.float32)):
            found[f"lora{rank}{suffix}"] = memory(with_lora(counted(shape, fused), rank, dtype=dtype))
    return found


def with_float_moments(found: StepMemory) -> StepMemory:
    """The same with moments of 32 bits, as in mixed precision."""
    return found._replace(moments=found.moments * FLOAT / HALF)


#: Models whose memory the claims ask for.
WEIGHED = ("llama-2-7b", "llama-3.1-8b", "qwen-2.5-3b")


def extended(shape: Architecture, count: Callable[[Architecture], float], gamma: int) -> float:
    """What ``count`` gives for a model of full depth, from models of gamma + 1 and gamma + 2 layers: all layers have
    one shape, and those beyond gamma are frozen, so that each adds as much as the one before. Exact, in less time."""
    few, more = (count(shape._replace(layers=gamma + n)) for n in (1, 2))
    return few + (shape.layers - gamma - 1) * (more - few)


def deepened(shape: Architecture, fused: bool, gamma: int = 2) -> dict[str, StepMemory]:
    """`held`, `extended`."""
    few, more = (held(shape._replace(layers=gamma + n), fused, gamma) for n in (1, 2))
    further = shape.layers - gamma - 1
    return {
        way: StepMemory(*(a + further * (b - a) for a, b in zip(few[way], more[way], strict=True))) for way in few
    }  # fmt: skip


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {"never_trained_percent": 100 * never_trained(32, 2, 6)}
    for name, gamma in MODELS.items():
        shape = ARCHITECTURES[name]
        model = counted(shape)
        whole, flops = trainable(model), step_flops(model)
        lisa = LISA(model, gamma)
        layer, always = (sum(p.numel() for p in part) for part in (lisa.parameters[0], lisa.outside))
        lisa.before_step(0)
        parts, drawn_flops = trainable(model), step_flops(model)
        adapters, adapted_flops = (
            extended(shape, lambda s, count=count: count(with_lora(counted(s), RANKS[0])), gamma)  # type: ignore[misc]
            for count in (trainable, step_flops)
        )
        out |= {
            f"params_{name}": whole, f"layer_{name}": layer, f"always_{name}": always, f"lisa_{name}": parts,
            f"lora128_{name}": adapters, f"lisa_share_{name}": 100 * parts / whole,
            f"always_share_{name}": 100 * always / parts, f"moments_full_gb_{name}": 2 * FLOAT * whole / GB,
            f"moments_lisa_gb_{name}": 2 * FLOAT * parts / GB,
            f"moments_lora128_gb_{name}": 2 * FLOAT * adapters / GB,
            f"speedup_full_{name}": flops / drawn_flops, f"speedup_lora_{name}": adapted_flops / drawn_flops,
        }  # fmt: skip
    for name in WEIGHED:
        for suffix, fused in ATTENTION.items():
            found = deepened(ARCHITECTURES[name], fused, MODELS[name])
            for way, memories in found.items():
                out |= {
                    f"peak_low_gb_{way}{suffix}_{name}": memories.low / GB,
                    f"peak_gb_{way}{suffix}_{name}": memories.high / GB,
                    f"activations_gb_{way}{suffix}_{name}": memories.activations / GB,
                }
            for lora in (way for way in found if way.startswith("lora")):
                pair = found["lisa"], found[lora]
                mixed = [with_float_moments(memories) for memories in pair]
                out |= {
                    f"lisa_over_{lora}{suffix}_{name}": pair[0].high / pair[1].high,
                    f"lisa_over_{lora}_float{suffix}_{name}": mixed[0].high / mixed[1].high,
                }
    return out
