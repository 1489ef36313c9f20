"""Composition is what it says, and its control has nothing to compose."""

from __future__ import annotations

import torch

from repro.data import load_tuples
from repro.data.tuples import composition, lookup, lookup_joint


def _symbols(data, inputs):
    return inputs - torch.tensor(data.offsets)


def _all(data):
    inputs = torch.cat([data.train_inputs, data.held_out_inputs])
    return _symbols(data, inputs), torch.cat([data.train_targets, data.held_out_targets])


def test_targets_follow_from_192_facts():
    data = load_tuples("composition")
    assert (data.sizes, data.classes, data.vocab_size) == ((12, 16, 16, 16), 12, 60)
    symbols, targets = _all(data)
    assert len(symbols) == 49152
    # the permutations, read off the data: f(v) = answer of (v, f, g, h) pushed back through a fixed g, h
    tables = torch.full((16, 12), -1)
    first = (symbols[:, 2] == 0) & (symbols[:, 3] == 0)
    tables[symbols[first, 1], symbols[first, 0]] = targets[first]  # h0(g0(f(v)))
    shared = tables[0].argsort()  # v with h0(g0(f0(v))) = answer
    for f in range(16):
        assert sorted(tables[f].tolist()) == list(range(12))
    # applying f2, f3 = 0 to u and to f_a(v) agree whenever u = f_a(v) up to f0: a consistency of chained functions
    for a in range(16):
        inner = shared[tables[a]]  # u with f0(u) = f_a(v)
        for b in (3, 9):
            row = (symbols[:, 1] == a) & (symbols[:, 2] == b) & (symbols[:, 3] == 5)
            base = (symbols[:, 1] == 0) & (symbols[:, 2] == b) & (symbols[:, 3] == 5)
            by_value = torch.empty(12, dtype=torch.long)
            by_value[symbols[base, 0]] = targets[base]
            assert torch.equal(by_value[inner[symbols[row, 0]]], targets[row])


def test_a_tenth_is_held_out_and_never_trained():
    data = composition()
    train = set(map(tuple, data.train_inputs.tolist()))
    held_out = set(map(tuple, data.held_out_inputs.tolist()))
    assert len(train) + len(held_out) == 49152
    assert len(held_out) == 4915
    assert not train & held_out
    for slot, size in enumerate(data.sizes):
        assert len(_symbols(data, data.train_inputs)[:, slot].unique()) == size


def test_task_seed_decides_everything():
    assert composition(1).fingerprint == composition(1).fingerprint != composition(2).fingerprint
    assert lookup(1).fingerprint == lookup(1).fingerprint != lookup(2).fingerprint
    assert lookup_joint(1).fingerprint == lookup_joint(1).fingerprint != lookup_joint(2).fingerprint


def test_lookup_has_one_independent_answer_an_input():
    data = load_tuples("lookup")
    assert data.sizes == (192, 256)
    assert len(set(map(tuple, data.train_inputs.tolist()))) == data.train_rows == 49152
    counts = torch.bincount(data.train_targets, minlength=12).double()
    assert ((counts - 4096).abs() < 5 * (4096 * 11 / 12) ** 0.5).all()
    # knowing one row of the table says nothing about another one
    table = data.train_targets.view(192, 256)
    agree = (table[:96] == table[96:]).double().mean()
    assert abs(agree - 1 / 12) < 5 * (1 / 12 * 11 / 12 / (96 * 256)) ** 0.5
    assert torch.equal(data.held_out_inputs, data.train_inputs)
    assert torch.equal(data.held_out_targets, data.train_targets)


def test_joint_lookup_shares_the_inputs_of_composition_and_no_function():
    data, composed = load_tuples("lookup-joint"), load_tuples("composition")
    assert (data.sizes, data.classes) == (composed.sizes, composed.classes)
    table = data.train_targets.view(12, 16, 16, 16)
    assert torch.equal(table[..., :8], table[..., 8:])
    assert not torch.equal(table[..., 0], table[..., 1])
    # a permutation of values would never repeat an answer along the first symbol
    assert all(len(table[:, f, 0, 0].unique()) < 12 for f in range(16))


def test_slots_have_ids_of_their_own():
    data = composition()
    batch = data.rows(torch.arange(1000))
    for slot, (offset, size) in enumerate(zip(data.offsets, data.sizes, strict=True)):
        column = batch.inputs[:, slot]
        assert ((column >= offset) & (column < offset + size)).all()


def test_order_is_shared_by_arms_and_extends():
    data = composition()
    order = data.train_order(50, 32, seed=1)
    assert order.shape == (50, 32)
    assert torch.equal(order, data.train_order(50, 32, seed=1))
    assert torch.equal(order, data.train_order(200, 32, seed=1)[:50])
    assert not torch.equal(order, data.train_order(50, 32, seed=2))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    data.train_order(5, 5, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_held_out_batches_are_fixed():
    data = composition()
    one, two = data.held_out_batches(3, 100), data.held_out_batches(3, 100)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(one, two, strict=True))
    assert sum(len(b.targets) for b in data.held_out_batches(1000, 512)) == data.held_out_rows
    assert (one[0].answers == 3).all()
