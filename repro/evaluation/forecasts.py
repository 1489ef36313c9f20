"""Scores of probabilistic forecasts, by the definitions of GluonTS.

Shapes: N windows, H steps of the horizon, S samples, Q quantile levels. Point forecasts are medians of the samples.
Scores of many windows are compared with those of the seasonal naive forecast cell by cell, and averaged over cells by
the geometric mean, so that neither scale nor difficulty of a cell decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from repro.data.series import Windows

#: Levels of the mean weighted quantile loss.
LEVELS = tuple(i / 10 for i in range(1, 10))


def seasonal_naive(past: Tensor, season: Tensor, horizon: int) -> Tensor:
    """The last season again and again: ``past`` [N, C], ``season`` LongTensor [N] to [N, H]."""
    steps = torch.arange(horizon, device=past.device) % season[:, None]
    return past.gather(1, past.shape[1] - season[:, None] + steps)


def seasonal_error(past: Tensor, season: Tensor) -> Tensor:
    """Mean of ``|y_t - y_(t-m)|`` over the observed past, [N] (float64): the scale of MASE."""
    out = []
    for row, m in zip(past.double(), season.tolist(), strict=True):
        out.append((row[m:] - row[:-m]).abs().nanmean())
    return torch.stack(out)


def mase(future: Tensor, point: Tensor, scale: Tensor) -> Tensor:
    """Mean absolute scaled error of each window, [N] (Hyndman and Koehler, 2006).

    Args:
        future, point: [N, H].
        scale: `seasonal_error` [N].
    """
    return (future.double() - point.double()).abs().mean(1) / scale


def quantile_loss(future: Tensor, forecast: Tensor, level: float) -> Tensor:
    """``2 |(y - q) (1[y <= q] - level)|`` elementwise; the absolute error at the median."""
    error = future.double() - forecast.double()
    return 2 * (error * ((error <= 0).double() - level)).abs()


def weighted_quantile_loss(future: Tensor, samples: Tensor, levels: Sequence[float] = LEVELS) -> Tensor:
    """Mean over levels of ``sum quantile_loss / sum |y|`` over all windows and steps: a scalar (float64). In the
    limit of many levels the CRPS in units of the mean absolute value.

    Args:
        future: [N, H]. samples: [N, S, H].
    """
    quantiles = sample_quantiles(samples, levels)
    losses = [quantile_loss(future, q, level).sum() for q, level in zip(quantiles, levels, strict=True)]
    return torch.stack(losses).mean() / future.double().abs().sum()


def sample_quantiles(samples: Tensor, levels: Sequence[float]) -> Tensor:
    """Quantiles [Q, N, H] of samples [N, S, H], linearly interpolated, in float64."""
    ordered = samples.double().sort(1).values
    last = samples.shape[1] - 1
    out = []
    for level in levels:
        low = min(math.floor(level * last), max(last - 1, 0))
        out.append(torch.lerp(ordered[:, low], ordered[:, min(low + 1, last)], level * last - low))
    return torch.stack(out)


def crps(future: Tensor, samples: Tensor) -> Tensor:
    """Continuous ranked probability score of the empirical distribution, ``E|X - y| - E|X - X'| / 2``: [N, H] for
    ``future`` [N, H] and ``samples`` [N, S, H], in the unit of the values (float64)."""
    ordered = samples.double().sort(1).values
    size = samples.shape[1]
    rank = 2 * torch.arange(1, size + 1, dtype=torch.float64, device=samples.device) - size - 1
    spread = (ordered * rank[:, None]).sum(1) / size**2
    return (samples.double() - future.double()[:, None]).abs().mean(1) - spread


def cell_scores(windows: Windows, samples: Tensor) -> dict[str, dict[str, float]]:
    """By name of the cell: ``mae``, ``mase`` and ``wql`` of the forecasts ``samples`` [N, S, H], each over that of the
    seasonal naive forecast.

    Raises ValueError for a cell whose naive forecast has no error, or a window whose past does not change.
    """
    naive = seasonal_naive(windows.past, windows.season, windows.future.shape[1])
    scale = seasonal_error(windows.past, windows.season)
    if bool((scale <= 0).any()):
        raise ValueError("a window repeats its season exactly: it has no scaled error")
    median = sample_quantiles(samples, (0.5,))[0]
    out = {}
    for number, name in enumerate(windows.cells):
        rows = (windows.cell == number).nonzero().ravel()
        if not len(rows):
            continue
        y = windows.future[rows].double()
        absolute = (y - naive[rows]).abs().sum()
        if absolute <= 0:
            raise ValueError(f"the seasonal naive forecast makes no error in {name}")
        scaled = mase(y, naive[rows], scale[rows]).mean()
        out[name] = {
            "mae": float((y - median[rows]).abs().sum() / absolute),
            "mase": float(mase(y, median[rows], scale[rows]).mean() / scaled),
            # of a point forecast the weighted quantile loss is the absolute error in units of the mean absolute value
            "wql": float(weighted_quantile_loss(y, samples[rows]) * y.abs().sum() / absolute),
        }
    return out


def relative_scores(windows: Windows, samples: Tensor) -> dict[str, float]:
    """Geometric means over cells of `cell_scores`: below 1 is better than the seasonal naive forecast. With
    ``coverage``, the percentage of values between the 10 % and the 90 % quantile: of S samples that are calibrated,
    from 80 (S - 1) / (S + 1) to 80."""
    cells = cell_scores(windows, samples)
    low, high = sample_quantiles(samples, (0.1, 0.9))
    inside = (windows.future >= low) & (windows.future <= high)
    return {
        **{name: geometric_mean([c[name] for c in cells.values()]) for name in ("mae", "mase", "wql")},
        "coverage": 100 * float(inside.double().mean()),
    }


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive values."""
    return math.exp(sum(math.log(v) for v in values) / len(values))
