"""Graphs with typed nodes, the generated bibliographic network, and files of the published data sets' layouts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from repro.data.bibliographic import bibliographic
from repro.data.errors import MissingData, UnknownData
from repro.data.hetero import HeteroGraph, NodeData, Relation, edge_list, join
from repro.data.registry import load_nodes


def graph():
    return bibliographic(3, authors=40, papers=60, venues=8, terms=12).graph


def scipy_matrix(g, name):
    relation = g.relation(name)
    index = g.edges[relation].numpy()
    return sp.csr_matrix((np.ones(index.shape[1]), index), (g.counts[relation.head], g.counts[relation.tail]))


# --- graphs ---------------------------------------------------------------------------------------------------


def test_following_relations_is_a_product_of_matrices():
    g = graph()
    product = (scipy_matrix(g, "AP") @ scipy_matrix(g, "PC") @ scipy_matrix(g, "CP")).toarray() > 0
    assert torch.equal(g.follow(["AP", "PC", "CP"]), torch.from_numpy(np.array(product.nonzero())))
    with pytest.raises(ValueError, match="go on"):
        g.follow(["AP", "CP"])
    with pytest.raises(KeyError):
        g.follow(["AX"])


def test_joining_counts_paths():
    g = graph()
    edges, values = join(g.edges[g.relation("AP")], g.edges[g.relation("PT")])
    wanted = (scipy_matrix(g, "AP") @ scipy_matrix(g, "PT")).toarray()
    found = torch.zeros(wanted.shape)
    found[edges[0], edges[1]] = values
    np.testing.assert_array_equal(found.numpy(), wanted)
    empty = torch.empty(2, 0, dtype=torch.long)
    assert join(empty, g.edges[g.relation("PT")])[0].shape == (2, 0)
    assert join(g.edges[g.relation("AP")], empty)[0].shape == (2, 0)


def test_relations_by_name_with_shortcuts_and_reverses():
    g = graph().with_relations("AC=AP.PC AP")
    assert [tuple(r) for r in g.relations] == [("AC", "A", "C"), ("CA", "C", "A"), ("AP", "A", "P"), ("PA", "P", "A")]
    assert g.types == ("A", "P", "C")
    assert torch.equal(g.edges[g.relation("CA")], edge_list(*g.edges[g.relation("AC")].flip(0)))
    assert torch.equal(g.matrix(g.relation("CA")).to_dense(), g.matrix(g.relation("AC")).to_dense().T)


def test_hidden_nodes_have_no_edges_and_others_keep_theirs():
    g = graph()
    hidden = torch.tensor([0, 5, 7])
    seen = g.hide("A", hidden)
    for relation, edges in seen.edges.items():
        before = {tuple(e) for e in g.edges[relation].T.tolist()}
        place = {"A": 0, "P": 1}.get(relation.head) if relation.name in ("AP", "PA") else None
        wanted = before if place is None else {e for e in before if e[place] not in (0, 5, 7)}
        assert {tuple(e) for e in edges.T.tolist()} == wanted


def test_graphs_that_cannot_be():
    ab = Relation("AB", "A", "B")
    with pytest.raises(ValueError, match="not there"):
        HeteroGraph({"A": 2, "B": 2}, {ab: torch.tensor([[0], [2]])})
    with pytest.raises(ValueError, match="no nodes"):
        HeteroGraph({"A": 2}, {ab: torch.tensor([[0], [1]])})
    with pytest.raises(ValueError, match="rows"):
        HeteroGraph({"A": 2}, {}, {"A": torch.zeros(3, 1)})
    edge = torch.zeros(2, 1).long()
    with pytest.raises(ValueError, match="one name"):
        HeteroGraph({"A": 1, "B": 1}, {ab: edge, Relation("AB", "B", "A"): edge})
    some = {"name": "x", "graph": HeteroGraph({"A": 3}, {}), "target": "A", "classes": 2, "source": "generated"}
    rest = {"description": "", "validation": torch.tensor([1]), "test": torch.tensor([2])}
    with pytest.raises(ValueError, match="two splits"):
        NodeData(**some, **rest, labels=torch.zeros(3).long(), train=torch.tensor([2]))
    with pytest.raises(ValueError, match="no label"):
        NodeData(**some, **rest, labels=torch.tensor([0, 0, -1]), train=torch.tensor([0]))


# --- the generated network ------------------------------------------------------------------------------------


def test_a_network_is_what_its_seed_says():
    assert bibliographic(1).fingerprint == bibliographic(1).fingerprint != bibliographic(2).fingerprint
    data = load_nodes("bibliographic", seed=1)
    assert data.fingerprint == bibliographic(1).fingerprint
    assert {k: data.graph.counts[k] for k in "APCT"} == {"A": 600, "P": 1500, "C": 20, "T": 120}
    assert (len(data.train), len(data.validation), len(data.test)) == (120, 60, 420)
    assert data.describe()["held_out_rows"] == 420
    with pytest.raises(UnknownData):
        load_nodes("no-such-graph")


def test_the_label_is_read_along_author_paper_venue():
    """The area of most venues gives nearly all labels, that of most terms some; where venues are drawn at random they
    give none."""

    def right(data, names, of_tail):
        g = data.graph
        matrix = torch.from_numpy(scipy_matrix(g, names[0]).toarray())
        for name in names[1:]:
            matrix = matrix @ torch.from_numpy(scipy_matrix(g, name).toarray())
        votes = torch.stack([matrix[:, of_tail == area].sum(1) for area in range(4)], 1)
        return float((votes.argmax(1) == data.labels).double().mean())

    data = bibliographic(5)
    venues, terms = data.truth["venue_area"], torch.arange(120) % 4
    assert right(data, ["AP", "PC"], venues) > 0.9
    assert 0.3 < right(data, ["AP", "PT"], terms) < 0.7
    assert right(bibliographic(5, term_signal=0.6), ["AP", "PT"], terms) > 0.7
    control = bibliographic(5, planted="papers")
    assert right(control, ["AP", "PC"], venues) < 0.45
    assert torch.equal(control.labels, data.labels)
    ap = data.graph.relation("AP")
    assert torch.equal(control.graph.edges[ap], data.graph.edges[ap])


def test_under_papers_their_features_tell_the_area():
    from sklearn.linear_model import LogisticRegression

    for planted, low, high in (("venues", 0.2, 0.4), ("papers", 0.6, 1.0)):
        data = bibliographic(5, planted=planted)
        x, y = data.graph.features["P"].numpy(), data.truth["paper_area"].numpy()
        model = LogisticRegression(max_iter=500).fit(x[:750], y[:750])
        assert low < model.score(x[750:], y[750:]) < high


def test_every_author_and_paper_has_its_edges():
    data = bibliographic(2)
    g = data.graph
    degree = {name: torch.bincount(g.edges[g.relation(name)][0], minlength=g.counts[name[0]]) for name in ("AP", "PA")}
    assert degree["AP"].min() >= 1
    assert 1 <= degree["PA"].min() <= degree["PA"].max() <= 3
    assert torch.equal(torch.bincount(g.edges[g.relation("PC")][0]), torch.ones(1500).long())
    for a, b in (("AP", "PA"), ("PC", "CP"), ("PT", "TP")):
        assert torch.equal(g.edges[g.relation(b)], edge_list(*g.edges[g.relation(a)].flip(0)))


@pytest.mark.parametrize("options", [{"planted": "x"}, {"papers": 10}, {"venues": 21}])
def test_networks_that_cannot_be(options):
    with pytest.raises(ValueError, match=r"planted|papers"):
        bibliographic(0, **options)


# --- real data ------------------------------------------------------------------------------------------------


def write_magnn(place, types, sizes, pairs, featured, seed=0):
    """A folder in MAGNN's layout: nodes of all types in one matrix, type by type."""
    rng = np.random.default_rng(seed)
    place.mkdir(parents=True)
    begin = dict(zip(types, np.cumsum([0, *sizes[:-1]]), strict=True))
    count = dict(zip(types, sizes, strict=True))
    full = np.zeros((sum(sizes), sum(sizes)))
    blocks = {}
    for a, b in pairs:
        blocks[a + b] = block = rng.random((count[a], count[b])) < 0.5
        rows, columns = np.ix_(range(begin[a], begin[a] + count[a]), range(begin[b], begin[b] + count[b]))
        full[rows, columns] = block
        full[columns.T, rows.T] = block.T
    sp.save_npz(place / "adjM.npz", sp.csr_matrix(full))
    np.save(place / "node_types.npy", np.repeat(np.arange(len(types)), sizes))
    np.save(place / "labels.npy", np.arange(sizes[0]) % 3)
    np.savez(place / "train_val_test_idx.npz", train_idx=[3, 0], val_idx=[1], test_idx=[2, 4, 5])
    for number, kind in enumerate(featured):
        values = rng.random((count[types[number]], 4))
        if kind == "npz":
            sp.save_npz(place / f"features_{number}.npz", sp.csr_matrix(values))
        elif kind == "npy":
            np.save(place / f"features_{number}.npy", values)
    return blocks


def test_dblp_and_imdb_in_their_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    blocks = write_magnn(tmp_path / "dblp" / "DBLP_processed", "APTC", (6, 8, 5, 3), ("AP", "PT", "PC"),
                         ("npz", "npz", "npy"))  # fmt: skip
    data = load_nodes("dblp")
    assert data.graph.counts == {"A": 6, "P": 8, "T": 5, "C": 3}
    assert [r.name for r in data.graph.relations] == ["AP", "PA", "PT", "TP", "PC", "CP"]
    for name, block in blocks.items():
        np.testing.assert_array_equal(scipy_matrix(data.graph, name).toarray() > 0, block)
    assert sorted(data.graph.features) == ["A", "P", "T"]
    assert (data.train.tolist(), data.validation.tolist(), data.test.tolist()) == ([0, 3], [1], [2, 4, 5])
    assert (data.target, data.classes, data.source) == ("A", 3, "real")
    shortcut = load_nodes("dblp", relations="AC=AP.PC AP AT=AP.PT")
    assert [r.name for r in shortcut.graph.relations] == ["AC", "CA", "AP", "PA", "AT", "TA"]
    np.testing.assert_array_equal(
        scipy_matrix(shortcut.graph, "AC").toarray() > 0, blocks["AP"].astype(int) @ blocks["PC"] > 0
    )

    write_magnn(tmp_path / "imdb-graph", "MDA", (6, 4, 5), ("MD", "MA"), ("npz", "npz", "npz"))
    data = load_nodes("imdb-graph")
    assert data.target == "M"
    assert [r.name for r in data.graph.relations] == ["MD", "DM", "MA", "AM"]


def test_acm_in_its_layout(tmp_path, monkeypatch):
    from scipy.io import savemat

    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    rng = np.random.default_rng(0)
    conference = np.array([0, 1, 5, 13, 9, 10, 3, 0, 1, 9])  # 5 and 3 are none of HAN's
    (tmp_path / "acm").mkdir()
    authors = rng.random((10, 6)) < 0.4
    authors[:, 2] = False  # nobody's
    content = {
        "PvsC": sp.csc_matrix(np.eye(14)[conference]), "PvsA": sp.csc_matrix(authors.astype(float)),
        "PvsL": sp.csc_matrix(np.eye(3)[np.arange(10) % 3]), "PvsT": sp.csc_matrix(rng.random((10, 7))),
    }  # fmt: skip
    savemat(tmp_path / "acm" / "ACM.mat", content)
    data = load_nodes("acm", seed=1)
    kept = np.flatnonzero(~np.isin(conference, (5, 3)))
    assert data.graph.counts["P"] == len(kept) == 8
    assert data.labels.tolist() == [0, 1, 1, 2, 2, 0, 1, 2]
    used = authors[kept].any(0)
    np.testing.assert_array_equal(scipy_matrix(data.graph, "PA").toarray() > 0, authors[kept][:, used])
    np.testing.assert_allclose(data.graph.features["P"].numpy(), content["PvsT"].toarray()[kept], rtol=1e-6)
    assert not torch.equal(data.test, load_nodes("acm", seed=2).test)


@pytest.mark.parametrize("name", ["dblp", "imdb-graph", "acm"])
def test_absent_files_are_named(name, tmp_path, monkeypatch):
    monkeypatch.delenv("REPRO_DATA_DIR", raising=False)
    with pytest.raises(MissingData, match=rf"(?s){name}.*REPRO_DATA_DIR"):
        load_nodes(name)
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    with pytest.raises(MissingData, match=name):
        load_nodes(name)
