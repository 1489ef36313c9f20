"""Textured objects: classes, drawing, splits."""

from __future__ import annotations

import pytest
import torch

from repro.data.registry import load_images
from repro.data.textures import CLASSES, PATTERNS, SHAPES, SIZE, draw, textures


def images(label, count=300, seed=0):
    return draw(torch.full((count,), label), torch.Generator().manual_seed(seed))


def test_images_are_bytes_and_the_draw_is_the_generator_s():
    found = images(5, 20)
    assert found.shape == (20, 3, SIZE, SIZE)
    scaled = found * 255
    torch.testing.assert_close(scaled, scaled.round())
    assert torch.equal(found, images(5, 20))
    assert not torch.equal(found, images(5, 20, seed=1))
    for label in (-1, CLASSES):
        with pytest.raises(ValueError, match="labels"):
            draw(torch.tensor([label]), torch.Generator())


def test_patterns_differ_in_the_direction_in_which_they_change():
    """Steps between neighbouring pixels in the middle of a disc, down and across."""

    def steps(pattern):
        middle = images(SHAPES.index("disc") * 4 + PATTERNS.index(pattern))[:, :, 6:10, 6:10]
        return float(middle.diff(dim=2).abs().mean()), float(middle.diff(dim=3).abs().mean())

    down, across = zip(*(steps(pattern) for pattern in PATTERNS), strict=True)
    plain, rows, columns, checks = range(4)
    assert down[rows] > 2 * down[plain]
    assert down[rows] > 1.5 * down[columns]
    assert across[columns] > 2 * across[plain]
    assert across[columns] > 1.5 * across[rows]
    assert min(down[checks], across[checks]) > 1.5 * down[plain]


def test_a_ring_is_open_in_the_middle_and_colours_give_no_class_away():
    disc, ring = (images(SHAPES.index(name) * 4) for name in ("disc", "ring"))
    means = torch.stack([images(label).mean((0, 2, 3)) for label in range(CLASSES)])
    assert float(means.std(0).max()) < 0.05

    def contrast(pages):  # middle against the place where the shape always is
        return float((pages[:, :, 7:9, 7:9].mean((2, 3)) - pages[:, :, 7:9, 11:12].mean((2, 3))).abs().mean())

    assert contrast(ring) > 1.5 * contrast(disc)


def test_splits_hold_every_class_alike():
    data = load_images("textures", seed=3, train=4, validation=1, test=2)
    for part, count in ((data.train, 4), (data.validation, 1), (data.test, 2)):
        assert part.labels.bincount().tolist() == [count] * CLASSES
    assert not torch.equal(data.train.pixels[:CLASSES], data.test.pixels[:CLASSES])
    assert data.fingerprint == textures(3, train=4, validation=1, test=2).fingerprint
    with pytest.raises(ValueError, match="no image"):
        textures(test=0)
