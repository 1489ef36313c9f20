"""LATTE: the layer against attention written out, its joins against scipy, its invariants, and the figures."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from scipy.io import savemat

from papers.latte.baselines import HAN, HGTLayer
from papers.latte.experiment import build, decayed, load, run
from papers.latte.method import (
    LATTE,
    LatteLayer,
    join_edges,
    join_relations,
    relation_table,
    strong_edges,
)
from papers.latte.paper import PAPER, Config
from papers.latte.published import accounting, gtn, han
from repro.data.bibliographic import bibliographic
from repro.data.hetero import HeteroGraph, Relation, edge_list
from repro.models.message_passing import sum_over_neighbours
from repro.runner import Context
from repro.training.full_graph import xavier

SIZES = {"authors": 24, "papers": 40, "venues": 4, "terms": 8, "features": 5}


def network(seed=0, **options):
    return bibliographic(seed, **SIZES, **options)


def model_of(graph, seed=0, **options):
    torch.manual_seed(seed)
    model = LATTE(graph, 8, **options).eval()
    with torch.no_grad():  # biases start at zero or small; make them count
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_()
    return model


# --- the layer ------------------------------------------------------------------------------------------------


def written_out(layer, h, edges, kind):
    """The layer's formulas node by node."""
    rows = []
    for i in range(len(h[kind])):
        beta = layer.beta[kind](h[kind][i]).softmax(0)
        left = layer.left[kind](h[kind][i])
        out = beta[-1] * left
        for column, relation in enumerate(layer.of(kind)):
            number = layer.relations.index(relation)
            near = edges[relation][1][edges[relation][0] == i] if relation in edges else torch.empty(0).long()
            if not len(near):
                continue
            r = layer.right[relation.tail](h[relation.tail][near]).view(len(near), layer.heads, -1)
            e = (left.view(layer.heads, -1) * layer.attend_left[number]).sum(-1)
            e = layer.sharpen[number] * F.leaky_relu(e + (r * layer.attend_right[number]).sum(-1), 0.2)
            out = out + beta[column] * (e.softmax(0)[..., None] * r).sum(0).flatten()
        rows.append(out.relu())
    return torch.stack(rows)


def test_a_layer_is_its_formulas_written_out_forward_and_backward():
    graph = network().graph
    torch.manual_seed(1)
    layer = LatteLayer(graph.types, graph.relations, 6, 8, 2).eval()
    with torch.no_grad():
        layer.sharpen.uniform_(0.5, 2)
    h = {kind: torch.randn(n, 6, requires_grad=True) for kind, n in graph.counts.items()}
    found, _, _ = layer(h, graph.edges, graph.types)
    inputs = [*h.values(), *layer.parameters()]
    naive = {kind: written_out(layer, h, graph.edges, kind) for kind in graph.types}
    for kind in graph.types:
        torch.testing.assert_close(found[kind], naive[kind])
    gradients = [torch.autograd.grad(sum(x.square().sum() for x in out.values()), inputs) for out in (found, naive)]
    for p, q in zip(*gradients, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-4)


def test_one_relation_without_self_is_torch_geometric_s_attention():
    geometric = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not installed")
    graph = network().graph
    (relation,) = (r for r in graph.relations if r.name == "AP")
    torch.manual_seed(1)
    layer = LatteLayer(("A", "P"), [relation], 5, 8, 2).eval()
    with torch.no_grad():
        layer.beta["A"].weight.zero_()
        layer.beta["A"].bias.copy_(torch.tensor([60.0, -60.0]))
        for side in (layer.left["A"], layer.right["P"]):
            side.bias.zero_()
    h = {kind: torch.randn(graph.counts[kind], 5) for kind in ("A", "P")}
    found, _, _ = layer(h, {relation: graph.edges[relation]}, ("A",))
    gat = geometric.GATConv((5, 5), 4, heads=2, add_self_loops=False, bias=False)
    with torch.no_grad():
        gat.lin_src.weight.copy_(layer.right["P"].weight)
        gat.lin_dst.weight.copy_(layer.left["A"].weight)
        gat.att_src.copy_(layer.attend_right)
        gat.att_dst.copy_(layer.attend_left)
    torch.testing.assert_close(found["A"], gat((h["P"], h["A"]), graph.edges[relation].flip(0)).relu())


def test_attention_sums_to_one_within_relations_and_over_relations():
    graph = network().graph
    found = model_of(graph, threshold=0.0, heads=1)(graph)
    for beta, attended in zip(found.beta, found.attended, strict=True):
        for weights in beta.values():
            torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))
        for relation, part in attended.items():
            sums = sum_over_neighbours(part.alpha, part.edges[0], graph.counts[relation.head])
            torch.testing.assert_close(sums, (sums > 0).float())
    assert len(found.attended[1]) == len(join_relations(graph.relations, graph.relations)) == 12


def test_no_sharpening_is_the_mean_over_neighbours():
    graph = network().graph
    layer = LatteLayer(graph.types, graph.relations, 6, 8, 2).eval()
    torch.nn.init.zeros_(layer.sharpen)
    h = {kind: torch.randn(n, 6) for kind, n in graph.counts.items()}
    _, _, attended = layer(h, graph.edges, graph.types)
    for relation, part in attended.items():
        degree = torch.bincount(part.edges[0], minlength=graph.counts[relation.head])
        torch.testing.assert_close(part.alpha, 1 / degree[part.edges[0]])


def test_an_isolated_node_keeps_only_its_share_of_itself():
    data = network()
    node = data.test[:1]
    graph = data.graph.hide("A", node)
    model = model_of(graph, layers=1)
    out = model(graph, ("A",))
    h = model.input(graph)["A"][node]
    layer = model.layers[0]
    share = layer.relation_weights(h, "A")[:, -1:]
    assert share.item() < 1
    torch.testing.assert_close(out.embeddings["A"][node], (share * layer.left["A"](h)).relu())


def test_uniform_relation_weights():
    graph = network().graph
    found = model_of(graph, uniform=True)(graph, ("A",))
    assert torch.equal(found.beta[1]["A"], torch.full_like(found.beta[1]["A"], 1 / found.beta[1]["A"].shape[1]))


# --- meta relations -------------------------------------------------------------------------------------------


def test_relations_join_where_types_meet():
    graph = network().graph
    second = join_relations(graph.relations, graph.relations)
    assert [r.name for r in second if r.head == "A"] == ["AP.PA", "AP.PC", "AP.PT"]
    assert {(r.head, r.tail) for r in second if r.head == "C"} == {("C", "A"), ("C", "C"), ("C", "T")}
    third = join_relations(second, graph.relations)
    assert Relation("AP.PC.CP", "A", "P") in third


def test_the_join_of_the_example():
    a, b = torch.tensor([[0, 0], [0, 1]]), torch.tensor([[0, 1], [0, 0]])
    edges, values = join_edges(a, torch.ones(2), b, 2)
    assert edges.tolist() == [[0], [0]]
    assert values.tolist() == [1.0]


def test_joins_are_products_of_scipy():
    generator = torch.Generator().manual_seed(0)
    a, b = ((torch.rand(s, generator=generator) < 0.3).nonzero().T for s in ((9, 6), (6, 8)))
    weight = torch.rand(a.shape[1], generator=generator) + 0.1
    edges, values = join_edges(a, weight, b, 6)
    left = sp.csr_matrix((weight.numpy(), a.numpy()), (9, 6))
    right = sp.csr_matrix((np.ones(b.shape[1], np.float32), b.numpy()), (6, 8))
    degree = np.asarray(left.sum(0)).ravel() + np.asarray(right.sum(1)).ravel()
    wanted = (left @ sp.diags(1 / np.maximum(degree, 1e-9)) @ right).toarray()
    found = torch.zeros(9, 8)
    found[edges[0], edges[1]] = values
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5)
    assert edges.shape[1] == (wanted > 0).sum()


def test_strong_edges():
    alpha = torch.tensor([0.4, 0.6, 1.0])
    assert strong_edges(alpha, 0.5).tolist() == [False, True, True]
    assert strong_edges(torch.tensor([0.5, 0.5]), 0.5).all()
    assert strong_edges(alpha, 1.0).tolist() == [False, False, True]
    assert strong_edges(alpha[:2], 1.0).tolist() == [False, True]
    assert strong_edges(alpha, 0.0).all()


def test_without_a_threshold_the_second_order_is_the_boolean_product():
    graph = network().graph
    found = model_of(graph, threshold=0.0)(graph)
    for relation, part in found.attended[1].items():
        assert torch.equal(part.edges, graph.follow(relation.name.split(".")))
    strict = model_of(graph, threshold=1.0)(graph)
    ap = graph.edges[graph.relation("AP")]
    single = torch.bincount(ap[0], minlength=24) == 1
    (apc,) = (p for r, p in strict.attended[1].items() if r.name == "AP.PC")
    assert set(apc.edges[0].tolist()) == set(single.nonzero().ravel().tolist())


def test_no_gradient_reaches_the_attention_of_the_first_order_through_the_edges():
    graph = network().graph
    model = model_of(graph)
    found = model(graph, ("A",))
    second = found.embeddings["A"][:, 8:]
    through_h = torch.autograd.grad(second.sum(), model.layers[0].attend_left, retain_graph=True)[0]
    assert through_h.any()
    # the second layer alone, given h: nothing of the first layer's attention is left
    first = found.attended[0]
    edges = model.next_edges(first, graph, ("A",))
    assert not any(e.requires_grad for e in edges.values())
    out, _, _ = model.layers[1]({k: torch.randn(n, 8) for k, n in graph.counts.items()}, edges, ("A",))
    found = torch.autograd.grad(out["A"].sum(), model.layers[0].attend_left, allow_unused=True)[0]
    assert found is None


# --- invariants -----------------------------------------------------------------------------------------------


def test_leaving_out_what_nobody_wants_changes_nothing():
    graph = network().graph
    model = model_of(graph, threshold=0.3)
    some, everything = model(graph, ("A",)), model(graph)
    torch.testing.assert_close(some.embeddings["A"], everything.embeddings["A"])
    assert {r.head for r in some.attended[1]} == {"A"}
    assert {r.head for r in everything.attended[1]} == {"A", "P", "C", "T"}


def test_renumbering_nodes_renumbers_the_output():
    graph = network().graph
    model = model_of(graph, threshold=0.4)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    place = order.argsort()
    edges = {}
    for relation, (i, j) in graph.edges.items():
        i, j = place[i] if relation.head == "A" else i, place[j] if relation.tail == "A" else j
        edges[relation] = edge_list(i, j)
    other = HeteroGraph(graph.counts, edges, {**graph.features, "A": graph.features["A"][order]})
    torch.testing.assert_close(model(other).embeddings["A"], model(graph).embeddings["A"][order])
    torch.testing.assert_close(model(other).embeddings["P"], model(graph).embeddings["P"])


def test_swapping_two_relations_swaps_the_columns_of_beta():
    graph = network().graph
    model = model_of(graph, layers=1)
    order = [0, 1, 4, 3, 2, 5]  # PC and PT change places
    relations = [graph.relations[i] for i in order]
    other = HeteroGraph(graph.counts, {r: graph.edges[r] for r in relations}, graph.features)
    swapped = model_of(other, layers=1)
    state = model.state_dict()
    for name in ("attend_left", "attend_right", "sharpen"):
        state[f"layers.0.{name}"] = state[f"layers.0.{name}"][order]
    columns = [0, 2, 1, 3]  # PA, PT, PC, self
    for name in ("weight", "bias"):
        state[f"layers.0.beta.P.{name}"] = state[f"layers.0.beta.P.{name}"][columns]
    swapped.load_state_dict(state)
    torch.testing.assert_close(swapped(other).beta[0]["P"], model(graph).beta[0]["P"][:, columns])
    torch.testing.assert_close(swapped(other).embeddings["P"], model(graph).embeddings["P"])


def test_proximity_loss_written_out():
    graph = network().graph
    model = model_of(graph, layers=1, heads=2)
    found = model(graph, ("A",), everything=True)
    layer = model.layers[0]
    loss = model.proximity_loss(found, graph, 2, torch.Generator().manual_seed(5))
    generator, h, total = torch.Generator().manual_seed(5), model.input(graph), 0.0
    for number, relation in enumerate(graph.relations):
        left = layer.left[relation.head](h[relation.head]).unflatten(1, (2, -1)) * layer.attend_left[number]
        right = layer.right[relation.tail](h[relation.tail]).unflatten(1, (2, -1)) * layer.attend_right[number]
        scores = F.leaky_relu((left.sum(-1)[:, None] + right.sum(-1)[None]).amax(-1), 0.2)
        i, j = graph.edges[relation]
        count = 2 * len(i)
        heads = torch.randint(graph.counts[relation.head], (count,), generator=generator)
        tails = torch.randint(graph.counts[relation.tail], (count,), generator=generator)
        total -= (found.attended[0][relation].alpha * F.logsigmoid(scores[i, j])).mean()
        total -= F.logsigmoid(-scores[heads, tails]).mean()
    torch.testing.assert_close(loss, total / 12)
    loss.backward()
    assert all(layer.right[kind].weight.grad.any() for kind in graph.types)


def test_the_table_of_relation_weights():
    data = network()
    model = model_of(data.graph)
    table = relation_table(model.layers[1], model(data.graph).beta[1], "A", data.test)
    assert list(table) == ["AP.PA", "AP.PC", "AP.PT", "self"]
    assert sum(mean for mean, _ in table.values()) == pytest.approx(1.0)


def test_hidden_nodes_say_nothing():
    data = network()
    seen = data.observed(inductive=True)
    model = model_of(seen, threshold=0.0)
    changed = HeteroGraph(seen.counts, seen.edges, {**seen.features, "A": seen.features["A"].clone()})
    changed.features["A"][data.test] = 7.0
    a, b = model(seen).embeddings, model(changed).embeddings
    for kind in ("P", "C", "T"):
        assert torch.equal(a[kind], b[kind])
    assert torch.equal(a["A"][data.train], b["A"][data.train])
    assert not torch.equal(a["A"][data.test], b["A"][data.test])


# --- experiment -----------------------------------------------------------------------------------------------


def outcome(setting, arm, scale="smoke", seed=1007, **options):
    config = PAPER.resolve(setting, arm, scale, options)
    return run(Config(**config), Context(seed=seed))


@pytest.fixture(scope="module")
def outcomes():
    arms = ("latte-2", "latte-1", "latte-2-wide", "rgcn", "hgt", "han-right", "features", "latte-2-proximity")
    return {arm: outcome("venues", arm) for arm in arms}


def test_arms_of_a_seed_are_matched_and_described(outcomes):
    assert len({o.data["fingerprint"] for o in outcomes.values()}) == 1
    for name in ("train_samples", "steps"):
        assert len({o.profile[name] for o in outcomes.values()}) == 1
    width = {arm: o.profile["embedding_width"] for arm, o in outcomes.items()}
    assert set(width.values()) == {64.0, 128.0}
    assert [arm for arm, w in width.items() if w == 128] == ["latte-2-wide"]
    for o in outcomes.values():
        assert set(o.metrics) <= set(PAPER.metrics)
        assert o.profile["train_flops"] > 0
    assert {"beta_margin", "beta_terms", "edges_kept"} <= set(outcomes["latte-2"].metrics)


def test_what_is_read_out(outcomes):
    tables = outcomes["latte-2"].tables
    second = tables["beta"]["order 2"]
    assert list(second) == ["AP.PA", "AP.PC", "AP.PT", "self"]
    assert sum(mean for mean, _ in second.values()) == pytest.approx(1.0, abs=1e-5)
    metrics = outcomes["latte-2"].metrics
    best_other = max(second["AP.PA"][0], second["AP.PT"][0])
    assert metrics["beta_margin"] == pytest.approx(100 * (second["AP.PC"][0] - best_other))
    matrix = tables["relation_attention"]["order 1"]
    assert [len(row) for row in matrix] == [4] * 4
    assert matrix[0][1] == pytest.approx(tables["beta"]["order 1"]["AP"][0], abs=0.05)
    assert 0 < metrics["edges_kept"] < 100
    assert outcome("venues", "latte-2-unfiltered").metrics["edges_kept"] == 100.0


def test_a_run_is_what_its_seed_says():
    first, again = (outcome("venues", "latte-2-proximity") for _ in range(2))
    assert first.metrics == again.metrics
    assert outcome("venues", "latte-2-proximity", seed=1008).metrics["loss"] != first.metrics["loss"]


def test_models_of_a_seed_start_alike_where_they_can():
    data = load(Config(authors=80, papers=160), 3)
    latte_1, latte_2 = (dict(build(Config(layers=n), data, 3).named_parameters()) for n in (1, 2))
    for name, value in latte_1.items():
        assert name.startswith("classifier") or torch.equal(value, latte_2[name]), name
    assert torch.equal(latte_2["embedder.layers.0.sharpen"], torch.ones(6))
    weights = latte_2["embedder.layers.0.left.A.weight"]
    assert float(weights.detach().std()) == pytest.approx((2 * 2 / 128) ** 0.5, rel=0.1)
    with pytest.raises(ValueError, match="model"):
        build(Config(model="x"), data, 3)


def test_weight_decay_spares_biases_embeddings_and_sharpening():
    data = load(Config(authors=80, papers=160), 3)
    spared = {name for name, _ in build(Config(), data, 3).named_parameters() if not decayed(name)}
    assert "embedder.layers.1.sharpen" in spared
    assert "embedder.input.embedding.C.weight" in spared
    assert "embedder.layers.0.left.A.bias" in spared
    assert "embedder.layers.0.left.A.weight" not in spared
    assert "embedder.input.project.A.weight" not in spared


def test_hgt_is_its_formulas_written_out():
    data = load(Config(authors=10, papers=20), 3)
    graph = data.graph
    torch.manual_seed(0)
    layer = HGTLayer(graph.types, graph.relations, 6, 2, 0.0)
    xavier(layer, 0)
    with torch.no_grad():
        layer.prior.uniform_(0.5, 2)
        layer.skip.uniform_(-1, 1)
    h = {kind: torch.randn(n, 6) for kind, n in graph.counts.items()}
    found = layer(h, graph, graph.types)
    for number, kind in enumerate(graph.types):
        for i in range(min(4, len(h[kind]))):
            logits, values = [], []
            for place, (relation, edges) in enumerate(graph.edges.items()):
                if relation.head != kind:
                    continue
                for j in edges[1][edges[0] == i].tolist():
                    key = layer.key[relation.tail](h[relation.tail][j]).view(2, 3)
                    value = layer.value[relation.tail](h[relation.tail][j]).view(2, 3)
                    query = layer.query[kind](h[kind][i]).view(2, 3)
                    rows = [key[head] @ layer.attention[place, head] @ query[head] for head in range(2)]
                    logits.append(torch.stack(rows) * layer.prior.view(-1, 2)[place] / 3**0.5)
                    values.append(torch.stack([value[head] @ layer.message[place, head] for head in range(2)]))
            new = torch.zeros(2, 3)
            if logits:
                new = (torch.stack(logits).softmax(0)[..., None] * torch.stack(values)).sum(0)
            gate = layer.skip[number].sigmoid()
            wanted = gate * layer.out[kind](F.gelu(new.flatten())) + (1 - gate) * h[kind][i]
            torch.testing.assert_close(found[kind][i], layer.norm[kind](wanted))


def test_han_looks_along_its_path_only():
    data = load(Config(authors=80, papers=160), 3)
    model = HAN(data.graph, "A", ["AP.PC.CP.PA"], 8, 2, 0.0, 0.0)
    xavier(model, 0)
    (pairs,) = model.pairs(data.graph)
    near = data.graph.follow(["AP", "PC", "CP", "PA"])
    assert {tuple(p) for p in pairs.T.tolist()} == {tuple(p) for p in near.T.tolist()} | {(i, i) for i in range(80)}
    out = model(data.graph)
    far = next(j for j in range(80) if not ((pairs[0] == 0) & (pairs[1] == j)).any())
    features = {**data.graph.features, "A": data.graph.features["A"].clone()}
    features["A"][far] += 5
    other = model(HeteroGraph(data.graph.counts, data.graph.edges, features))
    torch.testing.assert_close(other[0], out[0])
    assert not torch.allclose(other[far], out[far])


@pytest.mark.parametrize("arm", ["latte-2", "latte-2-proximity", "han-right", "hgt"])
@pytest.mark.parametrize("setting", ["dblp", "dblp-inductive", "imdb"])
def test_the_published_scale_on_small_files_of_the_same_layout(setting, arm, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    rng = np.random.default_rng(0)
    types, sizes, pairs = {
        "dblp": ("APTC", (30, 40, 12, 4), ("AP", "PT", "PC")), "imdb": ("MDA", (30, 12, 20), ("MD", "MA"))
    }[setting.split("-")[0]]  # fmt: skip
    place = tmp_path / ("dblp" if setting.startswith("dblp") else "imdb-graph")
    place.mkdir()
    begin = dict(zip(types, np.cumsum([0, *sizes[:-1]]), strict=True))
    full = np.zeros((sum(sizes), sum(sizes)))
    for a, b in pairs:
        for i in range(sizes[types.index(a)]):
            j = rng.integers(sizes[types.index(b)])
            full[begin[a] + i, begin[b] + j] = full[begin[b] + j, begin[a] + i] = 1
    sp.save_npz(place / "adjM.npz", sp.csr_matrix(full))
    np.save(place / "node_types.npy", np.repeat(np.arange(len(types)), sizes))
    np.save(place / "labels.npy", np.arange(30) % 3)
    np.savez(place / "train_val_test_idx.npz", train_idx=np.arange(10), val_idx=np.arange(10, 15),
             test_idx=np.arange(15, 30))  # fmt: skip
    for number in range(len(types) - 1):
        sp.save_npz(place / f"features_{number}.npz", sp.csr_matrix(rng.random((sizes[number], 6))))
    found = outcome(setting, arm, "published", steps=2, evaluations=1)
    assert found.data["source"] == "real"
    assert found.profile["embedding_width"] == 128
    assert set(found.metrics) <= set(PAPER.metrics)


@pytest.mark.parametrize("arm", ["latte-2", "rgcn", "han-right"])
def test_the_published_scale_on_a_small_file_of_acm_s_layout(arm, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    rng = np.random.default_rng(0)
    (tmp_path / "acm").mkdir()
    content = {
        "PvsC": sp.csc_matrix(np.eye(14)[np.arange(30) % 2]), "PvsT": sp.csc_matrix(rng.random((30, 7))),
        "PvsA": sp.csc_matrix(np.eye(8)[rng.integers(8, size=30)]),
        "PvsL": sp.csc_matrix(np.eye(4)[rng.integers(4, size=30)]),
    }  # fmt: skip
    savemat(tmp_path / "acm" / "ACM.mat", content)
    found = outcome("acm", arm, "published", steps=2, evaluations=1)
    assert (found.data["classes"], found.data["held_out_rows"]) == (2, 21)
    assert set(found.metrics) <= set(PAPER.metrics)


# --- published figures ----------------------------------------------------------------------------------------


def test_parameters_on_dblp():
    counted = accounting()
    assert counted["parameters_layer_1"] == 8 * (128**2 + 128) + 10 * 129 + 6 * 257 == 134_928
    assert counted["parameters_layer_2"] == 8 * (128**2 + 128) + 16 * 129 + 12 * 257 == 137_244
    assert (counted["relations_order_1"], counted["relations_order_2"]) == (6, 12)
    assert counted["parameters_input"] == 4 * (334 * 128 + 128)
    ours = counted["parameters_input"] + 134_928 + 137_244 + 256 * 4 + 4
    assert counted["parameters_latte_2"] == ours
    for name in ("hgt", "han", "gtn", "metapath2vec"):
        assert counted[f"fewer_than_{name}"] == (ours < counted[f"parameters_{name}"])
    assert counted["parameters_metapath2vec"] == 27_194 * 128
    assert counted["gtn_dense_gigabytes"] == pytest.approx(5.4, abs=0.05)


def test_han_and_gtn_by_arithmetic_agree_with_modules():
    """A layer of HAN is the module trained here; GTN's parts are counted one by one."""
    empty = HeteroGraph({"A": 3}, {}, {"A": torch.zeros(3, 334)})
    module = HAN(empty, "A", ["x", "y", "z"], 128, 8, 0.0, 0.0)
    assert han(1) == sum(p.numel() for p in module.parameters()) + 128 * 4 + 4
    parts = [torch.nn.Linear(334, 128), torch.nn.Linear(4 * 128, 128), torch.nn.Linear(128, 4)]
    assert gtn(2) == sum(p.numel() for part in parts for p in part.parameters()) + 3 * 4 * 4
