"""The published models on the meta device: what dropping half of their attentions saves, exactly."""

from __future__ import annotations

from typing import Any

from papers.llm_drop.method import Dropped, blocks, degradation_ratio, drop
from repro.profiling.architectures import ARCHITECTURES, on_meta

#: Bytes of a value in 16 bits, and of a weight in 4 (the 70B models were quantised for the speed test).
HALF, FOUR_BIT = 2, 0.5
#: Tokens of the speed test: prefill and generation.
PREFILL, GENERATED = 2048, 2048


MODELS = ("llama-2-7b", "llama-2-13b", "llama-2-70b", "llama-3-8b", "llama-3-70b", "mistral-7b")


def parameters(module: Any) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def kv_bytes(model: Any) -> int:
    """Bytes that one token takes in the KV cache at 16 bits: keys and values of every attention that is left."""
    return sum(
        HALF * (layer.self_attn.k_proj.out_features + layer.self_attn.v_proj.out_features)
        for layer in blocks(model)
        if hasattr(layer.self_attn, "k_proj")
    )


def forward_flops(model: Any, tokens: int, context: int) -> float:
    """FLOPs of ``tokens`` positions that each look at ``context`` others on average: 2 per weight that multiplies (the
    embedding does not) and 4 d per attention that is left and position looked at."""
    weights = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name)
    attentions = [layer.self_attn for layer in blocks(model) if hasattr(layer.self_attn, "o_proj")]
    looking = sum(4 * attention.o_proj.in_features * context for attention in attentions)
    return float(tokens) * (2 * weights + looking)


def decode_bytes(model: Any, context: int, sequences: int = 1) -> float:
    """Bytes read to decode one token of each of ``sequences``: the weights once, in 4 bits, and every KV cache."""
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    return FOUR_BIT * weights + sequences * context * kv_bytes(model)


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {}
    total = PREFILL + GENERATED
    for name in MODELS:
        shape = ARCHITECTURES[name]
        model = on_meta(shape)
        block = blocks(model)[0]
        out[f"params_{name}"] = params = parameters(model)
        out[f"params_attention_{name}"] = parameters(block.self_attn)
        out[f"params_mlp_{name}"] = parameters(block.mlp)
        out[f"kv_bytes_per_token_{name}"] = kv = kv_bytes(model)
        flops = forward_flops(model, total, total // 2)
        reading = decode_bytes(model, PREFILL + GENERATED // 2)
        many = decode_bytes(model, PREFILL + GENERATED // 2, 10**9)
        # which half does not matter: all blocks have one shape
        drop(model, Dropped(attention=tuple(range(shape.layers // 2, shape.layers))))
        out[f"params_saved_percent_{name}"] = 100 * (1 - parameters(model) / params)
        out[f"kv_kept_percent_{name}"] = 100 * kv_bytes(model) / kv
        out[f"flops_speedup_{name}"] = flops / forward_flops(model, total, total // 2)
        out[f"bytes_speedup_{name}"] = reading / decode_bytes(model, PREFILL + GENERATED // 2)
        out[f"bytes_speedup_limit_{name}"] = many / decode_bytes(model, PREFILL + GENERATED // 2, 10**9)
    out["tokens_behind_52_gb_llama-2-13b"] = 52e9 / out["kv_bytes_per_token_llama-2-13b"]
    out["gamma_llama-2-70b"] = degradation_ratio(73.9 - 71.5, 1.484)
    return out
