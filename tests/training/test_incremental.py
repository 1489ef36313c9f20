"""Heads that grow, weight alignment, distillation, augmentation, and the loop over a task."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from repro.data.images import Images
from repro.training.incremental import Sgd, align_rows, augmented, distillation, grown, train_task


def test_a_grown_head_gives_old_classes_the_same_logits():
    torch.manual_seed(0)
    old = grown(None, 6, 4, 0, "first")
    nn.init.normal_(old.bias)
    new = grown(old, 9, 7, 0, "second")
    x = torch.randn(3, 9)
    x[:, 6:] = 0
    torch.testing.assert_close(new(x)[:, :4], old(x[:, :6]))
    assert not new.bias[4:].any()
    assert torch.equal(grown(old, 9, 7, 0, "second").weight, new.weight)
    for size in ((5, 7), (9, 3)):
        with pytest.raises(ValueError, match="shrink"):
            grown(old, *size, 0, "third")


def test_alignment_equals_the_mean_norms_and_keeps_the_order_of_new_classes():
    torch.manual_seed(0)
    head = nn.Linear(8, 10)
    with torch.no_grad():
        head.weight[6:] *= 3
        head.bias.zero_()
    x = torch.randn(20, 8)
    before, old = head(x)[:, 6:].argmax(1), head.weight[:6].clone()
    gamma = align_rows(head, 6)
    norms = head.weight.detach().norm(dim=1)
    assert float(norms[:6].mean()) == pytest.approx(float(norms[6:].mean()), rel=1e-5)
    assert gamma < 1
    assert torch.equal(head(x)[:, 6:].argmax(1), before)
    assert torch.equal(head.weight[:6], old)
    aligned = head.weight.detach().clone()
    with torch.no_grad():
        head.weight[6:] /= 2
    assert align_rows(head, 6, enlarge=False) == 1
    torch.testing.assert_close(head.weight[6:], aligned[6:] / 2)
    assert align_rows(head, 6) == pytest.approx(2, rel=1e-5)


def test_distillation_is_least_where_the_outputs_agree():
    torch.manual_seed(0)
    old = torch.randn(5, 4)
    logits = old.clone().requires_grad_()
    value = distillation(logits, old)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient.abs().max() < 1e-6
    soft = (old / 2).softmax(1)
    assert float(value.detach()) == pytest.approx(float(-(soft * soft.log()).sum(1).mean()), rel=1e-5)
    assert distillation(-old, old) > value


def test_augmentation_moves_and_mirrors_and_leaves_alone_what_it_should():
    draws = torch.Generator().manual_seed(0)
    x = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).view(2, 3, 4, 4).repeat(30, 1, 1, 1) / 96
    seen = augmented(x, draws)
    same = (seen == x).flatten(1).all(1)
    mirrored = (seen == x.flip(3)).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)
    assert 15 < int(same.sum()) < 45
    moved = augmented(x, draws, crop=1)
    padded = F.pad(x, (1,) * 4)
    for image, page, turned in zip(moved, padded, F.pad(x.flip(3), (1,) * 4), strict=True):
        windows = [p[:, i : i + 4, j : j + 4] for p in (page, turned) for i in range(3) for j in range(3)]
        assert any(torch.equal(image, window) for window in windows)
    assert len({tuple(image.flatten().tolist()) for image in moved}) > 20
    dimmed = augmented(torch.full((50, 1, 2, 2), 0.5), draws, brightness=0.25)
    factors = dimmed[:, 0, 0, 0] / 0.5
    assert 0.75 <= float(factors.min()) < 0.85
    assert 1.15 < float(factors.max()) <= 1.25


def test_schedules():
    assert [Sgd(0.1, 4).factor(e) for e in (0, 2)] == [1.0, pytest.approx(0.5)]
    steps = Sgd(0.1, 200, schedule="steps", milestones=(0.3, 0.6, 0.85))
    assert [steps.factor(e) for e in (59, 60, 119, 120, 170)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.001])
    later = Sgd(0.1, 170, schedule="steps", milestones=(0.47, 0.705, 0.882))
    changes = [e for e in range(1, 170) if later.factor(e) != later.factor(e - 1)]
    assert changes == [80, 120, 150]
    with pytest.raises(ValueError, match="schedule"):
        Sgd(0.1, 4, schedule="none").factor(0)


def trained(seed, **recipe):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    pixels = torch.randn(65, 3, 2, 2)
    images = Images(pixels, (pixels.flatten(1).sum(1) > 0).long())
    seen = []
    losses = train_task(
        model, images, lambda x, y: F.cross_entropy(model(x), y), Sgd(**{"lr": 0.1, "epochs": 6, **recipe}),
        torch.Generator().manual_seed(seed), observe=seen.append,
    )  # fmt: skip
    return model, losses, seen


def test_the_loop_learns_and_is_the_generator_s():
    model, losses, seen = trained(0, batch=16)
    assert losses[-1] < losses[0]
    assert not model.training
    assert len(seen) == 6 * 4  # the last batch would hold one image
    assert trained(0, batch=16)[1] == losses != trained(1, batch=16)[1]


def test_the_loop_stops_where_the_loss_is_not_finite():
    losses = trained(0, lr=1e38)[1]
    assert len(losses) < 6
    assert not math.isfinite(losses[-1])


def test_what_is_frozen_stays():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Linear(3, 2))
    model[1].requires_grad_(False)
    before = model[1].weight.clone()
    images = Images(torch.randn(8, 3, 2, 2), torch.arange(8) % 2)
    train_task(model, images, lambda x, y: F.cross_entropy(model(x), y), Sgd(0.1, 2), torch.Generator())
    assert torch.equal(model[1].weight, before)
