"""The frame of classification: cost of a step, matched lengths, shared starts, measures."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from repro.data.images import ImageData, Images
from repro.models.cnn import CNN, ConvPath
from repro.runner import Context
from repro.training.classify import (
    Learner,
    classify,
    equal_flops,
    equal_time,
    measure,
    seeded_start,
    step_cost,
    with_random_labels,
)
from repro.training.loop import Optimisation


def data(rows=120):
    generator = torch.Generator().manual_seed(0)

    def part(count):
        labels = torch.arange(count) % 3
        pixels = torch.randn(count, 1, 4, 4, generator=generator)
        pixels[torch.arange(count), 0, 0, labels] += 4
        return Images(pixels, labels)

    return ImageData("toy", part(rows), part(30), part(60), 3, "generated", "three classes")


def learner(widths=(4,)):
    model = CNN(ConvPath(1, 4, widths, (True,) * len(widths), 8, dropout=0.1), (), 3)
    return Learner(model, lambda x, y, *_: F.cross_entropy(model(x), y), lambda x, _: model(x))


def fitted(steps=40, seed=0):
    mine = learner()
    seeded_start(mine.model, seed)
    task = data()
    cost = step_cost(mine, Images(task.train.pixels[:16], task.train.labels[:16]))
    optimisation = Optimisation(1e-2, steps, warmup=0.0, clip=0.0)
    return mine, cost, classify(mine, task, optimisation, Context(seed=seed), batch=16, cost=cost, draws=2)


def test_modules_of_one_name_start_alike_and_seeds_differ():
    one, two, three = (learner(w).model for w in ((4,), (4, 5), (4,)))
    before = torch.random.get_rng_state()
    seeded_start(one, 3), seeded_start(two, 3), seeded_start(three, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    first = [m.path.convolutions[0].weight for m in (one, two, three)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])
    assert first[0].abs().max() <= 1 / 3  # torch's own start: U(-1/sqrt(fan in), ...)


def test_cost_of_a_linear_layer_counted_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    mine = Learner(model, lambda x, y, *_: F.cross_entropy(model(x), y), lambda x, _: model(x))
    cost = step_cost(mine, Images(torch.randn(5, 1, 4, 4), torch.arange(5) % 3))
    assert cost.forward_flops == 2 * 5 * 16 * 3
    assert cost.flops == 2 * cost.forward_flops  # no gradient to the images
    assert cost.gradient_parameters == 51
    assert cost.activation_bytes >= 4 * 5 * (16 + 3)


def test_counting_leaves_no_trace():
    mine = learner()
    before = {name: value.clone() for name, value in mine.model.state_dict().items()}
    step_cost(mine, Images(torch.randn(5, 1, 4, 4), torch.arange(5) % 3))
    assert all(torch.equal(value, before[name]) for name, value in mine.model.state_dict().items())
    assert all(p.grad is None for p in mine.model.parameters())


def test_matched_lengths():
    one = step_cost(learner(), Images(torch.randn(5, 1, 4, 4), torch.arange(5) % 3))
    ten = one._replace(flops=10 * one.flops)
    assert equal_flops(200, one, ten) == 20
    assert equal_flops(20, ten, one) == 200
    assert equal_flops(3, one, ten) == 1
    assert equal_time(100, 2.5) == 40


def test_it_learns_and_tells_what_it_cost():
    _, cost, outcome = fitted()
    assert outcome.metrics["accuracy"] > 90
    assert outcome.metrics["error"] < 10
    assert set(outcome.metrics) == {"loss", "error", "accuracy", "train_accuracy"}
    profile = outcome.profile
    assert profile["train_steps"] == 40
    assert profile["train_samples"] == 640
    assert profile["train_flops"] == 40 * cost.flops
    parts = ("activation_bytes", "gradient_bytes", "moment_bytes")
    assert profile["training_bytes"] == sum(profile[p] for p in parts) + 4 * profile["params_total"]
    assert profile["moment_bytes"] == 2 * profile["gradient_bytes"] == 8 * profile["params_total"]
    assert outcome.curves["error"]["x"][-1] == 40


def test_a_run_is_a_function_of_its_seed():
    (a, _, one), (b, _, two), (_, _, other) = fitted(8), fitted(8), fitted(8, seed=1)
    assert one.metrics == two.metrics != other.metrics
    assert all(torch.equal(x, y) for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True))


def test_a_loss_that_is_not_finite_is_reported():
    mine = learner()
    broken = Learner(mine.model, lambda x, y, *_: mine.model(x).sum() * math.nan, mine.scores)
    task = data()
    cost = step_cost(mine, Images(task.train.pixels[:16], task.train.labels[:16]))
    optimisation = Optimisation(1e-2, 4, warmup=0.0, clip=0.0)
    outcome = classify(broken, task, optimisation, Context(seed=0), batch=16, cost=cost, evaluations=2)
    assert outcome.diverged


def test_accuracy_is_a_mean_over_draws_of_the_same_noise():
    model = nn.Linear(1, 1)
    guess = Learner(model, lambda *_: torch.zeros(()), lambda x, g: torch.randn(len(x), 3, generator=g))
    images = data().test
    found = measure(guess, images, 0, draws=4)
    assert found == measure(guess, images, 0, draws=4)
    assert 15 < found["accuracy"] < 55
    assert found != measure(guess, images, 1, draws=4)
    perfect = Learner(model, guess.loss, lambda x, _: x[:, 0, 0, :3])
    assert measure(perfect, images, 0, batch=7)["accuracy"] > 95
    assert measure(perfect, images, 0, limit=3)["accuracy"] == 100.0


def test_labels_at_random_keep_images_and_shares():
    task = data()
    shuffled = with_random_labels(task, 0)
    assert torch.equal(shuffled.train.pixels, task.train.pixels)
    assert torch.equal(shuffled.train.labels.bincount(), task.train.labels.bincount())
    agree = (shuffled.train.labels == task.train.labels).float().mean()
    assert 0.15 < agree < 0.5
    assert shuffled.fingerprint not in (task.fingerprint, with_random_labels(task, 1).fingerprint)
    assert "random" in shuffled.name
