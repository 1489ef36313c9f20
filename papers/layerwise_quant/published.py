"""The published models on the meta device: bits and bytes of their blocks at any number of moved ones, exactly."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from papers.layerwise_quant.method import allocate, average_bits
from repro.models.blocks import decoder_blocks
from repro.models.quantise import linears, packed_bytes, weight_of

GROUP = 128
HIGH, LOW = 4, 2


class Architecture(NamedTuple):
    """Shape of a published model, from its released configuration."""

    kind: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    width: int
    vocab: int


MODELS = {
    "llama-2-7b": Architecture("llama", 32, 4096, 32, 32, 11008, 32000),
    "llama-2-13b": Architecture("llama", 40, 5120, 40, 40, 13824, 32000),
    "mistral-7b": Architecture("mistral", 32, 4096, 32, 8, 14336, 32000),
    "qwen2-7b": Architecture("qwen2", 28, 3584, 28, 4, 18944, 152064),
}


def on_meta(shape: Architecture) -> Any:
    """The model without storage: shapes only, so that any size fits."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        shape.kind, num_hidden_layers=shape.layers, hidden_size=shape.hidden, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, intermediate_size=shape.width, vocab_size=shape.vocab,
    )  # fmt: skip
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def accounting() -> dict[str, float]:
    """Weights, bits and bytes with 0, a quarter, half and all blocks at the lower width; bytes are decimal."""
    out: dict[str, float] = {}
    for name, shape in MODELS.items():
        model = on_meta(shape)
        blocks = decoder_blocks(model)
        weights = [weight_of(part) for part in linears(blocks[0]).values()]
        shapes = [(weight.shape[0], weight.shape[1]) for weight in weights]
        each = sum(rows * columns for rows, columns in shapes)
        total = sum(p.numel() for p in model.parameters())
        out[f"weights_per_block_{name}"] = float(each)
        out[f"weights_{name}"] = float(each * len(blocks))
        out[f"params_{name}"] = float(total)
        out[f"bytes_rest_{name}"] = 2.0 * (total - each * len(blocks))
        for k in (0, shape.layers // 4, shape.layers // 2, shape.layers):
            bits = allocate(range(shape.layers), k, HIGH, LOW)
            out[f"average_bits_{name}_{k}"] = average_bits(bits)
            codes = sum(-(-rows * columns * b // 8) for b in bits for rows, columns in shapes)
            stored = sum(packed_bytes(rows, columns, b, GROUP) for b in bits for rows, columns in shapes)
            out[f"bytes_codes_{name}_{k}"] = float(codes)
            out[f"bytes_{name}_{k}"] = float(stored)
            out[f"bits_per_weight_{name}_{k}"] = 8 * codes / out[f"weights_{name}"]
            out[f"stored_bits_{name}_{k}"] = 8 * stored / out[f"weights_{name}"]
    return out
