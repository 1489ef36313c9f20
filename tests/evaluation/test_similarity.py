"""Similarity of representations: hand values, invariances, and what they say of unrelated features."""

from __future__ import annotations

import pytest
import torch

from repro.evaluation.similarity import linear_cka, pairwise_cosines, representational_similarity


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rotation(size):
    return torch.linalg.qr(features(size, size, seed=9))[0]


def centred_kernels(x, y):
    """CKA as it is defined, from N x N kernels."""
    count = len(x)
    centre = torch.eye(count, dtype=torch.float64) - 1 / count
    k, m = (centre @ (part.double() @ part.double().T) @ centre for part in (x, y))
    return float((k * m).sum() / (k.norm() * m.norm()))


def test_cka_is_that_of_the_centred_kernels():
    x, y = features(40, 6), features(40, 9, seed=1) + 2
    assert linear_cka(x, y) == pytest.approx(centred_kernels(x, y), abs=1e-12)


def test_cka_ignores_rotation_scale_and_shift():
    x = features(50, 8)
    assert linear_cka(x, 3 * x @ rotation(8) + 5) == pytest.approx(1, abs=1e-6)
    assert linear_cka(x, x * torch.tensor([10.0] + [0.1] * 7)) < 0.5  # but not every linear map


def test_cka_of_unrelated_features_is_small_when_there_are_many_inputs():
    assert linear_cka(features(4000, 8), features(4000, 8, seed=1)) < 0.02
    assert linear_cka(features(10, 64), features(10, 64, seed=1)) > 0.5
    assert linear_cka(torch.ones(10, 3), features(10, 3)) == 0


def test_cosines_by_hand():
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    half = 2**-0.5
    torch.testing.assert_close(pairwise_cosines(x), torch.tensor([1, half, 0, 1, half, 1], dtype=torch.float64))
    torch.testing.assert_close(pairwise_cosines(x, False), torch.tensor([half, 0, half], dtype=torch.float64))


def test_similarity_analysis():
    x = features(30, 5)
    same = representational_similarity(x, 2 * x @ rotation(5))
    assert same.pearson == pytest.approx(1, abs=1e-9)
    assert same.spearman == pytest.approx(1, abs=1e-3)
    other = representational_similarity(features(200, 5), features(200, 5, seed=1), diagonal=False)
    assert abs(other.pearson) < 0.1
    assert abs(other.spearman) < 0.1
    # few inputs: the diagonal alone makes unrelated features look related
    assert representational_similarity(features(8, 50), features(8, 50, seed=1)).pearson > 0.5


def test_features_of_different_inputs_are_refused():
    with pytest.raises(ValueError, match="same inputs"):
        linear_cka(features(4, 3), features(5, 3))
    with pytest.raises(ValueError, match="same inputs"):
        representational_similarity(features(4), features(4))
    with pytest.raises(ValueError, match="too few"):
        representational_similarity(features(2, 3), features(2, 3))
