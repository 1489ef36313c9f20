"""The published towers on the meta device: what the edit touches, what it costs, and what it adds (nothing)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from papers.lines.method import ALPHAS, GRIDS, block_of, depths, edited_scalars, factors, lines
from repro.models.task_vectors import apply


class Tower(NamedTuple):
    """Shape of a CLIP vision tower, from its released configuration."""

    layers: int
    hidden: int
    heads: int
    width: int
    patch: int
    projection: int


TOWERS = {
    "vit-b-32": Tower(12, 768, 12, 3072, 32, 512),
    "vit-b-16": Tower(12, 768, 12, 3072, 16, 512),
    "vit-l-14": Tower(24, 1024, 16, 4096, 14, 768),
}


def on_meta(shape: Tower) -> Any:
    """The vision tower with its projection, without storage."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        num_hidden_layers=shape.layers, hidden_size=shape.hidden, num_attention_heads=shape.heads,
        intermediate_size=shape.width, patch_size=shape.patch, projection_dim=shape.projection, image_size=224,
    )  # fmt: skip
    with torch.device("meta"):
        return CLIPVisionModelWithProjection(config)


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {}
    for name, shape in TOWERS.items():
        parameters = dict(on_meta(shape).named_parameters())
        (blocks,) = depths(list(parameters)).values()
        inside = {n: p for n, p in parameters.items() if block_of(n) is not None}
        count = edited_scalars(parameters)
        out[f"blocks_{name}"] = blocks
        out[f"edited_scalars_{name}"] = count
        out[f"inside_blocks_percent_{name}"] = 100 * edited_scalars(inside) / count
        out[f"checkpoint_megabytes_{name}"] = 4 * count / 1e6
        edited = apply(parameters, lines(parameters, 0.1))
        out[f"extra_parameters_{name}"] = edited_scalars(edited) - count
        # factor of the whole update in the mean over parameters, for one fine-tuned model at alpha = 0.1
        share = factors(blocks, 0.1, 0.9)
        weights = [0] * blocks
        for parameter, tensor in inside.items():
            weights[block_of(parameter)[1]] += tensor.numel()  # type: ignore[index]
        mean = sum(f * w for f, w in zip(share, weights, strict=True)) + 0.1 * (count - sum(weights))
        out[f"mean_factor_{name}"] = mean / count
    out["evaluations_ta"] = len(GRIDS["other"])
    out["evaluations_ties"] = len(GRIDS["ties"])
    out["evaluations_single"] = len(ALPHAS)
    return out
