"""The average of weights: its decay, its warm-up, and that it is a model of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repro.training.ema import EMA


def model(value=0.0):
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, value)
    return net


def test_it_decays():
    net = model(0.0)
    ema = EMA(net, 0.9, warmup=False)
    for value in (1.0, 2.0):
        nn.init.constant_(net.weight, value)
        ema.update()
    assert float(ema.model.weight.detach()) == pytest.approx(0.9 * 0.1 * 1 + 0.1 * 2)
    assert ema.updates == 2


def test_with_a_warm_up_the_start_is_soon_forgotten():
    net = model(0.0)
    ema, expected = EMA(net, 0.5), 0.0
    for n in range(20):
        nn.init.constant_(net.weight, float(n + 1))
        ema.update()
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * (n + 1)
    assert float(ema.model.weight.detach()) == pytest.approx(expected)
    assert ema.current_decay == 0.5


def test_it_is_apart_from_the_model_and_evaluates():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = EMA(net, 0.5)
    net(torch.randn(8, 2))
    ema.update()
    assert net.training
    assert not ema.model.training
    assert int(ema.model[1].num_batches_tracked) == 1
    before = ema.model[0].weight.clone()
    with torch.no_grad():
        net[0].weight.add_(1)
    assert torch.equal(ema.model[0].weight, before)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decays_that_cannot_be(decay):
    with pytest.raises(ValueError, match="decay"):
        EMA(model(), decay)
