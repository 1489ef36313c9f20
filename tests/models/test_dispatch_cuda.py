"""The way of CUDA computes what the others do; run here on the processor, on a GPU in tests/cuda."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repro import papers, runner
from repro.models import dispatch, dispatch_cuda
from repro.models.moe import Experts
from repro.models.ways import forced
from repro.records.provenance import run_code
from repro.report import current_code
from repro.runner import worker
from repro.training.initial import initialise
from tests.models.test_dispatch import case


def results(way, x, indices, weights, gate_up, down):
    leaves = [t.clone().requires_grad_() for t in (x, weights, gate_up, down)]
    y = way(leaves[0], indices, *leaves[1:])
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return [y.detach(), *(leaf.grad for leaf in leaves)]


@given(
    tokens=st.integers(1, 40), hidden=st.integers(1, 5), width=st.integers(1, 5), experts=st.integers(1, 9),
    share=st.floats(0, 1), one=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip
@example(tokens=1, hidden=4, width=4, experts=8, share=0.0, one=False, seed=0)
@example(tokens=17, hidden=4, width=4, experts=6, share=1.0, one=False, seed=1)
@example(tokens=17, hidden=4, width=4, experts=6, share=0.0, one=True, seed=2)
@settings(max_examples=60, deadline=None)
def test_lean_agrees_with_naive(tokens, hidden, width, experts, share, one, seed):
    inputs = case(tokens, 4 * hidden, 4 * width, experts, 1 + round(share * (experts - 1)), one, seed)
    for ours, reference in zip(results(dispatch_cuda.lean, *inputs), results(dispatch.naive, *inputs), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("experts", [3, 256, 257, 1000])
def test_selections_are_sorted_stably(experts):
    flat = torch.randint(experts, (700,), generator=torch.Generator().manual_seed(experts))
    flat[0] = experts - 1
    order, ends = dispatch_cuda.sorted_by_expert(flat, experts)
    assert torch.equal(order, flat.argsort(stable=True))
    assert torch.equal(ends, torch.bincount(flat, minlength=experts).cumsum(0).int())


def test_the_choice_follows_the_measurement():
    assert dispatch_cuda.choose(4096, 32, 4, 512 * 352) == "dense"
    assert dispatch_cuda.choose(32768, 63, 8, 1024 * 704) == "lean"
    assert dispatch_cuda.choose(10**9, 4, 4, 10**6) == "dense"


@pytest.mark.parametrize("limit", [0, 10**12])
@pytest.mark.parametrize(("hidden", "width"), [(8, 4), (6, 4), (4, 5)])
def test_every_choice_agrees_with_naive_whatever_the_sizes(monkeypatch, limit, hidden, width):
    monkeypatch.setattr(dispatch_cuda, "DENSE_UP_TO", limit)
    inputs = case(9, hidden, width, 6, 2, False, 3)
    for ours, reference in zip(results(dispatch_cuda.cuda, *inputs), results(dispatch.naive, *inputs), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


def test_large_layers_can_be_transformed(monkeypatch):
    monkeypatch.setattr(dispatch_cuda, "DENSE_UP_TO", 0)
    layer = initialise(Experts(6, 4, 4), 0, std=0.3)
    x, indices, weights, *_ = case(5, 4, 4, 6, 2, False, 0)
    parameters = dict(layer.named_parameters())

    def loss(parameters):
        return torch.func.functional_call(layer, parameters, (x, indices, weights)).square().sum()

    with forced(dispatch_cuda.NAME):
        found = torch.func.grad(loss)(parameters)
    loss(parameters).backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-4)


def test_it_is_in_force_for_cuda_and_for_nothing_else(monkeypatch):
    called = []
    monkeypatch.setitem(dispatch.WAYS, dispatch_cuda.NAME, lambda *a: (called.append(1), dispatch.naive(*a))[1])
    layer = initialise(Experts(6, 4, 4), 0)
    x, indices, weights, *_ = case(5, 4, 4, 6, 2, False, 0)
    for device, expected in (("cpu", 0), ("mps", 0), ("cuda:1", 1)):
        called.clear()
        with dispatch_cuda.accelerated(device):
            layer(x, indices, weights)
        assert len(called) == expected
        with worker.ways(device):
            layer(x, indices, weights)
        assert len(called) == 2 * expected


def test_records_of_cuda_depend_on_it_and_others_do_not():
    paper = papers.load_paper("coe")
    code = {
        device: runner.plan(paper, "smoke", settings=["composition"], arms=["coe"], seeds=1, device=device)[-1].code
        for device in ("cpu", "cuda", "cuda:1")
    }
    assert code["cpu"] == current_code(paper.experiment, "composition")
    assert code["cuda"] == code["cuda:1"] == current_code(paper.experiment, "composition", "cuda")
    assert code["cuda"] != code["cpu"]
    assert code["cpu"] == run_code(paper.experiment, {"data": "composition"})
