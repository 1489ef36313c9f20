"""LLM-Drop (arXiv 2406.15786): facts, arms, settings, claims. Data only; imports no torch.

How many sublayers are dropped is given in percent of the number of blocks L, for every kind of drop: 50 is n = 5 of 10
here and 40 of 80 in Llama-2-70B. Joint Layer Drop has 2 L to choose from and goes on beyond 100.
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
from repro.zoo.options import SMALLEST, ModelOptions


@dataclass(frozen=True)
class Config(ModelOptions):
    """Configuration of a run. ``data``: judged on its held-out text."""

    # the method
    drop: str = "attention"  # attention | mlp | block | joint | run (consecutive blocks)
    order: str = "score"  # score | random | reversed | iterative
    draws: int = 20  # random subsets per n
    start: int = 10  # percent of L
    up_to: int = 80
    calibration: str = "stdlib-bpe"
    calibration_rows: int = 64
    # measuring
    batch: int = 8
    eval_batches: int = 8
    analyse: bool = False  # rankings over calibration sets and checkpoints, savings, speed
    speed_tokens: int = 32  # decoded one by one when speed is measured; 0: not measured
    benchmarks: str = ""  # lm-eval tasks as name:shots
    benchmark_items: int = 0  # of each task; 0: all
    published_drop: str = ""  # attentions that the authors dropped
    # the zoo's model
    recipe: str = "base"  # base | slow
    recipes: str = "base slow"
    # from the hub
    limit: int = 2000  # documents


def dropped_counts(depth: int, config: Config) -> dict[int, int]:
    """Percent of the blocks' number to n, for a model of ``depth`` blocks; at least one and no more than there are."""
    pool = 2 * depth if config.drop == "joint" else depth
    counts = {percent: round(percent * depth / 100) for percent in range(config.start, config.up_to + 1, 10)}
    return {percent: n for percent, n in counts.items() if 1 <= n <= pool}


#: How the zoo's model is trained where it is not as the zoo has it.
RECIPES: dict[str, dict[str, Any]] = {
    "base": {},
    "slow": {"hidden": 96, "width": 256, "steps": 600, "lr": 1e-3, "init_std": 0.02},
}


WHOLE = {"up_to": 160}
FEW = {"start": 20, "up_to": 50}
MANY = {"start": 40, "up_to": 80}
ARMS = (
    Arm("attention", "Attention Drop", "method", {"analyse": True}),
    Arm("mlp", "MLP Drop", "baseline", {"drop": "mlp"}),
    Arm("block", "Block Drop", "baseline", {"drop": "block"}),
    Arm("run", "Block Drop, consecutive", "baseline", {"drop": "run"}),
    Arm("joint", "Joint Layer Drop", "method", {"drop": "joint", **WHOLE}),
    Arm("attention-iterative", "Attention Drop, one at a time", "ablation", {"order": "iterative"}),
    Arm("attention-random", "random attentions (median of 20 draws)", "control", {"order": "random", **FEW}),
    Arm("attention-reversed", "least similar attentions", "control", {"order": "reversed"}),
    Arm("joint-random", "random sublayers (median of 10 draws)", "control",
        {"drop": "joint", "order": "random", "draws": 10, **MANY}),
)  # fmt: skip

REAL: dict[str, Any] = {
    "data": "c4", "calibration": "c4", "sequence": 2048, "batch": 1, "calibration_rows": 256, "eval_batches": 128,
    "dtype": "bfloat16", "speed_tokens": 256,
}  # fmt: skip
#: Hub models: setting, hub id, what the authors dropped of 4 attentions.
HUB = (
    ("mistral-7b", "mistralai/Mistral-7B-v0.1", "25 26 24 22"),
    ("llama-2-13b", "meta-llama/Llama-2-13b-hf", ""),
    ("llama-2-70b", "meta-llama/Llama-2-70b-hf", ""),
    ("llama-3-8b", "meta-llama/Meta-Llama-3-8B", ""),
    ("llama-3-70b", "meta-llama/Meta-Llama-3-70B", ""),
)
SETTINGS = (
    Setting(
        "text",
        "Python library source",
        "stdlib-bpe",
        "bundled",
        {"data": "stdlib-bpe"},
        note="Held-out text of what a Llama of ten blocks was pretrained on here, one model a seed; the loss stands in "
        "for the paper's benchmark average.",
    ),
    Setting(
        "text-slow",
        "Python library source, slow training",
        "stdlib-bpe",
        "bundled",
        {"data": "stdlib-bpe", "recipe": "slow"},
        note="A second way to train the model: d = 96, initial weights of 0.02 and a learning rate of 1e-3, 600 "
        "steps. It ends well above the loss of the first, whose rate is the best of three and whose start of 0.1 was "
        "only compared with 0.2. Which sublayers "
        "a small model can do without depends on how it was trained, so both are judged.",
    ),
    Setting(
        "recall",
        "Key-value recall",
        "recall-stdlib",
        "generated",
        {"data": "recall-stdlib"},
        note="The models of the first setting on the other fifth of their pretraining: values that stand earlier in "
        "the row and nowhere else, judged on these values alone. Only attention can fetch them, and the paper has no "
        "such task. The drop is chosen on library source, as in the other settings.",
    ),
    *(
        Setting(
            name,
            f"{hub.rpartition('/')[2]} on C4",
            "c4",
            "real",
            {**REAL, "model": hub, "published_drop": listed},
            default=False,
            note="A published model, calibrated and judged on documents of C4's validation split; the tasks of the "
            "paper through lm-eval at the published scale.",
        )
        for name, hub, listed in HUB
    ),
)
HUBS = tuple(name for name, *_ in HUB)
ZOO = ("text", "text-slow")
TEXT = (*ZOO, *HUBS)
#: Where every arm runs.
FULL = ("text", *HUBS)

SAME = (Match("train_tokens"), Match("params_total"), Match("eval_tokens"), Match("calibration_tokens"))
LEARNED = Precondition("the model beats token frequencies by half a nat", {"attention": 1.0}, "gap", -0.5)
RECALLS = Precondition("the intact model recalls more than half of the values", {"attention": 1.0}, "accuracy", -0.5)
NATS = " nats"


def less_damage(method: str, baseline: str) -> dict[str, float]:
    """Damage of the baseline minus damage of the method: positive when the method costs less."""
    return {baseline: 1.0, method: -1.0}


def damages(
    name: str, title: str, terms: dict[str, float], percents: Iterable[int], settings: tuple[str, ...] = TEXT,
    rule: Any = None, role: Any = "primary", conditions: tuple[Precondition, ...] = (LEARNED,),
) -> tuple[Contrast, ...]:  # fmt: skip
    """One contrast of the damage at each percentage."""
    return tuple(
        Contrast(
            f"{name}-{percent}", f"{title}, n = {percent} % of the blocks", terms, f"damage_{percent}",
            rule or Superiority(), settings, matched=SAME, preconditions=conditions, role=role, unit=NATS,
        )
        for percent in percents
    )  # fmt: skip


TABLES = "reviews that quote the paper's tables"
CLAIMS = (
    Claim(
        "C1",
        "At an equal number of dropped sublayers, dropping attentions costs far less quality than dropping MLPs or "
        "blocks.",
        "quality",
        Published(
            "Llama-2-13B, 8 of 40: 0.01 points per percent of speed for attention, 0.79 for MLPs, 0.31 for blocks; "
            "average 68.2 -> 68.1 at 1.13x for attention",
            TABLES,
        ),
        (
            *damages("mlp", "MLP Drop minus Attention Drop", less_damage("attention", "mlp"), (20, 30, 40)),
            *damages("block", "Block Drop minus Attention Drop", less_damage("attention", "block"), (20, 30, 40)),
            *damages(
                "factor", "MLP Drop minus five times Attention Drop (the strong form: published 79 times)",
                {"mlp": 1.0, "attention": -5.0}, (20, 30, 40), role="secondary",
            ),
            *damages(
                "run", "consecutive Block Drop minus Attention Drop", less_damage("attention", "run"), (20, 30, 40),
                ("text",), role="secondary",
            ),
            *damages(
                "late", "MLP Drop minus Attention Drop, beyond what the paper compares",
                less_damage("attention", "mlp"), (50, 60), role="secondary",
            ),
            *damages(
                "recall", "on recalled values: MLP Drop minus Attention Drop", less_damage("attention", "mlp"),
                (20, 30, 40), ("recall",), role="secondary", conditions=(RECALLS,),
            ),
            *damages(
                "reversed", "negative control: MLP Drop minus dropping the least similar attentions",
                less_damage("attention-reversed", "mlp"), (20, 30, 40), FULL, role="control",
            ),
            Contrast(
                "score", "points of the benchmark average, MLP Drop minus Attention Drop at 20 %",
                less_damage("attention", "mlp"), "score_lost_20", Superiority(), HUBS, matched=SAME, role="secondary",
                unit=" points",
            ),
        ),
        untested="Benchmark averages mean nothing for a model of laptop size; held-out loss stands in for them. The "
        "tasks run at the published scale.",
        headline=True,
    ),
    Claim(
        "C2",
        "Half of the attention sublayers can be dropped with little loss of quality.",
        "quality",
        Published("Llama-2-70B, 40 of 80: 73.9 -> 71.5 (-2.4 points) at 1.48x speed", f"abstract; {TABLES}"),
        (
            Contrast(
                "half", "10 % minus the share of the loss gap to token frequencies that half of the attentions cost",
                {"attention": -1.0}, "gap_share_50", Superiority(), TEXT, offset=10.0, preconditions=(LEARNED,),
                unit=" % of the gap",
            ),
            Contrast(
                "two-fifths", "the same for 40 %", {"attention": -1.0}, "gap_share_40", Superiority(), TEXT,
                offset=10.0, preconditions=(LEARNED,), role="secondary", unit=" % of the gap",
                published=Published("Llama-3-70B, 32 of 80: 75.1 -> 75.2", TABLES),
            ),
            Contrast(
                "recall", "the same for half, on recalled values, which only attention can fetch",
                {"attention": -1.0}, "gap_share_50", Superiority(), ("recall",), offset=10.0, preconditions=(RECALLS,),
                role="secondary", unit=" % of the gap",
            ),
            Contrast(
                "reversed", "negative control: the same for the least similar half", {"attention-reversed": -1.0},
                "gap_share_50", Superiority(), FULL, offset=10.0, preconditions=(LEARNED,), role="control",
                unit=" % of the gap",
            ),
            Contrast(
                "score", "3.6 points (half more than published) minus what half of the attentions cost",
                {"attention": -1.0}, "score_lost_50", Superiority(), HUBS, offset=3.6, role="secondary",
                unit=" points", published=Published("2.4 points", "abstract", 1.2),
            ),
            Computed(
                "flops-70b", "Llama-2-70B, 40 of 80: speed-up if time went with FLOPs, over 2048 + 2048 tokens",
                "flops_speedup_llama-2-70b", 1.48, 0.05, "x", role="secondary",
                published=Published("1.48x measured on one GPU", TABLES),
            ),
            Computed(
                "bytes-70b", "the same if time went with the bytes of 4-bit weights and a 16-bit KV cache read per "
                "decoded token, one sequence", "bytes_speedup_llama-2-70b", 1.48, 0.05, "x", role="secondary",
                published=Published("1.48x measured on one GPU", TABLES),
            ),
        ),
        untested="The measured speed-up belongs to one GPU and its kernels. Computed at the published size, neither "
        "FLOPs nor bytes read for one sequence give it; tokens a second before and after are kept in every record of "
        "Attention Drop, but no verdict rests on a clock.",
    ),
    Claim(
        "C3",
        "Attention turns the residual stream little, less with depth; its ranking is stable over calibration sets and "
        "over training, in which MLPs and blocks grow in importance.",
        "behaviour",
        Published("MAP-Neo-7B; figures only", "Fig. 5 and 7, from reviews"),
        (
            *(
                Contrast(name, title, {"attention": 1.0}, metric, rule, where, preconditions=(LEARNED,), role=role,  # type: ignore[arg-type]
                         unit=unit)
                for name, title, metric, rule, where, role, unit in (
                    ("low", "mean importance of MLPs minus that of attentions", "importance_gap", Superiority(), TEXT,
                     "primary", ""),
                    ("depth", "rank correlation of attention similarity with depth", "depth_trend", Superiority(),
                     TEXT, "primary", ""),
                    ("prose", "rank correlation of attentions: source against comments and docstrings", "rank_prose",
                     Superiority(0.8), ZOO, "primary", ""),
                    ("recall", "source against key-value recall", "rank_recall", Superiority(0.8), ZOO,
                     "primary", ""),
                    ("checkpoint", "half of the training against all of it", "rank_at_50", Superiority(0.7), ZOO,
                     "primary", ""),
                    ("mlp-growth", "importance of MLPs after training minus after a quarter of it", "mlp_growth_25",
                     Superiority(), ZOO, "primary", ""),
                    ("block-growth", "importance of blocks after training minus after a quarter of it",
                     "block_growth_25", Superiority(), ZOO, "primary", ""),
                    ("attention-growth", "importance of attentions after training minus after a quarter of it",
                     "attention_growth_25", Superiority(), ZOO, "secondary", ""),
                    ("median", "median importance of MLPs minus that of attentions: the mean is mostly block 0",
                     "importance_gap_median", Superiority(), TEXT, "secondary", ""),
                    ("sample", "one sample of calibration text against another", "rank_resampled", Superiority(0.8),
                     TEXT, "secondary", ""),
                    ("early", "a quarter of the training against all of it", "rank_at_25", Superiority(0.7), ZOO,
                     "secondary", ""),
                )
            ),
            Contrast(
                "published", "share of the four attentions that the authors dropped", {"attention": 1.0},
                "published_overlap", Superiority(75.0), ("mistral-7b",), role="secondary", unit=" %",
                published=Published("25, 26, 24, 22 of Mistral-7B", "repository", 100.0),
            ),
        ),
    ),
    Claim(
        "C4",
        "At high ratios, Joint Layer Drop costs less than dropping as many sublayers of one type.",
        "quality",
        Published("Llama-2-13B, 31 sublayers of 80: 90 % of MMLU kept", "abstract"),
        (
            *damages("attention", "Attention Drop minus Joint Layer Drop", less_damage("joint", "attention"),
                     (60, 70, 80)),
            *damages("mlp", "MLP Drop minus Joint Layer Drop", less_damage("joint", "mlp"), (60, 70, 80)),
            Contrast(
                "kept", "10 % minus the share of the loss gap that n = 80 % costs (40 % of all sublayers)",
                {"joint": -1.0}, "gap_share_80", Superiority(), TEXT, offset=10.0, preconditions=(LEARNED,),
                role="secondary", unit=" % of the gap",
            ),
            *damages(
                "random", "negative control: Attention Drop minus as many random sublayers of both types",
                less_damage("joint-random", "attention"), (60, 70, 80), ("text",), role="control",
            ),
        ),
    ),
    Claim(
        "C5",
        "The KV cache shrinks in proportion to the dropped attentions.",
        "cost",
        Published("Llama-2-13B, half of the attentions: 52 GB -> 26 GB", TABLES),
        (
            Computed(
                "kv", "KV cache left of Llama-2-13B with 20 of 40 attentions", "kv_kept_percent_llama-2-13b", 50.0,
                1e-9, "%", published=Published("52 GB -> 26 GB", TABLES),
            ),
            Contrast(
                "measured", "bytes in the cache of the model dropped here, minus 50 %", {"attention": 1.0},
                "kv_cache_kept_50", Equivalence(1e-6), TEXT, offset=-50.0, role="secondary", unit=" %",
            ),
        ),
        untested="52 GB stand for 63,500 cached tokens at 16 bits; batch and length behind them are not stated.",
    ),
    Claim(
        "C6",
        "Attentions ranked by similarity cost less than as many random ones.",
        "quality",
        Published("none: the paper does not try random subsets", "this control is missing in the paper"),
        (
            *damages(
                "random", "median of 20 random subsets minus Attention Drop",
                less_damage("attention", "attention-random"), (20, 30, 40, 50),
            ),
            *(
                Contrast(
                    f"percentile-{percent}", "50 minus the percentile of Attention Drop among random subsets, "
                    f"n = {percent} %", {"attention-random": -1.0}, f"percentile_{percent}", Superiority(), TEXT,
                    offset=50.0, preconditions=(LEARNED,), role="secondary",
                )
                for percent in (20, 30, 40, 50)
            ),
            *damages(
                "iterative", "one-shot no more than 0.02 nats worse than dropping one at a time",
                less_damage("attention", "attention-iterative"), (50,), ("text",), NonInferiority(0.02), "secondary",
            ),
            *damages(
                "reversed", "negative control: random subsets minus the least similar attentions",
                less_damage("attention-reversed", "attention-random"), (20, 30, 40, 50), FULL, role="control",
            ),
        ),
    ),
)  # fmt: skip

SLOW_ARMS = ("attention", "mlp", "block", "joint", "attention-random")
RECALL_ARMS = ("attention", "mlp", "block", "joint")
RANDOM_TOO = ("attention", "mlp", "block", "joint", "attention-random", "attention-reversed")
METRICS = {
    "loss": "held-out cross-entropy of the intact model in nats; on recall of the values that can be known",
    "accuracy": "share of held-out tokens (on recall: of values that can be known) predicted exactly, intact model",
    "gap": "loss of a model that knows token frequencies only, minus loss of the intact model, nats",
    "importance_gap": "mean importance of MLPs minus that of attentions",
    "importance_gap_median": "median importance of MLPs minus that of attentions",
    "depth_trend": "Spearman correlation of attention similarity with depth",
    "rank_prose": "Spearman correlation of attention similarity: library source against its comments and docstrings",
    "rank_recall": "the same, library source against key-value recall",
    "rank_resampled": "the same, between two samples of the calibration text",
    "published_overlap": "share of the authors' dropped attentions among ours, percent",
    "params_kept_50": "parameters left with half of the attentions, percent",
    "flops_kept_50": "FLOPs of a forward pass left with half of the attentions, percent",
    "kv_cache_kept_50": "bytes of the KV cache left with half of the attentions, percent",
    "score": "average of the benchmarks, intact model, points",
    **{f"{name}_importance": f"mean importance 1 - cos of {name}s" for name in ("attention", "mlp", "block")},
    **{
        f"rank_at_{p}": f"Spearman correlation of attention similarity after {p} % of training with the end"
        for p in (25, 50, 75)
    },
    **{
        f"{name}_growth_{p}": f"mean importance of {name}s at the end minus after {p} % of training"
        for name in ("attention", "mlp", "block")
        for p in (25, 50, 75)
    },
    **{f"score_lost_{p}": f"points of the average lost with {p} % dropped" for p in (20, 50)},
    **{
        f"{name}_{p}": f"{text}, {p} % of the blocks' number dropped"
        for name, text in (
            ("damage", "loss minus that of the intact model, nats (median over random draws)"),
            ("gap_share", "damage in percent of the gap"),
            ("accuracy", "accuracy (median over random draws)"),
            ("percentile", "percent of random subsets that cost less than the ranked one"),
        )
        for p in range(10, 161, 10)
    },
}

PAPER = Paper(
    slug="llm_drop",
    title="What Matters in Transformers? Not All Attention is Needed",
    short="LLM-Drop",
    area="LLM compression",
    arxiv="2406.15786",
    year=2024,
    venue="TMLR 2026",
    code="CASE-Lab-UMD/LLM-Drop",
    idea="Rank the sublayers of a pretrained decoder by how little they turn the residual stream (cosine of input and "
    "output on calibration text) and delete the most similar ones, without training. Attentions turn out to be far "
    "more removable than MLPs or whole blocks, and their KV cache goes with them.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {
                **SMALLEST, "calibration_rows": 4, "eval_batches": 1, "draws": 3, "speed_tokens": 4, "recipes": "base",
            },
            arms={"text-slow": ("attention",), "recall": ("mlp",)},
            seeds=1,
            time_limit=300,
        ),
        "laptop": Preset(arms={"text-slow": SLOW_ARMS, "recall": RECALL_ARMS}, seeds=3, time_limit=900),
        "gpu": Preset(
            {"calibration_rows": 64, "eval_batches": 32},
            settings=("mistral-7b",),
            arms={"mistral-7b": RANDOM_TOO},
            time_limit=3600,
            memory_limit=64 * 2**30,
            needs="one GPU with 24 GiB; Mistral-7B from the hub; C4's validation split from there or REPRO_DATA_DIR",
        ),
        "published": Preset(
            {
                "benchmarks": "boolq:0 rte:0 openbookqa:0 piqa:0 mmlu:5 winogrande:5 hellaswag:10 arc_challenge:25",
            },
            settings=HUBS,
            arms=dict.fromkeys(HUBS, RANDOM_TOO),
            time_limit=48 * 3600,
            memory_limit=256 * 2**30,
            needs="one H100 for 7B to 13B, four for 70B, 6 to 10 hours per arm of a 7B model for the tasks; the models "
            "(gated), C4 and the tasks' data from the hub",
        ),
    },
    experiment="papers.llm_drop.experiment.run",
    accounting="papers.llm_drop.published.accounting",
    departures=(
        "A Llama of ten blocks pretrained here in minutes, one a seed, stands in for the published models, and its "
        "held-out loss for the benchmark average. One fifth of its pretraining is key-value recall, so that some "
        "attention is needed.",
        "Random subsets, the least similar attentions and a recall task are added; the paper has none of them.",
        "Calibration is 64 x 128 tokens of library source at laptop scale, 256 x 2048 of C4 at the published one, as "
        "in the authors' scripts.",
    ),
    primary_metric="damage_40",
    metrics=METRICS,
)  # fmt: skip
