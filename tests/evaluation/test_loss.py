"""Held-out loss against plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from repro.data import load_tuples
from repro.data.base import Batch
from repro.evaluation import held_out_loss


def test_uniform_logits_cost_log_vocabulary(word_data):
    found = held_out_loss(lambda x: torch.zeros(*x.shape, 139), word_data, batches=3, batch_size=8)
    assert found["loss"] == pytest.approx(math.log(139), rel=1e-6)
    assert found["answer_loss"] == pytest.approx(math.log(139), rel=1e-6)


def test_tokens_are_weighted_equally_whatever_the_batch_size(word_data):
    torch.manual_seed(0)
    table = torch.randn(word_data.vocab_size, word_data.vocab_size)
    one = held_out_loss(lambda x: table[x], word_data, batches=12, batch_size=2)
    other = held_out_loss(lambda x: table[x], word_data, batches=1, batch_size=24)
    assert one == pytest.approx(other)
    (batch,) = word_data.held_out_batches(1, 24)
    kept = batch.targets != -100
    losses = F.cross_entropy(table[batch.inputs][kept].double(), batch.targets[kept], reduction="none")
    marks = batch.answers[kept]
    assert one["loss"] == pytest.approx(losses.mean().item())
    assert one["tokens"] == kept.sum()
    assert one["answer_loss"] == pytest.approx(losses[marks > 0].mean().item())
    kinds = [n for n in marks.unique().tolist() if n]
    for operations in kinds:
        assert one[f"answer_loss_ops{operations}"] == pytest.approx(losses[marks == operations].mean().item())
    counts = [one[f"answer_tokens_ops{n}"] for n in kinds]
    assert sum(counts) == one["answer_tokens"] == (marks > 0).sum()


def test_accuracy_is_the_share_of_answers_with_the_highest_logit():
    inputs = torch.zeros(1, 4, dtype=torch.long)
    batch = Batch(inputs, torch.tensor([[1, 2, 3, -100]]), torch.tensor([[0, 1, 1, 0]], dtype=torch.uint8))
    logits = torch.zeros(1, 4, 5)
    logits[0, 1, 2] = logits[0, 2, 4] = 5.0
    found = held_out_loss(lambda _: logits, [batch])
    assert found["answer_accuracy"] == 0.5
    assert "answer_loss_ops1" not in found  # one kind only


def test_tuples_are_all_answers():
    data = load_tuples("composition")
    found = held_out_loss(lambda x: torch.zeros(len(x), 12), data, batches=2, batch_size=50)
    assert found["loss"] == found["answer_loss"] == pytest.approx(math.log(12))
    assert found["answer_tokens"] == found["tokens"] == 100


def test_a_module_is_left_in_its_mode_without_gradients():
    data = load_tuples("composition")
    model = nn.Sequential(nn.Embedding(60, 8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 12))
    first, second = (held_out_loss(model, data, 1, 64) for _ in range(2))
    assert first == second
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    held_out_loss(model, data, 1, 4)
    assert not model.training


def test_nothing_to_count_is_an_error():
    with pytest.raises(ValueError, match="no held-out target"):
        held_out_loss(lambda x: torch.zeros(*x.shape, 3), [])
