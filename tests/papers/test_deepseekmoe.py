"""DeepSeekMoE: parity with transformers and plain formulas, and the invariants of the method."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from papers.deepseekmoe.baselines import AlwaysOn, HashLayer
from papers.deepseekmoe.experiment import StepDecay, analyse, expert_parameters, language_model, layer_shape
from papers.deepseekmoe.method import (
    Ablation,
    DeepSeekMoE,
    Shape,
    ablated,
    adopt,
    balance_loss,
    device_balance_loss,
    expert_balance_loss,
    host_experts,
    segment,
)
from papers.deepseekmoe.model import DeepSeekMoEConfig, DeepSeekMoEForCausalLM
from papers.deepseekmoe.paper import PAPER, Config
from papers.deepseekmoe.published import accounting, config_16b, on_meta, total_and_active
from repro.data.base import Batch
from repro.models.moe import SwiGLU
from repro.models.ways import forced
from repro.profiling.counts import count_parameters
from repro.training.fit import batch_loss, profile_training
from repro.training.initial import initialise

GRID = ("gshard", "shared", "fine", "finer", "finer-2", "finer-4")


def layer(shape: Shape = Shape(7, 3, 1, 4), hidden: int = 8, std: float = 0.5, **options: float) -> DeepSeekMoE:  # noqa: B008
    made = DeepSeekMoE(hidden, shape, **options)  # type: ignore[arg-type]
    initialise(made, 0, std)
    return made


def tokens(count: int = 12, hidden: int = 8) -> torch.Tensor:
    return torch.randn(count, hidden, generator=torch.Generator().manual_seed(1))


def arm(name: str, setting: str = "facts", scale: str = "laptop") -> Config:
    return Config(**PAPER.resolve(setting, name, scale))


# --- parity ------------------------------------------------------------------------------------------------------


def test_without_segments_and_shared_experts_it_is_plain_top_k():
    """m = 1, K_s = 0: softmax over all, the K largest as they are, expert by expert."""
    moe, u = layer(segment(5, 2, 4)), tokens()
    expected = torch.zeros_like(u)
    for t, x in enumerate(u):
        scores = (moe.router.weight @ x).softmax(0)
        for i in scores.argsort(descending=True)[:2]:
            gate, up = (moe.experts.gate_up_proj[i] @ x).chunk(2)
            expected[t] += scores[i] * (moe.experts.down_proj[i] @ (nn.functional.silu(gate) * up))
    torch.testing.assert_close(moe(u)[0], expected)
    assert moe.shared is None


def test_with_everything_selected_and_equal_logits_gates_are_one_over_n():
    moe = layer(Shape(6, 6, 1, 4))
    with torch.no_grad():
        moe.router.weight.zero_()
    torch.testing.assert_close(moe.route(tokens()).weights, torch.full((12, 6), 1 / 6))


def test_gates_are_the_scores_and_shared_experts_have_none():
    moe, u = layer(), tokens()
    routing = moe.route(u)
    torch.testing.assert_close(routing.weights, routing.scores.gather(1, routing.indices), rtol=0, atol=0)
    assert (routing.weights.sum(1) < 0.999).all()
    torch.testing.assert_close(routing.scores.sum(1), torch.ones(12))
    with torch.no_grad():
        moe.experts.down_proj.zero_()
    torch.testing.assert_close(moe(u)[0], moe.shared(u), rtol=0, atol=0)


def test_fused_shared_experts_are_the_sum_of_separate_ones():
    moe, u = layer(Shape(6, 2, 3, 4)), tokens()
    gate, up = (part.chunk(3) for part in moe.shared.gate_up_proj.weight.chunk(2))
    down = moe.shared.down_proj.weight.chunk(3, dim=1)
    total = torch.zeros_like(u)
    for k in range(3):
        one = SwiGLU(8, 4)
        with torch.no_grad():
            one.gate_up_proj.weight.copy_(torch.cat([gate[k], up[k]]))
            one.down_proj.weight.copy_(down[k])
        total = total + one(u)
    torch.testing.assert_close(moe.shared(u), total)


@pytest.fixture(scope="module")
def deepseek():
    from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

    config = DeepseekV2Config(
        vocab_size=40, hidden_size=16, intermediate_size=24, moe_intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, n_routed_experts=6, n_shared_experts=2, num_experts_per_tok=3, first_k_dense_replace=0,
        q_lora_rank=None, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, norm_topk_prob=False,
        topk_method="greedy", routed_scaling_factor=1.0, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    return DeepseekV2ForCausalLM(config).eval()


def test_agrees_with_transformers_layer(deepseek):
    theirs = deepseek.model.layers[0].mlp
    ours = adopt(copy.deepcopy(deepseek)).model.layers[0].mlp
    u = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours(u), theirs(u), rtol=1e-5, atol=1e-5)


def test_an_adopted_model_computes_what_it_did_and_can_be_ablated(deepseek):
    ids = torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(3))
    expected = deepseek(ids).logits
    ours = adopt(copy.deepcopy(deepseek))
    torch.testing.assert_close(ours(ids).logits, expected, rtol=1e-5, atol=1e-5)
    with ablated(ours, Ablation(shared=False, extra=1)):
        assert not torch.allclose(ours(ids).logits, expected, atol=1e-2)
    torch.testing.assert_close(ours(ids).logits, expected, rtol=1e-5, atol=1e-5)
    assert ours.generate(ids, max_new_tokens=3, do_sample=False).shape == (2, 10)


def test_what_routes_otherwise_is_not_adopted(deepseek):
    other = copy.deepcopy(deepseek)
    other.config.routed_scaling_factor = 16.0
    with pytest.raises(ValueError, match="otherwise"):
        adopt(other)
    with pytest.raises(ValueError, match="no DeepSeek-V2"):
        adopt(nn.Linear(2, 2))


def test_a_llama_takes_the_layer():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    model = host_experts(LlamaForCausalLM(config), experts=4, k=2)
    ids = torch.randint(0, 30, (2, 6), generator=torch.Generator().manual_seed(4))
    hosted = model.train()(ids, labels=ids)
    (hosted.loss + balance_loss(model)).backward()
    layers = [m for m in model.modules() if isinstance(m, DeepSeekMoE)]
    assert [m.shape for m in layers] == [Shape(15, 7, 1, 8)] * 2
    assert all(m.router.weight.grad.abs().sum() > 0 for m in layers)
    model.eval()
    model(ids)
    with pytest.raises(ValueError, match="training mode"):
        balance_loss(model)
    with pytest.raises(ValueError, match="no gated MLP"):
        host_experts(nn.Linear(2, 2), 4, 2)


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["laptop", "gpu", "published"])
def test_the_ablation_grid_has_equal_total_and_activated_expert_parameters(scale):
    sizes = set()
    for name in GRID:
        with torch.device("meta"):
            sizes.add(expert_parameters(language_model(arm(name, scale=scale), 50)))
    assert len(sizes) == 1
    total, active = sizes.pop()
    config = arm("gshard", scale=scale)
    assert total == config.layers * config.experts * 3 * config.hidden * config.width
    assert active * config.experts == total * config.active


def test_arms_are_those_of_the_paper():
    shapes = {a.name: tuple(layer_shape(arm(a.name))) for a in PAPER.arms}
    assert shapes == {
        "dense": (0, 0, 1, 128),
        "dense-active": (0, 0, 2, 128),
        "hash": (8, 1, 0, 128),
        "switch": (8, 1, 0, 128),
        "gshard": (8, 2, 0, 128),
        "shared": (7, 1, 1, 128),
        "fine": (15, 3, 1, 64),
        "finer": (31, 7, 1, 32),
        "gshard-x15": (8, 2, 0, 192),
        "dense-all": (0, 0, 8, 128),
        "finer-2": (30, 6, 2, 32),
        "finer-4": (28, 4, 4, 32),
        "half": (31, 3, 1, 32),
    }
    assert tuple(layer_shape(arm("finer", scale="published")))[:3] == (63, 7, 1)


def test_segmentation_of_the_published_models():
    assert segment(16, 2, 3392, 4, 1) == Shape(63, 7, 1, 848)
    assert segment(16, 2, 5632, 4, 2) == Shape(62, 6, 2, 1408)
    assert segment(16, 2, 128) == Shape(16, 2, 0, 128)


def test_a_router_adds_d_parameters_an_expert_and_nothing_else():
    sizes = {n: count_parameters(language_model(arm(n), 50))["params_total"] for n in ("gshard", "finer", "hash")}
    assert sizes["gshard"] - sizes["hash"] == 2 * 64 * 8
    assert sizes["finer"] - sizes["gshard"] == 2 * 64 * (31 - 8)


def test_bad_shapes_are_refused():
    for bad in ({"m": 3}, {"shared": 2}, {"shared": -1}):
        with pytest.raises(ValueError, match=r"cannot be cut|no routed one"):
            segment(8, 2, 128, **bad)
    with pytest.raises(ValueError, match="router is"):
        DeepSeekMoEForCausalLM(DeepSeekMoEConfig(router="random"))


# --- balance losses ----------------------------------------------------------------------------------------------


def balanced(experts: int = 6, k: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform scores, and every expert selected as often as any other."""
    indices = torch.stack([(torch.arange(experts) + j) % experts for j in range(k)], 1)
    return torch.full((experts, experts), 1 / experts), indices


def test_perfect_balance_costs_alpha():
    moe = layer(Shape(6, 2, 1, 4), alpha=0.01, device_alpha=0.05, devices=3)
    from repro.models.moe import Routing

    scores, indices = balanced()
    routing = Routing(scores, indices, scores.gather(1, indices))
    assert moe.balance(routing).item() == pytest.approx(0.01 + 0.05)
    assert layer(Shape(6, 2, 1, 4), alpha=0.01).balance(routing).item() == pytest.approx(0.01)
    assert layer(alpha=0.0).balance(routing) is None


def test_one_expert_taking_all_costs_alpha_times_n():
    scores, indices = torch.zeros(10, 6), torch.zeros(10, 1, dtype=torch.long)
    scores[:, 0] = 1
    assert expert_balance_loss(scores, indices).item() == pytest.approx(6)


def test_balance_losses_are_their_equations():
    moe, u = layer(Shape(6, 2, 1, 4)), tokens(30)
    scores, indices, _ = moe.route(u)
    f = torch.tensor([6 / (2 * 30) * sum(i in row for row in indices.tolist()) for i in range(6)])
    p = scores.mean(0)
    assert expert_balance_loss(scores, indices).item() == pytest.approx((f * p).sum().item(), rel=1e-5)
    groups = [(0, 1), (2, 3), (4, 5)]
    expected = sum(f[list(g)].mean() * p[list(g)].sum() for g in groups)
    assert device_balance_loss(scores, indices, 3).item() == pytest.approx(expected.item(), rel=1e-5)


def test_device_loss_at_its_limits():
    moe = layer(Shape(6, 2, 1, 4))
    scores, indices, _ = moe.route(tokens(30))
    single = device_balance_loss(scores, indices, 6)
    assert single.item() == pytest.approx(expert_balance_loss(scores, indices).item(), rel=1e-5)
    assert device_balance_loss(scores, indices, 1).item() == pytest.approx(1, rel=1e-5)
    with pytest.raises(ValueError, match="equal groups"):
        device_balance_loss(scores, indices, 4)


# --- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alphas", [(0.01, 0.0), (0.0, 0.1)])
def test_the_balance_losses_reach_the_router_alone(alphas):
    moe = layer(Shape(6, 2, 1, 4), alpha=alphas[0], device_alpha=alphas[1], devices=3)
    moe(tokens())[1].backward()
    reached = {name for name, p in moe.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {"router.weight"}


def test_unselected_experts_get_no_gradient_and_the_shared_one_some_from_every_token():
    moe, u = layer(), tokens(2)
    chosen = set(moe.route(u).indices.flatten().tolist())
    moe(u)[0].square().sum().backward()
    assert 0 < len(chosen) < 7
    for i in range(7):
        gradient = moe.experts.gate_up_proj.grad[i].abs().sum() + moe.experts.down_proj.grad[i].abs().sum()
        assert (gradient > 0) == (i in chosen)
    for t in range(12):
        moe.zero_grad()
        moe(tokens()[t : t + 1])[0].square().sum().backward()
        assert moe.shared.down_proj.weight.grad.abs().sum() > 0


def test_a_top_1_router_learns_from_the_loss():
    moe = layer(Shape(6, 1, 0, 4), alpha=0.0)
    moe(tokens())[0].square().sum().backward()
    assert moe.router.weight.grad.abs().sum() > 0


def test_ways_to_dispatch_agree_forward_and_backward():
    outputs = {}
    for way in ("naive", "dense", "grouped", "lean"):
        moe, u = layer(Shape(15, 3, 1, 4)), tokens().requires_grad_()
        with forced(way):
            y, aux = moe(u)
            (y.square().sum() + aux).backward()
        outputs[way] = [y, u.grad, moe.experts.gate_up_proj.grad, moe.router.weight.grad]
    for way in ("dense", "grouped", "lean"):
        for ours, reference in zip(outputs[way], outputs["naive"], strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


# --- ablations ---------------------------------------------------------------------------------------------------


def test_an_ablation_that_changes_nothing_changes_no_bit():
    moe, u = layer().eval(), tokens(50)
    plain = moe(u)[0]
    with ablated(moe, Ablation(disabled=0.0)):
        assert torch.equal(moe(u)[0], plain)
    assert moe.ablation is None


def test_disabling_masks_the_highest_scores_before_the_selection():
    scores = tokens(20, 16).softmax(1)
    for fraction, masked in ((1 / 16, 1), (1 / 8, 2), (1 / 4, 4)):
        hidden = scores.scatter(1, scores.topk(masked).indices, -1.0)
        expected = hidden.topk(3)
        found = Ablation(disabled=fraction).select(scores, 3)
        assert torch.equal(found.indices, expected.indices)
        assert torch.equal(found.weights, expected.values)


def test_more_and_fewer_active_experts():
    scores = tokens(20, 16).softmax(1)
    for extra in (-2, 1):
        assert torch.equal(Ablation(extra=extra).select(scores, 3).indices, scores.topk(3 + extra).indices)
    for bad in (Ablation(extra=-3), Ablation(extra=14), Ablation(disabled=0.9)):
        with pytest.raises(ValueError, match="cannot select"):
            bad.select(scores, 3)


def test_without_the_shared_expert_only_routed_ones_are_left():
    moe, u = layer().eval(), tokens()
    scores = moe.router(u).scores
    weights, indices = scores.topk(4)
    with ablated(moe, Ablation(shared=False, extra=1)):
        torch.testing.assert_close(moe(u)[0], moe.experts(u, indices, weights))


def test_replacing_takes_the_next_best_for_one_of_the_chosen():
    scores = tokens(200, 16).softmax(1)
    found = Ablation(replaced=0).select(scores, 3)
    best = scores.topk(4).indices
    lost = []
    for row, top in zip(found.indices.tolist(), best.tolist(), strict=True):
        assert row[-1] == top[3]
        assert len(set(row)) == 3
        lost += [top.index(i) for i in top[:3] if i not in row]
    assert len(lost) == 200
    assert set(lost) == {0, 1, 2}
    torch.testing.assert_close(found.weights, scores.gather(1, found.indices), rtol=0, atol=0)
    assert torch.equal(found.indices, Ablation(replaced=0).select(scores, 3).indices)


def test_the_analysis_leaves_the_model_as_it_was_and_names_what_it_finds():
    config = replace(arm("finer"), hidden=16, heads=2, width=16, layers=2)
    model = initialise(language_model(config, 40), 0, 0.3).eval()
    ids = torch.randint(0, 40, (2, 17), generator=torch.Generator().manual_seed(6))
    batch = Batch(ids[:, :-1], ids[:, 1:], (ids[:, 1:] < 5).to(torch.uint8))
    before = model(batch.inputs).logits
    metrics, tables = analyse(model, [batch])
    assert torch.equal(model(batch.inputs).logits, before)
    assert set(metrics) <= set(PAPER.metrics)
    assert metrics["disabled_0_16"] == 0
    assert metrics["shared_over_routed"] == pytest.approx(metrics["shared_removed"] - 10 * metrics["routed_replaced"])
    assert list(tables["disabled"]) == ["0.0000", "0.0625", "0.1250", "0.1875", "0.2500"]
    dense = initialise(language_model(replace(config, router="none"), 40), 0, 0.3).eval()
    assert set(analyse(dense, [batch])[0]) == {"loss_few"}


# --- baselines, schedule -----------------------------------------------------------------------------------------


def test_the_hash_layer_sends_a_token_id_always_to_one_expert_without_a_gate():
    moe = HashLayer(8, 4, 6)
    initialise(moe, 0, 0.5)
    u = tokens(10).view(2, 5, 8)
    moe.token_ids = torch.tensor([[3, 9, 3, 3, 200], [9, 9, 1, 0, 7]])
    y, aux = moe(u)
    assert aux is None
    one = moe.choose(torch.tensor([[3]]))
    x = u[0, 2:3]
    torch.testing.assert_close(y[0, 2:3], moe.experts(x, one, torch.ones(1, 1)))
    counts = moe.choose(torch.arange(6000)).bincount(minlength=6)
    assert counts.min() > 900
    assert counts.max() < 1100
    with pytest.raises(ValueError, match="token ids"):
        moe(u[:1])


def test_dense_times_n_is_a_sum_of_ffns():
    wide, u = AlwaysOn(8, 4, 3), tokens()
    initialise(wide, 0, 0.5)
    gate, up = (part.chunk(3) for part in wide.ffn.gate_up_proj.weight.chunk(2))
    down = wide.ffn.down_proj.weight.chunk(3, dim=1)
    total = sum((nn.functional.silu(u @ gate[k].T) * (u @ up[k].T)) @ down[k].T for k in range(3))
    torch.testing.assert_close(wide(u)[0], total)


def test_the_schedule_is_the_papers():
    schedule = StepDecay(1e-3, 25000, 0.08, "step")
    factors = [schedule.factor(s) for s in (0, 999, 1999, 2000, 19999, 20000, 22499, 22500, 24999)]
    expected = [1 / 2000, 0.5, 1, 1, 1, 0.316, 0.316, 0.316**2, 0.316**2]
    assert factors == pytest.approx(expected)


# --- the transformers model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("router", ["learned", "hash", "none"])
def test_model_saves_loads_and_generates_with_and_without_cache(tmp_path, router):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = DeepSeekMoEConfig(vocab_size=30, router=router, initializer_range=0.3, first_k_dense_replace=1)
    model = DeepSeekMoEForCausalLM(config).eval()
    ids = torch.randint(0, 30, (2, 5), generator=torch.Generator().manual_seed(4))
    cached = model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=True)
    plain = model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(again) is DeepSeekMoEForCausalLM
    assert again.config.router == router
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(
        again(ids).logits, model(ids).logits
    )  # where weights lie in memory decides the last digit


def test_the_balance_loss_is_part_of_the_training_loss_only():
    torch.manual_seed(0)
    model = DeepSeekMoEForCausalLM(DeepSeekMoEConfig(vocab_size=30))
    ids = torch.randint(0, 30, (2, 5), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, DeepSeekMoE):
                module.router.weight.zero_()  # uniform scores: every layer costs alpha, however ties break
    assert model.train()(ids).aux_loss.item() == pytest.approx(2 * 0.01)
    assert model.eval()(ids).aux_loss is None


# --- the arms ----------------------------------------------------------------------------------------------------


def test_arms_of_a_seed_share_initial_weights_outside_the_experts():
    models = {n: initialise(language_model(arm(n), 50), 3).state_dict() for n in ("dense", "hash", "gshard", "finer")}
    common = {n for n in models["dense"] if ".ffn." not in n}
    assert any("self_attn" in n for n in common)
    for state in models.values():
        assert {n for n in state if ".ffn." not in n} == common
        assert all(torch.equal(state[n], models["dense"][n]) for n in common)
    wide, narrow = (models[n]["layers.0.feed_forward.ffn.router.weight"] for n in ("finer", "gshard"))
    assert wide.shape == (31, 64)
    assert narrow.shape == (8, 64)


def test_rates_are_those_of_the_tuning():
    """On library source every tuned arm runs at its best rate, which is inside its grid; Switch and Hash only there."""
    import json
    from pathlib import Path

    from papers.deepseekmoe import paper
    from repro.runner import plan

    cells: dict[str, dict[float, float]] = {}
    for line in (Path(paper.__file__).parent / "tuning.jsonl").read_text().splitlines():
        cell = json.loads(line)
        if cell["setting"] == "stdlib":
            cells.setdefault(cell["arm"], {})[cell["options"]["lr"]] = cell["mean"]
    assert set(cells) >= {"gshard", "finer", "switch", "hash", "dense", "dense-active"}
    for name, grid in cells.items():
        best = min(grid, key=grid.__getitem__)
        if len(grid) > 2:
            assert min(grid) < best < max(grid), name
            assert arm(name, "stdlib").lr == best, name
    assert {run.setting for run in plan(PAPER, "laptop") if run.arm in ("switch", "hash")} == {"stdlib"}


def test_the_profile_matches_where_the_claims_say_so():
    ids = torch.randint(0, 50, (2, 17), generator=torch.Generator().manual_seed(6))
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.zeros(2, 16, dtype=torch.uint8))
    profiles = {}
    for name in ("gshard", "shared", "fine", "finer", "gshard-x15"):
        model = initialise(language_model(arm(name), 1602), 0)
        total, active = expert_parameters(model)
        profiles[name] = profile_training(model, partial(batch_loss, model), batch, 2)
        profiles[name] |= {"expert_params_total": total, "expert_params_active": active}
    for name in ("shared", "fine", "finer"):
        for quantity in ("train_tokens", "expert_params_total", "expert_params_active"):
            assert profiles[name][quantity] == profiles["gshard"][quantity]
        assert profiles[name]["train_flops"] == pytest.approx(profiles["gshard"]["train_flops"], rel=0.03)
    assert profiles["gshard-x15"]["expert_params_active"] == 1.5 * profiles["gshard"]["expert_params_active"]


# --- published size ----------------------------------------------------------------------------------------------


def test_the_16b_model_has_the_published_size():
    total, active = total_and_active(on_meta(config_16b()))
    assert total == 16_375_728_128
    assert active == 2_828_650_496


def test_accounting_gives_the_cards_figures():
    out = accounting()
    for name, experts, active, tera in (
        ("dense", 0.118, 0.118, 2.88), ("switch", 1.887, 0.118, 2.88), ("gshard", 1.887, 0.236, 4.33),
        ("x12", 2.265, 0.283, 4.91), ("x15", 2.831, 0.354, 5.78), ("x4", 0.472, 0.472, 7.23),
        ("x16", 1.887, 1.887, 24.62),
    ):  # fmt: skip
        assert out[f"params_b_2b_experts_{name}"] == pytest.approx(experts, abs=6e-4)
        assert out[f"params_b_2b_experts_active_{name}"] == pytest.approx(active, abs=6e-4)
        assert out[f"tflops_2b_{name}"] == pytest.approx(tera, abs=6e-3)
    assert out["params_b_2b"] == pytest.approx(1.967, abs=1e-3)
    assert out["params_b_2b_active"] == pytest.approx(0.295, abs=1e-3)
    assert out["bf16_gb_16b"] == pytest.approx(32.8, abs=0.05)
    assert out["tflops_16b_released"] == pytest.approx(75.9, abs=0.05)
    assert (out["combinations_16_2"], out["combinations_64_8"]) == (120, 4_426_165_368)
    assert out["params_b_145b"] == pytest.approx(144.5, abs=0.05)
    assert out["params_b_145b_active"] == pytest.approx(22.0, abs=0.06)
    assert out["params_b_137b"] == pytest.approx(136.1, abs=0.05)


def test_the_unknown_first_layer_is_read_by_one_rule_in_both_large_models():
    """Each reading adds the same weights to the 145B and to the 137B model."""
    out, d = accounting(), 4096
    added = {name: out[f"params_b_{name}_wide"] - out[f"params_b_{name}"] for name in ("145b", "145b_active", "137b")}
    assert added == pytest.approx(dict.fromkeys(added, 8 * d**2 / 1e9), rel=1e-6)
    # the expert layers by hand: 4 shared and 128 routed experts of width 1408, and 16 of 8 d^2
    attention, embeddings = 62 * 4 * d**2, 2 * 102400 * d
    large = attention + embeddings + 8 * d**2 + 61 * (132 * 3 * d * 1408 + 128 * d)
    gshard = attention + embeddings + 8 * d**2 + 61 * (16 * 8 * d**2 + 16 * d)
    assert (out["params_b_145b"], out["params_b_137b"]) == pytest.approx((large / 1e9, gshard / 1e9))
