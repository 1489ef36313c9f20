"""Measures of continual learning."""

from __future__ import annotations

import pytest

from repro.evaluation.continual import area_under, average_accuracy, forgetting


def test_average_is_over_stages():
    assert average_accuracy([90.0, 60.0, 30.0]) == 60


def test_forgetting_is_from_the_best_to_the_last():
    table = [[90.0], [70.0, 80.0], [75.0, 50.0, 99.0]]
    assert forgetting(table) == pytest.approx(((90 - 75) + (80 - 50)) / 2)
    assert forgetting([[90.0]]) == 0
    assert forgetting([[50.0], [60.0, 10.0]]) == -10  # a task that got better


def test_area_of_a_constant_and_of_a_line():
    assert area_under({7.6: 40.0, 23.5: 40.0, 12.4: 40.0}) == pytest.approx(40 * (23.5 - 7.6))
    assert area_under({0: 0.0, 1: 1.0, 3: 3.0}) == pytest.approx(4.5)
    with pytest.raises(ValueError, match="two"):
        area_under({1.0: 2.0})
