"""DiT: against the formulas written out, its start at zero, positions and patches."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from repro.models.dit import DiT, DiTBlock, DiTConfig, initialise_dit, plane_positions, swiglu
from repro.models.moe import Experts, SwiGLU
from repro.models.vit import MLP

SMALL = DiTConfig(size=4, patch=2, channels=3, classes=5, hidden=8, layers=2, heads=2, frequencies=6)


def random_weights(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def inputs(rows=3, config=SMALL, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, config.channels, config.size, config.size, generator=g)
    return x, torch.rand(rows, generator=g), torch.randint(config.classes + 1, (rows,), generator=g)


def written_out(model, x, t, y):
    """The network of one image at a time, from the paper's formulas."""
    c, weights = model.config, dict(model.named_parameters())
    images = []
    for image, time, label in zip(x, t, y, strict=True):
        half = c.frequencies // 2
        angles = [1000 * time * 1e4 ** (-i / half) for i in range(half)]
        embedded = torch.stack([a.sin() for a in angles] + [a.cos() for a in angles])
        h = F.silu(weights["condition.time1.weight"] @ embedded + weights["condition.time1.bias"])
        cond = weights["condition.time2.weight"] @ h + weights["condition.time2.bias"]
        cond = F.silu(cond + weights["condition.labels.weight"][label])
        tokens = []
        for i in range(c.side):
            for j in range(c.side):
                part = image[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten()
                value = weights["patches.weight"].flatten(1) @ part + weights["patches.bias"]
                tokens.append(value + model.positions[i * c.side + j])
        u = torch.stack(tokens)

        def norm(v):
            return (v - v.mean(-1, keepdim=True)) / (v.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

        for n, block in enumerate(model.blocks):
            m = weights[f"blocks.{n}.modulation.weight"] @ cond + weights[f"blocks.{n}.modulation.bias"]
            b1, s1, g1, b2, s2, g2 = m.chunk(6)
            v = norm(u) * (1 + s1) + b1
            q, k, w = (v @ block.attention.qkv.weight.T + block.attention.qkv.bias).chunk(3, -1)
            heads = []
            for head in range(c.heads):
                at = slice(head * c.hidden // c.heads, (head + 1) * c.hidden // c.heads)
                scores = q[:, at] @ k[:, at].T / math.sqrt(c.hidden // c.heads)
                heads.append(scores.softmax(-1) @ w[:, at])
            mixed = torch.cat(heads, -1) @ block.attention.out.weight.T + block.attention.out.bias
            u = u + g1 * mixed
            v = norm(u) * (1 + s2) + b2
            ff = block.feed_forward
            hidden = F.gelu(v @ ff.fc1.weight.T + ff.fc1.bias)
            u = u + g2 * (hidden @ ff.fc2.weight.T + ff.fc2.bias)
        shift, scale = (weights["modulation.weight"] @ cond + weights["modulation.bias"]).chunk(2)
        out = (norm(u) * (1 + scale) + shift) @ weights["out.weight"].T + weights["out.bias"]
        page = torch.zeros(c.out_channels, c.size, c.size)
        for i in range(c.side):
            for j in range(c.side):
                page[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = (
                    out[i * c.side + j].view(2, 2, c.out_channels).permute(2, 0, 1)
                )
        images.append(page)
    return torch.stack(images)


def test_it_is_what_the_paper_writes():
    model = random_weights(DiT(SMALL))
    x, t, y = inputs()
    torch.testing.assert_close(model(x, t, y), written_out(model, x, t, y), rtol=1e-4, atol=1e-5)


def test_at_the_start_blocks_are_the_identity_and_the_output_is_zero():
    model = initialise_dit(DiT(SMALL, swiglu(SMALL, 2)), 0)
    x, t, y = inputs()
    assert torch.equal(model(x, t, y), torch.zeros(3, 3, 4, 4))
    tokens = torch.randn(3, 4, 8)
    assert torch.equal(model.blocks[0](tokens, torch.randn(3, 8)), tokens)


def test_gradients_reach_one_more_layer_with_every_step():
    model = initialise_dit(DiT(SMALL, swiglu(SMALL, 2)), 0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5)
    x, t, y = inputs()
    inner = {n for n, _ in model.named_parameters() if ".attention." in n or ".feed_forward." in n}
    gates = {n for n, _ in model.named_parameters() if n.startswith("blocks") and ".modulation." in n}
    for step in range(3):
        (model(x, t, y) - x).square().mean().backward()
        reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        if step == 0:
            assert reached == {"out.weight", "out.bias"}
        assert bool(reached & gates) == (step > 0)
        assert (inner <= reached) == (step > 1)
        assert bool(reached & inner) == (step > 1)
        optimizer.step()
        optimizer.zero_grad()


def test_positions_are_sines_of_column_and_row():
    found = plane_positions(8, 3)
    place, rate = 2 * 3 + 1, 1e4**-0.5  # row 2, column 1
    column = [math.sin(1), math.sin(rate), math.cos(1), math.cos(rate)]
    row = [math.sin(2), math.sin(2 * rate), math.cos(2), math.cos(2 * rate)]
    torch.testing.assert_close(found[place], torch.tensor(column + row))
    model = DiT(SMALL)
    assert not model.positions.requires_grad


def test_patches_come_back_where_they_were():
    model = DiT(SMALL)
    x = torch.randn(2, 3, 4, 4)
    patches = x.view(2, 3, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(2, 4, 12)
    assert torch.equal(model.unpatch(patches), x)


def test_normed_queries_and_keys_do_not_change_with_their_size():
    config = DiTConfig(size=4, channels=3, hidden=8, layers=1, heads=2, qk_norm=True)
    block = random_weights(DiTBlock(config, MLP(8, 16)))
    x = torch.randn(2, 4, 8)
    before = block.attention(x)
    with torch.no_grad():
        block.attention.qkv.weight[:16] *= 3
        block.attention.qkv.bias[:16] *= 3
    torch.testing.assert_close(block.attention(x), before, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        block.attention.qkv.weight[16:] *= 3
    assert not torch.allclose(block.attention(x), before, rtol=1e-2)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"size": 5}, "fill"), ({"heads": 3}, "heads"), ({"hidden": 6, "heads": 2}, "multiple of 4")],
)
def test_shapes_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        DiTConfig(**{**{"size": 4, "hidden": 8, "heads": 2}, **change})


class WithExperts(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.experts = Experts(count, 8, 12)
        self.shared = SwiGLU(8, 12)


def test_the_start_goes_by_name_and_each_matrix_by_its_own_size():
    few, many, other = (initialise_dit(WithExperts(n), seed) for n, seed in ((2, 0), (4, 0), (2, 1)))
    for name, tensor in few.experts.named_parameters():
        assert torch.equal(tensor, many.experts.get_parameter(name)[:2])
        assert not torch.equal(tensor, other.experts.get_parameter(name))
    bound = math.sqrt(6 / 20)
    for weight in (few.experts.gate_up_proj, few.experts.down_proj, few.shared.gate_up_proj.weight):
        assert 0.9 * bound < float(weight.detach().abs().max()) <= bound
    gate, up = few.shared.gate_up_proj.weight.chunk(2)
    assert not torch.equal(gate, up)
    torch.manual_seed(3)
    assert torch.equal(few.experts.down_proj, initialise_dit(WithExperts(2), 0).experts.down_proj)


def test_the_start_of_the_label_table_and_the_time():
    model = initialise_dit(DiT(DiTConfig(hidden=64, heads=4, classes=999)), 0)
    for weight in (model.condition.labels.weight, model.condition.time1.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.patches.weight.detach().abs().max()) <= math.sqrt(6 / (64 + 4))
