"""Chain-of-Experts: parity with the published layer and with transformers, and the invariants of the method."""

from __future__ import annotations

import copy
import json
import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from papers.coe.experiment import TupleModel, language_model, per_pass
from papers.coe.experiment import passes as count_passes
from papers.coe.method import GATINGS, RESIDUALS, ChainOfExperts, chain_experts
from papers.coe.model import CoEConfig, CoEForCausalLM
from papers.coe.paper import PAPER, Config
from papers.coe.published import accounting, forward_macs, non_embedding, on_meta, published_config
from repro.data import load
from repro.models.moe import Routing
from repro.models.ways import forced
from repro.profiling.counts import count_flops, count_parameters
from repro.training.fit import batch_loss, profile_training
from repro.training.initial import initialise

GOLDEN = json.loads((Path(__file__).parent / "coe_golden.json").read_text())


def layer(seed: int = 0, std: float = 0.5, **options: object) -> ChainOfExperts:
    values = {"hidden": 8, "width": 4, "experts": 6, "k": 2, "passes": 2, **options}
    chain = ChainOfExperts(**values)  # type: ignore[arg-type]
    initialise(chain, seed, std)
    return chain


def stream(batch: int = 2, length: int = 5, hidden: int = 8) -> torch.Tensor:
    return torch.randn(batch, length, hidden, generator=torch.Generator().manual_seed(1))


# --- parity with the authors' layer ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN, ids=["two passes", "one pass", "shared gate"])
def test_agrees_with_the_published_layer(case):
    """Outputs, balance losses and chosen experts of the authors' released layer (float32, training mode)."""
    c, weights = case["config"], {k: torch.tensor(v["data"]).view(v["shape"]) for k, v in case["weights"].items()}
    chain = ChainOfExperts(
        c["hidden"], c["intermediate"], c["n_routed_experts"], c["top_k"], c["iterations"], c["n_shared_experts"],
        "independent" if c["independent_gating"] else "shared", "normed", c["aux_loss_alpha"],
    )  # fmt: skip
    with torch.no_grad():
        for e in range(c["n_routed_experts"]):
            gate, up, down = (weights[f"experts.{e}.{part}_proj.weight"] for part in ("gate", "up", "down"))
            chain.experts.gate_up_proj[e], chain.experts.down_proj[e] = torch.cat([gate, up]), down
        gate, up, down = (weights[f"shared_experts.{part}_proj.weight"] for part in ("gate", "up", "down"))
        chain.shared.gate_up_proj.weight.copy_(torch.cat([gate, up]))
        chain.shared.down_proj.weight.copy_(down)
        for t, router in enumerate(chain.routers):
            router.weight.copy_(weights.get(f"gate.{t}.weight", weights.get("gate.weight")))
        chain.norms[0].weight.copy_(torch.tensor(case["rmsnorm_weight"]))
    chosen = []
    for router in chain.routers:
        router.register_forward_hook(lambda _m, _x, out: chosen.append(out.indices.sort(-1).values.tolist()))
    x, expected = (
        torch.tensor(case[n]["data"]).view(case[n]["shape"]) if isinstance(case[n], dict) else torch.tensor(case[n])
        for n in "xy"
    )
    y, aux = chain(x)
    torch.testing.assert_close(y, expected, rtol=2e-5, atol=1e-4)
    assert aux.item() == pytest.approx(sum(case["aux_loss_per_iteration"]), rel=1e-5)
    assert chosen == [[sorted(row) for row in rows] for rows in case["experts_per_iteration"]]


# --- parity with transformers ------------------------------------------------------------------------------------


def deepseek_v2(**changes: object) -> nn.Module:
    from transformers import DeepseekV2Config, DeepseekV2ForCausalLM

    values: dict[str, object] = {
        "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "n_routed_experts": 6, "n_shared_experts": 1,
        "num_experts_per_tok": 3, "first_k_dense_replace": 0, "q_lora_rank": None, "kv_lora_rank": 8,
        "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "norm_topk_prob": False, "topk_method": "greedy",
        "routed_scaling_factor": 1.0, "initializer_range": 0.3, **changes,
    }  # fmt: skip
    torch.manual_seed(0)
    return DeepseekV2ForCausalLM(DeepseekV2Config(**values)).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def deepseek():
    return deepseek_v2()


def test_one_prenorm_pass_is_deepseeks_layer(deepseek):
    ids = torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(2))
    expected = deepseek(ids).logits
    chained = chain_experts(copy.deepcopy(deepseek), passes=1)
    torch.testing.assert_close(chained(ids).logits, expected, rtol=1e-5, atol=1e-5)
    again = chain_experts(copy.deepcopy(deepseek), passes=2)
    assert not torch.allclose(again(ids).logits, expected, atol=1e-2)
    assert again.generate(ids, max_new_tokens=4, do_sample=False).shape == (2, 11)


@pytest.mark.parametrize(
    "changes",
    [
        {"routed_scaling_factor": 2.5},
        {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1},
        {"norm_topk_prob": True},
    ],
    ids=["scaled", "groups", "renormalised"],
)
def test_a_model_that_routes_otherwise_is_refused_and_left_alone(changes):
    from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe

    model = deepseek_v2(**changes)
    with pytest.raises(ValueError, match=r"topk_method=.*routed_scaling_factor=.*norm_topk_prob="):
        chain_experts(model, passes=1)
    assert sum(isinstance(m, DeepseekV2Moe) for m in model.modules()) == 2


def test_decoder_with_latent_attention_is_deepseeks_model(deepseek):
    """The whole CoE model at C=1 in the pre-norm placement, MLA attention and head included."""
    c = deepseek.config
    model = CoEForCausalLM(
        CoEConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, attention="mla", kv_lora_rank=8,
            qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8, n_routed_experts=6, n_shared_experts=1,
            num_experts_per_tok=3, moe_intermediate_size=12, passes=1, residual="prenorm",
            rope_parameters=dict(c.rope_parameters),
        )
    ).eval()  # fmt: skip
    source, target = deepseek.state_dict(), {}
    for name in model.state_dict():
        target[name] = source.get(f"model.{name}", source.get(name))
    for i in range(2):
        theirs, ours = f"model.layers.{i}.mlp", f"layers.{i}.feed_forward"
        shared = [source[f"{theirs}.shared_experts.{part}_proj.weight"] for part in ("gate", "up")]
        target |= {
            f"{ours}.experts.gate_up_proj": source[f"{theirs}.experts.gate_up_proj"],
            f"{ours}.experts.down_proj": source[f"{theirs}.experts.down_proj"],
            f"{ours}.shared.gate_up_proj.weight": torch.cat(shared),
            f"{ours}.shared.down_proj.weight": source[f"{theirs}.shared_experts.down_proj.weight"],
            f"{ours}.routers.0.weight": source[f"{theirs}.gate.weight"],
            f"{ours}.norms.0.weight": source[f"model.layers.{i}.post_attention_layernorm.weight"],
        }
    model.load_state_dict(target)
    ids = torch.randint(0, 40, (2, 7), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model(ids).logits, deepseek(ids).logits, rtol=1e-5, atol=1e-5)


# --- invariants --------------------------------------------------------------------------------------------------


def test_one_normed_pass_is_z_plus_moe():
    chain, h = layer(passes=1), stream()
    z = chain.norms[0](h).view(-1, 8)
    torch.testing.assert_close(chain(h)[0].view(-1, 8), z + chain.mixture(z, chain.routers[0](z)))


def test_every_residual_is_its_equation():
    """Two passes written out by hand for each placement."""
    h = stream()
    for residual in RESIDUALS:
        chain = layer(residual=residual)

        def moe(t, x, chain=chain):
            return chain.mixture(x, chain.routers[t](x))

        flat = h.view(-1, 8)
        z = chain.norms[0](flat)
        if residual == "prenorm":
            x1 = flat + moe(0, z)
            y = x1 + moe(1, chain.norms[1](x1))
        elif residual == "init":
            y = moe(1, moe(0, z) + z) + z
        elif residual == "outer":
            y = moe(1, moe(0, z)) + z
        else:
            x1 = z + moe(0, z)
            y = x1 + moe(1, x1) + (z if residual == "both" else 0)
        torch.testing.assert_close(chain(h)[0].view(-1, 8), y)


def test_with_silent_experts_only_the_residuals_remain():
    h = stream()
    for residual, expected in (("normed", 1), ("prenorm", None), ("outer", 1), ("init", 1), ("both", 2)):
        chain = layer(residual=residual)
        with torch.no_grad():
            chain.experts.down_proj.zero_()
            chain.shared.down_proj.weight.zero_()
        wanted = h if expected is None else expected * chain.norms[0](h)
        torch.testing.assert_close(chain(h)[0], wanted)


def test_tied_independent_routers_equal_the_shared_router():
    shared, independent = layer(gating="shared"), layer(gating="independent")
    with torch.no_grad():
        for router in independent.routers:
            router.weight.copy_(shared.routers[0].weight)
    torch.testing.assert_close(independent(stream())[0], shared(stream())[0])


def test_frozen_equals_shared_for_one_pass_and_differs_for_two():
    for passes, same in ((1, True), (2, False)):
        frozen, shared = layer(gating="frozen", passes=passes), layer(gating="shared", passes=passes)
        assert torch.allclose(frozen(stream())[0], shared(stream())[0]) == same


def test_frozen_gates_use_the_same_experts_in_every_pass():
    chain, seen = layer(gating="frozen", passes=3), []
    original = chain.mixture
    chain.mixture = lambda x, routing: (seen.append(routing), original(x, routing))[1]  # type: ignore[method-assign]
    chain(stream())
    assert len(seen) == 3
    assert seen[0] is seen[1] is seen[2]


def test_identical_experts_all_selected_iterate_one_map():
    """K=N, equal experts: softmax scores sum to 1, so every pass applies x + E(x) + E_shared(x)."""
    chain = layer(k=6, passes=3)
    with torch.no_grad():
        chain.experts.gate_up_proj.copy_(chain.experts.gate_up_proj[:1].expand_as(chain.experts.gate_up_proj))
        chain.experts.down_proj.copy_(chain.experts.down_proj[:1].expand_as(chain.experts.down_proj))
        for router in chain.routers:
            router.weight.zero_()
    x = chain.norms[0](stream()).view(-1, 8)
    one = Routing(*(torch.zeros(len(x), 1, dtype=t) for t in (torch.float, torch.long)), torch.ones(len(x), 1))
    for _ in range(3):
        x = x + chain.experts(x, one.indices, one.weights) + chain.shared(x)
    torch.testing.assert_close(chain(stream())[0].view(-1, 8), x, rtol=1e-4, atol=1e-4)


class ScalarExperts(nn.Module):
    """E_1(x) = 2x, E_2(x) = -x, for the card's hand case."""

    def forward(self, x, indices, weights):
        factor = torch.tensor([2.0, -1.0])[indices]
        return (factor * weights).sum(1, keepdim=True) * x


def test_hand_case():
    chain = ChainOfExperts(1, 1, 2, 1, passes=2, shared_experts=0)
    chain.experts = ScalarExperts()  # type: ignore[assignment]
    chain.norms[0] = nn.Identity()
    with torch.no_grad():
        for router in chain.routers:
            router.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    s1 = math.e / (math.e + 1 / math.e)
    x1 = 1 + 2 * s1
    s2 = 1 / (1 + math.exp(-2 * x1))
    assert (s1, x1, s2) == (
        pytest.approx(0.8808, abs=1e-4),
        pytest.approx(2.7616, abs=1e-4),
        pytest.approx(0.99602, abs=1e-5),
    )
    y, _ = chain(torch.ones(1, 1, 1))
    assert y.item() == pytest.approx(x1 + s2 * 2 * x1, rel=1e-6)
    assert y.item() == pytest.approx(8.2628, abs=2e-4)


def test_gradients_reach_every_router_and_no_unselected_expert():
    chain = layer(passes=3, aux_alpha=0.0)
    selected = set()
    for router in chain.routers:
        router.register_forward_hook(lambda _m, _x, out: selected.update(out.indices.flatten().tolist()))
    chain(stream(1, 1))[0].square().sum().backward()
    assert all(router.weight.grad.abs().sum() > 0 for router in chain.routers)
    for expert in range(6):
        gradient = (
            chain.experts.gate_up_proj.grad[expert].abs().sum() + chain.experts.down_proj.grad[expert].abs().sum()
        )
        assert (gradient > 0) == (expert in selected)


def test_the_first_router_feels_the_second_pass():
    """d loss / d W_1 also runs through x_1: cutting x_1 off changes it."""
    chain, h = layer(aux_alpha=0.0), stream()
    whole = torch.autograd.grad(chain(h)[0].square().sum(), chain.routers[0].weight)[0]
    z = chain.norms[0](h).view(-1, 8)
    x1 = z + chain.mixture(z, chain.routers[0](z))
    cut = x1 + chain.mixture(x1.detach(), chain.routers[1](x1.detach()))
    partly = torch.autograd.grad(cut.square().sum(), chain.routers[0].weight)[0]
    assert not torch.allclose(whole, partly, rtol=1e-3)


def test_expert_gradients_add_up_over_passes():
    chain, h = layer(aux_alpha=0.0), stream()
    z = chain.norms[0](h).view(-1, 8)
    pools = [copy.deepcopy(chain.experts) for _ in range(2)]
    x = z
    for t, pool in enumerate(pools):
        routing = chain.routers[t](x)
        x = x + pool(x, routing.indices, routing.weights) + chain.shared(x)
    x.square().sum().backward()
    separate = pools[0].down_proj.grad + pools[1].down_proj.grad
    chain.zero_grad()
    chain(h)[0].square().sum().backward()
    torch.testing.assert_close(chain.experts.down_proj.grad, separate, rtol=1e-4, atol=1e-4)


def test_a_pass_adds_a_router_and_nothing_else():
    sizes = [sum(p.numel() for p in layer(passes=c).parameters()) for c in (1, 2, 3)]
    assert sizes[1] - sizes[0] == sizes[2] - sizes[1] == 6 * 8


def test_ways_to_dispatch_agree_forward_and_backward():
    outputs = {}
    for way in ("naive", "dense", "grouped", "lean"):
        chain, h = layer(std=0.2, passes=3), stream().requires_grad_()
        with forced(way):
            y, aux = chain(h)
            (y.square().sum() + aux).backward()
        outputs[way] = [y, h.grad, chain.experts.gate_up_proj.grad, chain.routers[2].weight.grad]
    for way in ("dense", "grouped", "lean"):
        for ours, reference in zip(outputs[way], outputs["naive"], strict=True):
            torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


def test_balance_loss_counts_one_term_per_evaluated_router():
    h = stream()
    for gating, terms in (("independent", 3), ("shared", 3), ("frozen", 1)):
        chain = layer(gating=gating, passes=3, aux_alpha=1.0)
        with torch.no_grad():
            for router in chain.routers:
                router.weight.zero_()  # uniform scores: every term is 1, however the ties break
        assert chain(h)[1].item() == pytest.approx(terms)
        chain.eval()
        assert chain(h)[1] is None


def test_bad_options_are_refused():
    for options in ({"gating": "none"}, {"residual": "none"}, {"passes": 0}, {"k": 7}):
        with pytest.raises(ValueError, match=r"not|cannot"):
            layer(**options)
    with pytest.raises(ValueError, match="no DeepSeek-V2"):
        chain_experts(nn.Linear(2, 2), 2)


# --- the transformers model --------------------------------------------------------------------------------------


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_model_saves_loads_and_generates_with_and_without_cache(tmp_path, gating, residual):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = CoEForCausalLM(CoEConfig(vocab_size=30, gating=gating, residual=residual, initializer_range=0.3)).eval()
    ids = torch.randint(0, 30, (2, 5), generator=torch.Generator().manual_seed(4))
    cached = model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=True)
    plain = model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=False)
    assert torch.equal(cached, plain)
    model.save_pretrained(tmp_path)
    assert list(tmp_path.glob("*.safetensors"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(again) is CoEForCausalLM
    assert again.config.gating == gating
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    # weights that lie at other addresses are multiplied in another order on some processors
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=1e-3, atol=1e-4)


def test_left_padding_changes_nothing():
    torch.manual_seed(0)
    model = CoEForCausalLM(CoEConfig(vocab_size=30, initializer_range=0.3)).eval()
    ids = torch.randint(0, 30, (1, 6), generator=torch.Generator().manual_seed(5))
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = (torch.arange(9) >= 3).long()[None]
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    out = model(padded, attention_mask=mask, position_ids=positions).logits[:, 3:]
    torch.testing.assert_close(out, model(ids).logits, rtol=1e-5, atol=1e-5)


# --- published size ----------------------------------------------------------------------------------------------


def test_published_parameters_are_the_papers():
    """Counts of the card and of the official repository, exactly."""
    figures = {
        (63, 8, 1, 4): (570_955_776, 780_672_000),
        (63, 4, 2, 4): (571_213_824, 780_930_048),
        (47, 4, 2, 4): (432_670_720, 642_386_944),
        (63, 8, 1, 8): (1_141_911_552, 1_351_627_776),
        (63, 8, 1, 12): (1_712_867_328, 1_922_583_552),
    }
    for shape, (layers, total) in figures.items():
        model = on_meta(published_config(*shape))
        assert non_embedding(model) == layers
        assert sum(p.numel() for p in model.parameters()) == total


def test_accounting_gives_the_cards_figures():
    out = accounting()
    assert out["combinations_ratio_64"] == pytest.approx(91.2, abs=0.05)
    assert out["combinations_ratio_63"] == pytest.approx(91.6, abs=0.05)
    assert math.comb(16, 2) == 120
    assert math.comb(64, 8) == 4_426_165_368
    for name, macs in (("moe", 200.0), ("coe", 208.9), ("coe_k8", 278.1), ("moe_k16", 269.2), ("moe_k24", 338.4)):
        assert out[f"forward_macs_per_token_{name}"] / 1e6 == pytest.approx(macs, abs=0.06)
    assert out["memory_gb_moe"] == pytest.approx(11.633, abs=1e-3)
    assert out["memory_gb_deep3"] == pytest.approx(28.649, abs=1e-3)
    assert out["kv_cache_bytes_per_token_coe"] == out["kv_cache_bytes_per_token_moe"]


def test_macs_formula_agrees_with_the_flop_counter():
    config = published_config(
        5, 2, 2, 2, vocab_size=64, hidden_size=32, num_attention_heads=2, kv_lora_rank=16, qk_nope_head_dim=8,
        qk_rope_head_dim=4, v_head_dim=8, moe_intermediate_size=12,
    )  # fmt: skip
    model = CoEForCausalLM(config).eval()
    ids = torch.zeros(1, 6, dtype=torch.long)
    scores = 2 * 6 * 6 * 2 * (12 + 8) * 2  # attention products: layers x S x S x heads x (qk + v) x 2
    assert count_flops(lambda: model(ids, use_cache=False)) == 2 * 6 * forward_macs(model) + scores


# --- the arms ----------------------------------------------------------------------------------------------------


def arm(name: str, setting: str = "composition", scale: str = "laptop") -> Config:
    return Config(**PAPER.resolve(setting, name, scale))


def test_arms_keep_the_papers_ratios():
    k = {name: (per_pass(arm(name)), arm(name).passes) for name in ("moe", "moe-strict", "coe", "coe-2x", "moe-3x")}
    assert k == {"moe": (4, 1), "moe-strict": (5, 1), "coe": (2, 2), "coe-2x": (4, 2), "moe-3x": (12, 1)}
    published = {name: per_pass(arm(name, "metamath", "published")) for name in ("moe", "coe", "moe-3x")}
    assert published == {"moe": 8, "coe": 4, "moe-3x": 24}
    assert int(arm("coe-pool").experts * arm("coe-pool").pool_scale) == 12


@pytest.mark.parametrize("name", ["dense", "dense-c2"])
@pytest.mark.parametrize("scale", PAPER.presets)
def test_in_dense_arms_every_routed_expert_is_active(name, scale):
    for setting in PAPER.settings:
        dense, moe = (arm(n, setting.name, scale) for n in (name, "moe"))
        assert int(dense.experts * dense.pool_scale) == per_pass(dense) == moe.k, setting.name


def test_comparisons_where_chance_is_known_ask_that_their_arms_have_learned():
    """An arm that stays at chance decides nothing in C3 and C4, on whichever side it stands."""
    from dataclasses import replace

    from repro.claims import Contrast, Ordering

    trained = [
        k
        for claim in PAPER.claims
        if claim.id in ("C3", "C4")
        for k in claim.comparisons
        if isinstance(k, (Contrast, Ordering))
    ]
    for comparison in trained:
        composed = {s for s in comparison.settings if s.startswith("composition")}
        assert composed in (set(), set(comparison.settings)), comparison.name
        asked = [a for p in comparison.preconditions for a in p.terms]
        assert asked == (list(comparison.compared) if composed else []), comparison.name
    assert {s for k in trained for s in k.settings} >= {"composition", "composition-prenorm", "stdlib"}

    chance = math.log(12)
    for comparison in trained:
        for condition in comparison.preconditions:
            for loss, holds in ((chance, False), (0.96 * chance, False), (0.94 * chance, True)):
                value = condition.offset + sum(k * loss for k in condition.terms.values())
                assert (value > 0) == holds, comparison.name
    assert all(replace(k, preconditions=()).arms == k.arms for k in trained)  # the conditions read no further arm


def test_published_arms_have_the_published_size():
    from repro.runner import plan

    for name, total in (("moe", 780_672_000), ("coe", 780_930_048), ("moe-deep2", 1_351_627_776)):
        with torch.device("meta"):
            model = language_model(arm(name, "metamath", "published"), 102400)
        assert count_parameters(model)["params_total"] == total
    runs = plan(PAPER, "published")
    assert {run.setting for run in runs} == {"accounting", "metamath", "slimpajama"}


def test_arms_of_a_seed_share_initial_weights_and_data():
    data = load("composition")
    moe, coe, pool = (initialise(TupleModel(arm(n), data), 3) for n in ("moe", "coe", "coe-pool"))
    ours, theirs = moe.state_dict(), coe.state_dict()
    assert set(theirs) - set(ours) == {"layers.0.routers.1.weight"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    small = pool.state_dict()["layers.0.experts.down_proj"]
    assert torch.equal(small, ours["layers.0.experts.down_proj"][: len(small)])
    assert not torch.equal(initialise(TupleModel(arm("moe"), data), 4).state_dict()["head.weight"], ours["head.weight"])


def test_profile_counts_passes_and_flops():
    data = load("composition")
    rows = data.rows(torch.arange(8))
    profiles = {}
    for name in ("moe", "moe-strict", "coe"):
        model = initialise(TupleModel(arm(name), data), 0)
        profiles[name] = profile_training(model, partial(batch_loss, model), rows, 8) | count_passes(model)
    assert profiles["moe"]["routed_passes"] == profiles["coe"]["routed_passes"] == 4
    assert (profiles["moe"]["expert_passes"], profiles["coe"]["expert_passes"]) == (5, 6)
    assert profiles["moe"]["params_total"] + 16 * 64 == profiles["coe"]["params_total"]
    expected = 2 * (5 * 3 * 64 * 32 + 16 * 64 + 64 * 12)  # experts, router, head
    assert profiles["moe"]["forward_flops_per_token"] == expected
    assert profiles["coe"]["train_flops"] == pytest.approx(profiles["moe-strict"]["train_flops"], rel=0.03)
    assert profiles["coe"]["train_flops"] > 1.1 * profiles["moe"]["train_flops"]
