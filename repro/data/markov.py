"""Sources of text whose loss is known exactly: order-2 Markov chains over one alphabet, pure or spliced in a row.

A source gives every pair of symbols a distribution of the next one, drawn from a Dirichlet distribution: with a
concentration of 0.1 a few of 24 symbols can follow. All sources share the alphabet, so that a symbol does not give its
source away; some tokens together do. A *pure* row is of one source. A *spliced* row changes its source every so many
tokens, at places that differ from row to row; the first symbols of a piece follow the last ones of the piece before.

Every row carries the source of each target and what the source itself would lose on it, so that a model's loss can be
given as an *excess*: nats per token above the best possible predictor that knows the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from repro.data.base import IGNORED, Batch, order_seed

#: Symbols that are drawn and thrown away before a row, so that it begins anywhere in a text.
BURN_IN = 8
#: Ids before the symbols, as in `repro.data.tokenizers.word_tokenizer`.
FIRST_ID = 3
SYMBOLS = 24


class DomainRows(NamedTuple):
    """Rows of text with the source of every target.

    Attributes:
        inputs, targets: LongTensors [rows, T], targets shifted; the first target counts in no loss (-100): order 2
            needs two symbols.
        domains: LongTensor [rows, T], which source the target is from, in ``range(sources)``.
        floor: [rows, T] nats that the source itself loses on the target; 0 where it is not known.
    """

    inputs: Tensor
    targets: Tensor
    domains: Tensor
    floor: Tensor

    def take(self, rows: Tensor | slice) -> DomainRows:
        """Some of the rows."""
        return DomainRows(*(part[rows] for part in self))

    def batch(self) -> Batch:
        """The rows as the training loop reads them."""
        return Batch(self.inputs, self.targets, torch.zeros_like(self.targets, dtype=torch.uint8))

    def to(self, device: torch.device | str) -> DomainRows:
        return DomainRows(*(part.to(device) for part in self))


def joined(parts: Sequence[DomainRows]) -> DomainRows:
    """The rows of all, one after another."""
    return DomainRows(*(torch.cat(column) for column in zip(*parts, strict=True)))


def pieces(choices: Sequence[int], rows: int, length: int, piece: int, seed: int, purpose: str) -> Tensor:
    """Which of ``choices`` each target of spliced rows is from, LongTensor [rows, length]: another one every ``piece``
    targets, the place of the first change drawn for every row; all the same where there is one choice."""
    generator = torch.Generator().manual_seed(order_seed(f"{purpose}, pieces", seed))
    shape = rows, -(-length // piece) + 1
    step = torch.randint(1, max(len(choices), 2), shape, generator=generator)
    step[:, 0] = torch.randint(0, len(choices), (rows,), generator=generator)
    which = torch.tensor(choices)[step.cumsum(1) % len(choices)]
    shift = torch.randint(0, piece, (rows, 1), generator=generator)
    return which.gather(1, (torch.arange(length) + shift) // piece)


@dataclass(frozen=True, eq=False)
class MarkovSources:
    """Order-2 sources over symbols 0..V-1.

    ``chances``: float64 [sources, V, V, V], of the next symbol given the last but one and the last.
    """

    chances: Tensor

    @property
    def symbols(self) -> int:
        return self.chances.shape[-1]

    def pure(self, sources: Tensor, length: int, seed: int, purpose: str = "pure rows") -> DomainRows:
        """One row of ``length`` targets from each of ``sources`` (LongTensor [rows])."""
        return self._draw(sources[:, None].expand(-1, length), length, seed, purpose)

    def spliced(
        self, choices: Sequence[int], rows: int, length: int, piece: int, seed: int, purpose: str = "spliced rows"
    ) -> DomainRows:
        """Rows of `pieces`."""
        return self._draw(pieces(choices, rows, length, piece, seed, purpose), length, seed, purpose)

    def _draw(self, domains: Tensor, length: int, seed: int, purpose: str) -> DomainRows:
        """``domains`` [rows, length]: the source of every target."""
        generator = torch.Generator().manual_seed(order_seed(purpose, seed))
        rows, wide = len(domains), torch.cat([domains[:, :1].expand(-1, BURN_IN), domains], 1)
        one, two = torch.randint(self.symbols, (2, rows), generator=generator)
        tokens, floors = [two], [torch.zeros(rows, dtype=torch.float64)]
        heaped = self.chances.cumsum(-1)
        for t in range(wide.shape[1]):
            draws = torch.rand(rows, 1, generator=generator, dtype=torch.float64)
            place = (wide[:, t], one, two)
            ends = heaped[place]
            following = (ends < draws * ends[:, -1:]).sum(-1)
            floors.append(-self.chances[(*place, following)].log())
            one, two = two, following
            tokens.append(two)
        ids = torch.stack(tokens, 1)[:, BURN_IN:] + FIRST_ID
        targets = ids[:, 1:].clone()
        targets[:, 0] = IGNORED
        floor = torch.stack(floors, 1)[:, BURN_IN + 1 :].float()
        return DomainRows(ids[:, :-1].contiguous(), targets, domains.contiguous(), floor)


def markov_sources(
    count: int,
    seed: int,
    *,
    symbols: int = SYMBOLS,
    concentration: float = 0.1,
    tilt: float = 0.0,
    purpose: str = "sources",
) -> MarkovSources:
    """So many sources; the first of a larger number are those of a smaller.

    Args:
        concentration: of the Dirichlet distribution, per symbol; smaller: fewer symbols can follow.
        tilt: every source prefers symbols of its own, as a domain does words: its Dirichlet distribution has a mean
            that is drawn from one of this concentration. 0: no symbol is preferred.
        purpose: sources of another purpose are others.
    """
    tables = []
    for index in range(count):
        draw = np.random.default_rng(order_seed(f"{purpose} {index}", seed))
        means = draw.dirichlet([tilt] * symbols) if tilt else np.full(symbols, 1 / symbols)
        drawn = draw.standard_gamma(concentration * symbols * means, (symbols, symbols, symbols))
        drawn = np.maximum(drawn, 1e-30)  # so that no logarithm is infinite
        tables.append(torch.from_numpy(drawn / drawn.sum(-1, keepdims=True)))
    return MarkovSources(torch.stack(tables))
