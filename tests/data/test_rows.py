"""Batches: shifting, padding, packing, order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data.base import IGNORED, LanguageData, TokenRows, fingerprint, order_seed
from repro.data.tokenizers import byte_tokenizer


@given(length=st.integers(2, 200), sequence=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_packed_rows_predict_every_token_once(length, sequence):
    tokens = torch.arange(length, dtype=torch.int16)
    if length <= sequence:
        with pytest.raises(ValueError, match="no row"):
            TokenRows(tokens, sequence)
        return
    rows = TokenRows(tokens, sequence)
    batch = rows.take(torch.arange(len(rows)))
    assert torch.equal(batch.targets, batch.inputs + 1)
    assert batch.targets.flatten().tolist() == list(range(1, len(rows) * sequence + 1))
    assert length - 1 - batch.targets.numel() < sequence
    assert batch.tokens == batch.targets.numel()


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=8), sequence=st.integers(1, 10))
@settings(max_examples=60, deadline=None)
def test_documents_keep_to_their_rows(lengths, sequence):
    count = torch.tensor(lengths)
    tokens = torch.arange(1, int(count.sum()) + 1, dtype=torch.int32)
    marks = (tokens % 3).to(torch.uint8)
    rows = TokenRows(tokens, sequence, marks, count.cumsum(0) - count, count, pad=0)
    batch = rows.take(torch.arange(len(rows)))
    for row, (start, length) in enumerate(zip(rows.starts.tolist(), lengths, strict=True)):
        document = list(range(start + 1, start + length + 1))[: sequence + 1]
        inputs = (document + [0] * (sequence + 1))[:sequence]
        targets = (document[1:] + [IGNORED] * sequence)[:sequence]
        assert batch.inputs[row].tolist() == inputs
        assert batch.targets[row].tolist() == targets
        assert batch.answers[row].tolist() == [0 if t == IGNORED else t % 3 for t in targets]


def test_what_does_not_fit_together_is_refused():
    tokens = torch.arange(10)
    for arguments in (
        {"sequence": 0},
        {"sequence": 3, "answers": torch.zeros(4, dtype=torch.uint8)},
        {"sequence": 3, "starts": torch.tensor([0])},
    ):
        with pytest.raises(ValueError, match=r"sequence|answers|starts"):
            TokenRows(tokens, **arguments)


def _data(rows: int = 37) -> LanguageData:
    train = TokenRows(torch.arange(rows * 4 + 1, dtype=torch.int16) % 256, 4)
    held_out = TokenRows(torch.arange(41, dtype=torch.int16), 4)
    return LanguageData("tiny", train, held_out, byte_tokenizer(), "generated", "")


def test_every_epoch_is_a_permutation():
    data = _data()
    order = data.train_order(37, 5, seed=0).flatten()
    for epoch in order.split(37):
        assert sorted(epoch.tolist()) == list(range(37))
    assert not torch.equal(order[:37], order[37:74])


@given(steps=st.integers(0, 30), more=st.integers(0, 30), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_a_longer_order_starts_with_the_shorter(steps, more, seed):
    data = _data()
    short = data.train_order(steps, 8, seed)
    assert short.shape == (steps, 8)
    assert torch.equal(data.train_order(steps + more, 8, seed)[:steps], short)


def test_order_and_weights_do_not_share_random_numbers():
    data = _data(1000)
    drawn = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(data.train_order(1, 1000, seed=0)[0], drawn)
    assert len({order_seed(p, s) for p in ("a", "b") for s in range(100)}) == 200


def test_held_out_batches_are_fixed_and_never_repeat():
    data = _data()
    batches = data.held_out_batches(100, 4)
    firsts = torch.cat([b.inputs for b in batches])[:, 0].tolist()
    assert sorted(firsts) == list(range(0, 40, 4))
    assert [len(b.inputs) for b in data.held_out_batches(2, 3)] == [3, 3]
    assert torch.equal(data.held_out_batches(2, 3)[0].inputs, data.held_out_batches(1, 3)[0].inputs)


def test_fingerprints_see_content_type_and_shape():
    a = torch.arange(6, dtype=torch.int16)
    marks = {fingerprint(x) for x in (a, a.int(), a.view(2, 3), a.flip(0))} | {fingerprint(a, None), fingerprint("a")}
    assert len(marks) == 6
    assert fingerprint(a) == fingerprint(a.clone())


def test_a_record_can_keep_the_description():
    import json

    described = json.loads(json.dumps(_data().describe()))
    assert described["fingerprint"] == _data().fingerprint
    assert described["source"] == "generated"
