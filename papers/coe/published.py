"""The published Chain-of-Experts architectures, on the meta device: what they hold and cost, exactly."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from papers.coe.method import ChainOfExperts
from papers.coe.model import CoEConfig, CoEForCausalLM

#: Bytes per parameter of float32 weights, gradients and Adam's two moments: what the paper's "memory" is.
TRAINING_BYTES = 16

#: name: (routed experts, K per pass, C, layers). The paper's N counts the shared expert too: N=64 is 63 + 1.
MODELS = {
    "moe": (63, 8, 1, 4),
    "moe_k9": (63, 9, 1, 4),
    "coe": (63, 4, 2, 4),
    "coe_k8": (63, 8, 2, 4),
    "moe_k16": (63, 16, 1, 4),
    "moe_k24": (63, 24, 1, 4),
    "coe_n48": (47, 4, 2, 4),
    "deep2": (63, 8, 1, 8),
    "deep3": (63, 8, 1, 12),
}


def published_config(experts: int = 63, k: int = 8, passes: int = 1, layers: int = 4, **changes: Any) -> CoEConfig:
    """Configuration of the published models (official repository): DeepSeek-V2-Lite's shape scaled down."""
    values: dict[str, Any] = {
        "vocab_size": 102400,
        "hidden_size": 1024,
        "num_hidden_layers": layers,
        "num_attention_heads": 8,
        "attention": "mla",
        "kv_lora_rank": 512,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": experts,
        "n_shared_experts": 1,
        "num_experts_per_tok": k,
        "moe_intermediate_size": 704,
        "passes": passes,
        "max_position_embeddings": 163840,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 40.0,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
        },
        **changes,
    }
    return CoEConfig(**values)


def on_meta(config: CoEConfig) -> CoEForCausalLM:
    """The model without storage: shapes only, so that any size fits."""
    with torch.device("meta"):
        return CoEForCausalLM(config)


def non_embedding(model: CoEForCausalLM) -> int:
    """Parameters of the layers: without embedding, final norm and head, as the repository counts."""
    return sum(p.numel() for p in model.layers.parameters())


def forward_macs(model: CoEForCausalLM) -> int:
    """Multiply-accumulates per token of one forward pass, without attention scores; experts as often as they run."""
    total = model.lm_head.weight.numel()
    total += sum(
        m.weight.numel() for n, m in model.layers.named_modules() if "self_attn" in n and isinstance(m, nn.Linear)
    )
    for chain in model.modules():
        if isinstance(chain, ChainOfExperts):
            total += chain.expert_passes() * chain.experts.parameters_each
            total += chain.passes * sum(p.numel() for p in chain.routers[0].parameters())
    return total


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {}
    for name, (experts, k, passes, layers) in MODELS.items():
        model = on_meta(published_config(experts, k, passes, layers))
        total = sum(p.numel() for p in model.parameters())
        out[f"params_layers_{name}"] = non_embedding(model)
        out[f"params_mi_{name}"] = non_embedding(model) / 2**20
        out[f"params_total_{name}"] = total
        out[f"memory_gb_{name}"] = TRAINING_BYTES * total / 2**30
        out[f"forward_macs_per_token_{name}"] = forward_macs(model)
        out[f"kv_cache_bytes_per_token_{name}"] = (
            2 * layers * (model.config.kv_lora_rank + model.config.qk_rope_head_dim)
        )
    for saving, less, more in (("pool", "coe_n48", "moe"), ("deep2", "coe", "deep2"), ("deep3", "coe", "deep3")):
        out[f"memory_saving_{saving}"] = 100 * (1 - out[f"memory_gb_{less}"] / out[f"memory_gb_{more}"])
    for pool in (64, 63):
        out[f"combinations_ratio_{pool}"] = math.comb(pool, 4) ** 2 / math.comb(pool, 8)
    out["shared_expert_extra_macs_percent"] = 100 * (
        out["forward_macs_per_token_coe"] / out["forward_macs_per_token_moe"] - 1
    )
    return out
