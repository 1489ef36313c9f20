"""Latents encoded beforehand: what is read, and what is said when it is not there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repro.data.errors import MissingData
from repro.data.registry import load_images


def write(folder, train=20, test=6):
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for name, count in (("train", train), ("validation", test)):
        np.save(folder / f"{name}_latents.npy", numbers.normal(size=(count, 4, 8, 8)).astype(np.float16))
        np.save(folder / f"{name}_labels.npy", numbers.integers(1000, size=count))


def test_splits(tmp_path, monkeypatch):
    write(tmp_path / "imagenet-latents")
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    data = load_images("imagenet-latents", seed=0, validation=5)
    assert [len(s.labels) for s in (data.train, data.validation, data.test)] == [15, 5, 6]
    assert data.train.pixels.dtype == torch.float16
    assert data.classes == 1000
    stored = torch.from_numpy(np.load(tmp_path / "imagenet-latents" / "train_latents.npy")).float()
    both = torch.cat((data.train.pixels.float(), data.validation.pixels))
    assert torch.equal(both.flatten(1).sum(1).sort().values, stored.flatten(1).sum(1).sort().values)
    with pytest.raises(ValueError, match="leave none"):
        load_images("imagenet-latents", validation=20)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    with pytest.raises(MissingData, match=r"train_latents\.npy"):
        load_images("imagenet-latents")
    monkeypatch.delenv("REPRO_DATA_DIR")
    with pytest.raises(MissingData, match="REPRO_DATA_DIR"):
        load_images("imagenet-latents")


def test_what_is_of_another_shape_is_named(tmp_path, monkeypatch):
    write(tmp_path / "imagenet-latents")
    np.save(tmp_path / "imagenet-latents" / "train_labels.npy", np.zeros(3, int))
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    with pytest.raises(MissingData, match="train"):
        load_images("imagenet-latents")
