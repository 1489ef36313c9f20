"""UniXcoder-base on the meta device: what Telly-K trains, what the optimiser keeps, what a step saves."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from papers.telly.method import telly, trained_parameters

LAYERS = 12


class Shape(NamedTuple):
    """Of an encoder of RoBERTa's kind, from its released configuration."""

    vocab: int
    positions: int
    types: int
    hidden: int = 768
    layers: int = LAYERS
    heads: int = 12
    width: int = 3072


UNIXCODER = Shape(51416, 1026, 10)
GRAPHCODEBERT = Shape(50265, 514, 1)


class Published(NamedTuple):
    """Batch of a task: rows and tokens of every text that a step reads, and parameters of the head."""

    rows: int
    lengths: tuple[int, ...]
    head: int = 0


#: The clone head is 1536 to 768 to 2, with biases.
CLONE_HEAD = 1536 * 768 + 768 + 768 * 2 + 2
TASKS = {
    "clone": Published(16, (512, 512), CLONE_HEAD),
    "search": Published(128, (256, 128)),
    "completion": Published(32, (512,)),
}


def on_meta(shape: Shape = UNIXCODER) -> Any:
    """The encoder with its pooler, without storage."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=shape.vocab, max_position_embeddings=shape.positions, type_vocab_size=shape.types,
        hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        intermediate_size=shape.width,
    )  # fmt: skip
    with torch.device("meta"):
        return RobertaModel(config)


def step_flops(shape: Shape, task: Published, k: int | None) -> float:
    """FLOPs of the matrix products of a step of Telly-K, or of the base for None.

    Forward: 2 for each weight of a layer and 4 t d for each token's attention. Backward: as much again for the gradient
    of what comes in and of the weights, from the top down to layer K; there the gradient of what comes in is wanted by
    no one below, except in the base, whose embeddings are trained.
    """
    d, width = shape.hidden, shape.width
    weights = 4 * d * d + 2 * d * width
    first_reads = 3 * d * d  # query, key and value: what the lowest layer trained does with its input
    total = 0.0
    for length in task.lengths:
        tokens = task.rows * length
        layer = 2.0 * tokens * weights + 4.0 * tokens * length * d
        trained = shape.layers - (k or 0)
        total += shape.layers * layer + 2 * trained * layer
        if k is not None:
            total -= 2.0 * tokens * first_reads
    return total


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    model = on_meta()
    total = sum(p.numel() for p in model.parameters())
    out = {
        "params_base": float(total),
        "params_m_base": total / 1e6,
        "params_embeddings": float(sum(p.numel() for p in model.embeddings.parameters())),
        "params_layer": float(sum(p.numel() for p in model.encoder.layer[0].parameters())),
        "params_pooler": float(sum(p.numel() for p in model.pooler.parameters())),
        "params_m_graphcodebert": sum(p.numel() for p in on_meta(GRAPHCODEBERT).parameters()) / 1e6,
        "clone_params_m_base": (total + CLONE_HEAD) / 1e6,
        "moments_gb_base": 8 * total / 1e9,
    }
    for k in range(LAYERS):
        count = trained_parameters(telly(on_meta(), k))
        out |= {
            f"params_m_telly_{k}": count / 1e6,
            f"share_telly_{k}": 100 * count / total,
            f"clone_params_m_telly_{k}": (count + CLONE_HEAD) / 1e6,
            f"moments_gb_telly_{k}": 8 * count / 1e9,
        }
        for name, task in TASKS.items():
            saved = 1 - step_flops(UNIXCODER, task, k) / step_flops(UNIXCODER, task, None)
            out[f"flops_saved_{name}_{k}"] = 100 * saved
    return out
