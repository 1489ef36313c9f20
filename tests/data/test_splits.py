"""Data in three splits of arrays: what they share."""

from __future__ import annotations

import pytest
import torch

from repro.data.base import epochs
from repro.data.clicks import clicks
from repro.data.images import ImageData, Images
from repro.data.scenes import scenes

MAKERS = {
    "images": lambda: ImageData(
        "squares", *(Images(torch.rand(n, 1, 4, 4), torch.arange(n) % 3) for n in (20, 5, 7)), 3, "generated", "",
        {"task_seed": 4},
    ),
    "scenes": lambda: scenes(size=16, train=20, validation=5, test=7),
    "clicks": lambda: clicks(sizes=(9, 5), rows=(20, 5, 7), pairs=1),
}  # fmt: skip


@pytest.fixture(params=sorted(MAKERS))
def data(request, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    return MAKERS[request.param]()


def test_splits_are_had_by_name(data):
    assert [len(data.split(name).labels) for name in ("train", "validation", "test")] == [20, 5, 7]
    with pytest.raises(ValueError, match="not 'name'"):
        data.split("name")


def test_an_order_is_epochs_of_training_rows(data):
    assert torch.equal(data.train_order(7, 9, 3), epochs(20, 7, 9, 3))
    assert data.train_order(0, 9, 3).shape == (0, 9)


def test_a_description_counts_rows_and_keeps_details(data):
    found = data.describe()
    assert list(found)[:6] == ["name", "source", "fingerprint", "train_rows", "validation_rows", "held_out_rows"]
    assert list(found.values())[3:6] == [20, 5, 7]
    assert data.details
    assert found.items() >= dict(data.details).items()


def test_the_fingerprint_is_of_every_split(data):
    for name in ("train", "validation", "test"):
        split = data.split(name)
        other = {
            field: getattr(data, field) for field in data.__dataclass_fields__ if field not in (name, "fingerprint")
        }
        changed = type(data)(**other, **{name: split._replace(labels=1 - split.labels)})
        assert changed.fingerprint != data.fingerprint
