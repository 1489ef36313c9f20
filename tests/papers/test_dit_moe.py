"""DiT-MoE: against the layer written out and transformers' mixtures, its limits, and the published sizes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from papers.dit_moe.baselines import ShuffledRouter, shuffled_layer
from papers.dit_moe.method import (
    MoEShape,
    SparseMoE,
    balance_loss,
    dit_moe,
    expert_balance_loss,
    moe_layers,
    placed,
    upcycled,
    with_experts,
)
from papers.dit_moe.paper import PAPER, SIZES, Config, learning_rate
from papers.dit_moe.published import DIT_XL, MODELS, accounting, active, latent_config, macs, on_meta
from repro.models.diffusion import RectifiedFlow, guided
from repro.models.dispatch import WAYS
from repro.models.dit import DiT, DiTConfig, initialise_dit, swiglu
from repro.models.moe import SwiGLU, TopKRouter
from repro.models.ways import forced
from repro.profiling.counts import count_flops, count_parameters
from repro.runner import Context

D, SHAPE = 8, MoEShape(experts=4, active=2, width=1.5, shared=1.0)
NET = DiTConfig(size=4, patch=2, channels=1, classes=3, hidden=D, layers=2, heads=2, frequencies=8)


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def layer(shape=SHAPE, alpha=0.1, seed=0):
    made = SparseMoE(D, shape, alpha)
    generator = noise(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return made


def tokens(images=3, seed=1):
    return torch.randn(images, 4, D, generator=noise(seed))


def expert(made, e, u):
    gate, up = (u @ made.experts.gate_up_proj[e].T).chunk(2, -1)
    return (F.silu(gate) * up) @ made.experts.down_proj[e].T


def written_out(made, u):
    """Token by token, from the formulas at the top of method.py."""
    out = []
    for token in u.reshape(-1, D):
        p = (made.router.weight @ token).softmax(0)
        chosen = p.argsort(descending=True)[: made.shape.active]
        y = sum(p[e] * expert(made, e, token) for e in chosen)
        out.append(y if made.shared is None else y + made.shared(token))
    return torch.stack(out).view_as(u)


# --- the layer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_it_is_what_the_paper_writes(shared):
    made, u = layer(SHAPE._replace(shared=shared)), tokens()
    torch.testing.assert_close(made(u), written_out(made, u), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_dispatch_gives_the_same_and_the_same_gradients(way):
    def run(name):
        made, u = layer(), tokens().requires_grad_()
        with forced(name):
            (made(u).square().sum() + made.balance).backward()
        return [u.grad, *(p.grad for p in made.parameters())]

    for one, other in zip(run("naive"), run(way), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_against_mixtral_with_gates_that_are_not_scaled():
    """transformers' Mixtral renormalises its gates; undone, it is this layer without a shared expert."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(hidden_size=D, intermediate_size=12, num_local_experts=4, num_experts_per_tok=2)
    config._experts_implementation = "eager"
    theirs, ours = MixtralSparseMoeBlock(config), layer(SHAPE._replace(shared=0.0))
    with torch.no_grad():
        theirs.gate.weight.copy_(ours.router.weight)
        theirs.experts.gate_up_proj.copy_(ours.experts.gate_up_proj)
        theirs.experts.down_proj.copy_(ours.experts.down_proj)
    u = tokens()
    found = theirs(u)
    found = found[0] if isinstance(found, tuple) else found
    top = (u @ ours.router.weight.T).softmax(-1).topk(2).values.sum(-1, keepdim=True)
    torch.testing.assert_close(ours(u), found * top, rtol=1e-4, atol=1e-5)


def test_the_shared_expert_is_a_llama_mlp():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP

    theirs, ours = LlamaMLP(LlamaConfig(hidden_size=D, intermediate_size=D, num_attention_heads=2)), layer().shared
    with torch.no_grad():
        gate, up = ours.gate_up_proj.weight.chunk(2)
        theirs.gate_proj.weight.copy_(gate)
        theirs.up_proj.weight.copy_(up)
        theirs.down_proj.weight.copy_(ours.down_proj.weight)
    torch.testing.assert_close(ours(tokens()), theirs(tokens()))


def test_one_expert_is_a_dense_layer_and_the_balance_loss_a_constant():
    made, u = layer(MoEShape(1, 1, 1.5, 1.0)), tokens()
    torch.testing.assert_close(made(u), expert(made, 0, u) + made.shared(u))
    assert float(made.balance.detach()) == pytest.approx(0.1)


def test_a_router_of_zeros_weighs_by_one_over_e():
    made, u = layer(), tokens()
    nn.init.zeros_(made.router.weight)
    chosen = made.router(u.reshape(-1, D)).indices[0].tolist()
    expected = sum(expert(made, e, u[0, 0]) for e in chosen) / 4 + made.shared(u[0, 0])
    torch.testing.assert_close(made(u)[0, 0], expected)
    assert float(made.balance.detach()) == pytest.approx(0.1)


def test_equal_experts_give_the_expert_times_the_chosen_gates():
    made, u = layer(), tokens()
    with torch.no_grad():
        for packed in made.experts.parameters():
            packed.copy_(packed[:1].expand_as(packed))
    top = (u @ made.router.weight.T).softmax(-1).topk(2).values.sum(-1, keepdim=True)
    torch.testing.assert_close(made(u), top * expert(made, 0, u) + made.shared(u))


def test_balance_loss_of_a_collapse():
    made, u = layer(), tokens().abs()
    with torch.no_grad():
        made.router.weight.copy_(torch.tensor([4.0, 3.0, 0.0, 0.0])[:, None].expand(4, D))
    routing = made.router(u.reshape(-1, D))
    mass = float(routing.weights.detach().sum(1).mean())
    assert routing.indices.unique().tolist() == [0, 1]
    assert float(expert_balance_loss(routing)) == pytest.approx(4 / 2 * mass)
    single = TopKRouter(D, 4, 1)
    with torch.no_grad():
        single.weight.copy_(100 * made.router.weight)
    assert float(expert_balance_loss(single(u.reshape(-1, D)))) == pytest.approx(4)


def test_balance_loss_is_over_the_whole_batch():
    """Image by image it would be 4: each uses one expert. Over both it is balanced between two."""
    p = torch.eye(4)[[0, 0, 1, 1]]
    routing = TopKRouter(4, 4, 1)
    with torch.no_grad():
        routing.weight.copy_(100 * torch.eye(4))
    assert float(expert_balance_loss(routing(p))) == pytest.approx(2)


def test_gradients_of_the_gates_and_of_experts_that_are_not_chosen():
    made, u = layer(), tokens(1)[:, :1]
    chosen = set(made.router(u.reshape(-1, D)).indices[0].tolist())
    made(u).sum().backward()
    through_gates = made.router.weight.grad.clone()
    assert through_gates.abs().sum() > 0
    for e in range(4):
        assert (made.experts.down_proj.grad[e].abs().sum() > 0) == (e in chosen)
        assert (made.experts.gate_up_proj.grad[e].abs().sum() > 0) == (e in chosen)
    made.zero_grad()
    made(u)
    made.balance.backward()
    # of sum_i f_i P_i with f fixed: alpha E / (K T) count_i on the scores, through the softmax
    logits = (u.reshape(-1, D) @ made.router.weight.detach().T).requires_grad_()
    counts = torch.zeros(4).index_fill_(0, torch.tensor(sorted(chosen)), 1.0)
    (0.1 * (4 / 2 * counts * logits.softmax(-1).mean(0)).sum()).backward()
    torch.testing.assert_close(made.router.weight.grad, logits.grad.T @ u.reshape(-1, D))
    assert made.experts.down_proj.grad is None


def test_no_balance_loss_in_evaluation_or_without_a_weight():
    for made in (layer().eval(), layer(alpha=0.0)):
        made(tokens())
        assert made.balance is None
    assert balance_loss(nn.Linear(1, 1)) is None


def test_active_and_total_width():
    assert MoEShape().active_width == 10
    assert MoEShape().total_width == 34
    made, u = layer(), tokens()
    dense = SwiGLU(D, round(SHAPE.active_width * D))
    assert count_flops(lambda: made(u)) - count_flops(lambda: dense(u)) == 2 * 12 * D * 4  # the router
    counted = count_parameters(nn.ModuleList([made]))
    assert counted["params_total"] - counted["params_active"] == made.idle_parameters() == 2 * 3 * D * 12


# --- the network ----------------------------------------------------------------------------------------------------


def test_places():
    assert list(placed(5, "all")) == [0, 1, 2, 3, 4]
    assert list(placed(4, "deep")) == [2, 3]
    assert list(placed(4, "shallow")) == [0, 1]
    with pytest.raises(ValueError, match="middle"):
        placed(4, "middle")
    deep = dit_moe(NET, SHAPE, where="deep")
    assert [isinstance(b.feed_forward, SparseMoE) for b in deep.blocks] == [False, True]
    assert deep.blocks[0].feed_forward.down_proj.in_features == 4 * D
    sizes = {
        name: count_parameters(dit_moe(NET, SHAPE, where=name))["params_total"] for name in ("deep", "shallow", "all")
    }
    assert sizes["deep"] == sizes["shallow"] < sizes["all"]


def test_training_reaches_output_then_gates_then_experts():
    """adaLN-Zero. The balance loss, which does not pass the gates, would train the routers from the first step on."""
    model = initialise_dit(dit_moe(NET, SHAPE, alpha=0.0), 0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.5)
    x, y, t = torch.randn(6, 1, 4, 4, generator=noise()), torch.arange(6) % 3, torch.rand(6, generator=noise(1))
    for step in range(3):
        loss = RectifiedFlow().loss(model, x, t, y, torch.randn(x.shape, generator=noise(2))).mean()
        loss.backward()
        got = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        if step == 0:
            assert got == {"out.weight", "out.bias"}
        assert any(n.startswith("blocks") and ".modulation." in n for n in got) == (step > 0)
        for part in (".attention.", ".experts.", ".shared.", ".router."):
            assert any(part in n for n in got) == (step > 1), part
        optimizer.step()
        optimizer.zero_grad()
    balanced = initialise_dit(dit_moe(NET, SHAPE), 0)
    balanced(x, t, y)
    balance_loss(balanced).backward()
    assert all(m.router.weight.grad.abs().sum() > 0 for m in moe_layers(balanced))


def test_upcycled_experts_give_the_dense_output_times_the_gates():
    dense, u = SwiGLU(D, 12), tokens()
    made = upcycled(dense, 4, 2, noise())
    top = (u @ made.router.weight.T).softmax(-1).topk(2).values.sum(-1, keepdim=True)
    torch.testing.assert_close(made(u), top * dense(u))
    assert made.shared is None
    assert float(upcycled(SwiGLU(200, 8), 8, 2, noise()).router.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_experts_in_the_place_of_anybody_s_mlps():
    dense = initialise_dit(DiT(NET, swiglu(NET, 2)), 0)
    kept = copy.deepcopy(dense.state_dict())
    names = [f"blocks.{i}.feed_forward" for i in range(2)]
    sparse = with_experts(dense, names, lambda _, mlp: upcycled(mlp, 4, 2, noise()))
    assert len(moe_layers(sparse)) == 2
    assert not moe_layers(dense)
    assert all(torch.equal(v, kept[k]) for k, v in dense.state_dict().items())
    fresh = with_experts(dense, names, lambda _, mlp: SparseMoE(NET.hidden, SHAPE)).train()
    for made in (sparse, fresh):
        made(torch.randn(2, 1, 4, 4), torch.rand(2), torch.zeros(2).long()).square().mean().backward()
        assert all(p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)
    assert fresh.get_submodule(names[0]).router.weight.grad is not None
    with pytest.raises(AttributeError):
        with_experts(dense, ["blocks.9.feed_forward"], lambda _, mlp: mlp)


def test_shuffled_routing_keeps_the_use_and_loses_the_tokens():
    made = shuffled_layer(D, SHAPE, 0.1, 3)
    nn.init.normal_(made.router.weight)
    x = torch.randn(500, D, generator=noise())
    plain = TopKRouter.forward(made.router, x)
    found = made.router(x)
    assert torch.equal(found.indices.flatten().bincount(), plain.indices.flatten().bincount())
    assert torch.equal(found.scores, plain.scores)
    # as often right as if experts were dealt: the sum of squared shares
    share = plain.indices[:, 0].bincount(minlength=4) / 500
    right = (found.indices[:, 0] == plain.indices[:, 0]).float().mean()
    assert float(right) == pytest.approx(float(share.square().sum()), abs=0.08)
    assert torch.equal(made.router(x).indices, found.indices)
    other = ShuffledRouter(D, 4, 2, block=4)
    other.load_state_dict(made.router.state_dict())
    assert not torch.equal(other(x).indices, found.indices)


# --- published sizes ------------------------------------------------------------------------------------------------


def test_table_1_to_the_last_parameter():
    found = accounting()
    for name, _, total, idle, gmac, _ in SIZES:
        assert found[f"params_{name}"] == total
        assert found[f"active_{name}"] == idle
        assert found[f"gmac_{name}"] == pytest.approx(gmac, rel=5e-4)
    assert found["params_dit_xl"] == 675_129_632
    assert found["gmac_full_dit_xl"] == pytest.approx(118.64, rel=5e-4)
    assert found["gmac_ratio_xl_to_dit_xl"] == pytest.approx(2.76, abs=0.01)


def test_parameters_by_the_closed_form():
    for size in (*MODELS.values(), DIT_XL):
        d, model = size.hidden, on_meta(size)
        mlp = size.experts * 12 * d * d + 6 * d * d + size.experts * d if size.experts else 8 * d * d + 5 * d
        block = 4 * d * d + 4 * d + 6 * d * d + 6 * d + mlp
        around = 16 * d + d + 256 * d + d + d * d + d + 1001 * d + 256 * d + 32 * d + 32 + 2 * d * d + 2 * d
        assert sum(p.numel() for p in model.parameters()) == size.layers * block + around
        if size.experts:
            assert active(model) == size.layers * (block - (size.experts - 2) * 12 * d * d) + around


@pytest.mark.parametrize("sparse", [True, False])
def test_multiply_accumulates_are_those_of_the_flop_counter(sparse):
    config = DiTConfig(8, 2, 4, 5, 16, 3, 2, outputs=8, frequencies=32)
    model = dit_moe(config, MoEShape(4)) if sparse else DiT(config)
    x, t, y = torch.randn(1, 4, 8, 8), torch.rand(1), torch.zeros(1).long()
    assert count_flops(lambda: model(x, t, y)) == 2 * sum(macs(model))


def test_the_published_preset_builds_the_published_network():
    from papers.dit_moe.experiment import build
    from repro.data.images import ImageData, Images

    images = Images(torch.zeros(1, 4, 32, 32), torch.zeros(1).long())
    data = ImageData("none", images, images, images, 1000, "generated", "")
    with torch.device("meta"):
        model = build(Config(**PAPER.resolve("imagenet-latents", "moe", "published")), data)
    assert model.config == latent_config(MODELS["s8"])
    counted = count_parameters(model)
    assert (counted["params_total"], counted["params_active"]) == (199_307_552, 71_905_568)


# --- the experiment -------------------------------------------------------------------------------------------------


def small(arm, setting="digits", **changes):
    return Config(**{**PAPER.resolve(setting, arm, "smoke"), "pictures": "none", **changes})


def test_arms_of_a_seed_are_matched():
    from papers.dit_moe.experiment import build, load

    sizes = {}
    for arm in ("moe", "dense", "dense-total", "unshared", "sixteen", "deep", "shallow", "shuffled"):
        config = Config(**PAPER.resolve("digits", arm, "laptop"))
        data = load(small(arm), 0)
        sizes[arm] = count_parameters(build(config, data))
    moe = sizes["moe"]
    for arm in ("dense", "unshared", "sixteen", "deep", "shallow", "shuffled"):
        assert sizes[arm]["params_active"] == pytest.approx(moe["params_active"], rel=0.02), arm
    assert sizes["dense-total"]["params_total"] == pytest.approx(moe["params_total"], rel=0.02)
    assert sizes["deep"]["params_total"] == sizes["shallow"]["params_total"]


def test_arms_of_a_seed_see_the_same_batches_times_and_noise(monkeypatch):
    """What the process is asked to do in training does not depend on the arm."""
    from papers.dit_moe import experiment

    seen = {}

    class Watched(RectifiedFlow):
        def loss(self, model, x, t, y, noise):
            if torch.is_grad_enabled():
                self.calls.append((x.sum(), t.sum(), y.sum(), noise.sum()))
            return RectifiedFlow.loss(self, model, x, t, y, noise)

    for arm in ("moe", "dense", "deep"):
        process = Watched()
        process.calls = []
        monkeypatch.setattr(experiment, "process_of", lambda _config, made=process: made)
        experiment.run(small(arm), Context(seed=5))
        seen[arm] = torch.tensor([[float(v) for v in call] for call in process.calls[-3:]])
    assert torch.equal(seen["moe"], seen["dense"])
    assert torch.equal(seen["moe"], seen["deep"])


def test_the_average_takes_in_every_step(monkeypatch):
    from papers.dit_moe import experiment

    averages = []
    plain = experiment.EMA

    def made(model, decay):
        averages.append(plain(model, decay))
        return averages[-1]

    monkeypatch.setattr(experiment, "EMA", made)
    experiment.run(small("dense", steps=5, evaluations=2), Context(seed=5))
    assert [a.updates for a in averages] == [5]


@pytest.mark.parametrize("setting", ["digits", "digits-ddpm", "waves"])
def test_a_run_measures_what_the_claims_read(setting):
    from papers.dit_moe.experiment import run

    first, again = (run(small("moe", setting), Context(seed=5)) for _ in range(2))
    assert first.metrics == again.metrics
    assert set(first.metrics) <= set(PAPER.metrics)
    wanted = {
        c.metric for claim in PAPER.claims for c in claim.comparisons
        if hasattr(c, "metric") and "moe" in c.arms and setting in c.settings
    }  # fmt: skip
    assert wanted <= set(first.metrics)
    assert all(math.isfinite(v) for v in first.metrics.values())
    assert first.profile["train_samples"] == 3 * 16


@pytest.mark.parametrize(("setting", "guided_channels"), [("digits", None), ("digits-ddpm", 1)])
def test_guidance_leaves_the_learned_variance_alone(setting, guided_channels, monkeypatch):
    """DiT's code guides the noise: of the two channels that a grey image's network gives under DDPM, the first."""
    from papers.dit_moe import experiment

    seen = []

    def watched(model, none, scale, channels=None):
        seen.append(channels)
        return guided(model, none, scale, channels)

    monkeypatch.setattr(experiment, "guided", watched)
    experiment.run(small("moe", setting), Context(seed=5))
    assert set(seen) == {guided_channels}


def test_pictures_of_the_first_seed():
    from papers.dit_moe.experiment import run

    config = small("moe", pictures="all", samples=60, traced=20)
    found = run(config, Context(seed=0)).pictures
    assert set(found) == {
        "samples over training", "samples", "experts by position", "experts by step", "experts by class"
    }  # fmt: skip
    assert sum(len(p.content) for p in found.values()) < 100_000
    assert not run(config, Context(seed=1)).pictures


def test_before_training_the_blocks_route_alike_and_the_class_tells_nothing():
    """adaLN-Zero: every block sees the patches of pure noise with their positions, and no label."""
    from papers.dit_moe.experiment import run

    found = run(small("untrained", pictures="none", samples=60, traced=60), Context(seed=5)).metrics
    assert abs(found["class_mean"]) < 0.03
    assert found["position_first"] > 0.02


def test_a_learning_rate_has_to_be_given():
    assert learning_rate(Config(lr=0.5)) == 0.5
    assert learning_rate(Config(rates="digits=1e-3 digits-ddpm=2e-3", objective="ddpm")) == 2e-3
    with pytest.raises(ValueError, match="waves"):
        learning_rate(Config(data="waves", rates="digits=1e-3"))


def test_options_that_do_not_exist():
    from papers.dit_moe.experiment import build, load, process_of

    data = load(small("moe"), 0)
    with pytest.raises(ValueError, match="no feed-forward"):
        build(small("moe", feed_forward="sparse"), data)
    with pytest.raises(ValueError, match="no feed-forward"):
        build(small("moe", routing="lost"), data)
    with pytest.raises(ValueError, match="flow or ddpm"):
        process_of(small("moe", objective="gan"))


def test_absent_data_is_a_plain_error(tmp_path, monkeypatch):
    from papers.dit_moe.experiment import run
    from repro.data.errors import MissingData

    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    with pytest.raises(MissingData, match="imagenet-latents"):
        run(Config(**PAPER.resolve("imagenet-latents", "moe", "published")), Context(seed=0))


def test_latents_of_the_published_layout_are_trained_on(tmp_path, monkeypatch):
    """The published configuration on small files, its sizes cut down."""
    import numpy as np

    from papers.dit_moe.experiment import run

    (tmp_path / "imagenet-latents").mkdir()
    numbers = np.random.default_rng(0)
    for name in ("train", "validation"):
        latents = numbers.normal(size=(30, 4, 8, 8)).astype(np.float16)
        np.save(tmp_path / "imagenet-latents" / f"{name}_latents.npy", latents)
        np.save(tmp_path / "imagenet-latents" / f"{name}_labels.npy", np.arange(30) % 3)
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    config = {
        **PAPER.resolve("imagenet-latents", "moe", "published"), "hidden": 16, "layers": 2, "heads": 2, "steps": 2,
        "batch": 8, "evaluations": 1, "levels": 2, "sample_steps": 2, "components": 4, "validation": 5,
    }  # fmt: skip
    outcome = run(Config(**config), Context(seed=0))
    assert outcome.data["name"] == "imagenet-latents"
    assert math.isfinite(outcome.metrics["held_out_loss"])
    assert not outcome.pictures


@pytest.mark.slow
def test_smoke_scale_runs_as_a_whole(tmp_path):
    from repro.records import Store
    from repro.runner import execute, plan

    runs = plan(PAPER, "smoke", time_limit=300)
    summary = execute(runs, Store(tmp_path), workers=1)
    assert not summary.failed
    assert {r.status for r in summary.records} == {"ok"}
