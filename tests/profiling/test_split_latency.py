"""Latency of split computations."""

from __future__ import annotations

import math

import pytest

from repro.profiling.split_latency import Split, time_calls, wins_between


def test_latency_is_compute_and_transfer():
    split = Split(0.5, 1250, 0.25)
    assert split.latency_s(1e4) == pytest.approx(0.5 + 1.0 + 0.25)
    assert split.latency_s(1e4, 0.1) == pytest.approx(1.85)
    assert Split(2.0, 0).latency_s(1e3, 0.1) == 2.0
    with pytest.raises(ValueError, match="positive"):
        split.latency_s(0)


def test_who_wins_changes_at_one_bandwidth():
    slow_small, quick_large = Split(0.3, 100), Split(0.1, 1000)
    low, high = wins_between(slow_small, quick_large)
    assert (low, high) == (0.0, pytest.approx(8 * 900 / 0.2))
    assert slow_small.latency_s(high) == pytest.approx(quick_large.latency_s(high))
    assert slow_small.latency_s(0.9 * high) < quick_large.latency_s(0.9 * high)
    assert wins_between(quick_large, slow_small) == (pytest.approx(high), math.inf)
    local = Split(1.0, 0)
    assert wins_between(Split(0.2, 100), local, 0.3) == (pytest.approx(800 / 0.5), math.inf)


def test_one_that_is_better_in_both_wins_everywhere():
    best, worst = Split(0.1, 10), Split(0.2, 20)
    assert wins_between(best, worst) == (0.0, math.inf)
    assert all(map(math.isnan, wins_between(worst, best)))
    assert all(map(math.isnan, wins_between(best, best)))


def test_calls_are_timed():
    calls = []
    assert time_calls(lambda: calls.append(1), repeats=5, warmup=2) >= 0
    assert len(calls) == 7
