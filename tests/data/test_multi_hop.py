"""Multi-hop tasks compute what they say; training, types and tokens follow from the functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from repro.data import load
from repro.data.multi_hop import SPECIAL, TASKS, multi_hop, tokenizer

NAMES = tuple(TASKS)


@pytest.mark.parametrize("task", NAMES)
def test_targets_are_the_composition_of_the_tables(task):
    data = multi_hop(task, 5, 40, 3)
    f = data.tables
    for row in range(0, len(data.domain), 7):
        x = data.domain[row]
        if task == "two-hop":
            steps = [f[0][x[0], x[1]]]
            t = f[1][steps[0], x[2]]
        elif task == "non-tree":
            steps = [f[0][x[0], x[1]]]
            t = f[1][steps[0], x[1], x[2]]
        elif task == "three-hop":
            steps = [f[0][x[0], x[1]]]
            steps.append(f[1][steps[0], x[2]])
            t = f[2][steps[1], x[3]]
        else:
            steps = [f[0][x[0], x[1]], f[1][x[2], x[3]]]
            t = f[2][tuple(steps)]
        assert data.bridges[row].tolist() == steps
        assert data.targets[row] == t


@pytest.mark.parametrize("task", NAMES)
def test_types_say_which_primitives_training_never_uses(task):
    data = multi_hop(task, 6, 90, 1)
    assert len(set(data.train.tolist())) == 90
    assert (data.types[data.train] == 0).all()
    shown = [{tuple(data.columns[r, list(reads)]) for r in data.train} for reads in TASKS[task].hops]
    for hop, (reads, entries) in enumerate(zip(TASKS[task].hops, shown, strict=True)):
        here = [tuple(c) in entries for c in data.columns[:, list(reads)]]
        assert np.array_equal(np.array(here), (data.types >> hop & 1) == 0)
        assert data.seen[hop].sum() == len(entries)
    assert not set(data.of_type(0).tolist()) & set(data.train.tolist())
    kinds = [data.of_type(k) for k in range(2 ** len(shown))]
    assert sum(map(len, kinds)) + 90 == 6**data.arity


def test_training_uses_no_more_than_its_share_of_a_primitive():
    data = multi_hop("two-hop", 10, 0, 0, seen=0.7)
    for seen in data.seen:
        assert seen.mean() <= 0.7
    assert abs(len(data.pool) / 1000 - 0.49) < 0.06
    with pytest.raises(ValueError, match="rows asked for"):
        data.with_rows(len(data.pool) + 1)


def test_a_larger_training_set_holds_a_smaller_one_and_hops_are_shared_by_tasks():
    small, large = multi_hop("two-hop", 8, 50, 4), multi_hop("two-hop", 8, 90, 4)
    assert np.array_equal(large.train[:50], small.train)
    assert np.array_equal(large.with_rows(50).types, small.types)
    other = multi_hop("non-tree", 8, 50, 4)
    assert np.array_equal(other.tables[0], small.tables[0])
    assert other.tables[1].shape == (8, 8, 8)
    assert not np.array_equal(multi_hop("two-hop", 8, 50, 5).tables[0], small.tables[0])


def test_tasks_reduce_to_two_hop():
    """PARALLEL whose second bridge is x3, and NON-TREE whose last hop has no use for x2."""
    two = multi_hop("two-hop", 6, 40, 2)
    f1, f2 = two.tables
    for x in two.domain[::11]:
        target = f2[f1[x[0], x[1]], x[2]]
        projection = np.broadcast_to(np.arange(6)[:, None], (6, 6))
        assert f2[f1[x[0], x[1]], projection[x[2], 3]] == target
        blind = np.broadcast_to(f2[:, None, :], (6, 6, 6))
        assert blind[f1[x[0], x[1]], x[1], x[2]] == target


def test_the_last_hop_can_be_addition():
    data = multi_hop("two-hop", 7, 50, 0, last="addition")
    assert np.array_equal(data.targets, (data.bridges[:, 0] + data.domain[:, 2]) % 7)
    assert np.array_equal(data.tables[0], multi_hop("two-hop", 7, 50, 0).tables[0])


def test_the_loss_begins_behind_the_prompt_and_steps_come_in_order():
    data = multi_hop("three-hop", 6, 100, 0)
    for thought, length in (("none", 4), ("bridges", 6), ("constant", 6)):
        language = data.language(thought)
        batch = language.rows(torch.arange(20))
        assert batch.inputs.shape == (20, length)
        assert (batch.targets[:, :3] == -100).all()
        expected = data.columns[data.train[:20]] + SPECIAL
        assert np.array_equal(batch.inputs[:, :4].numpy(), expected[:, :4])
        assert np.array_equal(batch.targets[:, -1].numpy(), expected[:, -1])
        if thought == "bridges":
            assert np.array_equal(batch.targets[:, 3:5].numpy(), expected[:, 4:6])
        if thought == "constant":
            assert (batch.targets[:, 3:5] == 6 + SPECIAL).all()
        logits = torch.randn(20, length, language.vocab_size, requires_grad=True)
        F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten()).backward()
        assert (logits.grad[:, :3] == 0).all()
        assert (logits.grad[:, 3:].abs().sum(-1) > 0).all()
    assert language.vocab_size == len(tokenizer(6)) == 6 + 1 + SPECIAL
    assert tokenizer(6).decode(batch.inputs[0, :4]).split() == [str(v) for v in data.domain[data.train[0]]]


def test_no_row_reads_the_next():
    data = multi_hop("two-hop", 6, 50, 0)
    batch = data.language().rows(torch.arange(50))
    assert np.array_equal(batch.inputs.numpy() - SPECIAL, data.domain[data.train])


def test_the_registry_gives_them_by_name():
    data = load("two-hop", size=8, limit=100)
    assert (data.name, data.train_rows, data.sequence) == ("two-hop", 100, 3)
    assert data.fingerprint == load("two-hop", size=8, limit=100).fingerprint
    assert data.fingerprint != load("two-hop", size=8, limit=100, seed=1).fingerprint
    assert load("three-hop", thought="bridges", size=8).sequence == 6


def test_what_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="task is one of"):
        multi_hop("four-hop", 5, 10)
    with pytest.raises(ValueError, match="last hop"):
        multi_hop("two-hop", 5, 10, last="product")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="thought is one of"):
        multi_hop("two-hop", 5, 10).tokens(np.arange(2), "aloud")  # type: ignore[arg-type]
