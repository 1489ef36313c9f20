"""The simulated executor keeps to what holds for every list scheduler, and to what the real ones do."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.runner.simulate import Job, scaled, simulate

seconds = st.integers(0, 1000).map(float)  # whole numbers: sums are exact
plain = st.lists(seconds.map(Job), max_size=40)
with_bases = st.lists(st.builds(Job, seconds, st.sampled_from(["", "a", "b"]), seconds), max_size=40)
orders = st.sampled_from(["plan", "longest"])
slots = st.integers(1, 12)


@given(with_bases, slots, orders)
def test_no_schedule_beats_its_bound_or_misses_grahams(jobs, places, order):
    found = simulate(jobs, places, order)
    assert found.makespan >= found.bound * (1 - 1e-12)
    assert found.makespan <= (found.work / places + (1 - 1 / places) * found.critical) * (1 + 1e-12)
    assert 0 <= found.utilisation <= 1 + 1e-12


@given(with_bases, orders)
def test_one_place_takes_the_sum_and_makes_each_base_model_once(jobs, order):
    found = simulate(jobs, 1, order)
    assert found.makespan == found.work == sum(j.seconds for j in jobs) + found.bases
    first = {}
    for job in sorted(jobs, key=lambda j: -(j.seconds + j.base_s)) if order == "longest" else jobs:
        if job.base:
            first.setdefault(job.base, job.base_s)
    assert found.bases == sum(first.values())


@given(plain, orders)
def test_with_a_place_for_every_run_the_longest_decides(jobs, order):
    found = simulate(jobs, max(1, len(jobs)), order)
    assert found.makespan == found.critical == max((j.seconds for j in jobs), default=0.0)
    assert set(found.starts) <= {0.0}


@given(plain, slots, orders)
def test_no_place_has_two_runs_at_a_time(jobs, places, order):
    found = simulate(jobs, places, order)
    spans = [(start, start + job.seconds) for start, job in zip(found.starts, jobs, strict=True) if job.seconds]
    for moment, _ in spans:
        assert sum(start <= moment < end for start, end in spans) <= places


@given(plain, slots)
def test_the_plan_is_begun_in_its_order(jobs, places):
    starts = simulate(jobs, places).starts
    assert list(starts) == sorted(starts)


@given(plain, slots, orders)
def test_twice_as_long_runs_take_twice_as_long(jobs, places, order):
    once, twice = simulate(jobs, places, order), simulate(scaled(jobs, 2.0), places, order)
    assert twice.makespan == 2 * once.makespan
    assert math.isclose(twice.utilisation, once.utilisation)


def test_the_longest_first_is_four_thirds_of_the_best_at_most():
    """Graham's example for two places, where the plan's order does badly."""
    jobs = [Job(s) for s in (1, 1, 2)]
    assert simulate(jobs, 2).makespan == 3
    assert simulate(jobs, 2, "longest").makespan == 2


def test_a_base_model_is_made_again_until_somebody_has_finished_with_it():
    jobs = [Job(1, "base", 10), Job(2, "base", 10), Job(20), Job(3, "base", 10)]
    found = simulate(jobs, 3)
    # the first two begin together and both make it; the fourth begins when the first has ended, and finds it
    assert found.starts == (0, 0, 0, 11)
    assert (found.makespan, found.bases) == (20, 20)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_runs_take_some_seconds(bad):
    with pytest.raises(ValueError, match="some seconds"):
        Job(bad)


def test_a_plan_needs_a_place():
    with pytest.raises(ValueError, match="needs a place"):
        simulate([], 0)
    assert simulate([], 3).utilisation == 1
