"""What only a GPU can show: the fast paths there, steps that do not wait for it, runs of papers in half precision."""

from __future__ import annotations

import contextlib
import math

import pytest
import torch

from repro import papers, runner
from repro.bench.layer import QUICK, kind_of, shares
from repro.bench.layer import measure_cell as layer_cell
from repro.bench.step import measure_cell as step_cell
from repro.models import dispatch, dispatch_cuda, fused_cuda
from repro.models.moe import Experts, TopKRouter
from repro.profiling.memory import PeakMemory
from repro.runner.worker import carry_out
from repro.training.initial import initialise
from repro.training.loop import Optimisation, train
from tests.models.test_dispatch import case as on_processor
from tests.models.test_fused_cuda import KERNEL, TWIN
from tests.models.test_fused_cuda import check as check_rows
from tests.models.test_fused_cuda import exact as exact_rows
from tests.models.test_fused_cuda import inputs as rows_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@contextlib.contextmanager
def no_waiting():
    """Inside the block an operation that waits for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def case(tokens, hidden, width, experts, k, one, dtype):
    x, indices, weights, gate_up, down = on_processor(tokens, hidden, width, experts, k, one, tokens + experts)
    x, gate_up, down = (t.to("cuda", dtype) for t in (x, gate_up, down))
    return x, indices.cuda(), weights.cuda(), gate_up, down


def results(way, x, indices, weights, gate_up, down):
    leaves = [t.clone().requires_grad_() for t in (x, weights, gate_up, down)]
    run = dispatch_cuda.lean if way == "lean" else dispatch.WAYS[way]
    y = run(leaves[0], indices, *leaves[1:])
    dy = torch.linspace(-1, 1, y.numel(), device="cuda").view_as(y).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", ["dense", "grouped", "lean", "cuda"])
@pytest.mark.parametrize("shape", [(1, 16, 16, 8, 1), (40, 16, 8, 9, 4), (300, 64, 32, 300, 3), (64, 32, 48, 5, 5)])
@pytest.mark.parametrize("one", [False, True])
def test_every_way_agrees_with_naive(dtype, way, shape, one):
    inputs = case(*shape, one, dtype)
    exact = results("naive", *(t.float() if t.is_floating_point() else t for t in inputs))
    for ours, reference in zip(results(way, *inputs), exact, strict=True):
        error = (ours.float() - reference).abs().max() / reference.abs().max().clamp_min(1e-12)
        assert error < (2e-4 if dtype is torch.float32 else 4e-2)


def test_experts_do_not_wait_for_the_device():
    inputs = case(256, 64, 32, 16, 4, False, torch.bfloat16)
    results("lean", *inputs)
    with no_waiting():
        results("lean", *inputs)


def test_experts_repeat_bit_for_bit():
    inputs = case(4096, 64, 32, 16, 4, False, torch.bfloat16)
    for one, other in zip(results("lean", *inputs), results("lean", *inputs), strict=True):
        assert torch.equal(one, other)


@pytest.fixture
def kernels():
    if not fused_cuda.usable(torch.device("cuda", torch.cuda.current_device()), torch.bfloat16):
        pytest.skip("no triton, or nothing to build its launcher with")
    return fused_cuda.fused, fused_cuda.fused_backward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "width"), [(0, 704), (1, 1), (33, 7), (300, 704), (65, 1000), (40, 2100)])
def test_fused_kernels_agree_with_the_formula_and_their_twin(kernels, dtype, rows, width):
    da, h, weight = rows_of(rows, width, dtype, "cuda")
    check_rows(kernels, da, h, weight, KERNEL[dtype])
    ours = [kernels[0](h, weight), *kernels[1](da, h, weight)]
    twin = [fused_cuda.activation(h, weight), *fused_cuda.activation_backward(da, h, weight)]
    for one, other in zip(ours, twin, strict=True):
        scale = float(other.float().abs().max()) if other.numel() else 0.0
        torch.testing.assert_close(one, other, rtol=TWIN[dtype], atol=TWIN[dtype] * scale)


def test_fused_kernels_reach_rows_beyond_32_bits(kernels):
    rows, width = 2**31 // 2048 + 1, 1024
    h = torch.zeros(rows, 2 * width, dtype=torch.bfloat16, device="cuda")
    weight, da = h.new_ones(rows, 1), h.new_ones(rows, width)
    h[-1] = torch.linspace(-2, 2, 2 * width, device="cuda")
    last = slice(rows - 1, rows)
    dh, d_weight = kernels[1](da, h, weight)
    expected = exact_rows(da[last], h[last], weight[last])
    for found, reference in zip((kernels[0](h, weight)[last], dh[last], d_weight[last]), expected, strict=True):
        torch.testing.assert_close(found.double(), reference, rtol=1e-2, atol=1e-2)


def test_fused_kernels_repeat_bit_for_bit(kernels):
    da, h, weight = rows_of(5000, 704, torch.bfloat16, "cuda")
    once = [kernels[0](h, weight), *kernels[1](da, h, weight)]
    torch.use_deterministic_algorithms(True)
    try:
        again = [kernels[0](h, weight), *kernels[1](da, h, weight)]
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(once, again, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("one", [False, True])
def test_experts_with_fused_kernels_agree_with_those_without(kernels, dtype, one):
    inputs = case(300, 64, 40, 20, 3, one, dtype)
    ours = results("lean", *inputs)
    with fused_cuda.plain():
        twin = results("lean", *inputs)
    for found, reference in zip(ours, twin, strict=True):
        error = (found.float() - reference.float()).abs().max() / reference.float().abs().max().clamp_min(1e-12)
        assert error < (2e-4 if dtype is torch.float32 else 4e-2)


def test_odd_sizes_run(monkeypatch):
    monkeypatch.setattr(dispatch_cuda, "DENSE_UP_TO", 0)
    layer = initialise(Experts(4, 6, 5), 0, std=0.3).cuda()
    x, indices, weights, *_ = case(20, 6, 5, 4, 2, False, torch.float32)
    with torch.autocast("cuda", torch.bfloat16), dispatch_cuda.accelerated("cuda"):
        y = layer(x, indices, weights)
    reference = dispatch.naive(x, indices, weights, layer.gate_up_proj, layer.down_proj)
    torch.testing.assert_close(y.float(), reference, rtol=5e-2, atol=2e-2)


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.router, self.experts = TopKRouter(16, 8, 2), Experts(8, 16, 16)

    def forward(self, x):
        _, indices, weights = self.router(x)
        return self.experts(x, indices, weights)


def test_steps_of_a_training_do_not_wait_for_the_device():
    model = initialise(Tiny(), 0).cuda()
    batches = [torch.randn(64, 16, device="cuda") for _ in range(8)]

    def loss(x):
        return (model(x) - x).square().mean(), None

    waiting = []

    def before(step):
        # the first step makes the optimiser's state
        waiting.append(step)
        torch.cuda.set_sync_debug_mode("error" if 1 < step < 7 else "default")

    try:
        with dispatch_cuda.accelerated("cuda"):
            out = train(
                model, batches, loss, lambda: {"loss": float(loss(batches[0])[0])}, Optimisation(1e-2, 8),
                evaluations=1, dtype="bfloat16", before_step=before, stateful={},
            )  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waiting == list(range(8))
    assert math.isfinite(out.evaluations[-1]["loss"])


def test_peak_memory_is_that_of_the_device():
    with PeakMemory("cuda") as memory:
        block = torch.zeros(1 << 24, device="cuda")
        del block
    assert memory.peak_bytes >= 4 << 24


@pytest.mark.parametrize("setting", ["composition", "word-problems"])
def test_a_run_on_the_device_agrees_with_one_on_the_processor(setting):
    paper = papers.load_paper("coe")
    found = {}
    for device in ("cpu", "cuda"):
        run = runner.plan(paper, "smoke", settings=[setting], arms=["coe"], seeds=1, device=device)[-1]
        found[device] = carry_out(run)
        assert found[device].status == "ok", found[device].error
    ours, reference = (found[d].metrics["loss"] for d in ("cuda", "cpu"))
    assert ours == pytest.approx(reference, rel=1e-3)
    counts = ("train_flops", "params_active", "train_tokens")
    assert [found["cuda"].profile[c] for c in counts] == [found["cpu"].profile[c] for c in counts]
    assert found["cuda"].environment["hardware"]["gpu"]


def test_a_layer_and_a_step_are_timed_with_what_bounds_them():
    cells = list(layer_cell(QUICK[0], "cuda", 2))
    for cell in cells:
        assert not [c for c in cell["contenders"].values() if "error" in c], cell["contenders"]
        assert "ms" in cell["contenders"]["ours"]
        kinds = dict(cell["kernels"])
        assert 0 < kinds.pop("busy") <= 1
        assert kinds["products"] > 0
        assert sum(kinds.values()) == pytest.approx(1, abs=0.01)
    from repro.bench.step import QUICK as MODELS

    step = step_cell(MODELS[0], "cuda", 2)
    assert all("ms" in c for c in step["contenders"].values()), step["contenders"]


def test_kernels_are_told_apart():
    a = torch.randn(512, 512, device="cuda")
    assert set(shares(lambda: a @ a)) >= {"products", "busy"}
    assert kind_of("void cutlass::device_kernel<...>") == "products"
    assert kind_of("_activation_backward") == "elementwise"
    assert kind_of("void at::native::vectorized_elementwise_kernel<4, ...>") == "elementwise"
