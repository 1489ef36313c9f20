"""The published sizes: parameters on the meta device, multiply-accumulates by arithmetic.

The paper's "Gflops" are multiply-accumulates of linear layers only, of one latent of 32 x 32 without guidance; the DiT
paper's hold the two products of attention as well. Both are given, ``gmac`` and ``gmac_full``. Norms on queries and
keys, which the two largest models have, are in neither count.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from papers.dit_moe.method import MoEShape, SparseMoE, dit_moe
from repro.models.dit import DiT, DiTConfig
from repro.models.moe import SwiGLU
from repro.models.vit import MLP


class Size(NamedTuple):
    """Blocks, hidden size, heads and routed experts of a published model."""

    layers: int
    hidden: int
    heads: int
    experts: int


MODELS = {
    "s8": Size(12, 384, 6, 8),
    "s16": Size(12, 384, 6, 16),
    "b8": Size(12, 768, 12, 8),
    "l8": Size(24, 1024, 16, 8),
    "xl8": Size(28, 1152, 16, 8),
    "g16": Size(40, 1408, 16, 16),
}
DIT_XL = Size(28, 1152, 16, 0)
G, GIB = 1e9, 2**30


def latent_config(size: Size) -> DiTConfig:
    """On latents of 4 x 32 x 32 with learned variance, 1,000 classes."""
    return DiTConfig(32, 2, 4, 1000, size.hidden, size.layers, size.heads, outputs=8)


def on_meta(size: Size) -> DiT:
    """The model without storage; without experts DiT's own."""
    with torch.device("meta"):
        config = latent_config(size)
        return dit_moe(config, MoEShape(size.experts)) if size.experts else DiT(config)


def active(model: nn.Module) -> int:
    """Parameters that one token touches."""
    idle = sum(m.idle_parameters() for m in model.modules() if isinstance(m, SparseMoE))
    return sum(p.numel() for p in model.parameters()) - idle


def blocks_of(model: DiT) -> list[Any]:
    return list(model.blocks)


def token_macs(model: DiT) -> int:
    """Multiply-accumulates of the linear layers for one token."""
    total = model.patches.weight.numel() + model.out.weight.numel()
    for block in blocks_of(model):
        layer: Any = block.feed_forward
        total += block.attention.qkv.weight.numel() + block.attention.out.weight.numel()
        if isinstance(layer, SparseMoE):
            total += layer.router.weight.numel() + layer.shape.active * layer.experts.parameters_each
            layer = layer.shared
        if isinstance(layer, SwiGLU):
            total += layer.gate_up_proj.weight.numel() + layer.down_proj.weight.numel()
        elif isinstance(layer, MLP):
            total += layer.fc1.weight.numel() + layer.fc2.weight.numel()
    return total


def macs(model: DiT) -> tuple[int, int]:
    """Multiply-accumulates of one image: of the linear layers, and of the two products of attention."""
    c = model.config
    once = model.condition.time1.weight.numel() + model.condition.time2.weight.numel()
    once += model.modulation.weight.numel() + sum(block.modulation.weight.numel() for block in blocks_of(model))
    return c.tokens * token_macs(model) + once, 2 * c.tokens**2 * c.hidden * c.layers


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {}
    for name, size in {**MODELS, "dit_xl": DIT_XL}.items():
        model = on_meta(size)
        out[f"params_{name}"] = sum(p.numel() for p in model.parameters())
        out[f"active_{name}"] = active(model)
        linear, attention = macs(model)
        out[f"gmac_{name}"], out[f"gmac_full_{name}"] = linear / G, (linear + attention) / G
    out["gmac_ratio_xl_to_dit_xl"] = out["gmac_full_xl8"] / out["gmac_full_dit_xl"]
    out["bf16_gib_g16"] = 2 * out["params_g16"] / GIB
    out["adam_gib_g16"] = 12 * out["params_g16"] / GIB
    out["training_flops_xl8"] = 6 * out["gmac_xl8"] * G * 1024 * 7e6
    return out
