"""Power-law fits against scipy, their intervals, and crossings of a level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import linregress, t

from repro.evaluation.scaling import crossing, power_law, power_law_over_seeds

X = (16, 24, 32, 48, 64)


def test_an_exact_law_is_found():
    fit = power_law(X, [2.5 * x**2.25 for x in X])
    assert fit.exponent == pytest.approx(2.25)
    assert fit.factor == pytest.approx(2.5)
    assert fit.r2 == pytest.approx(1.0)
    assert fit(100) == pytest.approx(2.5 * 100**2.25)
    assert fit.low == pytest.approx(2.25, abs=1e-6)


def test_agrees_with_scipys_regression():
    rng = np.random.default_rng(0)
    y = [x**1.7 * math.exp(e) for x, e in zip(X, rng.normal(0, 0.2, len(X)), strict=True)]
    ours, theirs = power_law(X, y), linregress(np.log(X), np.log(y))
    assert ours.exponent == pytest.approx(theirs.slope)
    assert ours.factor == pytest.approx(math.exp(theirs.intercept))
    assert ours.r2 == pytest.approx(theirs.rvalue**2)
    assert ours.high - ours.exponent == pytest.approx(t.ppf(0.975, 3) * theirs.stderr)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(2000):
        fit = power_law(X, [x**2 * math.exp(e) for x, e in zip(X, rng.normal(0, 0.1, len(X)), strict=True)])
        hits += fit.low <= 2 <= fit.high
    assert abs(hits / 2000 - 0.95) < 0.015


def test_over_seeds_it_is_the_mean_of_the_fits():
    table = [[x**e * f for x in X] for e, f in ((1.9, 1.0), (2.0, 2.0), (2.1, 4.0))]
    fit = power_law_over_seeds(X, table)
    assert fit.exponent == pytest.approx(2.0)
    assert fit.factor == pytest.approx(2.0)
    assert fit.high - fit.exponent == pytest.approx(t.ppf(0.975, 2) * 0.1 / math.sqrt(3))


def test_two_points_have_no_interval_and_a_missing_one_no_fit():
    fit = power_law((1, 2), (1, 4))
    assert fit.exponent == pytest.approx(2)
    assert math.isnan(fit.low)
    assert math.isnan(power_law(X, [1, 2, math.nan, 4, 5]).exponent)


@pytest.mark.parametrize(
    ("x", "y"), [((1,), (1,)), ((2, 2), (1, 2)), ((1, 2), (1,)), ((0, 1), (1, 1)), ((1, 2), (-1, 1))]
)
def test_what_cannot_be_fitted_is_an_error(x, y):
    with pytest.raises(ValueError, match="power law"):
        power_law(x, y)
    with pytest.raises(ValueError, match=r"power law|no seed"):
        power_law_over_seeds(x, [y] if x != (1,) else [])


def test_crossing_interpolates_over_log_x():
    assert crossing((100, 400), (0.0, 1.0), 0.5) == pytest.approx(200)
    assert crossing((100, 200, 400), (0.1, 0.3, 0.9), 0.6) == pytest.approx(200 * 2**0.5)
    assert crossing((100, 200), (0.7, 0.9), 0.5) == 100
    assert math.isnan(crossing((100, 200), (0.1, 0.4), 0.5))
    assert crossing((100, 200), (0.1, 0.5), 0.5) == 200
    for x, y in (((), ()), ((2, 1), (0, 1)), ((1, 2), (0,)), ((0, 2), (0, 1))):
        with pytest.raises(ValueError, match="crossing"):
            crossing(x, y, 0.5)
