from __future__ import annotations

import math

import pytest

from repro.evaluation.merging import at_target, best, lead, normalised, recovered, search


def test_normalised_is_the_mean_ratio():
    assert normalised([0.5, 0.9], [1.0, 0.9]) == pytest.approx(75)
    with pytest.raises(ValueError, match="1 accuracies, 2"):
        normalised([0.5], [1.0, 1.0])
    with pytest.raises(ValueError, match="zero"):
        normalised([0.5], [0.0])


def test_the_first_of_equals_is_best():
    assert best({0.1: 3.0, 0.2: 5.0, 0.3: 5.0}) == 0.2
    with pytest.raises(ValueError, match="nothing"):
        best({})


def test_search_asks_once_for_each():
    asked = []
    found, scores = search((0.1, 0.2, 0.3), lambda c: asked.append(c) or -abs(c - 0.2))
    assert found == 0.2
    assert asked == list(scores) == [0.1, 0.2, 0.3]


def test_recovered_is_a_share_of_the_loss():
    assert recovered(48.0, 38.0, 48.3) == pytest.approx(97.09, abs=0.01)
    assert recovered(38.0, 38.0, 48.3) == 0
    with pytest.raises(ValueError, match="cost nothing"):
        recovered(0.5, 0.6, 0.6)


def test_at_target_interpolates_and_knows_nothing_beyond_the_ends():
    curve = [(100.0, 70.0), (98.0, 90.0), (90.0, 95.0)]
    assert at_target(curve, 99.0) == pytest.approx(80)
    assert at_target(curve, 98.0) == pytest.approx(90)
    assert at_target(curve, 90.0) == 95
    assert math.isnan(at_target(curve, 85.0))
    assert math.isnan(at_target(curve, 101.0))
    assert at_target([(99.0, 60.0), (99.0, 80.0)], 99.0) == 70
    assert at_target([(100.0, 70.0), (99.0, 60.0), (100.5, 90.0)], 100.2) == pytest.approx(78)
    with pytest.raises(ValueError, match="empty"):
        at_target([], 99.0)


def test_a_lead_is_taken_where_both_families_are():
    other = [(100.0, 70.0), (98.0, 90.0)]
    assert lead(other, other) == 0
    ties = [(100.0, 70.0), (98.0, 90.0), (98.0, 80.0), (95.0, 85.0)]
    assert lead(ties, ties) == pytest.approx(0)
    assert lead([(99.0, 85.0), (98.5, 86.0)], other) == pytest.approx((5 + 1) / 2)
    assert lead([(99.0, 85.0), (97.0, 99.0)], other) == pytest.approx(5)  # at 97 the other has nothing
    assert math.isnan(lead([(97.0, 99.0)], other))
