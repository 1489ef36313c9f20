"""Measures of model merging and of forgetting. Accuracies are shares, results in percent. Imports no torch."""

from __future__ import annotations

import math
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
    control) points; points of equal target count with their mean. nan beyond the ends: a family that keeps 98 % at the
    least has no control accuracy at 97 %. Raises ValueError for an empty curve."""
    if not curve:
        raise ValueError("an empty curve")
    found: dict[float, list[float]] = {}
    for at, control in curve:
        found.setdefault(at, []).append(control)
    points = [(at, fmean(controls)) for at, controls in sorted(found.items())]
    for (low, below), (high, above) in pairwise(points):
        if low <= target <= high:
            return below + (above - below) * (target - low) / (high - low)
    return points[0][1] if points[0][0] == target else math.nan


def lead(curve: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> float:
    """Mean over a family's (target, control) points of its control accuracy minus that of another family at the same
    target accuracy (`at_target`). Points where the other family has none are left out; nan when that is all of them."""
    gaps = [control - at_target(other, target) for target, control in curve]
    known = [gap for gap in gaps if math.isfinite(gap)]
    return math.fsum(known) / len(known) if known else math.nan


def search(coefficients: Sequence[float], score: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """Try every coefficient on validation data; the best, and all scores. Raises ValueError when there is none."""
    scores = {c: score(c) for c in coefficients}
    return best(scores), scores
