"""Exemplars: herding against its definition, shares of classes, nearest means."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from repro.training.rehearsal import Rehearsal, herding, nearest_mean, quotas


def features(count=12, width=5, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def plain_herding(rows, count):
    """iCaRL's Algorithm 4, sample by sample."""
    rows = F.normalize(rows.double(), dim=1)
    chosen: list[int] = []
    for k in range(1, count + 1):

        def distance(i, k=k):
            return float((rows.mean(0) - (rows[[*chosen, i]].sum(0)) / k).norm())

        chosen.append(min((i for i in range(len(rows)) if i not in chosen), key=distance))
    return chosen


def test_herding_is_the_algorithm():
    for seed in range(5):
        rows = features(seed=seed)
        assert herding(rows, 7).tolist() == plain_herding(rows, 7)


def test_the_first_is_nearest_to_the_mean_and_a_shorter_list_is_a_prefix():
    rows = features(30)
    unit = F.normalize(rows, dim=1)
    assert int(herding(rows, 1)) == int((unit - unit.mean(0)).norm(dim=1).argmin())
    full = herding(rows, 30)
    assert sorted(full.tolist()) == list(range(30))
    for count in (1, 4, 17):
        assert torch.equal(herding(rows, count), full[:count])
    assert len(herding(rows, 99)) == 30


def test_herding_is_better_than_chance():
    rows = features(200)
    unit = F.normalize(rows, dim=1)
    error = (unit[herding(rows, 10)].mean(0) - unit.mean(0)).norm()
    assert error < 0.3 * (unit[:10].mean(0) - unit.mean(0)).norm()


def test_shares():
    assert quotas(2000, 20) == [100] * 20
    assert quotas(2000, 30) == [66] * 30
    filled = quotas(2000, 30, fill=True)
    assert filled == [67] * 20 + [66] * 10
    assert sum(filled) == 2000
    with pytest.raises(ValueError, match="class"):
        quotas(10, 0)


@pytest.mark.parametrize("fill", [False, True])
def test_old_lists_are_cut_and_new_classes_join(fill):
    memory = Rehearsal(10, fill=fill)
    rows, labels = torch.arange(24) + 100, torch.arange(24) % 3
    memory.update(features(24), labels, rows)
    assert [len(memory.kept[c]) for c in range(3)] == ([4, 3, 3] if fill else [3, 3, 3])
    first = {c: kept.clone() for c, kept in memory.kept.items()}
    for label, kept in first.items():
        assert set((kept - 100).remainder(3).tolist()) == {label}
    memory.update(features(8, seed=1), torch.full((8,), 3), torch.arange(8) + 500)
    assert [len(kept) for kept in memory.kept.values()] == ([3, 3, 2, 2] if fill else [2] * 4)
    for label, kept in first.items():
        assert torch.equal(memory.kept[label], kept[: len(memory.kept[label])])
    assert len(memory.rows) == len(memory) == (10 if fill else 8)
    before = memory.rows
    memory.update(features(8, seed=2), torch.zeros(8, dtype=torch.long), torch.arange(8) + 900)
    assert torch.equal(memory.rows, before)  # a class that is there already


def test_an_empty_memory_has_no_rows():
    assert Rehearsal(5).rows.tolist() == []


def test_nearest_means():
    exemplars = torch.tensor([[2.0, 0.1], [1.0, -0.1], [0.0, 3.0], [0.2, 1.0]])
    found = nearest_mean(torch.tensor([[9.0, 1.0], [0.1, 0.2]]), exemplars, torch.tensor([0, 0, 1, 1]))
    assert found.tolist() == [0, 1]
    centres = torch.eye(4)
    for order in itertools.permutations(range(4)):
        assert nearest_mean(centres[list(order)], centres, torch.arange(4)).tolist() == list(order)
