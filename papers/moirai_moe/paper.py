"""Moirai-MoE (arXiv 2410.10469): facts, arms, settings, claims. Data only; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from repro.claims import (
    Arm,
    Claim,
    Computed,
    Contrast,
    Match,
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

    data: str = "series-corpus"
    kind: str = "mixed"  # mixed | labelled: the frequency tells the pattern | walks: random walks only
    target: str = ""  # ett: forecast ETT as well
    train: int = 8000  # series
    test: int = 384
    unseen: int = 128
    past: int = 256  # steps before the forecast
    horizon: int = 64
    # the model
    patch: int = 8
    hidden: int = 48
    heads: int = 4
    layers: int = 3
    width: int = 96  # of the feed-forward layer that a token goes through, all its experts together
    by_label: bool = False  # projections of its own for each frequency
    gating: str = "none"  # none: dense | linear | cluster | random: centroids without clusters
    affinity: str = "-distance"  # -distance: the nearest centroids | distance: the farthest, as released
    experts: int = 8
    k: int = 2
    balance: float = 0.01  # of linear gating
    cluster_rows: int = 300  # series whose tokens are clustered
    head: str = "student"  # student | mixture
    # training
    lr: float = 1.6e-2
    base_lr: float = 1.6e-2  # of the dense model that centroids come from
    length: float = 1.0  # times the steps
    steps: int = 600
    batch: int = 48
    warmup: float = 0.1
    schedule: str = "cosine"
    weight_decay: float = 0.1
    clip: float = 1.0
    known: float = 0.3  # part of a series that gives mean and scale
    dtype: str = "float32"
    evaluations: int = 6
    # forecasts
    samples: int = 100
    rows: int = 64  # windows that are forecast together
    pictures: bool = False


CLUSTER: dict[str, Any] = {"gating": "cluster"}
#: Learning rate of the nearest clusters; that of all other arms is half of it.
FASTER: dict[str, dict[str, Any]] = {"laptop": {"lr": 3.2e-2}}
ARMS = (
    Arm("multi", "dense, projections for each frequency", "baseline", {"by_label": True}),
    Arm("multi-long", "dense, projections for each frequency, twice the steps", "baseline",
        {"by_label": True, "length": 2.0}),
    Arm("single", "dense, one projection", "baseline"),
    Arm("linear", "MoE, linear gating with balance loss", "baseline", {"gating": "linear"}),
    Arm("cluster", "Moirai-MoE, nearest clusters", "method", {**CLUSTER, "pictures": True}, FASTER),
    Arm("cluster-far", "Moirai-MoE, farthest clusters, as released", "method", {**CLUSTER, "affinity": "distance"}),
    Arm("random", "MoE, nearest of centroids drawn at random", "control", {"gating": "random"}, FASTER),
)  # fmt: skip

SETTINGS = (
    Setting(
        "mixed", "Six families of series at four frequencies", "series-corpus", "generated", {"kind": "mixed"},
        note="Every family under every frequency, half of the series change once; stands in for LOTSA. Two unseen "
        "families and seven sets of statsmodels stand in for the zero-shot sets.",
    ),
    Setting(
        "labelled", "The frequency tells the family (negative control of the projection)", "series-corpus", "generated",
        {"kind": "labelled"},
        note="One family for each frequency and no change: projections by frequency are as good a guide as any.",
    ),
    Setting(
        "walks", "Random walks only (negative control of the experts)", "series-corpus", "generated", {"kind": "walks"},
        note="One kind of token, so that there is nothing to specialise on.",
    ),
    Setting(
        "ett", "ETT, hourly, forecast by models of the generated corpus", "ett", "real",
        {"kind": "mixed", "target": "ett"}, default=False,
        note="Fourteen real series, eight windows each, none of them trained on.",
    ),
)  # fmt: skip

README = "project's page, figure of results"
TABLE = "project's page, table of results"
UNREAD = "ablation of the paper, figures not at hand"
SAME = (Match("params_active", 0.03), Match("train_tokens"), Match("train_flops", 0.03))
TOTAL = (Match("params_active", 0.03), Match("total_tokens"))


def skill(metric: str) -> tuple[Precondition, ...]:
    """A relative score below 1 is better than repeating the last season: what a comparison in that score asks first."""
    return (
        Precondition("the dense model forecasts better than the last season does", {"multi": -1.0}, metric, 1.0),
    )  # fmt: skip


#: Half the published effect, and for what a pilot run says is left of it at this size.
HALF, SMALL, ZERO = 8.0, 3.0, 5.0


def gain(
    name: str, title: str, method: str, baseline: str, metric: str, rule: Any = None, *,
    settings: tuple[str, ...] = ("mixed",), matched: tuple[Match, ...] = SAME, role: Any = "primary",
    published: Any = None, conditions: tuple[Precondition, ...] = (),
) -> Contrast:  # fmt: skip
    """By how much the score of ``method`` is lower, percent of that of ``baseline``."""
    return Contrast(
        name, title, {baseline: 1.0, method: -1.0}, metric, rule or Superiority(), settings, relative_to=baseline,
        matched=matched, preconditions=conditions, role=role, published=published,
    )  # fmt: skip


def zero_shot(target: str, title: str, settings: tuple[str, ...]) -> tuple[Contrast, ...]:
    """The method against the dense model on series of other kinds, where that one is better than the last season."""
    crps, mase = f"{target}_wql", f"{target}_mase"

    def part(name: str, what: str, method: str, baseline: str, metric: str, **more: Any) -> Contrast:
        return gain(
            f"{target}-{name}", f"{title}: {what}", method, baseline, metric, Superiority(ZERO), settings=settings,
            conditions=skill(metric), **more,
        )  # fmt: skip

    return (
        part("crps", "CRPS", "cluster", "multi", crps, published=Published("0.497 vs 0.578", TABLE, 14.0)),
        part("mase", "MASE", "cluster", "multi", mase, published=Published("0.670 vs 0.798", TABLE, 16.0)),
        part("total", "CRPS, equal steps in all", "cluster", "multi-long", crps, matched=TOTAL, role="secondary"),
        part("far", "CRPS, farthest clusters", "cluster-far", "multi", crps, role="secondary"),
    )


SIZES = (
    ("small", "Small", 117_025_800.0, 10_857_480.0, "117M, 11M"),
    ("base", "Base", 935_066_592.0, 85_720_032.0, "935M, 86M"),
)
CLAIMS = (
    Claim(
        "C1",
        "On held-out series of the kinds it was trained on, Moirai-MoE has a lower error than the dense model with "
        "projections for each frequency at as many activated parameters.",
        "quality",
        Published("MAE over seasonal naive, 29 Monash sets: Small 0.65 vs 0.78 (-17 %), Base 0.63 vs 0.71; "
                  "Moirai-Large 0.70, Chronos-Small, -Base, -Large 0.67, 0.71, 0.72, TimesFM 0.77", README, 17.0),
        (
            gain("mae", f"MAE of MoE below that of the dense model, at least {SMALL:g} %", "cluster", "multi", "mae",
                 Superiority(SMALL), conditions=skill("mae")),
            gain("total", f"the same at equal steps in all, clusters' dense model included, at least {SMALL:g} %",
                 "cluster", "multi-long", "mae", Superiority(SMALL), matched=TOTAL, role="secondary",
                 conditions=skill("mae")),
            gain("half", f"the same as the first, at least half the published effect, {HALF:g} %", "cluster", "multi",
                 "mae", Superiority(HALF), role="secondary", conditions=skill("mae")),
            gain("far", f"farthest clusters, as released, at least {SMALL:g} %", "cluster-far", "multi", "mae",
                 Superiority(SMALL), role="secondary", conditions=skill("mae")),
            gain("mase", "MASE", "cluster", "multi", "mase", role="secondary", conditions=skill("mase")),
            gain("walks", "negative control, random walks only: MAE of MoE below that of one dense projection",
                 "cluster", "single", "mae", settings=("walks",), role="control"),
        ),
        headline=True,
    ),
    Claim(
        "C2",
        "On series of kinds that it was not trained on, Moirai-MoE has lower CRPS and MASE than the dense model with "
        "projections for each frequency.",
        "quality",
        Published("CRPS/MASE, 10 sets: MoE-Small 0.497/0.670, Moirai-Small 0.578/0.798; MoE-Base 0.478/0.651, "
                  "Moirai-Base 0.520/0.736, Moirai-Large 0.514/0.729, TimesFM 0.488/0.689, "
                  "Chronos-Base 0.499/0.656", TABLE),
        (
            *zero_shot("unseen", "unseen families", ("mixed",)),
            *zero_shot("bundled", "series of statsmodels", ("mixed",)),
            *zero_shot("ett", "ETT", ("ett",)),
            gain("bundled-projection", "series of statsmodels, dense: CRPS of one projection below that of projections "
                 "for each frequency", "single", "multi", "bundled_wql", role="secondary",
                 conditions=skill("bundled_wql")),
            gain("bundled-experts", "series of statsmodels, one projection: CRPS of MoE below that of a dense model",
                 "cluster", "single", "bundled_wql", role="secondary", conditions=skill("bundled_wql")),
        ),
        untested="TimesFM and Chronos are not run.",
    ),
    Claim(
        "C3",
        "Moirai-MoE-Small activates 28 times fewer parameters than Moirai-Large has.",
        "cost",
        Published("11M activated against 311M", "project's page and hub page"),
        (
            Computed("ratio", "parameters of Moirai-Large over activated ones of MoE-Small", "ratio_large_small", 28.0,
                     0.03, published=Published("28 times", "abstract", verified=False)),
            *(
                part
                for size, title, total, active, text in SIZES
                for part in (
                    Computed(f"total-{size}", f"parameters of MoE-{title}", f"params_total_{size}", total, 0.0,
                             role="secondary", published=Published(text, "project's page")),
                    Computed(f"active-{size}", f"activated parameters of MoE-{title}", f"params_active_{size}", active,
                             0.0, role="secondary", published=Published(text, "project's page")),
                )
            ),
            Computed("large", "parameters of Moirai-Large", "params_moirai_large", 311e6, 0.002, role="secondary",
                     published=Published("311M", "hub page")),
        ),
        untested="Only parameters are counted: that Small is also the more accurate needs both models, pre-trained.",
    ),
    Claim(
        "C4",
        "One projection with experts is better than projections for each frequency: the frequency is no reliable guide "
        "to the pattern.",
        "quality",
        Published("one projection with experts ahead, no figure", UNREAD, verified=False),
        (
            gain("experts", f"CRPS of MoE below that of projections for each frequency, at least {SMALL:g} %",
                 "cluster", "multi", "wql", Superiority(SMALL), conditions=skill("mae")),
            gain("projection", "dense: CRPS of one projection below that of projections for each frequency", "single",
                 "multi", "wql", role="secondary"),
            gain("moe", "one projection: CRPS of MoE below that of a dense model", "cluster", "single", "wql",
                 role="secondary"),
            gain("labelled-experts", "negative control, the frequency tells the family: CRPS of MoE below that of "
                 "projections for each frequency", "cluster", "multi", "wql", settings=("labelled",), role="control"),
            gain("labelled", "negative control of the projection, the frequency tells the family: CRPS of one dense "
                 "projection below that of projections for each frequency", "single", "multi", "wql",
                 settings=("labelled",), role="control"),
        ),
    ),
    Claim(
        "C5",
        "Gating by clusters of a dense model's tokens is better than linear gating from a random start.",
        "quality",
        Published("token clusters ahead, no figure", UNREAD, verified=False),
        (
            gain("linear", "CRPS of cluster gating below that of linear gating", "cluster", "linear", "wql"),
            gain("far", "CRPS of gating by the farthest clusters below that of linear gating", "cluster-far", "linear",
                 "wql", role="secondary"),
            gain("near-far", "CRPS of the nearest clusters below that of the farthest", "cluster", "cluster-far", "wql",
                 role="secondary"),
            gain("clusters", "CRPS of clusters below that of centroids drawn at random", "cluster", "random", "wql",
                 role="secondary"),
            gain("random", "negative control, centroids drawn at random: CRPS below that of linear gating", "random",
                 "linear", "wql", role="control"),
        ),
    ),
    Claim(
        "C6",
        "Frequencies use experts differently in shallow layers and alike in deep ones, where few experts are left.",
        "behaviour",
        Published("qualitative", "analysis of the paper", verified=False),
        (
            Contrast("distance", "distance between frequencies' use of experts, first layer minus last",
                     {"cluster": 1.0}, "label_convergence", Superiority(), ("mixed",)),
            Contrast("far", "the same, farthest clusters", {"cluster-far": 1.0}, "label_convergence", Superiority(),
                     ("mixed",), role="secondary"),
            Contrast("linear", "the same, linear gating", {"linear": 1.0}, "label_convergence", Superiority(),
                     ("mixed",), role="secondary"),
            Contrast("shuffled", "distance in the first layer beyond that of shuffled frequencies", {"cluster": 1.0},
                     "label_excess", Superiority(), ("mixed",), role="secondary"),
            Contrast("few", "entropy of usage, first layer minus last", {"cluster": 1.0}, "usage_narrowing",
                     Superiority(), ("mixed",), role="secondary"),
            Contrast("few-walks", "negative control, one kind of token, random walks: entropy of usage, first layer "
                     "minus last", {"cluster": 1.0}, "usage_narrowing", Superiority(), ("walks",), role="control"),
        ),
        untested="With three layers instead of six or twelve this is indicative.",
    ),
)  # fmt: skip

SCORES = {
    "mae": "mean absolute error of the median",
    "mase": "mean absolute scaled error of the median",
    "wql": "mean weighted quantile loss (CRPS)",
}
SETS = {
    "": "held-out series of the training families",
    "unseen_": "unseen families",
    "bundled_": "series of statsmodels",
    "ett_": "ETT",
}
METRICS = {
    "loss": "negative log-likelihood of the test windows' horizon, nats a step, scaled by the past",
    **{
        f"{prefix}{score}": f"{what}, over that of the seasonal naive forecast, geometric mean over cells: {where}"
        for prefix, where in SETS.items()
        for score, what in SCORES.items()
    },
    **{
        f"{prefix}coverage": f"values between the 10 and the 90 % quantile, percent: {where}"
        for prefix, where in SETS.items()
    },
    "usage_entropy_first": "entropy of the use of experts in the first layer, 1 if all are used alike",
    "usage_entropy_last": "the same in the last layer",
    "usage_narrowing": "the first of these minus the last",
    "label_distance_first": "mean total variation between frequencies' use of experts, first layer",
    "label_distance_last": "the same, last layer",
    "label_convergence": "the first of these minus the last",
    "label_excess": "distance in the first layer minus that of shuffled frequencies",
    "cluster_agreement": "normalised mutual information of a token's foremost expert with its cluster in the dense "
    "model, mean over layers, percent",
}

WALKS, LABELLED = ("single", "cluster"), ("multi", "single", "cluster")
BIG: dict[str, Any] = {
    "train": 200_000, "past": 512, "horizon": 64, "patch": 16, "hidden": 384, "heads": 6, "layers": 6, "width": 1024,
    "experts": 32, "head": "mixture", "lr": 1e-3, "base_lr": 1e-3, "dtype": "bfloat16", "cluster_rows": 3000,
}  # fmt: skip
PAPER = Paper(
    slug="moirai_moe",
    title="Moirai-MoE: Empowering Time Series Foundation Models with Sparse Mixture of Experts",
    short="Moirai-MoE",
    area="Time series",
    arxiv="2410.10469",
    year=2024,
    venue="ICML 2025",
    code="SalesforceAIResearch/uni2ts",
    idea="One projection of patches for all frequencies, and experts in every layer of a decoder. A token goes to "
    "experts by its distance to fixed centroids, which are k-means clusters of the tokens of a dense model, so that it "
    "is the pattern and not the sampling frequency that decides which parameters work on it.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {"train": 64, "test": 48, "unseen": 8, "steps": 3, "batch": 8, "samples": 8, "hidden": 16, "heads": 2,
             "width": 32, "layers": 2, "experts": 4, "cluster_rows": 8, "evaluations": 1},
            seeds=1, time_limit=300,
        ),
        "laptop": Preset(
            settings=("mixed", "labelled", "walks"), arms={"walks": WALKS, "labelled": LABELLED}, seeds=4,
            per_setting={"labelled": {"steps": 300}, "walks": {"steps": 300}}, time_limit=900,
        ),
        "gpu": Preset(
            {**BIG, "steps": 3000, "batch": 128}, settings=("ett",), time_limit=3600, memory_limit=32 * 2**30,
            needs="one GPU with 24 GiB; ett/ETTh1.csv and ETTh2.csv under REPRO_DATA_DIR",
        ),
        "published": Preset(
            {**BIG, "train": 400_000, "steps": 50_000, "batch": 1024, "warmup": 0.2}, settings=("ett",),
            time_limit=14 * 24 * 3600.0, memory_limit=64 * 2**30,
            needs="GPUs with 80 GiB; ett/ETTh1.csv and ETTh2.csv under REPRO_DATA_DIR",
        ),
    },
    experiment="papers.moirai_moe.experiment.run",
    accounting="papers.moirai_moe.published.accounting",
    departures=(
        "A generated corpus stands in for LOTSA; unseen generated families and series of statsmodels for the zero-shot "
        "sets.",
        "The dense model is a decoder with one patch length, not a masked encoder with several.",
        "Student's t alone at laptop scale; the mixture of four at larger ones.",
    ),
    primary_metric="wql",
    metrics=METRICS,
)  # fmt: skip
