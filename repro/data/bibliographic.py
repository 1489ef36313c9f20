"""Bibliographic networks with a planted meta relation: authors A, papers P, venues C and terms T of four areas.

An author's label is the area of most of their papers. Where that area shows is planted:

``venues``: every venue belongs to an area and a paper appears in one of its area's venues. Papers' own features hardly
tell, so the label is read along author - paper - venue, two steps away, and terms tell the more the higher
``term_signal`` is.

``papers``: venues are drawn at random and papers' own features tell the area, one step from the author. Everything else
(authorship, terms, labels, numbers of edges) is as under ``venues``: the control for models that reach two steps.
"""

from __future__ import annotations

import numpy as np
import torch

from repro.data.base import order_seed
from repro.data.hetero import HeteroGraph, NodeData, Relation, edge_list

#: Strength of the area in papers' features under ``papers``, in standard deviations of the noise along one direction.
SHOWN = 2.5
#: Weight of the mean term vector in the features of papers and authors; the noise has weight 1.
WEAK = 0.3
#: How far authors keep to their field: probability that a paper is of its first author's area, and that a further
#: author is of the paper's.
FAITHFUL = 0.7


def bibliographic(
    seed: int = 0, *, planted: str = "venues", term_signal: float = 0.2, authors: int = 600, papers: int = 1500,
    venues: int = 20, terms: int = 120, areas: int = 4, features: int = 16, train: float = 0.2,
    validation: float = 0.1,
) -> NodeData:  # fmt: skip
    """A network with relations AP, PA, PC, CP, PT, TP; authors are to be classified.

    Every author writes at least one paper, most of them a few and some many (log-normal); a paper has one to three
    authors, one venue, and up to three terms, each of its area's own with probability ``term_signal``, else any.
    Authors and papers have ``features`` numbers: noise plus ``WEAK`` times the mean of random vectors of their papers'
    terms. Venues and terms have none. ``truth`` holds areas of papers and venues and, per author, how many papers of
    each area there are. Networks of one seed that differ in ``planted`` or ``term_signal`` share authorship and labels.

    Args:
        train, validation: shares of the authors; all others are test authors.

    Raises ValueError for another ``planted``, fewer papers than authors, or areas that do not divide venues and terms.
    """
    if planted not in ("venues", "papers"):
        raise ValueError(f"planted is venues or papers, not {planted!r}")
    if papers < authors or venues % areas or terms % areas:
        raise ValueError("papers must be at least as many as authors, venues and terms multiples of areas")

    def draws(purpose: str) -> np.random.Generator:
        return np.random.default_rng(order_seed(f"bibliographic {purpose}", seed))

    rng = draws("authorship")
    home = rng.permutation(np.arange(authors) % areas)
    weight = rng.lognormal(0.0, 0.8, authors)
    circles = [np.flatnonzero(home == area) for area in range(areas)]
    first = np.concatenate([rng.permutation(authors), rng.choice(authors, papers - authors, p=weight / weight.sum())])
    area = np.where(rng.random(papers) < FAITHFUL, home[first], rng.integers(areas, size=papers))
    pairs = [(author, paper) for paper, author in enumerate(first)]
    for paper in range(papers):
        for _ in range(rng.integers(3)):
            pool = circles[area[paper]] if rng.random() < FAITHFUL else np.arange(authors)
            pairs.append((rng.choice(pool, p=weight[pool] / weight[pool].sum()), paper))
    by_author, by_paper = edge_list(*torch.tensor(np.array(pairs)).T)

    votes = np.zeros((authors, areas))
    np.add.at(votes, (by_author.numpy(), area[by_paper.numpy()]), 1)
    # among areas with as many papers the home area comes first
    labels = (votes + 0.5 * (np.arange(areas) == home[:, None])).argmax(1)

    rng = draws("venues")
    venue_area = np.arange(venues) % areas
    shown = area if planted == "venues" else rng.integers(areas, size=papers)
    venue = shown + areas * rng.integers(venues // areas, size=papers)

    rng = draws("terms")
    own = area[:, None] + areas * rng.integers(terms // areas, size=(papers, 3))
    term = np.where(rng.random((papers, 3)) < term_signal, own, rng.integers(terms, size=(papers, 3)))

    rng = draws("features")
    vectors = rng.standard_normal((terms, features))
    topic = vectors[term].mean(1)
    count = np.bincount(by_author.numpy(), minlength=authors)[:, None]
    mean_topic = np.zeros((authors, features))
    np.add.at(mean_topic, by_author.numpy(), topic[by_paper.numpy()])
    x_paper = rng.standard_normal((papers, features)) + WEAK * topic
    x_author = rng.standard_normal((authors, features)) + WEAK * mean_topic / count
    if planted == "papers":
        directions = np.linalg.qr(rng.standard_normal((features, areas)))[0].T
        x_paper += SHOWN * directions[area]

    each = torch.arange(papers)
    edges = {
        Relation("AP", "A", "P"): edge_list(by_author, by_paper),
        Relation("PA", "P", "A"): edge_list(by_paper, by_author),
        Relation("PC", "P", "C"): edge_list(each, torch.from_numpy(venue)),
        Relation("CP", "C", "P"): edge_list(torch.from_numpy(venue), each),
        Relation("PT", "P", "T"): edge_list(each.repeat_interleave(3), torch.from_numpy(term.ravel())),
        Relation("TP", "T", "P"): edge_list(torch.from_numpy(term.ravel()), each.repeat_interleave(3)),
    }
    graph = HeteroGraph(
        {"A": authors, "P": papers, "C": venues, "T": terms}, edges,
        {"A": torch.from_numpy(x_author).float(), "P": torch.from_numpy(x_paper).float()},
    )  # fmt: skip
    order = torch.from_numpy(draws("split").permutation(authors))
    bounds = [round(train * authors), round((train + validation) * authors)]
    known, tried, unknown = (part.sort().values for part in order.tensor_split(bounds))
    top = np.sort(votes, axis=1)
    return NodeData(
        "bibliographic", graph, "A", torch.from_numpy(labels), areas, known, tried, unknown, source="generated",
        description=f"{authors} authors and {papers} papers of {areas} areas; the area shows in the {planted}, and in "
        f"terms with probability {term_signal}.",
        details={
            "planted": planted, "term_signal": term_signal, "data_seed": seed,
            "tied_percent": 100 * float((top[:, -1] == top[:, -2]).mean()),
        },
        truth={"paper_area": torch.from_numpy(area), "venue_area": torch.from_numpy(venue_area),
               "votes": torch.from_numpy(votes)},
    )  # fmt: skip
