"""Tables and models at the published sizes: bytes, and what hashing does to each feature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from papers.unified_embedding.method import UnifiedEmbedding, expected_collisions
from repro.data.click_logs import AVAZU_SIZES, CRITEO_DENSE, CRITEO_SIZES, MOVIELENS
from repro.models.dcn import DCNV2
from repro.models.feature_tables import proportional_rows


class Benchmark(NamedTuple):
    """A benchmark as published: values of all features, width of a row, layers of DCN-V2, budgets in percent."""

    features: int
    values: int
    dense: int
    dim: int
    cross: int
    hidden: Sequence[int]
    budgets: Sequence[int]


BENCHMARKS = {
    "movielens": Benchmark(len(MOVIELENS), 13_653, 0, 30, 1, (192,), (100, 50, 10)),
    "avazu": Benchmark(len(AVAZU_SIZES), sum(AVAZU_SIZES), 0, 32, 1, (512, 512), (100, 10, 1)),
    "criteo": Benchmark(len(CRITEO_SIZES), sum(CRITEO_SIZES), len(CRITEO_DENSE), 39, 2, (748, 748), (100, 50, 10)),
}


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {}
    for name, b in BENCHMARKS.items():
        out[f"values_{name}"] = b.values
        for budget in b.budgets:
            made = UnifiedEmbedding([1] * b.features, round(b.values * budget / 100), b.dim)
            size = sum(p.nbytes for p in made.parameters())
            out[f"mb_{name}_{budget}"] = size / 1e6
            out[f"kb_{name}_{budget}"] = size / 1e3
        head = DCNV2(b.features * b.dim + b.dense, b.cross, b.hidden)
        out[f"head_parameters_{name}"] = sum(p.numel() for p in head.parameters())
    for name, sizes, budget in (("criteo", CRITEO_SIZES, 10), ("avazu", AVAZU_SIZES, 1)):
        rows = round(sum(sizes) * budget / 100)
        split = proportional_rows(sizes, rows)
        out[f"intra_multiplex_{name}_{budget}"] = float(expected_collisions(sizes, rows).intra.max())
        out[f"intra_split_{name}_{budget}"] = float(expected_collisions(sizes, split).intra.max())
        # all values of such a feature have one embedding, which says nothing
        out[f"one_row_features_{name}_{budget}"] = float(sum(r == 1 for r in split))
    out["tables_split"] = float(len(CRITEO_SIZES))
    out["tables_multiplex"] = float(len(list(UnifiedEmbedding([1] * len(CRITEO_SIZES), 1, 1).parameters())))
    return out
