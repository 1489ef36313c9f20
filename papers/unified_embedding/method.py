"""Unified Embedding (arXiv 2305.12102): one hashed table of embeddings for all categorical features.

Shapes: batch B, features T, chunks of feature t c_t, C of them in all; ids LongTensor [B, T]; rows M, of width d.

Collisions within a feature (two of its values share a row) cannot be undone. Collisions between features can: the
layers above see feature t in a place of its own, so that features which are read along orthogonal directions share a
row without harm. With one table for all features a value meets few others of its own feature, (N_t - 1) / M on
average; with M split into tables of M_t rows, (N_t - 1) / M_t.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.models.hashing import TabulationHash


class UnifiedEmbedding(nn.Module):
    """Feature multiplexing: chunk j of feature t has row ``hash_(t,j)(x_t) mod M`` of a table that all share.

    Ids may be any 64-bit integers: no vocabulary is kept. Features are as wide as their chunks together, ``c_t * d``.

    Args:
        chunks: lookups of each feature, T numbers of at least 1.
        rows: M, rows of a table.
        dim: d, width of a row.
        tables: number of tables; chunks take them in turn. Kept in one matrix [tables * M, d].
        seed: of the hash functions.
        salted: False gives all features one hash function, as an ablation: equal ids of different features then
            always collide.
    """

    offsets: Tensor
    columns: Tensor

    def __init__(
        self, chunks: Sequence[int], rows: int, dim: int, *, tables: int = 1, seed: int = 0, salted: bool = True
    ) -> None:
        super().__init__()
        if min(chunks) < 1 or rows < 1:
            raise ValueError(f"every feature needs a chunk and a table a row, not {list(chunks)} and {rows}")
        places = [(t, j) for t, count in enumerate(chunks) for j in range(count)]
        self.rows = rows
        self.width = len(places) * dim
        self.hash = TabulationHash([place if salted else (0, place[1]) for place in places], seed)
        self.embedding = nn.Embedding(tables * rows, dim)
        self.register_buffer("columns", torch.tensor([t for t, _ in places]), persistent=False)
        self.register_buffer("offsets", rows * (torch.arange(len(places)) % tables), persistent=False)

    def codes(self, ids: Tensor) -> Tensor:
        """Rows of the matrix for all chunks, feature by feature: LongTensor [B, C]."""
        return self.offsets + self.hash(ids[:, self.columns]) % self.rows

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings of all features one after another, [B, C * d]."""
        return self.embedding(self.codes(ids)).flatten(1)


# --- the single-layer model of the paper's analysis -----------------------------------------------------------------


class SingleLayer(nn.Module):
    """``z = sum_t <theta_t, e_t> + bias``: embeddings [B, T * d] to log-odds [B].

    All theta_t start as one random vector of length 1, the worst case: the features are told apart by nothing.

    Args:
        parallel: keep them so, as an ablation: collisions between features cannot be undone then.
    """

    def __init__(self, features: int, dim: int, seed: int = 0, *, parallel: bool = False) -> None:
        super().__init__()
        start = F.normalize(torch.randn(dim, generator=torch.Generator().manual_seed(seed)), dim=0)
        self.theta = nn.Parameter(start.repeat(features, 1), requires_grad=not parallel)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.theta.flatten() + self.bias


def pairwise_angles(theta: Tensor) -> Tensor:
    """Angles in degrees between all pairs of rows of ``theta`` [T, d]: [T (T - 1) / 2]."""
    unit = F.normalize(theta.detach().double(), dim=-1)
    rows, columns = torch.triu_indices(len(theta), len(theta), 1)
    return torch.rad2deg(torch.acos((unit @ unit.T)[rows, columns].clamp(-1, 1)))


class GradientParts(NamedTuple):
    """Gradient [d] on the row of a value, by where it comes from; the sum is the whole."""

    own: Tensor
    intra: Tensor
    inter: Tensor


def gradient_parts(
    theta: Tensor, ids: Tensor, codes: Tensor, residuals: Tensor, feature: int, value: int
) -> GradientParts:
    """What value ``value`` of feature t does to its row in the single-layer model, and what colliding values do.

    Own and intra-feature parts are multiples of theta_t, which no later layer can tell apart; the inter-feature part
    is made of the other theta's.

    Args:
        theta: [T, d].
        ids, codes: [B, T].
        residuals: derivative of the loss by each logit, [B]: ``(sigmoid(z) - y) / B`` for the mean log loss.

    Raises ValueError when the value is not among the ids.
    """
    at = (ids[:, feature] == value).nonzero()
    if not len(at):
        raise ValueError(f"no row has value {value} of feature {feature}")
    hit = codes == codes[at[0], feature]
    weight = (residuals[:, None] * hit).sum(0)
    own = residuals[ids[:, feature] == value].sum()
    others = weight.clone()
    others[feature] = 0
    return GradientParts(own * theta[feature], (weight[feature] - own) * theta[feature], others @ theta)


# --- collisions -----------------------------------------------------------------------------------------------------


class Collisions(NamedTuple):
    """Mean number of other values in a value's row, over all values of each feature: float64 [T]."""

    intra: Tensor
    inter: Tensor


def expected_collisions(sizes: Sequence[int], rows: int | Sequence[int | None]) -> Collisions:
    """In expectation over hash functions: of one table of ``rows`` rows for all features, or of a table for each
    (None: one that is not hashed)."""
    n = torch.tensor(sizes, dtype=torch.float64)
    if isinstance(rows, int):
        return Collisions((n - 1) / rows, (n.sum() - n) / rows)
    m = torch.tensor([torch.inf if r is None else r for r in rows], dtype=torch.float64)
    return Collisions((n - 1) / m, torch.zeros_like(n))


def measured_collisions(codes: Sequence[Tensor]) -> Collisions:
    """Of the codes of all values of each feature, LongTensors [N_t]."""
    rows = 1 + max(int(part.max()) for part in codes)
    own = [torch.bincount(part, minlength=rows) for part in codes]
    everyone = torch.stack(own).sum(0)
    intra = [(counts[part] - 1).double().mean() for part, counts in zip(codes, own, strict=True)]
    inter = [(everyone - counts)[part].double().mean() for part, counts in zip(codes, own, strict=True)]
    return Collisions(torch.stack(intra), torch.stack(inter))


def codes_of_values(embedding: nn.Module, sizes: Sequence[int]) -> list[Tensor]:
    """Codes of all values of each feature under an embedding with one chunk a feature: LongTensors [N_t]."""
    found = []
    for t, size in enumerate(sizes):
        ids = torch.zeros(size, len(sizes), dtype=torch.long, device=next(embedding.parameters()).device)
        ids[:, t] = torch.arange(size)
        found.append(embedding.codes(ids)[:, t])  # type: ignore[operator]
    return found
