"""Embedding tables for categorical features, one a feature: collisionless, or hashed into a given number of rows.

Shapes: batch B, features T; ids LongTensor [B, T], feature t's in ``range(sizes[t])``; vectors [B, T * dim].
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from repro.models.hashing import TabulationHash


def proportional_rows(sizes: Sequence[int], rows: int, whole_up_to: int = 0) -> list[int | None]:
    """Split ``rows`` among features in proportion to their vocabularies, at least one row each, by largest remainders.

    Args:
        whole_up_to: vocabularies of at most so many values get a row for each value first: None in the answer.

    Raises ValueError when the rows do not suffice.
    """
    hashed = [i for i, size in enumerate(sizes) if size > whole_up_to]
    left = rows - sum(size for size in sizes if size <= whole_up_to)
    if left < len(hashed) or (left and not hashed):
        raise ValueError(f"{rows} rows cannot be split among vocabularies of {list(sizes)}")
    total = sum(sizes[i] for i in hashed)
    share = {i: sizes[i] * left / total for i in hashed}
    given = {i: max(1, int(share[i])) for i in hashed}
    while spare := left - sum(given.values()):
        if spare > 0:
            given[max(hashed, key=lambda i: share[i] - given[i])] += 1
        else:  # features that were given a row although their share is less
            given[max((i for i in hashed if given[i] > 1), key=lambda i: given[i] - share[i])] -= 1
    return [given.get(i) for i in range(len(sizes))]


class FeatureTables(nn.Module):
    """A table for each feature, all kept in one matrix [sum of rows, dim], feature after feature.

    Args:
        sizes: values of each feature.
        rows: of each feature's table, value v in row ``h_t(v) mod rows[t]``; None: collisionless, value v in row v.
            None for all: no feature is hashed.
        seed: of the hash functions.
    """

    offsets: Tensor
    rows: Tensor
    whole: Tensor

    def __init__(
        self, sizes: Sequence[int], dim: int, rows: Sequence[int | None] | None = None, seed: int = 0
    ) -> None:  # fmt: skip
        super().__init__()
        rows = [None] * len(sizes) if rows is None else list(rows)
        if len(rows) != len(sizes) or any(r is not None and r < 1 for r in rows):
            raise ValueError(f"{len(sizes)} features need as many tables of at least one row, not {rows}")
        count = [size if r is None else r for size, r in zip(sizes, rows, strict=True)]
        self.register_buffer("rows", torch.tensor(count), persistent=False)
        self.register_buffer("whole", torch.tensor([r is None for r in rows]), persistent=False)
        self.register_buffer("offsets", torch.tensor([0, *accumulate(count)][:-1]), persistent=False)
        self.hash = TabulationHash(range(len(sizes)), seed)
        self.embedding = nn.Embedding(sum(count), dim)
        self.width = len(sizes) * dim

    def codes(self, ids: Tensor) -> Tensor:
        """Rows of the matrix that the values have: LongTensor [B, T]."""
        return self.offsets + torch.where(self.whole, ids, self.hash(ids) % self.rows)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings of all features one after another, [B, T * dim]."""
        return self.embedding(self.codes(ids)).flatten(1)
