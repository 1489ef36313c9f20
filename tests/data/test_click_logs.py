"""MovieLens, Avazu and Criteo from small files of their layout."""

from __future__ import annotations

import gzip
import math
import random

import pytest
import torch

from repro.data import MissingData
from repro.data.click_logs import AVAZU, AVAZU_SIZES, CRITEO, CRITEO_SIZES, avazu, criteo, movielens


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    return tmp_path


def rows_of(data):
    return torch.cat([part.ids for part in (data.train, data.validation, data.test)])


def labels_of(data):
    return torch.cat([part.labels for part in (data.train, data.validation, data.test)])


def test_movielens(folder):
    place = folder / "movielens" / "ml-1m"
    place.mkdir(parents=True)
    draw = random.Random(0)
    users = [f"{u}::{'MF'[u % 2]}::{[1, 18, 25][u % 3]}::{u % 5}::{10000 + u}-é" for u in range(1, 41)]
    (place / "users.dat").write_text("\n".join(users), encoding="latin-1")
    ratings = [(draw.randint(1, 40), draw.randint(1, 30), draw.randint(1, 5)) for _ in range(1000)]
    (place / "ratings.dat").write_text("\n".join(f"{u}::{m}::{r}::978300760" for u, m, r in ratings))
    data = movielens()
    kept = [r for *_, r in ratings if r != 3]
    assert len(labels_of(data)) == len(kept)
    assert int(labels_of(data).sum()) == sum(r >= 4 for r in kept)
    assert [len(p.labels) for p in (data.train, data.validation)] == [int(0.8 * len(kept)), int(0.1 * len(kept))]
    assert data.sizes == (40, 30, 2, 3, 5, 40)
    assert data.dense == 0
    ids = rows_of(data)
    pairs = {(int(u), int(z)) for u, z in ids[:, [0, 5]].tolist()}
    assert len(pairs) == 40  # a user has one postal code
    text = movielens(threes=True)
    assert len(labels_of(text)) == 1000
    assert int(labels_of(text).sum()) == sum(r >= 3 for *_, r in ratings)
    assert movielens(1).fingerprint != data.fingerprint


def test_avazu(folder):
    place = folder / "avazu"
    place.mkdir()
    draw = random.Random(1)
    lines = [",".join(["id", "click", *AVAZU])]
    for i in range(500):
        values = [f"141021{draw.randint(0, 23):02d}", *(f"{draw.choice('abcde')}{j}" for j in range(len(AVAZU) - 1))]
        lines.append(",".join([str(10**18 + i), str(int(i % 5 == 0)), *values]))
    with gzip.open(place / "train.gz", "wt") as file:
        file.write("\n".join(lines))
    data = avazu(sizes=(24, *[3] * 21))
    assert data.features == AVAZU
    hours = {line.split(",")[2][-2:] for line in lines[1:]}
    assert data.sizes == (len(hours), *[3] * 21)  # all hours; of five values two, and all others together
    assert len(labels_of(data)) == 500
    assert int(labels_of(data).sum()) == 100
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [405, 45, 50]
    counts = rows_of(data)[:, 1].bincount()
    assert counts[0] > counts[1] >= counts[2]
    assert avazu().sizes == (len(hours), *[5] * 21)
    assert len(labels_of(avazu(limit=50))) == 50


def test_criteo(folder):
    place = folder / "criteo"
    place.mkdir()
    draw = random.Random(2)
    lines = []
    for i in range(700):
        dense = ["" if draw.random() < 0.2 else str(draw.randint(-3, 40)) for _ in range(13)]
        values = ["" if draw.random() < 0.1 else f"{draw.choice([1, 1, 1, 2, 2, 3]):08x}" for _ in range(26)]
        lines.append("\t".join([str(i % 2), *dense, *values]))
    (place / "train.txt").write_text("\n".join(lines))
    data = criteo(sizes=(3,) * 26)
    assert (len(data.features), data.dense) == (26, 13)
    assert data.sizes == (3,) * 26  # two most frequent values, and all others together
    assert [len(p.labels) for p in (data.train, data.validation, data.test)] == [600, 50, 50]
    assert data.train.labels[:4].tolist() == [0, 1, 0, 1]  # in order
    first = lines[0].split("\t")
    for place_, shift in ((0, 1), (1, 4), (2, 1)):
        text = first[1 + place_]
        expected = math.log(max(1, int(text) + shift)) if text else 0.0
        assert float(data.train.dense[0, place_]) == pytest.approx(expected, rel=1e-6)
    column = [line.split("\t")[14] for line in lines]
    most = max(set(column), key=lambda v: (column.count(v), v))
    assert data.train.ids[column[:600].index(most), 0] == 1
    batch = data.rows(torch.arange(3))
    assert batch.inputs.shape == (3, 39)
    assert torch.equal(batch.inputs[:, :26].long(), data.train.ids[:3].long())


def test_published_sizes_of_vocabularies():
    assert len(CRITEO_SIZES) == len(CRITEO) == 26
    assert sum(CRITEO_SIZES) == 160_605
    assert len(AVAZU_SIZES) == len(AVAZU) == 22
    assert sum(AVAZU_SIZES) == 252_838


@pytest.mark.parametrize("load", [movielens, avazu, criteo])
def test_absent_files_are_an_error_that_says_how_to_get_them(load, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    with pytest.raises(MissingData, match=r"REPRO_DATA_DIR/"):
        load()
    monkeypatch.delenv("REPRO_DATA_DIR")
    with pytest.raises(MissingData, match="absent"):
        load()
