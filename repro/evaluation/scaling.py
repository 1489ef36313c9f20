"""Power laws and thresholds: how much of one quantity another one asks for, with intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """``y = factor * x ** exponent``.

    ``low`` and ``high`` bound the exponent at 95 %: over the points of one fit, or over seeds; nan where there are too
    few of them. ``r2`` is the share of the variance of log y that the fit explains (over seeds: their mean).
    """

    exponent: float
    low: float
    high: float
    factor: float
    r2: float

    def __call__(self, x: float) -> float:
        """The fitted y at ``x``."""
        return self.factor * x**self.exponent


def power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Least squares in logarithms over the points of one series; the interval is Student's with ``len(x) - 2``.

    Not finite where a y is not. Raises ValueError for fewer than two distinct x, unequal lengths, or values of x or y
    that are not positive.
    """
    if len(x) != len(y) or len(set(x)) < 2:
        raise ValueError("a power law needs two distinct x or more, and a y for each")
    if min(x) <= 0 or any(v <= 0 for v in y):
        raise ValueError("a power law is fitted to positive values")
    u, v = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    du, dv = u - u.mean(), v - v.mean()
    exponent = float(du @ dv / (du @ du))
    left = dv - exponent * du
    spread = float(dv @ dv)
    r2 = 1.0 - float(left @ left) / spread if spread else 1.0
    half = math.nan
    if len(x) > 2:
        from scipy.special import stdtrit

        half = float(stdtrit(len(x) - 2, 0.975)) * math.sqrt(float(left @ left) / (len(x) - 2) / float(du @ du))
    factor = math.exp(float(v.mean()) - exponent * float(u.mean()))
    return PowerLaw(exponent, exponent - half, exponent + half, factor, r2)


def power_law_over_seeds(x: Sequence[float], table: Sequence[Sequence[float]]) -> PowerLaw:
    """One fit a seed (a row of ``table``), their mean exponent and its interval over seeds; the factor is the geometric
    mean. Raises as `power_law`, and ValueError without rows."""
    from repro.claims.statistics import mean_interval

    if not table:
        raise ValueError("no seed to fit")
    fits = [power_law(x, row) for row in table]
    found = mean_interval([f.exponent for f in fits])
    factor = math.exp(sum(math.log(f.factor) for f in fits) / len(fits))
    return PowerLaw(found.mean, found.low, found.high, factor, sum(f.r2 for f in fits) / len(fits))


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """The x at which y first reaches ``level``, between measured points by interpolation over log x.

    The first x when y starts at or above the level, nan when it never reaches it. Raises ValueError when x is empty,
    not ascending, not positive, or of another length than y.
    """
    if not x or len(x) != len(y) or min(x) <= 0 or any(a >= b for a, b in itertools.pairwise(x)):
        raise ValueError("a crossing needs ascending positive x, and a y for each")
    if y[0] >= level:
        return float(x[0])
    for (x0, y0), (x1, y1) in zip(zip(x, y, strict=True), zip(x[1:], y[1:], strict=True), strict=False):
        if y0 < level <= y1:
            return float(x0 * (x1 / x0) ** ((level - y0) / (y1 - y0)))
    return math.nan
