"""Moirai-MoE: gating against hand computations and the released behaviour, invariants, arms, and the figures."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from papers.moirai_moe import experiment
from papers.moirai_moe.analysis import cluster_agreement, label_distance, routes, routing_scores
from papers.moirai_moe.experiment import build, centroids, load, run
from papers.moirai_moe.method import (
    CentroidRouter,
    MoEFeedForward,
    cluster_centroids,
    dense,
    linear_moe,
    moirai_moe,
    next_patch_loss,
    random_centroids,
    token_representations,
)
from papers.moirai_moe.paper import PAPER, Config
from papers.moirai_moe.published import MOIRAI_PATCHES, SIZES, accounting, moirai, on_meta
from repro.models.forecasting import MixtureHead, standardise
from repro.models.moe import Experts, SwiGLU
from repro.profiling.counts import count_parameters
from repro.runner import Context
from repro.training.checkpoints import obtain
from repro.training.forecasting import uniform_start

TINY = Config(
    train=64, test=48, unseen=8, past=128, horizon=32, steps=4, batch=8, samples=6, hidden=16, heads=2, width=32,
    layers=2, experts=4, cluster_rows=16, evaluations=1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path_factory.getbasetemp() / "moirai-cache"))


def centres(layers=2, clusters=4, hidden=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(clusters, hidden, generator=generator, dtype=torch.float64) for _ in range(layers)]


def small(**options):
    return uniform_start(moirai_moe(8, 16, 2, 12, centres(), head="student", **options), 0).eval()


# --- gating ---------------------------------------------------------------------------------------------------


def test_the_gate_of_the_example():
    """Distances 1, 2, 3. Released: the two farthest, 0.731 for the farther; nearest: 0.731 for the nearer."""
    c, x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]), torch.zeros(1, 2)
    far = CentroidRouter(c, 2, "distance")(x)
    assert far.indices.tolist() == [[2, 1]]
    assert far.weights[0].tolist() == pytest.approx([0.7310586, 0.2689414])
    near = CentroidRouter(c, 2, "-distance")(x)
    assert near.indices.tolist() == [[0, 1]]
    assert near.weights[0].tolist() == pytest.approx([0.7310586, 0.2689414])
    assert near.scores.tolist() == [[-1, -2, -3]]


@pytest.mark.parametrize("affinity", ["-distance", "distance"])
def test_the_layer_is_the_formula_token_by_token(affinity):
    torch.manual_seed(0)
    c = torch.randn(5, 16)
    layer = MoEFeedForward(CentroidRouter(c, 2, affinity), Experts(5, 16, 8))
    uniform_start(layer, 0)
    x = torch.randn(3, 4, 16)
    found, loss = layer(x)
    assert loss is None
    for token, y in zip(x.view(-1, 16), found.view(-1, 16), strict=True):
        d = (token - c).square().sum(-1).sqrt()
        order = d.argsort(descending=affinity == "distance")[:2]
        weights = torch.softmax(d[order] if affinity == "distance" else -d[order], 0)
        wanted = torch.zeros(16)
        for w, e in zip(weights, order, strict=True):
            gate, up = (layer.experts.gate_up_proj[e] @ token).chunk(2)
            wanted += w * (layer.experts.down_proj[e] @ (F.silu(gate) * up))
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-5)


def test_one_expert_is_a_plain_gated_layer():
    ffn = SwiGLU(16, 12)
    layer = MoEFeedForward(CentroidRouter(torch.randn(1, 16), 1), Experts(1, 16, 12))
    with torch.no_grad():
        layer.experts.gate_up_proj[0] = ffn.gate_up_proj.weight
        layer.experts.down_proj[0] = ffn.down_proj.weight
    x = torch.randn(7, 16)
    torch.testing.assert_close(layer(x)[0], ffn(x))
    assert layer.router(x).weights.tolist() == [[1.0]] * 7
    assert layer.idle_parameters() == 0


def test_with_equal_experts_the_routing_does_not_matter():
    layers = [MoEFeedForward(CentroidRouter(torch.randn(4, 16), 2, a), Experts(4, 16, 8)) for a in
              ("-distance", "distance")]  # fmt: skip
    with torch.no_grad():
        one_up, one_down = torch.randn(16, 16), torch.randn(16, 8)
        for layer in layers:
            layer.experts.gate_up_proj.copy_(one_up.expand(4, -1, -1))
            layer.experts.down_proj.copy_(one_down.expand(4, -1, -1))
    x = torch.randn(9, 16)
    torch.testing.assert_close(layers[0](x)[0], layers[1](x)[0], rtol=1e-4, atol=1e-4)


def test_centroids_are_fixed_and_survive_in_double_precision():
    model = small()
    loss, auxiliary = next_patch_loss(model, torch.randn(4, 160).cumsum(1))
    assert auxiliary is None
    loss.backward()
    router = model.layers[0].feed_forward.router
    assert not list(router.parameters())
    assert router.centroids.grad is None
    assert all(p.grad is not None for name, p in model.named_parameters() if "variate_bias" not in name)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = small()
    other.layers[0].feed_forward.router.centroids.zero_()
    other.load_state_dict(torch.load(file))
    assert other.layers[0].feed_forward.router.centroids.dtype == torch.float64
    assert torch.equal(other.layers[0].feed_forward.router.centroids, router.centroids)


def test_what_a_router_refuses():
    with pytest.raises(ValueError, match="affinity"):
        CentroidRouter(torch.randn(3, 2), 1, "nearest")
    with pytest.raises(ValueError, match="select 4 of 3"):
        CentroidRouter(torch.randn(3, 2), 4)


def test_linear_gating_has_a_balance_loss_in_training_alone():
    model = uniform_start(linear_moe(8, 16, 2, 12, 2, 4, head="student"), 0)
    z = torch.randn(2, 6, 8)
    _, loss = model.train()(z)
    assert 2 * 0.01 * 0.9 < loss.item() < 2 * 0.01 * 2  # 1 a layer when balanced
    loss.backward()
    assert bool(model.layers[0].feed_forward.router.weight.grad.any())
    assert model.eval()(z)[1] is None


# --- training and forecasting ---------------------------------------------------------------------------------


def test_mean_and_scale_come_from_the_first_thirty_per_cent():
    model = small()
    x = torch.randn(3, 160).cumsum(1)  # 20 patches, 6 known
    loc, scale = standardise(x[:, :48], torch.ones(3, 48, dtype=torch.bool))
    z = ((x - loc) / scale).view(3, 20, 8)
    raw, _ = model(z[:, :-1])
    by_hand = torch.stack([-model.head.log_prob(raw[:, t - 1], z[:, t]) for t in range(6, 20)]).mean()
    torch.testing.assert_close(next_patch_loss(model, x)[0], by_hand)
    torch.testing.assert_close(next_patch_loss(model, 3 * x - 20)[0], by_hand, rtol=1e-3, atol=1e-3)


def test_causality_with_experts():
    model, z = small(), torch.randn(2, 6, 8)
    other = z.clone()
    other[:, 3] += 2
    one, two = model(z)[0], model(other)[0]
    assert torch.equal(one[:, :3], two[:, :3])
    assert not torch.allclose(one[:, 3:], two[:, 3:])


def test_the_page_s_example_runs():
    page = (Path(experiment.__file__).parent / "README.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    series = torch.randn(8, 128, generator=torch.Generator().manual_seed(0)).cumsum(1)
    names = {"series": series, "batches": [series[:4]], "past": series[:2, :64]}
    exec(code, names)
    assert isinstance(names["model"].head, MixtureHead)
    assert names["samples"].shape == (2, 100, 64)
    assert bool(names["samples"].isfinite().all())


# --- clusters -------------------------------------------------------------------------------------------------


def test_tokens_are_what_enters_the_feed_forward_layers():
    model = uniform_start(dense(8, 16, 2, 32, 2), 0).eval()
    z = torch.randn(3, 5, 8)
    first, second = token_representations(model, z)
    layer = model.layers[0]
    h = model.into(z)
    from repro.models.forecasting import Places

    h = h + layer.attention(layer.attention_norm(h), Places(torch.arange(5)))
    torch.testing.assert_close(first, layer.feed_forward_norm(h).flatten(0, 1))
    assert second.shape == (15, 16)


def test_centroids_find_clusters_and_random_ones_do_not():
    torch.manual_seed(0)
    places = 5 * torch.randn(4, 8)
    tokens = torch.cat([place + 0.1 * torch.randn(100, 8) for place in places])
    found = cluster_centroids(tokens, 4, seed=1)
    assert found.dtype == torch.float64
    assert float(torch.cdist(places.double(), found).min(1).values.max()) < 0.1
    assert torch.equal(found, cluster_centroids(tokens, 4, seed=1))
    drawn = random_centroids(tokens, 200, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn.mean(0), tokens.double().mean(0), rtol=0.3, atol=1.5)
    assert float(torch.cdist(places.double(), drawn[:4]).min(1).values.max()) > 1


def test_distance_between_labels():
    alike = torch.tensor([[[0, 1]], [[1, 0]]])
    apart = torch.tensor([[[0, 1]], [[2, 3]]])
    half = torch.tensor([[[0, 1]], [[1, 2]]])
    labels = torch.tensor([0, 1])
    assert [label_distance(i, labels, 4) for i in (alike, apart, half)] == [0, 1, 0.5]


def test_routes_and_their_scores():
    model = small()
    z, labels = torch.randn(8, 5, 8), torch.arange(8) % 4
    which = routes(model, z, labels)
    assert [i.shape for i in which] == [(8, 5, 2)] * 2
    base = uniform_start(dense(8, 16, 2, 32, 2), 0).eval()
    with pytest.raises(TypeError, match="no experts"):
        routes(base, z, labels)
    metrics, tables = routing_scores(model, torch.randn(8, 48), labels, Context(0))
    assert metrics["label_convergence"] == metrics["label_distance_first"] - metrics["label_distance_last"]
    for shares in tables["shares"].values():
        assert len(shares) == 4
        assert all(sum(s) == pytest.approx(1, abs=1e-3) for s in shares.values())
    agreement = cluster_agreement(model, base, torch.randn(8, 48), Context(0))
    assert len(agreement) == 2
    assert all(-1e-6 < a < 100 + 1e-6 for a in agreement)


def test_a_model_agrees_with_its_own_clusters():
    """Experts that are all zero leave the stream as the dense model's, whose layers are made zero too."""
    base = uniform_start(dense(8, 16, 2, 32, 1), 0).eval()
    tokens = token_representations(base, torch.randn(8, 5, 8))
    model = uniform_start(moirai_moe(8, 16, 2, 12, [cluster_centroids(t, 4, 0) for t in tokens], head="student"), 0)
    assert cluster_agreement(model.eval(), base, torch.randn(8, 48), Context(0)) == [pytest.approx(100)]


# --- the arms -------------------------------------------------------------------------------------------------


def config_of(arm, setting="mixed", **options):
    resolved = PAPER.resolve(setting, arm, "laptop")
    tiny = {f.name: getattr(TINY, f.name) for f in dataclasses.fields(Config) if getattr(TINY, f.name) != f.default}
    return Config(**{**resolved, **tiny, **options})


def test_arms_differ_in_what_they_should():
    context = Context(0)
    data = load(TINY, 0)
    models = {}
    for arm in ("multi", "linear", "cluster", "cluster-far", "random"):
        models[arm] = build(config_of(arm), data, context)[0]
    counted = {arm: count_parameters(model) for arm, model in models.items()}
    active = [c["params_active"] for c in counted.values()]
    assert max(active) / min(active) < 1.03
    shared = "layers.0.attention.q_proj.weight"
    assert all(torch.equal(m.state_dict()[shared], models["multi"].state_dict()[shared]) for m in models.values())
    assert counted["cluster"]["params_total"] == counted["random"]["params_total"] < counted["linear"]["params_total"]
    near, far = (models[a].layers[1].feed_forward.router for a in ("cluster", "cluster-far"))
    assert torch.equal(near.centroids, far.centroids)
    assert near.sign == -far.sign
    assert not torch.equal(near.centroids, models["random"].layers[1].feed_forward.router.centroids)
    with pytest.raises(ValueError, match="gating is"):
        build(config_of("cluster", gating="other"), data, context)


def test_a_comparison_of_scores_asks_for_skill_in_that_score():
    """Where the dense model is no better than the last season, being ahead of it says nothing."""
    for claim in ("C1", "C2"):
        for part in PAPER.claim(claim).comparisons:
            if part.role != "control":
                assert [(p.terms, p.metric) for p in part.preconditions] == [({"multi": -1.0}, part.metric)], part.name


def test_a_plain_run_has_the_arms_that_controls_read():
    for setting, arms in PAPER.presets["laptop"].arms.items():
        assert set(arms) == set(PAPER.arms_in(setting)), setting


def test_the_arm_of_one_projection_is_the_model_that_clusters_come_from():
    context = Context(0)
    one = run(config_of("single"), context)
    again = run(config_of("single"), context)  # from the shelf
    assert one.metrics == again.metrics
    assert one.curves == again.curves
    config = config_of("cluster")
    data = load(config, 0)
    (base,) = obtain([experiment.dense_part(config, data, context, config.base_lr)])
    assert not base.built
    model = experiment._dense(config, base)
    once, twice = (centroids(config, model, data, 0) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    method = run(config, context)
    assert method.profile["total_tokens"] == 2 * method.profile["train_tokens"] == 2 * one.profile["train_tokens"]
    long = run(config_of("multi-long"), context)
    assert long.profile["total_tokens"] == method.profile["total_tokens"]
    assert set(method.metrics) <= set(PAPER.metrics)
    drawn = {"test sine 24", "test square 96", "unseen bumps 12", "bundled sunspots", "bundled co2"}
    assert method.pictures.keys() == drawn
    assert not run(config, Context(1)).pictures


def test_the_same_seed_is_the_same_run():
    one, two = (run(config_of("linear"), Context(2)) for _ in range(2))
    assert one.metrics == two.metrics
    assert one.metrics != run(config_of("linear"), Context(3)).metrics


def test_training_in_half_precision():
    """What an accelerator does: autocast over float32 weights, forecasts in float32."""
    for arm in ("cluster", "linear", "multi"):
        found = run(config_of(arm, dtype="bfloat16", head="mixture"), Context(0))
        assert not found.diverged
        assert 0 < found.metrics["mae"] < 100


def test_ett_is_forecast_where_it_is(tmp_path, monkeypatch):
    from repro.data.bundled_series import ETT
    from repro.data.errors import MissingData

    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    config = config_of("multi", "ett")
    with pytest.raises(MissingData, match="ett"):
        run(config, Context(0))
    (tmp_path / "ett").mkdir()
    values = torch.randn(600, 7, generator=torch.Generator().manual_seed(0)).cumsum(0)
    lines = ["date," + ",".join(ETT), *(f"{i}," + ",".join(f"{v:.3f}" for v in row) for i, row in enumerate(values))]
    for name in ("ETTh1", "ETTh2"):
        (tmp_path / "ett" / f"{name}.csv").write_text("\n".join(lines))
    found = run(config, Context(0))
    assert {"ett_mase", "ett_wql", "ett_mae"} <= set(found.metrics)
    assert set(found.metrics) <= set(PAPER.metrics)


# --- the figures ----------------------------------------------------------------------------------------------


def test_published_sizes_by_the_formulas():
    found = accounting()
    for name, (layers, d, width) in SIZES.items():
        outside = d + (16 * d + d) + (d * d + d) + (16 * d + d) + (d + 1) * 12 * 16
        layer = 4 * d * d + 2 * 64 + 2 * (d // 64) + 2 * d
        assert found[f"params_total_{name}"] == outside + layers * (layer + 32 * 3 * d * width)
        assert found[f"params_active_{name}"] == outside + layers * (layer + 2 * 3 * d * width)
        assert found[f"centroid_numbers_{name}"] == layers * 32 * d
    assert found["params_total_small"] == 117_025_800
    assert found["params_active_base"] == 85_720_032
    assert all(p.device.type == "meta" for p in on_meta(SIZES["small"]).parameters())


def test_moirai_large_by_its_pieces():
    """One layer more is one layer more; projections have the longest patch for every length."""
    layer = moirai(25, 1024) - moirai(24, 1024)
    assert layer == 4 * 1024**2 + 3 * 1024 * 2736 + 128 + 32 + 2048
    assert moirai(24, 1024) - 24 * layer == 2 * 1024 + len(MOIRAI_PATCHES) * (129 * 1024 + 12 * 128 * 1025)
    assert moirai(24, 1024) == 310_970_624
