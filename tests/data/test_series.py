"""Generated and bundled series: what the corpus promises, and windows cut as they should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repro.data import bundled_series
from repro.data.base import order_seed
from repro.data.bundled_series import BUNDLED, bundled, bundled_windows, ett_windows, rolling
from repro.data.errors import MissingData, UnknownData
from repro.data.registry import load_series
from repro.data.series import FAMILIES, SEASONS, UNSEEN, Windows, corpus, nearest_label

SMALL = {"train": 96, "test": 48, "unseen": 16, "past": 128, "horizon": 32}


def seasonal(family, label, n=40, steps=384):
    draw = np.random.default_rng(order_seed(f"test {family}", 0))
    return {**FAMILIES, **UNSEEN}[family](draw, np.full((n, 1), SEASONS[label]), steps)


def test_the_corpus_is_a_function_of_its_seed():
    one, two, other = corpus(3, **SMALL), corpus(3, **SMALL), corpus(4, **SMALL)
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert torch.equal(one.train, two.train)
    assert one.train.dtype == torch.float32
    assert one.train.shape == (96, 160)
    assert bool(one.train.isfinite().all())
    assert load_series("series-corpus", seed=3, **SMALL).fingerprint == one.fingerprint
    with pytest.raises(UnknownData):
        load_series("glyphs")


def test_test_series_are_dealt_evenly_and_are_no_training_series():
    data = corpus(0, **SMALL)
    assert torch.bincount(data.test.cell).tolist() == [2] * (len(FAMILIES) * len(SEASONS))
    assert torch.bincount(data.unseen.cell).tolist() == [2] * (len(UNSEEN) * len(SEASONS))
    assert data.test.cells[0] == "sine 96"
    assert data.test.cells[-1] == "counts 7"
    for row, cell in zip(data.test.season.tolist(), data.test.cell.tolist(), strict=True):
        assert data.test.cells[cell].endswith(f" {row}")
    test = torch.cat((data.test.past, data.test.future), 1)
    assert not any(bool((data.train == row).all(1).any()) for row in test)


@pytest.mark.parametrize("family", ["sine", "sawtooth", "square", "counts", "bumps", "growth"])
@pytest.mark.parametrize("label", range(len(SEASONS)))
def test_families_with_a_season_repeat_it(family, label):
    x = seasonal(family, label)
    m = SEASONS[label]
    x = x - x.mean(1, keepdims=True)
    same = np.abs(x[:, m:] - x[:, :-m]).mean()
    half = np.abs(x[:, m // 2 :] - x[:, : -(m // 2)]).mean()
    assert same < 0.85 * half


def test_a_walk_has_independent_steps_and_bursts_have_loud_and_quiet_times():
    steps = np.diff(seasonal("walk", 0, 200), axis=1)
    assert abs((steps[:, 1:] * steps[:, :-1]).mean() / (steps**2).mean()) < 0.02
    x = seasonal("bursts", 2, 200)
    power = np.sort((x.reshape(200, -1, 32) ** 2).mean(-1), axis=1)
    assert (power[:, -1] / power[:, 0]).mean() > 5


def test_half_of_the_series_change_once_and_end_in_the_family_asked_for():
    """Families that are a constant of their own for every series: a change is a step."""
    from repro.data import series

    def constant(level):
        return lambda draw, season, steps: np.broadcast_to(level + draw.random(season.shape), (len(season), steps))

    def drawn(switching):
        draw, family = np.random.default_rng(0), np.arange(2000) % 2
        found = series._draw(draw, [constant(0), constant(50)], family, family, 160, 128, switching).values
        return found, family, found.diff(dim=1).abs() > 1e-4

    values, family, changes = drawn(0.5)
    assert set(changes.sum(1).tolist()) == {0, 1}
    assert changes.any(1).double().mean() == pytest.approx(0.5, abs=0.04)
    where = changes.nonzero()[:, 1] + 1
    assert int(where.min()) >= 32
    assert int(where.max()) < 112
    # units and levels differ by series, but the later part of family 1 is far above that of family 0
    assert values[family == 1, -1].min() > values[family == 0, -1].max()
    assert values[family == 1, 0].min() < values[family == 0, 0].max()
    assert not drawn(0.0)[2].any()


def test_labels_tell_the_family_where_they_should():
    data = corpus(1, kind="labelled", **SMALL)
    used = {data.test.cells[c] for c in data.test.cell.tolist()}
    assert used == {"sine 96", "sawtooth 24", "bursts 12", "counts 7"}
    walks = corpus(1, kind="walks", **SMALL)
    assert {walks.test.cells[c].split()[0] for c in walks.test.cell.tolist()} == {"walk"}
    with pytest.raises(ValueError, match="kind is"):
        corpus(kind="other", **SMALL)


def test_data_order_is_shared_and_prefixed():
    data = corpus(0, **SMALL)
    long, short = data.train_order(30, 8, 5), data.train_order(10, 8, 5)
    assert torch.equal(long[:10], short)
    assert sorted(long.ravel()[:96].tolist()) == list(range(96))
    batch = data.rows(short[0])
    assert torch.equal(batch.values, data.train[short[0]])
    assert torch.equal(batch.labels, data.train_labels[short[0]])


def test_gaps_are_refused():
    def windows(past):
        one = torch.ones(1, dtype=torch.long)
        return Windows(past, torch.ones(1, 2), one, one, ("a",), one * 0)

    nan = float("nan")
    windows(torch.tensor([[nan, nan, 1.0, 2.0]]))
    for bad in ([1.0, nan, 1.0, 2.0], [nan, 1.0, 2.0, nan]):
        with pytest.raises(ValueError, match="missing after"):
            windows(torch.tensor([bad]))


def test_labels_of_other_seasons():
    assert [SEASONS[nearest_label(m)] for m in (96, 60, 52, 24, 12, 11, 7, 4, 1)] == [96, 96, 96, 24, 12, 12, 7, 7, 7]


def test_rolling_windows_end_at_the_end():
    found = rolling([("a", np.arange(40.0), 4), ("b", np.arange(9.0), 1)], 16, 4, 3, patch=8)
    assert found.cells == ("a",)  # the second is too short
    assert found.future.tolist() == [[28, 29, 30, 31], [32, 33, 34, 35], [36, 37, 38, 39]]
    assert found.past[-1].tolist() == list(range(20, 36))
    short = rolling([("a", np.arange(17.0), 4)], 16, 4, 1, patch=4)
    assert short.past[0].isnan().sum() == 4
    assert short.past[0, 4:].tolist() == list(range(1, 13))


def test_bundled_series_are_what_they_are():
    pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    lengths = {name: [len(x) for x in bundled(name)] for name in BUNDLED}
    assert lengths == {
        "sunspots": [309], "co2": [2284], "elnino": [732], "elec_equip": [257], "macrodata": [203] * 4,
        "interest_inflation": [107] * 2, "nile": [100],
    }  # fmt: skip
    assert all(np.isfinite(x).all() for name in BUNDLED for x in bundled(name))
    assert bundled("nile")[0][:2].tolist() == [1120, 1160]
    assert bundled("elnino")[0][[0, 12]].tolist() == [23.11, 24.19]  # January of the first two years
    windows = bundled_windows()
    assert windows.cells == tuple(BUNDLED)
    assert windows.future.shape == (44, 16)
    sunspots = windows.take(windows.cell == 0)
    assert sunspots.future[-1].tolist() == pytest.approx(bundled("sunspots")[0][-16:].tolist())
    with pytest.raises(KeyError):
        bundled("copper")


def test_without_statsmodels_the_error_says_so(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(bundled_series, "import_module", absent)
    with pytest.raises(MissingData, match="statsmodels"):
        bundled("nile")


def test_ett_from_files_in_its_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    with pytest.raises(MissingData, match=r"ETTh1\.csv"):
        ett_windows()
    (tmp_path / "ett").mkdir()
    rows = ["date," + ",".join(bundled_series.ETT)]
    rows += [f"2016-07-01 {i:02d}:00:00," + ",".join(str(i + 100 * c) for c in range(7)) for i in range(400)]
    for name in ("ETTh1", "ETTh2"):
        (tmp_path / "ett" / f"{name}.csv").write_text("\n".join(rows))
    found = ett_windows(64, 16, rolls=2)
    assert len(found) == 28
    assert found.cells == ("ETTh1", "ETTh2")
    assert found.season.unique().tolist() == [24]
    assert found.future[1].tolist() == list(range(384, 400))
    assert found.future[0].tolist() == list(range(344, 360))  # a fifth of 400 over two windows


def test_real_ett():
    try:
        found = ett_windows()
    except MissingData as error:
        pytest.skip(str(error))
    assert found.past.shape == (112, 256)
    assert bool(found.past.isfinite().all())
