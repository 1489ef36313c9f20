"""The published models and tasks: what they hold, on the meta device, and what coverage asks for at their size."""

from __future__ import annotations

import torch
from torch import nn

#: Layers, width and heads of the decoders, all in GPT-2's layout.
MODELS = {"4_layers": (4, 768, 12), "8_layers": (8, 768, 12), "xl": (48, 1600, 25)}
#: GPT-2's vocabulary, n = 50 tokens, and two end markers.
VOCABULARY = 50257 + 50 + 2
#: n, and the share of each primitive's domain that training may use.
SIZE, SEEN = 50, 0.7


def on_meta(layers: int, hidden: int, heads: int) -> nn.Module:
    """The model without storage: shapes only. Everything that is not given is the hub's ``gpt2``."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=hidden, n_layer=layers, n_head=heads))


def accounting() -> dict[str, float]:
    """Parameters of the models, sizes of the tasks, and the training rows that exact coverage needs at n = 50."""
    from papers.coverage_principle.experiment import rows_for_cover
    from repro.data.multi_hop import multi_hop

    out: dict[str, float] = {}
    for name, (layers, hidden, heads) in MODELS.items():
        out[f"params_m_{name}"] = sum(p.numel() for p in on_meta(layers, hidden, heads).parameters()) / 1e6
    out["params_ratio"] = out["params_m_xl"] / out["params_m_4_layers"]
    out["inputs_n50"] = SIZE**3
    out["combinations_k_n50"] = SEEN**2 * SIZE**3 / 1000
    drawn = multi_hop("two-hop", SIZE, 0, 0, seen=SEEN)
    for k in (1, 2, 3):
        out[f"rows_covered_n50_k{k}"] = rows_for_cover(drawn, k, 0.99)
        out[f"theory_exponent_k{k}"] = 2.5 - 0.5 / k
    return out
