"""Adapters on one model: the fast path against the plain one, and what is refused."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from repro.data import MissingData
from repro.models.adapters import Adapter, AdapterBank, adapter_of, naive, read_adapter


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x):
        return self.down(self.up(x).relu())


def adapter(seed, rank=2, scale=2.0, dropout=0.0):
    g = torch.Generator().manual_seed(seed)
    shapes = {"up": (6, 10), "down": (10, 6)}
    factors = {
        path: (torch.randn(rank, i, generator=g), torch.randn(o, rank, generator=g)) for path, (i, o) in shapes.items()
    }
    return Adapter(f"a{seed}", factors, scale, dropout)


def some():
    return [adapter(0), adapter(1, 3, 0.5), adapter(2, 1)]


def test_the_fast_path_is_the_plain_one_forward_and_backward():
    layer = AdapterBank(Small(), some()).layers[0]
    x, gates = torch.randn(4, 5, 6), torch.rand(4, 5, 3)
    found = []
    for path in (layer, lambda x, g: naive(layer, x, g)):
        inputs = x.clone().requires_grad_(), gates.clone().requires_grad_()
        out = path(*inputs)
        out.square().sum().backward()
        found.append((out.detach(), inputs[0].grad, inputs[1].grad))
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-4)


def test_a_gate_on_the_input_is_one_on_the_output():
    layer = AdapterBank(Small(), [adapter(0)]).layers[0]
    x, gates = torch.randn(4, 5, 6), torch.rand(4, 5, 1)
    torch.testing.assert_close(layer(x, gates), gates * (2.0 * x @ layer.A.T @ layer.B.T))
    torch.testing.assert_close(naive(layer, x, gates), gates * (2.0 * x @ layer.A.T @ layer.B.T))


def test_gates_of_every_shape():
    model = Small()
    bank = AdapterBank(model, some())
    x = torch.randn(4, 5, 6)
    with bank.gated(torch.tensor([0.2, 0.3, 0.5])):
        wanted = model(x)
    for shape in ((1, 3), (2, 3), (5, 1, 3), (4, 5, 2, 3)):
        with bank.gated(torch.tensor([0.2, 0.3, 0.5]).expand(shape)):
            torch.testing.assert_close(model(x), wanted)
    per_layer = torch.eye(3)[:2]
    with bank.gated(per_layer):
        found = model(x)
    a, b = (some()[i].factors[path] for i, path in enumerate(("up", "down")))
    hidden = (model.up(x) + 2.0 * x @ a[0].T @ a[1].T).relu()
    torch.testing.assert_close(found, model.down(hidden) + 0.5 * hidden @ b[0].T @ b[1].T)
    assert bank.gates is None
    torch.testing.assert_close(model(x), Small()(x), rtol=0, atol=0)


def test_dropout_is_that_of_each_adapter_and_of_training_only():
    model = Small()
    bank = AdapterBank(model, [adapter(0, dropout=1.0), adapter(1)])
    x = torch.randn(4, 5, 6)
    with bank.gated(torch.tensor([1.0, 1.0])):
        trained, tested = model(x), (bank.eval(), model(x))[1]
    with bank.gated(bank.one(1)):
        torch.testing.assert_close(trained, model(x))
    assert not torch.allclose(trained, tested)


def test_from_peft_s_state_in_any_order_of_layers():
    torch.manual_seed(1)
    config = LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["down", "up"], init_lora_weights=False)
    wrapped = get_peft_model(Small(), config)
    x = torch.randn(4, 6)
    found = adapter_of("one", dict(reversed(get_peft_model_state_dict(wrapped).items())), config)
    model = Small()
    bank = AdapterBank(model, [found])
    assert bank.paths == ["up", "down"]
    with bank.gated(bank.one(0)):
        torch.testing.assert_close(model(x), wrapped(x))
    bank.release()
    torch.testing.assert_close(model(x), Small()(x), rtol=0, atol=0)


def test_what_is_no_plain_lora_is_refused():
    state = {"base_model.model.up.lora_A.weight": torch.ones(2, 6)}
    with pytest.raises(ValueError, match="lacks a factor"):
        adapter_of("a", state, LoraConfig(r=2))
    with pytest.raises(ValueError, match="no factor of a linear layer"):
        adapter_of("a", {"base_model.model.up.lora_magnitude_vector": torch.ones(2)}, LoraConfig(r=2))
    for options in ({"use_dora": True}, {"bias": "all"}, {"rank_pattern": {"up": 3}}, {"alpha_pattern": {"up": 3}}):
        with pytest.raises(ValueError, match="no plain LoRA"):
            adapter_of("a", state, LoraConfig(r=2, **options))
    with pytest.raises(ValueError, match="no adapter"):
        AdapterBank(Small(), [])
    fewer = Adapter("b", {"up": some()[0].factors["up"]}, 1.0)
    with pytest.raises(ValueError, match="different layers"):
        AdapterBank(Small(), [*some(), fewer])
    with pytest.raises(ValueError, match="no layer 'up'"):
        AdapterBank(nn.Linear(6, 6), [fewer])


def test_an_adapter_that_is_not_there_is_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingData, match=r"a1' is absent.*save_pretrained"):
        read_adapter(str(tmp_path), folder="a1")
    with pytest.raises(MissingData, match="absent"):
        read_adapter("nobody/no-such-adapter")


def test_folders_and_their_sub_folders(tmp_path):
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["down", "up"], init_lora_weights=False)
    get_peft_model(Small(), config).save_pretrained(tmp_path / "inner")
    direct, inside = read_adapter(str(tmp_path / "inner")), read_adapter(str(tmp_path), folder="inner")
    assert direct.name == inside.name == "inner"
    assert direct.scale == 2.0
    torch.testing.assert_close(direct.factors["up"], inside.factors["up"])
