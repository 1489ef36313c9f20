"""The statistics behind a verdict. numpy and scipy are imported where they are used, to keep listings light.

Every function takes plain sequences of floats, one value per seed, and returns plain floats.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVEL = 0.95
#: From this many paired seeds on, the interval of a mean is a bootstrap instead of Student's t.
BOOTSTRAP_FROM = 30
RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean of ``n`` values with a two-sided interval at ``level``. ``low``/``high`` are nan when n < 2."""

    mean: float
    low: float
    high: float
    n: int
    sd: float
    level: float = LEVEL
    method: str = "t"


@functools.lru_cache
def t_quantile(p: float, df: int) -> float:
    """Quantile of Student's t with ``df`` degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


def mean_interval(values: Sequence[float], level: float = LEVEL, *, bootstrap: bool = True) -> Interval:
    """Interval of the mean: Student's t below `BOOTSTRAP_FROM` values; from there on each bound is the outer one of
    Student's and of a studentised bootstrap.

    At 30 values percentile and BCa bootstraps cover about 93 % and let more than 2.5 % of null effects pass; so do the
    studentised one for heavy tails (92.7 %) and Student's t for skewed values (92.6 %). The outer bounds serve both.
    Values that are not finite make the interval nan: a diverged run is reported, not dropped. ``bootstrap=False`` stays
    with Student's t at any number: for an arm's own mean, on which no verdict rests.
    """
    n = len(values)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0, math.nan, level)
    if not all(math.isfinite(v) for v in values):
        return Interval(math.nan, math.nan, math.nan, n, math.nan, level)
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, math.nan, math.nan, 1, math.nan, level)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = t_quantile(0.5 + level / 2, n - 1) * sd / math.sqrt(n)
    low, high = mean - half, mean + half
    bounds = _studentised(values, mean, sd, level) if bootstrap and n >= BOOTSTRAP_FROM and sd > 0.0 else None
    if bounds is None:
        return Interval(mean, low, high, n, sd, level)
    return Interval(mean, min(low, bounds[0]), max(high, bounds[1]), n, sd, level, "bootstrap")


def _studentised(values: Sequence[float], mean: float, sd: float, level: float) -> tuple[float, float] | None:
    """Bounds from resampled means over their own standard errors, a fixed stream; None where one has no spread."""
    import numpy as np

    data = np.asarray(values, dtype=float) - mean
    n = len(data)
    ratios = []
    for counts in _resamples(n):
        off = counts @ data / n
        variance = (counts @ (data * data) - n * off * off) / (n - 1)
        if not variance.min() > (1e-6 * sd) ** 2:  # below, rounding would speak
            return None
        ratios.append(off / np.sqrt(variance))
    low, high = np.quantile(np.concatenate(ratios), (0.5 - level / 2, 0.5 + level / 2))
    return float(mean - high * sd), float(mean - low * sd)


#: Up to this many values the resamples are kept: every interval of a leaderboard draws the same ones.
_KEEP_UP_TO = 1000


def _resamples(n: int) -> Iterable[NDArray[np.float64]]:
    """How often each of ``n`` values is drawn, a row per resample, in blocks of a thousand."""
    return _kept_resamples(n) if n <= _KEEP_UP_TO else _drawn_resamples(n)


@functools.lru_cache(maxsize=2)
def _kept_resamples(n: int) -> tuple[NDArray[np.float64], ...]:
    return tuple(_drawn_resamples(n))


def _drawn_resamples(n: int) -> Iterator[NDArray[np.float64]]:
    import numpy as np

    rng = np.random.default_rng(0)
    rows = np.arange(1000)[:, None] * n
    for _ in range(RESAMPLES // 1000):
        places = (rng.integers(n, size=(1000, n)) + rows).ravel()
        yield np.bincount(places, minlength=1000 * n).reshape(1000, n).astype(float)


def seeds_to_settle(interval: Interval, boundaries: Sequence[float], limit: int = 10_000) -> int | None:
    """About how many paired seeds bring the interval clear of the nearest of ``boundaries``.

    Assumes that the mean and the standard deviation stay what they are now: the smallest n with
    ``t(0.975, n-1) * sd / sqrt(n) < |mean - boundary|``. None when unknown or above ``limit``.
    """
    if interval.n < 2 or not math.isfinite(interval.sd):
        return None
    gap = min(abs(interval.mean - b) for b in boundaries)
    if gap == 0.0:
        return None
    if interval.sd == 0.0:
        return interval.n
    for n in _growing(2, limit):
        if t_quantile(0.975, n - 1) * interval.sd / math.sqrt(n) < gap:
            return n
    return None


def _growing(start: int, limit: int) -> list[int]:
    small = list(range(start, 100))
    large, n = [], 100
    while n <= limit:
        large.append(n)
        n = max(n + 1, int(n * 1.02))
    return small + large


def wilson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson, 1927). ``(0, 1)`` when nothing was tried."""
    if trials == 0:
        return 0.0, 1.0
    z = statistics.NormalDist().inv_cdf(0.5 + level / 2)
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


def page_trend(table: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Page's trend test (Page, 1963). Rows are seeds, columns arms in the order expected to ascend.

    Returns one-sided p-values ``(ascending, descending)``, exact below `BOOTSTRAP_FROM` rows and from the normal
    approximation above. With two columns it is the sign test, a tie counting
    for neither side; a single row decides nothing, ``(1, 1)``.
    """
    if len(table) < 2 or len(table[0]) < 2:
        return 1.0, 1.0
    if len(table[0]) == 2:
        return _sign(sum(a < b for a, b in table), len(table)), _sign(sum(a > b for a, b in table), len(table))
    import numpy as np
    from scipy.stats import page_trend_test

    data = np.asarray(table, dtype=float)
    method: Literal["exact", "asymptotic"] = "exact" if len(data) < BOOTSTRAP_FROM else "asymptotic"
    up = page_trend_test(data, method=method).pvalue
    down = page_trend_test(data[:, ::-1], method=method).pvalue
    return float(up), float(down)


def _sign(wins: int, trials: int) -> float:
    """Probability of at least that many wins of a fair coin."""
    return sum(math.comb(trials, k) for k in range(wins, trials + 1)) / 2**trials
