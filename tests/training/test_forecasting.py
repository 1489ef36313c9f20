"""The frame of training forecasters: shared starts, and a profile that counts what is trained."""

from __future__ import annotations

import torch
from torch import nn

from repro.data.series import corpus
from repro.models.forecasting import PatchDecoder, StudentHead, TimeAttention
from repro.models.moe import Experts, TopKRouter
from repro.runner.outcome import Context
from repro.training.forecasting import fit_series, profile_series, uniform_start
from repro.training.loop import Optimisation

SMALL = {"train": 32, "test": 24, "unseen": 8, "past": 32, "horizon": 8}


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x), None


def decoder():
    return PatchDecoder(8, 8, 2, [Plain()], StudentHead())


def test_starts_are_those_of_torch_by_name_and_seed():
    class Two(nn.Module):
        def __init__(self, experts):
            super().__init__()
            self.shared = nn.Linear(16, 4)
            self.experts = Experts(experts, 6, 5)
            self.router = TopKRouter(6, experts, 2)
            self.norm = nn.RMSNorm(3)
            self.attention = TimeAttention(8, 2)

    small, large = uniform_start(Two(4), 3), uniform_start(Two(6), 3)
    assert torch.equal(small.shared.weight, large.shared.weight)
    assert torch.equal(small.experts.gate_up_proj, large.experts.gate_up_proj[:4])
    assert not torch.equal(small.shared.weight, uniform_start(Two(4), 4).shared.weight)
    for values, inputs in (
        (small.shared.weight, 16), (small.shared.bias, 16), (small.experts.gate_up_proj, 6),
        (small.experts.down_proj, 5), (small.router.weight, 6),
    ):  # fmt: skip
        assert 0.7 * inputs**-0.5 < float(values.detach().abs().max()) <= inputs**-0.5
    assert small.norm.weight.tolist() == [1, 1, 1]
    assert not small.attention.variate_bias.any()
    assert small.attention.q_norm.weight.tolist() == [1] * 4


def test_the_profile_counts_rows_and_matrix_products():
    model = uniform_start(decoder(), 0)
    z = torch.randn(4, 5, 8)
    found = profile_series(model, lambda: model.nll(z, 2), 4, 4, 120)
    assert found["train_tokens"] == 480
    assert found["params_total"] == sum(p.numel() for p in model.parameters())
    # in: 3 products of 8 x 8; attention: 4 of 8 x 8 and two of the 4 x 4 square; feed-forward 8 x 8; out 8 x 24
    token = 2 * (3 * 64 + 4 * 64 + 2 * 4 * 8 + 64 + 8 * 24)
    assert found["forward_flops_per_token"] == token
    assert 2.5 * token < found["train_flops"] / 480 <= 3 * token
    assert all(p.grad is None for p in model.parameters())


def test_training_goes_down_and_is_the_same_again():
    data = corpus(0, **SMALL)

    def train():
        model = uniform_start(decoder(), 0)
        x = torch.cat((data.test.past, data.test.future), 1).unflatten(1, (-1, 8))

        def loss(module, batch):
            return module.nll(batch.values.unflatten(1, (-1, 8)), 2)

        found = fit_series(
            model, data, Optimisation(1e-2, 30), Context(0), loss, batch=8, tokens_per_row=4,
            evaluate=lambda: {"loss": float(model.nll(x, 2)[0])}, evaluations=3,
        )  # fmt: skip
        return found, model

    (one, model), (two, _) = train(), train()
    losses = [e["loss"] for e in one.trained.evaluations]
    assert losses[-1] < losses[0]
    assert one.trained.evaluations == two.trained.evaluations
    assert one.profile["train_tokens"] == 30 * 8 * 4
    assert not model.training
