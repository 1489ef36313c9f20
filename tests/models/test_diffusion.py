"""Diffusion: against closed forms for normal data, Bayes' rule, and the samplers' known limits."""

from __future__ import annotations

import math

import pytest
import torch

from repro.models.diffusion import (
    GaussianDiffusion,
    RectifiedFlow,
    drop_labels,
    guided,
    held_out_error,
    least_error_of_gaussian,
    velocity_of_gaussian,
)


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


SHAPE, LABELS = (20_000, 1, 1, 2), torch.zeros(20_000, dtype=torch.long)


# --- guidance -----------------------------------------------------------------------------------------------------


def by_label(z, t, y):
    return y.view(-1, 1, 1, 1).float() * torch.ones_like(z)


def test_guidance_goes_beyond_the_label():
    z, t, y = torch.zeros(2, 3, 1, 1), torch.zeros(2), torch.tensor([1, 2])
    found = guided(by_label, 10, 4.0)(z, t, y)
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor([10 + 4 * (1 - 10.0), 10 + 4 * (2 - 10.0)]))
    some = guided(by_label, 10, 4.0, channels=2)(z, t, y)
    assert torch.equal(some[:, :2], found[:, :2])
    assert torch.equal(some[:, 2], by_label(z, t, y)[:, 2])
    assert guided(by_label, 10, 1.0) is by_label


def test_labels_are_dropped_in_their_share():
    y = torch.arange(10_000) % 7
    found = drop_labels(y, 7, 0.1, noise())
    assert float((found == 7).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(found[found != 7], y[found != 7])


# --- rectified flow -----------------------------------------------------------------------------------------------


def test_times_are_logistic_normal_and_the_grid_is_theirs():
    flow = RectifiedFlow(0.5, 2.0)
    drawn = flow.times(200_000, noise())
    logit = torch.logit(drawn)
    assert float(logit.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(logit.std()) == pytest.approx(2.0, abs=0.02)
    torch.testing.assert_close(
        flow.quantiles(4), drawn.quantile(torch.tensor([0.125, 0.375, 0.625, 0.875])), atol=5e-3, rtol=0
    )


def test_the_loss_is_that_of_the_velocity_along_the_straight_path():
    x, eps, t = torch.randn(5, 2, 2, 2), torch.randn(5, 2, 2, 2), torch.rand(5)
    seen = {}

    def field(z, at, y):
        seen["z"] = z
        return torch.cat((eps - x + 2, torch.full_like(x, 9.0)), 1)  # channels beyond the image's do not count

    found = RectifiedFlow().loss(field, x, t, torch.zeros(5), eps)
    torch.testing.assert_close(found, torch.full((5,), 4.0))
    torch.testing.assert_close(seen["z"][3], (1 - t[3]) * x[3] + t[3] * eps[3])


@pytest.mark.parametrize("variance", [0.25, 1.0, 4.0])
def test_least_error_for_normal_data(variance):
    flow, t = RectifiedFlow(), torch.tensor([0.1, 0.5, 0.9])
    x = math.sqrt(variance) * torch.randn(SHAPE, generator=noise())
    for at in t:
        eps = torch.randn(SHAPE, generator=noise(1))
        best = flow.error(velocity_of_gaussian(variance), x, at.expand(len(x)), LABELS, eps).mean()
        assert float(best) == pytest.approx(float(least_error_of_gaussian(variance, at)), rel=0.03)
        for off in (-0.2, 0.2):

            def other(z, s, y, off=off):
                return velocity_of_gaussian(variance)(z, s, y) + off * z

            assert flow.error(other, x, at.expand(len(x)), LABELS, eps).mean() > best


def test_euler_from_noise_ends_in_the_data():
    found = RectifiedFlow().sample(velocity_of_gaussian(0.25), SHAPE, LABELS, noise(), 200)
    assert float(found.std()) == pytest.approx(0.5, rel=0.03)


def test_euler_goes_through_equal_steps_and_says_where_it_is():
    times, steps = [], []

    def field(z, t, y):
        times.append(float(t[0]))
        return torch.ones_like(z)

    start = torch.randn(2, 1, 2, 2, generator=noise(4))
    found = RectifiedFlow().sample(field, (2, 1, 2, 2), torch.zeros(2).long(), noise(4), 4, watch=steps.append)
    assert times == [1.0, 0.75, 0.5, 0.25]
    assert steps == [0, 1, 2, 3]
    torch.testing.assert_close(found, start - 1)


# --- a chain of steps ---------------------------------------------------------------------------------------------


def test_the_chain_of_the_ddpm_paper():
    chain = GaussianDiffusion.linear()
    assert chain.betas[[0, -1]].tolist() == pytest.approx([1e-4, 2e-2])
    assert float(chain.abar[-1]) == pytest.approx(4.036e-5, rel=1e-3)
    with pytest.raises(ValueError, match="between 0 and 1"):
        GaussianDiffusion.linear(10)


def test_the_posterior_is_bayes_rule():
    """Of three jointly normal numbers, by conditioning: x fixed, z_{t-1} and z_t."""
    chain = GaussianDiffusion.linear(100)
    for number in (1, 40, 99):
        a, b = chain.abar[number - 1], chain.betas[number]
        x, z = torch.tensor(0.7, dtype=torch.float64), torch.tensor(-1.2, dtype=torch.float64)
        before, gain = a.sqrt() * x, (1 - a) * (1 - b).sqrt() / ((1 - b) * (1 - a) + b)
        mean = before + gain * (z - (1 - b).sqrt() * before)
        variance = (1 - a) - gain * (1 - b).sqrt() * (1 - a)
        found = chain.posterior_mean(x.view(1, 1, 1, 1), z.view(1, 1, 1, 1), torch.tensor([number]))
        assert float(found) == pytest.approx(float(mean))
        assert float(chain.variance[number]) == pytest.approx(float(variance))


def test_clean_undoes_noised():
    chain = GaussianDiffusion.linear(100)
    x, eps, index = torch.randn(4, 1, 2, 2).double(), torch.randn(4, 1, 2, 2).double(), torch.tensor([0, 10, 50, 99])
    torch.testing.assert_close(chain.clean(chain.noised(x, index, eps), index, eps), x)


def test_a_shortened_chain_is_as_noisy_at_the_steps_it_keeps():
    chain = GaussianDiffusion.linear()
    short = chain.shortened(25)
    assert (int(short.numbers[0]), int(short.numbers[-1]), short.steps) == (0, 999, 25)
    torch.testing.assert_close(short.abar, chain.abar[short.numbers])
    torch.testing.assert_close(chain.shortened(1000).betas, chain.betas)
    with pytest.raises(ValueError, match="cannot be shortened"):
        chain.shortened(1001)


def eps_of_normal(chain, variance):
    """The best estimate of the noise where images are normal."""

    def field(z, t, y):
        index = (t * chain.scale).round().long()
        a = chain.abar[index].to(z.dtype).view(-1, 1, 1, 1)
        return z * (1 - a).sqrt() / (a * variance + 1 - a)

    return field


WAYS = [(1000, "sample", 0.03), (100, "sample", 0.1), (100, "ddim", 0.05)]


@pytest.mark.parametrize(("steps", "way", "within"), WAYS)
def test_samplers_end_in_the_data(steps, way, within):
    chain = GaussianDiffusion.linear()
    sampler = chain.sample if way == "sample" else chain.sample_ddim
    found = sampler(eps_of_normal(chain, 0.25), (4000, 1, 1, 2), LABELS[:4000], noise(), steps)
    assert float(found.std()) == pytest.approx(0.5, rel=within)
    assert abs(float(found.mean())) < 0.03


def test_the_last_step_adds_no_noise():
    chain = GaussianDiffusion.linear()
    start = torch.randn(2, 1, 2, 2, generator=noise(4))
    found = chain.sample(lambda z, t, y: torch.zeros_like(z), (2, 1, 2, 2), LABELS[:2], noise(4), 1)
    torch.testing.assert_close(found, start * float(chain.abar[-1].rsqrt()))


def test_the_network_is_told_the_long_chain_s_steps():
    chain, times = GaussianDiffusion.linear(), []

    def field(z, t, y):
        times.append(float(t[0]))
        return torch.zeros_like(z)

    chain.sample(field, (1, 1, 1, 1), LABELS[:1], noise(), 3)
    assert times == pytest.approx([0.999, 0.5, 0.0], abs=1e-6)
    drawn = chain.times(1000, noise())
    assert torch.equal(chain.index(drawn), (drawn * 1000).round().long())
    assert (chain.index(chain.quantiles(10)) == torch.arange(50, 1000, 100)).all()


def test_the_bound_is_zero_for_the_true_reverse_step_and_the_divergence_else():
    chain = GaussianDiffusion.linear(100)
    x, index = torch.zeros(3, 1, 2, 2), torch.tensor([5, 50, 99])
    z = chain.noised(x, index, torch.randn(x.shape, generator=noise()))
    mean, log = chain.posterior_mean(x, z, index), chain.at(chain.log_variance, index, x).expand_as(x)
    torch.testing.assert_close(chain.bound(x, z, index, mean, log), torch.zeros(3), atol=1e-5, rtol=0)
    off, wide = mean + 0.3 * (0.5 * log).exp(), log + 0.4
    p = torch.distributions.Normal(mean, (0.5 * log).exp())
    q = torch.distributions.Normal(off, (0.5 * wide).exp())
    expected = torch.distributions.kl_divergence(p, q).flatten(1).mean(1) / math.log(2)
    torch.testing.assert_close(chain.bound(x, z, index, off, wide), expected, rtol=1e-4, atol=1e-6)


def test_the_likelihoods_of_all_grey_levels_sum_to_one():
    chain = GaussianDiffusion.linear(100)
    levels = (torch.arange(256, dtype=torch.float64) * 2 / 255 - 1).view(-1, 1, 1, 1)
    for mean, log in ((0.2, -3.0), (-0.999, -6.0), (1.0, 0.0)):
        of = chain.log_likelihood(levels, torch.full_like(levels, mean), torch.full_like(levels, log))
        assert float(of.exp().sum()) == pytest.approx(1.0, abs=1e-6)


def test_the_variance_lies_between_its_bounds():
    chain = GaussianDiffusion.linear(100)
    z, index = torch.zeros(1, 1, 1, 1), torch.tensor([30])
    for share, expected in ((-1.0, chain.variance[30]), (1.0, chain.betas[30])):
        output = torch.tensor([0.0, share]).view(1, 2, 1, 1)
        assert float(chain.log_reverse_variance(output, z, index).exp()) == pytest.approx(float(expected), rel=1e-5)
    assert float(chain.log_reverse_variance(z, z, index).exp()) == pytest.approx(float(chain.variance[30]), rel=1e-5)


def test_the_bound_trains_the_variance_alone():
    chain = GaussianDiffusion.linear(100)
    x, eps, t = torch.randn(6, 1, 2, 2), torch.randn(6, 1, 2, 2), torch.tensor([0, 1, 20, 50, 80, 99]) / 100
    output = torch.zeros(6, 2, 2, 2, requires_grad=True)
    chain.loss(lambda z, t, y: output, x, t, LABELS[:6], eps).sum().backward()
    # the noise gets the gradient of the squared error and nothing else
    torch.testing.assert_close(output.grad[:, :1], -2 * eps / 4)
    assert (output.grad[:, 1:].flatten(1).abs().sum(1) > 0).all()
    plain = chain.loss(lambda z, t, y: output[:, :1], x, t, LABELS[:6], eps)
    torch.testing.assert_close(plain, eps.square().flatten(1).mean(1))


def test_held_out_error_is_the_mean_at_fixed_times_with_the_same_noise():
    flow = RectifiedFlow()
    x, y = torch.randn(6, 1, 1, 2, generator=noise()), torch.zeros(6).long()
    whole = held_out_error(flow, velocity_of_gaussian(1.0), [(x, y)], 3, noise(1))
    again = held_out_error(flow, velocity_of_gaussian(1.0), [(x, y)], 3, noise(1))
    assert torch.equal(whole, again)
    by_hand, draws = [], noise(1)
    for t in flow.quantiles(3):
        eps = torch.randn(x.shape, generator=draws)
        by_hand.append(flow.error(velocity_of_gaussian(1.0), x, t.expand(6), y, eps).double().mean())
    torch.testing.assert_close(whole, torch.stack(by_hand))
