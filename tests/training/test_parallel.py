"""Data-parallel processes on one machine."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repro.training.parallel import average_gradients, launch
from tests.training import parallel_jobs


@pytest.mark.slow
def test_averaged_gradients_are_those_of_all_rows():
    rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    weight = torch.full((1, 3), 0.5, requires_grad=True)
    (rows @ weight.t()).square().mean().backward()
    first = torch.full((1, 3), 0.5, requires_grad=True)
    (rows[:4] @ first.t()).square().mean().backward()
    found = launch(parallel_jobs.gradients, 2, rows)
    assert len(found) == 2
    for everywhere, rare in found:
        torch.testing.assert_close(everywhere, weight.grad)
        torch.testing.assert_close(rare, first.grad / 2)


@pytest.mark.slow
def test_a_failing_process_is_an_error():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="fails"):
        launch(parallel_jobs.fail, 2)


def test_one_process_keeps_its_gradients():
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad.clone()
    average_gradients(layer)
    assert torch.equal(layer.weight.grad, before)
