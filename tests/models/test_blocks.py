"""Blocks of transformers' own models, and their similarities by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from repro.models.blocks import block_similarities, decoder_blocks, without_blocks
from tests.tiny import FAMILIES, tiny_lm

IDS = torch.randint(3, 40, (3, 11), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", FAMILIES)
def test_blocks_are_found_and_similarities_are_those_of_the_hidden_states(kind):
    model = tiny_lm(kind)
    assert len(decoder_blocks(model)) == 4
    with torch.no_grad():
        states = model(input_ids=IDS, output_hidden_states=True, use_cache=False).hidden_states
    hooks = [len(block._forward_hooks) for block in decoder_blocks(model)]  # transformers leaves its own
    found = block_similarities(model, [IDS[:2], IDS[2:]])
    # the last of transformers' hidden states has passed the final norm
    for index in range(3):
        x, y = states[index], states[index + 1]
        wanted = F.cosine_similarity(x, y, dim=-1).mean()
        assert float(found.per_token[index]) == pytest.approx(float(wanted), abs=1e-5)
    whole = block_similarities(model, [IDS])
    wanted = F.cosine_similarity(states[0].flatten(), states[1].flatten(), dim=0)
    assert float(whole.flattened[0]) == pytest.approx(float(wanted), abs=1e-5)
    assert [len(block._forward_hooks) for block in decoder_blocks(model)] == hooks


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_block_that_is_skipped_passes_on_what_enters(kind):
    model = tiny_lm(kind)
    with torch.no_grad():
        before = model(input_ids=IDS, use_cache=False).logits
        with without_blocks(model, [1, 2]):
            found = block_similarities(model, [IDS])
            inside = model(input_ids=IDS, use_cache=False).logits
        assert torch.equal(model(input_ids=IDS, use_cache=False).logits, before)
    assert (inside - before).abs().max() > 1e-3
    assert found.per_token[1:3].tolist() == pytest.approx([1, 1], abs=1e-6)
    assert found.per_token[0] < 0.999


def test_skipping_is_taking_out():
    model, shorter = tiny_lm("llama"), tiny_lm("llama")
    del shorter.model.layers[2]
    shorter.config.num_hidden_layers = 3
    with torch.no_grad(), without_blocks(model, [2]):
        torch.testing.assert_close(
            model(input_ids=IDS, use_cache=False).logits, shorter(input_ids=IDS, use_cache=False).logits
        )


def test_what_has_no_blocks_is_an_error():
    with pytest.raises(ValueError, match="no single list"):
        decoder_blocks(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="no calibration tokens"):
        block_similarities(tiny_lm("llama"), [])
    with pytest.raises(ValueError, match="there are 4 blocks"), without_blocks(tiny_lm("llama"), [4]):
        pass
