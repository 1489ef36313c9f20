"""Message passing on graphs: sums and softmaxes over neighbours, and the layers made of them.

Edges are LongTensors [2, E]: row 0 the heads, which receive, row 1 the tails, which send. Head and tail nodes may be of
different types, so that a layer serves one relation of a heterogeneous graph as well as a whole homogeneous one. Fast
paths go edge by edge or through sparse products; each has a plain twin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.hetero import HeteroGraph, Relation

#: Share of all pairs above which `attend` computes all of them: gathering edge by edge costs more from there on.
DENSE = 0.25


def sum_over_neighbours(messages: Tensor, heads: Tensor, count: int) -> Tensor:
    """[count, ...]: sums of ``messages`` [E, ...] by their head (LongTensor [E]); zero for a head without any."""
    return messages.new_zeros(count, *messages.shape[1:]).index_add(0, heads, messages)


def softmax_over_neighbours(logits: Tensor, heads: Tensor, count: int) -> Tensor:
    """Softmax of ``logits`` [E, ...] among the edges of each head (LongTensor [E], heads in ``range(count)``)."""
    place = heads.view(-1, *[1] * (logits.dim() - 1)).expand_as(logits)
    top = logits.new_full((count, *logits.shape[1:]), -torch.inf)
    top = top.scatter_reduce(0, place, logits.detach(), "amax")
    weights = (logits - top[heads]).exp()
    return weights / sum_over_neighbours(weights, heads, count)[heads]


def mean_matrix(edges: Tensor, heads: int, tails: int) -> Tensor:
    """Sparse [heads, tails] with 1 / degree at every edge: times [tails, d] it is the mean over neighbours."""
    degree = torch.bincount(edges[0], minlength=heads).clamp(min=1).float()
    return torch.sparse_coo_tensor(edges, 1 / degree[edges[0]], (heads, tails), check_invariants=False).coalesce()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, x: Tensor) -> Tensor:
        ctx.matrix = matrix
        return torch.sparse.mm(matrix, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, torch.sparse.mm(ctx.matrix.t(), gradients[0])


def spread(matrix: Tensor, x: Tensor) -> Tensor:
    """A constant sparse matrix [heads, tails] times [tails, d]. The matrix belongs to the graph: it gets no
    gradient, and does not count as something kept for the backward pass."""
    return _Product.apply(matrix, x)


def additive_logits(left: Tensor, right: Tensor, slope: float) -> Tensor:
    """``LeakyReLU(left + right)``, the additive attention of GAT before its softmax."""
    return F.leaky_relu(left + right, slope)


def edge_weights(
    left: Tensor, right: Tensor, edges: Tensor, *, sharpen: Tensor | float = 1.0, slope: float = 0.2
) -> Tensor:  # fmt: skip
    """The weights [E, H] of `attend_sparse` alone, for edges whose messages nobody needs."""
    i, j = edges
    return softmax_over_neighbours(sharpen * additive_logits(left[i], right[j], slope), i, len(left))


def attend_sparse(
    left: Tensor, right: Tensor, values: Tensor, edges: Tensor, *, sharpen: Tensor | float = 1.0, slope: float = 0.2,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Additive attention over neighbours, edge by edge.

    Args:
        left: [heads, H], what a receiving node adds to the logits of its edges, one for each of H attention heads.
        right: [tails, H], what a sending node adds.
        values: [tails, H, c].
        edges: LongTensor [2, E].
        sharpen: factor of the logits after the LeakyReLU.
        dropout: of the attention weights (0 outside training).

    Returns:
        messages [heads, H, c], zero for a node without neighbours; and the weights [E, H] before dropout, which sum to
        one over the edges of a head node.
    """
    i, j = edges
    alpha = edge_weights(left, right, edges, sharpen=sharpen, slope=slope)
    kept = F.dropout(alpha, dropout, training=dropout > 0)
    return sum_over_neighbours(kept[..., None] * values[j], i, len(left)), alpha


def attend_dense(
    left: Tensor, right: Tensor, values: Tensor, edges: Tensor, *, sharpen: Tensor | float = 1.0, slope: float = 0.2,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What `attend_sparse` computes, over all pairs of nodes with a mask: its twin, and the faster of the two where
    most pairs are edges. ``edges`` must not repeat a pair."""
    i, j = edges
    mask = torch.zeros(len(left), len(right), dtype=torch.bool, device=left.device)
    mask[i, j] = True
    logits = sharpen * additive_logits(left[:, None], right[None], slope)
    # a row without neighbours must not become nan, not even in the gradient
    alpha = logits.masked_fill(~mask[..., None], -1e9).softmax(1) * mask[..., None]
    kept = F.dropout(alpha, dropout, training=dropout > 0)
    return torch.einsum("ijh,jhc->ihc", kept, values), alpha[i, j]


def attend(left: Tensor, right: Tensor, values: Tensor, edges: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """`attend_sparse` or `attend_dense`, whichever is faster at this density."""
    dense = edges.shape[1] > DENSE * len(left) * len(right)
    return (attend_dense if dense else attend_sparse)(left, right, values, edges, **options)


class GraphConv(nn.Module):
    """GCN (Kipf and Welling, arXiv 1609.02907, Eq. 2): ``D^-1/2 (A + I) D^-1/2 x W + b`` on an undirected graph."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    @staticmethod
    def operator(edges: Tensor, nodes: int) -> Tensor:
        """Sparse ``D^-1/2 (A + I) D^-1/2`` [nodes, nodes] of edges in both directions; make it once for a graph."""
        loops = torch.arange(nodes, device=edges.device).expand(2, -1)
        index = torch.cat([edges[:, edges[0] != edges[1]], loops], dim=1)
        scale = torch.bincount(index[0], minlength=nodes).float().rsqrt()
        return torch.sparse_coo_tensor(
            index, scale[index[0]] * scale[index[1]], (nodes, nodes), check_invariants=False
        ).coalesce()

    def forward(self, x: Tensor, operator: Tensor) -> Tensor:
        """[nodes, inputs] to [nodes, outputs]."""
        return spread(operator, self.linear(x)) + self.bias


class GraphAttention(nn.Module):
    """GAT (Velickovic et al., arXiv 1710.10903, Eq. 1-5), heads concatenated: additive attention over neighbours.

    Heads and tails have projections of their own; ``shared`` ties them, for a homogeneous graph (whose edges then
    should hold self-loops).
    """

    def __init__(self, inputs: int, outputs: int, heads: int = 1, *, shared: bool = False, dropout: float = 0.0):
        super().__init__()
        if outputs % heads:
            raise ValueError(f"{outputs} outputs for {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.right = nn.Linear(inputs, outputs, bias=False)
        self.left = self.right if shared else nn.Linear(inputs, outputs, bias=False)
        self.attend_left = nn.Parameter(torch.empty(heads, outputs // heads))
        self.attend_right = nn.Parameter(torch.empty(heads, outputs // heads))
        self.bias = nn.Parameter(torch.zeros(outputs))
        for weight in (self.attend_left, self.attend_right):
            nn.init.xavier_normal_(weight)

    def forward(self, x_heads: Tensor, x_tails: Tensor, edges: Tensor) -> Tensor:
        """[heads, inputs], [tails, inputs] to [heads, outputs]."""
        left, right = (m(x).unflatten(1, (self.heads, -1)) for m, x in ((self.left, x_heads), (self.right, x_tails)))
        messages, _ = attend(
            (left * self.attend_left).sum(-1), (right * self.attend_right).sum(-1), right, edges,
            dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return messages.flatten(1) + self.bias


class RelationalConv(nn.Module):
    """R-GCN (Schlichtkrull et al., arXiv 1703.06103, Eq. 2) over typed nodes:
    ``x_i W_type + b + sum_r mean_j x_j W_r``."""

    def __init__(self, relations: Sequence[Relation], types: Sequence[str], inputs: int, outputs: int):
        super().__init__()
        self.own = nn.ModuleDict({kind: nn.Linear(inputs, outputs) for kind in types})
        self.relations = nn.ModuleDict({r.name: nn.Linear(inputs, outputs, bias=False) for r in relations})

    def forward(self, x: Mapping[str, Tensor], operators: Mapping[Relation, Tensor]) -> dict[str, Tensor]:
        """[nodes, inputs] of every type to [nodes, outputs]. ``operators``: `mean_operators` of the graph."""
        out = {kind: self.own[kind](values) for kind, values in x.items()}
        for relation, mean in operators.items():
            message = spread(mean, self.relations[relation.name](x[relation.tail]))
            out[relation.head] = out[relation.head] + message
        return out


def mean_operators(graph: HeteroGraph) -> dict[Relation, Tensor]:
    """`mean_matrix` of every relation of a graph."""
    return {r: mean_matrix(e, graph.counts[r.head], graph.counts[r.tail]) for r, e in graph.edges.items()}


def relational_conv_naive(
    layer: RelationalConv, x: Mapping[str, Tensor], graph: HeteroGraph
) -> dict[str, Tensor]:  # fmt: skip
    """What `RelationalConv` computes, node by node."""
    out = {}
    for kind, values in x.items():
        rows = []
        for node in range(len(values)):
            row = layer.own[kind](values[node])
            for relation, edges in graph.edges.items():
                near = edges[1][edges[0] == node]
                if relation.head == kind and len(near):
                    row = row + layer.relations[relation.name](x[relation.tail][near]).mean(0)
            rows.append(row)
        out[kind] = torch.stack(rows)
    return out


class NodeInput(nn.Module):
    """The first representation of every node: ``dropout(ReLU(Linear(features)))``, or an embedding for types without
    features."""

    def __init__(self, graph: HeteroGraph, width: int, dropout: float = 0.0):
        super().__init__()
        self.project = nn.ModuleDict({kind: nn.Linear(x.shape[1], width) for kind, x in graph.features.items()})
        free = {kind: n for kind, n in graph.counts.items() if kind not in graph.features}
        self.embedding = nn.ModuleDict({kind: nn.Embedding(n, width) for kind, n in free.items()})
        self.dropout = nn.Dropout(dropout)

    def forward(self, graph: HeteroGraph) -> dict[str, Tensor]:
        """[nodes, width] of every type."""
        out = {}
        for kind in graph.types:
            if kind in self.project:
                out[kind] = self.dropout(F.relu(self.project[kind](graph.features[kind])))
            else:
                embedding: nn.Module = self.embedding[kind]
                assert isinstance(embedding, nn.Embedding)
                out[kind] = embedding.weight
        return out
