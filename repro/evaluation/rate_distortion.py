"""Rate against quality: curves of operating points, what they give at a budget, and differences between two of them.

An operating point is (bytes an item, quality), where more quality is better: accuracy in percent, say. By time sharing,
one point for some of the items and another for the rest, every mixture of two points can be had, and sending nothing is
a point as well: what a method reaches is the upper concave hull of its points (`hull`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

Point = tuple[float, float]


def hull(points: Iterable[Point], *, nothing: float | None = None) -> list[Point]:
    """The upper concave hull: points with rising rate and rising quality, from the cheapest to the best.

    Args:
        nothing: quality at no bytes (chance), a point of its own; None: there is none.

    Raises ValueError for a rate or quality that is not finite, or a negative rate.
    """
    given = [*points, *([] if nothing is None else [(0.0, nothing)])]
    if not all(math.isfinite(r) and math.isfinite(q) and r >= 0 for r, q in given):
        raise ValueError("rates and qualities are finite, rates not negative")
    out: list[Point] = []
    for rate, quality in sorted(given, key=lambda p: (p[0], -p[1])):
        if out and quality <= out[-1][1]:
            continue
        while len(out) > 1 and _slope(out[-2], out[-1]) <= _slope(out[-2], (rate, quality)):
            out.pop()
        out.append((rate, quality))
    return out


def _slope(a: Point, b: Point) -> float:
    return math.inf if b[0] == a[0] else (b[1] - a[1]) / (b[0] - a[0])


def quality_at(points: Iterable[Point], rate: float, *, nothing: float) -> float:
    """The best quality on the hull at no more than ``rate`` bytes an item, with ``nothing`` as the quality at none."""
    found = hull(points, nothing=nothing)
    return float(np.interp(rate, [r for r, _ in found], [q for _, q in found]))


def rate_at(points: Iterable[Point], quality: float, *, nothing: float) -> float:
    """The fewest bytes an item on the hull for at least ``quality``; infinite where it is not reached."""
    found = hull(points, nothing=nothing)
    if quality > found[-1][1]:
        return math.inf
    return float(np.interp(quality, [q for _, q in found], [r for r, _ in found]))


def mean_log2_rate(points: Iterable[Point], low: float, high: float, *, nothing: float, steps: int = 65) -> float:
    """Mean over qualities from ``low`` to ``high`` of the base-2 logarithm of the bytes needed; infinite where ``high``
    is not reached.

    The difference of two methods is their mean saving in doublings over that range: Bjontegaard's measure with a fixed
    range and the hull in place of a fitted polynomial, so that it can be averaged and subtracted like any metric.
    """
    held = list(points)
    rates = [rate_at(held, float(q), nothing=nothing) for q in np.linspace(low, high, steps)]
    if math.inf in rates:
        return math.inf
    return float(np.trapezoid(np.log2(rates), dx=1.0) / (steps - 1))


def bd_rate(anchor: Sequence[Point], other: Sequence[Point]) -> float:
    """Bjontegaard's delta rate (VCEG-M33) of ``other`` against ``anchor`` in percent, negative where it needs fewer
    bytes: the mean difference of log rates over the qualities that both reach, with monotone cubic interpolation.

    Raises ValueError for curves of fewer than two points, without a common range, or of which quality does not rise
    with rate.
    """
    from scipy.interpolate import PchipInterpolator

    curves = []
    for points in (anchor, other):
        rates, qualities = np.array(sorted(points)).T
        if len(rates) < 2 or (np.diff(qualities) <= 0).any() or (rates <= 0).any():
            raise ValueError("a curve needs two points or more, and quality that rises with its positive rate")
        curves.append(PchipInterpolator(qualities, np.log(rates)))
    low, high = (f(c.x[i] for c in curves) for f, i in ((max, 0), (min, -1)))
    if low >= high:
        raise ValueError("the curves have no quality in common")
    areas = [float(c.integrate(low, high)) for c in curves]
    return 100 * math.expm1((areas[1] - areas[0]) / (high - low))
