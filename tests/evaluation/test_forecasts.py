"""Scores of forecasts against hand computations and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from repro.data.series import Windows
from repro.evaluation.forecasts import (
    LEVELS,
    cell_scores,
    crps,
    geometric_mean,
    mase,
    quantile_loss,
    relative_scores,
    sample_quantiles,
    seasonal_error,
    seasonal_naive,
    weighted_quantile_loss,
)

NAN = float("nan")


def test_the_seasonal_naive_forecast_repeats_each_row_s_own_season():
    past = torch.tensor([[1.0, 2, 3, 4, 5, 6], [1.0, 2, 3, 4, 5, 6]])
    assert seasonal_naive(past, torch.tensor([2, 4]), 5).tolist() == [[5, 6, 5, 6, 5], [3, 4, 5, 6, 3]]


def test_mase_by_hand():
    """Past 1 3 2 6, season 2: differences |2-1| and |6-3|, mean 2. Errors 1 and 3, mean 2: MASE 1."""
    past = torch.tensor([[1.0, 3, 2, 6], [NAN, NAN, 2, 6]])
    scale = seasonal_error(past[:1], torch.tensor([2]))
    assert scale.tolist() == [2.0]
    assert mase(torch.tensor([[5.0, 5]]), torch.tensor([[4.0, 8]]), scale).tolist() == [1.0]
    assert seasonal_error(past, torch.tensor([1, 1])).tolist() == [7 / 3, 4.0]  # what is missing does not count


def test_quantile_loss_by_hand():
    """y = 10: forecast 8 at 0.9 costs 2 * 2 * 0.9, forecast 12 costs 2 * 2 * 0.1; at the median it is |error|."""
    y = torch.tensor([10.0, 10.0])
    assert quantile_loss(y, torch.tensor([8.0, 12.0]), 0.9).tolist() == pytest.approx([3.6, 0.4])
    assert quantile_loss(y, torch.tensor([8.0, 12.0]), 0.5).tolist() == pytest.approx([2.0, 2.0])
    assert quantile_loss(y, y, 0.3).tolist() == [0.0, 0.0]


def test_weighted_quantile_loss_by_hand():
    """Samples 0, 1, ..., 10 have the levels' quantiles 1 ... 9. For y = 5 the losses are 2 * |5 - q| times the level
    below and one minus it above: 2 * (4*.1 + 3*.2 + 2*.3 + 1*.4 + 0 + 1*.4 + 2*.3 + 3*.2 + 4*.1) = 8, over 9 levels and
    the sum of |y|, which is 5."""
    samples = torch.arange(11.0).view(1, 11, 1)
    assert sample_quantiles(samples, LEVELS).ravel().tolist() == pytest.approx(list(range(1, 10)))
    assert float(weighted_quantile_loss(torch.tensor([[5.0]]), samples)) == pytest.approx(8 / 9 / 5)


def test_a_point_forecast_s_weighted_quantile_loss_is_its_absolute_error():
    torch.manual_seed(0)
    y, point = torch.randn(5, 7), torch.randn(5, 7)
    found = weighted_quantile_loss(y, point[:, None].expand(5, 3, 7))
    assert float(found) == pytest.approx(float((y - point).abs().sum() / y.abs().sum()))


def test_quantiles_are_numpy_s():
    torch.manual_seed(0)
    samples = torch.randn(3, 17, 4)
    for level in (0.0, 0.1, 0.37, 0.5, 0.9, 1.0):
        wanted = np.quantile(samples.double().numpy(), level, axis=1)
        np.testing.assert_allclose(sample_quantiles(samples, (level,))[0].numpy(), wanted)


def test_crps_is_its_definition_and_the_closed_form_of_the_normal():
    torch.manual_seed(0)
    x, y = torch.randn(2, 9, 3).double(), torch.randn(2, 3).double()
    pairs = (x[:, :, None] - x[:, None]).abs().mean((1, 2))
    torch.testing.assert_close(crps(y, x), (x - y[:, None]).abs().mean(1) - pairs / 2)
    many = torch.from_numpy(stats.norm.ppf((np.arange(4000) + 0.5) / 4000)).view(1, -1, 1)
    for value in (-1.0, 0.0, 2.0):
        z = value
        closed = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi)
        assert float(crps(torch.tensor([[value]]), many)) == pytest.approx(closed, abs=1e-3)


def test_weighted_quantile_loss_of_many_levels_is_the_crps():
    samples = torch.from_numpy(stats.norm.ppf((np.arange(4000) + 0.5) / 4000)).view(1, -1, 1)
    y = torch.tensor([[0.7]])
    levels = [(i + 0.5) / 400 for i in range(400)]
    found = weighted_quantile_loss(y, samples, levels) * y.abs().sum()
    assert float(found) == pytest.approx(float(crps(y, samples)), abs=1e-3)


def windows(past, future, cell):
    n = len(past)
    return Windows(
        torch.tensor(past), torch.tensor(future), torch.ones(n, dtype=torch.long), torch.zeros(n, dtype=torch.long),
        ("a", "b"), torch.tensor(cell),
    )  # fmt: skip


def test_scores_relative_to_the_naive_forecast_by_hand():
    """Cell a: the naive forecast repeats 2 and errs by 2 and 2; the samples err by 1 and 1: a half. Cell b: as good as
    the naive one: 1. The geometric mean is sqrt(1/2)."""
    set_ = windows([[1.0, 2.0], [4.0, 8.0]], [[4.0, 4.0], [6.0, 6.0]], [0, 1])
    samples = torch.tensor([[[3.0, 5.0]], [[8.0, 8.0]]]).expand(2, 4, 2)
    cells = cell_scores(set_, samples)
    for score in ("mae", "mase", "wql"):
        assert cells["a"][score] == pytest.approx(0.5)
        assert cells["b"][score] == pytest.approx(1.0)
        assert relative_scores(set_, samples)[score] == pytest.approx(math.sqrt(0.5))
    assert relative_scores(set_, samples)["coverage"] == 0


def test_scores_do_not_depend_on_unit_or_level():
    torch.manual_seed(0)
    past, future, samples = torch.randn(4, 12), torch.randn(4, 3), torch.randn(4, 20, 3)
    one = windows(past.tolist(), future.tolist(), [0, 0, 1, 1])
    other = windows((7 * past + 30).tolist(), (7 * future + 30).tolist(), [0, 0, 1, 1])
    a, b = relative_scores(one, samples), relative_scores(other, 7 * samples + 30)
    assert a == pytest.approx(b, rel=1e-4)


def test_what_has_no_scale_is_refused():
    with pytest.raises(ValueError, match="repeats its season"):
        cell_scores(windows([[2.0, 2.0]], [[1.0, 1.0]], [0]), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="no error in a"):
        cell_scores(windows([[1.0, 2.0]], [[2.0, 2.0]], [0]), torch.zeros(1, 2, 2))


def test_coverage_and_geometric_mean():
    set_ = windows([[1.0, 2.0]], [[5.0, 50.0]], [0])
    samples = torch.arange(11.0).view(1, 11, 1).expand(1, 11, 2)
    assert relative_scores(set_, samples)["coverage"] == 50
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
