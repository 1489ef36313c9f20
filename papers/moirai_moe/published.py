"""The published models on the meta device: parameters, activated parameters, FLOPs of a token, bytes of the weights."""

from __future__ import annotations

from typing import NamedTuple

import torch

from papers.moirai_moe.method import moirai_moe
from repro.models.forecasting import PatchDecoder
from repro.profiling.counts import count_parameters

PATCH, EXPERTS, ACTIVE, HEAD_SIZE = 16, 32, 2, 64
#: Patch lengths and numbers a step of Moirai, and its large model.
MOIRAI_PATCHES = (8, 16, 32, 64, 128)
MIXTURE = 12
LARGE_LAYERS, LARGE_HIDDEN = 24, 1024


class Size(NamedTuple):
    """Of a published Moirai-MoE."""

    layers: int
    hidden: int
    width: int


SIZES = {"small": Size(6, 384, 512), "base": Size(12, 768, 1024)}


def on_meta(size: Size) -> PatchDecoder:
    """A published model without storage."""
    with torch.device("meta"):
        centroids = [torch.empty(EXPERTS, size.hidden, dtype=torch.float64) for _ in range(size.layers)]
        return moirai_moe(PATCH, size.hidden, size.hidden // HEAD_SIZE, size.width, centroids, k=ACTIVE, head="mixture")


def moirai(layers: int, hidden: int) -> int:
    """Parameters of a Moirai: a masked encoder with dense gated layers, and projections in and out for every patch
    length, all as wide as the longest (released code)."""
    width = (int(4 * hidden * 2 / 3) + 7) // 8 * 8
    layer = 4 * hidden**2 + 2 * HEAD_SIZE + 2 * (hidden // HEAD_SIZE) + 2 * hidden + 3 * hidden * width
    longest, lengths = max(MOIRAI_PATCHES), len(MOIRAI_PATCHES)
    into = lengths * (longest + 1) * hidden
    out = lengths * MIXTURE * longest * (hidden + 1)
    mask = hidden
    return layers * layer + hidden + into + out + mask


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, and those that put them into proportion."""
    out: dict[str, float] = {}
    for name, size in SIZES.items():
        model = on_meta(size)
        counted = count_parameters(model)
        out[f"params_total_{name}"] = counted["params_total"]
        out[f"params_active_{name}"] = counted["params_active"]
        out[f"centroid_numbers_{name}"] = float(sum(b.numel() for b in model.buffers()))
        out[f"weight_bytes_bf16_{name}"] = 2 * counted["params_total"]
        out[f"expert_flops_per_token_{name}"] = 2.0 * ACTIVE * 3 * size.hidden * size.width * size.layers
        out[f"distance_flops_per_token_{name}"] = 3.0 * EXPERTS * size.hidden * size.layers
    out["params_moirai_large"] = float(moirai(LARGE_LAYERS, LARGE_HIDDEN))
    out["ratio_large_small"] = out["params_moirai_large"] / out["params_active_small"]
    return out
