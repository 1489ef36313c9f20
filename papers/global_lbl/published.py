"""What global balance costs at the published sizes, by arithmetic and on the meta device.

The shapes of the paper's models are not given beyond experts, top-k and parameter counts, so the 3.4B model here is one
of that size (see `papers.global_lbl.paper.PUBLISHED_SHAPE`), and only what does not depend on its shape is compared.
"""

from __future__ import annotations

import torch

from papers.global_lbl.experiment import language_model
from papers.global_lbl.method import selection_counts
from papers.global_lbl.paper import PAPER, Config
from repro.profiling.counts import count_parameters

BILLION = 1e9
#: Seconds per step of the 43B model: micro, global, global with 1 % micro.
SECONDS = {"micro": 1.55, "global": 1.64, "combined": 1.59}
#: Steps and sequences of a global batch of the two training lengths, by their name in billions of tokens.
LENGTHS = {120: (60_000, 512), 400: (100_000, 1024)}
SEQUENCE, MICRO_BATCH = 4096, 4


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {}
    tokens = MICRO_BATCH * SEQUENCE
    for experts in (64, 160):
        counts = selection_counts(torch.zeros(8, 4, dtype=torch.long), experts)
        out[f"allreduce_bytes_{experts}"] = float(counts.numel() * counts.element_size())
        out[f"buffer_bytes_{experts}"] = out[f"allreduce_bytes_{experts}"]
        out[f"selection_matrix_entries_{experts}"] = float(tokens * experts)
    for name, (steps, batch) in LENGTHS.items():
        out[f"tokens_b_{name}"] = steps * batch * SEQUENCE / BILLION
    for arm in ("global", "combined"):
        out[f"step_overhead_{arm}"] = 100 * (SECONDS[arm] / SECONDS["micro"] - 1)
    out["train_flops_120b"] = 6 * 0.6e9 * 120e9
    out["gpu_hours_120b"] = out["train_flops_120b"] / 125e12 / 3600
    with torch.device("meta"):
        model = language_model(Config(**PAPER.resolve("slimpajama-domains", "global", "published")), 151_936)
    counted = count_parameters(model)
    out["params_total"], out["params_active"] = counted["params_total"], counted["params_active"]
    return out
