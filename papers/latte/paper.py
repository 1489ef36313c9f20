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
    proximity: float = 0.0  # weight of the proximity loss; 1 in the released code
    negatives: int = 2  # random pairs for each edge
    metapaths: str = "AP.PC.CP.PA"  # of HAN
    dropout: float = 0.2
    attention_dropout: float = 0.2
    classifier_dropout: float = 0.4
    # training
    lr: float = 4e-3
    steps: int = 250
    weight_decay: float = 1e-2
    clip: float = 0.0
    evaluations: int = 50
    # read-outs
    planted_relation: str = "AP.PC"
    term_relation: str = "AP.PT"


#: Weight of the proximity loss that did best on tuning seeds, of 0.1 and 0.01.
LOW = 0.01
TWO: dict[str, Any] = {"width": 32}
#: On real data: layers of half the published width, and of the published one.
HALF = {"gpu": {"width": 64}, "published": {"width": 64}}
ARMS = (
    Arm("latte-2", "LATTE-2, half the width a layer", "method", TWO, HALF),
    Arm("latte-1", "LATTE-1", "baseline", {"layers": 1}),
    Arm("latte-2-wide", "LATTE-2, LATTE-1's width in each layer", "method"),
    Arm("rgcn", "R-GCN, two layers", "baseline", {"model": "rgcn"}),
    Arm("hgt", "HGT, two layers", "baseline", {"model": "hgt"}),
    Arm("han-right", "HAN on the planted meta path", "baseline", {"model": "han"}),
    Arm("han-wrong", "HAN on the meta path of terms", "baseline", {"model": "han", "metapaths": "AP.PT.TP.PA"}),
    Arm("features", "features of the nodes, no graph", "baseline", {"model": "features"}),
    Arm("latte-2-uniform", "LATTE-2, all relations weighted alike", "ablation", {**TWO, "uniform": True}),
    Arm("latte-2-unfiltered", "LATTE-2, all edges joined", "ablation", {**TWO, "threshold": 0.0}),
    Arm(
        "latte-2-proximity",
        "LATTE-2 with the proximity loss, weight 1 as published",
        "method",
        {**TWO, "proximity": 1.0},
        HALF,
    ),
    Arm(
        "latte-2-proximity-low",
        "LATTE-2 with the proximity loss, weight tuned",
        "method",
        {**TWO, "proximity": LOW},
        HALF,
    ),
    Arm("latte-2-random", "LATTE-2 where venues are drawn at random", "control", {**TWO, "planted": "papers"}),
    Arm("latte-2-terms", "LATTE-2 where terms tell the area", "ablation", {**TWO, "term_signal": 0.6}),
)

SETTINGS = (
    Setting(
        "venues", "Generated network, area shown by venues", "bibliographic", "generated", {},
        note="600 authors, 1,500 papers, 20 venues, 120 terms; an author's label is the area of most of their papers, "
        "read along author - paper - venue, two steps away; no edge joins authors and venues. Stands in for DBLP.",
    ),
    Setting(
        "inductive", "The same, test authors unseen in training", "bibliographic", "generated", {"inductive": True},
        note="Test authors have no edges while the model is trained; they join for the test.",
    ),
    Setting(
        "papers", "Generated network, area shown by papers (negative control)", "bibliographic", "generated",
        {"planted": "papers"},
        note="Same authors, papers and labels, but venues are drawn at random and papers' own features tell the area: "
        "one step is enough, and the second has nothing to add.",
    ),
    *(
        Setting(
            name, title, data, "real",
            {"data": data, "relations": relations, "inductive": inductive, "metapaths": paths,
             "planted_relation": planted, "term_relation": "", "width": 128},
            default=False, note="Files of the authors of MAGNN or HAN; the split of the files, or 20/10/70.",
        )
        for name, title, data, relations, inductive, paths, planted in (
            ("dblp", "DBLP", "dblp", "AC=AP.PC AP AT=AP.PT", False, "AC.CA", "AC"),
            ("dblp-inductive", "DBLP, test authors unseen", "dblp", "AC=AP.PC AP AT=AP.PT", True, "AC.CA", "AC"),
            ("imdb", "IMDB", "imdb-graph", "MD MA", False, "MD.DM", "MD"),
            ("acm", "ACM", "acm", "PA PS", False, "PS.SP", "PS"),
        )
    ),
)  # fmt: skip
#: Where the claims are tried; what needs arms or relations of the generated network is tried on that alone.
MAIN, UNSEEN, OWN = ("venues", "dblp", "imdb", "acm"), ("inductive", "dblp-inductive"), ("venues",)

SAME = (Match("train_samples"), Match("steps"))
WIDTH = (*SAME, Match("embedding_width"))
POINTS = " points"
REACHED = Precondition(
    "the second step carries the label: R-GCN beats features alone by more than 10 points",
    {"rgcn": 1.0, "features": -1.0}, "micro_f1", -10.0,
)  # fmt: skip
FIRST = Precondition(
    "the first step carries the label: LATTE-1 beats features alone by more than 10 points",
    {"latte-1": 1.0, "features": -1.0}, "micro_f1", -10.0,
)  # fmt: skip


def gain(
    name: str, title: str, method: str, baseline: str, settings: tuple[str, ...] = MAIN, *, rule: Any = None,
    metric: str = "micro_f1", role: Any = "primary", matched: tuple[Match, ...] = WIDTH,
    conditions: tuple[Precondition, ...] = (REACHED,), published: Any = None,
) -> Contrast:  # fmt: skip
    """Points of ``method`` minus those of ``baseline``."""
    return Contrast(
        name, title, {method: 1.0, baseline: -1.0}, metric, rule or Superiority(), settings, matched=matched,
        preconditions=conditions, role=role, unit=POINTS, published=published,
    )  # fmt: skip


ABSTRACT = "abstract"
CODE = "released code"
UNREAD = "no figure read: the paper's tables were not at hand"
AT_LEAST = NonInferiority(1.0)


def competition(settings: tuple[str, ...]) -> tuple[Contrast, ...]:
    """LATTE-2 against the competitors of one setting."""
    return (
        gain("rgcn", "LATTE-2 minus R-GCN, 1 point allowed", "latte-2", "rgcn", settings, rule=AT_LEAST),
        gain("han-wrong", "LATTE-2 minus HAN on the wrong meta path", "latte-2", "han-wrong", settings[:1]),
        gain("han-right", "LATTE-2 minus HAN on the right meta path, 1 point allowed", "latte-2", "han-right", settings,
             rule=AT_LEAST, role="secondary"),
        gain("hgt", "LATTE-2 minus HGT, 1 point allowed", "latte-2", "hgt", settings, rule=AT_LEAST,
             role="secondary"),
        gain("macro", "LATTE-2 minus R-GCN, macro-F1, 1 point allowed", "latte-2", "rgcn", settings, rule=AT_LEAST,
             metric="macro_f1", role="secondary"),
        gain("unfiltered", "LATTE-2 without its edge filter minus R-GCN, 1 point allowed", "latte-2-unfiltered", "rgcn",
             settings[:1], rule=AT_LEAST, role="secondary"),
    )  # fmt: skip


CLAIMS = (
    Claim(
        "C1",
        "LATTE classifies nodes at least as well as HAN, GTN, HGT and metapath2vec, transductively.",
        "quality",
        Published("state-of-the-art performance, no figure", ABSTRACT),
        (
            *competition(MAIN),
            gain("nothing-to-reach", "negative control, the label one step away: LATTE-2 minus R-GCN", "latte-2",
                 "rgcn", ("papers",), role="control", conditions=(FIRST,)),
        ),
        untested="GTN and metapath2vec are counted (C4) and not trained; R-GCN, which also reaches two steps by "
        "stacking direct layers, is the competitor that decides.",
    ),
    Claim(
        "C2",
        "LATTE classifies nodes that were not seen in training at least as well as its competitors.",
        "quality",
        Published("state-of-the-art performance, no figure", ABSTRACT),
        competition(UNSEEN),
        untested="GTN and metapath2vec are not trained.",
    ),
    Claim(
        "C3",
        "Meta relations of order 2 add to those of order 1: LATTE-2 is better than LATTE-1.",
        "quality",
        Published("LATTE-2 above LATTE-1", UNREAD, verified=False),
        (
            gain("width", "LATTE-2 minus LATTE-1 at equal width of the embedding, at least 5 points", "latte-2",
                 "latte-1", rule=Superiority(5.0)),
            gain("layer", "LATTE-2 minus LATTE-1 at equal width of a layer, at least 5 points", "latte-2-wide",
                 "latte-1", rule=Superiority(5.0), matched=SAME),
            gain("inductive", "LATTE-2 minus LATTE-1, test authors unseen, at least 5 points", "latte-2", "latte-1",
                 UNSEEN, rule=Superiority(5.0)),
            gain("relations", "relations weighted by attention minus all alike", "latte-2", "latte-2-uniform", OWN,
                 role="secondary"),
            gain("filter", "all edges joined minus those with attention of at least 0.5", "latte-2-unfiltered",
                 "latte-2", OWN, role="secondary"),
            gain("papers", "negative control, the label one step away: LATTE-2 minus LATTE-1", "latte-2", "latte-1",
                 ("papers",), role="control", conditions=(FIRST,)),
        ),
        headline=True,
    ),
    Claim(
        "C4",
        "LATTE is lightweight: it has fewer parameters than its competitors.",
        "cost",
        Published("a lightweight model, no figure", ABSTRACT),
        (
            *(
                Computed(name, f"LATTE-2 has fewer parameters than {title} on DBLP at d = 128 (1: yes)",
                         f"fewer_than_{name}", 1.0, 0.0)
                for name, title in (("hgt", "HGT"), ("metapath2vec", "metapath2vec"), ("han", "HAN"), ("gtn", "GTN"))
            ),
            *(
                Computed(f"layer-{number}", f"parameters of layer {number} of LATTE on DBLP at d = 128",
                         f"parameters_layer_{number}", expected, 0.0, role="secondary",
                         published=Published(f"{expected:,.0f} by the formulas", CODE))
                for number, expected in ((1, 134928.0), (2, 137244.0))
            ),
            Contrast(
                "small", "parameters of HGT minus LATTE-2's, as trained here", {"hgt": 1.0, "latte-2": -1.0},
                "parameters", Superiority(), OWN, matched=WIDTH, role="secondary", unit="",
            ),
        ),
        untested="Published counts are unknown. Of HAN and GTN what counts is the arithmetic of their usual code. GTN "
        "needs few parameters and much memory: dense products on DBLP would take 5.4 GB a layer.",
    ),
    Claim(
        "C5",
        "Attention over relations shows which meta relation is informative.",
        "behaviour",
        Published("informative insights on networks, no figure", ABSTRACT),
        (
            Contrast(
                "planted", "weight of author - paper - venue minus that of the next relation of order 2",
                {"latte-2": 1.0}, "beta_margin", Superiority(), OWN, preconditions=(REACHED,), unit=" %",
            ),
            Contrast(
                "terms", "weight of author - paper - term where terms tell the area minus where they hardly do",
                {"latte-2-terms": 1.0, "latte-2": -1.0}, "beta_terms", Superiority(), OWN, matched=WIDTH,
                unit=" %",
            ),
            Contrast(
                "beyond-random", "weight of author - paper - venue minus what it is where venues are drawn at random "
                "and the label is one step away, so that order 2 as a whole is left",
                {"latte-2": 1.0, "latte-2-random": -1.0}, "beta_planted", Superiority(), OWN, matched=WIDTH,
                preconditions=(REACHED,), role="secondary", unit=" %",
            ),
            Contrast(
                "unfiltered", "the same as the first without the edge filter", {"latte-2-unfiltered": 1.0},
                "beta_margin", Superiority(), OWN, preconditions=(REACHED,), role="secondary", unit=" %",
            ),
            Contrast(
                "random-venues", "negative control, venues drawn at random and the label one step away: weight of "
                "author - paper - venue minus that of the next", {"latte-2": 1.0}, "beta_margin", Superiority(),
                ("papers",), preconditions=(FIRST,), role="control", unit=" %",
            ),
        ),
        untested="No control takes the meaning of venues away and leaves the label two steps off: where venues are "
        "drawn at random, self has most of the weight of order 2.",
    ),
    Claim(
        "C6",
        "The proximity loss makes better embeddings, for clustering and for unseen nodes.",
        "quality",
        Published("LATTE-2 with proximity among the best", UNREAD, verified=False),
        (
            *(
                part
                for arm, name, weight in (
                    ("latte-2-proximity", "published", "weight 1"),
                    ("latte-2-proximity-low", "tuned", "tuned weight"),
                )
                for part in (
                    gain(f"clusters-{name}", f"with minus without, {weight}: agreement of clusters with labels", arm,
                         "latte-2", metric="nmi"),
                    gain(f"inductive-{name}", f"with minus without, {weight}, test authors unseen", arm, "latte-2",
                         UNSEEN),
                    gain(f"transductive-{name}", f"with minus without, {weight}", arm, "latte-2", role="secondary"),
                )
            ),
            gain("papers", "negative control, the label one step away: with minus without, tuned weight",
                 "latte-2-proximity-low", "latte-2", ("papers",), role="control", conditions=(FIRST,)),
        ),
    ),
)  # fmt: skip

REAL_ARMS = (
    "latte-2", "latte-2-wide", "latte-2-proximity", "latte-2-proximity-low", "latte-1", "rgcn", "hgt", "han-right",
    "features",
)  # fmt: skip
METRICS = {
    "error": "100 minus micro-F1 on test authors, percent",
    "micro_f1": "micro-F1 on test authors, percent",
    "macro_f1": "macro-F1 on test authors, percent",
    "loss": "cross-entropy on test authors, nats",
    "validation_loss": "cross-entropy on validation authors, nats; the lowest one chooses the weights",
    "best_step": "step with the lowest validation loss",
    "nmi": "normalised mutual information of k-means clusters of test authors with their labels, percent",
    "parameters": "parameters of the model",
    "beta_planted": "mean weight of author - paper - venue among the relations of order 2, percent",
    "beta_margin": "that minus the largest mean weight of another relation (self left out)",
    "beta_terms": "mean weight of author - paper - term, percent",
    "beta_self_1": "mean weight of self in the first layer, percent",
    "beta_self_2": "mean weight of self in the second layer, percent",
    "edges_kept": "edges of order 2 that the filter leaves, percent of all that could be joined",
}

PAPER = Paper(
    slug="latte",
    title="Layer-stacked Attention for Heterogeneous Network Embedding",
    short="LATTE",
    area="Graph networks",
    arxiv="2009.08072",
    year=2020,
    code="JonnyTran/LATTE",
    idea="Layer t attends over meta relations of order t, which are made on the fly by joining the strongly attended "
    "edges of the layer before with the direct ones. Each node weighs its relations, and all layers are concatenated: "
    "the weights tell which paths through the network matter.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset({"authors": 80, "papers": 160, "steps": 8, "evaluations": 2}, seeds=1, time_limit=300),
        "laptop": Preset(settings=("venues", "inductive", "papers"), seeds=5, time_limit=900),
        "gpu": Preset(
            {"lr": 1e-3},
            settings=("dblp",),
            arms={"dblp": REAL_ARMS},
            time_limit=3600,
            needs="one GPU with 16 GiB; DBLP in MAGNN's layout under REPRO_DATA_DIR",
        ),
        "published": Preset(
            {"lr": 1e-3},
            settings=("dblp", "dblp-inductive", "imdb", "acm"),
            arms=dict.fromkeys(("dblp", "dblp-inductive", "imdb", "acm"), REAL_ARMS),
            time_limit=24 * 3600,
            needs="one GPU with 24 GiB; DBLP and IMDB in MAGNN's layout and ACM.mat under REPRO_DATA_DIR",
        ),
    },
    experiment="papers.latte.experiment.run",
    accounting="papers.latte.published.accounting",
    departures=(
        "A generated network stands in for DBLP, ACM and IMDB; whole graph in every step, no neighbour sampling.",
        "The weights with the lowest validation loss are kept; no averaging of weights, a constant learning rate.",
        "R-GCN, a network on features alone, and LATTE without its parts are added; GTN and metapath2vec are not "
        "trained.",
    ),
    primary_metric="error",
    metrics=METRICS,
)  # fmt: skip
