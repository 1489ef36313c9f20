"""Every way to run experts agrees with the naive one, forward and backward, over random shapes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repro.models import dispatch
from repro.models.moe import (
    Experts,
    TopKRouter,
    asymmetry,
    coactivation,
    diagonal_ratio,
    sequence_balance_loss,
    usage_entropy,
)
from repro.models.ways import forced


def case(tokens: int, hidden: int, width: int, experts: int, k: int, one: bool, seed: int):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, hidden, generator=g)
    scores = torch.rand(tokens, experts, generator=g)
    if one:  # one expert gets every token, most others none
        scores[:, 0] = 2.0
        scores[:, 1:] = torch.arange(experts - 1).float() / experts
    weights, indices = scores.topk(k, dim=-1)
    gate_up = 0.3 * torch.randn(experts, 2 * width, hidden, generator=g)
    down = 0.3 * torch.randn(experts, hidden, width, generator=g)
    return x, indices, weights, gate_up, down


def run(way: str, x, indices, weights, gate_up, down):
    leaves = [t.clone().requires_grad_() for t in (x, weights, gate_up, down)]
    y = dispatch.WAYS[way](leaves[0], indices, leaves[1], leaves[2], leaves[3])
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return [y.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("way", ["dense", "grouped", "lean"])
@given(
    tokens=st.integers(1, 40), hidden=st.integers(1, 5), width=st.integers(1, 5), experts=st.integers(1, 9),
    share=st.floats(0, 1), one=st.booleans(), seed=st.integers(0, 10**6),
)  # fmt: skip
@example(tokens=1, hidden=4, width=4, experts=8, share=0.0, one=False, seed=0)
@example(tokens=17, hidden=4, width=4, experts=6, share=1.0, one=False, seed=1)
@example(tokens=17, hidden=4, width=4, experts=6, share=0.0, one=True, seed=2)
@settings(max_examples=60, deadline=None)
def test_agrees_with_naive(way, tokens, hidden, width, experts, share, one, seed):
    # grouped matmuls want rows of 16 bytes; sizes are multiples of 4 floats
    k = 1 + round(share * (experts - 1))
    inputs = case(tokens, 4 * hidden, 4 * width, experts, k, one, seed)
    for ours, reference in zip(run(way, *inputs), run("naive", *inputs), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("size", [1, 700, 1500, 10**6])
def test_experts_in_blocks_agree_with_naive(monkeypatch, size, one):
    monkeypatch.setattr(dispatch, "BLOCKS_FROM", 0)
    monkeypatch.setattr(dispatch, "BLOCK_BYTES", size)
    inputs = case(23, 8, 4, 9, 3, one, 4)
    for ours, reference in zip(run("lean", *inputs), run("naive", *inputs), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "hidden", "width"),
    [
        (torch.float32, 6, 8), (torch.float32, 8, 6), (torch.float32, 7, 5), (torch.float32, 1, 1),
        (torch.float64, 8, 8), (torch.float64, 7, 5), (torch.bfloat16, 8, 4), (torch.bfloat16, 12, 8),
        (torch.float16, 8, 4), (torch.float16, 7, 5),
    ],
)  # fmt: skip
@pytest.mark.parametrize("one", [False, True])
def test_sizes_that_grouped_products_refuse(dtype, hidden, width, one):
    x, indices, *rest = case(17, hidden, width, 6, 2, one, 5)
    inputs = x.to(dtype), indices, *(part.to(dtype) for part in rest)
    leaves = [t.clone().requires_grad_() for t in inputs if t is not indices]
    y = dispatch.run_experts(leaves[0], indices, *leaves[1:])
    (y * torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)).sum().backward()
    assert y.dtype == dtype
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype.itemsize > 2 else {"rtol": 0.05, "atol": 0.05}
    for ours, reference in zip([y, *(leaf.grad for leaf in leaves)], run("naive", *inputs), strict=True):
        torch.testing.assert_close(ours, reference, **tolerance)
    with forced("grouped"), pytest.raises(ValueError, match="naive, dense and"):
        dispatch.run_experts(*inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_groupable_is_what_torch_takes(dtype):
    ends = torch.tensor([1, 3], dtype=torch.int32)
    for hidden in range(1, 17):
        for width in range(1, 17):
            try:
                h = torch.nn.functional.grouped_mm(
                    torch.ones(3, hidden, dtype=dtype), torch.ones(2, hidden, width, dtype=dtype), offs=ends
                )
                torch.nn.functional.grouped_mm(h, torch.ones(2, width, hidden, dtype=dtype), offs=ends)
                taken = True
            except RuntimeError:
                taken = False
            assert dispatch.groupable(dtype, hidden, width) == taken, (hidden, width)


def test_blocks_cover_experts_and_rows_once():
    ends = torch.tensor([3, 3, 10, 12, 20, 21], dtype=torch.int32)
    few = dispatch._blocks(21, 6, 10, ends)
    assert [(b.start, b.stop) for b, _, _ in few] == [(0, 6)]
    many = dispatch._blocks(21, 6, 10**6, ends)
    assert [r for _, rows, _ in many for r in range(rows.start, rows.stop)] == list(range(21))
    assert [e for experts, _, _ in many for e in range(experts.start, experts.stop)] == list(range(6))
    assert len(many) == 6


def test_a_compiled_model_runs_experts_one_by_one():
    layer = Experts(6, 4, 4)
    torch.nn.init.normal_(layer.gate_up_proj)
    torch.nn.init.normal_(layer.down_proj)
    x, indices, weights, *_ = case(5, 4, 4, 6, 2, False, 0)
    torch.testing.assert_close(torch.compile(layer, backend="eager")(x, indices, weights), layer(x, indices, weights))


def test_experts_can_be_transformed():
    layer = Experts(6, 4, 4)
    torch.nn.init.normal_(layer.gate_up_proj)
    torch.nn.init.normal_(layer.down_proj)
    x, indices, weights, *_ = case(5, 4, 4, 6, 2, False, 0)
    parameters = dict(layer.named_parameters())

    def loss(parameters, x, indices, weights):
        return torch.func.functional_call(layer, parameters, (x, indices, weights)).square().sum()

    found = torch.func.grad(loss)(parameters, x, indices, weights)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0, 0))(
        parameters, x[:, None], indices[:, None], weights[:, None]
    )
    loss(parameters, x, indices, weights).backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(each[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("experts", [3, 256, 257, 1000])
def test_selections_are_sorted_by_counting(experts):
    flat = torch.randint(experts, (700,), generator=torch.Generator().manual_seed(experts))
    flat[0] = experts - 1
    order, ends = dispatch._sorted(flat, experts)
    assert order.dtype == torch.int64
    assert torch.equal(order, flat.argsort(stable=True))
    assert torch.equal(ends, torch.bincount(flat, minlength=experts).cumsum(0).int())


def test_naive_is_the_formula():
    x, indices, weights, gate_up, down = case(3, 4, 4, 5, 2, False, 0)
    for t in range(3):
        expected = torch.zeros(4)
        for slot in range(2):
            e = indices[t, slot]
            gate, up = (gate_up[e] @ x[t]).chunk(2)
            expected += weights[t, slot] * (down[e] @ (gate * gate.sigmoid() * up))
        torch.testing.assert_close(dispatch.naive(x, indices, weights, gate_up, down)[t], expected)


def test_choice_is_visible_and_can_be_forced(monkeypatch):
    assert dispatch.choose(100, 16, 4) == "lean"
    assert dispatch.choose(100, 16, 4, "cuda") == "grouped"
    assert dispatch.choose(100, 4, 4) == "dense"
    called = []
    monkeypatch.setitem(dispatch.WAYS, "naive", lambda *a: (called.append(1), dispatch.naive(*a))[1])
    layer = Experts(6, 4, 4)
    torch.nn.init.normal_(layer.gate_up_proj)
    torch.nn.init.normal_(layer.down_proj)
    x, indices, weights, *_ = case(5, 4, 4, 6, 2, False, 0)
    layer(x, indices, weights)
    assert not called
    with forced("naive"):
        layer(x, indices, weights)
    assert called
    with pytest.raises(KeyError), forced("quick"):
        pass


def test_agrees_with_transformers_experts():
    from transformers import DeepseekV2Config
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Experts

    x, indices, weights, gate_up, down = case(20, 8, 4, 6, 2, False, 3)
    theirs = DeepseekV2Experts(
        DeepseekV2Config(hidden_size=8, moe_intermediate_size=4, n_routed_experts=6, num_attention_heads=1)
    )
    ours = Experts(6, 8, 4)
    ours.load_state_dict({"gate_up_proj": gate_up, "down_proj": down})
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x, indices, weights), theirs(x, indices, weights), rtol=1e-5, atol=1e-5)


def test_autocast_runs_in_half_precision():
    x, indices, weights, gate_up, down = case(20, 8, 8, 6, 2, False, 3)
    with torch.autocast("cpu", torch.bfloat16):
        y = dispatch.run_experts(x, indices, weights, gate_up, down)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), dispatch.naive(x, indices, weights, gate_up, down), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("make", [lambda: Experts(6, 16, 8), lambda: TopKRouter(16, 6, 2)])
def test_weights_are_nan_until_they_are_initialised(make):
    before = torch.get_rng_state()
    module = make()
    assert all(parameter.isnan().all() for parameter in module.parameters())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    module.reset_parameters()
    for parameter in map(torch.Tensor.detach, module.parameters()):
        bound = parameter.shape[-1] ** -0.5
        linear = torch.nn.Linear(parameter.shape[-1], parameter.numel() // parameter.shape[-1]).weight.detach()
        assert linear.abs().max() <= bound
        assert 0.95 * bound < parameter.abs().max() <= bound
        assert parameter.std() == pytest.approx(linear.std().item(), rel=0.15)
        assert not torch.equal(parameter[0], parameter[1])
    with torch.device("meta"):
        made = make()
    made.reset_parameters()
    assert all(parameter.is_meta for parameter in made.parameters())


def test_router_keeps_the_largest_softmax_scores_as_they_are():
    router = TopKRouter(4, 6, 2)
    torch.nn.init.normal_(router.weight)
    x = torch.randn(9, 4)
    scores, indices, weights = router(x)
    torch.testing.assert_close(scores, (x @ router.weight.T).softmax(-1))
    torch.testing.assert_close(weights, scores.gather(1, indices))
    assert (weights.sum(1) < 1).all()
    assert (scores.sort(descending=True).indices[:, :2] == indices).all()
    whole = TopKRouter(4, 6, 6)
    whole.reset_parameters()
    assert torch.allclose(whole(x).weights.sum(1), torch.ones(9))
    with pytest.raises(ValueError, match="no gradient"):
        TopKRouter(4, 6, 1, renormalise=True)


def test_balance_loss_by_hand():
    scores = torch.tensor([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8], [0.5, 0.5]], requires_grad=True)
    indices = torch.tensor([[0], [0], [1], [0]])
    loss = sequence_balance_loss(scores, indices, 2)
    # first sequence: c = (2, 0), p = (.65, .35); second: c = (1, 1), p = (.35, .65)
    assert loss.item() == pytest.approx((2 * 0.65 + 1.0) / 2)
    loss.backward()
    torch.testing.assert_close(scores.grad[0], torch.tensor([2 / 4, 0.0]))
    assert sequence_balance_loss(scores, indices, 1).item() == pytest.approx(1.5 * 0.5 + 0.5 * 0.5)


def test_coactivation_counts_and_its_ratio():
    first, second = torch.tensor([[0, 1], [1, 2]]), torch.tensor([[1, 2], [0, 1]])
    matrix = coactivation(first, second, 3)
    assert matrix.tolist() == [[0, 1, 1], [1, 2, 1], [1, 1, 0]]
    # independent choices with the same marginals give 1
    assert diagonal_ratio(torch.outer(torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 2, 1]))) == pytest.approx(1)
    assert diagonal_ratio(torch.eye(4)) == pytest.approx(4)
    assert asymmetry(torch.eye(4)) == 0
    assert usage_entropy(torch.tensor([0, 1, 2, 3]), 4) == pytest.approx(1)
    assert usage_entropy(torch.tensor([2, 2]), 4) == pytest.approx(0)
