"""Layer-wise quantisation (arXiv 2406.17415): facts, arms, settings, claims. Data only; imports no torch.

How many blocks are moved from b_hi to b_lo bits is given in percent of their number L: 50 is k = 5 of 10 here and 20 of
40 in Llama-2-13B.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from repro.claims import (
    Arm,
    Claim,
    Computed,
    Contrast,
    Match,
    Ordering,
    Paper,
    Precondition,
    Preset,
    Published,
    Setting,
    Superiority,
)
from repro.zoo.options import SMALLEST, ModelOptions


@dataclass(frozen=True)
class Config(ModelOptions):
    """Configuration of a run. ``data``: judged on its held-out text."""

    # the method
    order: str = "lim"  # lim | zd | random | random-first (the first block moves last) | sequential | measured
    backwards: bool = False  # the order from its other end
    treat: str = "quantise"  # quantise | prune (drop blocks instead) | uniform | dynamic (bits per linear layer)
    ordered: bool = True  # dynamic: whether blocks have budgets by the order
    high: int = 4
    low: int = 2
    draws: int = 8  # random orders
    quantiser: str = "rtn"  # rtn | gptq
    group: int = 0  # inputs that share a scale; 0: all of an output channel
    calibration_rows: int = 64
    start: int = 10  # percent of L that are moved
    up_to: int = 60
    analyse: bool = False  # sensitivity of each block, what the scores know of it, bytes
    versus: bool = False  # the advantage over random orders, in the same run
    # measuring
    batch: int = 8
    eval_batches: int = 8
    benchmarks: str = ""  # lm-eval tasks as name:shots
    benchmark_items: int = 0  # of each task; 0: all
    # the zoo's model
    recipe: str = "slow"  # slow | fast | slow-4 | slow-16
    recipes: str = "slow fast slow-16 slow-4"
    # from the hub
    limit: int = 2000  # documents


def moved_counts(depth: int, config: Config) -> dict[int, int]:
    """Percent of the blocks to k, for a model of ``depth`` blocks; halves are rounded up, the least k is 1."""
    counts = {percent: (percent * depth + 50) // 100 for percent in range(config.start, config.up_to + 1, 10)}
    return {percent: k for percent, k in counts.items() if k}


DEPTHS = (4, 10, 16)
SLOW: dict[str, Any] = {"lr": 1e-3, "init_std": 0.02}
#: How the zoo's model is trained: from small initial weights, which it has to leave, at a low rate or a high one; and
#: the first of these at other depths.
RECIPES: dict[str, dict[str, Any]] = {
    "slow": SLOW,
    "fast": {"lr": 6e-3, "init_std": 0.02},
    "slow-4": {**SLOW, "layers": 4},
    "slow-16": {**SLOW, "layers": 16},
}

ARMS = (
    Arm("lim", "lowest LIM first", "method", {"analyse": True}),
    Arm("zd", "highest ZD first", "method", {"order": "zd"}),
    Arm("random", "random orders (mean of 8; of 4 in some settings)", "baseline", {"order": "random"}),
    Arm("random-first", "random orders that move the first block last (mean of 4)", "control",
        {"order": "random-first", "draws": 4}),
    Arm("sequential", "from the first block on", "baseline", {"order": "sequential"}),
    Arm("lim-reversed", "highest LIM first", "control", {"backwards": True}),
    Arm("zd-reversed", "lowest ZD first", "control", {"order": "zd", "backwards": True}),
    Arm("measured", "least loss first, measured block by block", "ablation", {"order": "measured"}),
    Arm("uniform", "all blocks at the average of the two widths", "baseline", {"treat": "uniform", "start": 50,
                                                                              "up_to": 50}),
    Arm("prune", "blocks of lowest LIM are dropped", "baseline", {"treat": "prune"}),
    Arm("dynamic", "bits per linear layer by weight error, all blocks alike", "baseline",
        {"treat": "dynamic", "ordered": False, "start": 50, "up_to": 50}),
    Arm("dynamic-lim", "the same, half of the blocks poorer, by LIM", "method",
        {"treat": "dynamic", "start": 50, "up_to": 50}),
    Arm("dynamic-reversed", "the same, by LIM from the other end", "control",
        {"treat": "dynamic", "backwards": True, "start": 50, "up_to": 50}),
    *(
        Arm(f"depth-{depth}", f"LIM in a model of {depth} blocks", "method",
            {"recipe": "slow" if depth == 10 else f"slow-{depth}", "versus": True, "draws": 4})
        for depth in DEPTHS
    ),
)  # fmt: skip

REAL: dict[str, Any] = {
    "data": "c4", "sequence": 2048, "batch": 1, "calibration_rows": 128, "eval_batches": 64, "dtype": "float16",
    "quantiser": "gptq", "group": 128,
}  # fmt: skip
#: Hub models: setting, hub id.
HUB = (
    ("llama-2-7b", "meta-llama/Llama-2-7b-hf"),
    ("llama-2-13b", "meta-llama/Llama-2-13b-hf"),
    ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
    ("qwen2-7b", "Qwen/Qwen2-7B"),
)
SETTINGS = (
    Setting(
        "text",
        "Python library source, 4 to 2 bits",
        "stdlib-bpe",
        "bundled",
        note="Held-out text of what a Llama of ten blocks was pretrained on here, one model a seed (initial "
        "weights of 0.02, learning rate 1e-3); its loss stands in for the paper's benchmarks. Round to nearest, one "
        "grid per output channel.",
    ),
    Setting(
        "text-fast",
        "the same, fast training",
        "stdlib-bpe",
        "bundled",
        {"recipe": "fast"},
        note="The same models at six times the learning rate: weights end with heavier tails and the first block does "
        "most of what matters. Which blocks matter to a small model, and which score sees it, depends on how it was "
        "trained, so both are judged.",
    ),
    Setting(
        "text-gptq",
        "the same, GPTQ",
        "stdlib-bpe",
        "bundled",
        {"quantiser": "gptq"},
        note="The models of the first setting with GPTQ as base quantiser, calibrated on the text that LIM is.",
    ),
    Setting(
        "text-eight",
        "the same, 8 to 4 bits",
        "stdlib-bpe",
        "bundled",
        {"high": 8, "low": 4},
        note="The models of the first setting between 8 and 4 bits: the paper's case in which quantising should beat "
        "pruning.",
    ),
    *(
        Setting(
            name,
            f"{hub.rpartition('/')[2]} on C4, 4 to 2 bits",
            "c4",
            "real",
            {**REAL, "model": hub},
            default=False,
            note="A published model under GPTQ, calibrated and judged on documents of C4's validation split; the tasks "
            "of the paper through lm-eval at the published scale.",
        )
        for name, hub in HUB
    ),
)
HUBS = tuple(name for name, _ in HUB)
#: Where orders are compared.
ORDERS = ("text", "text-fast", "text-gptq", *HUBS)
#: Where every arm runs but those of depth.
FULL = ("text", *HUBS)

SAME = (Match("train_tokens"), Match("params_total"), Match("eval_tokens"), Match("calibration_tokens"))
LEARNED = Precondition("the model beats token frequencies by 0.3 nats", {"lim": 1.0}, "gap", -0.3)
DIFFER = Precondition("the most sensitive block loses over three times what the least one does", {"lim": 1.0},
                      "sensitivity_ratio", -3.0)  # fmt: skip
SIGNAL = Precondition("ZD varies over blocks at least twice as much as it would by chance", {"lim": 1.0}, "zd_signal",
                      -2.0)  # fmt: skip
LOSES = Precondition("moving all blocks costs over 0.02 nats", {"lim": 1.0}, "loss_low", -0.02)
USUAL = (LEARNED, LOSES, DIFFER)
SHARE = " % of the loss with all blocks moved"


def same_bytes(percent: int) -> tuple[Match, ...]:
    """The same model, text and bytes of packed weights."""
    return (*SAME, Match(f"weight_bytes_{percent}", 0.02))


def less_loss(
    name: str, title: str, method: str, baseline: str, percents: Iterable[int] = (30, 50), *,
    settings: tuple[str, ...] = ORDERS, role: Any = "primary", weight: float = 1.0,
    conditions: tuple[Precondition, ...] = USUAL,
) -> tuple[Contrast, ...]:  # fmt: skip
    """``weight`` times the baseline's share of the loss minus that of the method."""
    return tuple(
        Contrast(
            f"{name}-{percent}", f"{title}, {percent} % of the blocks moved", {baseline: weight, method: -1.0},
            f"share_{percent}", Superiority(), settings, matched=same_bytes(percent), preconditions=conditions,
            role=role, unit=SHARE,
        )
        for percent in percents
    )  # fmt: skip


def at_equal_bytes(name: str, title: str, terms: dict[str, float], setting: str, role: Any) -> tuple[Contrast, ...]:
    """Contrasts of the loss at 20 and 40 % of the weights' bytes saved."""
    return tuple(
        Contrast(
            f"{name}-{percent}", f"{title}, {percent} % of the bytes saved", terms, f"saved_{percent}", Superiority(),
            (setting, *(HUBS if setting == "text" else ())),
            matched=(*SAME, Match(f"saved_bytes_{percent}", 0.05)), preconditions=(LEARNED,), role=role, unit=" nats",
        )
        for percent in (20, 40)
    )  # fmt: skip


ABSTRACT = "abstract"
CLAIMS = (
    Claim(
        "C1",
        "With the proposed order a model stays close to the original until 25 to 50 % of its blocks are moved to the "
        "lower width; with no specific order only until 5 to 10 %.",
        "quality",
        Published("25-50 % against 5-10 % of the blocks", ABSTRACT, 30.0),
        (
            Contrast(
                "tolerated", "blocks (percent) that can be moved until a fifth of the loss with all moved is reached: "
                "LIM minus random orders", {"lim": 1.0, "random": -1.0}, "tolerated", Superiority(15.0), ORDERS,
                matched=SAME, preconditions=USUAL, unit=" points",
            ),
            Contrast(
                "tolerated-zd", "the same for ZD", {"zd": 1.0, "random": -1.0}, "tolerated", Superiority(15.0), ORDERS,
                matched=SAME, preconditions=(*USUAL, SIGNAL), unit=" points",
            ),
            Contrast(
                "factor", "LIM minus 2.5 times random orders (25 against 10 %, the nearest that is published)",
                {"lim": 1.0, "random": -2.5}, "tolerated", Superiority(), ORDERS, matched=SAME,
                preconditions=USUAL, role="secondary", unit=" points",
            ),
            Contrast(
                "sequential", "LIM minus from the first block on, the other reading of no specific order",
                {"lim": 1.0, "sequential": -1.0}, "tolerated", Superiority(15.0), FULL, matched=SAME,
                preconditions=USUAL, role="secondary", unit=" points",
            ),
            Contrast(
                "first", "LIM minus random orders that move the first block last: what LIM knows beyond that",
                {"lim": 1.0, "random-first": -1.0}, "tolerated", Superiority(), ORDERS, matched=SAME,
                preconditions=USUAL, role="secondary", unit=" points",
            ),
            Contrast(
                "reversed", "negative control: LIM from the other end minus random orders",
                {"lim-reversed": 1.0, "random": -1.0}, "tolerated", Superiority(), ORDERS, matched=SAME,
                preconditions=USUAL, role="control", unit=" points",
            ),
            Contrast(
                "uniform", "all blocks at 3 bits minus LIM at the same average, which the paper does not show",
                {"uniform": 1.0, "lim": -1.0}, "share_50", Superiority(), FULL, matched=same_bytes(50),
                preconditions=(LEARNED,), role="secondary", unit=SHARE,
            ),
            Contrast(
                "score", "points of the benchmark average that random orders cost minus LIM's, half of the blocks",
                {"random": 1.0, "lim": -1.0}, "score_lost_50", Superiority(), HUBS, matched=SAME, role="secondary",
                unit=" points",
            ),
        ),
        untested="How far is still close is not given with the figures, and benchmark averages mean nothing for a "
        "model of laptop size. Here close is a fifth of the loss with all blocks moved; with ten blocks one of them is "
        "10 %.",
        headline=True,
    ),
    Claim(
        "C2",
        "Orders by LIM and by ZD cost less than random and reversed orders.",
        "quality",
        Published("figures only", "figures of the paper, not read", verified=False),
        (
            *less_loss("lim", "random orders minus LIM", "lim", "random"),
            *less_loss("lim-reversed", "0.7 times reversed LIM minus LIM", "lim", "lim-reversed", weight=0.7),
            *less_loss("zd", "random orders minus ZD", "zd", "random", conditions=(*USUAL, SIGNAL)),
            *less_loss("zd-reversed", "0.7 times reversed ZD minus ZD", "zd", "zd-reversed", weight=0.7,
                       conditions=(*USUAL, SIGNAL)),
            *less_loss("first", "random orders that move the first block last minus LIM", "lim", "random-first",
                       role="secondary"),
            *less_loss("measured", "LIM minus the measured order: what is left to gain", "measured", "lim",
                       settings=FULL, role="secondary"),
            *(
                Contrast(
                    f"rank-{score}", f"rank correlation of {score.upper()} with the measured loss of each block",
                    {"lim": 1.0}, f"rank_{score}", Superiority(), ORDERS, role="secondary", unit="",
                    preconditions=(*USUAL, *((SIGNAL,) if score == "zd" else ())),
                )
                for score in ("lim", "zd")
            ),
            *less_loss("random", "negative control: random orders minus reversed LIM", "lim-reversed", "random",
                       role="control"),
        ),
    ),
    Claim(
        "C3",
        "Quantising blocks to fewer bits costs less than dropping them, unless two bits are used.",
        "quality",
        Published("qualitative", ABSTRACT),
        (
            *at_equal_bytes("quantise", "8 to 4 bits: dropping minus quantising", {"prune": 1.0, "lim": -1.0},
                            "text-eight", "primary"),
            *at_equal_bytes("two-bit", "the exception, 4 to 2 bits: quantising minus dropping",
                            {"lim": 1.0, "prune": -1.0}, "text", "primary"),
            Contrast(
                "same-blocks", "2 bits: dropping minus quantising the same blocks, 30 % of them",
                {"prune": 1.0, "lim": -1.0}, "damage_30", Superiority(), FULL, matched=SAME, preconditions=(LEARNED,),
                role="secondary", unit=" nats",
            ),
        ),
        untested="Compared at equal bytes: one dropped block against two moved ones. The paper may compare equal "
        "blocks; that is shown beside it.",
    ),
    Claim(
        "C4",
        "The order helps more in larger models with more blocks.",
        "quality",
        Published("7B against 13B, qualitative", ABSTRACT),
        (
            Ordering(
                "depth", "advantage of LIM over random orders, by depth",
                tuple(f"depth-{depth}" for depth in reversed(DEPTHS)), "advantage", ("text",), lower_is_better=False,
                matched=(Match("train_tokens"), Match("eval_tokens"), Match("calibration_tokens")),
                preconditions=tuple(
                    Precondition(f"moving all of {depth} blocks costs over 0.02 nats", {f"depth-{depth}": 1.0},
                                 "loss_low", -0.02)
                    for depth in DEPTHS
                ),
            ),
            Contrast(
                "tolerated", "blocks (percent) that can be moved until a fifth of the loss: the deepest minus the "
                "shallowest", {f"depth-{DEPTHS[-1]}": 1.0, f"depth-{DEPTHS[0]}": -1.0}, "tolerated", Superiority(),
                ("text",), matched=(Match("train_tokens"), Match("eval_tokens")), role="secondary", unit=" points",
            ),
            Contrast(
                "first", "advantage over random orders that move the first block last, the deepest minus the "
                "shallowest", {f"depth-{DEPTHS[-1]}": 1.0, f"depth-{DEPTHS[0]}": -1.0}, "advantage_first",
                Superiority(), ("text",), matched=(Match("train_tokens"), Match("eval_tokens")), role="secondary",
                unit=" points",
            ),
        ),
        untested="Depth alone is varied, not width. The published models differ in both.",
    ),
    Claim(
        "C5",
        "Quantisers that already choose bits by themselves become better when the order is added.",
        "quality",
        Published("qualitative", ABSTRACT),
        (
            Contrast(
                "dynamic", "bits by weight error in equal budgets minus budgets by LIM, 3 bits on average",
                {"dynamic": 1.0, "dynamic-lim": -1.0}, "share_50", Superiority(), FULL, matched=same_bytes(50),
                preconditions=USUAL, unit=SHARE,
            ),
            Contrast(
                "reversed", "negative control: the same with budgets by LIM from the other end",
                {"dynamic": 1.0, "dynamic-reversed": -1.0}, "share_50", Superiority(), FULL, matched=same_bytes(50),
                preconditions=USUAL, role="control", unit=SHARE,
            ),
        ),
        untested="Which dynamic quantiser the paper means was not found; a greedy choice of 2, 3 or 4 bits per linear "
        "layer by weight error stands in for it.",
    ),
    Claim(
        "C6",
        "Any average width is reached by the number of blocks that are moved: 30 blocks of Llama-2-13B at 4 bits and "
        "10 at 2 are 3.5.",
        "cost",
        Published("30 and 10 of 40 blocks: 3.5 bits", "summaries of the paper", verified=False),
        (
            Computed(
                "average", "average bits of Llama-2-13B with 10 of 40 blocks at 2 bits", "average_bits_llama-2-13b_10",
                3.5, 1e-9, " bits",
            ),
            Computed(
                "bytes", "the same in packed bytes per weight, without scales and embeddings",
                "bits_per_weight_llama-2-13b_10", 3.5, 1e-9, " bits", role="secondary",
            ),
            Computed(
                "stored", "bits per weight that are stored, a float16 scale for 128 weights with them",
                "stored_bits_llama-2-13b_10", 3.625, 1e-9, " bits", role="secondary",
                published=Published("3.5 + 16 / 128 by arithmetic", "not a figure of the paper"),
            ),
        ),
    ),
)  # fmt: skip

SOME = ("lim", "zd", "random", "random-first", "lim-reversed", "zd-reversed")
WHOLE = tuple(arm.name for arm in ARMS if not arm.name.startswith("depth-"))
METRICS = {
    "loss": "held-out cross-entropy of the model in full precision, nats",
    "gap": "loss of a model that knows token frequencies only, minus loss of the model in full precision, nats",
    "loss_high": "loss with all blocks at the higher width minus that in full precision, nats",
    "loss_low": "loss with all blocks at the lower width minus that with all at the higher, nats",
    "perplexity_high": "perplexity with all blocks at the higher width",
    "perplexity_low": "perplexity with all blocks at the lower width",
    "tolerated": "percent of blocks that can be moved until a fifth of loss_low is reached, between k by straight "
    "lines (mean over random orders)",
    "advantage": "mean over 20, 40, 60, 80 % of the share of random orders minus that of LIM, points",
    "advantage_first": "the same against random orders that move the first block last",
    "sensitivity_ratio": "loss of the most sensitive block alone at the lower width over that of the least sensitive "
    "(which counts as at least a hundredth of the most)",
    "top_share": "loss of the most sensitive block alone, percent of loss_low",
    "sensitivity_sum": "sum of the losses of all blocks alone, percent of loss_low: 100 when they add up",
    "rank_lim": "Spearman correlation of LIM with the loss of each block alone",
    "rank_zd": "Spearman correlation of minus ZD with the loss of each block alone",
    "rank_flattened": "Spearman correlation of LIM by token with LIM over all tokens as one vector",
    "rank_resampled": "Spearman correlation of LIM on two samples of calibration text",
    "zd_signal": "standard deviation of ZD over blocks, in units of that of normal weights by chance",
    "first_rank": "place of the first block by LIM, 1 for the most important",
    "last_rank": "place of the last block by LIM, 1 for the most important",
    "score": "average of the benchmarks in full precision, points",
    **{f"score_lost_{p}": f"points of the average lost with {p} % moved" for p in (30, 50)},
    **{
        f"{name}_{p}": f"{text}, {p} % of the blocks moved (or dropped)"
        for name, text in (
            ("damage", "loss minus that with all blocks at the higher width, nats (mean over random orders)"),
            ("share", "damage in percent of loss_low"),
        )
        for p in range(10, 101, 10)
    },
    **{f"saved_{p}": f"damage with {p} % of the bytes of the linear weights saved, nats" for p in (10, 20, 30, 40)},
}

PAPER = Paper(
    slug="layerwise_quant",
    title="Layer-Wise Quantization: A Pragmatic and Effective Method for Quantizing LLMs Beyond Integer Bit-Levels",
    short="Layer-Wise Quantization",
    area="LLM compression",
    arxiv="2406.17415",
    year=2024,
    code="RazvanDu/LayerwiseQuant",
    idea="Rank the blocks of a pretrained decoder by a cheap score (LIM: how much a block turns its input; ZD: how few "
    "of its weights lie far above the mean), quantise the least important ones to fewer bits than the rest, and reach "
    "any average width with any base quantiser.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {
                **SMALLEST, "calibration_rows": 4, "eval_batches": 1, "draws": 2, "recipes": "",
            },
            arms={
                "text": ("lim", "zd", "random", "measured", "uniform", "prune", "dynamic-lim", "depth-4"),
                "text-fast": ("lim-reversed",), "text-gptq": ("lim", "random-first"), "text-eight": ("prune",),
            },
            seeds=1,
            time_limit=300,
        ),
        "laptop": Preset(
            per_setting={"text-fast": {"draws": 4}, "text-gptq": {"draws": 4}},
            arms={"text-fast": SOME, "text-gptq": SOME, "text-eight": ("lim", "prune")},
            seeds=3,
            time_limit=900,
        ),
        "gpu": Preset(
            {"calibration_rows": 64, "eval_batches": 32, "draws": 3},
            settings=("mistral-7b",),
            arms={"mistral-7b": ("lim", "zd", "random", "lim-reversed", "prune")},
            time_limit=3600,
            memory_limit=96 * 2**30,
            needs="one GPU with 48 GiB; Mistral-7B from the hub; C4's validation split from there or REPRO_DATA_DIR",
        ),
        "published": Preset(
            {
                "benchmarks": "winogrande:0 arc_challenge:0 arc_easy:0 hellaswag:0 gsm8k:5 mmlu:5", "draws": 3,
            },
            settings=HUBS,
            arms=dict.fromkeys(HUBS, WHOLE),
            time_limit=48 * 3600,
            memory_limit=192 * 2**30,
            needs="one H100 for each model; about an hour for the tasks per arm and share of blocks; the models (Llama "
            "gated), C4 and the tasks' data from the hub",
        ),
    },
    experiment="papers.layerwise_quant.experiment.run",
    accounting="papers.layerwise_quant.published.accounting",
    departures=(
        "A Llama of ten blocks pretrained here in minutes, one a seed, stands in for the published models, and its "
        "held-out loss for the benchmarks.",
        "Random orders that keep the first block, a measured order and a uniform width of 3 bits are added; the paper "
        "has none of them.",
        "Calibration is 64 x 128 tokens of library source at laptop scale and C4 at the published one, in the place of "
        "PG-19; GPTQ calibrates every block on the model in full precision.",
        "Close to the original is a fifth of the loss with all blocks moved in C1: one block of ten is 10 % already.",
        "C3 matches bytes as stored: a dropped block saves the scales of its weights as well, a moved one does not, so "
        "that equal bits of weights differ by 5 % in bytes between 4 and 2 bits.",
    ),
    primary_metric="share_50",
    metrics=METRICS,
)  # fmt: skip
