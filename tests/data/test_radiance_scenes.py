"""Generated scenes against calculus, and real ones from small files of their layout."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from repro.data import MissingData
from repro.data.analytic_scenes import analytic_scene, draw_scene
from repro.data.errors import UnknownData
from repro.data.registry import load_radiance, module_of
from repro.models.volume_rendering import Rays

SMALL = {"size": 16, "train": 3, "validation": 1, "test": 2}


def test_pictures_belong_to_their_seed():
    one, other = analytic_scene(1, **SMALL), analytic_scene(2, **SMALL)
    analytic_scene.cache_clear()
    same = load_radiance("analytic-scene", seed=1, **SMALL)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert len(one.train), len(one.test) == (3, 2)
    assert one.train.images.shape == (3, 16, 16, 4)
    assert one.describe()["name"] == "analytic-scene"
    assert module_of("analytic-scene") == "repro.data.analytic_scenes"
    with pytest.raises(UnknownData):
        load_radiance("digits")


def test_splits_have_cameras_of_their_own():
    data = analytic_scene(1, **SMALL)
    centres = torch.cat((data.train.centres, data.validation.centres, data.test.centres))
    assert len(centres.unique(dim=0)) == 6


def test_the_picture_of_one_ball_is_that_of_calculus():
    """Through the middle of a hard ball: alpha = 1 - exp(-density * diameter), and its colour is its own."""
    scene = draw_scene(0, solids=1, softness=1e-4, texture=0.0, shine=0.0)
    assert not bool(scene.boxes[0])
    start = scene.centres[0] + torch.tensor([0.0, 0.0, 3.0])
    for density in (1.0, 5.0):
        thin = type(scene)(**{**vars(scene), "density": torch.tensor([density])})
        seen = thin.render(Rays(start[None], torch.tensor([[0.0, 0.0, -1.0]])), steps=8192)[0]
        alpha = 1 - math.exp(-density * 2 * float(scene.sizes[0, 0]))
        assert float(seen[3]) == pytest.approx(alpha, abs=2e-3)
        torch.testing.assert_close(seen[:3], scene.base[0] * seen[3], atol=1e-4, rtol=0)


def test_boxes_and_balls_are_where_they_say():
    scene = draw_scene(3, softness=1e-3)
    for k in range(5):
        surface = scene.centres[k].clone()
        surface[0] += scene.sizes[k, 0]
        parts = scene.parts(torch.stack((scene.centres[k], surface, surface + torch.tensor([0.05, 0.0, 0.0]))))[:, k]
        torch.testing.assert_close(parts / scene.density[k], torch.tensor([1.0, 0.5, 0.0]), atol=0.01, rtol=0)
        assert (scene.centres[k].abs() + scene.sizes[k]).max() < 1


def test_quadrature_is_fine_enough():
    data = analytic_scene(4, **SMALL)
    finer = data.scene.render(data.test.rays(0), 512).view(16, 16, 4)
    assert (finer - data.test.images[0]).abs().max() < 3e-3


def test_colour_depends_on_the_direction_only_where_it_shines():
    x = torch.zeros(1, 3)
    scene, dull = draw_scene(0), draw_scene(0, shine=0.0)
    views = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    assert not torch.equal(*(scene.colour(x, d) for d in views))
    torch.testing.assert_close(*(dull.colour(x, d) for d in views), rtol=0, atol=0)


def test_all_rays_go_with_their_pixels():
    views = analytic_scene(1, **SMALL).train
    rays, seen = views.all_rays()
    torch.testing.assert_close(seen.view(3, 16, 16, 4), views.images)
    torch.testing.assert_close(rays.directions[256:512], views.rays(1).directions)
    opaque = analytic_scene(1, **SMALL).scene.render(rays.take(torch.tensor([300, 301])))
    torch.testing.assert_close(opaque, seen[[300, 301]], atol=1e-5, rtol=0)


# --- Blender's layout -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    root = tmp_path / "blender-scene" / "lego"
    pose = [[1, 0, 0, 0], [0, 0, -1, -4], [0, 1, 0, 0], [0, 0, 0, 1]]  # from -y, looking along +y
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        (root / split).mkdir(parents=True)
        frames = []
        for i in range(count):
            pixels = np.zeros((8, 8, 4), np.uint8)
            pixels[:4, :, 0], pixels[:4, :, 3] = 200, 102 + i
            image.fromarray(pixels, "RGBA").save(root / split / f"r_{i}.png")
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": pose})
        told = {"camera_angle_x": 2 * math.atan(0.5), "frames": frames}
        (root / f"transforms_{split}.json").write_text(json.dumps(told))
    return root


def test_pictures_in_blenders_layout(folder):
    data = load_radiance("blender-scene", scene="lego", validation=1)
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 1, 1)
    assert data.train.focal == pytest.approx(8.0)
    torch.testing.assert_close(data.train.images[1, 0, 0], torch.tensor([200 / 255 * 103 / 255, 0, 0, 103 / 255]))
    torch.testing.assert_close(data.train.centres[0], torch.tensor([0.0, -3.2, 0.0]))
    middle = data.train.rays(0).directions.mean(0)
    torch.testing.assert_close(middle / middle.norm(), torch.tensor([0.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    half = load_radiance("blender-scene", scene="lego", size=4)
    assert half.train.size == (4, 4)
    assert half.train.focal == pytest.approx(4.0)
    assert half.fingerprint != data.fingerprint


def test_what_is_absent_is_named(folder, monkeypatch):
    with pytest.raises(MissingData, match="transforms_train"):
        load_radiance("blender-scene", scene="ship")
    (folder / "train" / "r_1.png").unlink()
    with pytest.raises(MissingData, match=r"r_1\.png"):
        load_radiance("blender-scene", scene="lego")
    monkeypatch.delenv("REPRO_DATA_DIR")
    with pytest.raises(MissingData, match="REPRO_DATA_DIR"):
        load_radiance("blender-scene", scene="lego")
