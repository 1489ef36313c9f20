"""Ranking measures on cases worked by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from repro.evaluation.retrieval import mean_average_precision, ranks, recall_at, reciprocal_rank


def test_a_perfect_ranker():
    found = ranks(torch.eye(5))
    assert found.tolist() == [1] * 5
    assert reciprocal_rank(found) == recall_at(found, 1) == 1


def test_ranks_one_two_four():
    scores = torch.tensor([[9.0, 1, 2, 3], [5, 4, 1, 0], [7, 6, 1, 5]])
    found = ranks(scores)
    assert found.tolist() == [1, 2, 4]
    assert reciprocal_rank(found) == pytest.approx(0.5833, abs=1e-4)
    assert recall_at(found, 2) == pytest.approx(2 / 3)
    assert ranks(scores, torch.tensor([1, 0, 0])).tolist() == [4, 1, 1]


def test_equal_scores_do_not_help():
    assert ranks(torch.zeros(3, 3)).tolist() == [3, 3, 3]


def test_average_precision_is_scikit_learn_s():
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(20, 30, generator=draw)
    relevant = torch.rand(20, 30, generator=draw) < 0.2
    relevant[:, 0] = True
    expected = np.mean([average_precision_score(r, s) for r, s in zip(relevant.numpy(), scores.numpy(), strict=True)])
    assert mean_average_precision(scores, relevant) == pytest.approx(expected)


def test_no_relevant_candidate_is_an_error():
    with pytest.raises(ValueError, match="no relevant"):
        mean_average_precision(torch.rand(2, 3), torch.zeros(2, 3, dtype=torch.bool))
