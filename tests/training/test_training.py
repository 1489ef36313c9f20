from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from repro.data import load
from repro.models.moe import Experts, TopKRouter
from repro.runner import Context
from repro.training.fit import fit
from repro.training.initial import initialise
from repro.training.loop import Engine, Optimisation, marks, train


def regression(steps: int = 40, **options):
    torch.manual_seed(0)
    model = initialise(nn.Linear(3, 1), 0)
    x = torch.randn(steps, 8, 3, generator=torch.Generator().manual_seed(0))
    y = x.sum(-1, keepdim=True)

    def loss(batch):
        return (model(batch[0]) - batch[1]).square().mean(), None

    def evaluate():
        assert not model.training
        assert not torch.is_grad_enabled()
        return {"loss": float((model(x) - y).square().mean())}

    out = train(model, zip(x, y, strict=True), loss, evaluate, Optimisation(0.1, steps, **options), evaluations=4)
    return model, out


def test_training_learns_and_is_bit_identical():
    (one, first), (two, second) = regression(), regression()
    assert first.evaluations[-1]["loss"] < 0.1 * first.evaluations[0]["loss"] + 1e-3
    assert first.evaluations == second.evaluations
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert first.steps == [10, 20, 30, 40]
    assert first.curves()["loss"]["x"] == [10, 20, 30, 40]
    assert len(first.train_loss) == 4


@pytest.mark.parametrize("evaluations", [1, 2, 3, 7, 40, 41, 100])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 40])
def test_evaluations_are_evenly_spread_and_end_with_the_last_step(steps, evaluations):
    found = sorted(marks(steps, evaluations))
    assert len(found) == min(steps, evaluations)
    assert found[0] >= 1
    assert found[-1] == steps
    gaps = [b - a for a, b in zip([0, *found], found, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_evaluations_without_steps():
    assert marks(0, 5) == {0}
    assert marks(5, 0) == marks(0, 0) == set()


@pytest.mark.parametrize(("steps", "expected"), [(0, [0]), (1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [2, 4, 6, 8])])
def test_every_training_ends_with_an_evaluation(steps, expected):
    model = initialise(nn.Linear(3, 1), 0)
    out = train(model, torch.ones(steps, 2, 3), total(model), no_evaluation, Optimisation(0.1, steps), evaluations=4)
    assert out.steps == expected
    assert len(out.evaluations) == len(out.train_loss) == len(expected)
    assert not model.training
    assert math.isnan(out.train_loss[0]) == (steps == 0)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_fit_ends_with_an_evaluation_however_few_the_steps(steps):
    data = load("composition", 1)
    model = Read(data)
    before = model.head.weight.clone()
    found = fit(model, data, Optimisation(0.1, steps), Context(0), batch=4, eval_batches=2, evaluations=5)
    assert found.outcome.curves["loss"]["x"] == ([*range(1, steps + 1)] or [0])
    assert torch.equal(model.head.weight, before) == (steps == 0)
    assert found.outcome.metrics["final_loss"] == found.outcome.curves["loss"]["y"][-1]
    assert found.outcome.profile["train_tokens"] == 4 * steps
    assert found.outcome.profile["forward_flops_per_token"] > 0


class Read(nn.Module):
    """Tuples of symbols to logits."""

    def __init__(self, data):
        super().__init__()
        self.embed, self.head = nn.Embedding(data.vocab_size, 4), nn.Linear(4, data.classes)
        initialise(self, 0)

    def forward(self, inputs):
        return self.head(self.embed(inputs).sum(1)), None


def test_an_engine_carries_out_the_steps():
    told = []

    class Told(Engine):
        def prepare(self, model, optimizer, loss, batches):
            told.append("prepare")
            return optimizer, loss, iter(batches[:, :1])

        def passing(self, last):
            told.append(("passing", last))
            return super().passing(last)

        def clip(self, model, norm):
            told.append(("clip", norm))

        def mean(self, value):
            return 7.0 * super().mean(value)

        def evaluate(self, evaluate):
            return {"loss": evaluate()["loss"] + 5}

        def finish(self, model):
            told.append("finish")

    model = initialise(nn.Linear(3, 1), 0)
    with torch.no_grad():
        each = float(model(torch.ones(3)))
    batches = torch.ones(2, 9, 3)
    out = train(
        model, batches, total(model), no_evaluation, Optimisation(0.1, 1), evaluations=1, accumulate=2, engine=Told()
    )
    assert told == ["prepare", ("passing", False), ("passing", True), ("clip", 1.0), "finish"]
    assert out.evaluations == [{"loss": 5.0}]
    assert out.train_loss == [pytest.approx(7 * each)]


def test_divergence_is_reported():
    model = nn.Linear(1, 1)

    def loss(batch):
        return model(torch.ones(1)).sum() * math.inf, None

    out = train(model, [None] * 9, loss, lambda: {"loss": math.nan}, Optimisation(0.1, 9), evaluations=3)
    assert out.diverged
    assert out.steps == [3]


def test_auxiliary_loss_gives_gradient_but_is_not_reported():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)

    def loss(batch):
        return torch.zeros((), requires_grad=True), (model.weight - 1).square().sum()

    out = train(model, [None] * 50, loss, lambda: {"loss": 0.0}, Optimisation(0.1, 50), evaluations=1)
    assert out.train_loss == [0.0]
    assert abs(model.weight.item() - 1) < 0.3


def test_schedules():
    constant = Optimisation(1.0, 100)
    assert [constant.factor(s) for s in (0, 4, 9, 10, 99)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    linear = Optimisation(1.0, 100, schedule="linear")
    assert linear.factor(10) == 1.0
    assert linear.factor(55) == pytest.approx(0.5)
    assert Optimisation(1.0, 100, schedule="cosine").factor(55) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="unknown schedule"):
        Optimisation(1.0, 100, schedule="steps").factor(50)


class Small(nn.Module):
    def __init__(self, experts: int = 4, extra: bool = False):
        super().__init__()
        self.experts, self.router, self.norm = Experts(experts, 8, 6), TopKRouter(8, 4, 2), nn.RMSNorm(8)
        self.head = nn.Linear(8, 3)
        if extra:
            self.more = nn.Linear(8, 8)


def test_initial_weights_depend_on_seed_and_name_only():
    plain, more, fewer = (initialise(m, 5).state_dict() for m in (Small(), Small(extra=True), Small(3)))
    assert all(torch.equal(plain[name], more[name]) for name in plain)
    assert torch.equal(plain["experts.gate_up_proj"][:3], fewer["experts.gate_up_proj"])
    assert not torch.equal(plain["experts.gate_up_proj"][0], plain["experts.gate_up_proj"][1])
    other = initialise(Small(), 6).state_dict()
    assert not torch.equal(other["head.weight"], plain["head.weight"])
    assert plain["norm.weight"].eq(1).all()
    assert plain["head.bias"].eq(0).all()
    assert plain["router.weight"].abs().max() <= 8**-0.5
    assert plain["experts.gate_up_proj"].std() == pytest.approx(0.02, rel=0.2)


def test_accumulated_batches_make_the_step_of_one_large_batch():
    x = torch.randn(12, 4, 3, generator=torch.Generator().manual_seed(1))
    models = [initialise(nn.Linear(3, 1), 0) for _ in range(2)]
    gradients: list[list] = [[], []]
    for model, seen in zip(models, gradients, strict=True):
        model.weight.register_hook(seen.append)
    for model, batches, accumulate in ((models[0], x, 3), (models[1], x.view(4, 12, 3), 1)):

        def loss(batch, model=model):
            return (model(batch) - batch.sum(-1, keepdim=True)).square().mean(), None

        train(model, batches, loss, lambda: {"loss": 0.0}, Optimisation(0.1, 4), accumulate=accumulate)
    torch.testing.assert_close(models[0].weight, models[1].weight)
    # Adam does not see the scale of a gradient; clipping does
    torch.testing.assert_close(sum(gradients[0][:3]), gradients[1][0])


def total(model):
    return lambda batch: (model(batch).sum(), None)


def no_evaluation():
    return {"loss": 0.0}


def test_running_out_of_batches_is_an_error():
    model = nn.Linear(3, 1)
    with pytest.raises(ValueError, match="no batch left for step 2"):
        train(model, torch.ones(5, 3), total(model), no_evaluation, Optimisation(0.1, 9), accumulate=2)


def test_parameters_can_be_frozen_between_steps():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    before = model[0].weight.clone()

    def freeze(step):
        model[0].requires_grad_(step >= 2)

    for steps in (2, 3):
        batches = torch.ones(steps, 2, 3)
        train(model, batches, total(model), no_evaluation, Optimisation(0.1, steps), before_step=freeze)
        assert torch.equal(model[0].weight, before) == (steps == 2)
