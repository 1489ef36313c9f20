from __future__ import annotations

import gc
import math
import weakref
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from repro.models.decoder import Decoder, DecoderConfig
from repro.models.moe import Experts
from repro.models.ways import forced, in_force
from repro.profiling.counts import count_flops, count_parameters, count_step
from repro.profiling.memory import PeakMemory, saved_bytes, training_bytes


def test_flops_of_a_linear_layer_by_hand():
    model, x = nn.Linear(5, 7), torch.randn(3, 5)
    assert count_flops(lambda: model(x)) == 2 * 3 * 5 * 7
    forward, step = count_step(model, lambda: model(x).sum())
    assert forward == 210
    assert step == 210 * 2  # no gradient for x, so the backward pass has one product
    assert model.weight.grad is None


def test_flops_of_experts_do_not_depend_on_how_they_run():
    experts = Experts(6, 8, 4)
    for p in experts.parameters():
        nn.init.normal_(p)
    x, indices = torch.randn(10, 8), torch.rand(10, 6).topk(2).indices
    weights = torch.ones(10, 2)
    by_hand = 2 * 10 * 2 * 3 * 8 * 4
    assert count_flops(lambda: experts(x, indices, weights)) == by_hand
    with forced("dense"):
        assert count_flops(lambda: experts(x, indices, weights)) == by_hand


def test_flops_of_attention_by_hand():
    q = torch.randn(2, 3, 5, 4)
    flops = count_flops(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True))
    assert flops == 2 * 2 * (2 * 3) * 5 * 5 * 4


def test_step_of_a_decoder_is_three_forward_passes():
    model = Decoder(DecoderConfig(vocab_size=16))
    ids = torch.zeros(1, 8, dtype=torch.long)
    forward, step = count_step(model, lambda: model(ids, labels=ids).loss)
    assert step == 3 * forward


def test_parameters_by_kind():
    class Half(nn.Linear):
        def idle_parameters(self):
            return self.weight.numel() // 2

    model = nn.Sequential(nn.Linear(4, 4), Half(4, 4))
    model[0].bias.requires_grad_(False)
    assert count_parameters(model) == {"params_total": 40.0, "params_trainable": 36.0, "params_active": 32.0}


def test_saved_bytes_count_each_storage_once_and_no_parameters():
    model, x = nn.Linear(4, 4, bias=False), torch.randn(8, 4, requires_grad=True)
    assert saved_bytes(model, lambda: model(x)) == 8 * 4 * 4
    assert saved_bytes(model, lambda: model(x).relu().square()) == 8 * 4 * 4 * 2  # x, and relu's result once for both


def test_nothing_outlives_the_counting_of_saved_bytes():
    """A node that keeps its own result for the backward pass must not keep itself alive by it."""
    kept = []

    def function():
        result = torch.randn(4, 4, requires_grad=True).softmax(-1)
        kept.append(weakref.ref(result))
        return result.sum()

    assert saved_bytes(nn.Identity(), function) == 4 * 16
    gc.collect()
    assert kept[0]() is None


def test_saved_bytes_of_a_sparse_tensor_are_its_indices_and_values():
    x = torch.randn(6, 3, requires_grad=True)
    entries = torch.eye(6).to_sparse()
    assert saved_bytes(nn.Identity(), lambda: torch.sparse.mm(entries, x)) == 8 * (2 * 6) + 4 * 6


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_saved_bytes_of_a_compressed_tensor():
    x = torch.randn(6, 3, requires_grad=True)
    rows = torch.eye(6).to_sparse_csr()
    assert saved_bytes(nn.Identity(), lambda: torch.sparse.mm(rows, x)) >= 8 * (7 + 6) + 4 * 6


def test_peak_memory_sees_a_large_tensor():
    with PeakMemory() as before:
        pass
    with PeakMemory() as memory:
        torch.ones(64 * 2**20 // 4).add_(1)
    assert memory.peak_bytes > before.peak_bytes + 32 * 2**20


def test_a_peak_that_may_be_an_earlier_one_is_not_told(monkeypatch):
    def refuse(self, text):
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", refuse)
    with PeakMemory() as memory:
        pass
    assert math.isnan(memory.peak_bytes)


def test_training_bytes_are_sixteen_per_parameter():
    assert training_bytes(10) == 160
    assert training_bytes(10, weight=2, gradient=2) == 120


@pytest.mark.parametrize("way", ["naive", "dense", "grouped"])
def test_forced_is_undone_after_an_error(way):

    with pytest.raises(RuntimeError), forced(way):
        raise RuntimeError
    assert in_force() is None
