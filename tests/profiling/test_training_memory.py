"""Memory of a training step: measured at a real optimiser, modelled on the meta device, and the same to the byte."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from repro.profiling.memory import saved_bytes
from repro.profiling.training_memory import MemoryMeter, StepMemory, step_memory, weight_bytes
from repro.training.finetune import with_lora

SHAPE = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "attn_implementation": "eager",
}  # fmt: skip
ROWS, TOKENS = 2, 12


def llama(device="cpu"):
    with torch.device(device):
        return LlamaForCausalLM(LlamaConfig(**SHAPE)).train()


def loss_of(model, device="cpu"):
    ids = torch.zeros(ROWS, TOKENS, dtype=torch.long, device=device)
    mask = torch.zeros(ROWS, 1, TOKENS, TOKENS, device=device)
    return lambda: model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss


def frozen(model):
    model.model.layers[1].requires_grad_(False)
    return model


def adapted(model):
    return with_lora(model, 3)


@pytest.mark.parametrize("treat", [lambda m: m, frozen, adapted])
def test_the_meta_device_says_what_training_measures(treat):
    model, shapes = treat(llama()), treat(llama("meta"))
    modelled = step_memory(shapes, loss_of(shapes, "meta"))
    optimizer = torch.optim.AdamW(model.parameters())
    with MemoryMeter(model) as meter:
        for _ in range(2):
            loss_of(model)().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert modelled.gradients == meter.gradients > 0
    assert modelled.moments == meter.moments == 2 * meter.gradients
    assert modelled.weights == weight_bytes(model)
    assert modelled.activations == saved_bytes(model, loss_of(model)) > 0


def test_a_frozen_linear_keeps_no_input_and_an_adapted_one_does():
    """Why LISA's activations are smaller than those of full training, and than those of LoRA."""
    model = llama()
    whole = saved_bytes(model, loss_of(model))
    model.model.layers.requires_grad_(False)
    without = saved_bytes(model, loss_of(model))
    lora = with_lora(llama(), 1)
    assert without < 0.8 * whole
    assert saved_bytes(lora, loss_of(lora)) > 1.1 * without


def test_activations_of_one_linear_layer_by_hand():
    layer = nn.Linear(5, 7, bias=False)
    x = torch.randn(3, 5, requires_grad=True)
    hidden = x * 2
    assert saved_bytes(layer, lambda: layer(hidden).relu().sum()) == 4 * 3 * (5 + 7)
    layer.requires_grad_(False)
    assert saved_bytes(layer, lambda: layer(hidden).relu().sum()) == 4 * 3 * 7


def test_bounds_of_the_peak():
    found = StepMemory(weights=10.0, gradients=4.0, moments=8.0, activations=6.0)
    assert (found.low, found.high, found.states) == (24.0, 28.0, 12.0)
    half = step_memory(llama(), loss_of(llama()), moment_bytes=2)
    assert half.moments == half.gradients


def test_the_meter_sees_its_own_model_only_and_lets_go():
    mine, other = nn.Linear(3, 2), nn.Linear(30, 20)
    seen = []
    with MemoryMeter(mine, seen.append) as meter:
        for model in (other, mine, mine):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            model(torch.ones(1, model.in_features)).sum().backward()
            optimizer.step()
    assert meter.gradients == meter.moments == 4 * 8
    assert len(seen) == 1
    assert meter.optimizer is seen[0]
    optimizer.step()
    assert len(seen) == 1


def test_what_was_found_before_a_training_was_broken_off_counts():
    one, other = MemoryMeter(nn.Linear(1, 1)), MemoryMeter(nn.Linear(1, 1))
    one.gradients, one.moments = 8.0, 16.0
    other.load_state_dict(one.state_dict())
    assert (other.gradients, other.moments) == (8.0, 16.0)


def test_the_largest_of_all_steps_counts():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 3, bias=False))
    optimizer = torch.optim.Adam(model.parameters())
    with MemoryMeter(model) as meter:
        for only in (0, 1, 0):
            for i, layer in enumerate(model):
                layer.requires_grad_(i == only)
                layer.weight.grad = None
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            for parameter in model.parameters():
                if not parameter.requires_grad:
                    optimizer.state.pop(parameter, None)
    assert meter.gradients == 4 * 6
    # the state of the layer just frozen is still there when the other steps
    assert 8 * 6 <= meter.moments <= 8 * 10
