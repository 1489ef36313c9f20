"""Scenes: the geometry against a slow twin, the ground truth against itself, splits, domains and cues."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from repro.data import scene_geometry as geometry
from repro.data.registry import load_images, load_scenes
from repro.data.scene_looks import PATTERNS, dress, paint
from repro.data.scenes import BORDER, CREASE, DOMAINS, Scenes, scenes

SIZE = 64
SMALL = {"train": 100, "validation": 10, "test": 10}


@pytest.fixture(scope="module")
def layout():
    return geometry.draw(torch.arange(25) % 5, (2, 5), torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def found(module_cache):
    return scenes(3, size=SIZE, **SMALL).train


def inside(layout, scene, points):
    """Which objects of a scene hold points [M, 3]: bool [M, K], by the definition of each solid."""
    held = torch.zeros(len(points), layout.solid.shape[1], dtype=torch.bool)
    for k, solid in enumerate(layout.solid[scene].tolist()):
        if solid < 0:
            continue
        yaw = layout.yaw[scene, k]
        x, y, z = (points - layout.centre[scene, k]).unbind(-1)
        x, y = yaw.cos() * x + yaw.sin() * y, yaw.cos() * y - yaw.sin() * x
        x, y, z = (c / e for c, e in zip((x, y, z), layout.extent[scene, k], strict=True))
        wide = (x.square() + y.square()).sqrt()
        held[:, k] = {
            geometry.SPHERE: x.square() + y.square() + z.square() <= 1,
            geometry.BOX: torch.stack((x, y, z)).abs().amax(0) <= 1,
            geometry.PANEL: torch.stack((x, y, z)).abs().amax(0) <= 1,
            geometry.CYLINDER: (wide <= 1) & (z.abs() <= 1),
            geometry.CONE: (wide <= (1 - z) / 2) & (z >= -1),
        }[solid]
    return held


def test_rays_meet_what_marching_along_them_meets(layout):
    """The slow twin: small steps along a ray until a point lies in an object, below the floor or behind the wall."""
    surface = geometry.trace(layout, 16)
    axes, rays = geometry.camera_axes(layout.pitch), geometry.pixel_rays(16)
    steps, slots = torch.arange(1.0, 14.0, 0.004), layout.solid.shape[1]
    owners = set()
    for scene in range(8):
        for pixel in range(0, 256, 3):
            points = steps[:, None] * (rays[pixel] @ axes[scene])
            points[:, 2] += layout.height[scene]
            held = torch.cat((inside(layout, scene, points), points[:, 2:] < 0, points[:, 1:2] > layout.wall[scene]), 1)
            first = int(held.any(1).int().argmax())
            depth, owner = surface.depth.view(25, -1)[scene, pixel], int(surface.slot.view(25, -1)[scene, pixel])
            if held[first, owner]:  # a grazing ray may slip through between two steps
                assert abs(float(steps[first] - depth)) < 0.006
                owners.add(int(layout.solid[scene, owner]) if owner < slots else owner - slots - 2)
            else:
                back = torch.linspace(float(depth), float(depth) + 0.004, 50)[:, None] * (rays[pixel] @ axes[scene])
                back[:, 2] += layout.height[scene]
                assert inside(layout, scene, back)[:, owner].any()
    assert owners == {-2, -1, 0, 1, 2, 3, 4}


def test_shadows_are_where_the_way_to_the_light_is_blocked(layout):
    surface = geometry.trace(layout, 16)
    light = dress(layout, torch.Generator().manual_seed(0)).light
    dark = geometry.shadows(layout, surface, light).view(25, -1)
    assert 0.01 < float(dark.float().mean()) < 0.4
    steps, wrong = torch.arange(0.0, 5.0, 0.01), 0
    for scene in range(8):
        for pixel in range(0, 256, 3):
            points = surface.point.view(25, -1, 3)[scene, pixel] + steps[:, None] * light[scene]
            held = inside(layout, scene, points)
            owner = int(surface.slot.view(25, -1)[scene, pixel])
            if owner < held.shape[1]:
                held[:, owner] = False
            wrong += bool(held.any()) != bool(dark[scene, pixel])
    assert wrong <= 4  # of 688; a ray that grazes a solid may slip through between two steps


def test_steep_rays_meet_a_cone_once():
    """A ray along the axis, one into the base from below, one past the tip, one over the tip's mirrored half."""
    origin = torch.tensor([[0.0, 0.0, 5.0], [0.3, 0.0, -5.0], [0.2, 0.0, 5.0], [-3.0, 0.0, 1.5]])
    along = torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    enter, face = geometry.meet(geometry.CONE, origin, along)
    torch.testing.assert_close(enter, torch.tensor([4.0, 4.0, 4.4, torch.inf]))
    assert face.tolist()[:3] == [0, 2, 0]


def test_normals_are_unit_and_are_the_gradient_of_depth(found):
    torch.testing.assert_close(found.normals.norm(dim=1), torch.ones(100, SIZE, SIZE))
    rays = geometry.pixel_rays(SIZE).view(SIZE, SIZE, 3).permute(2, 0, 1)
    assert float((found.normals * rays).sum(1).max()) < 1e-4  # towards the camera
    points = found.depth[:, None] * rays
    right = points[:, :, 1:-1, 2:] - points[:, :, 1:-1, :-2]
    down = points[:, :, 2:, 1:-1] - points[:, :, :-2, 1:-1]
    slope = torch.nn.functional.normalize(torch.linalg.cross(down, right, dim=1), dim=1)
    cosine = (slope * found.normals[:, :, 1:-1, 1:-1]).sum(1)
    # no border within the pixels that the differences read
    calm = torch.nn.functional.max_pool2d((found.edges > 0).float()[:, None], 3, 1)[:, 0] == 0
    kind = found.semantic[:, 1:-1, 1:-1]
    for flat in (0, 1, 2 + geometry.BOX, 2 + geometry.PANEL):
        assert float(cosine[calm & (kind == flat)].min()) > 1 - 2e-4
    for curved in (geometry.SPHERE, geometry.CONE, geometry.CYLINDER):
        here = cosine[calm & (kind == 2 + curved)]
        assert len(here) > 1000
        assert float(here.median()) > 0.999
        assert float((here > 0.97).float().mean()) > 0.95


def test_the_nearest_object_owns_the_pixel(layout):
    """Every object alone in its scene; what stands in front is what is seen."""
    together = geometry.trace(layout, 32)
    alone = []
    for k in range(layout.solid.shape[1]):
        only = layout.solid.where(torch.arange(layout.solid.shape[1]) == k, -1)
        surface = geometry.trace(layout._replace(solid=only), 32)
        alone.append(surface.depth.masked_fill(surface.slot != k, torch.inf))
        assert torch.equal((surface.slot == k).sum((1, 2)), together.outline[:, k])
    depth, owner = torch.stack(alone, 1).min(1)
    seen = together.slot < layout.solid.shape[1]
    assert torch.equal(seen, (depth < torch.inf) & (depth <= together.depth + 1e-6))
    assert torch.equal(owner[seen], together.slot[seen])
    torch.testing.assert_close(depth[seen], together.depth[seen])


def test_objects_are_numbered_from_near_to_far(layout):
    forward = geometry.camera_axes(layout.pitch)[:, 2]
    depth = (layout.centre * forward[:, None]).sum(-1)
    both = (layout.solid >= 0)[:, 1:]
    assert bool((depth.diff(dim=1)[both] >= 0).all())
    assert not bool(((layout.solid < 0)[:, :-1] & both).any())


def test_boxes_are_tight_and_counts_and_classes_agree(found):
    for i in range(100):
        for k, (box, kind) in enumerate(zip(found.boxes[i].tolist(), found.box_classes[i].tolist(), strict=True)):
            mask = (found.instances[i] == k + 1).nonzero()
            if kind < 0:
                assert not len(mask)
                assert box == [0, 0, 0, 0]
                continue
            (top, left), (bottom, right) = mask.amin(0).tolist(), (mask.amax(0) + 1).tolist()
            assert box == [left, top, right, bottom]
            assert bool((found.semantic[i][found.instances[i] == k + 1] == 2 + kind).all())
        kinds = found.box_classes[i][found.box_classes[i] >= 0]
        assert torch.equal(kinds.bincount(minlength=5), found.counts[i])
        sizes = [(found.instances[i] == k + 1).sum() for k in range(5)]
        assert found.box_classes[i][int(torch.stack(sizes).argmax())] == found.labels[i]
        assert found.present[i, found.labels[i]]
    assert bool((found.semantic[found.instances == 0] < 2).all())
    assert found.labels.bincount().tolist() == [20] * 5
    salient = found.salient
    nearest = found.depth.masked_fill(found.instances == 0, torch.inf).flatten(1).amin(1)
    torch.testing.assert_close(found.depth.masked_fill(~salient, torch.inf).flatten(1).amin(1), nearest)


def test_edges_are_where_ids_normals_or_depth_jump(found):
    for axis in (1, 2):
        edge = found.edges.narrow(axis, 0, SIZE - 1)
        other = found.instances.diff(dim=axis) != 0
        assert bool((edge[other] == BORDER).all())
        turned = 1 - (
            found.normals.narrow(axis + 1, 0, SIZE - 1) * found.normals.narrow(axis + 1, 1, SIZE - 1)
        ).sum(1)  # fmt: skip
        # the mantle of a cone turns within a pixel or two at its tip
        assert float((turned[edge == 0] > 0.5).float().mean()) < 2e-4
        flat = (found.semantic < 2) | (found.semantic == 3) | (found.semantic == 6)
        assert float(turned[(edge == 0) & flat.narrow(axis, 0, SIZE - 1)].max()) < 1e-5
        # the inverse depth of a plane is linear in the picture: no jump between two pixels without an edge
        bend = (1 / found.depth).diff(n=2, dim=axis).abs()
        calm = (edge.narrow(axis, 0, SIZE - 2) == 0) & (edge.narrow(axis, 1, SIZE - 2) == 0)
        assert float(bend[calm & flat.narrow(axis, 0, SIZE - 2)].max()) < 1e-4
        assert float(bend[~calm].amax()) > 0.05
    # and every edge has a reason: another instance, or a turn of the surface
    right, low = (torch.ones(100, SIZE, SIZE) for _ in range(2))
    right[:, :, :-1] = (found.normals[..., :-1] * found.normals[..., 1:]).sum(1)
    low[:, :-1] = (found.normals[:, :, :-1] * found.normals[:, :, 1:]).sum(1)
    creases = found.edges == CREASE
    assert float(torch.minimum(right, low)[creases].max()) < 0.98
    borders = torch.zeros_like(creases)
    borders[:, :, :-1] |= found.instances.diff(dim=2) != 0
    borders[:, :-1] |= found.instances.diff(dim=1) != 0
    assert torch.equal(found.edges == BORDER, borders)
    assert 0.01 < float(creases.float().mean()) < 0.1


def test_equal_bits_in_another_process_and_with_more_threads(module_cache):
    made = scenes(5, train=20, validation=1, test=1)
    code = (
        "import torch; torch.set_num_threads(3); from repro.data.scenes import scenes;"
        "print(scenes(5, train=20, validation=1, test=1).fingerprint)"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(module_cache / "other"))
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert other.stdout.split()[-1] == made.fingerprint
    assert made.fingerprint != scenes(6, train=20, validation=1, test=1).fingerprint


def test_a_larger_set_begins_with_a_smaller_and_a_scene_is_the_same_at_all_sizes(module_cache, found):
    less, more = (scenes(3, train=n, validation=10, test=10) for n in (40, 100))
    for part, whole in zip(less.train, more.train, strict=True):
        assert torch.equal(part, whole[:40])
    assert torch.equal(more.train.labels, found.labels)
    assert torch.equal(more.train.counts, found.counts)
    assert torch.equal(more.train.box_classes, found.box_classes)
    moved = (2 * more.train.boxes - found.boxes).abs()
    assert float(moved.max()) <= 6  # the tips of cones are thinner than a pixel
    assert float((moved <= 2).float().mean()) > 0.99
    assert not torch.equal(more.validation.pixels, more.test.pixels)
    again = scenes(3, train=40, validation=10, test=10)
    assert again.fingerprint == less.fingerprint


def test_domains_share_the_ground_truth_and_not_the_pixels(module_cache):
    made = [load_scenes("scenes", seed=1, domain=domain, train=20, validation=1, test=1) for domain in DOMAINS]
    assert len({data.fingerprint for data in made}) == len(DOMAINS)
    for data in made[1:]:
        for name in Scenes._fields[1:]:
            assert torch.equal(getattr(data.train, name), getattr(made[0].train, name))
    for i, one in enumerate(made):
        scaled = one.train.pixels * 255
        torch.testing.assert_close(scaled, scaled.round())
        assert 0 <= float(one.train.pixels.min()) < float(one.train.pixels.max()) <= 1
        assert float(one.train.pixels.std()) > 0.05
        for other in made[:i]:
            assert float((one.train.pixels - other.train.pixels).abs().mean()) > 0.05


def hog(pixels):
    """Strengths of edges in 8 directions in 6 x 6 fields, each image scaled: enough to tell shapes apart."""
    grey = pixels.mean(1)
    across, down = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2], grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    strength, angle = (across.square() + down.square()).sqrt(), torch.atan2(down, across) % torch.pi
    bins = torch.nn.functional.one_hot((angle / torch.pi * 8).long().clamp(0, 7), 8) * strength[..., None]
    fields = torch.nn.functional.adaptive_avg_pool2d(bins.permute(0, 3, 1, 2), 6).flatten(1)
    return torch.nn.functional.normalize(fields, dim=1)


def probe(features, labels, cut):
    features = ((features - features[:cut].mean(0)) / (features[:cut].std(0) + 1e-6)).numpy().astype(np.float64)
    fitted = LogisticRegression(C=0.02, max_iter=300).fit(features[:cut], labels[:cut])
    return float((fitted.predict(features[cut:]) == labels[cut:].numpy()).mean())


def middle(pixels):
    """Means and spreads of the colours, of the picture and of its middle."""
    parts = (pixels, pixels[:, :, 8:24, 8:24])
    return torch.cat([getattr(part, name)((2, 3)) for part in parts for name in ("mean", "std")], 1)


def test_a_class_is_told_by_shape_and_not_by_colour(module_cache):
    made = load_scenes("scenes", seed=2, objects=(1, 1), train=1000, validation=1, test=1).train
    images = load_images("scene-classes", seed=2, objects=(1, 1), train=1000, validation=1, test=1).train
    assert torch.equal(images.pixels, made.pixels)
    # the object cut out, so that a linear classifier need not look for it
    left, top, right, bottom = made.boxes[:, 0].T
    centre = torch.stack((left + right, top + bottom), -1) / 32 - 1
    half = torch.maximum(right - left, bottom - top)[:, None, None] / 32 * 1.1
    where = torch.cat((torch.eye(2) * half, centre[..., None]), -1)
    cut = torch.nn.functional.grid_sample(
        made.pixels, torch.nn.functional.affine_grid(where, [1000, 3, 32, 32], align_corners=False),
        align_corners=False, padding_mode="border",
    )  # fmt: skip
    assert probe(hog(cut), made.labels, 700) > 0.7
    assert probe(middle(made.pixels), made.labels, 700) < 0.33
    assert probe(cut.mean((2, 3)), made.labels, 700) < 0.33


def test_cues_tell_the_class_as_often_as_asked(layout):
    many = geometry.draw(torch.arange(1000) % 5, (1, 1), torch.Generator().manual_seed(1))

    def shown(**options):
        look = dress(many, torch.Generator().manual_seed(2), **options)
        return look, many.solid[:, 0]

    for agreement, expected in ((1.0, 1.0), (0.5, 0.6), (0.0, 0.2)):
        look, solid = shown(cue="texture", agreement=agreement)
        assert float((look.pattern[:, 0] == solid).float().mean()) == pytest.approx(expected, abs=0.08)
    look, solid = shown(cue="colour")
    assert bool((look.pattern[:, 0] == 0).all())
    colours = torch.stack([look.colour[solid == k, 0, 0].mean(0) for k in range(5)])
    assert float(torch.pdist(colours).min()) > 0.15
    look, solid = shown()
    assert look.pattern[:, 0].bincount(minlength=len(PATTERNS)).min() > 150
    colours = torch.stack([look.colour[solid == k, 0, 0].mean(0) for k in range(5)])
    assert float(torch.pdist(colours).max()) < 0.12


def test_batches_orders_and_what_a_record_keeps(module_cache):
    data = load_scenes("scenes", seed=1, train=20, validation=2, test=5)
    order = data.train_order(3, 8, seed=0)
    assert torch.equal(data.train_order(2, 8, seed=0), order[:2])
    batch = data.rows(order[0])
    assert torch.equal(batch.depth, data.train.depth[order[0]])
    assert [len(part.labels) for part in data.held_out_batches(2, 3)] == [3, 2]
    assert len(data.split("validation").labels) == 2
    kept = data.describe()
    assert kept["shape"] == [3, 32, 32]
    assert kept["domain"] == "render"
    assert kept["train_rows"] == 20
    assert torch.equal(data.images().train.labels, data.train.labels)
    with pytest.raises(ValueError, match="split"):
        data.split("held out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "photo"}, "domain"), ({"size": 8}, "pixels"), ({"objects": (0, 2)}, "objects"),
        ({"objects": (3, 2)}, "objects"), ({"objects": (2, 9)}, "objects"), ({"cue": "smell"}, "cue"),
        ({"agreement": 1.5}, "agreement"), ({"train": 0}, "no scene"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(module_cache, options, message):
    with pytest.raises(ValueError, match=message):
        scenes(0, **{**SMALL, **options})


def test_unknown_classes_and_domains_are_refused(layout):
    with pytest.raises(ValueError, match="classes"):
        geometry.draw(torch.tensor([5]), (1, 1), torch.Generator())
    look = dress(layout, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="domain"):
        paint(layout, look, geometry.trace(layout, 32), "photo", 16, torch.Generator())
