"""Euler's method and the time as features."""

from __future__ import annotations

import math

import pytest
import torch

from repro.models.neural_ode import euler, time_embedding


def test_euler_converges_to_the_exponential_at_first_order():
    start = torch.ones(1, dtype=torch.float64)
    errors = [abs(float(euler(lambda z, _: z, start, steps)) - math.e) for steps in (100, 200, 400)]
    assert errors[0] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.02)


def test_a_constant_field_is_exact_in_one_step_and_time_is_handed_on():
    z = torch.randn(3, 2)
    torch.testing.assert_close(euler(lambda z, _: torch.ones_like(z), z, 1), z + 1)
    seen = []
    euler(lambda z, t: seen.append(float(t)) or z * 0, z, 4)  # type: ignore[func-returns-value]
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_gradients_pass_through_every_step():
    rate = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    end = euler(lambda z, _: rate * z, torch.ones((), dtype=torch.float64), 10)
    end.backward()
    assert float(rate.grad) == pytest.approx(10 * 0.1 * (1 + 0.05) ** 9)


def test_times_are_told_apart():
    found = time_embedding(torch.linspace(0, 1, 1001), 64)
    assert found.shape == (1001, 64)
    torch.testing.assert_close(found[0], torch.cat((torch.zeros(32), torch.ones(32))))
    distance = torch.cdist(found, found) + 10 * torch.eye(1001)
    assert distance.min() > 0.3
    with pytest.raises(ValueError, match="even"):
        time_embedding(torch.zeros(1), 7)
