"""Parameters of LATTE and its competitors on the paper's DBLP at the published width, and what GTN's products would
take as dense matrices. Models built here are counted on the meta device, others by arithmetic on their code."""

from __future__ import annotations

import torch
from torch import nn

from papers.latte.baselines import HGT
from papers.latte.method import LATTE
from repro.data.hetero import HeteroGraph, Relation

#: DBLP in HAN's version: authors, papers, venues, terms, and the number of an author's features. The released code
#: gives authors' features to all types [released code, data].
NODES = {"A": 4057, "P": 14328, "C": 20, "T": 8789}
FEATURES = 334
CLASSES = 4
#: What the released code gives LATTE, with reverses.
RELATIONS = ("AC", "AP", "AT", "CA", "PA", "TA")
WIDTH = 128
#: Meta paths of HAN on DBLP: over a paper, over a venue, over a term.
HAN_PATHS = 3
#: Relations of GTN on DBLP (AP, PA, PC, CP), as many channels, its nodes (no terms).
GTN_RELATIONS = 4
GTN_NODES = 18405


def empty_graph() -> HeteroGraph:
    """DBLP without edges and storage."""
    edges = {Relation(name, *name): torch.empty(2, 0, dtype=torch.long) for name in RELATIONS}
    return HeteroGraph(NODES, edges, {kind: torch.empty(n, FEATURES, device="meta") for kind, n in NODES.items()})


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def latte(layers: int) -> LATTE:
    with torch.device("meta"):
        return LATTE(empty_graph(), WIDTH, layers)


def han(layers: int = 2) -> int:
    """HAN: per layer and path a projection, two attention vectors and a bias; per layer attention over paths."""
    total, inputs = 0, FEATURES
    for _ in range(layers):
        total += HAN_PATHS * (inputs * WIDTH + 2 * WIDTH + WIDTH) + WIDTH * WIDTH + WIDTH + WIDTH
        inputs = WIDTH
    return total + WIDTH * CLASSES + CLASSES


def gtn(layers: int = 2) -> int:
    """GTN: choices of relations (two for the first layer, one for others), a graph convolution, two linear layers."""
    channels = GTN_RELATIONS
    choices = (layers + 1) * channels * GTN_RELATIONS
    hidden = channels * WIDTH * WIDTH + WIDTH
    return choices + FEATURES * WIDTH + WIDTH + hidden + WIDTH * CLASSES + CLASSES


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, and those that put them into proportion."""
    two = latte(2)
    with torch.device("meta"):
        hgt = HGT(empty_graph(), "A", WIDTH, 2, 8, 0.2)
    head = WIDTH * CLASSES + CLASSES
    ours = count(two) + 2 * WIDTH * CLASSES + CLASSES
    others = {
        "hgt": count(hgt) + head,
        "metapath2vec": sum(NODES.values()) * WIDTH,
        "han": han(),
        "gtn": gtn(),
    }
    out = {f"parameters_{name}": float(n) for name, n in others.items()}
    out |= {f"fewer_than_{name}": float(ours < n) for name, n in others.items()}
    out["parameters_latte_1"] = float(count(latte(1)) + head)
    out["parameters_latte_2"] = float(ours)
    out["parameters_input"] = float(count(two.input))
    for number, layer in enumerate(two.layers, 1):
        out[f"parameters_layer_{number}"] = float(count(layer))
        out[f"relations_order_{number}"] = float(len(layer.relations))  # type: ignore[arg-type]
    out["gtn_dense_gigabytes"] = GTN_RELATIONS * GTN_NODES**2 * 4 / 1e9
    return out
