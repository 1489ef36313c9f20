"""What LATTE is compared with: R-GCN, HGT, HAN on one given meta path, and no graph at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.hetero import HeteroGraph, Relation
from repro.models.message_passing import (
    GraphAttention,
    NodeInput,
    RelationalConv,
    mean_operators,
    softmax_over_neighbours,
    sum_over_neighbours,
)


class RGCN(nn.Module):
    """Layers of `RelationalConv`; [nodes, width] of the target type."""

    def __init__(self, graph: HeteroGraph, target: str, width: int, layers: int, dropout: float):
        super().__init__()
        self.target, self.width = target, width
        self.input = NodeInput(graph, width, dropout)
        self.layers = nn.ModuleList(RelationalConv(graph.relations, graph.types, width, width) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self._operators: dict[HeteroGraph, dict[Relation, Tensor]] = {}

    def operators(self, graph: HeteroGraph) -> dict[Relation, Tensor]:
        if graph not in self._operators:
            self._operators[graph] = mean_operators(graph)
        return self._operators[graph]

    def forward(self, graph: HeteroGraph) -> Tensor:
        h, operators = self.input(graph), self.operators(graph)
        for layer in self.layers:
            h = {kind: self.dropout(F.relu(x)) for kind, x in layer(h, operators).items()}
        return h[self.target]


class HGTLayer(nn.Module):
    """Heterogeneous graph transformer (Hu et al., arXiv 2003.01332, Eq. 3-5), one softmax over all edges of a node.

    Keys, queries, values and outputs have a projection for every type of nodes, attention and messages a matrix for
    every relation and head, relations a prior; no relative time.
    """

    def __init__(self, types: Sequence[str], relations: Sequence[Relation], width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.key, self.query, self.value, self.out = (
            nn.ModuleDict({kind: nn.Linear(width, width) for kind in types}) for _ in range(4)
        )
        self.norm = nn.ModuleDict({kind: nn.LayerNorm(width) for kind in types})
        self.names = [r.name for r in relations]
        self.attention = nn.Parameter(torch.empty(len(relations), heads, self.size, self.size))
        self.message = nn.Parameter(torch.empty(len(relations), heads, self.size, self.size))
        self.prior = nn.Parameter(torch.ones(len(relations) * heads))
        self.skip = nn.Parameter(torch.ones(len(types)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Mapping[str, Tensor], graph: HeteroGraph, wanted: Sequence[str]) -> dict[str, Tensor]:
        """[nodes, width] of every type to the same of the types wanted."""
        split = (self.heads, self.size)
        key, query, value = (
            {kind: side[kind](x).unflatten(1, split) for kind, x in h.items()}
            for side in (self.key, self.query, self.value)
        )
        prior = self.prior.view(-1, self.heads)
        out = {}
        for kind in wanted:
            logits, messages, heads = [], [], []
            for relation, (i, j) in graph.edges.items():
                if relation.head != kind or not len(i):
                    continue
                place = self.names.index(relation.name)
                keys = torch.einsum("nhc,hcd->nhd", key[relation.tail], self.attention[place])
                logits.append((query[kind][i] * keys[j]).sum(-1) * prior[place] / math.sqrt(self.size))
                messages.append(torch.einsum("nhc,hcd->nhd", value[relation.tail], self.message[place])[j])
                heads.append(i)
            new = h[kind].new_zeros(len(h[kind]), self.heads, self.size)
            if heads:
                i = torch.cat(heads)
                alpha = softmax_over_neighbours(torch.cat(logits), i, len(h[kind]))
                new = sum_over_neighbours(alpha[..., None] * torch.cat(messages), i, len(h[kind]))
            gate = self.skip[graph.types.index(kind)].sigmoid()
            moved = self.dropout(self.out[kind](F.gelu(new.flatten(1))))
            out[kind] = self.norm[kind](gate * moved + (1 - gate) * h[kind])
        return out


class HGT(nn.Module):
    """Layers of `HGTLayer`; [nodes, width] of the target type."""

    def __init__(self, graph: HeteroGraph, target: str, width: int, layers: int, heads: int, dropout: float):
        super().__init__()
        self.target, self.width = target, width
        self.input = NodeInput(graph, width, dropout)
        self.layers = nn.ModuleList(
            HGTLayer(graph.types, graph.relations, width, heads, dropout) for _ in range(layers)
        )

    def forward(self, graph: HeteroGraph) -> Tensor:
        h = self.input(graph)
        for layer in self.layers:
            h = layer(h, graph, (self.target,) if layer is self.layers[-1] else graph.types)
        return h[self.target]


class HAN(nn.Module):
    """HAN (Wang et al., arXiv 1903.07293) on given meta paths from the target type to itself: attention over the nodes
    that a path leads to, then over paths; [nodes, width].

    Only features of the target type enter.
    """

    def __init__(
        self, graph: HeteroGraph, target: str, metapaths: Sequence[str], width: int, heads: int, dropout: float,
        attention_dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.target, self.width, self.paths = target, width, [path.split(".") for path in metapaths]
        self.dropout = nn.Dropout(dropout)
        inputs = graph.features[target].shape[1]
        self.layers = nn.ModuleList(
            GraphAttention(inputs, width, heads, shared=True, dropout=attention_dropout) for _ in metapaths
        )
        self.semantic = nn.Linear(width, width)
        self.choice = nn.Linear(width, 1, bias=False)
        self._pairs: dict[HeteroGraph, list[Tensor]] = {}

    def pairs(self, graph: HeteroGraph) -> list[Tensor]:
        """Edges of every path, a node with itself among them."""
        if graph not in self._pairs:
            loops = torch.arange(graph.counts[self.target], device=graph.features[self.target].device).expand(2, -1)
            found = [torch.unique(torch.cat([graph.follow(path), loops], 1), dim=1) for path in self.paths]
            self._pairs[graph] = found
        return self._pairs[graph]

    def forward(self, graph: HeteroGraph) -> Tensor:
        x = self.dropout(graph.features[self.target])
        z = torch.stack(
            [F.elu(layer(x, x, edges)) for layer, edges in zip(self.layers, self.pairs(graph), strict=True)]
        )  # fmt: skip
        weight = self.choice(self.semantic(z).tanh()).mean(1, keepdim=True).softmax(0)
        return (weight * z).sum(0)


class Features(nn.Module):
    """Two linear layers on the features of the target type, without the graph; [nodes, width]."""

    def __init__(self, graph: HeteroGraph, target: str, width: int, dropout: float):
        super().__init__()
        self.target, self.width = target, width
        self.first = nn.Linear(graph.features[target].shape[1], width)
        self.second = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, graph: HeteroGraph) -> Tensor:
        h = self.dropout(F.relu(self.first(graph.features[self.target])))
        return self.dropout(F.relu(self.second(h)))
