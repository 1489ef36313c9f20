"""Glyphs on textured grounds."""

from __future__ import annotations

import pytest
import torch

from repro.data.cluttered import CELLS, GLYPH, GROUNDS, SIZE, cluttered, draw, texture
from repro.data.glyphs import alphabet
from repro.data.registry import load_images

SMALL = {"classes": 5, "train": 60, "validation": 10, "test": 20}


def test_questions_are_about_the_same_pages():
    sets = {task: load_images("cluttered", seed=3, task=task, **SMALL) for task in ("class", "place", "ground")}
    pixels = sets["class"].train.pixels
    assert pixels.shape == (60, 1, SIZE, SIZE)
    assert all(torch.equal(s.train.pixels, pixels) for s in sets.values())
    assert {t: s.classes for t, s in sets.items()} == {"class": 5, "place": CELLS**2, "ground": len(GROUNDS)}
    for found in sets.values():
        assert 0 <= int(found.train.labels.min()) <= int(found.train.labels.max()) < found.classes
    assert sets["class"].train.labels.bincount().tolist() == [12] * 5
    torch.testing.assert_close((pixels * 255).round() / 255, pixels)
    assert len({s.fingerprint for s in sets.values()}) == 3


def test_it_is_drawn_from_the_seed():
    assert cluttered(1, **SMALL).fingerprint == cluttered(1, **SMALL).fingerprint
    assert cluttered(1, **SMALL).fingerprint != cluttered(2, **SMALL).fingerprint
    one = cluttered(1, **SMALL)
    assert not torch.equal(one.train.pixels[:10], one.test.pixels[:10])


def test_the_place_is_where_the_glyph_is():
    pages = draw(torch.zeros(400, dtype=torch.long), alphabet(1), torch.Generator().manual_seed(0))
    bright = (pages.pixels[:, 0] > 0.8).float()
    axis = torch.arange(SIZE, dtype=torch.float32)
    centre = [(bright.sum(d) * axis).sum(1) / bright.sum((1, 2)) for d in (2, 1)]
    corner = [c - (GLYPH - 1) / 2 for c in centre]
    cells = [(c * CELLS / (SIZE - GLYPH + 1)).floor().clamp(0, CELLS - 1) for c in corner]
    error = torch.stack([(cells[0] - pages.place // CELLS).abs(), (cells[1] - pages.place % CELLS).abs()])
    assert float((error <= 1).float().mean()) > 0.97


def test_grounds_differ_and_have_one_scale():
    kinds = torch.arange(len(GROUNDS)).repeat(100)
    found = texture(kinds, torch.Generator().manual_seed(0))[:, 0]
    assert float(found.mean()) == pytest.approx(0, abs=0.05)
    for kind in range(len(GROUNDS)):
        assert 0.7 < float(found[kinds == kind].std()) < 1.3
    along = (found[:, :, 1:] - found[:, :, :-1]).square().mean((1, 2))
    level = GROUNDS.index("level waves")
    assert float(along[kinds == level].max()) == pytest.approx(0, abs=1e-6)
    assert float(along[kinds == GROUNDS.index("coarse")].mean()) < float(along[kinds == GROUNDS.index("fine")].mean())


def test_wrong_questions_and_empty_classes_are_errors():
    with pytest.raises(ValueError, match="colour"):
        cluttered(0, task="colour")
    with pytest.raises(ValueError, match="too few"):
        cluttered(0, classes=30, train=60, validation=20, test=60)
