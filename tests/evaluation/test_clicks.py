"""AUC and log loss against scikit-learn, and what cannot be scored."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from repro.data.base import Batch
from repro.evaluation.clicks import click_metrics, evaluate_clicks


def test_they_are_those_of_scikit_learn_ties_included():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (500,), generator=generator)
    logits = torch.randint(-3, 4, (500,), generator=generator) / 2.0
    found = click_metrics(labels, logits)
    odds = torch.sigmoid(logits.double()).numpy()
    assert found["auc"] == pytest.approx(100 * roc_auc_score(labels.numpy(), odds))
    assert found["loss"] == pytest.approx(log_loss(labels.numpy(), odds))
    share = labels.double().mean().item()
    assert found["base_loss"] == pytest.approx(-share * math.log(share) - (1 - share) * math.log(1 - share))
    # by counting pairs
    above = (logits[labels == 1][:, None] > logits[labels == 0]).double().mean()
    same = (logits[labels == 1][:, None] == logits[labels == 0]).double().mean()
    assert found["auc"] == pytest.approx(100 * float(above + same / 2))


def test_what_cannot_be_scored_is_nan():
    assert math.isnan(click_metrics(torch.ones(3), torch.randn(3))["auc"])
    assert math.isnan(click_metrics(torch.tensor([0, 1]), torch.tensor([0.0, math.inf]))["loss"])


def test_a_model_is_evaluated_in_evaluation_mode_over_all_batches():
    class Model(torch.nn.Module):
        def logits(self, inputs):
            assert not self.training
            return inputs[:, 0].float()

    labels = torch.tensor([0, 1, 1, 0, 1])
    inputs = torch.tensor([[1], [2], [0], [-1], [5]])
    marks = torch.zeros(5, dtype=torch.uint8)
    model = Model()
    batches = [Batch(inputs[:3], labels[:3], marks[:3]), Batch(inputs[3:], labels[3:], marks[3:])]
    assert evaluate_clicks(model, batches) == click_metrics(labels, inputs[:, 0].float())
    assert model.training
    with pytest.raises(ValueError, match="batches"):
        evaluate_clicks(model, [])
