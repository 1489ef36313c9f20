"""Cameras, samples and composition against what geometry and calculus say."""

from __future__ import annotations

import math

import pytest
import torch

from repro.models.volume_rendering import (
    OccupancyGrid,
    Rays,
    compose,
    compose_naive,
    cube_interval,
    hemisphere,
    look_at,
    pixel_rays,
    random_rays,
    sample_occupied,
    view_rays,
)


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def rays(*pairs):
    origins, directions = zip(*pairs, strict=True)
    return Rays(torch.tensor(origins), torch.nn.functional.normalize(torch.tensor(directions), dim=1))


# --- cameras --------------------------------------------------------------------------------------------------


def test_cameras_stand_on_the_hemisphere_and_look_at_the_centre():
    centres = hemisphere(200, 3.0, noise(), lowest=10.0)
    torch.testing.assert_close(centres.norm(dim=1), torch.full((200,), 3.0))
    assert centres[:, 2].min() >= 3 * math.sin(math.radians(10)) - 1e-5
    turn = look_at(centres)
    torch.testing.assert_close(turn.transpose(1, 2) @ turn, torch.eye(3).expand(200, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(200), atol=1e-5, rtol=0)
    torch.testing.assert_close(turn[:, :, 2] * 3, centres, atol=1e-5, rtol=0)
    assert (turn[:, 2, 1] > 0).all()  # up is up


def test_pixels_of_a_pinhole():
    """A point of the world is seen in the pixel that perspective puts it in: right is right, up is up."""
    centre = torch.tensor([[0.0, -4.0, 0.0]])
    turn = look_at(centre)
    everything = view_rays(centre[0], turn[0], (10, 10), 20.0)
    target = torch.tensor([0.55, 0.0, 0.95])  # to the right by 0.55 * 20 / 4 = 2.75 pixels, up by 4.75
    along = torch.nn.functional.normalize(target - centre[0], dim=0)
    best = int((everything.directions @ along).argmax())
    assert divmod(best, 10) == (0, 7)
    middle = pixel_rays(centre, turn, torch.tensor([[5, 5]]), (11, 11), 20.0)
    torch.testing.assert_close(middle.directions[0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0)


def test_where_rays_cross_the_cube():
    near, far = cube_interval(rays(([-3.0, 0.0, 0.0], [1.0, 0.0, 0.0]), ([0.0, 0.0, 0.0], [0.0, 1.0, 0.0]),
                                   ([-3.0, 2.0, 0.0], [1.0, 0.0, 0.0]), ([3.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
                                   ([-2.0, -2.0, -2.0], [1.0, 1.0, 1.0])))  # fmt: skip
    root = math.sqrt(3)
    torch.testing.assert_close(near[[0, 1, 4]], torch.tensor([2.0, 0.0, root]))
    torch.testing.assert_close(far[[0, 1, 4]], torch.tensor([4.0, 1.0, 3 * root]))
    assert near[2] == far[2]
    assert near[3] == far[3]


def test_random_rays_are_a_function_of_their_generator():
    one, same, other = (random_rays(5, (8, 8), 9.0, 3.0, noise(s)) for s in (1, 1, 2))
    torch.testing.assert_close(one, same, rtol=0, atol=0)
    assert not torch.equal(one.origins, other.origins)


# --- samples --------------------------------------------------------------------------------------------------


def test_without_a_grid_samples_are_even():
    found = sample_occupied(rays(([-3.0, 0.1, 0.2], [1.0, 0.0, 0.0])), None, 4)
    torch.testing.assert_close(found.distances[0], torch.tensor([2.25, 2.75, 3.25, 3.75]))
    torch.testing.assert_close(found.delta, torch.tensor([0.5]))
    torch.testing.assert_close(found.points[0, :, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    drawn = sample_occupied(rays(([-3.0, 0.1, 0.2], [1.0, 0.0, 0.0])), None, 50, noise()).distances[0]
    assert ((drawn - 2) / 0.04).floor().long().tolist() == list(range(50))  # one in every stratum


def test_samples_lie_in_occupied_cells_and_stand_for_their_length():
    grid = OccupancyGrid(4)
    grid.occupied[:] = False
    grid.occupied[0], grid.occupied[3] = True, True  # x in [-1, -0.5] and [0.5, 1]
    across = rays(([-3.0, 0.1, 0.2], [1.0, 0.0, 0.0]), ([-0.2, 0.1, 3.0], [0.0, 0.0, -1.0]))
    found = sample_occupied(across, grid, 8)
    assert found.hit.tolist() == [0]  # the second ray meets nothing
    expected = [-0.9375, -0.8125, -0.6875, -0.5625, 0.5625, 0.6875, 0.8125, 0.9375]
    torch.testing.assert_close(found.points[0, :, 0], torch.tensor(expected))
    torch.testing.assert_close(found.delta, torch.tensor([1.0 / 8]))
    drawn = sample_occupied(across, grid, 64, noise())
    assert grid.contains(drawn.points).all()
    assert (drawn.distances.diff(dim=1) > 0).all()


def test_what_a_ray_draws_does_not_depend_on_other_rays_hits():
    pair = rays(([-3.0, 0.1, 0.2], [1.0, 0.0, 0.0]), ([-3.0, 0.6, 0.2], [1.0, 0.0, 0.0]))
    grid = OccupancyGrid(2)
    both = sample_occupied(pair, grid, 8, noise()).distances[1]
    grid.occupied[:, 1] = True
    grid.occupied[:, 0] = False
    torch.testing.assert_close(sample_occupied(pair, grid, 8, noise()).distances[-1], both)


def test_a_grid_finds_what_is_there():
    grid = OccupancyGrid(8, threshold=1.0)
    assert grid.share == 1.0

    def ball(x):
        return 20.0 * (x.norm(dim=1) < 0.6)

    grid.update(ball, noise(), rounds=16, decay=0.0)
    x = torch.rand(4000, 3, generator=noise(1)) * 2 - 1
    assert grid.contains(x[x.norm(dim=1) < 0.5]).all()
    assert not grid.contains(x[x.norm(dim=1) > 0.6 + 0.25 * math.sqrt(3)]).any()
    for _ in range(80):  # what is gone is forgotten after a while
        grid.update(lambda x: torch.zeros(len(x)), noise(), decay=0.95)
    assert grid.share == 0.0


# --- composition ----------------------------------------------------------------------------------------------


def test_half_of_the_light_at_a_depth_of_log_two():
    found = compose(torch.tensor([[math.log(2) / 0.25]]), torch.ones(1, 1, 3), torch.tensor([0.25]))
    assert float(found.weights) == pytest.approx(0.5)
    torch.testing.assert_close(found.over(torch.zeros(3)), torch.full((1, 3), 0.5))
    torch.testing.assert_close(found.over(torch.ones(3)), torch.ones(1, 3))


@pytest.mark.parametrize("samples", [1, 7, 100])
def test_even_fog_is_as_thick_whatever_the_samples(samples):
    found = compose(torch.full((1, samples), 3.0), torch.ones(1, samples, 3), torch.tensor([1.3 / samples]))
    assert float(found.alpha) == pytest.approx(1 - math.exp(-3.0 * 1.3), rel=1e-5)


def test_composition_is_its_naive_twin_forward_and_backward():
    generator = noise()
    density = torch.rand(6, 9, generator=generator, dtype=torch.float64) * 20
    colour = torch.rand(6, 9, 3, generator=generator, dtype=torch.float64)
    for delta in (torch.rand(6, generator=generator), torch.rand(6, 9, generator=generator)):
        results = []
        for way in (compose, compose_naive):
            inputs = density.clone().requires_grad_(), colour.clone().requires_grad_()
            out = way(*inputs, delta.double())
            gradients = torch.autograd.grad((out.colour**2).sum() + out.alpha.sum(), inputs)
            results.append((*out, *gradients))
        torch.testing.assert_close(results[0], results[1])


def test_nothing_behind_a_wall_is_seen():
    density, colour = torch.tensor([[0.0, 1e6, 5.0]]), torch.eye(3)[None]
    torch.testing.assert_close(compose(density, colour, torch.tensor([0.1])).colour, torch.tensor([[0.0, 1.0, 0.0]]))
