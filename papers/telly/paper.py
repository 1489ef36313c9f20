"""Telly (arXiv 2304.05216): facts, arms, settings, claims. Data only; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repro.claims import (
    Arm,
    Claim,
    Computed,
    Contrast,
    Equivalence,
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

    data: str = "stdlib-functions"
    task: str = "search"  # search | clones | completion
    model: str = "pretrained here"  # or a hub id, or a folder
    start: str = "pretrained"  # pretrained | random
    # Telly
    way: str = "none"  # which layers are frozen: none | bottom | top | random | all
    k: int = 0
    # the encoder that is pretrained here
    layers: int = 6
    hidden: int = 64
    heads: int = 4
    width: int = 128
    base_steps: int = 1000
    base_batch: int = 32
    base_lr: float = 3e-3
    files: int = 0
    # fine-tuning
    code_length: int = 48
    query_length: int = 16
    temperature: float = 0.05
    batch: int = 32
    steps: int = 200
    rows: int = 800  # functions or pairs that are learned from; 0: all
    lr: float = 0.0  # 0: that of `rates` for the task
    rates: str = "search=1e-3 clones=1e-3 completion=8e-3"
    warmup: float = 0.1
    schedule: str = "linear"
    beta2: float = 0.95
    weight_decay: float = 0.01
    autocast: str = "float32"  # float32 | bfloat16
    # measuring
    evaluations: int = 4
    validation: int = 300
    test: int = 500
    clock: bool = False
    timed: int = 20  # steps of either kind whose time is taken; 0: none
    geometry: bool = False
    rsa: int = 500  # functions whose geometry is compared; 0: none
    probes: bool = False
    probe_train: int = 400  # functions that probes are trained on; 0: no probes
    probe_test: int = 250
    probe_steps: int = 150
    probe_batch: int = 32
    probe_lr: float = 1e-2
    # from the hub
    prefix: str = "<encoder-only>"
    limit: int = 0


def learning_rate(config: Config) -> float:
    """The learning rate of a run. Raises ValueError when neither ``lr`` nor ``rates`` gives one for the task."""
    found = dict(pair.split("=") for pair in config.rates.split())
    if not config.lr and config.task not in found:
        raise ValueError(f"no learning rate for {config.task}: set lr")
    return config.lr or float(found[config.task])


#: Learning rates; those of Telly-K are the defaults. Of completion the best of one grid for all on a tuning seed, by
#: validation; those of search and clones are not tuned.
BASE_RATES = {"rates": "search=1e-3 clones=1e-3 completion=2e-3"}
FROZEN_RATES = {"rates": "clones=1e-3 completion=8e-3"}
SCRATCH_RATES = {"rates": "search=1e-3 clones=1e-3 completion=2.5e-4"}

ARMS = (
    Arm("base", "everything trained", "baseline", {**BASE_RATES, "geometry": True, "probes": True}),
    *(Arm(f"telly-{k}", f"Telly-{k}: embeddings and the bottom {k} layers frozen" if k else
          "Telly-0: embeddings frozen", "method", {"way": "bottom", "k": k, "clock": k in (3, 5)})
      for k in (0, 3, 5)),
    Arm("telly-3-slow", "Telly-3 at the base's learning rate", "ablation", {**BASE_RATES, "way": "bottom", "k": 3}),
    Arm("top-3", "embeddings and the top 3 layers frozen", "ablation", {"way": "top", "k": 3}),
    Arm("random-3", "embeddings and 3 layers drawn at random frozen", "ablation", {"way": "random", "k": 3}),
    Arm("frozen", "the pretrained encoder as it is, a head on top", "baseline",
        {**FROZEN_RATES, "way": "all", "probes": True}),
    Arm("random", "an encoder with random weights as it is", "control",
        {"way": "all", "start": "random", "probes": True}),
    Arm("scratch", "everything trained, from random weights", "control",
        {**SCRATCH_RATES, "start": "random", "geometry": True}),
    Arm("scratch-3", "Telly-3 from random weights", "control",
        {**SCRATCH_RATES, "start": "random", "way": "bottom", "k": 3}),
    *(Arm(f"hub-{k}", f"Telly-{k} of 12 layers", "method", {"way": "bottom", "k": k}) for k in (8, 9, 11)),
)  # fmt: skip

HUB: dict[str, Any] = {
    "code_length": 256, "query_length": 128, "batch": 128, "rows": 0, "lr": 2e-5, "beta2": 0.999, "warmup": 0.0,
    "steps": 19650, "evaluations": 10, "validation": 0, "test": 0, "rsa": 5000, "probe_train": 0, "timed": 0,
}  # fmt: skip
UNIXCODER, GRAPHCODEBERT = "microsoft/unixcoder-base", "microsoft/graphcodebert-base"
SETTINGS = (
    Setting(
        "search", "Code search among library functions", "stdlib-functions", "bundled", {"task": "search"},
        note="The first line of a docstring has to find its function, whose docstring is removed, among 500 of other "
        "files. Stands in for code search on CodeSearchNet.",
    ),
    Setting(
        "clones", "Clones of library functions", "stdlib-functions", "bundled",
        {"task": "clones", "probe_train": 0, "timed": 0},
        note="A function and the same with all identifiers exchanged, or a function of about the same length with its "
        "identifiers exchanged. Stands in for BigCloneBench.",
    ),
    Setting(
        "completion", "Names in library functions", "stdlib-functions", "bundled",
        {"task": "completion", "probe_train": 0, "timed": 0, "validation": 600, "test": 0},
        note="The code before an attribute or a called name has to tell the name's first word, in files not trained "
        "on: exact match. Stands in for completion on the GitHub Java Corpus.",
    ),
    Setting(
        "codesearchnet", "UniXcoder on CodeSearchNet, Python", "code-search-net", "real",
        {**HUB, "task": "search", "data": "code-search-net", "model": UNIXCODER}, default=False,
        note="The paper's encoder and data; the published run ranks all test functions.",
    ),
    Setting(
        "codesearchnet-graphcodebert", "GraphCodeBERT on CodeSearchNet, Python", "code-search-net", "real",
        {**HUB, "task": "search", "data": "code-search-net", "model": GRAPHCODEBERT, "prefix": ""}, default=False,
        note="The paper's second encoder.",
    ),
    Setting(
        "bigclonebench", "UniXcoder on BigCloneBench", "big-clone-bench", "real",
        {**HUB, "task": "clones", "data": "big-clone-bench", "model": UNIXCODER, "code_length": 512, "batch": 16,
         "lr": 5e-5, "steps": 563580}, default=False,
        note="The paper's encoder and data.",
    ),
)  # fmt: skip
REAL = ("codesearchnet", "codesearchnet-graphcodebert", "bigclonebench")
TASKS, RANKED = ("search", "clones", "completion"), ("search", "completion")
SEARCH, COMPLETION = ("search",), ("completion",)

QUALITY = "quality"
SAMPLES = (Match("train_samples"),)
EQUAL = (*SAMPLES, Match("params_trainable"))
POINTS = " points"
CODE = "released result files"
LEARNS = Precondition("fine-tuning gains at least a point on the frozen encoder", {"base": 1.0, "frozen": -1.0},
                      QUALITY, -1.0)  # fmt: skip
HELPS = Precondition("pretraining gains at least a point", {"base": 1.0, "scratch": -1.0}, QUALITY, -1.0)
#: Exact match of always naming the most common name of completion's test places (Python 3.11's library), percent.
MOST_COMMON = 4.02
LEARNED = Precondition("from random weights more is learned than the most common name", {"scratch": 1.0}, QUALITY,
                       -MOST_COMMON)  # fmt: skip


def versus(
    name: str, title: str, terms: Mapping[str, float], rule: Any, settings: tuple[str, ...] = TASKS,
    role: Any = "primary", matched: tuple[Match, ...] = SAMPLES, conditions: tuple[Precondition, ...] = (LEARNS, HELPS),
    published: Published | None = None,
) -> Contrast:  # fmt: skip
    """A contrast of quality in percent."""
    return Contrast(
        name, title, terms, QUALITY, rule, settings, matched=matched, preconditions=conditions, role=role, unit=POINTS,
        published=published,
    )  # fmt: skip


def less(treated: str, other: str = "base") -> dict[str, float]:
    """Quality of the treated arm minus that of the other."""
    return {treated: 1.0, other: -1.0}


#: Epoch times, base, K = 5, K = 11, in seconds.
EPOCHS = {"clone": (1221, 805, 480), "search": (1034, 702, 381), "completion": (252, 187, 126)}
NAMES = {"clone": "clone detection", "search": "code search", "completion": "completion"}
#: How far a saving may be from what is expected, in points.
MARGIN = 8.0

CLAIMS = (
    Claim(
        "C1",
        "Freezing the bottom layers, up to about half of them, does not lower quality; freezing nearly all does.",
        "quality",
        Published(
            "code search Python MRR: base 0.720, K = 0, 5, 8, 9, 11: 0.727, 0.726, 0.723, 0.719, 0.690; CONCODE BLEU "
            "33.82, K = 5, 9, 11: 34.36, 31.33, 27.71; clone F1 0.95, K = 5, 9, 11: 0.95, 0.93, 0.94; completion exact "
            "match 20.4, K = 5, 11: 20.4, 19.67; one run each",
            CODE,
        ),
        (
            versus("telly-3", "Telly-3 of 6 minus base: interval above -1", less("telly-3"), NonInferiority(1.0),
                   published=Published("MRR x 100 at K = 5 of 12: +0.6", CODE, 0.6)),
            versus("telly-5", "Telly-3 minus Telly-5 of 6", less("telly-3", "telly-5"), Superiority(), RANKED,
                   published=Published("MRR x 100 at K = 5 minus K = 11 of 12: 3.6", CODE, 3.6)),
            versus("one-rate", "at the base's learning rate: Telly-3 minus base, interval above -1",
                   less("telly-3-slow"), NonInferiority(1.0), COMPLETION, "secondary"),
            versus("telly-0", "embeddings frozen minus base: interval above -1", less("telly-0"), NonInferiority(1.0),
                   COMPLETION, "secondary", published=Published("MRR x 100 in code search: +0.7", CODE, 0.7)),
            versus("ablation-top", "Telly-3 minus the top 3 frozen, equal parameters trained",
                   less("telly-3", "top-3"), Superiority(), COMPLETION, "secondary", EQUAL),
            versus("ablation-random", "Telly-3 minus 3 layers at random frozen, equal parameters trained",
                   less("telly-3", "random-3"), Superiority(), COMPLETION, "secondary", EQUAL),
            versus("top", "negative control: the top 3 layers frozen minus base, interval above -1", less("top-3"),
                   NonInferiority(1.0), COMPLETION, "control"),
            versus("scratch", "negative control: bottom layers that learned nothing; Telly-3 minus everything trained, "
                   "from random weights, interval above -1", less("scratch-3", "scratch"), NonInferiority(1.0),
                   COMPLETION, "control", conditions=(LEARNED,)),
            versus("hub-5", "UniXcoder: Telly-5 of 12 minus base: interval above -1", less("telly-5"),
                   NonInferiority(1.0), REAL, "secondary", conditions=()),
            versus("hub-11", "UniXcoder: Telly-5 minus Telly-11 of 12", less("telly-5", "hub-11"), Superiority(), REAL,
                   "secondary", conditions=()),
        ),
        untested="Summarisation and generation need a decoder that writes code, which no model of laptop size does; "
        "completion here is of one name, where the paper's is of a line. The published differences of less than "
        "a point are of single runs.",
        headline=True,
    ),
    Claim(
        "C2",
        "Trained parameters fall to 67.5 % (K = 0), 39.4 % (K = 5) and 5.6 % (K = 11) of the encoder.",
        "cost",
        Published("125.93M to 85.05M, 49.62M, 7.09M", CODE),
        (
            Computed("base", "the whole encoder", "params_m_base", 125.93, 1e-4, "M",
                     published=Published("125.93M", CODE)),
            *(
                Computed(f"telly-{k}", f"Telly-{k}", f"params_m_telly_{k}", figure, 1e-3, "M",
                         published=Published(f"{figure}M", CODE))
                for k, figure in ((0, 85.05), (1, 77.97), (5, 49.62), (9, 21.26), (11, 7.09))
            ),
            *(
                Computed(f"share-{k}", f"Telly-{k}, in percent of the encoder", f"share_telly_{k}", figure, 0.01, "%",
                         published=Published(f"{figure} %", CODE))
                for k, figure in ((0, 67.5), (5, 39.4), (11, 5.6))
            ),
            *(
                Computed(f"clone-{name}", f"clone detection with its head, {title}", f"clone_params_m_{name}", figure,
                         1e-3, "M", published=Published(f"{figure}M", CODE))
                for name, title, figure in (("base", "base", 127.11), ("telly_11", "Telly-11", 8.27))
            ),
        ),
    ),
    Claim(
        "C3",
        "Time per epoch falls by about 30 % at K = 5 and by 50 to 63 % at K = 11 of 12 layers.",
        "cost",
        Published("clone detection 20m21s to 13m25s (-34.1 %), 8m00s (-60.7 %); code search 17m14s to 11m42s, 6m21s "
                  "(-63.1 %); completion 4m12s to 3m07s, 2m06s (-50.0 %)", "released timing files"),
        (
            *(
                Contrast(f"time-{k}", f"time of a step saved by Telly-{k} of 6 here, less what is expected "
                         f"({200 * k / 18:.1f} %): within {MARGIN:g}", {f"telly-{k}": 1.0}, "step_time_gap",
                         Equivalence(MARGIN), SEARCH, unit=POINTS)
                for k in (3, 5)
            ),
            Contrast("flops", "FLOPs of a step here: base minus Telly-3, in percent of base (33.3 expected)",
                     {"base": 1.0, "telly-3": -1.0}, "step_mflops", Superiority(25.0), TASKS, "base", role="secondary"),
            Contrast("states", "bytes of gradients and moments here: base minus Telly-3, in percent of base",
                     {"base": 1.0, "telly-3": -1.0}, "states_mb", Superiority(), TASKS, "base", role="secondary"),
            Contrast("activations", "bytes kept for the backward pass here: base minus Telly-3, in percent of base",
                     {"base": 1.0, "telly-3": -1.0}, "activations_mb", Superiority(), TASKS, "base", role="secondary"),
            *(
                Computed(f"{task}-{k}", f"FLOPs of a step saved by Telly-{k} at the published size, in points within "
                         f"{MARGIN:g} of the time saved in {NAMES[task]}", f"flops_saved_{task}_{k}",
                         100 * (1 - seconds / base), MARGIN / (100 * (1 - seconds / base)), "%", role="secondary",
                         published=Published(f"{base} s to {seconds} s an epoch", "released timing files"))
                for task, (base, *epochs) in EPOCHS.items()
                for k, seconds in zip((5, 11), epochs, strict=True)
            ),
        ),
        untested="Seconds of an epoch belong to one GPU of unknown type; shares can be compared. Completion's decoder "
        "passes are counted as an encoder of its length.",
    ),
    Claim(
        "C4",
        "Fine-tuning changes the geometry of the top layers only.",
        "behaviour",
        Published(
            "RSA at layers 8, 10, 12 of 12: search .960, .799, .371; clone .892, .647, .265; summarisation .942, .905, "
            ".214; generation .924, .897, .307; completion .978, .979, .922",
            CODE,
        ),
        (
            Contrast("top", "fall of the RSA score over the top third of the layers minus twice that below",
                     {"base": 1.0}, "rsa_excess", Superiority(), TASKS, unit=" RSA",
                     published=Published("search: .589 over the top third, about .04 below", CODE, 0.5)),
            Contrast("falling", "the score rises nowhere by more than 0.03", {"base": -1.0}, "rsa_rise",
                     NonInferiority(0.03), TASKS, unit=" RSA"),
            Contrast("spearman", "the first with rank correlation", {"base": 1.0}, "rsa_excess_spearman",
                     Superiority(), TASKS, role="secondary", unit=" RSA"),
            Contrast("unpadded", "the first with padding left out of the means", {"base": 1.0}, "rsa_excess_unpadded",
                     Superiority(), TASKS, role="secondary", unit=" RSA"),
            Contrast("scratch", "negative control: the first from random weights", {"scratch": 1.0}, "rsa_excess",
                     Superiority(), TASKS, role="control", unit=" RSA"),
        ),
    ),
    Claim(
        "C5",
        "Lexical information sits low, syntax in the middle, structure high, and semantics everywhere.",
        "behaviour",
        Published("peaks of the mean layer weights: lexical layer 1 (.28), syntax layers 4 to 6 (.14 each), structural "
                  "layer 12 (.32); semantic flat (.05 to .10)", CODE),
        (
            *(
                Contrast(f"{high}-{low}", f"centroid of the {high} probe's weights above that of the {low} one, more "
                         "than in a random encoder", {"frozen": 1.0, "random": -1.0}, f"{high}_above_{low}",
                         Superiority(), SEARCH, unit=" layers")
                for high, low in (("syntactic", "lexical"), ("structural", "syntactic"))
            ),
            Contrast("semantic", "largest weight of the semantic probe at most twice the mean one",
                     {"frozen": -1.0}, "peak_semantic", Superiority(), SEARCH, offset=2.0, unit="x",
                     published=Published("weights .05 to .10: at most 1.3 times the mean", CODE, 0.7)),
            *(
                Contrast(f"alone-{high}", f"the {high} over the {low} centroid, of the pretrained encoder alone",
                         {"frozen": 1.0}, f"{high}_above_{low}", Superiority(), SEARCH, role="secondary",
                         unit=" layers")
                for high, low in (("syntactic", "lexical"), ("structural", "syntactic"))
            ),
            *(
                Contrast(f"random-{high}", f"negative control: the {high} over the {low} centroid, in a random encoder",
                         {"random": 1.0}, f"{high}_above_{low}", Superiority(), SEARCH, role="control",
                         unit=" layers")
                for high, low in (("syntactic", "lexical"), ("structural", "syntactic"))
            ),
        ),
    ),
    Claim(
        "C6",
        "Fine-tuning keeps the properties that probes find in the pretrained encoder.",
        "behaviour",
        Published("pretrained to fine-tuned: lexical 99.98 to 99.95, syntax 95.6 to 95.1, semantic MAP 70.9 to 71.5, "
                  "structural 29.7 to 62.2", CODE),
        (
            *(
                Contrast(name, f"{name} probe: fine-tuned minus pretrained, interval above -{margin:g}",
                         less("base", "frozen"), f"probe_{name}", NonInferiority(margin), SEARCH, unit=POINTS,
                         published=Published(text, CODE, effect))
                for name, margin, text, effect in (
                    ("lexical", 2.0, "99.98 to 99.95", -0.03), ("syntactic", 3.0, "95.6 to 95.1", -0.5),
                    ("semantic", 3.0, "70.9 to 71.5", 0.6), ("structural", 3.0, "29.7 to 62.2", 32.5),
                )
            ),
            *(
                Contrast(f"random-{name}", f"negative control: {name} probe, random minus pretrained encoder, interval "
                         f"above -{margin:g}", less("random", "frozen"), f"probe_{name}", NonInferiority(margin),
                         SEARCH, role="control", unit=POINTS, published=published)
                for name, margin, published in (
                    ("lexical", 2.0, None), ("syntactic", 3.0, None), ("semantic", 3.0, None),
                    ("structural", 3.0, Published("29.7 pretrained, 34.8 random", CODE, 5.1)),
                )
            ),
        ),
    ),
)  # fmt: skip

LAPTOP_ARMS = {
    "search": ("base", "telly-3", "telly-5", "frozen", "random", "scratch"),
    "clones": ("base", "telly-3", "frozen", "scratch"),
    "completion": (
        "base", "telly-0", "telly-3", "telly-3-slow", "telly-5", "top-3", "random-3", "frozen", "scratch", "scratch-3",
    ),
}  # fmt: skip
HUB_ARMS = ("base", "telly-0", "telly-5", "hub-8", "hub-9", "hub-11")
PROBES = ("lexical", "syntactic", "semantic", "structural")
METRICS = {
    "error": "100 minus the quality",
    QUALITY: "mean reciprocal rank (search), F1 (clones) or exact match (completion) on test functions, percent",
    "validation": "the same on validation functions, of the weights that are kept",
    "loss": "cross-entropy on test functions",
    "accuracy": "pairs judged rightly, percent",
    **{f"recall_{k}": f"descriptions or places whose function or name is among the first {k}, percent"
       for k in (1, 5, 10)},
    "trained_percent": "parameters of the encoder that are trained, percent",
    "states_mb": "bytes of gradients and moments, MB",
    "activations_mb": "bytes kept for the backward pass of a batch, MB",
    "step_mflops": "FLOPs of a training step, in millions",
    "step_time_saved": "time of a step that Telly-K saves, percent of the base's, medians taken in turn",
    "step_saved_expected": "the same when a backward pass costs two forward passes and ends at layer K",
    "step_time_gap": "the first less the second, points",
    **{
        f"rsa_{name}{suffix}": f"{title}{more}"
        for suffix, more in (("", ""), ("_unpadded", ", padding left out of the means"))
        for name, title in (
            ("top_drop", "fall of the RSA score over the top third of the layers"),
            ("bottom_drop", "fall of the RSA score over the layers below"),
            ("excess", "fall over the top third minus twice that below"),
            ("rise", "largest rise of the RSA score from one layer to the next"),
        )
    },
    "rsa_excess_spearman": "fall over the top third minus twice that below, rank correlation",
    **{f"probe_{name}": f"{name} probe: {'mean average precision' if name == 'semantic' else 'accuracy'}, percent"
       for name in PROBES},
    **{f"centroid_{name}": f"mean layer under the weights of the {name} probe" for name in PROBES},
    **{f"peak_{name}": f"largest layer weight of the {name} probe over the mean one" for name in PROBES},
    "syntactic_above_lexical": "centroid of the syntactic probe minus that of the lexical one, layers",
    "structural_above_syntactic": "centroid of the structural probe minus that of the syntactic one, layers",
}  # fmt: skip

PAPER = Paper(
    slug="telly",
    title="Towards Efficient Fine-tuning of Pre-trained Code Models: An Experimental Study and Beyond",
    short="Telly",
    area="Partial fine-tuning",
    arxiv="2304.05216",
    year=2023,
    venue="ISSTA 2023",
    code="DeepSoftwareAnalytics/Telly",
    idea="Fine-tuning a code encoder changes the geometry of its top layers and leaves the bottom ones, with what they "
    "know of words and syntax, as they are. So Telly-K freezes the embeddings and the bottom K layers: fewer "
    "parameters to train, a shorter backward pass, and the same quality.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {
                "files": 24, "hidden": 16, "heads": 2, "width": 32, "code_length": 32, "base_steps": 20, "steps": 6,
                "batch": 8, "evaluations": 1, "validation": 20, "test": 20, "probe_train": 24, "probe_test": 12,
                "probe_steps": 6, "probe_batch": 8,
            },
            per_setting={"clones": {"probe_train": 0}, "completion": {"probe_train": 0}},
            arms={
                **LAPTOP_ARMS, "clones": ("base", "telly-3"), "completion": ("base", "telly-3", "frozen", "scratch"),
            },
            seeds=1,
            time_limit=300,
        ),
        "laptop": Preset(
            arms=LAPTOP_ARMS,
            seeds=4,
            time_limit=900,
        ),
        "gpu": Preset(
            {"limit": 30000, "steps": 1000, "validation": 1000, "test": 5000, "rsa": 1000, "timed": 20},
            settings=("codesearchnet",),
            arms={"codesearchnet": ("base", "telly-5", "hub-11")},
            time_limit=3600,
            memory_limit=64 * 2**30,
            needs="one GPU with 40 GiB; UniXcoder and CodeSearchNet from the hub or REPRO_DATA_DIR",
        ),
        "published": Preset(
            settings=REAL,
            arms=dict.fromkeys(REAL, HUB_ARMS),
            time_limit=48 * 3600,
            memory_limit=128 * 2**30,
            needs="one GPU with 40 GiB, 1 to 4 hours an arm of code search, longer for clones; UniXcoder, "
            "GraphCodeBERT, CodeSearchNet and BigCloneBench from the hub or REPRO_DATA_DIR",
        ),
    },
    experiment="papers.telly.experiment.run",
    accounting="papers.telly.published.accounting",
    departures=(
        "An encoder of six layers, pretrained here on the standard library, one a seed, stands in for UniXcoder; "
        "search by docstring, clones with exchanged identifiers and completion of one name for the paper's tasks. It "
        "has no dropout.",
        "The clone head reads |u - v| beside both vectors.",
        "The module that makes the probes' mixture was not released; it is rebuilt as a softmax over layers of one "
        "linear score.",
        "Freezing the top layers, layers at random, and the same from random weights are added.",
    ),
    primary_metric="error",
    metrics=METRICS,
)  # fmt: skip
