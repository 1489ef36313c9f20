"""LATTE (arXiv 2009.08072): facts, arms, settings, claims. Data only; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from repro.claims import (
    Arm,
    Claim,
    Computed,
    Contrast,
    Match,
    NonInferiority,
    Paper,
    Precondition,
    Preset,
    Published,
    Setting,
    Superiority,
)


@dataclass(frozen=True)
class Config:
    """Configuration of a run."""

    data: str = "bibliographic"  # bibliographic | dblp | imdb-graph | acm
    inductive: bool = False  # test nodes have no edges in training
    # the generated network
    planted: str = "venues"  # where an author's area shows: venues | papers
    term_signal: float = 0.2
    authors: int = 600
    papers: int = 1500
    # real data
    relations: str = ""  # as `HeteroGraph.with_relations` reads them; all when empty
    # the model
    model: str = "latte"  # latte | rgcn | hgt | han | features
    width: int = 64  # of a layer
    layers: int = 2
    heads: int = 2
    threshold: float = 0.5  # attention from which an edge goes on to the next order
    uniform: bool = False  # the same weight for every relation
    proximity: bool = False
    negatives: int = 2  # random pairs for each edge
    metapaths: str = "AP.PC.CP.PA"  # of HAN
    dropout: float = 0.2
    attention_dropout: float = 0.2
    classifier_dropout: float = 0.4
    # training
    lr: float = 4e-3
    steps: int = 150
    weight_decay: float = 1e-2
    clip: float = 0.0
    evaluations: int = 30
    # read-outs
    planted_relation: str = "AP.PC"
    term_relation: str = "AP.PT"


TWO: dict[str, Any] = {"width": 32}
ARMS = (
    Arm("latte-2", "LATTE-2, half the width a layer", "method", TWO),
    Arm("latte-1", "LATTE-1", "baseline", {"layers": 1}),
    Arm("latte-2-wide", "LATTE-2, LATTE-1's width in each layer", "method"),
    Arm("rgcn", "R-GCN, two layers", "baseline", {"model": "rgcn"}),
    Arm("hgt", "HGT, two layers", "baseline", {"model": "hgt"}),
    Arm("han-right", "HAN on the planted meta path", "baseline", {"model": "han"}),
    Arm("han-wrong", "HAN on the meta path of terms", "baseline", {"model": "han", "metapaths": "AP.PT.TP.PA"}),
    Arm("features", "features of the nodes, no graph", "baseline", {"model": "features"}),
    Arm("latte-2-uniform", "LATTE-2, all relations weighted alike", "ablation", {**TWO, "uniform": True}),
    Arm("latte-2-unfiltered", "LATTE-2, all edges joined", "ablation", {**TWO, "threshold": 0.0}),
    Arm("latte-2-proximity", "LATTE-2 with the proximity loss", "method", {**TWO, "proximity": True}),
    Arm("latte-2-terms", "LATTE-2 where terms tell the area", "ablation", {**TWO, "term_signal": 0.6}),
)
