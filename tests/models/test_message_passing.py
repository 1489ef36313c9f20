"""Message passing against dense matrix algebra, forward and backward, and against torch_geometric where it is there."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from repro.data.hetero import HeteroGraph, Relation, edge_list
from repro.models.message_passing import (
    GraphAttention,
    GraphConv,
    NodeInput,
    RelationalConv,
    attend,
    attend_dense,
    attend_sparse,
    mean_matrix,
    mean_operators,
    relational_conv_naive,
    softmax_over_neighbours,
    sum_over_neighbours,
)


def edges_of(heads=7, tails=5, share=0.4, seed=0, self_loops=False):
    """Random pairs; head 0 has no neighbour, all others have one."""
    mask = torch.rand(heads, tails, generator=torch.Generator().manual_seed(seed)) < share
    mask[0], mask[1:, 0] = False, True
    if self_loops:
        mask.fill_diagonal_(True)
    return mask.nonzero().T.contiguous()


def gradients(outputs, inputs):
    generator = torch.Generator().manual_seed(9)
    total = sum((o * torch.randn(o.shape, generator=generator)).sum() for o in outputs)
    return torch.autograd.grad(total, inputs)


def test_sums_and_softmaxes_over_neighbours():
    edges = edges_of()
    logits = torch.randn(edges.shape[1], 3)
    alpha = softmax_over_neighbours(logits, edges[0], 7)
    for node in range(7):
        mine = edges[0] == node
        torch.testing.assert_close(alpha[mine], logits[mine].softmax(0))
    sums = sum_over_neighbours(alpha, edges[0], 7)
    torch.testing.assert_close(sums, (torch.bincount(edges[0], minlength=7) > 0).float()[:, None].expand(7, 3))
    # large logits do not overflow
    assert softmax_over_neighbours(1e4 * logits, edges[0], 7).isfinite().all()


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_sparse_and_dense_attention_agree(share):
    edges = edges_of(share=share)
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(s, generator=generator, requires_grad=True) for s in ((7, 2), (5, 2), (5, 2, 3), ())]
    found = []
    for path in (attend_sparse, attend_dense, attend):
        outputs = path(*inputs[:3], edges, sharpen=inputs[3])
        found.append((*outputs, *gradients(outputs, inputs)))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)
    assert not found[0][0][0].any(), "a node without neighbours gets nothing"


def test_dropout_falls_on_the_weights_of_messages_only():
    edges = edges_of()
    torch.manual_seed(0)
    values = torch.randn(5, 1, 4)
    messages, alpha = attend_sparse(torch.zeros(7, 1), torch.zeros(5, 1), values, edges, dropout=0.5)
    torch.testing.assert_close(sum_over_neighbours(alpha, edges[0], 7)[1:], torch.ones(6, 1))
    kept, _ = attend_sparse(torch.zeros(7, 1), torch.zeros(5, 1), values, edges)
    assert not torch.allclose(messages, kept)


def test_gcn_is_the_normalised_product():
    torch.manual_seed(0)
    one_way = edges_of(6, 6)
    edges = edge_list(torch.cat([one_way[0], one_way[1]]), torch.cat([one_way[1], one_way[0]]))
    a = torch.zeros(6, 6)
    a[edges[0], edges[1]] = 1
    a.fill_diagonal_(1)
    scale = a.sum(1).rsqrt()
    layer, x = GraphConv(4, 3), torch.randn(6, 4, requires_grad=True)
    wanted = scale[:, None] * a * scale @ (x @ layer.linear.weight.T) + layer.bias
    found = layer(x, GraphConv.operator(edges, 6))
    torch.testing.assert_close(found, wanted)
    inputs = [x, layer.linear.weight]
    for p, q in zip(gradients([found], inputs), gradients([wanted], inputs), strict=True):
        torch.testing.assert_close(p, q)


def test_gat_is_that_of_its_paper_written_out():
    torch.manual_seed(0)
    layer = GraphAttention(4, 6, 2, shared=True)
    edges, x = edges_of(6, 6, self_loops=True), torch.randn(6, 4)
    h = (x @ layer.right.weight.T).view(6, 2, 3)
    rows = []
    for i in range(6):
        near = edges[1][edges[0] == i]
        e = F.leaky_relu((h[i] * layer.attend_left).sum(-1) + (h[near] * layer.attend_right).sum(-1), 0.2)
        rows.append((e.softmax(0)[..., None] * h[near]).sum(0).flatten())
    torch.testing.assert_close(layer(x, x, edges), torch.stack(rows) + layer.bias)
    with pytest.raises(ValueError, match="heads"):
        GraphAttention(4, 5, 2)


def small_graph(seed=0):
    generator = torch.Generator().manual_seed(seed)
    ab = edges_of(5, 4, seed=seed)
    return HeteroGraph(
        {"A": 5, "B": 4, "C": 3},
        {
            Relation("AB", "A", "B"): ab,
            Relation("BA", "B", "A"): edge_list(ab[1], ab[0]),
            Relation("BC", "B", "C"): edges_of(4, 3, seed=seed + 1),
        },
        {"A": torch.randn(5, 6, generator=generator), "B": torch.randn(4, 2, generator=generator)},
    )


def test_relational_convolution_agrees_with_its_twin():
    torch.manual_seed(0)
    graph = small_graph()
    layer = RelationalConv(graph.relations, graph.types, 4, 3)
    x = {kind: torch.randn(n, 4, requires_grad=True) for kind, n in graph.counts.items()}
    found, naive = layer(x, mean_operators(graph)), relational_conv_naive(layer, x, graph)
    inputs = [*x.values(), *layer.parameters()]
    for kind in graph.types:
        torch.testing.assert_close(found[kind], naive[kind])
    for p, q in zip(gradients(found.values(), inputs), gradients(naive.values(), inputs), strict=True):
        torch.testing.assert_close(p, q)


def test_mean_matrix_averages():
    edges = edges_of()
    mean = mean_matrix(edges, 7, 5).to_dense()
    torch.testing.assert_close(mean.sum(1), torch.tensor([0.0, *[1.0] * 6]))


def test_first_representations():
    graph = small_graph()
    module = NodeInput(graph, 8)
    h = module(graph)
    assert {kind: tuple(x.shape) for kind, x in h.items()} == {"A": (5, 8), "B": (4, 8), "C": (3, 8)}
    assert h["C"] is module.embedding["C"].weight
    assert (h["A"] >= 0).all()


# --- torch_geometric ------------------------------------------------------------------------------------------


def test_attention_is_torch_geometric_s():
    geometric = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not installed")
    torch.manual_seed(0)
    edges, x_heads, x_tails = edges_of(), torch.randn(7, 4), torch.randn(5, 4)
    ours = GraphAttention(4, 6, 2)
    theirs = geometric.GATConv((4, 4), 6 // 2, heads=2, add_self_loops=False)
    with torch.no_grad():
        theirs.lin_src.weight.copy_(ours.right.weight)
        theirs.lin_dst.weight.copy_(ours.left.weight)
        theirs.att_src.copy_(ours.attend_right[None])
        theirs.att_dst.copy_(ours.attend_left[None])
        nn.init.zeros_(theirs.bias)
    torch.testing.assert_close(ours(x_heads, x_tails, edges), theirs((x_tails, x_heads), edges.flip(0)))


def test_gcn_and_rgcn_are_torch_geometric_s():
    geometric = pytest.importorskip("torch_geometric.nn", reason="torch_geometric is not installed")
    torch.manual_seed(0)
    one_way = edges_of(6, 6)
    edges = edge_list(torch.cat([one_way[0], one_way[1]]), torch.cat([one_way[1], one_way[0]]))
    ours, theirs, x = GraphConv(4, 3), geometric.GCNConv(4, 3), torch.randn(6, 4)
    with torch.no_grad():
        theirs.lin.weight.copy_(ours.linear.weight)
    torch.testing.assert_close(ours(x, GraphConv.operator(edges, 6)), theirs(x, edges))

    graph = HeteroGraph({"A": 6}, {Relation("x", "A", "A"): one_way, Relation("y", "A", "A"): edges_of(6, 6, seed=3)})
    mine, other = RelationalConv(graph.relations, graph.types, 4, 3), geometric.RGCNConv(4, 3, 2)
    with torch.no_grad():
        other.root.copy_(mine.own["A"].weight.T)
        other.bias.copy_(mine.own["A"].bias)
        for number, name in enumerate("xy"):
            other.weight[number].copy_(mine.relations[name].weight.T)
    index = torch.cat([e.flip(0) for e in graph.edges.values()], 1)
    kinds = torch.repeat_interleave(torch.arange(2), torch.tensor([e.shape[1] for e in graph.edges.values()]))
    torch.testing.assert_close(mine({"A": x}, mean_operators(graph))["A"], other(x, index, kinds))
