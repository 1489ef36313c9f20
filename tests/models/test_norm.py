"""The fast RMSNorm against torch's, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from repro.models.norm import RMSNorm


@pytest.mark.parametrize("shape", [(5, 8), (2, 3, 64), (1, 1, 16)])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_equals_torch_forward_and_backward(shape, eps, scale):
    torch.manual_seed(0)
    torchs, fast = nn.RMSNorm(shape[-1], eps=eps).double(), RMSNorm(shape[-1], eps=eps)
    with torch.no_grad():
        for norm in (torchs, fast):
            norm.weight.copy_(torch.linspace(-1, 2, shape[-1]))
    x, dy = torch.randn(shape) * scale, torch.randn(shape)
    found = {}
    for name, norm in (("fast", fast), ("torch", torchs)):
        inputs = x.to(norm.weight.dtype).detach().requires_grad_()
        y = norm(inputs)
        y.backward(dy.to(y.dtype))
        found[name] = (y.detach(), inputs.grad, norm.weight.grad)
    for mine, theirs in zip(*found.values(), strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=2e-5, atol=2e-5 * float(theirs.abs().max()))


def test_the_written_out_backward_is_in_use():
    assert "_RMSNorm" in type(RMSNorm(8)(torch.randn(2, 8)).grad_fn).__name__


def test_elsewhere_it_is_torchs():
    norm = RMSNorm(8)
    x = torch.randn(2, 8)
    with torch.no_grad():
        assert torch.equal(norm(x), nn.functional.rms_norm(x, (8,), norm.weight))
    with torch.autocast("cpu", torch.bfloat16):
        assert "_RMSNorm" not in type(norm(x).grad_fn).__name__
    assert norm.to("meta")(x.to("meta")).shape == x.shape


def test_it_can_be_transformed():
    norm = RMSNorm(8)
    x, dy = torch.randn(3, 8), torch.randn(3, 8)
    wanted = nn.functional.rms_norm(x, (8,), norm.weight, norm.eps)
    assert torch.equal(torch.func.vmap(norm)(x), wanted)
    weight = torch.func.grad(lambda w: (torch.func.functional_call(norm, {"weight": w}, x) * dy).sum())(norm.weight)
    (norm(x) * dy).sum().backward()
    torch.testing.assert_close(weight, norm.weight.grad)
    _, tangent = torch.func.jvp(norm, (x,), (dy,))
    with torch.autograd.forward_ad.dual_level():
        dual = norm(torch.autograd.forward_ad.make_dual(x, dy))
        assert torch.equal(torch.autograd.forward_ad.unpack_dual(dual).tangent, tangent)
    assert torch.equal(torch.compile(norm, backend="eager")(x), wanted)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert norm(mode.from_tensor(x)).shape == x.shape


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (0, 2, 1)])
@pytest.mark.parametrize("moved", ["input", "gradient", "both"])
def test_memory_may_lie_in_any_order(moved, order):
    """As below a transpose."""
    norm = RMSNorm(8)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, 8))
    x, dy = torch.randn(5, 3, 8), torch.randn(5, 3, 8)

    def laid_out(tensor):  # these orders are their own inverse
        return tensor.permute(order).contiguous().permute(order)

    found = []
    for inputs, gradient in (
        (x, dy),
        (x if moved == "gradient" else laid_out(x), dy if moved == "input" else laid_out(dy)),
    ):
        leaf = inputs.detach().requires_grad_()
        y = norm(leaf)
        found.append((y.detach(), *torch.autograd.grad(y, (leaf, norm.weight), gradient)))
    for plain, other in zip(*found, strict=True):
        torch.testing.assert_close(other, plain)
