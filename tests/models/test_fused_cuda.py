"""The activation between the products of experts: its formula, its slow twin, and its kernels, interpreted."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from repro.models import dispatch, dispatch_cuda, fused_cuda
from tests.models.test_dispatch import case

ROOT = Path(__file__).parents[2]
ROWS, WIDTHS = (0, 1, 33), (1, 7, 704, 1000, 2100)
#: Relative to the largest entry; of the twin, which rounds after every operation, and of the kernels, which round once.
TWIN = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 4e-2, torch.float16: 5e-3}
KERNEL = {torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def inputs(rows, width, dtype, device="cpu"):
    draw = torch.Generator().manual_seed(1000 * rows + width)
    h, da = 2 * torch.randn(rows, 2 * width, generator=draw), torch.randn(rows, width, generator=draw)
    weight = torch.rand(rows, 1, generator=draw)
    return [t.to(device, dtype) for t in (da, h, weight)]


def exact(da, h, weight):
    """The formula in float64, its gradients by autograd: a, dh, d_weight."""
    width = da.shape[1]
    leaves = [t.double().clone().requires_grad_() for t in (h, weight)]
    a = F.silu(leaves[0][:, :width]) * leaves[0][:, width:] * leaves[1]
    dh, d_weight = torch.autograd.grad(a, leaves, da.double())
    return a.detach(), dh, d_weight[:, 0]


def check(ways, da, h, weight, tolerance):
    forward, backward = ways
    expected = exact(da, h, weight)
    found = (forward(h, weight), *backward(da, h, weight))
    for ours, reference in zip(found, expected, strict=True):
        assert ours.dtype == h.dtype
        assert ours.shape == reference.shape
        scale = float(reference.abs().max()) if reference.numel() else 0.0
        torch.testing.assert_close(ours.double(), reference, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", TWIN)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_twin_is_the_formula(dtype, rows, width):
    check((fused_cuda.activation, fused_cuda.activation_backward), *inputs(rows, width, dtype), TWIN[dtype])


def interpreted():
    """What `test_the_kernels_are_the_formula` has another process do, with the interpreter in force."""
    kernels = fused_cuda.fused, fused_cuda.fused_backward
    for dtype, tolerance in KERNEL.items():
        for rows in ROWS:
            for width in WIDTHS:
                check(kernels, *inputs(rows, width, dtype), tolerance)
    da, h, weight = inputs(3, 5, torch.float32)
    h[0, 0], h[1, 1], h[2, 2] = 200, -200, 0
    check(kernels, da, h, weight, 1e-5)
    # none of them need be contiguous
    apart = da.t().contiguous().t(), h.t().contiguous().t(), weight.repeat(1, 2)[:, :1]
    check(kernels, *apart, 1e-5)
    fused_cuda.ways = lambda h: kernels
    layer = case(17, 16, 20, 6, 2, False, 5)
    found = {}
    for name, way in (("lean", dispatch_cuda.lean), ("naive", dispatch.naive)):
        x, indices, *rest = layer
        leaves = [t.clone().requires_grad_() for t in (x, *rest)]
        y = way(leaves[0], indices, *leaves[1:])
        found[name] = [y.detach(), *torch.autograd.grad(y, leaves, torch.linspace(-1, 1, y.numel()).view_as(y))]
    torch.testing.assert_close(found["lean"], found["naive"], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_are_the_formula():
    # triton reads the variable when it is imported
    code = "from tests.models.test_fused_cuda import interpreted; interpreted()"
    paths = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_without_kernels_there_is_one_warning_and_the_twin(monkeypatch):
    def absent():
        raise RuntimeError("Failed to find C compiler.\nsecond line")

    monkeypatch.setattr(fused_cuda, "_kernels", absent)
    fused_cuda.usable.cache_clear()
    place = torch.device("cpu"), torch.float32
    with pytest.warns(RuntimeWarning, match=r"without their fused kernels.*RuntimeError: Failed to find C compiler\.$"):
        assert not fused_cuda.usable(*place)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not fused_cuda.usable(*place)
    fused_cuda.usable.cache_clear()


class OnCuda:
    is_cuda, device = True, torch.device("cuda:1")

    def __init__(self, dtype):
        self.dtype = dtype


def test_kernels_serve_what_they_can(monkeypatch):
    twin, kernels = (
        (fused_cuda.activation, fused_cuda.activation_backward),
        (fused_cuda.fused, fused_cuda.fused_backward),
    )
    monkeypatch.setattr(fused_cuda, "usable", lambda device, dtype: True)
    assert fused_cuda.ways(torch.zeros(1, 2)) == twin
    for dtype, expected in ((torch.bfloat16, kernels), (torch.float32, kernels), (torch.float64, twin)):
        assert fused_cuda.ways(OnCuda(dtype)) == expected
    with fused_cuda.plain():
        assert fused_cuda.ways(OnCuda(torch.bfloat16)) == twin
    monkeypatch.setattr(fused_cuda, "usable", lambda device, dtype: False)
    assert fused_cuda.ways(OnCuda(torch.bfloat16)) == twin


def test_importing_the_way_of_cuda_imports_no_triton():
    code = "import sys; sys.modules['triton'] = None; import repro.models.dispatch_cuda"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
