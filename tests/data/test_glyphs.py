"""Glyphs: classes, drawing, tasks, and the frame that image data share."""

from __future__ import annotations

import pytest
import torch

from repro.data import UnknownData
from repro.data.glyphs import SIZE, STROKES, STYLES, alphabet, draw, glyph_tasks, glyphs
from repro.data.registry import load_images, module_of

SMALL = {"train": 60, "validation": 20, "test": 20}


def clean(strokes, style="plain"):
    """Mean over many drawings."""
    generator = torch.Generator().manual_seed(0)
    return draw(strokes.expand(400, -1, -1, -1), generator, style).mean(0)[0]


def test_the_alphabet_is_one_sequence_of_different_classes():
    found = alphabet(50, seed=3)
    assert found.shape == (50, STROKES, 2, 2)
    assert len({tuple(x.flatten().tolist()) for x in found}) == 50
    assert torch.equal(alphabet(10, seed=3, first=20), found[20:30])
    assert not torch.equal(alphabet(10, seed=4), found[:10])
    assert (found[:, :, 0] != found[:, :, 1]).any(-1).all()  # no stroke is a point


def test_ink_lies_on_the_strokes():
    strokes = torch.tensor([[[-4.0, 0.0], [4.0, 0.0]]] * STROKES)[None]  # one vertical line through the middle
    page = clean(strokes)
    assert page.shape == (SIZE, SIZE)
    middle = page[5:11, 7:9].mean()
    assert middle > 0.6
    assert page[5:11, :4].abs().max() < 0.1
    assert page[:2].abs().max() < 0.1
    turned = clean(strokes.flip(-1))
    torch.testing.assert_close(turned, page.T, atol=0.12, rtol=0)


def test_images_of_a_class_differ_and_are_nearer_to_each_other_than_to_other_classes():
    data = glyphs(0, classes=10, train=1000, validation=100, test=200)
    means = torch.stack([data.train.pixels[data.train.labels == c].mean(0) for c in range(10)]).flatten(1)
    distance = torch.cdist(data.test.pixels.flatten(1), means)
    right = (distance.argmin(1) == data.test.labels).float().mean()
    assert right > 0.6  # chance is 0.1
    assert not torch.equal(data.train.pixels[data.train.labels == 0][0], data.train.pixels[data.train.labels == 0][1])


@pytest.mark.parametrize("style", STYLES[1:])
def test_styles_change_pixels_and_keep_classes(style):
    plain, styled = (glyphs(0, classes=5, style=s, **SMALL) for s in ("plain", style))
    assert plain.fingerprint != styled.fingerprint
    assert (plain.train.pixels.mean() - styled.train.pixels.mean()).abs() + (
        plain.train.pixels.std() - styled.train.pixels.std()
    ).abs() > 0.02
    # what is drawn is the same: the mean picture goes with that of the plain style, or against it
    strokes = alphabet(1, 0)
    pair = torch.stack([clean(strokes).flatten(), clean(strokes, style).flatten()])
    assert abs(float(torch.corrcoef(pair)[0, 1])) > 0.25


def test_an_unknown_style_is_an_error():
    with pytest.raises(ValueError, match="a style is one of"):
        glyphs(0, style="cursive", **SMALL)
    with pytest.raises(ValueError, match="too few"):
        glyphs(0, classes=30, **SMALL)


def test_splits_are_balanced_apart_and_fixed():
    data = glyphs(1, classes=10, **SMALL)
    assert [int((data.train.labels == c).sum()) for c in range(10)] == [6] * 10
    seen = [x for split in ("train", "validation", "test") for x in data.split(split).pixels]
    assert len({x.numpy().tobytes() for x in seen}) == 100
    assert glyphs(1, classes=10, **SMALL).fingerprint == data.fingerprint
    assert glyphs(2, classes=10, **SMALL).fingerprint != data.fingerprint
    with pytest.raises(ValueError, match="a split is"):
        data.split("dev")


def test_tasks_have_classes_or_styles_of_their_own():
    new = glyph_tasks(0, tasks=3, classes=5, base=20, **SMALL)
    assert [t.details["first_class"] for t in new] == [20, 25, 30]
    assert {t.details["style"] for t in new} == {"plain"}
    styles = glyph_tasks(0, tasks=3, classes=5, base=20, kind="styles", **SMALL)
    assert [t.details["first_class"] for t in styles] == [0, 5, 10]
    assert [t.details["style"] for t in styles] == list(STYLES[1:4])
    with pytest.raises(ValueError, match="kind is"):
        glyph_tasks(0, kind="sizes")
    with pytest.raises(ValueError, match="styles"):
        glyph_tasks(0, tasks=7, kind="styles")


def test_order_and_batches_are_those_of_the_other_kinds():
    data = load_images("glyphs", seed=1, classes=10, **SMALL)
    order = data.train_order(20, 8, seed=5)
    assert torch.equal(order[:7], data.train_order(7, 8, seed=5))
    assert sorted(order.flatten()[:60].tolist()) == list(range(60))
    batch = data.rows(order[0])
    assert batch.inputs.shape == (8, 1, SIZE, SIZE)
    assert torch.equal(batch.targets, data.train.labels[order[0]])
    held = data.held_out_batches(3, 8)
    assert [len(b.targets) for b in held] == [8, 8, 4]
    described = data.describe()
    assert described["fingerprint"] == data.fingerprint
    assert described["shape"] == [1, SIZE, SIZE]
    assert module_of("glyphs") == "repro.data.glyphs"
    with pytest.raises(UnknownData):
        load_images("stdlib")
