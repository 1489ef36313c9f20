"""Markov sources: exact losses, and rows that are what they say."""

from __future__ import annotations

import pytest
import torch

from repro.data.base import IGNORED
from repro.data.markov import FIRST_ID, DomainRows, joined, markov_sources, pieces


def counted(rows: DomainRows, symbols: int, source: int) -> torch.Tensor:
    """Frequencies of the next symbol after every pair, in the targets of one source."""
    tokens = rows.inputs - FIRST_ID
    table = torch.zeros(symbols, symbols, symbols, dtype=torch.float64)
    one, two, following = tokens[:, :-1], tokens[:, 1:], rows.targets[:, 1:] - FIRST_ID
    mine = rows.domains[:, 1:] == source
    table.index_put_((one[mine], two[mine], following[mine]), torch.ones(int(mine.sum())).double(), accumulate=True)
    return table


@pytest.mark.parametrize("kind", ["pure", "spliced"])
def test_rows_follow_their_source_and_the_floor_is_its_loss(kind):
    sources = markov_sources(2, 3, symbols=4, concentration=1.0)
    if kind == "pure":
        rows = sources.pure(torch.arange(2).repeat(2000), 40, 0)
    else:
        rows = sources.spliced([0, 1], 4000, 40, 8, 0)
    for source in range(2):
        table = counted(rows, 4, source)
        totals = table.sum(-1, keepdim=True)
        spread = (sources.chances[source] * (1 - sources.chances[source]) / totals).sqrt()
        assert ((table / totals - sources.chances[source]).abs() < 5 * spread + 1e-9).all()
    tokens = rows.inputs - FIRST_ID
    place = (rows.domains[:, 1:], tokens[:, :-1], tokens[:, 1:], rows.targets[:, 1:] - FIRST_ID)
    torch.testing.assert_close(rows.floor[:, 1:], -sources.chances[place].log().float())


def test_targets_are_the_next_inputs_and_the_first_counts_not():
    rows = markov_sources(1, 0, symbols=5).pure(torch.zeros(3, dtype=torch.long), 10, 0)
    assert rows.inputs.shape == rows.targets.shape == rows.floor.shape == (3, 10)
    assert torch.equal(rows.targets[:, 1:-1], rows.inputs[:, 2:])
    assert (rows.targets[:, 0] == IGNORED).all()
    assert rows.inputs.min() >= FIRST_ID
    assert rows.inputs.max() < FIRST_ID + 5


def test_pieces_change_their_domain_every_so_many_targets():
    found = pieces([2, 5, 7], 500, 64, 16, 0, "test")
    changes = (found[:, 1:] != found[:, :-1]).nonzero()
    assert set(found.unique().tolist()) == {2, 5, 7}
    gaps = [b - a for (r, a), (s, b) in zip(changes[:-1].tolist(), changes[1:].tolist(), strict=True) if r == s]
    assert set(gaps) == {16}
    first = torch.stack([(row[1:] != row[:-1]).nonzero()[0, 0] for row in found])
    assert set(first.tolist()) == set(range(16))  # anywhere
    assert (pieces([4], 5, 20, 8, 0, "test") == 4).all()


def test_seeds_purposes_and_counts():
    few, more = markov_sources(2, 1, symbols=4), markov_sources(3, 1, symbols=4)
    assert torch.equal(few.chances, more.chances[:2])
    assert not torch.equal(few.chances, markov_sources(2, 2, symbols=4).chances)
    which = torch.zeros(4, dtype=torch.long)
    assert torch.equal(few.pure(which, 8, 0).inputs, more.pure(which, 8, 0).inputs)
    assert not torch.equal(few.pure(which, 8, 0).inputs, few.pure(which, 8, 0, "other").inputs)


def test_tilted_sources_prefer_symbols_of_their_own():
    plain, tilted = (markov_sources(6, 0, symbols=12, tilt=tilt).chances.mean((1, 2)) for tilt in (0.0, 1.0))
    assert plain.std(-1).mean() < 0.4 * tilted.std(-1).mean()
    torch.testing.assert_close(markov_sources(6, 0, tilt=1.0).chances.sum(-1), torch.ones(6, 24, 24).double())


def test_joined_rows_and_batches():
    sources = markov_sources(2, 0, symbols=4)
    a, b = (sources.pure(torch.full((2,), s), 6, s) for s in range(2))
    both = joined([a, b])
    assert torch.equal(both.take(slice(2, 4)).inputs, b.inputs)
    batch = both.batch()
    assert batch.tokens == 4 * 5
    assert batch.answers.sum() == 0
