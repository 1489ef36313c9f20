"""Intervals and tests against hand-computed values, other implementations, and data whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from repro.claims.statistics import BOOTSTRAP_FROM, Interval, mean_interval, page_trend, seeds_to_settle, wilson

SHAPES = {
    "normal": lambda rng, size: rng.normal(0.0, 1.0, size),
    "uniform": lambda rng, size: rng.uniform(-1.0, 1.0, size),
    "laplace": lambda rng, size: rng.laplace(0.0, 1.0, size),
}


def test_the_interval_of_three_values_is_the_textbook_one():
    found = mean_interval([1.0, 2.0, 3.0])
    half = 4.302652729911275 * 1.0 / math.sqrt(3)  # t(0.975, 2) from tables
    assert found.mean == 2.0
    assert found.sd == 1.0
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert found.method == "t"


@pytest.mark.parametrize("n", [2, 3, 5, 10, BOOTSTRAP_FROM - 1])
def test_few_values_agree_with_scipy(n):
    values = np.random.default_rng(n).normal(3.0, 2.0, n)
    found = mean_interval(list(values))
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.n == n


def test_the_interval_knows_what_it_cannot_know():
    assert math.isnan(mean_interval([]).mean)
    one = mean_interval([4.0])
    assert one.mean == 4.0
    assert math.isnan(one.low)
    for bad in (math.nan, math.inf, -math.inf):
        found = mean_interval([1.0, bad, 2.0])
        assert math.isnan(found.mean)
        assert math.isnan(found.low)
        assert found.n == 3


def test_equal_values_give_an_interval_of_no_width():
    for n in (3, BOOTSTRAP_FROM + 5):
        found = mean_interval([0.25] * n)
        assert (found.low, found.mean, found.high) == (0.25, 0.25, 0.25)


def coverage(draws: np.ndarray, truth: float) -> float:
    return float(np.mean([f.low <= truth <= f.high for f in map(mean_interval, draws.tolist())]))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_95_percent_intervals_of_few_seeds_cover_the_truth(n):
    """4,000 replications: a Monte-Carlo standard error of 0.35 percentage points."""
    assert 0.93 <= coverage(np.random.default_rng(n).normal(0.7, 2.0, (4000, n)), 0.7) <= 0.97


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [3, 5, 10])
def test_few_seeds_that_are_not_normal_cost_little_coverage(shape, n):
    """Student's t is exact for normal effects only; with three uniform ones 92.6 % is what it really covers."""
    assert 0.92 <= coverage(SHAPES[shape](np.random.default_rng(17 * n), (4000, n)) + 0.7, 0.7) <= 0.985


@pytest.mark.parametrize(
    ("shape", "n"),
    [("normal", BOOTSTRAP_FROM), ("laplace", BOOTSTRAP_FROM), ("skewed", BOOTSTRAP_FROM), ("normal", 50)],
)
def test_95_percent_intervals_of_many_seeds_cover_the_truth(shape, n):
    """800 replications: a Monte-Carlo standard error of 0.77 percentage points."""
    rng = np.random.default_rng(n)
    draws = rng.exponential(0.7, (800, n)) if shape == "skewed" else SHAPES[shape](rng, (800, n)) + 0.7
    assert mean_interval(draws[0].tolist()).method == "bootstrap"
    assert 0.93 <= coverage(draws, 0.7) <= 0.97


def test_values_too_alike_to_resample_fall_back_to_t():
    values = [0.0] * (BOOTSTRAP_FROM - 1) + [1.0]
    found = mean_interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found.method == "t"
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_bootstrap_is_the_same_every_time():
    values = np.random.default_rng(0).normal(size=50).tolist()
    assert mean_interval(values) == mean_interval(values)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (37, 100), (999, 1000)])
def test_wilson_agrees_with_scipy(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_is_everything():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("n", [20, 100, 500])
def test_wilson_covers_on_average(n):
    """Exact coverage, by summing over all outcomes, averaged over proportions from 5 % to 95 %."""
    intervals = np.array([wilson(k, n) for k in range(n + 1)])
    proportions = np.linspace(0.05, 0.95, 91)
    weights = stats.binom.pmf(np.arange(n + 1)[:, None], n, proportions)
    inside = (intervals[:, :1] <= proportions) & (proportions <= intervals[:, 1:])
    assert 0.93 <= (weights * inside).sum(axis=0).mean() <= 0.97


def test_page_counts_permutations():
    """Three seeds, three arms, all in the stated order: one of 6^3 arrangements is as extreme."""
    up, down = page_trend([[1, 2, 3]] * 3)
    assert up == pytest.approx(1 / 216)
    assert down == pytest.approx(1.0)
    assert page_trend([[3, 2, 1]] * 3) == pytest.approx((1.0, 1 / 216))


def test_two_arms_are_ordered_by_the_sign_test():
    assert page_trend([[1, 2]] * 6) == (1 / 64, 1.0)
    assert page_trend([[1, 2]] * 5 + [[2, 1]]) == (7 / 64, 63 / 64)
    assert page_trend([[1, 1]] * 6) == (1.0, 1.0)


def test_one_seed_orders_nothing():
    assert page_trend([[1, 2, 3]]) == (1.0, 1.0)


def test_page_copes_with_many_seeds():
    up, down = page_trend(np.random.default_rng(0).normal(size=(40, 4)) + 0.2 * np.arange(4))
    assert up < 0.05 < down


def test_page_is_exact_under_the_null():
    rng = np.random.default_rng(3)
    tables = rng.normal(size=(2000, 4, 3))
    false = sum(page_trend(t.tolist())[0] <= 0.025 for t in tables)
    assert false / 2000 <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / 2000)


def shifted(mean: float, sd: float, n: int) -> list[float]:
    """Values with exactly this mean and standard deviation."""
    raw = np.random.default_rng(n).normal(size=n)
    return list(mean + sd * (raw - raw.mean()) / raw.std(ddof=1))


@pytest.mark.parametrize(("mean", "sd"), [(1.0, 1.0), (0.5, 1.0), (0.8, 2.5), (-0.4, 0.7)])
def test_the_seeds_to_settle_are_the_fewest_that_clear_the_boundary(mean, sd):
    now = mean_interval(shifted(mean, sd, 3))
    n = seeds_to_settle(now, [0.0])
    assert n is not None
    half = stats.t.ppf(0.975, n - 1) * sd / math.sqrt(n)
    assert half < abs(mean)
    fewer = stats.t.ppf(0.975, n - 2) * sd / math.sqrt(n - 1)
    assert fewer >= abs(mean)


def test_with_the_seeds_to_settle_about_half_of_all_studies_settle():
    """The promise is for a mean that stays as it is, and half the studies land below it."""
    n = seeds_to_settle(mean_interval(shifted(0.5, 1.0, 5)), [0.0])
    assert n == 18
    rng = np.random.default_rng(5)
    settled = [mean_interval(row).low > 0 for row in rng.normal(0.5, 1.0, (2000, n)).tolist()]
    assert 0.4 < np.mean(settled) < 0.65
    double = rng.normal(0.5, 1.0, (2000, 2 * n))
    half = stats.t.ppf(0.975, 2 * n - 1) * double.std(axis=1, ddof=1) / math.sqrt(2 * n)
    assert np.mean(double.mean(axis=1) - half > 0) > 0.8


def test_where_all_boundaries_have_to_be_cleared_the_nearest_decides_how_many_seeds():
    now = mean_interval(shifted(0.5, 1.0, 5))
    assert seeds_to_settle(now, [0.0, 0.6]) > seeds_to_settle(now, [0.0])


def test_seeds_to_settle_says_nothing_where_nothing_can_be_said():
    assert seeds_to_settle(mean_interval([1.0]), [0.0]) is None
    assert seeds_to_settle(mean_interval([1.0, math.nan, 2.0]), [0.0]) is None
    assert seeds_to_settle(Interval(0.0, -1, 1, 3, 1.0), [0.0]) is None
    assert seeds_to_settle(Interval(1e-6, -1, 1, 3, 1.0), [0.0]) is None
    assert seeds_to_settle(Interval(1.0, 1.0, 1.0, 3, 0.0), [0.0]) == 3
