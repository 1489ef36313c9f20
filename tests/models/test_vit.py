"""The ViT against transformers' own."""

from __future__ import annotations

import pytest
import torch
from transformers import ViTConfig as TheirConfig
from transformers import ViTModel

from repro.models.vit import ViT, ViTConfig, cosine_logits

SHAPE = ViTConfig(size=12, patch=4, channels=3, hidden=16, layers=3, heads=4, width=24)


def twins():
    """A transformers model and ours with its weights."""
    torch.manual_seed(0)
    theirs = ViTModel(
        TheirConfig(
            hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=24, image_size=12,
            patch_size=4, num_channels=3, layer_norm_eps=SHAPE.eps, attn_implementation="eager",
        ),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ours = ViT(SHAPE).eval()
    state = {
        "class_token": theirs.embeddings.cls_token,
        "positions": theirs.embeddings.position_embeddings,
        "patches.weight": theirs.embeddings.patch_embeddings.projection.weight,
        "patches.bias": theirs.embeddings.patch_embeddings.projection.bias,
        "norm.weight": theirs.layernorm.weight,
        "norm.bias": theirs.layernorm.bias,
    }
    for i, layer in enumerate(theirs.layers):
        attention = layer.attention
        for kind in ("weight", "bias"):
            parts = [getattr(getattr(attention, f"{n}_proj"), kind) for n in "qkv"]
            state |= {
                f"blocks.{i}.attention.qkv.{kind}": torch.cat(parts),
                f"blocks.{i}.attention.out.{kind}": getattr(attention.o_proj, kind),
                f"blocks.{i}.norm1.{kind}": getattr(layer.layernorm_before, kind),
                f"blocks.{i}.norm2.{kind}": getattr(layer.layernorm_after, kind),
                f"blocks.{i}.mlp.fc1.{kind}": getattr(layer.mlp.fc1, kind),
                f"blocks.{i}.mlp.fc2.{kind}": getattr(layer.mlp.fc2, kind),
            }
    ours.load_state_dict({name: value.detach().clone() for name, value in state.items()})
    return theirs, ours


def test_it_is_transformers_vit_forward_and_backward():
    theirs, ours = twins()
    images = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    expected = theirs(images).last_hidden_state
    found = ours.tokens(images)
    assert found.shape == (5, 10, 16)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(ours(images), found[:, 0])
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (expected * weight).sum().backward()
    (found * weight).sum().backward()
    pairs = [
        (ours.patches.weight.grad, theirs.embeddings.patch_embeddings.projection.weight.grad),
        (ours.positions.grad, theirs.embeddings.position_embeddings.grad),
        (ours.blocks[0].attention.qkv.weight.grad[:16], theirs.layers[0].attention.q_proj.weight.grad),
        (ours.blocks[2].mlp.fc1.weight.grad, theirs.layers[2].mlp.fc1.weight.grad),
    ]
    for a, b in pairs:
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_shapes_that_do_not_fit_are_errors():
    with pytest.raises(ValueError, match="patches of 5"):
        ViTConfig(patch=5)
    with pytest.raises(ValueError, match="heads"):
        ViTConfig(heads=5)


def test_cosine_logits_know_no_length():
    features, directions = torch.randn(4, 8), torch.randn(3, 8)
    logits = cosine_logits(features, directions, 10.0)
    assert logits.shape == (4, 3)
    torch.testing.assert_close(cosine_logits(7 * features, 0.1 * directions, 10.0), logits)
    assert float(cosine_logits(directions, directions, 10.0).diagonal().min()) == pytest.approx(10, abs=1e-4)
