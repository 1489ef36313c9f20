"""Tables of features: how rows are split, and lookups against torch's embeddings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from repro.models.feature_tables import FeatureTables, proportional_rows


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=8), st.integers(0, 5000))
def test_rows_are_split_in_proportion_and_sum_up(sizes, more):
    rows = len(sizes) + more
    found = proportional_rows(sizes, rows)
    assert sum(found) == rows
    assert min(found) >= 1
    ones = sum(r == 1 for r in found)
    for size, r in zip(sizes, found, strict=True):
        assert r <= max(1, size * rows / sum(sizes) + 1)
        assert r >= size * rows / sum(sizes) - 1 - ones
    for (a, ra), (b, rb) in zip(zip(sizes, found, strict=True), list(zip(sizes, found, strict=True))[1:], strict=False):
        assert (ra - rb) * (a - b) >= 0 or abs(ra - rb) <= 1


def test_small_vocabularies_may_be_kept_whole():
    assert proportional_rows((4000, 3000, 800, 100, 20, 7, 2), 793, 128) == [341, 255, 68, None, None, None, None]
    assert proportional_rows((4000, 3000, 800, 100, 20, 7, 2), 7929) == [4000, 3000, 800, 100, 20, 7, 2]
    for sizes, rows, whole in (((5, 5), 1, 0), ((5, 5), 9, 5), ((5, 5), 11, 5)):
        with pytest.raises(ValueError, match="rows"):
            proportional_rows(sizes, rows, whole)


def test_lookups_are_those_of_a_table_per_feature():
    sizes, rows = (9, 5, 4), (3, None, 2)
    mine = FeatureTables(sizes, 2, rows, seed=1)
    ids = torch.cartesian_prod(*map(torch.arange, sizes))
    tables = [nn.Embedding.from_pretrained(part) for part in mine.embedding.weight.detach().split([3, 5, 2])]
    codes = mine.hash(ids)
    parts = [tables[0](codes[:, 0] % 3), tables[1](ids[:, 1]), tables[2](codes[:, 2] % 2)]
    assert torch.equal(mine(ids), torch.cat(parts, -1))
    assert mine.width == 6


def test_as_many_rows_as_values_are_still_hashed():
    mine = FeatureTables((500,), 1, (500,))
    assert mine.codes(torch.arange(500)[:, None]).unique().numel() < 400
    with pytest.raises(ValueError, match="tables"):
        FeatureTables((5, 5), 1, (3,))
