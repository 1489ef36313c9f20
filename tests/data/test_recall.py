"""Key-value recall: what is marked can be looked up, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repro.data import load_language
from repro.data.bpe import train_bpe
from repro.data.recall import draw_rows, recall, single_tokens

DATA = recall(32, limit=50, keys_per_row=4)


def _rows(data, count=20):
    batch = data.rows(torch.arange(count))
    whole = torch.cat([batch.inputs[:, :1], batch.targets], 1)
    return whole, torch.cat([torch.zeros(count, 1, dtype=torch.uint8), batch.answers], 1)


def test_a_marked_value_is_the_one_that_stood_behind_the_key_before():
    rows, marks = _rows(DATA)
    marked = 0
    for row, mark in zip(rows[:, :32].tolist(), marks[:, :32].tolist(), strict=True):
        assert row[0] == DATA.tokenizer.eos_token_id
        seen: dict[int, int] = {}
        for at in range(1, 31, 2):
            key, value = row[at], row[at + 1]
            assert mark[at] == 0
            assert mark[at + 1] == int(key in seen)
            assert seen.setdefault(key, value) == value
            marked += mark[at + 1]
        assert len(seen) <= 4
    assert marked > 150


def test_rows_hold_words_of_their_own_and_end_where_the_next_begins():
    rows, _ = _rows(DATA)
    text = DATA.tokenizer.convert_ids_to_tokens(rows[0].tolist())
    assert text[0] == text[-1] == "<eos>"
    assert {word[0] for word in text[1:-1:2]} == {"k"}
    assert {word[0] for word in text[2:-1:2]} == {"v"}


def test_pairs_are_drawn_anew_so_that_nothing_can_be_known_by_heart():
    rows, _ = _rows(recall(32, limit=400, keys_per_row=4), 400)
    values: dict[int, set[int]] = {}
    for row in rows.tolist():
        for at in range(1, 31, 2):
            values.setdefault(row[at], set()).add(row[at + 1])
    assert len(values) == 32
    assert min(len(found) for found in values.values()) > 15


def test_splits_and_seeds_differ_and_repeat():
    assert DATA.fingerprint == recall(32, limit=50, keys_per_row=4).fingerprint
    assert DATA.fingerprint != recall(32, limit=50, keys_per_row=4, seed=1).fingerprint
    held = {tuple(row) for row in DATA.held_out.tokens[:-1].view(-1, 32).tolist()}
    assert not held & {tuple(row) for row in DATA.train.tokens[:-1].view(-1, 32).tolist()}
    assert load_language("recall", 32, limit=50).train_rows == 50


def test_in_the_tokens_of_a_subword_tokenizer():
    words = [a + b for a in ("alpha", "beta", "gamma", "delta") for b in ("one", "two", "three")]
    tokenizer = train_bpe([" " + " ".join(words) + " "] * 3, 290)
    assert len(single_tokens(tokenizer, 6)) == 6
    data = recall(24, limit=20, tokenizer=tokenizer, keys=3, values=3, keys_per_row=2)
    assert data.name == "recall-stdlib"
    rows, _ = _rows(data, 20)
    keys, values = set(rows[:, 1:23:2].flatten().tolist()), set(rows[:, 2:23:2].flatten().tolist())
    assert len(keys) == len(values) == 3
    assert not keys & values
    text = tokenizer.decode(rows[0, 1:23])
    assert tokenizer(text)["input_ids"] == rows[0, 1:23].tolist()
    with pytest.raises(ValueError, match="words of one token"):
        single_tokens(tokenizer, 500)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="cannot have 40 of 32 keys"):
        recall(128, keys_per_row=40)
    with pytest.raises(ValueError, match="has to come again"):
        recall(18)


def test_unequal_vocabularies():
    symbols, known = draw_rows(np.random.default_rng(0), 5, 33, 4, 9, 3)
    assert symbols.shape == known.shape == (5, 33)
    assert symbols[:, 1::2].max() < 4 <= symbols[:, 2::2].min()
    assert symbols.max() < 13


def test_values_of_a_key_s_own_are_never_another_s():
    symbols, known = draw_rows(np.random.default_rng(0), 300, 33, 4, 12, 3, own_values=True)
    owner = (symbols[:, 2::2] - 4) // 3
    assert (owner == symbols[:, 1::2]).all()
    assert len(np.unique(symbols[:, 2::2])) == 12
    assert known.sum() > 300
    with pytest.raises(ValueError, match="cannot have as many"):
        recall(64, keys=5, values=12, keys_per_row=2, own_values=True)
