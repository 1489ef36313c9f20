"""Measures of model merging and of forgetting. Accuracies are shares, results in percent. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import fmean


def normalised(accuracies: Sequence[float], reference: Sequence[float]) -> float:
    """Mean over tasks of accuracy / reference accuracy, in percent. The reference is the fine-tuned model of each task
    (merging), or the pretrained model (forgetting).

    Raises ValueError for sequences of different or no length, and for a reference of zero.
    """
    if len(accuracies) != len(reference) or not accuracies:
        raise ValueError(f"{len(accuracies)} accuracies, {len(reference)} references")
    if min(reference) <= 0:
        raise ValueError("a reference accuracy is zero")
    return 100 * fmean(a / r for a, r in zip(accuracies, reference, strict=True))


def best(scores: Mapping[float, float]) -> float:
    """The coefficient with the highest score, the first of equals. Raises ValueError when there is none."""
    if not scores:
        raise ValueError("nothing to choose from")
    return max(scores, key=lambda c: scores[c])


def recovered(control: float, tuned: float, pretrained: float) -> float:
    """Percent of what fine-tuning cost on control tasks that is back. Raises ValueError when it cost nothing."""
    lost = pretrained - tuned
    if lost <= 0:
        raise ValueError("fine-tuning cost nothing on the control tasks")
    return 100 * (control - tuned) / lost


def at_target(curve: Sequence[tuple[float, float]], target: float) -> float:
    """Control accuracy that a family of models gives at a target accuracy, by linear interpolation of its (target,
    control) points; the best where several of its segments pass there. Beyond its ends: that of the point with the
    nearest target. Raises ValueError for an empty curve."""
    points = sorted(curve)
    if not points:
        raise ValueError("an empty curve")
    crossed = [
        a[1] + (b[1] - a[1]) * (target - a[0]) / (b[0] - a[0])
        for a, b in pairwise(points)
        if a[0] <= target <= b[0] and a[0] < b[0]
    ]
    if crossed:
        return max(crossed)
    return max(points, key=lambda p: (-abs(p[0] - target), p[1]))[1]


def search(coefficients: Sequence[float], score: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """Try every coefficient on validation data; the best, and all scores. Raises ValueError when there is none."""
    scores = {c: score(c) for c in coefficients}
    return best(scores), scores
