"""Tabulation hashing: independent, uniform, and as free of structure as a well-known hash."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import chi2
from sklearn.utils import murmurhash3_32

from repro.models.hashing import BYTES, TabulationHash


def hashed(values, rows, seed, salt=0):
    return TabulationHash([salt], seed)(values[:, None])[:, 0] % rows


def test_it_is_the_exclusive_or_of_a_word_per_byte():
    values = torch.tensor([[0], [1], [255], [256], [-1], [2**40 + 3]])
    function = TabulationHash(["a"], 5)
    words = function.words[0].numpy()
    for value, found in zip(values[:, 0].tolist(), function(values)[:, 0].tolist(), strict=True):
        expected = 0
        for place, byte in enumerate((value & (2**64 - 1)).to_bytes(BYTES, "little")):
            expected ^= int(words[place, byte])
        assert found == expected


def test_two_values_collide_as_often_as_chance():
    """Over 400 draws of the function: probability 1/M for pairs near and far, salted and not."""
    values, rows, draws = torch.tensor([0, 1, 2, 257, 65536, 2**40]), 8, 400
    pairs = torch.combinations(torch.arange(len(values)), 2)
    hits = torch.zeros(len(pairs))
    for seed in range(draws):
        codes = hashed(values, rows, seed)
        hits += codes[pairs[:, 0]] == codes[pairs[:, 1]]
    error = (draws * (1 / rows) * (1 - 1 / rows)) ** 0.5
    assert ((hits - draws / rows).abs() < 4 * error).all()


def test_running_numbers_fill_rows_evenly_as_murmur_hash_does():
    values, rows = torch.arange(20_000), 256
    mine = [hashed(values, rows, seed).bincount(minlength=rows).double() for seed in range(5)]
    theirs = [
        torch.from_numpy(np.bincount(murmurhash3_32(values.numpy().astype(np.int32), seed, positive=True) % rows))
        for seed in range(5)
    ]
    bound = chi2.ppf(0.9999, rows - 1)
    for counts in [*mine, *theirs]:
        assert float(((counts - 20_000 / rows) ** 2).sum() / (20_000 / rows)) < bound


def test_columns_have_functions_of_their_own_that_a_state_dict_carries():
    values = torch.arange(1000)[:, None].expand(-1, 3)
    function = TabulationHash([(0, 0), (0, 1), (0, 0)], 1)
    found = function(values)
    assert found.min() >= 0
    assert torch.equal(found[:, 0], found[:, 2])
    assert not (found[:, 0] == found[:, 1]).any()
    other = TabulationHash([0, 1, 2], 9)
    other.load_state_dict(function.state_dict())
    assert torch.equal(other(values), found)
    assert not list(function.parameters())
