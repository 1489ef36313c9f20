"""Distances of generated images: against closed forms for known distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import linalg

from repro.data.digits import digits
from repro.evaluation.generative import (
    ClassScore,
    compare,
    components,
    frechet_distance,
    frechet_of_normals,
    kernel_distance,
    precision_recall,
)


def normals(count, d, mean=0.0, std=1.0, seed=0):
    return mean + std * np.random.default_rng(seed).normal(size=(count, d))


def test_frechet_of_normals_that_are_moved_and_stretched():
    one, two = np.diag([1.0, 4.0]), np.diag([9.0, 1.0])
    expected = 3**2 + (1 - 3) ** 2 + (2 - 1) ** 2
    assert frechet_of_normals(np.zeros(2), one, np.array([3.0, 0.0]), two) == pytest.approx(expected)
    assert frechet_of_normals(np.zeros(2), one, np.zeros(2), one) == pytest.approx(0, abs=1e-9)


def test_frechet_of_covariances_that_do_not_commute_is_that_of_the_matrix_root():
    numbers = np.random.default_rng(1)
    one, two = (a @ a.T for a in numbers.normal(size=(2, 5, 5)))
    expected = np.trace(one + two - 2 * np.real(linalg.sqrtm(one @ two)))
    assert frechet_of_normals(np.zeros(5), one, np.zeros(5), two) == pytest.approx(expected)
    singular = np.diag([1.0, 0.0])
    assert frechet_of_normals(np.zeros(2), singular, np.zeros(2), np.diag([0.0, 1.0])) == pytest.approx(2)


def test_frechet_of_samples_comes_to_that_of_their_normals():
    found = frechet_distance(normals(20_000, 3), normals(20_000, 3, 0.5, 2.0, seed=1))
    assert found == pytest.approx(3 * 0.25 + 3 * 1.0, rel=0.03)


def test_frechet_is_biased_where_the_kernel_distance_is_not():
    """Two halves of one distribution, 100 samples in 20 dimensions, over many draws."""
    pairs = [(normals(100, 20, seed=2 * i), normals(100, 20, seed=2 * i + 1)) for i in range(60)]
    frechet = [frechet_distance(a, b) for a, b in pairs]
    kernel = [kernel_distance(a, b) for a, b in pairs]
    assert min(frechet) > 1
    assert abs(np.mean(kernel)) < 3 * np.std(kernel) / np.sqrt(len(kernel))
    assert min(kernel) < 0 < max(kernel)


def test_kernel_distance_in_closed_form():
    """Of N(0, 1) and N(m, s^2) in one dimension: ``sum_j C(3, j) (E x^j - E y^j)^2``."""
    m, s = 0.5, 1.5
    moments = [(m, 0.0), (m * m + s * s, 1.0), (m**3 + 3 * m * s * s, 0.0)]
    expected = sum(c * (a - b) ** 2 for c, (a, b) in zip((3, 3, 1), moments, strict=True))
    draws = [kernel_distance(normals(700, 1, seed=i), normals(700, 1, m, s, seed=100 + i)) for i in range(30)]
    assert np.mean(draws) == pytest.approx(expected, abs=3 * np.std(draws) / np.sqrt(len(draws)))
    assert np.std(draws) / np.sqrt(len(draws)) < 0.15 * expected
    with pytest.raises(ValueError, match="two samples"):
        kernel_distance(normals(1, 2), normals(5, 2))


def test_kernel_distance_sees_what_mean_and_covariance_do_not():
    skewed = np.random.default_rng(0).exponential(size=(2000, 1)) - 1
    assert frechet_distance(normals(2000, 1), skewed) < 0.05
    assert kernel_distance(normals(2000, 1), skewed) > 2  # the third moment is 2, squared 4


def test_precision_and_recall_part_two_faults():
    rng = np.random.default_rng(0)
    real = rng.normal(size=(400, 2)) * 0.1 + np.repeat([[0.0, 0.0], [5.0, 0.0]], 200, 0)
    dropped = real[:200] + 0.01 * rng.normal(size=(200, 2))
    found = precision_recall(real, dropped)
    assert found.precision > 0.95
    assert 0.45 < found.recall < 0.55
    strayed = np.concatenate((real, real + np.array([0.0, 50.0]))) + 0.01 * rng.normal(size=(800, 2))
    found = precision_recall(real, strayed)
    assert 0.45 < found.precision < 0.55
    assert found.recall > 0.95
    with pytest.raises(ValueError, match="neighbours"):
        precision_recall(real[:3], real)


def test_components_keep_distances_and_their_signs():
    images = torch.randn(200, 1, 2, 3, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7).view(1, 1, 2, 3)
    features = components(images, 6)
    found = features(images)
    assert found.mean(0) == pytest.approx(np.zeros(6), abs=1e-9)
    assert found.var(0, ddof=1).mean() == pytest.approx(1)
    assert (np.diff(found.var(0)) < 0).all()
    flat = images.double().flatten(1).numpy()
    between = np.linalg.norm(found[0] - found[1]) * features.scale
    assert between == pytest.approx(np.linalg.norm(flat[0] - flat[1]))
    assert (features.basis[np.abs(features.basis).argmax(0), np.arange(6)] > 0).all()


def test_of_real_images_all_is_well_and_of_others_it_is_not():
    data = digits(0)
    features = components(data.train.pixels, 32)
    real, other = data.test.pixels, data.train.pixels[: len(data.test.pixels)]
    same = compare(real, other, features)
    blurred = compare(real, 0.7 * other + 0.3 * other.roll(1, 3), features)
    noise = compare(real, torch.rand(real.shape, generator=torch.Generator().manual_seed(0)), features)
    for name in ("kernel_distance", "frechet_distance"):
        assert same[name] < blurred[name] < noise[name]
    assert abs(same["kernel_distance"]) < 0.1 * blurred["kernel_distance"]
    assert min(same["precision"], same["recall"]) > 80
    assert noise["precision"] < 5
    score = ClassScore(features(data.train.pixels), data.train.labels)
    assert score.accuracy(features(real), data.test.labels) > 96
    assert score.accuracy(features(real), (data.test.labels + 1) % 10) < 4


def test_an_image_that_is_not_finite_gives_no_number():
    images = torch.rand(8, 1, 2, 2)
    made = images.clone()
    made[0, 0, 0, 0] = float("inf")
    assert all(np.isnan(v) for v in compare(images, made, components(images, 2)).values())
