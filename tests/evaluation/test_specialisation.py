"""Measures of expert specialisation."""

from __future__ import annotations

import math

import pytest
import torch

from repro.evaluation.specialisation import (
    frequencies,
    load_imbalance,
    mutual_information,
    peak_frequency,
    selection_table,
    shuffled_information,
    top_score_sum,
)


def test_table_counts_selections_by_label():
    indices, labels = torch.tensor([[0, 1], [0, 2], [2, 1]]), torch.tensor([0, 0, 2])
    table = selection_table(indices, labels, 4, 3)
    assert table.tolist() == [[2, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]]
    assert frequencies(table, 2).tolist() == [[1, 0.5, 0.5, 0], [0, 0, 0, 0], [0, 1, 1, 0]]
    assert peak_frequency(table, 2) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="3 routed tokens and 2 labels"):
        selection_table(indices, labels[:2], 4, 3)


def test_information_bounds():
    assert mutual_information(torch.full((3, 8), 5.0)) == pytest.approx(0.0)
    assert mutual_information(7 * torch.eye(4)) == pytest.approx(2.0)
    assert mutual_information(torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])) == pytest.approx(1.0)
    assert mutual_information(torch.tensor([[9.0, 0], [0, 0]])) == pytest.approx(0.0)


def test_information_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(200)
    experts = (labels * 2 + torch.randint(0, 4, (600,), generator=draw)) % 6
    ours = mutual_information(selection_table(experts[:, None], labels, 6, 3))
    assert ours == pytest.approx(metrics.mutual_info_score(labels, experts) / math.log(2), rel=1e-9)


def test_labels_weigh_equally():
    table = torch.tensor([[10.0, 0], [0, 1]])
    assert mutual_information(table) == pytest.approx(1.0)


def test_shuffled_labels_tell_nothing():
    labels = torch.arange(4).repeat_interleave(500)
    indices = labels[:, None]
    draw = torch.Generator().manual_seed(0)
    assert mutual_information(selection_table(indices, labels, 4, 4)) == pytest.approx(2.0)
    assert 0 < shuffled_information(indices, labels, 4, 4, draw) < 0.02


def test_imbalance_and_score_sums():
    assert load_imbalance(torch.tensor([[2, 2], [4, 0]])).tolist() == [1.0, 2.0]
    scores = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    assert top_score_sum(scores, torch.tensor([[0, 1], [2, 0]])) == pytest.approx((0.8 + 0.9) / 2)
