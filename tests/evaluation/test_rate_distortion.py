"""Curves of rate against quality."""

from __future__ import annotations

import itertools
import math

import pytest

from repro.evaluation.rate_distortion import bd_rate, hull, mean_log2_rate, quality_at, rate_at

POINTS = [(10, 50.0), (20, 80.0), (40, 90.0)]


def test_the_hull_is_concave_and_leaves_out_what_a_mixture_beats():
    assert hull(POINTS) == POINTS
    assert hull([*POINTS, (30, 81.0), (50, 85.0), (10, 40.0)]) == POINTS
    assert hull([(10, 10.0), (20, 80.0)], nothing=10.0) == [(0.0, 10.0), (20, 80.0)]
    found = hull([(5, 1.0), (7, 6.0), (9, 7.0), (3, 2.5), (12, 7.5)], nothing=0.0)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(found)]
    assert slopes == sorted(slopes, reverse=True)
    for bad in ([(-1, 3.0)], [(1, math.nan)], [(math.inf, 2.0)]):
        with pytest.raises(ValueError, match="finite"):
            hull(bad)


def test_quality_at_a_budget_is_that_of_time_sharing():
    assert quality_at(POINTS, 20, nothing=10.0) == 80
    assert quality_at(POINTS, 30, nothing=10.0) == 85
    assert quality_at(POINTS, 1000, nothing=10.0) == 90
    assert quality_at(POINTS, 0, nothing=10.0) == 10
    assert quality_at(POINTS, 5, nothing=10.0) == 30
    assert quality_at(POINTS, 10, nothing=30.0) == pytest.approx(30 + 10 * 50 / 20)  # nothing and 20 bytes do better
    assert rate_at(POINTS, 85, nothing=10.0) == 30
    assert rate_at(POINTS, 90.1, nothing=10.0) == math.inf


def test_half_the_bytes_are_one_doubling():
    half = [(r / 2, q) for r, q in POINTS]
    saved = mean_log2_rate(POINTS, 55, 85, nothing=10.0) - mean_log2_rate(half, 55, 85, nothing=10.0)
    assert saved == pytest.approx(1.0)
    assert mean_log2_rate(POINTS, 55, 95, nothing=10.0) == math.inf
    assert bd_rate(POINTS, half) == pytest.approx(-50)
    assert bd_rate(POINTS, POINTS) == pytest.approx(0)


def test_bd_rate_of_lines_that_are_known():
    # log rate linear in quality, twice and three times the bytes: the mean of the logs between 0 and 1
    anchor, other = [(1.0, 0.0), (math.e, 1.0)], [(2.0, -1.0), (2 * math.e**4, 3.0)]
    expected = math.exp((math.log(2) + 1 + 0.5) - 0.5) - 1
    assert bd_rate(anchor, other) == pytest.approx(100 * expected)
    with pytest.raises(ValueError, match="common"):
        bd_rate([(1, 0.0), (2, 1.0)], [(1, 2.0), (2, 3.0)])
    for bad in ([(1, 1.0)], [(1, 2.0), (2, 1.0)], [(0, 1.0), (2, 2.0)]):
        with pytest.raises(ValueError, match="rises"):
            bd_rate(POINTS, bad)
