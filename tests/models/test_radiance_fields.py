"""Encodings and fields against their definitions, and the fast paths against their twins."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from repro.models.radiance_fields import (
    KINDS,
    DenseField,
    HashField,
    HashGrid,
    VMField,
    frequencies,
    inward_clamp,
    make_field,
    spherical_harmonics,
    truncated_exp,
)

SMALL = {
    "hash": {"levels": 4, "log2_rows": 9, "coarsest": 4, "finest": 24, "hidden": 8},
    "mlp": {"octaves": 3, "layers": 4, "width": 12, "skip": 1, "inner": 8, "hidden": 8},
    "vm": {"resolution": 6, "density_rank": 2, "colour_rank": 3, "hidden": 8},
    "dense": {"resolution": 5, "degree": 2},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def points(count=50, seed=0):
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def directions(count=50, seed=1):
    return F.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), dim=1)


def field(kind, **more):
    torch.manual_seed(0)
    return make_field(kind, **SMALL[kind], **more)


# --- log-densities --------------------------------------------------------------------------------------------


def test_the_path_of_a_log_density():
    model = field("dense")
    for raw, s, sigma in ((8.0, 7.0, math.exp(7)), (-3.0, -2.0, 0.13534), (1.5, 1.5, math.exp(1.5))):
        value = torch.tensor([raw], requires_grad=True)
        clamped = model.clamp(value)
        density = truncated_exp(clamped)
        assert float(clamped.detach()) == s
        assert float(density.detach()) == pytest.approx(sigma, rel=1e-4)
        density.backward()
        assert float(value.grad) == pytest.approx(sigma if raw == s else 0.0, rel=1e-4)


def test_the_gradient_of_exp_is_bounded():
    s = torch.tensor([20.0, -20.0, 1.0], requires_grad=True)
    truncated_exp(s).sum().backward()
    torch.testing.assert_close(s.grad, torch.tensor([math.exp(12), math.exp(-12), math.e]))


@pytest.mark.parametrize(("value", "gradient", "passes"), [
    (0.0, 1.0, True), (0.0, -1.0, True), (-3.0, -1.0, True), (-3.0, 1.0, False), (8.0, 1.0, True), (8.0, -1.0, False),
])  # fmt: skip
def test_the_inward_clamp_lets_what_leads_back_pass(value, gradient, passes):
    x = torch.tensor([value], requires_grad=True)
    out = inward_clamp(x, -2.0, 7.0)
    assert float(out.detach()) == min(max(value, -2.0), 7.0)
    out.backward(torch.tensor([gradient]))
    assert float(x.grad) == (gradient if passes else 0.0)


# --- encodings ------------------------------------------------------------------------------------------------


def test_spherical_harmonics_are_orthonormal():
    """Exactly, by Gauss quadrature in z and even steps around."""
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(8)
    angle = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    z = torch.tensor(nodes)[:, None].expand(8, 16)
    across = (1 - z**2).sqrt()
    d = torch.stack((across * angle.cos(), across * angle.sin(), z), -1).reshape(-1, 3)
    measure = (torch.tensor(weights)[:, None] * (2 * math.pi / 16)).expand(8, 16).reshape(-1)
    values = spherical_harmonics(d, 4)
    assert values.shape == (128, 16)
    torch.testing.assert_close(values.T @ (values * measure[:, None]), torch.eye(16, dtype=d.dtype))
    assert spherical_harmonics(d, 3).shape == (128, 9)
    with pytest.raises(ValueError, match="degree"):
        spherical_harmonics(d, 5)


def test_frequencies():
    x = torch.tensor([[0.25, -0.5, 1.0]])
    found = frequencies(x, 10)
    assert found.shape == (1, 63)
    assert found[0, :3].tolist() == x[0].tolist()
    for octave in (0, 1, 9):
        at = 3 + 6 * octave
        torch.testing.assert_close(found[0, at : at + 3], torch.sin(2**octave * x[0]))
        torch.testing.assert_close(found[0, at + 3 : at + 6], torch.cos(2**octave * x[0]))


def test_coarse_levels_of_a_hash_grid_share_no_rows():
    grid = HashGrid(3, 2, 9, 4, 30)  # (4 + 1)^3 = 125 corners in 128 rows, then 12 and 30 cells in 512 rows
    assert grid.rows.tolist() == [128, 512, 512]
    assert grid.plain == 1
    axis = torch.arange(5)
    corners = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    rows = grid.places(corners, 0)
    x, y, z = corners.unbind(1)
    assert rows.tolist() == (x + 5 * y + 25 * z).tolist()
    assert len(set(rows.tolist())) == 125
    fine = grid.places(torch.stack(torch.meshgrid(*[torch.arange(31)] * 3, indexing="ij"), -1).reshape(-1, 3), 2)
    assert fine.min() >= 640
    assert fine.max() < 1152
    assert len(fine.unique()) == 512  # the hash reaches every row


def test_a_hash_grid_is_its_naive_twin_forward_and_backward():
    grid = HashGrid(4, 2, 9, 4, 24).double()
    torch.nn.init.normal_(grid.table, generator=torch.Generator().manual_seed(0))
    x = torch.cat((points(), torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [1.0, 0.0, -1.0]]))).double()
    ahead = torch.randn(len(x), 8, generator=torch.Generator().manual_seed(1)).double()
    results = []
    for way in (grid.forward, grid.naive):
        out = way(x)
        (gradient,) = torch.autograd.grad((out * ahead).sum(), grid.table)
        results.append((out, gradient))
    torch.testing.assert_close(results[0], results[1])


def test_a_hash_grid_is_linear_between_corners():
    grid = HashGrid(1, 2, 12, 4, 4).double()
    corner = torch.arange(5.0, dtype=torch.float64)
    places = torch.stack(torch.meshgrid(corner, corner, corner, indexing="ij"), -1).reshape(-1, 3)
    with torch.no_grad():
        for i, weight in enumerate(([1.0, 2.0, -3.0], [0.5, 0.0, 1.0])):
            values = places @ torch.tensor(weight, dtype=torch.float64)
            grid.table[grid.places(places.long(), 0), i] = values
    x = points().double()
    torch.testing.assert_close(grid(x)[:, 0], (x + 1) * 2 @ torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64))


# --- fields ---------------------------------------------------------------------------------------------------


@every_kind
def test_what_a_field_says(kind):
    model = field(kind)
    said = model(points(), directions())
    assert said.log_density.shape == (50,)
    assert said.colour.shape == (50, 3)
    assert (said.feature is None) == (kind == "dense")
    if kind != "dense":
        assert said.feature.shape == (50, 16)
        torch.testing.assert_close(said.feature[:, 0], said.log_density)
    assert ((said.colour >= 0) & (said.colour <= 1)).all()
    torch.testing.assert_close(said.density, said.log_density.exp())
    half = model(points())
    assert half.colour is None
    torch.testing.assert_close(half.raw, said.raw, rtol=0, atol=0)
    (said.density.sum() + said.colour.sum()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_field_of_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="hash, mlp, vm, dense"):
        make_field("voxels")


def test_planes_and_lines_are_those_of_the_whole_tensor():
    """At grid points the sum of products is the full tensor of the decomposition."""
    model = VMField(**SMALL["vm"]).double()
    plane, line = model.plane.detach(), model.line.detach()
    n, rank = 6, model.density_rank
    whole = torch.zeros(n, n, n, dtype=torch.float64)
    for r in range(rank):
        whole += torch.einsum("yx,z->xyz", plane[0, r], line[0, r])
        whole += torch.einsum("zx,y->xyz", plane[1, r], line[1, r])
        whole += torch.einsum("zy,x->xyz", plane[2, r], line[2, r])
    axis = torch.linspace(-1, 1, n, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    torch.testing.assert_close(model.feature(x)[:, 0], whole.flatten())


def test_the_dense_grid_holds_its_values_at_its_corners():
    model = DenseField(**SMALL["dense"]).double()
    axis = torch.linspace(-1, 1, 5, dtype=torch.float64)
    x = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)  # index [x, y, z]
    found = model.feature(x.reshape(-1, 3)).view(5, 5, 5, -1)
    torch.testing.assert_close(found, model.grid.detach()[0].permute(3, 2, 1, 0))
    d = directions(1).double()
    z = found[1, 2, 3, 1:][None]
    expected = torch.sigmoid((z.view(3, 4) * spherical_harmonics(d, 2)).sum(1))
    torch.testing.assert_close(model.colour(z, d)[0], expected)


def test_the_planes_feature_is_clamped_too():
    model = field("vm")
    with torch.no_grad():
        model.basis.weight.mul_(1e5)
    feature = model(points()).feature
    assert feature.min() >= -2
    assert feature.max() <= 7


def test_published_sizes():
    with torch.device("meta"):
        counts = {kind: sum(p.numel() for p in make_field(kind).parameters()) for kind in KINDS}
        grid = HashField().grid
    assert counts == {"hash": 10_616_496, "mlp": 443_548, "vm": 17_346_032, "dense": 58_720_256}
    assert grid.table.numel() == 10_607_408
