"""Global-batch load balancing: parity with transformers, with the concatenated batch, and across processes."""

from __future__ import annotations

import copy
import itertools
import json
import tomllib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from papers.global_lbl.experiment import Kept, analyse, language_model, run
from papers.global_lbl.method import (
    SCOPES,
    Balance,
    BalancedMoE,
    Router,
    RouterBalance,
    balance_loss,
    bias_step,
    pooled,
    selection_counts,
    set_scope,
    shuffled_counts,
    start_step,
    synchronised,
    z_loss,
)
from papers.global_lbl.model import GlobalLBLConfig, GlobalLBLForCausalLM
from papers.global_lbl.paper import PAPER, Config
from papers.global_lbl.published import accounting
from repro.evaluation import held_out_loss
from repro.models.moe import sequence_balance_loss
from repro.profiling.counts import count_parameters
from repro.runner import Context
from repro.training.fit import batch_loss, profile_training
from repro.training.initial import initialise
from repro.training.parallel import launch
from tests.papers import global_lbl_processes as processes

T, N, K, GROUPS = 48, 8, 2, 4


def logits(seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    """Groups prefer different experts."""
    noise = torch.randn(T, N, generator=torch.Generator().manual_seed(seed))
    tilt = torch.randn(GROUPS, N, generator=torch.Generator().manual_seed(seed + 1)).repeat_interleave(T // GROUPS, 0)
    return scale * (noise + tilt)


def route(z: torch.Tensor, k: int = K) -> tuple[torch.Tensor, torch.Tensor]:
    scores = z.softmax(-1)
    return scores, scores.topk(k, dim=-1).indices


def loss(z: torch.Tensor, groups: int = GROUPS, **options) -> torch.Tensor:
    return Balance(N, weight=1.0, **options)(*route(z), groups)


def small(name: str, setting: str = "domains", scale: str = "laptop", **changes) -> Config:
    return replace(Config(**PAPER.resolve(setting, name, scale)), **changes)


# --- the losses --------------------------------------------------------------------------------------------------


def test_hand_case():
    """Two groups, each with its own expert: micro 1.8, global 1.0."""
    scores = torch.tensor([[0.9, 0.1]] * 3 + [[0.1, 0.9]] * 3)
    indices = torch.tensor([[0]] * 3 + [[1]] * 3)
    assert Balance(2, "micro", 1.0)(scores, indices, 2).item() == pytest.approx(1.8)
    assert Balance(2, "global", 1.0)(scores, indices, 2).item() == pytest.approx(1.0)


def test_global_is_the_loss_of_the_concatenated_batch_in_value_and_gradient():
    one, two = logits().requires_grad_(), logits().requires_grad_()
    grouped, whole = loss(one, scope="global"), loss(two, groups=1, scope="micro")
    grouped.backward()
    whole.backward()
    torch.testing.assert_close(grouped, whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-6, atol=1e-7)


def test_micro_is_the_sequence_wise_loss_of_deepseek():
    torch.testing.assert_close(loss(logits(), scope="micro"), sequence_balance_loss(*route(logits()), GROUPS))


def test_the_difference_is_the_covariance_over_groups():
    """LBL_micro - LBL_global = N_E sum_i Cov_j(f_i^j, P_i^j)."""
    scores, indices = route(logits().double())
    f = selection_counts(indices, N, GROUPS).double() / (K * T / GROUPS)
    p = scores.view(GROUPS, -1, N).mean(1)
    covariance = ((f - f.mean(0)) * (p - p.mean(0))).mean(0).sum() * N
    difference = Balance(N, "micro", 1.0)(scores, indices, GROUPS) - Balance(N, "global", 1.0)(scores, indices, GROUPS)
    torch.testing.assert_close(difference, covariance)
    assert covariance > 0.05


def test_equal_groups_make_the_scopes_equal():
    z = logits()[: T // GROUPS].repeat(GROUPS, 1)
    values = [loss(z, scope=scope).item() for scope in ("micro", "global", "buffer")]
    assert values == pytest.approx([values[0]] * 3)


def test_one_group_makes_all_scopes_equal():
    values = [loss(logits(), groups=1, scope=scope).item() for scope in SCOPES]
    assert values == pytest.approx([values[0]] * 4)


def test_bounds_at_perfect_balance_and_at_collapse():
    even = torch.arange(N).repeat(2)[:, None]
    assert Balance(N, "global", 1.0)(torch.full((2 * N, N), 1 / N), even).item() == pytest.approx(1.0)
    collapsed = torch.nn.functional.one_hot(torch.zeros(16, dtype=torch.long), N).float()
    assert Balance(N, "global", 1.0)(collapsed, torch.zeros(16, 1, dtype=torch.long)).item() == pytest.approx(N)


def test_agrees_with_mixtral_in_transformers():
    """Its f sums to K, ours to 1; it pools the layers, so one layer is compared."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    theirs = load_balancing_loss_func((logits(),), N, K)
    torch.testing.assert_close(loss(logits(), groups=1, scope="micro"), theirs / K)
    torch.testing.assert_close(loss(logits(), scope="global"), theirs / K)
    assert not torch.allclose(loss(logits(), scope="micro"), theirs / K, rtol=1e-2)


def test_counts_carry_no_gradient_and_gradients_sum_to_zero_over_experts():
    z = logits().requires_grad_()
    scores, indices = route(z)
    f = selection_counts(indices, N)[0] / (K * T)
    (gradient,) = torch.autograd.grad(Balance(N, "global", 1.0)(scores, indices, GROUPS), z)
    by_hand = N / T * scores * (f - (f * scores).sum(-1, keepdim=True))
    torch.testing.assert_close(gradient, by_hand.detach(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(T), rtol=0, atol=1e-7)
    counts = torch.ones(1, N, requires_grad=True)
    balance_loss(counts, scores.detach().mean(0, keepdim=True).requires_grad_()).backward()
    assert counts.grad is None


def test_spans_pool_adjacent_groups():
    counts = torch.arange(8).view(4, 2)
    assert pooled(counts, 2).tolist() == [[2, 4], [2, 4], [10, 12], [10, 12]]
    assert pooled(counts).tolist() == [[12, 16]] * 4
    assert pooled(counts, 1).tolist() == counts.tolist()
    with pytest.raises(ValueError, match="spans of 3"):
        pooled(counts, 3)
    narrow, wide = loss(logits(), span=1), loss(logits(), span=4)
    torch.testing.assert_close(narrow, loss(logits(), scope="micro"))
    torch.testing.assert_close(wide, loss(logits(), scope="global"))
    assert wide < loss(logits(), span=2) < narrow


def test_shuffled_counts_have_the_size_of_a_group_and_the_mix_of_all():
    _, indices = route(logits())
    draw = shuffled_counts(indices, N, GROUPS, torch.Generator().manual_seed(0))
    assert draw.sum(1).tolist() == [K * T // GROUPS] * GROUPS
    torch.testing.assert_close(draw.sum(0), selection_counts(indices, N)[0].to(draw.sum(0).dtype))
    mean = torch.stack([loss(logits(), scope="shuffle", seed=s) for s in range(200)]).mean()
    torch.testing.assert_close(mean, loss(logits(), scope="global"), rtol=0.03, atol=0)
    assert loss(logits(), scope="micro") > 1.2 * mean
    same = [loss(logits(), scope="shuffle", seed=5) for _ in range(2)]
    assert same[0] == same[1]
    balance = Balance(N, "shuffle")
    assert balance(*route(logits()), GROUPS) != balance(*route(logits()), GROUPS)


def test_the_buffer_counts_what_came_so_far_and_is_emptied():
    balance = Balance(N, "buffer", 1.0)
    parts = list(zip(*(x.chunk(GROUPS) for x in route(logits())), strict=True))
    for _ in range(2):
        balance.start_step()
        values = [balance(*part) for part in parts]
        torch.testing.assert_close(values[0], Balance(N, "micro", 1.0)(*parts[0]))
        every = selection_counts(route(logits())[1], N)
        torch.testing.assert_close(values[-1], balance_loss(every, parts[-1][0].mean(0, keepdim=True)))
        assert torch.equal(balance.buffer, every)
    assert values[1] != Balance(N, "micro", 1.0)(*parts[1])


def test_combined_adds_a_share_of_micro():
    both = loss(logits(), scope="global", micro_share=0.01)
    torch.testing.assert_close(both, loss(logits(), scope="global") + 0.01 * loss(logits(), scope="micro"))


def test_z_loss_by_hand():
    z = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    wanted = (torch.log(torch.tensor(2.0)) ** 2 + (torch.e + torch.tensor(2.0).exp()).log() ** 2) / 2
    torch.testing.assert_close(z_loss(z), wanted)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="scope is one of"):
        Balance(4, "sequence")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="equal groups"):
        selection_counts(torch.zeros(5, 1, dtype=torch.long), 4, 2)
    with pytest.raises(ValueError, match="'softmax' or 'sigmoid'"):
        Router(4, 4, 1, "tanh")  # type: ignore[arg-type]


# --- biases ------------------------------------------------------------------------------------------------------


def test_biases_move_towards_the_mean_load():
    counts = torch.tensor([[6, 2, 4, 4], [0, 8, 4, 4]])
    torch.testing.assert_close(bias_step(counts[:1], 0.1), torch.tensor([-0.1, 0.1, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(bias_step(counts, 0.1), torch.zeros(4, dtype=torch.float64))
    total = counts.sum(0, keepdim=True)
    torch.testing.assert_close(bias_step(total, 0.1), torch.tensor([0.1, -0.1, 0, 0], dtype=torch.float64))


def test_biases_change_the_selection_and_not_the_gates():
    router = initialise(Router(8, 4, 1, "sigmoid"), 0)
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    before = router(x)
    router.bias[2] = 10.0
    after = router(x)
    assert after.indices.flatten().tolist() == [2] * 20
    torch.testing.assert_close(after.weights, before.scores[:, 2:3])
    torch.testing.assert_close(after.scores, before.scores, rtol=0, atol=0)


def test_biases_follow_a_step_and_even_the_load():
    layer = initialise(BalancedMoE(8, 4, 4, 1, 0, Balance(4), "sigmoid", 0.01), 0, 0.3).train()
    x = torch.randn(4, 50, 8, generator=torch.Generator().manual_seed(0)) + 1
    layer(x)
    layer.start_step(first=True)
    assert not layer.router.bias.any()
    first = None
    for _ in range(100):
        layer(x)
        first = layer.loads[0].sum(0) if first is None else first
        layer.start_step()
    layer(x)
    last = layer.loads[0].sum(0)
    assert first.max() > 100
    assert last.max() < 60, (first, last)


# --- across processes --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_equal_the_concatenated_batch():
    """Losses and gradients of the whole model, averaged over two processes, against one process with all rows."""
    whole = {s: processes.step(processes.tiny(balance_scope=s), processes.rows()) for s in ("global", "micro")}
    assert abs(whole["global"]["auxiliary"] - whole["micro"]["auxiliary"]) > 0.01
    parts = launch(processes.train_step, 2, "global")
    mean = sum(p["auxiliary"] for p in parts) / 2
    torch.testing.assert_close(mean, whole["global"]["auxiliary"], rtol=1e-6, atol=1e-6)
    assert parts[0]["auxiliary"] != parts[1]["auxiliary"]
    for name, gradient in whole["global"].items():
        for part in parts:
            if name != "auxiliary":
                torch.testing.assert_close(part[name], gradient, rtol=1e-5, atol=1e-6)
    router = "layers.0.feed_forward.ffn.router.weight"
    assert not torch.allclose(whole["micro"][router], whole["global"][router], rtol=1e-2, atol=1e-4)


@pytest.mark.slow
def test_two_processes_share_a_buffer():
    for counts in launch(processes.buffered_counts, 2):
        assert counts.tolist() == [[2, 2, 2, 2]]


@pytest.mark.slow
def test_loads_of_two_processes_are_taken_up_once():
    for before, after in launch(processes.kept_loads, 2):
        assert before.sum() > 0
        assert after.tolist() == before.tolist()


def test_without_processes_counts_stay_as_they_are():
    counts = torch.tensor([[1, 2]])
    assert synchronised(counts) is counts


# --- the model ---------------------------------------------------------------------------------------------------


def test_passes_of_the_buffer_have_the_gradient_of_their_own_losses():
    """True accumulation: f of a pass counts all passes so far, P and the gradient are the pass's own."""
    model, plain = (processes.tiny(balance_scope="buffer", z_loss_weight=0.0) for _ in range(2))
    routers = {n: m for n, m in plain.named_modules() if isinstance(m, Router)}
    routed = {}
    for name, router in routers.items():
        router.register_forward_hook(lambda _m, _x, out, name=name: routed.__setitem__(name, out))
    batch = processes.rows()
    start_step(model, 0)
    seen, so_far = [], {}
    for i in range(4):
        part = processes.mine(batch, i, 4)
        value, auxiliary = batch_loss(model, part)
        (value + auxiliary).backward()
        seen.append(auxiliary.detach())
        expected = batch_loss(plain, part)[0]
        charge = torch.zeros(())
        for name, out in routed.items():
            chosen = torch.nn.functional.one_hot(out.indices, 6).sum((0, 1)).double()
            so_far[name] = so_far.get(name, 0) + chosen
            f = (so_far[name] / so_far[name].sum()).float()
            charge = charge + 0.5 * 6 * (f * out.scores.mean(0)).sum()
        torch.testing.assert_close(auxiliary, charge)
        (expected + charge).backward()
    for (name, one), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    for name, module in model.named_modules():
        if isinstance(module, Balance):
            assert module.buffer.flatten().tolist() == so_far[name.replace("balance", "router")].tolist()
    start_step(model, 1)
    torch.testing.assert_close(batch_loss(model, processes.mine(batch, 0, 4))[1].detach(), seen[0])


def test_scopes_can_be_switched():
    model, batch = processes.tiny(balance_scope="micro"), processes.rows()
    micro = batch_loss(model, batch)[1]
    set_scope(model, "global")
    torch.testing.assert_close(batch_loss(model, batch)[1], batch_loss(processes.tiny(), batch)[1])
    assert micro > batch_loss(model, batch)[1]


def test_the_scope_that_a_training_was_switched_to_is_kept():
    model, other = processes.tiny(balance_scope="micro"), processes.tiny(balance_scope="micro", balance_span=2)
    set_scope(model, "global")
    Kept(other).load_state_dict(Kept(model).state_dict())
    assert {(m.scope, m.span) for m in other.modules() if isinstance(m, Balance)} == {("global", 0)}


def test_balance_costs_nothing_in_evaluation_and_rows_must_divide():
    model = processes.tiny()
    with pytest.raises(ValueError, match="micro-batches of 2"):
        model(input_ids=torch.zeros(3, 4, dtype=torch.long))
    model.eval()
    assert model(input_ids=torch.zeros(3, 4, dtype=torch.long)).aux_loss is None


@pytest.mark.parametrize("gating", ["softmax", "sigmoid"])
def test_model_saves_loads_and_generates(tmp_path, gating):
    from transformers import AutoModelForCausalLM

    model = processes.tiny(gating=gating, n_shared_experts=1).eval()
    if gating == "sigmoid":
        model.layers[0].feed_forward.ffn.router.bias.uniform_(-1, 1)
    ids = torch.randint(0, 20, (2, 5), generator=torch.Generator().manual_seed(4))
    cached = model.generate(ids, max_new_tokens=6, do_sample=False, use_cache=True)
    assert torch.equal(cached, model.generate(ids, max_new_tokens=6, do_sample=False, use_cache=False))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(again) is GlobalLBLForCausalLM
    assert isinstance(again.config, GlobalLBLConfig)
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(
        again(ids).logits, model(ids).logits
    )  # where weights lie in memory decides the last digit
    copy.deepcopy(again)


@pytest.mark.parametrize("family", ["Qwen3Moe", "Mixtral"])
def test_any_model_of_transformers_that_returns_router_logits(family):
    import transformers
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 2, "num_experts_per_tok": 2}  # fmt: skip
    sizes |= {"num_local_experts": 4} if family == "Mixtral" else {"num_experts": 4, "moe_intermediate_size": 8}
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**sizes))
    balance = RouterBalance(4, 2, scope="buffer", weight=1.0)
    ids = processes.rows().inputs
    for part in ids.chunk(2):
        out = model(input_ids=part, output_router_logits=True)
        found = balance(out.router_logits)
    every = model(input_ids=ids, output_router_logits=True).router_logits
    for layer, logits_of in zip(balance.layers, every, strict=True):
        torch.testing.assert_close(layer.buffer, selection_counts(logits_of.topk(2, -1).indices, 4))
    found.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "gate" in n)
    plain = RouterBalance(4, 2, scope="global", weight=1.0)
    expected = sum(load_balancing_loss_func((one,), 4, 2) / 2 for one in every)
    torch.testing.assert_close(plain(every, groups=4), expected)
    balance.start_step()
    assert all(layer.buffer is None for layer in balance.layers)


# --- the arms ----------------------------------------------------------------------------------------------------


def test_arms_are_what_they_say():
    spans = {}
    for name in ("bsz4", "bsz8", "global", "micro-wider", "micro-eighth"):
        model = language_model(small(name, hidden=16, heads=2, layers=1), 30)
        layer = model.layers[0].feed_forward.ffn
        spans[name] = (layer.balance.span, layer.router.k, round(layer.balance.weight / small("micro").weight, 4))
    assert spans == {
        "bsz4": (2, 2, 1), "bsz8": (4, 2, 1), "global": (0, 2, 1), "micro-wider": (0, 3, 1),
        "micro-eighth": (0, 2, 0.125),
    }  # fmt: skip
    buffer = small("buffer")
    assert (buffer.batch // buffer.passes, buffer.passes) == (small("bsz8").bsz, 4)


@pytest.mark.parametrize(
    ("scale", "setting"), [("laptop", "domains"), ("gpu", "slimpajama-domains"), ("published", "slimpajama-domains")]
)
def test_scopes_between_micro_and_global_are_two_and_four_micro_batches_at_every_scale(scale, setting):
    """The slope's weights and the buffer's partner rest on sizes that only some scales have."""
    found = {}
    for name in ("micro", "bsz4", "bsz8", "global"):
        config = small(name, setting, scale)
        with torch.device("meta"):
            layer = language_model(config, 300).layers[0].feed_forward.ffn
        groups = config.batch // config.passes // layer.micro_batch
        span = 1 if layer.balance.scope == "micro" else layer.balance.span or groups
        assert groups % span == 0
        found[name] = span
    ratio = {"laptop": 16, "gpu": 16, "published": 128}[scale]
    assert found == {"micro": 1, "bsz4": 2, "bsz8": 4, "global": ratio}
    buffer, claims = small("buffer", setting, scale), {c.id: c for c in PAPER.claims}
    partner = next(c for c in claims["C5"].comparisons if c.name == "buffer-gain")
    if setting in partner.settings:
        assert buffer.batch // buffer.passes == small("bsz8", setting, scale).bsz
    slope = next(c for c in claims["C3"].comparisons if c.name == "slope")
    if setting in slope.settings:
        doublings = torch.tensor([found[arm] for arm in slope.terms]).log2()
        centred = doublings - doublings.mean()
        torch.testing.assert_close(-centred / centred.square().sum(), torch.tensor(list(slope.terms.values())))


def test_entries_of_the_arena_have_the_best_rate_of_the_grid():
    root = Path(__file__).parents[2]
    lines = (root / "papers" / "global_lbl" / "tuning.jsonl").read_text().splitlines()
    cells = [json.loads(line) for line in lines]
    entries = tomllib.loads((root / "leaderboard" / "arenas" / "moe-lm.toml").read_text())["entries"]
    found = {e["arm"]: e["setting"] for e in entries if e["paper"] == "global_lbl"}
    assert set(found) == {"micro", "global"}
    for arm, setting in found.items():
        tried = {
            c["options"]["lr"]: c["mean"] for c in cells
            if (c["setting"], c["arm"], set(c["options"])) == ("moe-lm", arm, {"lr"})
        }  # fmt: skip
        best = min(tried, key=tried.__getitem__)
        assert min(tried) < best < max(tried)
        assert small(arm, setting).lr == best, arm


def test_arms_of_a_seed_share_weights_and_do_the_same_work():
    batch = processes.rows()
    profiles, weights = {}, {}
    for name in ("micro", "global", "shuffle", "buffer", "bias-global", "micro-wider"):
        model = language_model(small(name, hidden=16, heads=2, layers=1, width=8), processes.VOCAB)
        initialise(model, 3)
        weights[name] = {n: p.clone() for n, p in model.named_parameters()}
        profiles[name] = profile_training(model, partial(batch_loss, model), batch, 64)
    for name in ("global", "shuffle", "buffer", "bias-global"):
        assert all(torch.equal(weights[name][n], w) for n, w in weights["micro"].items())
        assert profiles[name]["train_flops"] == profiles["micro"]["train_flops"]
    assert profiles["micro-wider"]["train_flops"] > profiles["micro"]["train_flops"]


def test_a_run_measures_specialisation_and_repeats():
    config = small("global", scale="smoke")
    one, two = (run(config, Context(seed=5)) for _ in range(2))
    assert one.metrics == two.metrics
    assert set(one.metrics) <= set(PAPER.metrics)
    assert one.tables["domains"] == ["code", "prose", "tables", "chains", "sums", "brackets"]
    frequency = torch.tensor(one.tables["frequency"]["layer 0"])
    torch.testing.assert_close(frequency.sum(1), torch.full((6,), 2.0), rtol=1e-3, atol=1e-3)
    assert run(small("shuffle", scale="smoke"), Context(seed=5)).metrics != one.metrics


def test_the_buffer_arm_reads_the_same_rows():
    one, two = (run(small(n, scale="smoke", weight=0.0, z_weight=0.0), Context(seed=5)) for n in ("global", "buffer"))
    assert one.metrics["loss"] == pytest.approx(two.metrics["loss"], rel=1e-5)
    assert one.profile["train_tokens"] == two.profile["train_tokens"]


def test_analysis_sees_experts_that_belong_to_domains():
    """A router that knows the domain gives all the information there is."""
    from repro.data import load_language

    data = load_language("domains", 24, limit=3000)
    model = language_model(small("global", hidden=16, heads=2, layers=1, k_scale=0.5, experts=8, sequence=24), 258)
    initialise(model, 0)
    batches, labels = data.held_out_batches(2, 12), data.held_out_domains(2, 12)
    router = model.layers[0].feed_forward.ffn.router
    turn = itertools.cycle(labels)

    def by_domain(_module, _inputs, out):
        index = next(turn).reshape(-1, 1)
        return out._replace(indices=index, scores=torch.nn.functional.one_hot(index[:, 0], 8).float())

    handle = router.register_forward_hook(by_domain)
    model.eval()
    found, tables = analyse(model, batches, labels, data, 0)
    expected = held_out_loss(model, batches)["loss"]
    handle.remove()
    assert found["domain_information"] == pytest.approx(torch.tensor(6.0).log2().item(), rel=1e-5)
    assert found["shuffled_information"] < 0.2
    assert found["domain_peak"] == pytest.approx(8.0)
    assert found["local_imbalance"] == pytest.approx(8.0)
    assert found["top_score_sum"] == pytest.approx(1.0)
    assert found["extra_constraint"] == pytest.approx(8 - 8 / 6, rel=1e-5)
    assert tables["frequency"]["layer 0"][0] == [1.0] + [0.0] * 7
    assert sum(tables["loss"].values()) / 6 == pytest.approx(expected, rel=1e-5)


# --- published size ----------------------------------------------------------------------------------------------


def test_accounting_gives_the_cards_figures():
    out = accounting()
    assert (out["allreduce_bytes_64"], out["allreduce_bytes_160"]) == (256, 640)
    assert out["selection_matrix_entries_64"] == 1_048_576
    assert out["train_flops_120b"] == pytest.approx(4.32e20)
    assert out["gpu_hours_120b"] == pytest.approx(960)
    assert out["step_overhead_global"] == pytest.approx(5.8, abs=0.05)
    assert out["step_overhead_combined"] == pytest.approx(2.6, abs=0.05)
    assert out["params_total"] == pytest.approx(3.4e9, rel=0.02)
    assert out["params_active"] == pytest.approx(0.6e9, rel=0.05)


def test_published_arms_build():
    for name in ("micro", "global", "buffer"):
        config = small(name, "slimpajama-domains", "published")
        assert config.batch % (config.passes * config.micro_batch) == 0
        with torch.device("meta"):
            model = language_model(config, 151_936)
        assert count_parameters(model)["params_total"] > 3e9
