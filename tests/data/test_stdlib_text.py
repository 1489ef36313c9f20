"""Subword tokens of the standard library, and mixtures."""

from __future__ import annotations

import pytest
import torch

from repro.data import MissingData, load_language
from repro.data.bpe import cached_bpe, train_bpe
from repro.data.mixture import mix
from repro.data.recall import recall
from repro.data.stdlib_text import prose, split, stdlib_bpe, stdlib_tokenizer

TEXT = "def add(one, two):\n    return one + two\n" * 5
SOURCE = '''#!/bin/sh
"""About this."""
x = "not prose"  # the reason
def f():
    r\'\'\'Raw
    words.\'\'\'
    return """ also taken """
'''


def test_bpe_is_lossless_repeatable_and_of_the_size_asked_for():
    tokenizer = train_bpe([TEXT], 280)
    assert len(tokenizer) == 280
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
    for text in (TEXT, "né \t\n x", " ü"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.backend_tokenizer.to_str() == train_bpe([TEXT], 280).backend_tokenizer.to_str()
    assert len(tokenizer(TEXT)["input_ids"]) < len(TEXT) / 2
    with pytest.raises(ValueError, match="do not fit"):
        train_bpe([TEXT], 200)
    with pytest.raises(ValueError, match="tokens, not 9999"):
        train_bpe([TEXT], 9999)


def test_a_cached_tokenizer_is_read_back_and_made_again_when_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    first = cached_bpe("test", "a", [TEXT], 280)

    def unread():
        raise AssertionError("the texts are not needed")
        yield ""

    again = cached_bpe("test", "a", unread(), 280)
    assert again.backend_tokenizer.to_str() == first.backend_tokenizer.to_str()
    (file,) = tmp_path.rglob("tokenizer.json")
    file.write_text("{")
    assert len(cached_bpe("test", "a", [TEXT], 280)) == 280
    with pytest.raises(AssertionError, match="not needed"):
        cached_bpe("test", "b", unread(), 280)


def test_prose_is_comments_and_triple_quoted_strings():
    assert prose(SOURCE).splitlines() == ["/bin/sh", "About this.", "the reason", "Raw", "    words.", "also taken"]
    assert prose("x = 1\ny = (  # open\n") == "open"
    assert prose("x = 1\n") == ""


def test_the_last_twentieth_is_held_out():
    head, tail = split(TEXT)
    assert head + tail == TEXT
    assert head.endswith("\n")
    assert len(tail) < 0.1 * len(TEXT)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_this_python(cache):
    data = load_language("stdlib-bpe", 64, limit=24)
    assert data.vocab_size == 1024
    assert data.train_rows > 500
    words = data.tokenizer.decode(data.train.tokens[:2000])
    assert "__future__" in words
    assert 0.02 < len(data.held_out.tokens) / len(data.train.tokens) < 0.09
    only = load_language("stdlib-prose", 64, limit=24)
    assert only.tokenizer.get_vocab() == data.tokenizer.get_vocab()
    assert len(only.train.tokens) < 0.8 * len(data.train.tokens)
    assert load_language("stdlib-bpe", 32, limit=24).fingerprint == data.fingerprint
    first = data.tokenizer.decode(data.train.tokens[: int((data.train.tokens == 1).nonzero()[0])])
    from repro.data.stdlib_text import sources

    assert first == split(sources(limit=24)[0])[0]


def test_no_sources(tmp_path):
    with pytest.raises(MissingData, match="no standard-library sources"):
        stdlib_bpe(16, root=tmp_path)


def test_a_mixture_has_whole_rows_of_its_parts_in_proportion(cache):
    text = load_language("stdlib-bpe", 64, limit=24)
    lookups = recall(64, limit=100, tokenizer=stdlib_tokenizer(limit=24))
    both = mix([(text, 0.8), (lookups, 0.2)])
    assert both.train_rows == 500
    marked = both.rows(torch.arange(500)).answers.any(1)
    assert int(marked.sum()) == 100
    assert both.source == "bundled"
    whole = {tuple(r) for r in torch.cat([_all(text), _all(lookups)]).tolist()}
    assert {tuple(r) for r in _all(both).tolist()} <= whole
    assert both.fingerprint == mix([(text, 4.0), (lookups, 1.0)]).fingerprint
    assert both.fingerprint != mix([(text, 0.8), (lookups, 0.2)], seed=1).fingerprint
    assert int(both.held_out_batches(1, 10**6)[0].answers.any(1).sum()) == round(0.2 * both.held_out_rows)


def _all(data):
    batch = data.rows(torch.arange(data.train_rows))
    return torch.cat([batch.inputs[:, :1], batch.targets], 1)


def test_mixtures_that_cannot_be(cache):
    text = load_language("stdlib-bpe", 64, limit=24)
    with pytest.raises(ValueError, match="differ in sequence length or tokenizer"):
        mix([(text, 0.5), (recall(64, limit=9), 0.5)])
    with pytest.raises(ValueError, match="positive share"):
        mix([(text, 0.0)])
