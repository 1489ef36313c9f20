"""LATTE: the layer against attention written out, its joins against scipy, its invariants, and the figures."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F

from papers.latte.method import (
    LATTE,
    LatteLayer,
    join_edges,
    join_relations,
    relation_table,
    strong_edges,
)
from repro.data.bibliographic import bibliographic
from repro.data.hetero import HeteroGraph, Relation, edge_list
from repro.models.message_passing import sum_over_neighbours

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
