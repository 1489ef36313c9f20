"""NoProp (arXiv 2503.24322): facts, arms, settings, claims. Data only; imports no torch."""

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

    data: str = "digits"
    labels: str = "true"  # true | random: in random order, nothing to learn
    train_images: int = 0  # 0: all
    validation: int = 0  # images of real data that are held out to choose by; 0: the data set's own number
    learner: str = "dt"  # dt | ct | fm | chain | ode | cnn | mlp | ff | dfa
    # the network
    shape: str = "small"  # small | published: widths of a block
    blocks: int = 5  # T
    embedding: str = "one-hot"  # one-hot | learned | prototype
    dim: int = 20  # d of a learned embedding
    head: str = "linear"  # linear | radial
    head_scale: float = 5.0  # with which the head starts at the embedding; 0: at random
    dropout: float = 0.2
    gate: float = 0.5  # alpha_t of the gated chain at the start
    hidden: int = 500  # width of both hidden layers of mlp, ff and dfa
    # the method
    eta: float = 0.1
    eta_ct: float = 1.0
    gamma_first: float = 5.0  # of the learned schedule at the start: minus the log of the signal-to-noise ratio
    gamma_last: float = -4.0
    blind: bool = False  # z is pure noise
    only: int = 0  # train this block alone; 0: all, -1: the last
    inference_steps: int = 50  # of ct and fm
    ode_steps: int = 20
    # training
    budget: str = "blocks"  # blocks | epochs | flops | time: what a training is as long as
    epochs: int = 16
    flow_epochs: int = 0  # of ct and fm, and of ode, where the budget is epochs
    ode_epochs: int = 0
    slower: str = ""  # by data: time of a step over that of a step of NoProp-DT, for the budget time
    batch: int = 64
    lr: float = 0.0  # 0: that of `rates` for the data
    rates: str = "digits=1e-2 worn-glyphs=1e-2"  # the best of one grid for all arms on tuning seeds, as the arms' own
    warmup: float = 0.05
    schedule: str = "linear"
    weight_decay: float = 1e-3
    # measuring
    evaluations: int = 4
    draws: int = 2  # stochastic inferences that accuracy is the mean of
    test_batch: int = 500


def by_data(text: str, data: str) -> float:
    """The entry for ``data`` in a text of ``name=number``. Raises ValueError without one."""
    found = dict(pair.split("=") for pair in text.split())
    if data not in found:
        raise ValueError(f"nothing is given for {data} in {text!r}")
    return float(found[data])


def learning_rate(config: Config) -> float:
    """The learning rate of a run. Raises ValueError when neither ``lr`` nor ``rates`` gives one for the data."""
    return config.lr or by_data(config.rates, config.data)


#: The paper trains every arm for so many epochs; one of NoProp-DT is a pass over the data for every block.
EPOCHS = {scale: {"budget": "epochs"} for scale in ("gpu", "published")}
CHAIN: dict[str, Any] = {"learner": "chain"}
CT: dict[str, Any] = {"learner": "ct", "rates": "digits=3e-3 worn-glyphs=3e-3"}
ODE: dict[str, Any] = {"learner": "ode", "budget": "time"}
FM: dict[str, Any] = {"learner": "fm", "rates": "digits=1e-2 worn-glyphs=3e-3"}
ARMS = (
    Arm("noprop", "NoProp-DT", "method"),
    Arm("noprop-prototype", "NoProp-DT, prototype embeddings", "method", {"embedding": "prototype"}),
    Arm("bp-steps", "back-propagation through the blocks, equal steps", "baseline",
        {**CHAIN, "rates": "digits=1e-2 worn-glyphs=3e-3"}),
    Arm("bp", "back-propagation through the blocks, equal FLOPs", "baseline", {**CHAIN, "budget": "flops"}, EPOCHS),
    Arm("bp-random-head", "the same, head started at random", "baseline",
        {**CHAIN, "budget": "flops", "head_scale": 0.0, "rates": "digits=3e-3 worn-glyphs=1e-2"}, EPOCHS),
    Arm("bp-prototype", "the same, prototype embeddings", "baseline",
        {**CHAIN, "budget": "flops", "embedding": "prototype"}, EPOCHS),
    Arm("bp-time", "back-propagation through the blocks, equal time", "baseline",
        {**CHAIN, "budget": "time", "slower": "digits=3.3 worn-glyphs=3.75"}),
    Arm("bp-even", "back-propagation through the blocks, as long as NoProp-DT by the clock", "baseline",
        {**CHAIN, "budget": "time", "slower": "digits=4.5 worn-glyphs=4.4"}),
    Arm("cnn", "plain CNN of one block's size", "baseline", {"learner": "cnn"}),
    Arm("mlp", "MLP by back-propagation", "baseline",
        {"learner": "mlp", "budget": "flops", "rates": "digits=3e-3 worn-glyphs=1e-2"}),
    Arm("ff", "Forward-Forward", "baseline",
        {"learner": "ff", "budget": "flops", "rates": "digits=1e-1 worn-glyphs=3e-2"}),
    Arm("dfa", "direct feedback alignment", "baseline",
        {"learner": "dfa", "budget": "flops", "rates": "digits=3e-3 worn-glyphs=3e-3"}),
    Arm("noprop-blind", "NoProp-DT, z hidden from the blocks", "ablation", {"blind": True}),
    Arm("noprop-last", "NoProp-DT, last block alone trained", "control", {"only": -1}),
    Arm("noprop-ct", "NoProp-CT", "method", CT, EPOCHS),
    Arm("noprop-ct-low", "NoProp-CT, schedule that starts with e for the last signal-to-noise ratio", "method",
        {**CT, "gamma_last": -1.0}, EPOCHS),
    Arm("noprop-fm", "NoProp-FM", "method", FM, EPOCHS),
    Arm("noprop-fm-learned", "NoProp-FM, learned embeddings", "method", {**FM, "embedding": "learned"}, EPOCHS),
    Arm("ode", "neural ODE, equal time", "baseline",
        {**ODE, "slower": "digits=3 worn-glyphs=2.4"}, EPOCHS),
    Arm("ode-fm", "neural ODE, as long as NoProp-FM by the clock", "baseline",
        {**ODE, "slower": "digits=4.5 worn-glyphs=3.2"}),
    Arm("ode-dt", "neural ODE, as long as NoProp-DT by the clock", "baseline",
        {**ODE, "slower": "digits=4.1 worn-glyphs=3"}),
)  # fmt: skip

PUBLISHED: dict[str, Any] = {
    "shape": "published", "blocks": 10, "batch": 128, "lr": 1e-3, "warmup": 0.0, "schedule": "constant",
    "inference_steps": 1000, "ode_steps": 1000, "evaluations": 10, "draws": 5, "test_batch": 2000,
    "validation": 5000,
}  # fmt: skip
SETTINGS = (
    Setting(
        "digits", "Digits", "digits", "bundled", {"data": "digits"},
        note="Scikit-learn's handwritten digits, 8 x 8, split anew for every seed; stands in for MNIST.",
    ),
    Setting(
        "worn-glyphs", "Worn glyphs", "worn-glyphs", "generated", {"data": "worn-glyphs", "epochs": 4},
        note="Ten classes of four strokes, 12 x 12, shifted, partly covered and noisy, drawn anew for every seed; "
        "stands in for CIFAR, with room between what ways of training reach.",
    ),
    Setting(
        "digits-random", "Digits with labels at random (negative control)", "digits", "bundled",
        {"data": "digits", "labels": "random"},
        note="The labels of every split in random order: whatever is above chance is a leak of the label that NoProp "
        "feeds to its blocks.",
    ),
    Setting(
        "mnist", "MNIST", "mnist", "real",
        {**PUBLISHED, "data": "mnist", "epochs": 100, "flow_epochs": 100, "ode_epochs": 2}, default=False,
        note="5,000 of the 60,000 training images are held out to choose by.",
    ),
    Setting(
        "cifar10", "CIFAR-10", "cifar10", "real",
        {**PUBLISHED, "data": "cifar10", "epochs": 150, "flow_epochs": 500, "ode_epochs": 4}, default=False,
        note="5,000 of the 50,000 training images are held out to choose by; no augmentation.",
    ),
    Setting(
        "cifar100", "CIFAR-100", "cifar100", "real",
        {**PUBLISHED, "data": "cifar100", "epochs": 150, "flow_epochs": 1000, "ode_epochs": 4}, default=False,
        note="As CIFAR-10.",
    ),
)  # fmt: skip
SMALL = ("digits", "worn-glyphs")
RANDOM = ("digits-random",)
CIFAR = ("cifar10", "cifar100")
REAL = ("mnist", *CIFAR)

TABLE = "Table 1"
POINTS = " points"
SIZE = Match("params_total", 0.001)
STEPS = (Match("train_steps"), Match("train_samples"), SIZE)
FLOPS = Match("train_flops", 0.1)
TIME = Match("train_s", 0.5)
#: Of arms whose length was set method by method, by the step times of earlier records and by no accuracy.
EVEN = Match("train_s", 0.15)
#: NoProp-DT may be so many points behind and still count as matching.
MARGIN = 1.0


def valid(arm: str) -> Precondition:
    """That a baseline is no straw man."""
    return Precondition(
        "back-propagation through the blocks is within 2 points of a plain CNN of one block's size",
        {arm: 1.0, "cnn": -1.0}, "accuracy", 2.0,
    )  # fmt: skip


def gain(
    name: str, title: str, method: str, baseline: str, settings: tuple[str, ...] = SMALL, *, rule: Any = None,
    metric: str = "accuracy", role: Any = "primary", matched: tuple[Match, ...] = (), published: Any = None,
    conditions: tuple[Precondition, ...] = (),
) -> Contrast:  # fmt: skip
    """Points of test accuracy of ``method`` minus those of ``baseline``."""
    return Contrast(
        name, title, {method: 1.0, baseline: -1.0}, metric, rule or Superiority(), settings, matched=matched,
        preconditions=conditions, role=role, unit=POINTS, published=published,
    )  # fmt: skip


def above_chance(name: str, arm: str) -> Contrast:
    """The control that a label given to the blocks in training does not reach the answer."""
    return Contrast(
        name, f"negative control, labels at random: {arm} above chance", {arm: 1.0}, "accuracy", Superiority(), RANDOM,
        offset=-10.0, role="control", unit=POINTS,
    )  # fmt: skip


MATCHES = NonInferiority(MARGIN)
CLAIMS = (
    Claim(
        "C1",
        "NoProp-DT reaches the test accuracy of back-propagation through the same blocks.",
        "quality",
        Published(
            "one-hot: MNIST 99.47 +- 0.05 against 99.46 +- 0.06, CIFAR-10 79.25 +- 0.28 against 79.92 +- 0.14, "
            "CIFAR-100 45.93 +- 0.46 against 45.85 +- 2.07", TABLE,
        ),
        (
            gain("steps", "NoProp-DT minus back-propagation, equal steps", "noprop", "bp-steps", rule=MATCHES,
                 matched=STEPS, conditions=(valid("bp-steps"),)),
            gain("epochs", "NoProp-DT minus back-propagation, equal epochs as in the paper", "noprop", "bp", REAL,
                 rule=MATCHES, matched=(FLOPS, SIZE), conditions=(valid("bp"),)),
            gain("flops", "NoProp-DT minus back-propagation, equal FLOPs (the paper's equal epochs)", "noprop", "bp",
                 rule=MATCHES, matched=(FLOPS, SIZE), role="secondary"),
            gain("random-head", "NoProp-DT minus back-propagation whose head starts at random, equal FLOPs", "noprop",
                 "bp-random-head", (*SMALL, *REAL), rule=MATCHES, matched=(FLOPS, SIZE), role="secondary"),
            gain("time", "NoProp-DT minus back-propagation, about equal time", "noprop", "bp-time", rule=MATCHES,
                 matched=(TIME, SIZE), role="secondary"),
            gain("time-even", "NoProp-DT minus back-propagation, times within 15 %", "noprop", "bp-even", rule=MATCHES,
                 matched=(EVEN, SIZE), role="secondary"),
            gain("cnn", "NoProp-DT minus a plain CNN of one block's size, equal steps", "noprop", "cnn",
                 (*SMALL, *REAL), rule=MATCHES, matched=STEPS[:2], role="secondary",
                 published=Published("none", "the paper has no such baseline")),
            gain("prototype", "the same with prototype embeddings", "noprop-prototype", "bp-prototype", REAL,
                 rule=MATCHES, matched=(FLOPS, SIZE), role="secondary",
                 published=Published("99.54 / 80.54 / 46.06 against 99.44 / 79.58 / 47.80", TABLE)),
            Contrast(
                "depth", "what the chain adds to its first block, which has nothing but noise for z", {"noprop": 1.0},
                "depth_value", Superiority(), (*SMALL, *REAL), role="secondary", unit=POINTS,
                published=Published("none", "the paper does not measure single blocks"),
            ),
            gain("label-path", "NoProp-DT minus NoProp-DT with z hidden from its blocks", "noprop", "noprop-blind",
                 matched=STEPS, role="secondary", published=Published("none", "the paper has no such ablation")),
            gain("last", "negative control: the last block alone trained, minus back-propagation", "noprop-last",
                 "bp-steps", rule=MATCHES, matched=STEPS[:2], role="control"),
            above_chance("leak", "noprop"),
        ),
        headline=True,
    ),
    Claim(
        "C2",
        "NoProp-DT is more accurate than earlier methods without back-propagation.",
        "quality",
        Published(
            "MNIST: NoProp 99.47, Forward-Forward 98.63, forward gradient 97.45, difference target propagation 98.06; "
            "CIFAR-10: 79.25, -, 69.32, 50.71", TABLE,
        ),
        (
            gain("ff", "NoProp-DT minus Forward-Forward, equal FLOPs", "noprop", "ff", matched=(FLOPS,),
                 published=Published("99.47 - 98.63 (MNIST)", TABLE, 0.84)),
            gain("dfa", "NoProp-DT minus direct feedback alignment, equal FLOPs", "noprop", "dfa", matched=(FLOPS,),
                 published=Published("none", "the paper does not compare with it")),
            gain("mlp", "NoProp-DT minus the MLP of these methods trained by back-propagation: what its convolutions "
                 "are worth", "noprop", "mlp", matched=(FLOPS,), role="secondary",
                 published=Published("none", "the paper has no such baseline")),
            gain("random", "negative control, labels at random: NoProp-DT minus Forward-Forward", "noprop", "ff",
                 RANDOM, matched=(FLOPS,), role="control"),
        ),
        untested="The published figures are quoted from papers with other architectures; forward gradient and "
        "difference target propagation are not run. NoProp trains each block by ordinary back-propagation inside it, "
        "through convolutions, which the other methods do without.",
    ),
    Claim(
        "C3",
        "Training with NoProp-DT holds less memory than back-propagation through the same blocks.",
        "cost",
        Published("0.49 against 0.87 GB (MNIST), 0.64 against 1.17 (CIFAR-10), 1.23 against 1.73 (CIFAR-100)",
                  "memory of the process on a GPU, one-hot"),
        (
            *(
                Computed(
                    f"activations-{name}", f"activations of a step, back-propagation over NoProp, {title}: between T/2 "
                    "and T = 10", f"activation_ratio_{name}", 7.5, 1 / 3,
                    published=Published("no figure: all blocks against one", "Section 3"),
                )
                for name, title in (("mnist", "MNIST"), ("cifar10", "CIFAR-10"), ("cifar100", "CIFAR-100"))
            ),
            Contrast(
                "training", "weights, gradients, moments and activations at laptop size: back-propagation minus NoProp",
                {"bp-steps": 1.0, "noprop": -1.0}, "training_bytes", Superiority(), SMALL, "bp-steps", matched=(SIZE,),
                published=Published("0.87 -> 0.49 GB (MNIST)", "memory of the process on a GPU", 43.7),
            ),
            *(
                Computed(
                    f"saved-{name}", f"memory that back-propagation holds more, {title}, batch 128", f"saved_gb_{name}",
                    figure, 0.25, "GB", role="secondary", published=Published(text, "memory of the process on a GPU"),
                )
                for name, title, figure, text in (
                    ("mnist", "MNIST", 0.38, "0.87 - 0.49 GB"), ("cifar10", "CIFAR-10", 0.53, "1.17 - 0.64 GB"),
                    ("cifar100", "CIFAR-100", 0.50, "1.73 - 1.23 GB"),
                )
            ),
        ),
    ),
    Claim(
        "C4",
        "NoProp in continuous time is more accurate than a neural ODE trained for as long, and faster to train.",
        "quality",
        Published("CIFAR-10: 73.35 (CT), 73.14 (FM) against 66.78; CIFAR-100: 33.66 (CT) against 25.03",
                  f"{TABLE}; plots over time"),
        (
            gain("ct", "NoProp-CT minus a neural ODE, equal time", "noprop-ct", "ode", SMALL[:1], matched=(TIME,),
                 published=Published("73.35 - 66.78 (CIFAR-10)", TABLE, 6.57)),
            gain("ct-low", "NoProp-CT, schedule as tuned on worn glyphs, minus a neural ODE, equal time",
                 "noprop-ct-low", "ode", SMALL[1:], matched=(TIME,),
                 published=Published("73.35 - 66.78 (CIFAR-10)", TABLE, 6.57)),
            gain("ct-high", "NoProp-CT, schedule as tuned on digits, minus a neural ODE, equal time", "noprop-ct",
                 "ode", SMALL[1:], matched=(TIME,), role="secondary",
                 published=Published("73.35 - 66.78 (CIFAR-10)", TABLE, 6.57)),
            gain("fm-even", "NoProp-FM minus a neural ODE, times within 15 %", "noprop-fm", "ode-fm", matched=(EVEN,),
                 published=Published("73.14 - 66.78 (CIFAR-10)", TABLE, 6.36)),
            gain("fm", "NoProp-FM minus a neural ODE, trained up to 50 % longer", "noprop-fm", "ode", matched=(TIME,),
                 role="secondary", published=Published("73.14 - 66.78 (CIFAR-10)", TABLE, 6.36)),
            gain("ct-epochs", "NoProp-CT minus a neural ODE, the paper's epochs of each", "noprop-ct", "ode", CIFAR),
            Contrast(
                "step", "time of a training step: neural ODE minus NoProp-CT", {"ode": 1.0, "noprop-ct": -1.0},
                "step_s", Superiority(), (*SMALL, *CIFAR), "ode",
                published=Published("faster throughout", "plots over time"),
            ),
            gain("dt-even", "NoProp-DT minus a neural ODE, times within 15 %", "noprop", "ode-dt", matched=(EVEN,),
                 role="secondary", published=Published("79.25 - 66.78 (CIFAR-10)", TABLE, 12.47)),
            gain("dt", "NoProp-DT minus a neural ODE, trained up to 50 % longer", "noprop", "ode", matched=(TIME,),
                 role="secondary", published=Published("79.25 - 66.78 (CIFAR-10)", TABLE, 12.47)),
            gain("fm-learned", "NoProp-FM on CIFAR-100, learned embeddings minus one-hot", "noprop-fm-learned",
                 "noprop-fm", ("cifar100",), role="secondary",
                 published=Published("31.14 - 6.38", TABLE, 24.76)),
            gain("random", "negative control, labels at random: NoProp-CT minus a neural ODE", "noprop-ct", "ode",
                 RANDOM, matched=(TIME,), role="control"),
            above_chance("leak", "noprop-ct"),
        ),
        untested="The neural ODE is trained by back-propagation through Euler steps, 20 at laptop scale, and not by "
        "the adjoint method; the claim on memory and time of the adjoint method itself is not tested.",
    ),
    Claim(
        "C5",
        "Where NoProp-DT and back-propagation have the same test accuracy, NoProp-DT has the lower training accuracy.",
        "behaviour",
        Published("CIFAR-10, training accuracy 95.02 against 99.98", f"{TABLE}, not stated as a claim", 4.96),
        (
            gain("steps", "training accuracy: back-propagation minus NoProp-DT, equal steps", "bp-steps", "noprop",
                 metric="train_accuracy", matched=STEPS,
                 conditions=(Precondition("NoProp-DT is at most a point behind on test images",
                                          {"noprop": 1.0, "bp-steps": -1.0}, "accuracy", MARGIN),)),
            gain("epochs", "training accuracy: back-propagation minus NoProp-DT, equal epochs", "bp", "noprop", REAL,
                 metric="train_accuracy", matched=(FLOPS, SIZE),
                 conditions=(Precondition("NoProp-DT is at most a point behind on test images",
                                          {"noprop": 1.0, "bp": -1.0}, "accuracy", MARGIN),)),
        ),
    ),
)  # fmt: skip

METRICS = {
    "error": "error on validation images, percent: what settings were chosen by",
    "loss": "cross-entropy of the scores on validation images, nats",
    "accuracy": "accuracy on test images, mean over inferences, percent",
    "train_accuracy": "accuracy on 1,000 training images, percent",
    "activation_bytes": "what autograd keeps in a training step, bytes",
    "training_bytes": "weights, gradients, Adam's moments and activations of a training step, bytes",
    "step_s": "time of a training step, seconds",
    "first_block": "test accuracy of the first block alone, given noise for z, percent",
    "last_block": "test accuracy of the last block alone, given noise for z, percent",
    "depth_value": "test accuracy of the chain minus that of its first block alone, points",
    "last_value": "test accuracy of the chain minus that of its last block given noise for z, points",
}
PUBLISHED_ARMS = (
    "noprop", "noprop-prototype", "bp", "bp-random-head", "bp-prototype", "cnn", "noprop-ct", "noprop-fm",
    "noprop-fm-learned", "ode",
)  # fmt: skip
GPU_ARMS = ("noprop", "bp", "cnn", "noprop-ct", "noprop-fm")

PAPER = Paper(
    slug="noprop",
    title="NoProp: Training Neural Networks without Back-propagation or Forward-propagation",
    short="NoProp",
    area="Training without back-propagation",
    arxiv="2503.24322",
    year=2025,
    venue="CoLLAs 2025",
    idea="Fix what every block should output to a noised embedding of the label, and train each block alone to denoise "
    "it given the image. No gradient and no activation passes between blocks in training; inference runs them one "
    "after another, as a diffusion sampler does.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {"epochs": 1, "blocks": 2, "train_images": 192, "inference_steps": 4, "ode_steps": 2, "evaluations": 1,
             "hidden": 32, "draws": 1},
            settings=("digits", "digits-random"),
            seeds=1,
            time_limit=300,
        ),
        "laptop": Preset(seeds=5, time_limit=900),
        "gpu": Preset(
            per_setting={
                "mnist": {"epochs": 5, "flow_epochs": 20, "draws": 2, "evaluations": 5},
                "cifar10": {"epochs": 15, "flow_epochs": 60, "draws": 2, "evaluations": 5},
            },
            settings=("mnist", "cifar10"),
            arms={"mnist": GPU_ARMS, "cifar10": GPU_ARMS},
            time_limit=3600,
            memory_limit=32 * 2**30,
            needs="one GPU; MNIST and CIFAR-10 from the hub or REPRO_DATA_DIR; Pillow for the hub's files",
        ),
        "published": Preset(
            settings=REAL,
            arms={"mnist": PUBLISHED_ARMS[:6], "cifar10": PUBLISHED_ARMS, "cifar100": PUBLISHED_ARMS},
            time_limit=24 * 3600,
            memory_limit=32 * 2**30,
            needs="one GPU, days for all arms; MNIST, CIFAR-10 and CIFAR-100 from the hub or REPRO_DATA_DIR; Pillow "
            "for the hub's files",
        ),
    },
    experiment="papers.noprop.experiment.run",
    accounting="papers.noprop.published.accounting",
    departures=(
        "Scikit-learn's digits and generated glyphs of 12 x 12 pixels stand in for MNIST and CIFAR, smaller blocks and "
        "T = 5 for the paper's network with T = 10.",
        "All arms at laptop scale have a rate that falls to zero; the paper states none.",
        "The neural ODE is trained through its Euler steps and not by the adjoint method; AdamW is used everywhere, "
        "where the paper has Adam for continuous time.",
        "A plain CNN, direct feedback alignment, an MLP, single blocks, hidden z and labels at random are added.",
    ),
    primary_metric="error",
    metrics=METRICS,
)  # fmt: skip
