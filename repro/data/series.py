"""Time series for probabilistic forecasting: a training set, windows to forecast, and a generated corpus of several
frequencies.

A *label* is the sampling frequency, given by how many steps a season has (96, 24, 12 or 7). In the generated corpus it
tells the length of the season and nothing else: every family of patterns occurs under every label, and half of the
series change their pattern once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repro.data.base import epochs, fingerprint, order_seed

#: Steps of a season, by label.
SEASONS = (96, 24, 12, 7)


class SeriesBatch(NamedTuple):
    """Rows of a training set: ``values`` float32 [B, T]; ``labels`` LongTensor [B], places in
    ``SeriesData.seasons``."""

    values: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> SeriesBatch:
        return SeriesBatch(*(part.to(device, non_blocking=True) for part in self))


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows to forecast.

    Attributes:
        past: float32 [N, C]; NaN where nothing was observed, which is allowed before the first observation only.
        future: float32 [N, H].
        season: LongTensor [N], steps of a season, for the seasonal naive forecast.
        labels: LongTensor [N], places in ``SeriesData.seasons``.
        cells: names of the groups that scores are averaged over; ``cell`` LongTensor [N] says which one is whose.
    """

    past: Tensor
    future: Tensor
    season: Tensor
    labels: Tensor
    cells: tuple[str, ...]
    cell: Tensor

    def __post_init__(self) -> None:
        if len({len(x) for x in (self.past, self.future, self.season, self.labels, self.cell)}) != 1:
            raise ValueError("the parts of the windows differ in length")
        late = self.past.isnan()[:, 1:] & ~self.past.isnan()[:, :-1]
        if bool(late.any()) or bool(self.future.isnan().any()):
            raise ValueError("values are missing after the first observation")

    def __len__(self) -> int:
        return len(self.past)

    def take(self, rows: Tensor | slice) -> Windows:
        """Some of the windows."""
        return Windows(
            self.past[rows], self.future[rows], self.season[rows], self.labels[rows], self.cells, self.cell[rows]
        )

    def parts(self) -> tuple[Tensor | str, ...]:
        """What makes up the content, for a fingerprint."""
        return self.past, self.future, self.season, self.labels, self.cell, " ".join(self.cells)


@dataclass(frozen=True, eq=False)
class SeriesData:
    """Series to train on, windows of the same kind to test on, and windows of other kinds.

    Attributes:
        train: float32 [N, T], rows as long as past and future of a window together.
        train_labels: LongTensor [N].
        seasons: steps of a season, by label.
        test: windows of unseen series from the families of the training set.
        unseen: windows of families that the training set does not have.
    """

    name: str
    train: Tensor
    train_labels: Tensor
    seasons: tuple[int, ...]
    test: Windows
    unseen: Windows
    source: str
    description: str
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            mark = fingerprint(self.train, self.train_labels, *self.test.parts(), *self.unseen.parts())
            object.__setattr__(self, "fingerprint", mark)

    def train_order(self, steps: int, batch: int, seed: int) -> Tensor:
        """Indices of training rows, LongTensor [steps, batch]: each epoch a fresh shuffle; the same for every arm of a
        seed, a longer order starting with the shorter one."""
        return epochs(len(self.train), steps, batch, seed)

    def rows(self, indices: Tensor) -> SeriesBatch:
        """Training rows ``indices`` (LongTensor [batch])."""
        return SeriesBatch(self.train[indices], self.train_labels[indices])

    def describe(self) -> dict[str, Any]:
        """What a record keeps about its data; JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "train_rows": len(self.train),
            "held_out_rows": len(self.test),
            "unseen_rows": len(self.unseen),
            "steps": self.train.shape[1],
            "seasons": list(self.seasons),
            **self.details,
        }


def nearest_label(season: int, seasons: Sequence[int] = SEASONS) -> int:
    """Place of the season length that is nearest in ratio: what a model of known frequencies takes another one for."""
    return min(range(len(seasons)), key=lambda i: abs(math.log(seasons[i] / max(season, 1))))


# --- families of patterns -------------------------------------------------------------------------------------
# Each: (generator, season lengths [N, 1], steps T) to float64 [N, T].

Family = Callable[[np.random.Generator, np.ndarray, int], np.ndarray]


def _noise(draw: np.random.Generator, n: int, steps: int) -> np.ndarray:
    return draw.uniform(0.2, 0.6, (n, 1)) * draw.standard_normal((n, steps))


def _turns(draw: np.random.Generator, season: np.ndarray, steps: int) -> np.ndarray:
    """Seasons since the beginning, from a random phase on: [N, T]."""
    return np.arange(steps) / season + draw.random(season.shape)


def sine(draw: np.random.Generator, season: np.ndarray, steps: int) -> np.ndarray:
    """A sine with its second harmonic and a linear trend."""
    turns = _turns(draw, season, steps)
    second = draw.uniform(0, 0.6, season.shape) * np.sin(4 * np.pi * turns + draw.uniform(0, 6, season.shape))
    trend = draw.uniform(-2, 2, season.shape) * np.arange(steps) / steps
    return np.sin(2 * np.pi * turns) + second + trend + _noise(draw, len(season), steps)


def sawtooth(draw: np.random.Generator, season: np.ndarray, steps: int) -> np.ndarray:
    """A ramp once a season, up or down."""
    ramp = 2 * (_turns(draw, season, steps) % 1) - 1
    return np.where(draw.random(season.shape) < 0.5, 1, -1) * ramp + _noise(draw, len(season), steps)


def square(draw: np.random.Generator, season: np.ndarray, steps: int) -> np.ndarray:
    """Two levels, the upper one for a fixed part of every season."""
    high = _turns(draw, season, steps) % 1 < draw.uniform(0.25, 0.75, season.shape)
    return 2.0 * high - 1 + _noise(draw, len(season), steps)


def bursts(draw: np.random.Generator, season: np.ndarray, steps: int) -> np.ndarray:
    """A second-order autoregression with a period of one season, driven by noise that comes in bursts."""
    n = len(season)
    radius = draw.uniform(0.9, 0.99, n)
    first, second = 2 * radius * np.cos(2 * np.pi / season[:, 0]), -(radius**2)
    warm = 64
    loud = np.repeat(draw.random((n, -(-(steps + warm) // 16))) < 0.4, 16, axis=1)[:, : steps + warm]
    shocks = np.where(loud, 1.0, 0.1) * draw.standard_normal((n, steps + warm))
    x = np.zeros((n, steps + warm))
    for t in range(2, steps + warm):
        x[:, t] = first * x[:, t - 1] + second * x[:, t - 2] + shocks[:, t]
    x = x[:, warm:]
    return x / x.std(1, keepdims=True)


def walk(draw: np.random.Generator, season: np.ndarray, steps: int) -> np.ndarray:
    """A random walk: no pattern, and the last value is the best forecast."""
    return np.cumsum(draw.standard_normal((len(season), steps)), 1) / 8


def counts(draw: np.random.Generator, season: np.ndarray, steps: int) -> np.ndarray:
    """Counts with many zeros, at a rate that has a season."""
    rate = draw.uniform(1, 4, season.shape) * (1 + 0.9 * np.sin(2 * np.pi * _turns(draw, season, steps)))
    there = draw.random((len(season), steps)) < draw.uniform(0.4, 0.8, season.shape)
    return draw.poisson(rate) * there / 2.0


def bumps(draw: np.random.Generator, season: np.ndarray, steps: int) -> np.ndarray:
    """A narrow peak once a season, of varying height."""
    turns = _turns(draw, season, steps)
    heights = draw.uniform(0.6, 1.4, (len(season), int(turns.max()) + 1))
    height = np.take_along_axis(heights, turns.astype(int), 1)
    width = draw.uniform(0.06, 0.15, season.shape)
    return 2 * height * np.exp(-0.5 * ((turns % 1 - 0.5) / width) ** 2) + _noise(draw, len(season), steps)


def growth(draw: np.random.Generator, season: np.ndarray, steps: int) -> np.ndarray:
    """Exponential growth or decay with a season in proportion to the level."""
    level = np.exp(draw.uniform(-1.5, 1.5, season.shape) * np.arange(steps) / steps)
    wave = 1 + draw.uniform(0.3, 0.9, season.shape) * np.sin(2 * np.pi * _turns(draw, season, steps))
    return level * wave * (1 + 0.5 * _noise(draw, len(season), steps))


FAMILIES: dict[str, Family] = {
    "sine": sine,
    "sawtooth": sawtooth,
    "square": square,
    "bursts": bursts,
    "walk": walk,
    "counts": counts,
}
UNSEEN: dict[str, Family] = {"bumps": bumps, "growth": growth}


# --- the corpus -----------------------------------------------------------------------------------------------


class _Drawn(NamedTuple):
    values: Tensor
    family: np.ndarray
    labels: np.ndarray


def _draw(
    draw: np.random.Generator, families: Sequence[Family], family: np.ndarray, labels: np.ndarray, steps: int,
    past: int, switching: float,
) -> _Drawn:  # fmt: skip
    """Series of the families [N] and labels [N] asked for. Of those that switch half come from another family, the rest
    from the same one with other parameters; the family asked for is the later one."""
    n = len(family)
    season = np.array(SEASONS)[labels][:, None]
    switches = draw.random(n) < switching
    other = draw.random(n) < 0.5
    before = np.where(other, draw.integers(0, len(families), n), family)
    place = draw.integers(past // 4, 7 * past // 8, n)
    parts = []
    for which in (before, family):
        x = np.zeros((n, steps))
        for number, make in enumerate(families):
            chosen = which == number
            if chosen.any():
                x[chosen] = make(draw, season[chosen], steps)
        parts.append(x)
    early = switches[:, None] & (np.arange(steps) < place[:, None])
    x = np.where(early, parts[0], parts[1])
    x = draw.uniform(0.5, 2, (n, 1)) * x + draw.normal(0, 2, (n, 1))
    return _Drawn(torch.from_numpy(x.astype(np.float32)), family, labels)


def _windows(drawn: _Drawn, names: Sequence[str], past: int) -> Windows:
    labels = torch.from_numpy(drawn.labels).long()
    cells = tuple(f"{name} {season}" for name in names for season in SEASONS)
    return Windows(
        drawn.values[:, :past], drawn.values[:, past:], torch.tensor(SEASONS)[labels], labels, cells,
        torch.from_numpy(drawn.family).long() * len(SEASONS) + labels,
    )  # fmt: skip


def corpus(
    seed: int = 0,
    *,
    kind: str = "mixed",
    train: int = 8000,
    test: int = 384,
    unseen: int = 128,
    past: int = 256,
    horizon: int = 64,
) -> SeriesData:
    """A generated corpus of four frequencies.

    Args:
        kind: ``mixed``: every family under every label, and half of the series switch once in the window; ``labelled``:
            the label tells the family (sine, sawtooth, bursts, counts) and nothing switches; ``walks``: random walks
            only.
        train, test, unseen: numbers of series; test series are dealt evenly to the cells of family and label.
        past, horizon: steps of a window; training rows have both.

    Raises ValueError for another kind.
    """
    if kind not in ("mixed", "labelled", "walks"):
        raise ValueError(f"kind is mixed, labelled or walks, not {kind!r}")
    names = list(FAMILIES)
    by_label = np.array([names.index(name) for name in ("sine", "sawtooth", "bursts", "counts")])
    splits = {}
    for split, size in (("train", train), ("test", test), ("unseen", unseen)):
        draw = np.random.default_rng(order_seed(f"series corpus {split}", seed))
        own = UNSEEN if split == "unseen" else FAMILIES
        if split == "train":
            family, labels = draw.integers(0, len(own), size), draw.integers(0, len(SEASONS), size)
        else:
            family, labels = np.arange(size) // len(SEASONS) % len(own), np.arange(size) % len(SEASONS)
        if kind == "labelled" and split != "unseen":
            family = by_label[labels]
        if kind == "walks" and split != "unseen":
            family = np.full(size, names.index("walk"))
        splits[split] = _draw(
            draw, list(own.values()), family, labels, past + horizon, past, 0.5 if kind == "mixed" else 0.0
        )
    return SeriesData(
        name="series-corpus",
        train=splits["train"].values,
        train_labels=torch.from_numpy(splits["train"].labels).long(),
        seasons=SEASONS,
        test=_windows(splits["test"], names, past),
        unseen=_windows(splits["unseen"], list(UNSEEN), past),
        source="generated",
        description="Series of six families of patterns at four frequencies, half of them with a change of pattern; "
        "two families more are held out.",
        details={"kind": kind, "task_seed": seed},
    )
