"""DeepSeekMoE (arXiv 2401.06066): facts, arms, settings, claims. Data only; imports no torch.

Sizes are counted in standard FFNs, as in the paper: a layer holds as many experts' worth of parameters in every arm,
however finely they are cut. The paper's 2B models hold 16 of them a layer and activate 2; laptop models hold 8.
"""

from __future__ import annotations

from dataclasses import dataclass

from repro.claims import (
    Arm,
    Claim,
    Computed,
    Contrast,
    Equivalence,
    Match,
    NonInferiority,
    Ordering,
    Paper,
    Precondition,
    Preset,
    Published,
    Setting,
    Superiority,
)


@dataclass(frozen=True)
class Config:
    """Configuration of a run. Arms say how a layer is cut (``segments``, ``shared``) and scale ``active`` and ``width``
    instead of setting them, so that one option moves all arms together."""

    data: str = "facts"
    # the method
    segments: int = 1  # m
    shared: int = 0  # K_s, in segments; -1: everything is always on
    router: str = "learned"  # learned | hash | none
    active_scale: float = 1.0
    widen: float = 1.0
    alpha: float = 0.01  # alpha_1, expert-level balance
    # the model around it
    experts: int = 8  # N, standard FFNs a layer
    active: int = 2  # K, of them active
    width: int = 128  # of a standard FFN
    layers: int = 2
    hidden: int = 64
    heads: int = 4
    vocab: int = 0  # 0: as the tokenizer has it
    # training
    steps: int = 800
    batch: int = 8
    sequence: int = 128
    lr: float = 3e-3
    warmup: float = 0.05
    schedule: str = "step"  # step (x0.316 at 80 % and 90 %) | constant | linear | cosine
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    init_std: float = 0.02
    dtype: str = "float32"  # float32 | bfloat16 (autocast)
    # evaluation
    evaluations: int = 10
    average_last: int = 2
    eval_batches: int = 16
    lm_eval_items: int = 0


FINER = {"segments": 4, "shared": 1}
#: Top-1 routers train best at half the rate of the others on library source, where a plain run has them (tuning.jsonl).
TOP_1 = {"laptop": {"lr": 1.5e-3}}
ARMS = (
    Arm("dense", "Dense, one FFN", "baseline", {"router": "none", "shared": 1}),
    Arm("dense-active", "Dense, as much active as GShard", "baseline", {"router": "none", "shared": 2}),
    Arm("hash", "Hash Layer, top-1", "baseline", {"router": "hash", "active_scale": 0.5}, TOP_1),
    Arm("switch", "Switch, top-1", "baseline", {"active_scale": 0.5}, TOP_1),
    Arm("gshard", "GShard, top-2", "baseline"),
    Arm("shared", "+ shared expert: 1 shared, 1 routed active", "ablation", {"shared": 1}),
    Arm("fine", "+ half-width experts: 1 shared, 3 routed active", "ablation", {"shared": 1, "segments": 2}),
    Arm("finer", "DeepSeekMoE: quarter-width, 1 shared, 7 routed active", "method", FINER),
    Arm("gshard-x15", "GShard x1.5, wider experts", "baseline", {"widen": 1.5}),
    Arm("dense-all", "Dense, every FFN on (x16 in the paper)", "baseline", {"router": "none", "shared": -1}),
    Arm("finer-2", "quarter-width, 2 shared, 6 routed active", "ablation", {"segments": 4, "shared": 2}),
    Arm("finer-4", "quarter-width, 4 shared, 4 routed active", "ablation", {"segments": 4, "shared": 4}),
    Arm("half", "DeepSeekMoE trained with half as many active", "ablation", {**FINER, "active_scale": 0.5}),
)

SETTINGS = (
    Setting(
        "facts",
        "Knowledge corpus",
        "facts",
        "generated",
        {"data": "facts"},
        note="1,024 facts of 8 topics in a syntax that the topics share; other sentences about the same facts are held "
        "out. Exercises the mechanism: common syntax beside many separable items. Stands in for the closed-book "
        "questions on which the paper's gains are largest.",
    ),
    Setting(
        "stdlib",
        "Python library source",
        "stdlib",
        "bundled",
        {"data": "stdlib"},
        note="Bytes of the Python standard library's own sources; stands in for general text at laptop scale.",
    ),
    Setting(
        "facts-fresh",
        "Knowledge corpus without knowledge (negative control)",
        "facts-fresh",
        "generated",
        {"data": "facts-fresh"},
        note="The same words, wordings and frequencies, with an object drawn anew for every sentence: there is nothing "
        "that special experts could hold, so a gain here is one of optimisation or scale and not of specialisation.",
    ),
    *(
        Setting(
            name,
            title,
            "domains",
            "bundled",
            {
                "data": "domains",
                "steps": 500,
                "batch": 16,
                "sequence": 96,
                "lr": lr,
                "schedule": "linear",
                "warmup": 0.1,
                "average_last": 1,
            },
            default=False,
            note="Not a setting of the claims: the task, budget and schedule that the methods of the arena share, at "
            f"the best learning rate of {whose}.",
        )
        for name, title, lr, whose in (
            ("moe-lm", "Arena moe-lm: six domains", 4e-3, "the mixtures"),
            ("moe-lm-dense", "Arena moe-lm: six domains, dense", 8e-3, "the dense model"),
        )
    ),
    Setting(
        "gsm8k",
        "GSM8K",
        "gsm8k",
        "real",
        {"data": "gsm8k"},
        default=False,
        note="Grade-school problems with solutions, as bytes, train and test split as published.",
    ),
    Setting(
        "slimpajama",
        "SlimPajama 6B sample",
        "slimpajama",
        "real",
        {"data": "slimpajama"},
        default=False,
        note="General text; stands in for the paper's unpublished 100B tokens.",
    ),
)
QUALITY = ("facts", "stdlib", "gsm8k", "slimpajama")
FACTS = ("facts",)
CONTROL = ("facts-fresh",)

TOKENS = Match("train_tokens")
POOL = Match("expert_params_total")
ACTIVE = Match("expert_params_active")
FLOPS = Match("train_flops", 0.03)
EQUAL = (TOKENS, POOL, ACTIVE, FLOPS)
LOSS = "loss"
TABLE = "Table 1"


def gain(baseline: str, treated: str) -> dict[str, float]:
    """Loss of the baseline minus loss of the treated arm: positive when the treated one is better."""
    return {baseline: 1.0, treated: -1.0}


#: The ablation grid: (name, coarser arm, arm, what it adds).
STEPS = (
    ("isolation", "gshard", "shared", "one of the experts shared"),
    ("half", "shared", "fine", "half-width experts"),
    ("quarter", "fine", "finer", "quarter-width experts"),
)
#: (name, title, figure in T per 2,048 tokens)
FLOPS_2B = (
    ("dense", "Dense, Switch, Hash", 2.9), ("gshard", "GShard, DeepSeekMoE", 4.3), ("x15", "GShard x1.5", 5.8),
    ("x16", "Dense x16", 24.6),
)  # fmt: skip
#: (name, title, figure in T per 4,096 tokens)
FLOPS_LARGE = (
    ("16b", "DeepSeekMoE 16B", 74.4), ("7b", "DeepSeek 7B", 183.5), ("llama2", "LLaMA2 7B", 187.9),
    ("145b", "DeepSeekMoE 145B", 585.6), ("142b_half", "DeepSeekMoE 142B, half activated", 374.6),
    ("67b", "DeepSeek 67B", 2057.5),
)  # fmt: skip
#: The dense first layer of the 145B and 137B models is not given: two readings, each one rule for both models.
FIRST_LAYER = (
    ("", "taken as a standard FFN (8 d^2)"),
    ("_wide", "taken as what is active above it, two standard FFNs, as the released 16B model has it"),
)

CLAIMS = (
    Claim(
        "C1",
        "At equal total and activated expert parameters DeepSeekMoE reaches a lower loss than GShard.",
        "quality",
        Published("Pile loss 1.808 against 1.867 (-3.2 %), 2.0B total, 0.3B activated, 100B tokens", TABLE, 3.16),
        (
            Contrast(
                "vs-gshard", "DeepSeekMoE against GShard", gain("gshard", "finer"), LOSS, Superiority(1.6),
                QUALITY, "gshard", matched=EQUAL,
            ),
            Contrast(
                "answers", "on the objects of the facts alone", gain("gshard", "finer"), "answer_loss",
                Superiority(1.6), FACTS, "gshard", matched=EQUAL, role="secondary",
                published=Published("no such figure; closed-book TriviaQA 16.6 against 10.2", TABLE),
            ),
            *(
                Contrast(
                    f"vs-{arm}", f"DeepSeekMoE against {title}", gain(arm, "finer"), LOSS, Superiority(), QUALITY, arm,
                    matched=(TOKENS, *match), role="secondary", published=figure,
                )
                for arm, title, match, figure in (
                    ("switch", "Switch, half as much active", (POOL,), Published("1.808 against 1.881", TABLE, 3.88)),
                    ("hash", "Hash Layer, half as much active", (POOL,), Published("1.808 against 1.932", TABLE, 6.42)),
                    ("dense", "one dense FFN", (), Published("1.808 against 2.060", TABLE, 12.23)),
                )
            ),
            Contrast(
                "vs-dense-active", "DeepSeekMoE against a dense model of as many activated parameters",
                gain("dense-active", "finer"), LOSS, Superiority(), ("stdlib",), "dense-active",
                matched=(TOKENS, ACTIVE, FLOPS), role="secondary", published=Published("no such comparison", TABLE),
            ),
            Contrast(
                "nothing-to-know", "negative control: nothing for special experts to hold", gain("gshard", "finer"),
                LOSS, Superiority(1.6), CONTROL, "gshard", matched=EQUAL, role="control",
            ),
            Contrast(
                "nothing-to-know-answers", "negative control on the objects alone", gain("gshard", "finer"),
                "answer_loss", Superiority(1.6), CONTROL, "gshard", matched=EQUAL, role="control",
            ),
        ),
        untested="The benchmarks (HellaSwag 54.8 against 50.5, TriviaQA 16.6 against 10.2) mean nothing for a model of "
        "laptop size; they belong to the published scale.",
        headline=True,
    ),
    Claim(
        "C2",
        "DeepSeekMoE is as good as GShard with 1.5 times the expert parameters and expert compute.",
        "quality",
        Published("1.808 against 1.808 (x1.2: 1.824)", "Table 2; Section 4.3", 0.0),
        (
            Contrast(
                "vs-x15", "no more than 0.5 % worse than GShard x1.5", gain("gshard-x15", "finer"), LOSS,
                NonInferiority(0.5), QUALITY, "gshard-x15", matched=(TOKENS,),
                preconditions=(Precondition("wider experts help", gain("gshard", "gshard-x15"), LOSS),),
            ),
            Contrast(
                "equal-x15", "within 0.5 % of GShard x1.5 on either side", gain("gshard-x15", "finer"), LOSS,
                Equivalence(0.5), QUALITY, "gshard-x15", matched=(TOKENS,), role="secondary",
            ),
        ),
    ),
    Claim(
        "C3",
        "DeepSeekMoE nearly reaches the dense model that has all its FFNs on, the upper bound of its kind.",
        "quality",
        Published("1.808 against 1.806 (Dense x16; Dense x4: 1.908)", "Table 2; Section 4.3", -0.11),
        (
            Contrast(
                "vs-all", "no more than 0.5 % worse than with every FFN on", gain("dense-all", "finer"), LOSS,
                NonInferiority(0.5), QUALITY, "dense-all", matched=(TOKENS,),
                preconditions=(Precondition("more dense FFNs help", gain("dense", "dense-all"), LOSS),),
            ),
            Contrast(
                "bound", "with every FFN on is at least as good as DeepSeekMoE, up to 0.5 %",
                gain("finer", "dense-all"), LOSS, NonInferiority(0.5), QUALITY, "dense-all", matched=(TOKENS,),
                role="secondary", published=Published("1.806 against 1.808", "Table 2; Section 4.3", 0.11),
            ),
        ),
    ),
    Claim(
        "C4",
        "Shared experts and finer segmentation each lower the loss, step by step.",
        "quality",
        Published("bars on six benchmarks rise from step to step; no table", "Figure 3"),
        (
            *(
                Contrast(
                    name, f"{title} against the step before", gain(before, after), LOSS, Superiority(),
                    QUALITY, before, matched=EQUAL,
                )
                for name, before, after, title in STEPS
            ),
            Ordering(
                "grid", "quarter < half < shared < GShard", ("finer", "fine", "shared", "gshard"), LOSS, QUALITY,
                matched=EQUAL, role="secondary",
            ),
            *(
                Contrast(
                    f"{name}-control", f"negative control: {title}, nothing to know", gain(before, after), LOSS,
                    Superiority(1.6), CONTROL, before, matched=EQUAL, role="control",
                )
                for name, before, after, title in STEPS
            ),
            *(
                Contrast(
                    f"ratio-{k}", f"{k} shared experts instead of 1 change little", gain("finer", f"finer-{k}"), LOSS,
                    Equivalence(0.5), FACTS, "finer", matched=EQUAL, role="secondary",
                    published=Published(f"{figure} against 1.808", "Section 4.4", effect),
                )
                for k, figure, effect in ((2, 1.806, 0.11), (4, 1.811, -0.17))
            ),
        ),
    ),
    Claim(
        "C5",
        "Routed experts are less redundant than GShard's, the shared expert cannot be replaced by a routed one, and "
        "fewer active experts suffice for GShard's loss.",
        "behaviour",
        Published("shared removed, one more routed: 1.808 -> 2.414; curves for the rest", "Section 4.5; Figures 4, 5"),
        (
            Contrast(
                "redundancy", "relative loss increase without the top 1/8 of the routed experts, above GShard x1.5's "
                "(here also half of the activated width in both)", {"finer": 1.0, "gshard-x15": -1.0}, "disabled_2_16",
                Superiority(), QUALITY, unit=" points", matched=(TOKENS,),
                published=Published("steeper curve", "Figure 4; figure only"),
            ),
            Contrast(
                "redundancy-quarter", "the same without the top 1/4", {"finer": 1.0, "gshard-x15": -1.0},
                "disabled_4_16", Superiority(), QUALITY, unit=" points", matched=(TOKENS,), role="secondary",
                published=Published("steeper curve", "Figure 4; figure only"),
            ),
            Contrast(
                "redundancy-answers", "without the top 1/8, on the objects of the facts alone",
                {"finer": 1.0, "gshard-x15": -1.0}, "answer_disabled_2_16", Superiority(), FACTS, unit=" points",
                matched=(TOKENS,), role="secondary",
                published=Published("no such figure", "Section 4.5"),
            ),
            Contrast(
                "irreplaceable", "loss without the shared expert but one more routed, minus ten times the loss of "
                "replacing one chosen routed expert of every token by the next best", {"finer": 1.0},
                "shared_over_routed", Superiority(), QUALITY, unit=" nats",
                published=Published("+0.606 without the shared expert; no yardstick in the paper", "Section 4.5"),
            ),
            Contrast(
                "shared-removed", "loss without the shared expert but one more routed", {"finer": 1.0},
                "shared_removed", Superiority(), QUALITY, unit=" nats", role="secondary",
                published=Published("1.808 -> 2.414", "Section 4.5", 0.606),
            ),
            Contrast(
                "few", "with 4 of 7 routed experts active DeepSeekMoE is as good as GShard", gain("gshard", "finer"),
                "loss_few", NonInferiority(0.5, 0.0), QUALITY, "gshard", matched=(TOKENS, POOL),
                published=Published("4 routed experts suffice for GShard's loss", "Figure 5; figure only", 0.0),
            ),
            Contrast(
                "half", "trained with 3 routed experts active it is better than GShard", gain("gshard", "half"), LOSS,
                Superiority(), FACTS, "gshard", matched=(TOKENS, POOL), role="secondary",
                published=Published("better on the benchmarks shown", "Figure 6; figure only", verified=False),
            ),
        ),
    ),
    Claim(
        "C6",
        "The 16B model takes about 40 % of the compute of 7B dense models, and the 145B one 28.5 % (half activated "
        "18.2 %) of a 67B dense one.",
        "cost",
        Published("74.4T of 183.5T and 187.9T FLOPs per 4K tokens; 585.6T and 374.6T of 2057.5T", "Tables 3-6"),
        (
            *(
                Computed(
                    f"ratio-{name}", title, f"ratio_{name}", figure, 0.5 / figure, "%",
                    published=Published(f"{figure} %", "from the FLOPs of Tables 3-6"),
                )
                for name, title, figure in (
                    ("16b_7b", "16B of DeepSeek 7B", 40.5), ("16b_llama2", "16B of LLaMA2 7B", 39.6),
                    ("145b_67b", "145B of DeepSeek 67B", 28.5), ("142b_67b", "142B, half activated, of 67B", 18.2),
                )
            ),
            Computed(
                "ratio-16b-released", "16B of DeepSeek 7B, with the FFN widths of the released models",
                "ratio_16b_7b_released", 40.5, 0.5 / 40.5, "%", role="secondary",
            ),
            Computed(
                "ratio-67b-gqa", "145B of DeepSeek 67B with its grouped-query attention and released FFN width",
                "ratio_145b_67b_released", 28.5, 0.5 / 28.5, "%", role="secondary",
            ),
            *(
                Computed(
                    f"flops-{name}", f"FLOPs per 4K tokens of {title}", f"tflops_{name}", figure, 0.05 / figure, "T",
                    role="secondary", published=Published(f"{figure}T", "Tables 3-6"),
                )
                for name, title, figure in FLOPS_LARGE
            ),
            Computed(
                "flops-16b-released", "FLOPs per 4K tokens of DeepSeekMoE 16B as released", "tflops_16b_released", 74.4,
                0.05 / 74.4, "T", role="secondary", published=Published("74.4T", "Table 3"),
            ),
            *(
                Computed(
                    f"flops-2b-{name}", f"FLOPs per 2K tokens of {title}, 2B table", f"tflops_2b_{name}", figure,
                    0.05 / figure, "T", role="secondary", published=Published(f"{figure}T", "Tables 1, 2"),
                )
                for name, title, figure in FLOPS_2B
            ),
            *(
                Computed(
                    f"params-{name}", f"parameters of {title}", f"params_b_{name}", figure, 0.05 / figure, "B",
                    role="secondary", published=Published(f"{figure}B", source),
                )
                for name, title, figure, source in (
                    ("2b", "the 2B models", 2.0, TABLE), ("2b_active", "the 2B models, activated", 0.3, TABLE),
                    ("16b", "16B", 16.4, "Table 3"), ("16b_active", "16B, activated", 2.8, "Table 3"),
                    *(
                        (name + suffix, f"{title}; dense first layer {first}", figure, "Table 6")
                        for suffix, first in FIRST_LAYER
                        for name, title, figure in (
                            ("145b", "145B", 144.6), ("145b_active", "145B, activated", 22.2),
                            ("137b", "GShard 137B", 136.5),
                        )
                    ),
                )
            ),
        ),
        untested="That the 16B and 145B models also match the quality of the dense ones they are compared with needs "
        "trillions of training tokens; the 145B results are preliminary in the paper's own words.",
    ),
)  # fmt: skip

PUBLISHED_SHAPE = {
    "experts": 16, "active": 2, "width": 3392, "layers": 9, "hidden": 1280, "heads": 10, "vocab": 102400,
    "batch": 2048, "sequence": 2048, "steps": 25000, "lr": 1.08e-3, "warmup": 0.08, "init_std": 0.006,
    "dtype": "bfloat16", "evaluations": 100, "eval_batches": 8, "lm_eval_items": -1,
}  # fmt: skip
GPU_SHAPE = {
    "experts": 16, "active": 2, "width": 1408, "layers": 6, "hidden": 512, "heads": 8, "batch": 64, "sequence": 512,
    "steps": 1500, "lr": 1e-3, "dtype": "bfloat16", "evaluations": 30,
}  # fmt: skip

PAPER = Paper(
    slug="deepseekmoe",
    title="DeepSeekMoE: Towards Ultimate Expert Specialization in Mixture-of-Experts Language Models",
    short="DeepSeekMoE",
    area="MoE language models",
    arxiv="2401.06066",
    year=2024,
    venue="ACL 2024",
    code="deepseek-ai/DeepSeek-MoE",
    idea="Every expert is cut into m narrower ones, of which m times as many are active, and some of them are set "
    "aside as shared experts that are always on. Total and activated parameters stay the same; what the experts hold "
    "is meant to become more special.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {
                "steps": 3,
                "hidden": 16,
                "heads": 2,
                "width": 16,
                "layers": 1,
                "batch": 2,
                "sequence": 32,
                "evaluations": 1,
                "eval_batches": 1,
                "average_last": 1,
            },
            settings=("facts", "stdlib", "facts-fresh"),
            arms={"stdlib": ("gshard", "finer")},
            seeds=1,
            time_limit=300,
        ),
        # Facts are learned within these steps from this start, and not from the usual one. Learning rates are the best
        # of one grid for GShard and for DeepSeekMoE alike (tuning.jsonl).
        "laptop": Preset(
            per_setting={s: {"init_std": 0.08, "lr": 6e-3} for s in (*FACTS, *CONTROL)},
            arms={
                "facts": (
                    "dense",
                    "gshard",
                    "shared",
                    "fine",
                    "finer",
                    "gshard-x15",
                    "dense-all",
                    "finer-2",
                    "finer-4",
                    "half",
                )
            },
        ),
        "gpu": Preset(
            GPU_SHAPE,
            settings=("gsm8k",),
            time_limit=3600,
            memory_limit=64 * 2**30,
            needs="one data-centre GPU with 40 GiB; GSM8K in REPRO_DATA_DIR or from the hub",
        ),
        "published": Preset(
            PUBLISHED_SHAPE,
            settings=("slimpajama",),
            time_limit=30 * 24 * 3600,
            memory_limit=512 * 2**30,
            needs="about 470 A100 hours per arm and seed; SlimPajama-6B and the DeepSeek-V2-Lite tokenizer from the "
            "hub (the paper has 100B tokens of its own and a vocabulary of 8K)",
        ),
    },
    experiment="papers.deepseekmoe.experiment.run",
    accounting="papers.deepseekmoe.published.accounting",
    departures=(
        "Laptop models have hidden size 64, 2 layers and 8 standard FFNs a layer (the paper 16), 2 of them active, so "
        "that 31 quarter-width experts are routed where the paper has 63.",
        "The paper trains each arm once; here every arm runs on the same three seeds or more, with the same data order "
        "and the same initial weights where shapes agree.",
        "Weights start with standard deviation 0.02 (0.08 on the knowledge corpus, which is not learned otherwise) and "
        "not 0.006, which suits the published size; routers start uniform, as in the released code.",
        "The learning rate is one for all arms but Switch and the Hash Layer, and higher than the published one, as "
        "the models are smaller. It is the best of one grid for GShard and DeepSeekMoE and, on library source, for "
        "one dense FFN and two; there Switch and the Hash Layer have their own best, half of it. Other arms take it "
        "untuned.",
        "The yardstick of the shared expert makes every token do without one of the routed experts it chose. Removing "
        "one random routed expert, as a reader may expect, touches only the tokens that chose it (7 of 31 in "
        "DeepSeekMoE here), so that ours asks for about 4.4 times as much.",
        "The device-level balance loss is written and tested but off, as in the paper's 2B and 16B models.",
    ),
    primary_metric=LOSS,
    metrics={
        "loss": "held-out cross-entropy in nats, mean of the last evaluations",
        "final_loss": "held-out cross-entropy at the last evaluation, nats",
        "answer_loss": "cross-entropy on the objects of facts only, nats (16 equal chances: 2.77)",
        "accuracy": "share of held-out objects predicted exactly; of all tokens where none are marked",
        "loss_few": "final held-out cross-entropy with no more than 4 routed experts active, nats",
        **{
            f"{prefix}disabled_{part}_16": f"relative increase of the {what} when each token does without its top "
            f"{part}/16 of the routed experts, percent; rounded to whole experts, so that of 8 wide ones 1/16 is none "
            "and 3/16 as many as 4/16"
            for prefix, what in (("", "held-out loss"), ("answer_", "loss on objects"))
            for part in range(5)
        },
        "routed_replaced": "increase of the loss when every token loses one chosen routed expert at random and takes "
        "the next best, nats, mean of three draws",
        "shared_removed": "increase of the loss without the shared experts, one routed expert more active, nats",
        "shared_over_routed": "shared_removed minus ten times routed_replaced, nats",
        "load_balance": "entropy of expert usage over log N', mean over layers",
    },
)
