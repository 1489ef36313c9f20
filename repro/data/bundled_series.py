"""Real series that come with statsmodels, and tables of series from files, as windows to forecast."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from repro.data.errors import MissingData
from repro.data.series import SEASONS, Windows, nearest_label

#: Sets of statsmodels that are series in time, and the steps of a season: of the year for weekly, monthly and quarterly
#: ones, of the solar cycle for sunspots.
BUNDLED = {
    "sunspots": 11,
    "co2": 52,
    "elnino": 12,
    "elec_equip": 12,
    "macrodata": 4,
    "interest_inflation": 4,
    "nile": 1,
}
#: Rates and shares of ``macrodata``, which have no steady growth.
MACRO = ("tbilrate", "unemp", "infl", "realint")
ETT = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")


def bundled(name: str) -> list[np.ndarray]:
    """The series of a set of statsmodels, float64, without gaps (`co2` is interpolated).

    Raises KeyError for a set that is not in `BUNDLED`, MissingData where statsmodels is not installed.
    """
    BUNDLED[name]
    try:
        module = import_module(f"statsmodels.datasets.{name}")
    except ImportError as error:
        raise MissingData(f"the series {name} come with statsmodels: pip install statsmodels") from error
    table = module.load_pandas().data if hasattr(module, "load_pandas") else module.load().data
    if name == "sunspots":
        found = [table["SUNACTIVITY"]]
    elif name == "co2":
        found = [table["co2"].interpolate()]
    elif name == "elnino":
        found = [table.drop(columns="YEAR").stack()]
    elif name == "macrodata":
        found = [table[column] for column in MACRO]
    elif name == "interest_inflation":
        found = [table["Dp"], table["R"]]
    elif name == "nile":
        found = [table["volume"]]
    else:
        found = [table.iloc[:, -1]]
    return [np.asarray(x, dtype=np.float64).ravel() for x in found]


def bundled_windows(past: int = 256, horizon: int = 16, rolls: int = 4, patch: int = 8) -> Windows:
    """The last ``rolls`` windows of every bundled series, one horizon apart, where at least two horizons stand before
    them; cells are the sets. Other arguments as in `rolling`."""
    kept = [(name, x, season) for name, season in BUNDLED.items() for x in bundled(name)]
    return rolling(kept, past, horizon, rolls, patch)


def ett_windows(past: int = 256, horizon: int = 64, rolls: int = 8, patch: int = 8) -> Windows:
    """Windows of Electricity Transformer Temperature, hourly, seven series of each of two transformers: evenly spread
    over the last fifth, which is the usual test split's place. Cells are the transformers.

    Reads ``ett/ETTh1.csv`` and ``ETTh2.csv`` of ``REPRO_DATA_DIR``. Raises MissingData when they are not at hand.
    """
    import pandas as pd

    root = os.environ.get("REPRO_DATA_DIR")
    folder = Path(root).expanduser() / "ett" if root else None
    files = ("ETTh1.csv", "ETTh2.csv")
    if folder is None or not all((folder / file).is_file() for file in files):
        raise MissingData(
            f"ett is absent: set REPRO_DATA_DIR to a folder that holds ett/ with {' and '.join(files)}, from "
            "zhouhaoyi/ETDataset"
        )
    series = []
    for file in files:
        table = pd.read_csv(folder / file)
        series += [(file.removesuffix(".csv"), table[column].to_numpy(np.float64), 24) for column in ETT]
    shortest = min(len(x) for _, x, _ in series)
    return rolling(series, past, horizon, rolls, patch, stride=max(horizon, shortest // 5 // rolls))


def rolling(
    series: Sequence[tuple[str, np.ndarray, int]], past: int, horizon: int, rolls: int, patch: int = 1, *,
    stride: int = 0,
) -> Windows:  # fmt: skip
    """The last windows of series (cell, values, season).

    Args:
        past: steps before the forecast; a shorter past is filled up with NaN in front, in whole patches of ``patch``.
        rolls: windows of a series, ``stride`` steps apart (0: the horizon), fewer where less than two horizons would
            stand before one.
    """
    rows = list(_cut(series, past, horizon, rolls, patch, stride or horizon))
    cells = tuple(dict.fromkeys(cell for cell, *_ in rows))
    season = [s for _, _, _, s in rows]
    return Windows(
        torch.from_numpy(np.stack([x for _, x, _, _ in rows])),
        torch.from_numpy(np.stack([y for _, _, y, _ in rows])),
        torch.tensor(season),
        torch.tensor([nearest_label(s, SEASONS) for s in season]),
        cells,
        torch.tensor([cells.index(cell) for cell, *_ in rows]),
    )


def _cut(
    series: Sequence[tuple[str, np.ndarray, int]], past: int, horizon: int, rolls: int, patch: int, stride: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray, int]]:
    for cell, values, season in series:
        for roll in reversed(range(rolls)):
            cut = len(values) - horizon - roll * stride
            length = min(past, cut) // patch * patch
            if length < max(2 * horizon, season + 1):
                continue
            x = np.full(past, np.nan, np.float32)
            x[past - length :] = values[cut - length : cut]
            yield cell, x, values[cut : cut + horizon].astype(np.float32), season
