"""The arms of LATTE: classify the nodes of a heterogeneous graph, and read out which relations were listened to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from papers.latte.baselines import HAN, HGT, RGCN, Features
from papers.latte.method import LATTE, Latte, LatteLayer, relation_table
from papers.latte.paper import Config
from repro.data.hetero import HeteroGraph, NodeData
from repro.data.registry import load_nodes
from repro.evaluation.nodes import cluster_agreement
from repro.runner import Context, Outcome
from repro.training.full_graph import Classified, fit_nodes, xavier
from repro.training.initial import generator
from repro.training.loop import Optimisation


def run(config: Config, context: Context) -> Outcome:
    """Train one arm on one setting."""
    data = load(config, context.seed)
    model = build(config, data, context.seed)
    found = fit_nodes(
        model, data, Optimisation(config.lr, config.steps, 0.0, betas=(0.9, 0.999), weight_decay=config.weight_decay,
                                  clip=config.clip),
        context, inductive=config.inductive, evaluations=config.evaluations, decayed=decayed,
    )  # fmt: skip
    outcome = found.outcome
    outcome.profile["embedding_width"] = float(model.classifier.in_features)
    outcome.metrics["parameters"] = outcome.profile["params_total"]
    with torch.no_grad():
        embeddings, latte = model.embed(found.graph, everything=False)
    test = data.test
    outcome.metrics["nmi"] = cluster_agreement(embeddings[test.to(context.device)], data.labels[test], data.classes)
    if latte is not None:
        assert isinstance(model.embedder, LATTE)
        metrics, outcome.tables = read_out(config, model.embedder, latte, data, found.graph)
        outcome.metrics |= metrics
    return outcome


def load(config: Config, seed: int) -> NodeData:
    """The graph of a run; a generated one belongs to its seed. Raises MissingData for real data that is absent."""
    if config.data == "bibliographic":
        return load_nodes(
            config.data, seed=seed, planted=config.planted, term_signal=config.term_signal, authors=config.authors,
            papers=config.papers,
        )  # fmt: skip
    return load_nodes(config.data, seed=seed, relations=config.relations)


def decayed(name: str) -> bool:
    """Weight decay spares biases, embeddings and the sharpening of attention, as in the released code."""
    return not any(part in name for part in ("bias", "embedding", "sharpen"))


def gain(name: str) -> float:
    """Gains of the initial weights, as in the released code."""
    if ".attend_" in name or ".attention" in name or ".message" in name:
        return nn.init.calculate_gain("leaky_relu", 0.2)
    return 1.0 if ".beta." in name else nn.init.calculate_gain("relu")


def build(config: Config, data: NodeData, seed: int) -> Model:
    """A fresh model with the initial weights of the seed. Raises ValueError for an unknown one."""
    graph, target, width = data.graph, data.target, config.width
    embedder: nn.Module
    if config.model == "latte":
        embedder = LATTE(
            graph, width, config.layers, config.heads, threshold=config.threshold, dropout=config.dropout,
            attention_dropout=config.attention_dropout, uniform=config.uniform,
        )  # fmt: skip
        width *= config.layers
    elif config.model == "rgcn":
        embedder = RGCN(graph, target, width, config.layers, config.dropout)
    elif config.model == "hgt":
        embedder = HGT(graph, target, width, config.layers, config.heads, config.dropout)
    elif config.model == "han":
        paths = config.metapaths.split()
        embedder = HAN(graph, target, paths, width, config.heads, config.dropout, config.attention_dropout)
    elif config.model == "features":
        embedder = Features(graph, target, width, config.dropout)
    else:
        raise ValueError(f"model is latte, rgcn, hgt, han or features, not {config.model!r}")
    model = Model(embedder, target, width, data.classes, config, seed)
    xavier(model, seed, gain)
    return model


class Model(nn.Module):
    """Any embedder with a linear classifier, and LATTE's proximity loss where it is asked for."""

    def __init__(self, embedder: nn.Module, target: str, width: int, classes: int, config: Config, seed: int):
        super().__init__()
        self.embedder, self.target = embedder, target
        self.proximity, self.negatives = config.proximity, config.negatives
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(width, classes)
        self.pairs = generator("negative pairs", seed)

    def embed(self, graph: HeteroGraph, everything: bool) -> tuple[Tensor, Latte | None]:
        if isinstance(self.embedder, LATTE):
            found = self.embedder(graph, (self.target,), everything)
            return found.embeddings[self.target], found
        return self.embedder(graph), None

    def forward(self, graph: HeteroGraph) -> Classified:
        everything = self.proximity > 0 and self.training
        embeddings, found = self.embed(graph, everything)
        logits = self.classifier(self.dropout(embeddings))
        if found is None or not everything:
            return Classified(logits)
        assert isinstance(self.embedder, LATTE)
        loss = self.embedder.proximity_loss(found, graph, self.negatives, self.pairs)
        return Classified(logits, self.proximity * loss)


def read_out(
    config: Config, model: LATTE, found: Latte, data: NodeData, graph: HeteroGraph
) -> tuple[dict[str, float], dict[str, Any]]:  # fmt: skip
    """Which relations test nodes listen to, and how many edges the filter leaves.

    ``beta_margin``: mean beta of the planted relation minus that of the best other one of the last order, in percent;
    ``beta_terms``: that of the relation to terms. ``relation_attention``: per order, mean beta by head type (row) and
    tail type (column); self is left out.
    """
    tables: dict[str, Any] = {"beta": {}, "relation_attention": {}}
    metrics: dict[str, float] = {}
    for order, (layer, beta) in enumerate(zip(model.layers, found.beta, strict=True), 1):
        assert isinstance(layer, LatteLayer)
        weights = relation_table(layer, beta, data.target, data.test.to(beta[data.target].device))
        tables["beta"][f"order {order}"] = weights
        tables["relation_attention"][f"order {order}"] = by_types(layer, beta, graph)
        others = {name: mean for name, (mean, _) in weights.items() if name != "self"}
        metrics[f"beta_self_{order}"] = 100 * weights["self"][0]
        planted = others.pop(config.planted_relation, None)
        if planted is not None and others:
            metrics["beta_planted"] = 100 * planted
            metrics["beta_margin"] = 100 * (planted - max(others.values()))
            metrics["beta_terms"] = 100 * others.get(config.term_relation, math.nan)
    if len(found.attended) > 1:
        second = {r.name: p.edges.shape[1] for r, p in found.attended[1].items()}
        every = {name: graph.follow(name.split(".")).shape[1] for name in second}
        tables["edges_of_order_2"] = {name: [second[name], every[name]] for name in second}
        metrics["edges_kept"] = 100 * sum(second.values()) / max(sum(every.values()), 1)
    return metrics, tables


def by_types(layer: LatteLayer, beta: Mapping[str, Tensor], graph: HeteroGraph) -> list[list[float]]:
    """Square matrix of mean beta, [head types, tail types]; rows of types that the layer left out are zero."""
    out = [[0.0] * len(graph.types) for _ in graph.types]
    for kind, weights in beta.items():
        for column, relation in enumerate(layer.of(kind)):
            place = graph.types.index(relation.tail)
            out[graph.types.index(kind)][place] += float(weights[:, column].detach().mean())
    return out
