"""Measures of continual learning. Accuracies in one unit, results in the same. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean


def average_accuracy(stages: Sequence[float]) -> float:
    """Mean over stages of the accuracy on all classes seen so far (average incremental accuracy, iCaRL Section 4.1).

    Raises ValueError (StatisticsError) without a stage.
    """
    return fmean(stages)


def forgetting(table: Sequence[Sequence[float]]) -> float:
    """Mean over all tasks but the last of the best accuracy that a task ever had minus its accuracy at the end
    (Chaudhry et al., 2018, Eq. 3). ``table[t][k]``: accuracy on task k once task t is learned, k <= t. 0 for one task.
    """
    last = table[-1]
    if len(last) < 2:
        return 0.0
    return fmean(max(row[k] for row in table[k:-1]) - last[k] for k in range(len(last) - 1))


def area_under(curve: Mapping[float, float]) -> float:
    """Area under a measure as a function of memory size, by trapezoids (AUC-A, AUC-L of the CIL survey).

    Args:
        curve: the measure by memory size, in any order.

    Raises ValueError for fewer than two sizes.
    """
    points = sorted(curve.items())
    if len(points) < 2:
        raise ValueError("an area needs two memory sizes")
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))
