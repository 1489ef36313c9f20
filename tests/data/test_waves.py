"""Plane waves: alike at every place, told apart by their vectors."""

from __future__ import annotations

import pytest
import torch

from repro.data.registry import load_images
from repro.data.waves import SIZE, VECTORS, draw, waves


def images(label, count=4000, seed=0):
    return draw(torch.full((count,), label), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("label", [0, 3, 6])
def test_all_places_are_alike(label):
    """Means, variances and covariances with a neighbour are the same everywhere."""
    found = images(label)[:, 0]
    assert float((found.mean(0) - 0.5).abs().max()) < 0.03
    variance = found.var(0)
    assert float(variance.max() / variance.min()) < 1.1
    shifted = found.roll((1, 2), (1, 2))
    covariance = ((found - 0.5) * (shifted - 0.5)).mean(0)
    assert float(covariance.max() - covariance.min()) < 0.02


def test_a_class_is_its_wave_vector():
    for label, (down, across) in enumerate(VECTORS):
        power = torch.fft.rfft2(images(label, 50)[:, 0] - 0.5).abs().square().mean(0)
        peak = divmod(int(power.argmax()), power.shape[1])
        expected = (down % SIZE, across) if across >= 0 else (-down % SIZE, -across)
        assert peak == expected or (across == 0 and peak == (-down % SIZE, 0))


def test_splits_are_drawn_by_the_seed():
    one, again, other = waves(0), load_images("waves", seed=0), waves(1)
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert torch.bincount(one.train.labels).tolist() == [108] * 10
    assert one.train.pixels.shape == (1080, 1, SIZE, SIZE)
    assert not torch.equal(one.train.pixels[:180], one.validation.pixels)
    with pytest.raises(ValueError, match="too few"):
        waves(0, test=9)
    with pytest.raises(ValueError, match="labels"):
        draw(torch.tensor([10]), torch.Generator())
