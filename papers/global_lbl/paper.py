"""Global-batch load balancing (arXiv 2501.11873): facts, arms, settings, claims. Data only; imports no torch.

Balance batch size (BSZ) counts the *sequences* over which expert selections are counted, as in the paper's tables: its
micro-batches hold 4 (or 2), its global batches 512. Laptop models have micro-batches of 2 sequences, 16 of them a step;
figures of BSZ in titles are theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

from repro.claims import (
    Arm,
    Claim,
    Computed,
    Contrast,
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
    """Configuration of a run. Arms scale ``k`` and ``weight`` instead of setting them, so that one option moves all."""

    data: str = "domains"
    # the method
    scope: str = "global"  # micro | global | buffer | shuffle
    bsz: int = 0  # sequences that count together; 0: all of a pass
    weight: float = 0.03  # of the balance loss, which is 1 at perfect balance
    weight_scale: float = 1.0
    micro_share: float = 0.0  # of an additional micro loss, relative to weight
    switch_at: float = 0.0  # share of the steps after which the scope becomes switch_to; 0: never
    switch_to: str = "global"
    gating: str = "softmax"  # softmax | sigmoid (balance by biases, no loss)
    bias_rate: float = 0.001
    z_weight: float = 0.001
    # the model around it
    experts: int = 16
    k: int = 2
    k_scale: float = 1.0
    shared: int = 2
    width: int = 8
    layers: int = 2
    hidden: int = 32
    heads: int = 2
    vocab: int = 0  # 0: as the tokenizer has it
    tied: bool = False
    # training
    steps: int = 900
    batch: int = 32  # sequences of an optimizer step
    passes: int = 1  # forward passes that it is cut into (gradient accumulation)
    micro_batch: int = 2  # sequences of a micro-batch, all of one domain
    sequence: int = 96
    lr: float = 1.6e-2
    warmup: float = 0.1
    schedule: str = "linear"
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    init_std: float = 0.02
    dtype: str = "float32"  # float32 | bfloat16 (autocast)
    # evaluation
    evaluations: int = 6
    average_last: int = 1
    eval_batches: int = 16


#: Two and four micro-batches at every scale: those of the larger scales hold 4 sequences.
TWO, FOUR = ({scale: {"bsz": n} for scale in ("gpu", "published")} for n in (8, 16))
ARMS = (
    Arm("micro", "micro-batch balance (BSZ 2)", "baseline", {"scope": "micro"}),
    Arm("bsz4", "balance over 2 micro-batches (BSZ 4)", "ablation", {"bsz": 4}, TWO),
    Arm("bsz8", "balance over 4 micro-batches (BSZ 8)", "ablation", {"bsz": 8}, FOUR),
    Arm("global", "global-batch balance (BSZ 32)", "method"),
    Arm("shuffle", "shuffled selections, as many as a micro-batch has", "control", {"scope": "shuffle"}),
    Arm("buffer", "buffer over 4 passes (of 8 sequences)", "ablation", {"scope": "buffer", "passes": 4}),
    Arm("combined", "global and 1 % micro", "ablation", {"micro_share": 0.01}),
    Arm("micro-half", "micro, half the weight", "ablation", {"scope": "micro", "weight_scale": 0.5}),
    Arm("micro-eighth", "micro, an eighth of the weight", "ablation", {"scope": "micro", "weight_scale": 0.125}),
    Arm("micro-wider", "micro, 1.5 times as many active experts", "ablation", {"scope": "micro", "k_scale": 1.5}),
    Arm("late", "micro, global for the second half", "ablation", {"scope": "micro", "switch_at": 0.5}),
    Arm("bias-micro", "biases by micro-batch load, no loss", "baseline", {"scope": "micro", "gating": "sigmoid"}),
    Arm("bias-global", "biases by global load, no loss", "ablation", {"gating": "sigmoid"}),
)

NOTE = (
    "Six domains in equal parts (library code, reference prose, codec tables; a Markov language, sums, brackets), as "
    "bytes. Every sequence and every micro-batch is of one domain, which is the condition that makes the scope matter."
)
SETTINGS = (
    Setting("domains", "Six domains", "domains", "bundled", {"data": "domains"}, note=NOTE),
    Setting(
        "domains-light",
        "Six domains, light balance",
        "domains",
        "bundled",
        {"data": "domains", "weight": 0.01},
        note=NOTE + " A third of the weight of the balance loss: published weights need not transfer to this size, so "
        "the comparison is shown under two.",
    ),
    Setting(
        "domains-mixed",
        "Six domains in every row (negative control)",
        "domains-mixed",
        "bundled",
        {"data": "domains-mixed"},
        note="The same text in the same shares, but every row holds a piece of each domain, so that balance within a "
        "micro-batch constrains nothing that balance over the batch does not: the gain must vanish.",
    ),
    Setting(
        "slimpajama-domains",
        "SlimPajama 6B sample by source",
        "slimpajama-domains",
        "real",
        {"data": "slimpajama-domains", "micro_batch": 4},
        default=False,
        note="CommonCrawl, C4, GitHub, books, ArXiv, Wikipedia, StackExchange, each micro-batch of one of them; stands "
        "in for the paper's unpublished mix.",
    ),
    *(
        Setting(
            name,
            title,
            "domains",
            "bundled",
            {
                "data": "domains", "steps": 500, "batch": 16, "sequence": 96, "layers": 2, "hidden": 64, "heads": 4,
                "experts": 32, "k": 8, "width": 32, "shared": 0, "weight": 0.01, "evaluations": 10, "lr": lr,
            },
            default=False,
            note="Not a setting of the claims: the task, budget and schedule that the methods of the arena share, at "
            f"the best learning rate of the arm {arm}, the only one that it is for.",
        )
        for name, title, arm, lr in (
            ("moe-lm", "Arena moe-lm: six domains", "micro", 8e-3),
            ("moe-lm-global", "Arena moe-lm: six domains, global balance", "global", 4e-3),
        )
    ),
)  # fmt: skip
QUALITY = ("domains", "domains-light", "slimpajama-domains")
MAIN = ("domains", "slimpajama-domains")
CONTROL = ("domains-mixed",)
#: What rests on BSZ 2, 4, 8 and 32: published batches are 128 micro-batches, and a pass of the buffer 32.
LAPTOP_ONLY = ("domains",)

TOKENS = Match("train_tokens")
EQUAL = (TOKENS, Match("params_active"), Match("train_flops", 0.001))
PPL = "perplexity"
GAP = Precondition("the scope matters at all", {"micro": 1.0, "global": -1.0}, PPL)


def gain(baseline: str, treated: str) -> dict[str, float]:
    """Measure of the baseline minus that of the treated arm: positive when the treated one is lower."""
    return {baseline: 1.0, treated: -1.0}


def share_of_gap(arm: str, share: float) -> dict[str, float]:
    """``(micro - arm) - share (micro - global)``: positive when the arm has more than that share of the whole gain."""
    return {"micro": 1.0 - share, arm: -1.0, "global": share}


T3, T4 = "main results, 3.4B on 120B tokens", "main results, 3.4B on 400B tokens"
CLAIMS = (
    Claim(
        "C1",
        "At equal compute, counting expert selections over the global batch and not the micro-batch lowers perplexity.",
        "quality",
        Published(
            "8.167 -> 8.038 (3.4B, 120B tokens, -1.6 %); 7.347 -> 7.198 (400B); 15B 5.778 -> 5.603; 43B 5.862 -> 5.779",
            "main results",
            100 * (1 - 8.038 / 8.167),
        ),
        (
            Contrast("global", "global against micro", gain("micro", "global"), PPL, Superiority(0.8), QUALITY, "micro",
                     matched=EQUAL),
            *(
                Contrast(
                    f"weight-{name}", f"global against micro with {words} the weight", gain(f"micro-{name}", "global"),
                    PPL, Superiority(), MAIN, f"micro-{name}", matched=EQUAL, role="secondary",
                    published=Published(f"{figure} -> 8.038 (weight {weight})", "ablation of the weight",
                                        100 * (1 - 8.038 / figure)),
                )
                for name, words, weight, figure in (
                    ("half", "half", 0.004, 8.154), ("eighth", "an eighth of", 0.001, 8.159)
                )
            ),
            Contrast("late", "global from the start against global for the second half", gain("late", "global"), PPL,
                     Superiority(), MAIN, "late", matched=EQUAL, role="secondary",
                     published=Published("7.322 -> 7.199 (switched at 50k of 100k steps)", "ablation of the switch",
                                         100 * (1 - 7.199 / 7.322))),
            Contrast("late-helps", "global for the second half against micro", gain("micro", "late"), PPL,
                     Superiority(), MAIN, "micro", matched=EQUAL, role="secondary",
                     published=Published("7.383 -> 7.322", "ablation of the switch", 100 * (1 - 7.322 / 7.383))),
            Contrast("biases", "balance by biases: global load against micro load", gain("bias-micro", "bias-global"),
                     PPL, Superiority(), MAIN, "bias-micro", matched=EQUAL, role="secondary",
                     published=Published("8.521 -> 8.080", "auxiliary-loss-free ablation", 100 * (1 - 8.080 / 8.521))),
            Contrast("mixed", "negative control: every micro-batch mixes all domains", gain("micro", "global"), PPL,
                     Superiority(0.8), CONTROL, "micro", matched=EQUAL, role="control"),
        ),
        untested="Absolute perplexities and the benchmarks (HellaSwag, MMLU, GSM8k, C-Eval) belong to the published "
        "scale.",
        headline=True,
    ),
    Claim(
        "C2",
        "The gain comes from the diversity of the tokens that are counted, not from their number.",
        "quality",
        Published("micro 8.167, global 8.038, shuffle 8.041 (98 % of the gain); 400B: 7.383, 7.198, 7.214 (91 %)",
                  "shuffle ablation"),
        (
            Contrast("shuffle", "shuffled selections have more than 70 % of the gain", share_of_gap("shuffle", 0.7),
                     PPL, Superiority(), MAIN, "micro", matched=EQUAL, preconditions=(GAP,)),
            Contrast("shuffle-gain", "shuffled selections against micro", gain("micro", "shuffle"), PPL,
                     Superiority(), MAIN, "micro", matched=EQUAL, role="secondary",
                     published=Published("8.167 -> 8.041", "shuffle ablation", 100 * (1 - 8.041 / 8.167))),
        ),
    ),
    Claim(
        "C3",
        "Perplexity falls monotonically with the balance batch size, and a wider scope is worth more than more active "
        "experts.",
        "quality",
        Published("total drop 0.185 from BSZ 2 to 512, nearly saturated at 128; top-4 to top-6 at BSZ 2 gains less "
                  "than BSZ 2 to 8", "BSZ sweep, 3.4B on 400B tokens"),
        (
            Ordering("sweep", "whole batch < four < two < one micro-batch (BSZ 32 < 8 < 4 < 2)",
                     ("global", "bsz8", "bsz4", "micro"), PPL, MAIN, matched=EQUAL, preconditions=(GAP,)),
            Contrast("slope", "fall of perplexity per doubling of BSZ", {"micro": 1.75 / 8.75, "bsz4": 0.75 / 8.75,
                     "bsz8": -0.25 / 8.75, "global": -2.25 / 8.75}, PPL, Superiority(), LAPTOP_ONLY, "micro",
                     matched=EQUAL, role="secondary",
                     published=Published("0.185 of 7.383 over 8 doublings", "BSZ sweep", 100 * 0.185 / 7.383 / 8)),
            Contrast("wider", "four micro-batches (BSZ 8) against 1.5 times the active experts at one",
                     gain("micro-wider", "bsz8"), PPL, Superiority(), MAIN, "micro-wider", matched=(TOKENS,),
                     published=Published("top-4 to top-6 gains less than BSZ 2 to 8; figure only", "BSZ sweep")),
        ),
    ),
    Claim(
        "C4",
        "Experts specialise by domain under global balance and not under micro balance.",
        "behaviour",
        Published("micro: no expert above a frequency of 0.15 on any domain; global: many above 0.2; top-k score sums "
                  "higher in every layer", "analysis of specialisation; figures only"),
        (
            Contrast("information", "bits that the expert tells about the domain: global minus twice micro",
                     {"global": 1.0, "micro": -2.0}, "domain_information", Superiority(), QUALITY, unit=" bits",
                     matched=EQUAL, preconditions=(
                         Precondition("the load over all domains is even under global balance (max/mean below 1.5)",
                                      {"global": -1.0}, "imbalance", 1.5),)),
            Contrast("peak", "largest use of an expert by a domain, relative to even use",
                     {"global": 1.0, "micro": -1.0}, "domain_peak", Superiority(), QUALITY, unit=" times",
                     matched=EQUAL, role="secondary",
                     published=Published("above 0.2 against below 0.15, at 0.0625 when even", "analysis of "
                                         "specialisation; figures only")),
            *(
                Contrast(f"scores-{which}", f"sum of the top-k scores, {which} layer", {"global": 1.0, "micro": -1.0},
                         f"top_score_sum_{which}", Superiority(), QUALITY, matched=EQUAL, role="secondary",
                         published=Published("higher in every layer", "analysis of specialisation; figures only"))
                for which in ("first", "last")
            ),
            Contrast("constraint", "what micro balance would charge the global model, beyond its own charge",
                     {"global": 1.0, "micro": -1.0}, "extra_constraint", Superiority(), QUALITY, matched=EQUAL,
                     role="secondary", published=Published("no such figure", "follows from the two losses")),
        ),
    ),
    Claim(
        "C5",
        "A buffer of counts over gradient accumulation stands in for global balance when devices are few.",
        "quality",
        Published("7.214 (BSZ 128) -> 7.199 (128 and buffer); 7.198 (BSZ 512)", "buffer ablation, 3.4B on 400B tokens"),
        (
            Contrast("buffer", "the buffer has more than 70 % of the gain", share_of_gap("buffer", 0.7), PPL,
                     Superiority(), MAIN, "micro", matched=EQUAL, preconditions=(GAP,)),
            Contrast("buffer-gain", "the buffer against the same BSZ without", gain("bsz8", "buffer"), PPL,
                     Superiority(), LAPTOP_ONLY, "bsz8", matched=EQUAL, role="secondary",
                     published=Published("7.214 -> 7.199", "buffer ablation", 100 * (1 - 7.199 / 7.214))),
        ),
    ),
    Claim(
        "C6",
        "Global balance costs little: one all-reduce of the expert counts per layer, and some local imbalance, which "
        "1 % of micro loss takes back.",
        "cost",
        Published("1.55 s per step (micro), 1.64 (global, +5.8 %, of which about 1 % communication), 1.59 (with 1 % "
                  "micro, +2.6 %); perplexity 5.862, 5.779, 5.795", "43B, time per step"),
        (
            *(
                Computed(f"bytes-{n}", f"bytes of counts per layer and all-reduce, {n} experts",
                         f"allreduce_bytes_{n}", 4.0 * n, 0.0, " B", role="secondary",
                         published=Published(f"a vector of {n} numbers instead of the selection matrix", "method"))
                for n in (64, 160)
            ),
            *(
                Computed(f"tokens-{name}", f"training tokens of the {name}B setting, steps x batch x length",
                         f"tokens_b_{name}", float(name), 0.05, "B", role="secondary",
                         published=Published(f"{name}B tokens", "setup"))
                for name in (120, 400)
            ),
            *(
                Computed(f"step-{name}", f"step time of {words}, above micro, from the seconds in the table",
                         f"step_overhead_{name}", figure, 0.05 / figure, "%", role="secondary",
                         published=Published(f"+{figure} %", "43B, time per step"))
                for name, words, figure in (("global", "global balance", 5.8), ("combined", "the combined loss", 2.6))
            ),
            Contrast("local", "load imbalance within a micro-batch: global minus combined", gain("global", "combined"),
                     "local_imbalance", Superiority(), MAIN, unit=" max/mean", matched=EQUAL,
                     published=Published("step time 1.64 -> 1.59 s", "43B, time per step")),
            Contrast("combined", "the combined loss costs no more than 0.5 % of perplexity", gain("global", "combined"),
                     PPL, NonInferiority(0.5), MAIN, "global", matched=EQUAL,
                     published=Published("5.779 -> 5.795", "43B, time per step", 100 * (1 - 5.795 / 5.779))),
        ),
        untested="Step times need expert-parallel training of the 43B model; what is measured here is their cause, the "
        "imbalance within a micro-batch. Bytes and arithmetic on the table's seconds cannot fail and decide nothing.",
    ),
)  # fmt: skip

#: The paper does not give the shape of its 3.4B model; this one has its 64 experts, top-4, 4 shared, and its size.
PUBLISHED_SHAPE = {
    "experts": 64, "k": 4, "shared": 4, "width": 768, "layers": 20, "hidden": 1024, "heads": 16, "vocab": 151936,
    "tied": True, "batch": 512, "micro_batch": 4, "sequence": 4096, "steps": 60000, "lr": 1e-3, "weight": 0.008,
    "warmup": 0.01, "schedule": "cosine", "dtype": "bfloat16", "evaluations": 60, "eval_batches": 1,
}  # fmt: skip
GPU_SHAPE = {
    "experts": 64, "k": 4, "shared": 1, "width": 128, "layers": 6, "hidden": 512, "heads": 8, "batch": 64,
    "sequence": 512, "micro_batch": 4, "steps": 1500, "lr": 1e-3, "schedule": "cosine", "dtype": "bfloat16",
    "evaluations": 20,
}  # fmt: skip

PAPER = Paper(
    slug="global_lbl",
    title="Demons in the Detail: On Implementing Load Balancing Loss for Training Specialized Mixture-of-Expert Models",
    short="Global-batch LBL",
    area="MoE language models",
    arxiv="2501.11873",
    year=2025,
    venue="ACL 2025",
    idea="The load-balancing loss of a mixture of experts counts which share of the tokens each expert gets. Counted "
    "over a micro-batch, which often holds one domain, it forces every domain to use all experts alike. Counted over "
    "the global batch, by exchanging one number per expert, it only asks for balance over the whole mix, and experts "
    "are free to specialise.",
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
                "width": 8,
                "experts": 8,
                "sequence": 24,
                "evaluations": 1,
                "eval_batches": 1,
            },
            seeds=1,
            time_limit=300,
        ),
        # the other arms run when they are named: --arms late,micro-half,micro-eighth,bias-micro,bias-global
        "laptop": Preset(
            arms={
                "domains": ("micro", "bsz4", "bsz8", "global", "shuffle", "buffer", "combined", "micro-wider"),
                "domains-light": ("micro", "global"),
            },
            seeds=4,
        ),
        "gpu": Preset(
            GPU_SHAPE,
            settings=("slimpajama-domains",),
            time_limit=3600,
            memory_limit=64 * 2**30,
            needs="one data-centre GPU with 40 GiB; SlimPajama-6B and the DeepSeek-V2-Lite tokenizer from the hub",
        ),
        "published": Preset(
            PUBLISHED_SHAPE,
            settings=("slimpajama-domains",),
            time_limit=60 * 24 * 3600,
            memory_limit=2048 * 2**30,
            needs="about 950 A100 hours per arm and seed; SlimPajama-6B by source and a tokenizer from the hub (the "
            "paper has 120B or 400B tokens of its own)",
        ),
    },
    experiment="papers.global_lbl.experiment.run",
    accounting="papers.global_lbl.published.accounting",
    departures=(
        "Laptop models have hidden size 32, 2 layers, 16 routed experts of width 8, top-2, and 2 shared ones, so that "
        "the experts are full; the domains are small and very different.",
        "At laptop scale a step is one pass over all its micro-batches and the loss is formed per micro-batch, pooled "
        "or shuffled in it, so that all arms do the same work; true accumulation runs in the buffer arm, several "
        "processes in the tests.",
        "The loss is normalised to 1 at perfect balance, whatever K; the paper does not say how it normalises.",
        "The paper trains each model once; here every arm runs on three seeds or more with the same data order and "
        "initial weights.",
        "The monotone fall of C3 is decided by Page's trend test over seeds.",
    ),
    primary_metric=PPL,
    metrics={
        "perplexity": "exp of the held-out cross-entropy, per byte at laptop scale",
        "loss": "held-out cross-entropy in nats, domains in equal shares",
        "final_loss": "held-out cross-entropy at the last evaluation, nats",
        "accuracy": "share of held-out tokens predicted exactly",
        "domain_information": "bits that the selected expert tells about the domain, mean over layers",
        "shuffled_information": "the same with domains dealt to the tokens at random",
        "domain_peak": "largest frequency of an expert on a domain over that at even use, over all layers",
        "top_score_sum": "sum of the scores of the selected experts, mean over tokens and layers",
        "top_score_sum_first": "the same in the first layer",
        "top_score_sum_last": "the same in the last layer",
        "imbalance": "largest over mean expert load on all held-out text, worst layer",
        "local_imbalance": "largest over mean expert load within a micro-batch, mean over micro-batches and layers",
        "extra_constraint": "micro loss minus global loss on held-out text: the covariance over micro-batches of "
        "selection and score, mean over layers",
    },
)
