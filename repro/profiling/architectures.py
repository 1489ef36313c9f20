"""Published language models by the shape in their released configurations, and on the meta device: no weights, no
download, any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class Architecture(NamedTuple):
    """Shape of a decoder of transformers: model type, blocks, d, query heads, key and value heads, width of the MLP,
    vocabulary, and whether embedding and head are one."""

    kind: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    width: int
    vocab: int
    tied: bool = False


ARCHITECTURES = {
    "tinyllama": Architecture("llama", 22, 2048, 32, 4, 5632, 32000),
    "llama-2-7b": Architecture("llama", 32, 4096, 32, 32, 11008, 32000),
    "llama-2-13b": Architecture("llama", 40, 5120, 40, 40, 13824, 32000),
    "llama-2-70b": Architecture("llama", 80, 8192, 64, 8, 28672, 32000),
    "llama-3-8b": Architecture("llama", 32, 4096, 32, 8, 14336, 128256),
    "llama-3-70b": Architecture("llama", 80, 8192, 64, 8, 28672, 128256),
    "llama-3.1-8b": Architecture("llama", 32, 4096, 32, 8, 14336, 128256),
    "mistral-7b": Architecture("mistral", 32, 4096, 32, 8, 14336, 32000),
    "qwen2-7b": Architecture("qwen2", 28, 3584, 28, 4, 18944, 152064),
    "qwen-2.5-3b": Architecture("qwen2", 36, 2048, 16, 2, 11008, 151936, True),
}


def on_meta(shape: Architecture, dtype: torch.dtype | None = None, attention: str | None = None) -> Any:
    """The model without storage: shapes only.

    Args:
        dtype: of the weights; None: float32.
        attention: implementation by the name that transformers knows it by; None: its default.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        shape.kind, num_hidden_layers=shape.layers, hidden_size=shape.hidden, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, intermediate_size=shape.width, vocab_size=shape.vocab,
        tie_word_embeddings=shape.tied,
    )  # fmt: skip
    if attention:
        config._attn_implementation = attention
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype or torch.float32)
