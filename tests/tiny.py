"""Causal language models of transformers, of several families, that are made in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

FAMILIES = ("llama", "mistral", "qwen2", "gpt2", "gpt_neox", "opt")


def tiny_lm(
    kind: str = "llama", *, layers: int = 4, heads: int = 2, vocab: int = 40, seed: int = 0, std: float = 0.2
) -> Any:
    """A model of width 16 for 64 positions, in eval mode; matrices normal with ``std``, so that no block is idle."""
    torch.manual_seed(seed)
    common = {"vocab_size": vocab, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if kind == "gpt2":
        shape = {"n_embd": 16, "n_layer": layers, "n_head": heads, "n_positions": 64}
    else:
        shape = {
            "hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": heads,
            "max_position_embeddings": 64,
        }  # fmt: skip
        if kind == "opt":
            shape |= {"ffn_dim": 24, "word_embed_proj_dim": 16}
        else:
            shape |= {"intermediate_size": 24}
        if kind not in ("opt", "gpt_neox"):
            shape |= {"num_key_value_heads": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **common, **shape)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=std)
    return model
