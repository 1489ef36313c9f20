"""Digits and worn glyphs: splits, content, difficulty."""

from __future__ import annotations

import pytest
import torch

from repro.data.digits import digits
from repro.data.glyphs import alphabet, draw
from repro.data.registry import load_images, module_of
from repro.data.worn_glyphs import COVER, SIZE, wear, worn_glyphs

SMALL = {"train": 200, "validation": 50, "test": 50}


def rows(images):
    return {x.numpy().tobytes() for x in images.pixels}


def test_digits_are_those_of_scikit_learn_in_three_parts():
    from sklearn.datasets import load_digits

    data = digits(0)
    parts = [data.split(name) for name in ("train", "validation", "test")]
    assert sum(len(part.labels) for part in parts) == 1797
    assert set().union(*(rows(part) for part in parts)) == rows(
        data.train._replace(pixels=torch.from_numpy(load_digits().images).float()[:, None] / 16)
    )
    assert not rows(data.train) & rows(data.test)
    assert not rows(data.validation) & rows(data.test)
    assert float(data.train.pixels.max()) == 1.0
    assert data.describe()["source"] == "bundled"


def test_digits_are_split_class_by_class_and_anew_for_every_seed():
    data = digits(0)
    whole = sum(data.split(name).labels.bincount() for name in ("train", "validation", "test"))
    torch.testing.assert_close(data.test.labels.bincount() / whole, torch.full((10,), 0.3), atol=0.01, rtol=0)
    torch.testing.assert_close(data.validation.labels.bincount() / whole, torch.full((10,), 0.1), atol=0.01, rtol=0)
    assert digits(0).fingerprint == data.fingerprint != digits(1).fingerprint
    assert (data.test.labels[1:] < data.test.labels[:-1]).any()  # not sorted by class
    with pytest.raises(ValueError, match="without"):
        digits(0, validation=0.0)


def test_worn_glyphs_are_balanced_and_fixed_by_their_seed():
    data = worn_glyphs(0, **SMALL)
    assert data.train.pixels.shape == (200, 1, SIZE, SIZE)
    assert data.train.labels.bincount().tolist() == [20] * 10
    assert len(rows(data.train) | rows(data.validation) | rows(data.test)) == 300
    assert worn_glyphs(0, **SMALL).fingerprint == data.fingerprint != worn_glyphs(1, **SMALL).fingerprint
    with pytest.raises(ValueError, match="too few"):
        worn_glyphs(0, **{**SMALL, "test": 5})


def test_wearing_cuts_covers_and_adds_noise():
    generator = torch.Generator().manual_seed(0)
    page = 8 * torch.arange(256.0).view(1, 1, 16, 16).expand(300, -1, -1, -1) + 1000
    worn = wear(page, generator)
    covered = worn.abs() < 100
    assert (covered.sum((1, 2, 3)) == COVER * COVER).all()
    corners = {round(float(x)) for x in (worn[:, 0, 0, 0][~covered[:, 0, 0, 0]] - 1000) / 8}
    assert {c // 16 for c in corners} == {c % 16 for c in corners} == set(range(5))  # every offset occurs
    whole = ~covered[:, 0, 0].any(1)
    steps = worn[whole, 0, 0].diff(dim=1)
    assert float((steps - 8).std()) == pytest.approx(0.25 * 2**0.5, rel=0.1)


def test_worn_glyphs_are_harder_than_glyphs():
    data = worn_glyphs(0, train=2000, validation=10, test=500)
    plain = [draw(alphabet(10, 0)[x.labels], torch.Generator().manual_seed(1)) for x in (data.train, data.test)]

    def right(train, test):
        means = torch.stack([train[data.train.labels == c].mean(0) for c in range(10)]).flatten(1)
        return float((torch.cdist(test.flatten(1), means).argmin(1) == data.test.labels).float().mean())

    assert 0.2 < right(data.train.pixels, data.test.pixels) < right(*plain) - 0.15


def test_they_are_known_by_name():
    assert module_of("digits") == "repro.data.digits"
    assert load_images("digits", seed=2).details["split_seed"] == 2
    assert load_images("worn-glyphs", seed=1, **SMALL).name == "worn-glyphs"
