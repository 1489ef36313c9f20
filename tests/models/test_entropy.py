"""Learned entropy models: densities against the released code, tables, and messages that decode."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from repro.models.entropy import TOTAL, FactorisedCode, FactorisedPrior, quantise, table
from repro.models.gdn import GDN1, bounded


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def by_formula(prior):
    """Parameters that another implementation can be given too."""
    at = 0
    with torch.no_grad():
        for group in (prior.matrices, prior.biases, prior.factors):
            for p in group:
                values = 0.7 * torch.sin(torch.arange(p.numel(), dtype=torch.float32) + at).view(p.shape)
                p.copy_(values - (1 if group is prior.matrices else 0))
                at += p.numel()
    return prior


def trained(channels=3, seed=0, deviations=(0.3, 2.0, 5.0)):
    prior = FactorisedPrior(channels, scale=5.0)
    optimizer = torch.optim.Adam(prior.parameters(), 2e-2)
    draws = generator(seed)
    wide = torch.tensor(deviations).view(1, -1, 1)
    for _ in range(300):
        v = wide * torch.randn(16, channels, 32, generator=draws)
        optimizer.zero_grad()
        prior(v, draws)[1].mean().backward()
        optimizer.step()
    return prior, wide * torch.randn(40, channels, 32, generator=draws)


@pytest.fixture(scope="module")
def fitted():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained()


# --- normalisation --------------------------------------------------------------------------------------------


def test_gdn_gives_the_figures_of_the_released_code():
    x = 2 * torch.cos(torch.arange(12.0)).view(1, 3, 2, 2)
    expected = {
        False: [1.227104, 0.569632, -0.378485, -1.239828, -1.098359, 0.368883, 1.086508, 1.324937, -0.141820, -0.743582,
                -0.644663, 0.004463],
        True: [3.259707, 2.049930, -1.830227, -3.162004, -1.555958, 0.872518, 3.394092, 1.715911, -0.597100, -4.465727,
               -4.368426, 0.017553],
    }  # fmt: skip
    for inverse, figures in expected.items():
        gdn = GDN1(3, inverse=inverse)
        with torch.no_grad():
            gdn.beta_root.copy_(torch.tensor([1.1, 0.9, 1.3]))
            gdn.gamma_root.copy_(0.6 * torch.sin(torch.arange(9.0)).abs().view(3, 3))
        torch.testing.assert_close(gdn(x).flatten(), torch.tensor(figures), atol=2e-6, rtol=1e-5)


def test_gdn_in_a_loop_over_channels_and_its_limits():
    gdn = GDN1(4)
    with torch.no_grad():
        gdn.gamma_root.uniform_(0, 0.5, generator=generator())
    x = torch.randn(2, 4, 3, 3, generator=generator(1))
    for i in range(4):
        norm = gdn.beta[i] + sum(gdn.gamma[i, j] * x[:, j].abs() for j in range(4))
        torch.testing.assert_close(gdn(x)[:, i], x[:, i] / norm)
    torch.testing.assert_close(GDN1(4, gamma=0.0)(x), x)
    torch.testing.assert_close(GDN1(4)(x), x / (1 + 0.1 * x.abs()))


def test_a_bound_lets_gradients_back_in():
    x = torch.tensor([0.5, 2.0, 0.5], requires_grad=True)
    (bounded(x, 1.0) * torch.tensor([1.0, 1.0, -1.0])).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, -1.0]


# --- densities ------------------------------------------------------------------------------------------------


def test_likelihoods_and_gradients_are_those_of_the_released_code():
    prior = by_formula(FactorisedPrior(2))
    assert sum(p.numel() for p in prior.parameters()) + 3 * 2 == 122  # it keeps three quantiles a channel as well
    x = torch.linspace(-6, 6, 14).view(1, 2, 7).requires_grad_(True)
    likelihood = [0.0576789, 0.0601452, 0.0592058, 0.0535771, 0.0427827, 0.0294200, 0.0185722, 0.0379816, 0.0165040,
                  0.0077057, 0.0039396, 0.0021946, 0.0013063, 0.0008135]  # fmt: skip
    found = prior.bits(x.detach().round()).flatten()
    torch.testing.assert_close(2**-found, torch.tensor(likelihood), rtol=1e-4, atol=0)
    bits = prior.bits(x)
    assert bits.sum().item() == pytest.approx(87.15533, abs=1e-3)
    bits.sum().backward()
    slope = [-0.0940266, -0.0296371, 0.0573069, 0.1836163, 0.3642938, 0.5670551, 0.6758358, 1.2082317, 1.1141845,
             0.9933407, 0.8740704, 0.7765728, 0.7063320, 0.6592827]  # fmt: skip
    torch.testing.assert_close(x.grad.flatten(), torch.tensor(slope), rtol=1e-4, atol=1e-6)


def test_mass_adds_up_and_learns_a_known_entropy(fitted):
    prior, _ = fitted
    steps = torch.arange(-60.0, 61.0).expand(3, 1, -1)
    torch.testing.assert_close(prior.mass(steps).sum(-1), torch.ones(3, 1), atol=1e-4, rtol=0)
    wide = prior.bits(5 * torch.randn(400, 3, 32, generator=generator(5)))[:, 2].mean().item()
    assert wide == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * (25 + 1 / 12)), abs=0.06)
    assert prior.medians().abs().max() < 0.5


def test_noise_carries_a_gradient_and_rounding_none(fitted):
    prior, v = fitted
    v = v.clone().requires_grad_(True)
    noisy, bits = prior(v, generator())
    assert (noisy - v).abs().max() <= 0.5
    bits.sum().backward()
    assert v.grad.abs().sum() > 0
    rounded, _ = prior(v, None)
    assert not rounded.requires_grad
    assert torch.equal(rounded, prior(v, None)[0])
    torch.testing.assert_close(rounded, quantise(v, prior.medians()))
    assert (rounded - v).abs().max() <= 0.5 + 1e-5
    assert torch.equal(prior(v, generator(3))[0], prior(v, generator(3))[0])


def test_bits_are_given_where_the_values_are():
    prior = by_formula(FactorisedPrior(2))
    v = torch.randn(3, 2, 4, 5, generator=generator())
    bits = prior.bits(v)
    assert bits.shape == v.shape
    one = prior.bits(v[1:2, :, 2:3, 3:4])
    torch.testing.assert_close(bits[1, :, 2, 3], one.flatten())


# --- codes ----------------------------------------------------------------------------------------------------


def test_tables_add_up_and_leave_no_symbol_without():
    counts = table(np.array([1e-12, 0.7, 0.2, 0.1]))
    assert counts.sum() == TOTAL
    assert counts.min() >= 1
    np.testing.assert_allclose(counts / TOTAL, [0, 0.7, 0.2, 0.1], atol=1e-4)


def test_messages_decode_exactly_and_are_about_as_long_as_their_bits(fitted):
    prior, v = fitted
    code = prior.code()
    symbols = code.symbols(v)
    messages = [code.encode(s) for s in symbols]
    back = torch.stack([code.decode(m, 32) for m in messages])
    assert torch.equal(back, symbols)
    torch.testing.assert_close(code.values(symbols), quantise(v, prior.medians()), atol=1e-5, rtol=0)
    ideal = [code.ideal_bits(s) / 8 for s in symbols]
    sizes = [len(m) for m in messages]
    spare = [size - bits for size, bits in zip(sizes, ideal, strict=True)]
    assert -2 < min(spare) < max(spare) < 1.3
    modelled = prior.bits(quantise(v, prior.medians())).flatten(1).sum(1) / 8
    torch.testing.assert_close(modelled.detach(), torch.tensor(ideal), rtol=0.02, atol=0.3)


def test_a_message_has_no_byte_to_spare(fitted):
    prior, v = fitted
    code = prior.code()
    for symbols in code.symbols(v)[:5]:
        message = code.encode(symbols)
        assert torch.equal(code.decode(message + b"\0\0", 32), symbols)
        short = None
        try:
            short = code.decode(message[:-1], 32)
        except ValueError:
            continue
        assert not torch.equal(short, symbols)


def test_equal_symbols_cost_what_a_uniform_code_costs_and_certain_ones_nothing():
    even = FactorisedCode(torch.zeros(1), torch.tensor([-8]), [np.full(16, TOTAL // 16)])
    symbols = torch.randint(-8, 8, (1, 100), generator=generator()).int()
    assert even.ideal_bits(symbols) == pytest.approx(400)
    assert len(even.encode(symbols)) in (50, 51)
    sure = FactorisedCode(torch.tensor([0.25]), torch.tensor([0]), [np.array([TOTAL])])
    assert sure.encode(torch.zeros(1, 50).int()) == b""
    assert torch.equal(sure.decode(b"", 50), torch.zeros(1, 50).int())
    assert sure.values(torch.zeros(2, 1, 50)).unique().tolist() == [0.25]


def test_what_lies_beyond_a_table_becomes_its_last_symbol(fitted):
    code = fitted[0].code()
    far = code.symbols(torch.tensor([1e4, -1e4]).view(2, 1, 1).expand(2, 3, 4))
    assert torch.equal(far[0, :, 0].long(), code.high)
    assert torch.equal(far[1, :, 0].long(), code.low)
    assert torch.equal(code.decode(code.encode(far[0]), 4), far[0])
