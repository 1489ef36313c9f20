"""LATTE (arXiv 2009.08072): layer t attends over meta relations of order t, which it makes itself, and all layers are
concatenated.

    relations    order 1: those of the graph; order t: one of order t-1 joined with one of order 1
    e_ij         s_r LeakyReLU(a_l^r . l_i + a_r^r . r_j), of an edge of relation r
    alpha_ij     softmax over the neighbours j of i within r;      m_i^r = sum_j alpha_ij r_j
    beta_i       softmax(W_beta h_i), one weight for each relation of the order and one for "self"
    h'_i         ReLU(sum_r beta_i^r m_i^r + beta_i^self l_i)
    edges        of order t: join of those of order t-1 with alpha >= 0.5 and those of order 1

The formulas are those of the released code; the paper's own notation was not at hand. beta tells which relations a type
of node listens to, alpha which edges; both are returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.hetero import HeteroGraph, Relation, join
from repro.models.message_passing import NodeInput, additive_logits, attend, edge_weights

#: Slope of the LeakyReLU under the attention.
SLOPE = 0.2

# --- meta relations -------------------------------------------------------------------------------------------


def join_relations(previous: Sequence[Relation], direct: Sequence[Relation]) -> list[Relation]:
    """Relations of the next order: every one of the last joined with every one of order 1 that goes on from its tail.
    ``AP`` and ``PC`` give ``AP.PC``."""
    return [Relation(f"{a.name}.{b.name}", a.head, b.tail) for a in previous for b in direct if a.tail == b.head]


def strong_edges(alpha: Tensor, threshold: float) -> Tensor:
    """Which edges [E] go on to the next order: those with ``alpha`` [E] >= threshold, or the best one if there is
    none."""
    keep = alpha >= threshold
    if len(alpha) and not keep.any():
        keep[alpha.argmax()] = True
    return keep


def join_edges(a: Tensor, weight: Tensor, b: Tensor, middle: int) -> tuple[Tensor, Tensor]:
    """Edges of a joined relation: the non-zeros of ``A D B``, ``D = diag(1 / (colsum(A) + rowsum(B)))`` over the nodes
    in the middle.

    Args:
        a: LongTensor [2, E], the kept edges, with their attention ``weight`` [E].
        b: LongTensor [2, F], the direct edges, of weight 1, sorted by head.
        middle: number of nodes in the middle.

    Returns:
        LongTensor [2, G] and the values [G], which matter only to whoever samples edges by them.
    """
    degree = torch.zeros(middle, device=weight.device).index_add(0, a[1], weight)
    degree += torch.bincount(b[0], minlength=middle)
    return join(a, b, weight / degree[a[1]])


# --- a layer --------------------------------------------------------------------------------------------------


class Attended(NamedTuple):
    """What a layer made of one relation."""

    edges: Tensor
    """LongTensor [2, E]"""
    alpha: Tensor
    """[E], the largest over heads of each edge's attention"""
    left: Tensor
    """[head nodes, H], half of the logits"""
    right: Tensor
    """[tail nodes, H], the other half"""


class LatteLayer(nn.Module):
    """One layer: attention within each of its relations, then attention over relations.

    ``uniform`` (an ablation) gives every relation and self the same weight.
    """

    def __init__(
        self, types: Sequence[str], relations: Sequence[Relation], inputs: int, width: int, heads: int = 2,
        dropout: float = 0.2, uniform: bool = False,
    ):  # fmt: skip
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} for {heads} heads")
        self.relations, self.heads, self.dropout, self.uniform = tuple(relations), heads, dropout, uniform
        self.left = nn.ModuleDict({kind: nn.Linear(inputs, width) for kind in types})
        self.right = nn.ModuleDict({kind: nn.Linear(inputs, width) for kind in types})
        self.beta = nn.ModuleDict({kind: nn.Linear(inputs, len(self.of(kind)) + 1) for kind in types})
        self.attend_left = nn.Parameter(torch.empty(len(relations), heads, width // heads))
        self.attend_right = nn.Parameter(torch.empty(len(relations), heads, width // heads))
        self.sharpen = nn.Parameter(torch.ones(len(relations)))
        for weight in (*self.attend_left, *self.attend_right):
            nn.init.xavier_normal_(weight, nn.init.calculate_gain("leaky_relu", SLOPE))
        for module in (*self.left.values(), *self.right.values()):
            assert isinstance(module, nn.Linear)
            nn.init.xavier_normal_(module.weight, nn.init.calculate_gain("relu"))
        for module in self.beta.values():
            assert isinstance(module, nn.Linear)
            nn.init.xavier_normal_(module.weight)

    def of(self, kind: str) -> list[Relation]:
        """The relations whose heads are of a type, in the order of beta's columns; the last column is self."""
        return [r for r in self.relations if r.head == kind]

    def relation_weights(self, h: Tensor, kind: str) -> Tensor:
        """beta [nodes, relations of the type + 1]."""
        logits = self.beta[kind](h)
        return (torch.zeros_like(logits) if self.uniform else logits).softmax(-1)

    def forward(
        self, h: Mapping[str, Tensor], edges: Mapping[Relation, Tensor], wanted: Sequence[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[Relation, Attended]]:
        """New representations and beta of the types ``wanted``, and attention within the relations in ``edges``.

        A relation without edges keeps its share of beta and sends zeros.
        """
        split = (self.heads, -1)
        left = {kind: self.left[kind](x).unflatten(1, split) for kind, x in h.items()}
        right = {kind: self.right[kind](x).unflatten(1, split) for kind, x in h.items()}
        beta = {kind: self.relation_weights(h[kind], kind) for kind in wanted}
        out = {kind: beta[kind][:, -1:] * left[kind].flatten(1) for kind in wanted}
        attended = {}
        for number, relation in enumerate(self.relations):
            if relation not in edges:
                continue
            halves = (
                (left[relation.head] * self.attend_left[number]).sum(-1),
                (right[relation.tail] * self.attend_right[number]).sum(-1),
            )
            sharpen = self.sharpen[number]
            if relation.head in out:
                messages, alpha = attend(
                    *halves, right[relation.tail], edges[relation], sharpen=sharpen, slope=SLOPE,
                    dropout=self.dropout if self.training else 0.0,
                )  # fmt: skip
                share = beta[relation.head][:, self.of(relation.head).index(relation), None]
                out[relation.head] = out[relation.head] + share * messages.flatten(1)
            else:
                alpha = edge_weights(*halves, edges[relation], sharpen=sharpen, slope=SLOPE)
            attended[relation] = Attended(edges[relation], alpha.amax(1), *halves)
        return {kind: F.relu(x) for kind, x in out.items()}, beta, attended

    def edge_logits(self, relation: Relation, found: Attended, edges: Tensor) -> Tensor:
        """Score [E] of any edges under a relation: the activated logit of the largest head."""
        both = (found.left[edges[0]] + found.right[edges[1]]).amax(1)
        return self.sharpen[self.relations.index(relation)] * additive_logits(both, torch.zeros_like(both), SLOPE)


# --- the stack ------------------------------------------------------------------------------------------------


class Latte(NamedTuple):
    """What the stack gives."""

    embeddings: dict[str, Tensor]
    """[nodes, layers * width] of every type wanted"""
    beta: list[dict[str, Tensor]]
    """Of every layer, by type: [nodes, relations + 1]; columns as in `LatteLayer.of`"""
    attended: list[dict[Relation, Attended]]
    """Of every layer, by relation"""


class LATTE(nn.Module):
    """Layers over relations of growing order, concatenated.

    Args:
        graph: gives types, relations and sizes of features; any graph with the same ones can be passed forward.
        width: of a layer, also of the first representation.
        layers: T; the embedding has ``T * width`` numbers.
        threshold: attention from which an edge goes on to the next order; 0 keeps all.
        dropout: after every layer and the input. attention_dropout: of alpha.
    """

    def __init__(
        self, graph: HeteroGraph, width: int = 128, layers: int = 2, heads: int = 2, *, threshold: float = 0.5,
        dropout: float = 0.2, attention_dropout: float = 0.2, uniform: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.threshold = threshold
        self.input = NodeInput(graph, width, dropout)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList()
        relations = list(graph.relations)
        for _ in range(layers):
            self.layers.append(LatteLayer(graph.types, relations, width, width, heads, attention_dropout, uniform))
            relations = join_relations(relations, graph.relations)

    def forward(self, graph: HeteroGraph, wanted: Sequence[str] = (), everything: bool = False) -> Latte:
        """Embeddings of the types ``wanted`` (all when empty).

        The last layer then leaves out relations whose heads nobody wants, unless ``everything`` asks for their
        attention; results are the same.
        """
        wanted = wanted or graph.types
        h = self.input(graph)
        edges = dict(graph.edges)
        collected: dict[str, list[Tensor]] = {kind: [] for kind in wanted}
        betas: list[dict[str, Tensor]] = []
        orders: list[dict[Relation, Attended]] = []
        for layer in self.layers:
            assert isinstance(layer, LatteLayer)
            last = layer is self.layers[-1]
            if orders:
                edges = self.next_edges(orders[-1], graph, wanted if last and not everything else graph.types)
            elif last and not everything:
                edges = {r: e for r, e in edges.items() if r.head in wanted}
            h, beta, attended = layer(h, edges, wanted if last else graph.types)
            h = {kind: self.dropout(x) for kind, x in h.items()}
            for kind in wanted:
                collected[kind].append(h[kind])
            betas.append(beta)
            orders.append(attended)
        return Latte({kind: torch.cat(xs, 1) for kind, xs in collected.items()}, betas, orders)

    @torch.no_grad()
    def next_edges(
        self, previous: Mapping[Relation, Attended], graph: HeteroGraph, heads: Sequence[str]
    ) -> dict[Relation, Tensor]:
        """Edges of the next order from the attention of this one, for relations with the given heads. No gradient:
        which edges there are is not differentiable, and the new layer weighs them anew."""
        out = {}
        for a, found in previous.items():
            if a.head not in heads or not found.edges.shape[1]:
                continue
            keep = strong_edges(found.alpha, self.threshold)
            for b, direct in graph.edges.items():
                if a.tail == b.head:
                    edges, _ = join_edges(found.edges[:, keep], found.alpha[keep], direct, graph.counts[a.tail])
                    if edges.shape[1]:
                        out[Relation(f"{a.name}.{b.name}", a.head, b.tail)] = edges
        return out

    def proximity_loss(self, found: Latte, graph: HeteroGraph, negatives: int, generator: torch.Generator) -> Tensor:
        """Linked nodes score high, random pairs low, in every relation of every order:
        ``-mean alpha_ij log sigma(e_ij) - mean log sigma(-e_neg)``, over twice the number of relations of an order.

        ``negatives``: random pairs for each edge, drawn from a CPU ``generator``. ``found`` needs ``everything``.
        """
        total = torch.zeros((), device=next(self.parameters()).device)
        for layer, attended in zip(self.layers, found.attended, strict=True):
            assert isinstance(layer, LatteLayer)
            for relation, part in attended.items():
                drawn = [
                    torch.randint(graph.counts[kind], (negatives * part.edges.shape[1],), generator=generator)
                    for kind in (relation.head, relation.tail)
                ]
                positive = F.logsigmoid(layer.edge_logits(relation, part, part.edges))
                negative = F.logsigmoid(-layer.edge_logits(relation, part, torch.stack(drawn).to(total.device)))
                total = total - ((part.alpha * positive).mean() + negative.mean()) / (2 * len(attended))
        return total


def relation_table(layer: LatteLayer, beta: Mapping[str, Tensor], kind: str, nodes: Tensor) -> dict[str, list[float]]:
    """Mean and standard deviation of beta over some nodes of a type, per relation, with ``self`` last."""
    rows = beta[kind][nodes].detach()
    names = [r.name for r in layer.of(kind)] + ["self"]
    return {n: [float(m), float(s)] for n, m, s in zip(names, rows.mean(0), rows.std(0), strict=True)}
