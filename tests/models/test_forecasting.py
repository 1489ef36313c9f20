"""Parts of forecasting transformers against plain references, and their invariants."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import distributions as D
from torch import nn

from repro.models.forecasting import (
    ByLabel,
    MixtureHead,
    PatchDecoder,
    Places,
    ResidualProjection,
    StudentHead,
    TimeAttention,
    packed_places,
    past_places,
    rotate,
    standardise,
)

P, WIDTH = 4, 16


class Plain(nn.Module):
    """A feed-forward layer without a loss of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.linear(x).tanh(), None


def decoder(head=None, labels=0, seed=0, layers=2):
    torch.manual_seed(seed)
    model = PatchDecoder(P, WIDTH, 2, [Plain() for _ in range(layers)], head or StudentHead(), labels).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name or "variate_bias" in name:
                p.add_(0.3 * torch.randn_like(p))
    return model


# --- values ---------------------------------------------------------------------------------------------------


def test_scaling_is_by_observed_values_and_unbiased():
    x = torch.tensor([[1.0, 2.0, 6.0, 100.0], [5.0, 5.0, 5.0, 5.0]])
    loc, scale = standardise(x, torch.tensor([[True, True, True, False], [True] * 4]))
    assert loc.ravel().tolist() == [3.0, 5.0]
    assert scale.ravel().tolist() == pytest.approx([math.sqrt(7 + 1e-5), math.sqrt(1e-5)])
    nothing = standardise(x, torch.zeros(2, 4, dtype=torch.bool))
    assert nothing[0].ravel().tolist() == [0, 0]
    far = 1e6 + torch.arange(4.0)[None]
    assert standardise(far, torch.ones(1, 4, dtype=torch.bool))[1].item() == pytest.approx(math.sqrt(5 / 3), rel=1e-4)


def test_the_residual_projection_is_its_formula():
    torch.manual_seed(0)
    layer = ResidualProjection(P, WIDTH)
    z = torch.randn(3, P)
    inner = z @ layer.first.weight.T + layer.first.bias
    wanted = (inner * inner.sigmoid()) @ layer.second.weight.T + layer.second.bias
    torch.testing.assert_close(layer(z), wanted + z @ layer.residual.weight.T + layer.residual.bias)


def test_rows_go_through_the_module_of_their_label():
    torch.manual_seed(0)
    layer = ByLabel(lambda: nn.Linear(P, 3), 4)
    x, labels = torch.randn(6, 2, P), torch.tensor([2, 0, 2, 3, 0, 0])  # nobody has label 1
    wanted = torch.stack([layer.each[label](row) for row, label in zip(x, labels.tolist(), strict=True)])
    torch.testing.assert_close(layer(x, labels), wanted)
    assert layer.idle_parameters() == 3 * (3 * P + 3)
    with pytest.raises(ValueError, match="labels"):
        decoder(labels=2)(torch.randn(1, 3, P))


# --- distributions --------------------------------------------------------------------------------------------


def test_student_t_is_scipy_s():
    from scipy import stats

    raw, z = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    df, loc, scale = 2 + F.softplus(raw[:, 0]), raw[:, 1], F.softplus(raw[:, 2])
    wanted = stats.t.logpdf(z.numpy(), df.numpy(), loc.numpy(), scale.numpy())
    torch.testing.assert_close(StudentHead().log_prob(raw, z), torch.from_numpy(wanted))


def test_a_mixture_of_student_t_alone_is_torch_s_mixture(monkeypatch):
    """With four Student's t in place of the four components the density is that of MixtureSameFamily."""
    torch.manual_seed(0)
    logits, raw, z = torch.randn(6, 4), torch.randn(6, 4, 3), torch.randn(6)
    head = MixtureHead()
    from repro.models.forecasting import student_t

    parts = [student_t(raw[:, i]) for i in range(4)]

    class Everywhere:
        def __init__(self, part):
            self.part = part

        def log_prob(self, value):
            return self.part.log_prob(z)

    monkeypatch.setattr(head, "_parts", lambda _: (logits.log_softmax(-1), *parts[:2], *map(Everywhere, parts[2:])))
    together = student_t(raw)
    wanted = D.MixtureSameFamily(D.Categorical(logits=logits), together).log_prob(z)
    monkeypatch.setattr(torch.Tensor, "where", lambda self, *_: self)  # all supports hold everything
    torch.testing.assert_close(head.log_prob(torch.zeros(6, 12), z), wanted)


def test_the_mixture_is_a_density_over_all_it_can_hold():
    """Each component alone integrates to one, the negative binomial over whole numbers; together they are weighted."""
    torch.manual_seed(1)
    raw = 0.5 * torch.randn(12)
    head = MixtureHead()
    weights = raw[:4].softmax(-1)

    def only(keep, z):
        alone = raw.clone()
        alone[[i for i in range(4) if i != keep]] = -60.0
        alone[keep] = 0.0
        return head.log_prob(alone.double().expand(len(z), 12), z).exp()

    grid = torch.linspace(-400, 400, 800_001, dtype=torch.float64)
    step = float(grid[1] - grid[0])
    assert float(only(0, grid).sum()) * step == pytest.approx(1, abs=2e-3)
    near = torch.linspace(float(raw[7]) - 0.02, float(raw[7]) + 0.02, 40_001, dtype=torch.float64)
    assert float(only(1, near).sum() * (near[1] - near[0])) == pytest.approx(1, abs=1e-3)
    assert float(only(2, torch.arange(400, dtype=torch.float64)).sum()) == pytest.approx(1, abs=1e-4)
    assert float(only(3, grid[grid > 0]).sum()) * step == pytest.approx(1, abs=2e-2)
    whole = sum(float(weights[i]) * only(i, torch.tensor([3.0], dtype=torch.float64)) for i in range(4))
    torch.testing.assert_close(head.log_prob(raw.double()[None], torch.tensor([3.0]).double()).exp(), whole)


def test_the_mixture_has_finite_gradients_where_a_support_ends():
    raw = torch.randn(3, 12, requires_grad=True)
    found = MixtureHead().log_prob(raw, torch.tensor([-1.5, 0.0, 2.0]))
    found.sum().backward()
    assert bool(found.isfinite().all())
    assert bool(raw.grad.isfinite().all())


@pytest.mark.parametrize("head", [StudentHead(), MixtureHead()])
def test_draws_follow_the_density(head):
    torch.manual_seed(0)
    raw = 0.3 * torch.randn(head.size)
    if head.size == 12:
        raw[:4] = torch.tensor([2.0, 0.0, -8.0, 1.0])  # without the whole numbers of the third
    drawn = head.sample(raw.expand(40_000, head.size)).double()
    for low, high in ((-1.0, 0.5), (0.5, 2.0)):
        grid = torch.linspace(low, high, 60_001, dtype=torch.float64)
        mass = float(head.log_prob(raw.double().expand(len(grid), head.size), grid).exp().mean()) * (high - low)
        assert float(((drawn > low) & (drawn < high)).double().mean()) == pytest.approx(mass, abs=0.01)


# --- attention ------------------------------------------------------------------------------------------------


def written_out(layer, x, time, allowed, same):
    """Attention, query by query and head by head."""
    out = torch.zeros_like(x)
    size, heads = layer.size, layer.heads
    cut = [project(x).view(*x.shape[:2], heads, size) for project in (layer.q_proj, layer.k_proj, layer.v_proj)]
    for row in range(len(x)):
        per_head = []
        for head in range(heads):
            q, k, v = (part[row, :, head] for part in cut)
            q = q / (q.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.q_norm.weight
            k = k / (k.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.k_norm.weight
            q, k = (turned(part, time[row]) for part in (q, k))
            logits = q @ k.T / math.sqrt(size)
            logits = logits + torch.where(same[row], layer.variate_bias[1, head], layer.variate_bias[0, head])
            per_head.append(logits.masked_fill(~allowed[row], -math.inf).softmax(-1) @ v)
        out[row] = torch.cat(per_head, -1)
    return layer.out_proj(out)


def turned(x, time):
    """Pairs of the first half as complex numbers, multiplied by e^(i angle)."""
    half = x.shape[-1] // 2
    pairs = torch.view_as_complex(x[:, :half].reshape(len(x), -1, 2).contiguous())
    angle = time[:, None] * 10000 ** (-torch.arange(0, half, 2) / half)
    return torch.cat(
        (torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(1), x[:, half:]), 1
    )


def attention(seed=0):
    torch.manual_seed(seed)
    layer = TimeAttention(WIDTH, 2)
    with torch.no_grad():
        for p in (layer.q_norm.weight, layer.k_norm.weight, layer.variate_bias):
            p.add_(torch.randn_like(p))
    return layer


def test_attention_is_its_formula_written_out_forward_and_backward():
    """Two series of two variates in one row, and one series with a variate that starts later in another."""
    layer = attention()
    sample = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, -1]])
    variate = torch.tensor([[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0]])
    time = torch.tensor([[0, 1, 0, 1, 0, 1], [0, 1, 2, 1, 2, 0]])
    places = packed_places(time, sample, variate)
    assert places.allowed[0, 1].tolist() == [True, True, True, True, False, False]
    assert places.allowed[0, 2].tolist() == [True, False, True, False, False, False]
    assert places.allowed[1, 5].tolist() == [False] * 5 + [True]
    x = torch.randn(2, 6, WIDTH, requires_grad=True)
    inputs = [x, *layer.parameters()]
    found, wanted = layer(x, places), written_out(layer, x, time, places.allowed, places.same)
    torch.testing.assert_close(found, wanted)
    for p, q in zip(*(torch.autograd.grad(y.square().sum(), inputs) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_one_series_without_gaps_takes_the_short_way():
    layer = attention()
    x, time = torch.randn(2, 5, WIDTH), torch.arange(5)
    rows = time.expand(2, 5)
    general = packed_places(rows, torch.zeros_like(rows), torch.zeros_like(rows))
    torch.testing.assert_close(layer(x, Places(time)), layer(x, general))


def test_rotary_products_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8)
    products = [(rotate(q, torch.tensor([t + 3])) * rotate(k, torch.tensor([t]))).sum() for t in (0, 5, 40)]
    torch.testing.assert_close(products[0], products[1])
    torch.testing.assert_close(products[0], products[2])
    assert torch.equal(rotate(q, torch.tensor([9]))[..., 4:], q[..., 4:])
    assert not torch.equal(rotate(q, torch.tensor([9]))[..., :4], q[..., :4])


# --- the decoder ----------------------------------------------------------------------------------------------


def test_a_patch_changes_nothing_before_it():
    model, z = decoder(), torch.randn(2, 7, P)
    other = z.clone()
    other[:, 4] += 1
    one, two = model(z)[0], model(other)[0]
    assert torch.equal(one[:, :4], two[:, :4])
    assert not torch.allclose(one[:, 4:], two[:, 4:])


def test_series_packed_in_a_row_are_as_alone():
    model, z = decoder(), torch.randn(2, 5, P)
    sample = torch.tensor([[0] * 5 + [1] * 5])
    time = torch.arange(5).repeat(2)[None]
    packed, _ = model(z.flatten(0, 1)[None], places=packed_places(time, sample, torch.zeros_like(time)))
    torch.testing.assert_close(packed.view(2, 5, P, 3), model(z)[0])


def test_the_loss_is_that_of_the_next_patch():
    model, z = decoder(), torch.randn(2, 6, P)
    raw, _ = model(z)
    by_hand = [-model.head.log_prob(raw[:, t - 1], z[:, t]) for t in range(2, 6)]
    torch.testing.assert_close(model.nll(z, 2)[0], torch.stack(by_hand).mean())


class Certain:
    """A distribution that is its location: forecasts are then a function of the past."""

    size = 3

    def log_prob(self, raw, z):
        return -(raw[..., 1] - z).square()

    def sample(self, raw):
        return raw[..., 1]


def naive_forecast(model, past, horizon, labels=None):
    """Every new patch by the whole model on everything so far."""
    observed = ~past.isnan()
    loc, scale = standardise(past.nan_to_num(), observed)
    z = ((past - loc) / scale).nan_to_num().unflatten(1, (-1, P))
    there = observed.unflatten(1, (-1, P)).any(-1)
    for _ in range(-(-horizon // P)):
        raw, _ = model(z, labels, past_places(there))
        z = torch.cat((z, raw[:, -1:, :, 1]), 1)
        there = torch.cat((there, torch.ones(len(past), 1, dtype=torch.bool)), 1)
    return (z.flatten(1)[:, past.shape[1] :][:, :horizon]) * scale + loc


@pytest.mark.parametrize("labels", [None, torch.tensor([1, 0, 1])])
def test_drawing_with_keys_kept_is_drawing_with_the_whole_model(labels):
    model = decoder(Certain(), labels=0 if labels is None else 2, layers=3)
    past = torch.randn(3, 5 * P).cumsum(1)
    past[1, : 2 * P] = float("nan")
    past[2, : P + 1] = float("nan")
    with torch.no_grad():
        wanted = naive_forecast(model, past, 3 * P - 1, labels)
        found = model.sample(past, 3 * P - 1, 4, seed=0, labels=labels, rows=2)
    assert found.shape == (3, 4, 3 * P - 1)
    for s in range(4):
        torch.testing.assert_close(found[:, s], wanted, rtol=1e-4, atol=1e-4)


def test_every_sample_goes_on_from_its_own_patches():
    """Keys of one sample must not be read by another: the draws of a sample are a function of its own first patch."""

    class Scripted(Certain):
        def __init__(self):
            self.calls = 0

        def sample(self, raw):
            self.calls += 1
            drawn = raw[..., 1].clone()
            if self.calls == 1:
                drawn[:, 1] += 2.0  # the second sample goes elsewhere
            return drawn

    past = torch.randn(1, 4 * P)
    apart = decoder(Scripted()).sample(past, 3 * P, 3, seed=0)
    together = decoder(Certain()).sample(past, 3 * P, 3, seed=0)
    torch.testing.assert_close(apart[:, [0, 2]], together[:, [0, 2]])
    assert not torch.allclose(apart[:, 1, P:], together[:, 1, P:])


def test_draws_are_those_of_the_seed_and_leave_torch_s_stream_alone():
    model, past = decoder(), torch.randn(5, 4 * P)
    torch.manual_seed(7)
    one = model.sample(past, 2 * P, 3, seed=1, rows=2)
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(one, model.sample(past, 2 * P, 3, seed=1, rows=2))
    assert not torch.equal(one, model.sample(past, 2 * P, 3, seed=2, rows=2))


def test_forecasts_follow_unit_and_level():
    model, past = decoder(), 5 * torch.randn(2, 4 * P).double().cumsum(1)
    model = model.double()
    one = model.sample(past, 2 * P, 5, seed=0)
    two = model.sample(3 * past - 40, 2 * P, 5, seed=0)
    torch.testing.assert_close(two, 3 * one - 40, rtol=1e-3, atol=1e-2)
