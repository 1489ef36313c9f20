"""The published models on the meta device: bits and bytes of their blocks at any number of moved ones, exactly."""

from __future__ import annotations

from papers.layerwise_quant.method import allocate, average_bits
from repro.models.blocks import decoder_blocks
from repro.models.quantise import linears, packed_bytes, weight_of
from repro.profiling.architectures import ARCHITECTURES, on_meta

GROUP = 128
HIGH, LOW = 4, 2


MODELS = ("llama-2-7b", "llama-2-13b", "mistral-7b", "qwen2-7b")


def accounting() -> dict[str, float]:
    """Weights, bits and bytes with 0, a quarter, half and all blocks at the lower width; bytes are decimal."""
    out: dict[str, float] = {}
    for name in MODELS:
        shape = ARCHITECTURES[name]
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
