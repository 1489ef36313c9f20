"""X-LoRA (arXiv 2402.07148): facts, arms, settings, claims. Data only; imports no torch."""

from __future__ import annotations

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

    data: str = "markov"  # or names of language data sets, joined by +, each a domain
    # what mixes: base | single | own | uniform (no head) | module | token | sequence | prefix | embedding | constant |
    # shuffled
    gate: str = "module"
    # the head
    depth: int = 1
    size: int = 2048
    top_k: int = 0  # 0: all
    batch: int = 16
    steps: int = 150
    trained: bool = True
    lr: float = 3e-2
    warmup: float = 0.05
    schedule: str = "cosine"
    clip: float = 1.0
    autocast: str = "float32"  # float32 | bfloat16
    evaluations: int = 4
    eval_batch: int = 64
    # rows
    sequence: int = 64
    spliced: float = 0.0  # share of the training rows that are spliced
    piece: int = 16  # targets after which a spliced row changes its domain
    test: int = 512  # rows of each kind
    # the bench of Markov sources
    same: bool = False  # all adapters and rows of one domain
    symbols: int = 12
    tilt: float = 0.5
    domains: int = 4
    others: int = 8
    share: float = 0.1  # of pretraining's rows, from the domains
    layers: int = 4
    hidden: int = 64
    base_steps: int = 450
    base_batch: int = 32
    base_lr: float = 8e-3
    rank: int = 4
    adapter_steps: int = 120
    adapter_lr: float = 2e-2
    # published models
    model: str = "HuggingFaceH4/zephyr-7b-beta"
    adapters: str = "lamm-mit/x-lora"
    folders: str = ""
    dtype: str = "bfloat16"
    limit: int = 0


#: On published models every head has the setting's rate.
HUB_RATE = {scale: {"lr": 1e-4} for scale in ("gpu", "published")}
ARMS = (
    Arm("x-lora", "X-LoRA: gates per token and module", "method"),
    Arm("token", "gates per token, the same for all modules", "ablation",
        {"gate": "token", "lr": 1e-2}, HUB_RATE),
    Arm("sequence", "gates per module, one set for a whole row", "baseline",
        {"gate": "sequence", "lr": 1e-2}, HUB_RATE),
    Arm("prefix", "gates from the mean over the tokens so far", "ablation",
        {"gate": "prefix", "lr": 1e-2}, HUB_RATE),
    Arm("embedding", "gates from the token's input embedding", "ablation",
        {"gate": "embedding", "lr": 1e-2}, HUB_RATE),
    Arm("constant", "a learned mixture, the same for all tokens", "baseline",
        {"gate": "constant", "lr": 3e-1}, HUB_RATE),
    Arm("shuffled", "gates from another token's hidden state", "control", {"gate": "shuffled"}),
    Arm("untrained", "X-LoRA before training", "control", {"trained": False}),
    Arm("uniform", "all adapters with weight 1 / n", "baseline", {"gate": "uniform"}),
    Arm("single", "the best single adapter, in hindsight", "baseline", {"gate": "single"}),
    Arm("own", "each domain's own adapter, told which", "baseline", {"gate": "own"}),
    Arm("base", "the base model, no adapter", "baseline", {"gate": "base"}),
)  # fmt: skip

FOLDERS = " ".join(f"adapter_{i}" for i in range(1, 10))
SETTINGS = (
    Setting(
        "sources",
        "Four Markov sources",
        "markov",
        "generated",
        note="A small Llama pretrained on order-2 Markov sources, and one LoRA adapter for each of four others; stands "
        "in for Zephyr and its nine scientific adapters. Some tokens tell the source, and another source's adapter "
        "is of no use. Heads are trained on rows of one source each.",
    ),
    Setting(
        "spliced",
        "Four Markov sources, spliced",
        "markov",
        "generated",
        {"spliced": 0.5},
        note="The same model and adapters; half of the rows that heads are trained on change their source every 16 "
        "tokens.",
    ),
    Setting(
        "one-source",
        "One source (negative control)",
        "markov",
        "generated",
        {"same": True, "spliced": 0.5},
        note="The same base with four adapters of one source, from other first weights and rows: there is nothing to "
        "tell apart, so that gates that depend on the token have no reason to help.",
    ),
    Setting(
        "zephyr",
        "Zephyr-7B and its nine adapters",
        "text",
        "real",
        {
            "data": "gsm8k+metamath+alpaca-gpt4", "folders": FOLDERS, "sequence": 512, "piece": 128, "batch": 4,
            "steps": 2000, "lr": 1e-4, "spliced": 0.25, "test": 300, "eval_batch": 4,
            "autocast": "bfloat16",
        },
        default=False,
        note="The released adapters, with public text for three domains: what the authors trained the head on is not "
        "released. Losses are those of the text itself, as its source is not known.",
    ),
)  # fmt: skip
MAIN, MIXED, CONTROL = ("sources", "zephyr"), ("spliced", "zephyr"), ("one-source",)

TOKENS = (Match("eval_tokens"),)
TRAINED = (*TOKENS, Match("train_tokens"))
#: Arms whose heads have as many parameters.
HEADS = (*TRAINED, Match("params_head"))
NATS = " nats per token"
LEARNED = Precondition(
    "a domain's own adapter is 0.1 nats better than the base model", {"base": 1.0, "own": -1.0}, "excess_pure", -0.1
)
APART = Precondition(
    "the best single adapter is 0.1 nats worse than each domain's own", {"single": 1.0, "own": -1.0}, "excess_pure",
    -0.1,
)  # fmt: skip
#: Nats per token beyond which a negative control trips: a tenth of what the preconditions ask for.
NUISANCE = 0.01


def gain(
    name: str, title: str, worse: str, better: str, metric: str, settings: tuple[str, ...] = MAIN, *,
    role: Any = "primary", rule: Any = None, matched: tuple[Match, ...] = TOKENS, offset: float = 0.0,
    conditions: tuple[Precondition, ...] = (LEARNED, APART), relative_to: str | None = None,
) -> Contrast:  # fmt: skip
    """Excess loss of one arm minus that of the other: positive when the second is better."""
    return Contrast(
        name, title, {worse: 1.0, better: -1.0}, metric, rule or Superiority(), settings, matched=matched,
        preconditions=conditions, role=role, unit=NATS, offset=offset, relative_to=relative_to,
    )  # fmt: skip


def gates(
    name: str, title: str, sign: float, metric: str, offset: float, *, role: Any = "primary", arm: str = "x-lora",
    unit: str = "",
) -> Contrast:  # fmt: skip
    """A statistic of the gates of one arm against a fixed value."""
    return Contrast(
        name, title, {arm: sign}, metric, Superiority(), MAIN, offset=offset, matched=TOKENS, role=role, unit=unit,
    )  # fmt: skip


PAGE, CODE = "released configuration and files of the models", "the method's released code"
REVIEW = "third-party summary of the paper"
DERIVED = "arithmetic from the released configuration and file sizes"
NO_FIGURE = "the paper as quoted gives no isolated figure"
CLAIMS = (
    Claim(
        "C1",
        "With all adapters frozen, training the scaling head alone gives one model that is at least as good on every "
        "domain as that domain's own adapter, and better than the base model and than uniform mixing.",
        "quality",
        Published(
            "better recall and reasoning than the base model on questions of the domains; R2 = 0.85 on a protein "
            "property (from a third-party summary)",
            f"abstract; {REVIEW}",
        ),
        (
            gain("own", "second half of a row: each domain's own adapter minus X-LoRA, in percent of its excess: mean "
                 "at least -5, interval above -10", "own", "x-lora", "excess_settled", relative_to="own",
                 rule=NonInferiority(10.0, -5.0)),
            gain("own-whole", "whole rows, the first tokens included, which tell no domain: the same", "own", "x-lora",
                 "excess_pure", relative_to="own", rule=NonInferiority(10.0, -5.0)),
            gain("uniform", "second half: uniform mixing minus X-LoRA", "uniform", "x-lora", "excess_settled"),
            gain("base", "second half: base model minus X-LoRA", "base", "x-lora", "excess_settled"),
            gain("single", "whole rows of all domains: best single adapter minus X-LoRA", "single", "x-lora",
                 "excess_pure"),
            Contrast("worst", "second half, the domain that fares worst: excess above that of its own adapter, 10 % "
                     "allowed", {"x-lora": -1.0}, "worst_percent", Superiority(), MAIN, offset=10.0, matched=TOKENS,
                     preconditions=(LEARNED, APART), role="secondary", unit=" %"),
            gain("constant", "second half: a learned mixture that is the same for all tokens, minus X-LoRA",
                 "constant", "x-lora", "excess_settled", matched=HEADS, role="secondary"),
            gain("embedding", "second half: gates from the input embedding minus gates from the last hidden state",
                 "embedding", "x-lora", "excess_settled", matched=HEADS, role="secondary"),
            gain("shuffled", "negative control: one learned mixture for all tokens minus gates from another token's "
                 f"hidden state, beyond {NUISANCE} nats", "constant", "shuffled", "excess_settled", role="control",
                 matched=HEADS, offset=-NUISANCE),
            gain("one-source", "negative control, one source for all: one learned mixture for all tokens minus "
                 f"X-LoRA, beyond {NUISANCE} nats", "constant", "x-lora", "excess_settled", CONTROL,
                 role="control", matched=HEADS, offset=-NUISANCE, conditions=()),
            gain("one-source-uniform", "one source for all: uniform mixing minus X-LoRA", "uniform", "x-lora",
                 "excess_settled", CONTROL, role="secondary", conditions=()),
        ),
        untested="Questions of the sciences and protein mechanics need models of published size and data that are not "
        "released; next-token loss on sources whose own loss is known stands in for them.",
        headline=True,
    ),
    Claim(
        "C2",
        "Gates per token and module are of use beyond gates per sequence: on inputs that mix domains within a sequence "
        "they beat any mixture that is one for the sequence.",
        "quality",
        Published("stated as an advantage of the design", NO_FIGURE),
        (
            gain("sequence", "spliced rows: gates per row and module minus gates per token and module, heads of one "
                 "size", "sequence", "x-lora", "excess_spliced", MIXED, matched=HEADS),
            gain("single", "spliced rows: best single adapter minus X-LoRA", "single", "x-lora",
                 "excess_spliced", MIXED, role="secondary"),
            gain("token", "spliced rows: gates per token minus gates per token and module", "token", "x-lora",
                 "excess_spliced", MIXED, matched=TRAINED, role="secondary"),
            gain("prefix", "spliced rows: gates from the mean over the tokens so far minus gates from the token",
                 "prefix", "x-lora", "excess_spliced", MIXED, matched=HEADS, role="secondary"),
            gain("sequence-token", "spliced rows: gates per row and module minus gates per token alone", "sequence",
                 "token", "excess_spliced", MIXED, matched=TRAINED, role="secondary"),
            gain("own", "spliced rows: each piece's own adapter, told which, minus X-LoRA", "own", "x-lora",
                 "excess_spliced", MIXED, role="secondary"),
            gain("pure", "negative control, no row mixes domains, in training or test (second half): gates from the "
                 f"mean over the tokens so far minus gates from the token, beyond {NUISANCE} nats", "prefix", "x-lora",
                 "excess_settled", ("sources",), matched=HEADS, role="control", offset=-NUISANCE),
            gain("one-source", "negative control, one source for all: one learned mixture for all tokens minus X-LoRA, "
                 f"beyond {NUISANCE} nats", "constant", "x-lora", "excess_spliced", CONTROL, matched=HEADS,
                 role="control", offset=-NUISANCE, conditions=()),
        ),
        untested="'Any' mixture that is one for the sequence cannot be tried: one that is trained to read the whole "
        "row, which sees what is still to come, stands for it.",
    ),
    Claim(
        "C3",
        "What is trained is tiny: 5.90 million parameters for a base of 7.24 billion with nine adapters.",
        "cost",
        Published("5,899,680 parameters, 0.08 % of the base; a head file of 11.8 MB in 16 bits", f"{PAGE}; {DERIVED}"),
        (
            Computed("head", "parameters of the head of Zephyr: depth 1, 9 adapters, 160 modules", "head_zephyr-7b",
                     5_899_680, 0.0, published=Published("5,899,680", DERIVED)),
            Computed("file", "megabytes of that head in 16 bits", "head_mb_zephyr-7b", 11.8, 0.005, " MB",
                     published=Published("11.8 MB", PAGE)),
            Computed("share", "percent of the base model's parameters", "head_percent_zephyr-7b", 0.0815, 0.001, " %",
                     published=Published("0.0815 % of 7,241,732,096", DERIVED)),
            Computed("file-gemma", "megabytes of the head of Gemma: depth 2, size 2048, 4 adapters, 196 modules",
                     "head_mb_gemma-7b", 15.8, 0.005, " MB", published=Published("15.8 MB", PAGE)),
        ),
        untested="Which five modules of a block are adapted, and the rank, are in none of the sources read; the head's "
        "size depends on neither.",
    ),
    Claim(
        "C4",
        "The price is two forward passes per step.",
        "cost",
        Published("about twice the work of reading a prompt; no cache in generation", f"{REVIEW}; {CODE}"),
        (
            Contrast("flops", "FLOPs of reading a row here: X-LoRA over one adapter, between 1.8 and 2.3",
                     {"x-lora": 1.0, "own": -2.05}, "forward_mflops_per_token", Equivalence(25.0), MAIN, "own",
                     matched=TOKENS),
            Computed("zephyr-16", "Zephyr-7B, nine adapters of rank 16 on q, k, v, o and gate, 512 tokens: FLOPs over "
                     "those with one of them", "flops_ratio_r16_zephyr-7b", 2.0, 0.1, "x",
                     published=Published("two passes", CODE, 2.0)),
            Computed("zephyr-64", "the same with rank 64", "flops_ratio_r64_zephyr-7b", 2.0, 0.1, "x",
                     role="secondary", published=Published("two passes", CODE, 2.0)),
        ),
        untested="Seconds are kept in the profile and decide nothing: other processes share the machine. What "
        "generation without a cache costs has no published figure; the accounting has it. Tolerances were set when the "
        "figures of the accounting were known.",
    ),
    Claim(
        "C5",
        "Mixing is heterogeneous: weights differ across tokens and depth and several adapters are active at once, "
        "without collapse to one adapter.",
        "behaviour",
        Published("shown as heat maps", "readme and model page; no figure"),
        (
            gates("tokens", "share of the gates' variance that lies between tokens, beyond a tenth", -1.0,
                  "module_variance", 90.0, unit=" %"),
            gates("depth", "share that lies between modules, beyond a tenth", 1.0, "module_variance", -10.0, unit=" %"),
            gates("collapse", "half minus the mean gate of the adapter that has most", -1.0, "largest_share", 0.5),
            gates("above", "entropy of the gates over log n, minus 0.05", 1.0, "gate_entropy", -0.05),
            gates("below", "0.95 minus that", -1.0, "gate_entropy", 0.95),
            Contrast("sharper", "entropy over log n before training minus after", {"untrained": 1.0, "x-lora": -1.0},
                     "gate_entropy", Superiority(), MAIN, matched=TOKENS, role="secondary"),
            Contrast("own", "mean gate of the domain's own adapter, after training minus before",
                     {"x-lora": 1.0, "untrained": -1.0}, "own_share", Superiority(), MAIN, matched=TOKENS,
                     role="secondary"),
            gates("untrained-tokens", "negative control: share of the variance that lies between tokens before "
                  "training, beyond a tenth", -1.0, "module_variance", 90.0, role="control", arm="untrained",
                  unit=" %"),
            gates("untrained", "negative control: 0.95 minus the entropy over log n before training", -1.0,
                  "gate_entropy", 0.95, role="control", arm="untrained"),
            gates("constant", "negative control: 0.95 minus the entropy over log n of one learned mixture for all "
                  "tokens", -1.0, "gate_entropy", 0.95, role="control", arm="constant"),
        ),
    ),
)  # fmt: skip

LAPTOP = (
    "x-lora", "sequence", "prefix", "embedding", "constant", "shuffled", "untrained", "uniform", "single", "own",
    "base",
)  # fmt: skip
LAPTOP_MIXED = ("x-lora", "token", "sequence", "prefix", "single", "own", "base")
LAPTOP_CONTROL = ("x-lora", "sequence", "constant", "uniform")
HUB_ARMS = ("x-lora", "token", "sequence", "prefix", "constant", "uniform", "single", "own", "base")
METRICS = {
    "loss": "excess on rows of the kinds that heads are trained on, pure or both, nats per token",
    "excess_pure": "loss above that of the source, rows of one domain, nats per token",
    "excess_settled": "the same in the second half of those rows",
    "excess_spliced": "the same in rows that change their domain",
    "worst_percent": "second half: excess above that of the domain's own adapter, the worst domain, percent",
    "gate_entropy": "entropy of the gates over log n, mean over tokens of both kinds of rows and modules",
    "active_adapters": "exp of that entropy, before it is divided: adapters that share a token and module",
    "module_variance": "variance of the gates between the modules of one token, percent of all their variance",
    "largest_share": "mean gate of the adapter that has most",
    "own_share": "mean gate of the adapter of the target's domain",
    "forward_mflops_per_token": "FLOPs of matrix products to read a token without a cache, in millions",
}

PAPER = Paper(
    slug="x_lora",
    title="X-LoRA: Mixture of Low-Rank Adapter Experts, a Flexible Framework for Large Language Models with "
    "Applications in Protein Mechanics and Molecular Design",
    short="X-LoRA",
    area="Mixtures of adapters",
    arxiv="2402.07148",
    year=2024,
    venue="APL Machine Learning 2024",
    code="EricLBuehler/xlora",
    idea="Freeze a language model and LoRA adapters that were trained apart; train only a small head that reads the "
    "model's last hidden state and mixes the adapters by a softmax, anew for every token and every adapted layer.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {
                "domains": 2, "others": 2, "layers": 2, "hidden": 16, "symbols": 6, "sequence": 24, "piece": 6,
                "base_steps": 20, "base_batch": 8, "adapter_steps": 10, "steps": 6, "batch": 8, "test": 16,
                "evaluations": 1,
            },
            arms={"sources": LAPTOP, "spliced": LAPTOP_MIXED, "one-source": LAPTOP_CONTROL},
            seeds=1,
            time_limit=300,
        ),
        "laptop": Preset(
            arms={"sources": LAPTOP, "spliced": LAPTOP_MIXED, "one-source": LAPTOP_CONTROL}, seeds=5, time_limit=900
        ),
        "gpu": Preset(
            {"steps": 300, "test": 90, "limit": 4000},
            settings=("zephyr",),
            arms={"zephyr": ("x-lora", "sequence", "uniform", "own", "base")},
            time_limit=3600,
            memory_limit=64 * 2**30,
            needs="one GPU with 40 GiB; Zephyr-7B, the released adapters, GSM8K, MetaMathQA and Alpaca-GPT4",
        ),
        "published": Preset(
            settings=("zephyr",),
            arms={"zephyr": HUB_ARMS},
            time_limit=24 * 3600,
            memory_limit=128 * 2**30,
            needs="one GPU with 80 GiB, hours; Zephyr-7B, the released adapters, GSM8K, MetaMathQA and Alpaca-GPT4",
        ),
    },
    experiment="papers.x_lora.experiment.run",
    accounting="papers.x_lora.published.accounting",
    departures=(
        "A small Llama pretrained here on Markov sources, with adapters for four of them, stands in for Zephyr and its "
        "nine adapters; loss above the source's own for the benchmarks.",
        "C1 is judged on the second half of the rows, where what came before can tell the domain, and as a part of its "
        "own on whole rows, where the first tokens tell nothing.",
        "The gates of a sequence are made of the mean over the whole row, which sees what is still to come.",
        "A learned constant mixture, gates from another token's state, and adapters of one source are added.",
    ),
    primary_metric="loss",
    metrics=METRICS,
)  # fmt: skip
