"""Seeded hash functions for categorical values: simple tabulation (Zobrist, 1970; Pătraşcu and Thorup, 2012)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from repro.data.base import order_seed

BYTES = 8


class TabulationHash(nn.Module):
    """Independent hash functions of 64-bit integers, one for each salt.

    A value's eight bytes each pick a random word from a table of their own; the hash is the exclusive or of the words.
    Over the draw of the tables any three distinct values have independent, uniform hashes, so that two of them fall
    into one of M rows with probability 1/M. Functions of distinct salts or seeds are independent. The tables belong
    to the module's state and are not trained.
    """

    words: Tensor

    def __init__(self, salts: Sequence[Hashable], seed: int) -> None:
        super().__init__()
        words = [
            torch.randint(
                2**62, (BYTES, 256), generator=torch.Generator().manual_seed(order_seed(f"hash {salt}", seed))
            )
            for salt in salts
        ]
        self.register_buffer("words", torch.stack(words))

    def forward(self, values: Tensor) -> Tensor:
        """Hash LongTensor ``values`` [batch, salts], column by column: LongTensor of that shape in [0, 2^62)."""
        salt = torch.arange(self.words.shape[0], device=values.device)
        out = torch.zeros_like(values)
        for place in range(BYTES):
            out = out ^ self.words[salt, place, (values >> (8 * place)) & 255]
        return out
