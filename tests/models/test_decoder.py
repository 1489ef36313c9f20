"""The shared decoder against transformers' Llama."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from repro.models.decoder import Decoder, DecoderConfig


def llama(kv: int) -> tuple[LlamaForCausalLM, Decoder]:
    sizes = {
        "vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": kv, "rms_norm_eps": 1e-6, "initializer_range": 0.3,
    }  # fmt: skip
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    ours = Decoder(DecoderConfig(**sizes)).eval()
    source, target = theirs.state_dict(), {}
    for name in ours.state_dict():
        if ".feed_forward.norm." in name:
            target[name] = source["model." + name.replace("feed_forward.norm", "post_attention_layernorm")]
        elif name.endswith("gate_up_proj.weight"):
            at = "model." + name.removesuffix("feed_forward.ffn.gate_up_proj.weight") + "mlp."
            target[name] = torch.cat([source[at + "gate_proj.weight"], source[at + "up_proj.weight"]])
        elif name.endswith("down_proj.weight"):
            target[name] = source["model." + name.replace("feed_forward.ffn", "mlp")]
        else:
            target[name] = source.get("model." + name, source.get(name))
    ours.load_state_dict(target)
    return theirs, ours


@pytest.mark.parametrize("kv", [4, 2])
def test_is_llama(kv):
    theirs, ours = llama(kv)
    ids = torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(1))
    expected, got = theirs(ids, labels=ids), ours(ids, labels=ids)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.loss, expected.loss)
    assert got.aux_loss is None
    torch.testing.assert_close(ours(ids, logits_to_keep=2).logits, got.logits[:, -2:], rtol=1e-5, atol=1e-5)


def test_cache_changes_nothing():
    _, model = llama(2)
    ids = torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(1))
    out = model(ids[:, :4], use_cache=True)
    rest = model(ids[:, 4:], past_key_values=out.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([out.logits, rest.logits], 1), model(ids).logits, rtol=1e-5, atol=1e-5)


def test_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="linear"):
        DecoderConfig(attention="linear")
