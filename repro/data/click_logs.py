"""MovieLens-1M, Avazu and Criteo: original files under ``REPRO_DATA_DIR``, as their publishers give them.

A feature of Avazu or Criteo that has more values than are asked for keeps the most frequent ones, less one: value 0
then stands for all others. These logs are of tens of millions of rows, so they are read in pieces, twice, and kept
under ``REPRO_CACHE``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from repro.data.base import order_seed
from repro.data.cache import cached, column
from repro.data.clicks import ClickData, Clicks
from repro.data.errors import MissingData
from repro.records.provenance import file_fingerprint

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

MOVIELENS = ("user", "movie", "gender", "age", "occupation", "zip")
AVAZU = (
    "hour", "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category",
    "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
    *(f"C{i}" for i in range(14, 22)),
)  # fmt: skip
CRITEO_DENSE = tuple(f"I{i}" for i in range(1, 14))
CRITEO = tuple(f"C{i}" for i in range(1, 27))
#: Values of each feature of Criteo that the paper's benchmark keeps, 160,605 in all.
CRITEO_SIZES = (
    676, 533, 17447, 19995, 180, 13, 9693, 337, 3, 14637, 4378, 17795, 3067, 26, 6504, 18679, 10, 3102, 1557, 3, 18230,
    10, 14, 13079, 56, 10581,
)  # fmt: skip
#: As for Criteo, 252,838 in all.
AVAZU_SIZES = (
    24, 8, 8, 3317, 3887, 24, 4438, 277, 29, 67767, 163804, 6217, 6, 5, 2309, 9, 10, 405, 5, 66, 167, 56,
)  # fmt: skip
PIECE = 1_000_000


def movielens(seed: int = 0, *, threes: bool = False) -> ClickData:
    """MovieLens-1M (Harper and Konstan, 2015): whether a user likes a movie; six features, no pruning.

    Ratings of 4 and 5 are likes, 1 and 2 are not; threes are left out (``threes``: they count as likes, as the text of
    the multiplexing paper says). 80 / 10 / 10 at random by ``seed``.

    Raises MissingData without ``movielens/ratings.dat`` and ``users.dat``.
    """
    ratings, users = _files("movielens", ("ratings.dat", "users.dat"), "the archive ml-1m of GroupLens")

    def build() -> Dataset:
        import pandas as pd
        from datasets import Dataset

        def read(path: Path, names: list[str]) -> pd.DataFrame:
            return pd.read_csv(path, sep="::", engine="python", header=None, names=names, dtype=str, encoding="latin-1")

        table = read(ratings, ["user", "movie", "rating", "time"]).merge(
            read(users, ["user", "gender", "age", "occupation", "zip"]), on="user"
        )
        rating = table["rating"].astype(int)
        table = table[(rating != 3) | threes]
        coded = {name: np.unique(table[name].astype(object), return_inverse=True)[1] for name in MOVIELENS}
        return Dataset.from_dict({**coded, "label": (table["rating"].astype(int) >= 3).astype(int).to_numpy()})

    identity = {"files": [file_fingerprint(ratings), file_fingerprint(users)], "threes": threes}
    ids, labels, dense = _arrays(cached("movielens", identity, __name__, build), MOVIELENS, ())
    shuffled = torch.randperm(len(labels), generator=_generator("movielens", seed))
    return _data("movielens", MOVIELENS, ids, labels, dense, _cut(shuffled, (0.8, 0.1)), seed)


def avazu(seed: int = 0, *, sizes: Sequence[int] = AVAZU_SIZES, limit: int | None = None) -> ClickData:
    """Avazu's log (Kaggle, 2014): 22 features, the hour being that of the day; 81 / 9 / 10 at random by ``seed``.

    Args:
        sizes: values kept of each feature, the most frequent ones.
        limit: rows that are read.

    Raises MissingData without ``avazu/train.csv``, ``train`` or either with ``.gz``.
    """
    (path,) = _files("avazu", ("train.csv|train",), "the competition avazu-ctr-prediction of Kaggle")

    def pieces() -> Iterator[pd.DataFrame]:
        import pandas as pd

        names = ["click", *AVAZU]
        for piece in pd.read_csv(path, usecols=names, dtype=str, chunksize=PIECE, nrows=limit):
            yield piece.assign(hour=piece["hour"].str[-2:])

    identity = {"file": file_fingerprint(path), "sizes": list(sizes), "limit": limit}
    build = _coder(pieces, AVAZU, sizes, (), "click")
    ids, labels, dense = _arrays(cached("avazu", identity, __name__, build), AVAZU, ())
    shuffled = torch.randperm(len(labels), generator=_generator("avazu", seed))
    return _data("avazu", AVAZU, ids, labels, dense, _cut(shuffled, (0.81, 0.09)), seed)


def criteo(seed: int = 0, *, sizes: Sequence[int] = CRITEO_SIZES, limit: int | None = None) -> ClickData:
    """Criteo's Display Advertising Challenge (Kaggle, 2014): 26 categorical and 13 dense features, in order of time.

    The first six sevenths of the rows are for training; the rest is halved at random by ``seed``. Dense features are
    ``log(x + 1)``, the second ``log(x + 4)``, the argument no less than 1; absent ones are 0.

    Args:
        sizes: values kept of each feature, the most frequent ones.
        limit: rows that are read.

    Raises MissingData without ``criteo/train.txt``, or that with ``.gz``.
    """
    (path,) = _files("criteo", ("train.txt",), "the Display Advertising Challenge of Criteo")

    def pieces() -> Iterator[pd.DataFrame]:
        import pandas as pd

        names = ["label", *CRITEO_DENSE, *CRITEO]
        kinds: Any = {"label": "int64"} | dict.fromkeys(CRITEO_DENSE, "float64") | dict.fromkeys(CRITEO, "str")
        for piece in pd.read_csv(path, sep="\t", header=None, names=names, dtype=kinds, chunksize=PIECE, nrows=limit):
            for name in CRITEO_DENSE:
                shifted = piece[name] + (4 if name == "I2" else 1)
                piece[name] = np.log(shifted.clip(lower=1)).fillna(0.0)
            yield piece

    identity = {"file": file_fingerprint(path), "sizes": list(sizes), "limit": limit}
    build = _coder(pieces, CRITEO, sizes, CRITEO_DENSE, "label")
    ids, labels, dense = _arrays(cached("criteo", identity, __name__, build), CRITEO, CRITEO_DENSE)
    cut = 6 * len(labels) // 7
    last = cut + torch.randperm(len(labels) - cut, generator=_generator("criteo", seed))
    parts = (torch.arange(cut), *last.split(-(-len(last) // 2)))
    return _data("criteo", CRITEO, ids, labels, dense, parts, seed)


def _files(folder: str, names: Sequence[str], origin: str) -> list[Path]:
    """The files ``names`` (alternatives by ``|``), or each with ``.gz``, anywhere under the data set's folder."""
    root = os.environ.get("REPRO_DATA_DIR")
    place = Path(root).expanduser() / folder if root else None
    found = []
    for name in names:
        ways = [f"{way}{end}" for way in name.split("|") for end in ("", ".gz")]
        here = [p for way in ways for p in sorted(place.rglob(way)) if p.is_file()] if place else []
        if not here:
            raise MissingData(
                f"data set {folder!r} is absent: no file {' or '.join(ways)}. Way to get it: put {origin}, unpacked, "
                f"into the folder REPRO_DATA_DIR/{folder}/; or take the laptop scale, which draws its clicks itself."
            )
        found.append(here[0])
    return found


def _coder(
    pieces: Callable[[], Iterable[pd.DataFrame]],
    features: Sequence[str],
    sizes: Sequence[int],
    dense: Sequence[str],
    label: str,
) -> Callable[[], Dataset]:
    """What reads a log twice: once to count values, once to code them by their rank in frequency (0: all others)."""

    def build() -> Dataset:
        from datasets import Dataset

        counts: dict[str, pd.Series] = {}
        for piece in pieces():
            for name in features:
                found = piece[name].fillna("").value_counts(sort=False)
                counts[name] = counts[name].add(found, fill_value=0) if name in counts else found
        codes: dict[str, dict[str, int]] = {}
        for name, size in zip(features, sizes, strict=True):
            ranked = counts[name].sort_index().sort_values(ascending=False, kind="stable").index
            others = len(ranked) > size
            codes[name] = {v: i + others for i, v in enumerate(ranked[: size - others])}
        parts = [
            {
                **{n: piece[n].fillna("").map(codes[n]).fillna(0).to_numpy(np.int32) for n in features},
                **{n: piece[n].to_numpy(np.float32) for n in dense},
                "label": piece[label].astype(int).to_numpy(np.int8),
            }
            for piece in pieces()
        ]
        return Dataset.from_dict({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    return build


def _arrays(table: Dataset, features: Sequence[str], dense: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    ids = np.stack([column(table, name).astype(np.int32) for name in features], -1)
    values = [column(table, name).astype(np.float32) for name in dense]
    labels = torch.from_numpy(column(table, "label").astype(np.int64))
    return torch.from_numpy(ids), labels, torch.from_numpy(np.stack(values, -1)) if dense else torch.empty(len(ids), 0)


def _generator(name: str, seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(order_seed(f"{name} split", seed))


def _cut(order: Tensor, shares: tuple[float, float]) -> tuple[Tensor, ...]:
    first, second = int(shares[0] * len(order)), int(shares[1] * len(order))
    return order.split([first, second, len(order) - first - second])


def _data(
    name: str, features: Sequence[str], ids: Tensor, labels: Tensor, dense: Tensor, parts: Sequence[Tensor], seed: int
) -> ClickData:
    sizes = tuple(int(n) + 1 for n in ids.amax(0))
    train, validation, test = (Clicks(ids[rows], labels[rows], dense[rows]) for rows in parts)
    return ClickData(
        name=name,
        features=tuple(features),
        sizes=sizes,
        train=train,
        validation=validation,
        test=test,
        source="real",
        description=f"{name}: {len(labels):,} rows, {len(features)} categorical features with {sum(sizes):,} values, "
        f"{dense.shape[1]} dense ones.",
        details={"split_seed": seed},
    )
