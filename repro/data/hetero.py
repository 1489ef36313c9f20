"""Graphs with several types of nodes and relations, and the task of classifying the nodes of one type."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from repro.data.base import fingerprint


class Relation(NamedTuple):
    """Edges of one kind, from nodes of type ``head`` to nodes of type ``tail``. Heads receive, tails send."""

    name: str
    head: str
    tail: str


@dataclass(frozen=True, eq=False)
class HeteroGraph:
    """A graph with typed nodes and typed, directed, unweighted edges.

    Attributes:
        counts: number of nodes of every type.
        edges: LongTensor [2, E] of every relation: row 0 head nodes, row 1 tail nodes, counted from 0 within their
            type; sorted by head, then tail, without repetition (`edge_list` brings them into that form).
        features: float32 [nodes, features] of the attributed types; types that are missing have none.

    Raises ValueError for an edge or a feature of a node that is not there, or for two relations of one name.
    """

    counts: Mapping[str, int]
    edges: Mapping[Relation, Tensor]
    features: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len({r.name for r in self.edges}) != len(self.edges):
            raise ValueError("two relations have one name")
        for relation, index in self.edges.items():
            for row, kind in zip(index, (relation.head, relation.tail), strict=True):
                if kind not in self.counts:
                    raise ValueError(f"{relation.name}: no nodes of type {kind!r}")
                if len(row) and not 0 <= int(row.min()) <= int(row.max()) < self.counts[kind]:
                    raise ValueError(f"{relation.name}: an edge of a node of type {kind!r} that is not there")
        for kind, values in self.features.items():
            if len(values) != self.counts.get(kind):
                raise ValueError(f"{len(values)} rows of features for {self.counts.get(kind)} nodes of type {kind!r}")

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(self.counts)

    @property
    def relations(self) -> tuple[Relation, ...]:
        return tuple(self.edges)

    def relation(self, name: str) -> Relation:
        """By name. Raises KeyError."""
        for relation in self.edges:
            if relation.name == name:
                return relation
        raise KeyError(name)

    def matrix(self, relation: Relation, dtype: torch.dtype = torch.float32) -> Tensor:
        """Sparse COO matrix [heads, tails] of ones."""
        index = self.edges[relation]
        size = (self.counts[relation.head], self.counts[relation.tail])
        ones = torch.ones(index.shape[1], dtype=dtype, device=index.device)
        return torch.sparse_coo_tensor(index, ones, size, is_coalesced=True, check_invariants=False)

    def follow(self, names: Sequence[str]) -> Tensor:
        """Pairs joined by at least one path of relations, as an edge list [2, E]: the non-zeros of the matrix product.

        Raises KeyError for an unknown relation and ValueError where a head is not of the type of the tail before it.
        """
        path = [self.relation(name) for name in names]
        for a, b in itertools.pairwise(path):
            if a.tail != b.head:
                raise ValueError(f"{b.name} does not go on from {a.name}")
        edges = self.edges[path[0]]
        for relation in path[1:]:
            edges, _ = join(edges, self.edges[relation])
        return edges

    def with_relations(self, spec: str, reverse: bool = True) -> HeteroGraph:
        """The graph with the relations named, in that order: ``"AP PC AT=AP.PT"`` keeps two and makes one by following
        a path. With ``reverse`` each is followed by its reverse, named backwards (``PA``), unless it is named itself.

        Raises as `follow`.
        """
        edges: dict[Relation, Tensor] = {}
        for part in spec.split():
            name, _, path = part.partition("=")
            steps = path.split(".") if path else [name]
            head, tail = self.relation(steps[0]).head, self.relation(steps[-1]).tail
            edges[Relation(name, head, tail)] = index = self.follow(steps)
            if reverse:
                edges.setdefault(Relation(name[::-1], tail, head), edge_list(index[1], index[0]))
        used = {kind for relation in edges for kind in (relation.head, relation.tail)}
        return HeteroGraph(
            {kind: n for kind, n in self.counts.items() if kind in used}, edges,
            {kind: x for kind, x in self.features.items() if kind in used},
        )  # fmt: skip

    def hide(self, kind: str, nodes: Tensor) -> HeteroGraph:
        """The graph without any edge of some nodes, LongTensor [nodes]. They stay in their places, seen by no other."""
        hidden = torch.zeros(self.counts[kind], dtype=torch.bool, device=nodes.device)
        hidden[nodes] = True
        edges = {}
        for relation, index in self.edges.items():
            keep = torch.ones(index.shape[1], dtype=torch.bool, device=index.device)
            for row, end in zip(index, (relation.head, relation.tail), strict=True):
                if end == kind:
                    keep &= ~hidden[row]
            edges[relation] = index[:, keep]
        return replace(self, edges=edges)

    def to(self, device: torch.device | str) -> HeteroGraph:
        return replace(
            self, edges={r: e.to(device) for r, e in self.edges.items()},
            features={k: x.to(device) for k, x in self.features.items()},
        )  # fmt: skip

    def parts(self) -> list[Tensor | str]:
        """What makes up the content, for a fingerprint."""
        out: list[Tensor | str] = [str(dict(self.counts))]
        for relation, index in self.edges.items():
            out += [str(tuple(relation)), index]
        for kind, values in self.features.items():
            out += [kind, values]
        return out


def edge_list(heads: Tensor, tails: Tensor) -> Tensor:
    """LongTensor [2, E] sorted by head, then tail, without repetition, of two LongTensors [edges]."""
    return torch.unique(torch.stack([heads.long(), tails.long()]), dim=1)


def join(a: Tensor, b: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Product of two sparse matrices: who is joined with whom over a node in the middle, and how strongly.

    Args:
        a: LongTensor [2, E], from heads to the middle.
        b: LongTensor [2, F], from the middle to tails, sorted by row 0; all its weights are 1.
        weight: [E], of a; ones when None.

    Returns:
        the non-zeros of the product as an edge list [2, G], and its values [G] (sums over the nodes in the middle).
    """
    weight = torch.ones(a.shape[1], device=a.device) if weight is None else weight
    begin = torch.searchsorted(b[0].contiguous(), a[1].contiguous())
    repeats = torch.searchsorted(b[0].contiguous(), a[1].contiguous(), right=True) - begin
    source = torch.arange(a.shape[1], device=a.device).repeat_interleave(repeats)
    within = torch.arange(len(source), device=a.device) - (repeats.cumsum(0) - repeats)[source]
    tails = b[1][begin[source] + within]
    width = int(b[1].max()) + 1 if b.shape[1] else 1
    keys, place = torch.unique(a[0][source] * width + tails, return_inverse=True)
    values = torch.zeros(len(keys), dtype=weight.dtype, device=a.device).index_add(0, place, weight[source])
    return torch.stack([keys // width, keys % width]), values


@dataclass(frozen=True, eq=False)
class NodeData:
    """Classify the nodes of one type of a graph.

    Attributes:
        target: the type whose nodes have labels.
        labels: LongTensor [nodes of that type], in ``range(classes)``; -1 for a node without one.
        train, validation, test: LongTensors of disjoint nodes.
        truth: what the generator planted, for read-outs; empty for real data.
        fingerprint: hash of graph, labels and splits.
    """

    name: str
    graph: HeteroGraph
    target: str
    labels: Tensor
    classes: int
    train: Tensor
    validation: Tensor
    test: Tensor
    source: str
    description: str
    details: Mapping[str, Any] = field(default_factory=dict)
    truth: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        splits = torch.cat([self.train, self.validation, self.test])
        if len(splits.unique()) != len(splits):
            raise ValueError("a node is in two splits")
        if len(splits) and int(self.labels[splits].min()) < 0:
            raise ValueError("a node of a split has no label")
        if not self.fingerprint:
            parts = (*self.graph.parts(), self.labels, self.train, self.validation, self.test)
            object.__setattr__(self, "fingerprint", fingerprint(*parts))

    def observed(self, inductive: bool) -> HeteroGraph:
        """What training sees. Transductive: the whole graph, without the labels of held-out nodes. Inductive: test
        nodes have no edges, so that nothing of them reaches training."""
        return self.graph.hide(self.target, self.test) if inductive else self.graph

    def to(self, device: torch.device | str) -> NodeData:
        moved = {n: getattr(self, n).to(device) for n in ("graph", "labels", "train", "validation", "test")}
        return replace(self, **moved)

    def describe(self) -> dict[str, Any]:
        """What a record keeps about its data; JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "nodes": dict(self.graph.counts),
            "edges": {r.name: e.shape[1] for r, e in self.graph.edges.items()},
            "target": self.target,
            "classes": self.classes,
            "train_rows": len(self.train),
            "validation_rows": len(self.validation),
            "held_out_rows": len(self.test),
            **self.details,
        }
