"""The published DeepSeekMoE models and those they are compared with: what they hold and cost.

The 16B model is built on the meta device (plain multi-head attention and a dense first layer, as released); the others
are arithmetic. The paper's FLOPs come out from one formula, all to the last digit but one that is 0.02 % off (145B),

    6 (L (4 d^2 + a d^2) + V d) T + 12 L T^2 d

per sequence of T tokens, where every model has multi-head attention of 4 d^2 weights and a standard FFN of 8 d^2, so
that a = 8 for a dense model and 8 times the standard FFNs that are active for a sparse one, in all layers. The released
models differ from that: their widths are rounded, the first layer is dense, and DeepSeek 67B has grouped-query
attention. Figures called ``released`` count them as they are.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from papers.deepseekmoe.method import DeepSeekMoE
from papers.deepseekmoe.model import DeepSeekMoEConfig, DeepSeekMoEForCausalLM

BILLION, TERA = 1e9, 1e12
#: Hidden size, layers, vocabulary and training tokens per sequence of the 2B models.
D2, L2, V2, T2 = 1280, 9, 8000, 2048
#: Standard FFNs a layer of the 2B models: all, and active.
ARMS_2B = {
    "dense": (1, 1),
    "switch": (16, 1),
    "gshard": (16, 2),
    "x12": (19.2, 2.4),
    "x15": (24, 3),
    "x4": (4, 4),
    "x16": (16, 16),
}
V, T = 102400, 4096
#: Large models by the paper's rule: layers, hidden, vocabulary, FFN weights active a layer over d^2.
LARGE = {
    "16b": (28, 2048, V, 16),
    "7b": (30, 4096, V, 8),
    "llama2": (32, 4096, 32000, 8),
    "67b": (95, 8192, V, 8),
    # experts of 145B are an eighth of a standard FFN, rounded up to 1408
    "145b": (62, 4096, V, 16 * 3 * 1408 / 4096),
    "142b_half": (62, 4096, V, 8 * 3 * 1408 / 4096),
}


#: Weights over d^2 of the dense first layer of the 145B and 137B models, which the paper does not give: a standard FFN,
#: or two of them, as much as the layers above activate and as wide as the first layer of the released 16B model.
FIRST_LAYER = {"": 8, "_wide": 16}


def flops(weights: float, layers: int, hidden: int, tokens: int) -> float:
    """Training FLOPs of a sequence: 6 per weight and token, and 12 L T^2 d for attention scores and their use."""
    return 6 * weights * tokens + 12 * layers * tokens**2 * hidden


def config_16b(**changes: Any) -> DeepSeekMoEConfig:
    """Configuration of ``deepseek-ai/deepseek-moe-16b-base``."""
    values: dict[str, Any] = {
        "vocab_size": V,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "moe_intermediate_size": 1408,
        "first_k_dense_replace": 1,
        "aux_loss_alpha": 0.001,
        "max_position_embeddings": 4096,
        **changes,
    }
    return DeepSeekMoEConfig(**values)


def on_meta(config: DeepSeekMoEConfig) -> DeepSeekMoEForCausalLM:
    """The model without storage: shapes only, so that any size fits."""
    with torch.device("meta"):
        return DeepSeekMoEForCausalLM(config)


def total_and_active(model: nn.Module) -> tuple[int, int]:
    """Parameters, and those that one token touches (embedding and head counted whole)."""
    total = sum(p.numel() for p in model.parameters())
    return total, total - sum(m.idle_parameters() for m in model.modules() if isinstance(m, DeepSeekMoE))


def sixty_two_layers(first: float, routed: int, experts: int, active: int, width: float) -> tuple[float, float]:
    """Parameters of a 62-layer model of hidden size 4096, all and those that a token touches.

    Args:
        first: weights over d^2 of the dense first layer.
        routed: routed experts a layer, each with a router row.
        experts: all experts a layer, shared ones included.
        active: of them active.
        width: of an expert.
    """
    layers, d = 62, 4096
    around = layers * 4 * d**2 + first * d**2 + 2 * V * d + (layers - 1) * routed * d
    expert = 3 * d * width
    return around + (layers - 1) * experts * expert, around + (layers - 1) * active * expert


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {}
    ffn, attention = 8 * D2**2, 4 * D2**2
    for name, (pool, active) in ARMS_2B.items():
        out[f"params_b_2b_experts_{name}"] = pool * ffn * L2 / BILLION
        out[f"params_b_2b_experts_active_{name}"] = active * ffn * L2 / BILLION
        weights = L2 * (attention + active * ffn) + V2 * D2
        out[f"tflops_2b_{name}"] = flops(weights, L2, D2, T2) / TERA
    out["params_b_2b"] = (L2 * (attention + 16 * ffn) + 2 * V2 * D2) / BILLION
    out["params_b_2b_active"] = L2 * (attention + 2 * ffn) / BILLION

    for name, (layers, hidden, vocab, active) in LARGE.items():
        weights = layers * (4 + active) * hidden**2 + vocab * hidden
        out[f"tflops_{name}"] = flops(weights, layers, hidden, T) / TERA
    for ratio, less, more in (
        ("16b_7b", "16b", "7b"), ("16b_llama2", "16b", "llama2"), ("145b_67b", "145b", "67b"),
        ("142b_67b", "142b_half", "67b"),
    ):  # fmt: skip
        out[f"ratio_{ratio}"] = 100 * out[f"tflops_{less}"] / out[f"tflops_{more}"]

    total, active_16b = total_and_active(on_meta(config_16b()))
    out["params_16b"], out["params_16b_active"] = total, active_16b
    out["params_b_16b"], out["params_b_16b_active"] = total / BILLION, active_16b / BILLION
    out["bf16_gb_16b"] = 2 * total / BILLION
    out["tflops_16b_released"] = flops(active_16b - V * 2048, 28, 2048, T) / TERA
    weights_7b = 30 * (4 * 4096**2 + 3 * 4096 * 11008) + V * 4096
    out["tflops_7b_released"] = flops(weights_7b, 30, 4096, T) / TERA
    out["ratio_16b_7b_released"] = 100 * out["tflops_16b_released"] / out["tflops_7b_released"]
    weights_67b = 95 * (2 * 8192**2 + 2 * 8192 * 1024 + 3 * 8192 * 22016) + V * 8192  # 8 heads of keys and values
    out["tflops_67b_released"] = flops(weights_67b, 95, 8192, T) / TERA
    out["ratio_145b_67b_released"] = 100 * out["tflops_145b"] / out["tflops_67b_released"]

    for suffix, first in FIRST_LAYER.items():
        ours, touched = sixty_two_layers(first, routed=128, experts=132, active=16, width=1408)
        gshard, _ = sixty_two_layers(first, routed=16, experts=16, active=2, width=8 * 4096 / 3)
        out[f"params_b_145b{suffix}"], out[f"params_b_145b_active{suffix}"] = ours / BILLION, touched / BILLION
        out[f"params_b_137b{suffix}"] = gshard / BILLION
    out["combinations_16_2"] = math.comb(16, 2)
    out["combinations_64_8"] = math.comb(64, 8)
    return out
