"""Published heterogeneous networks from files, for classification of nodes: DBLP and IMDB in the layout of MAGNN
(numpy's and scipy's files), ACM in that of HAN (``ACM.mat``).

Files lie in folders ``dblp``, ``imdb-graph`` and ``acm`` of ``REPRO_DATA_DIR``, flat or one folder deeper, under their
original names. Nothing is downloaded, and nothing is unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repro.data.base import order_seed
from repro.data.errors import MissingData
from repro.data.hetero import HeteroGraph, NodeData, Relation, edge_list

#: Conferences of ACM.mat that HAN keeps, with the class of each: KDD; SIGMOD, VLDB; SIGCOMM, MobiCOMM.
ACM_CLASSES = {0: 0, 1: 1, 13: 1, 9: 2, 10: 2}


class Magnn(NamedTuple):
    """What the numbers in a folder of MAGNN's layout stand for. Types are in the order of ``node_types.npy``."""

    types: str
    pairs: tuple[str, ...]
    source: str


LAYOUTS = {
    "dblp": Magnn("APTC", ("AP", "PT", "PC"), "DBLP_processed.zip of MAGNN (cynricfu/MAGNN)"),
    "imdb-graph": Magnn("MDA", ("MD", "MA"), "IMDB_processed.zip of MAGNN (cynricfu/MAGNN)"),
}


def folder(name: str, needed: tuple[str, ...], source: str) -> Path:
    """Where the files of a data set lie. Raises MissingData, which says what is missing and where to get it."""
    root = os.environ.get("REPRO_DATA_DIR")
    places = [Path(root).expanduser() / name] if root else []
    for place in [*places, *(p for base in places if base.is_dir() for p in sorted(base.iterdir()) if p.is_dir())]:
        if all((place / file).is_file() for file in needed):
            return place
    raise MissingData(
        f"{name} is absent: set REPRO_DATA_DIR to a folder that holds {name}/ with {', '.join(needed)}, from {source}"
    )


def dblp(seed: int = 0, *, relations: str = "") -> NodeData:
    """DBLP: areas of authors (A), with papers (P), terms (T) and venues (C); the split of the files.

    Args:
        seed: not used, the split is fixed.
        relations: as in `repro.data.hetero.HeteroGraph.with_relations`; ``AP PT PC`` with their reverses when empty.

    Raises MissingData when the files are not at hand.
    """
    return _magnn("dblp", relations, "authors of DBLP by research area")


def imdb(seed: int = 0, *, relations: str = "") -> NodeData:
    """IMDB: genres of movies (M), with directors (D) and actors (A); otherwise as `dblp`."""
    return _magnn("imdb-graph", relations, "movies of IMDB by genre")


def _magnn(name: str, relations: str, what: str) -> NodeData:
    from scipy import sparse

    layout = LAYOUTS[name]
    needed = ("adjM.npz", "node_types.npy", "labels.npy", "train_val_test_idx.npz")
    place = folder(name, needed, layout.source)
    kinds = np.load(place / "node_types.npy")
    loaded: Any = sparse.load_npz(place / "adjM.npz")
    matrix = loaded.tocsr()
    nodes = {kind: np.flatnonzero(kinds == number) for number, kind in enumerate(layout.types)}
    edges = {}
    for pair in layout.pairs:
        block = matrix[nodes[pair[0]]][:, nodes[pair[1]]].tocoo()
        edges[Relation(pair, *pair)] = edge_list(torch.from_numpy(block.row), torch.from_numpy(block.col))
    features = {}
    for number, kind in enumerate(layout.types):
        for file in (place / f"features_{number}.npz", place / f"features_{number}.npy"):
            if file.is_file():
                values = sparse.load_npz(file).toarray() if file.suffix == ".npz" else np.load(file)
                features[kind] = torch.from_numpy(values).float()
    graph = HeteroGraph({kind: len(ids) for kind, ids in nodes.items()}, edges, features)
    labels = torch.from_numpy(np.load(place / "labels.npy")).long()
    split = np.load(place / "train_val_test_idx.npz")
    parts = {part: torch.from_numpy(split[f"{short}_idx"]).long().sort().values
             for part, short in (("train", "train"), ("validation", "val"), ("test", "test"))}  # fmt: skip
    return _data(name, graph, relations or " ".join(layout.pairs), layout.types[0], labels, parts, what)


def acm(seed: int = 0, *, relations: str = "", train: float = 0.2, validation: float = 0.1) -> NodeData:
    """ACM: areas of papers (P), with authors (A) and subjects (S), from ``ACM.mat`` as HAN reads it: papers of five
    conferences, features which of the terms a paper has. The split is drawn from ``seed``.

    Raises MissingData when the file is not at hand.
    """
    from scipy.io import loadmat

    place = folder("acm", ("ACM.mat",), "ACM.mat of HAN (Jhy1993/HAN)")
    content = loadmat(place / "ACM.mat")
    conferences = content["PvsC"].tocsr()
    kept = np.flatnonzero(np.asarray(conferences[:, list(ACM_CLASSES)].sum(1)).ravel())
    found = np.asarray(conferences[kept][:, list(ACM_CLASSES)].argmax(1)).ravel()
    labels = torch.tensor([list(ACM_CLASSES.values())[place] for place in found])
    edges, counts = {}, {"P": len(kept)}
    for kind, key in (("A", "PvsA"), ("S", "PvsL")):
        block = content[key].tocsr()[kept].tocoo()
        used, column = np.unique(block.col, return_inverse=True)
        counts[kind] = len(used)
        edges[Relation(f"P{kind}", "P", kind)] = edge_list(torch.from_numpy(block.row), torch.from_numpy(column))
    terms = torch.from_numpy(content["PvsT"].tocsr()[kept].toarray()).float()
    graph = HeteroGraph(counts, edges, {"P": terms})
    order = torch.from_numpy(np.random.default_rng(order_seed("acm split", seed)).permutation(len(kept)))
    bounds = [round(train * len(kept)), round((train + validation) * len(kept))]
    names = ("train", "validation", "test")
    parts = {name: part.sort().values for name, part in zip(names, order.tensor_split(bounds), strict=True)}
    return _data("acm", graph, relations or "PA PS", "P", labels, parts, "papers of ACM by area", split_seed=seed)


def _data(
    name: str, graph: HeteroGraph, relations: str, target: str, labels: Tensor, parts: Mapping[str, Tensor],
    what: str, **details: Any,
) -> NodeData:  # fmt: skip
    return NodeData(
        name, graph.with_relations(relations), target, labels, int(labels.max()) + 1, parts["train"],
        parts["validation"], parts["test"], source="real",
        description=what, details={"relations": relations, **details},
    )  # fmt: skip
