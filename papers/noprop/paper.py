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
    learner: str = "dt"  # dt | ct | fm | chain | ode | cnn | mlp | ff | dfa
    # the network
    shape: str = "small"  # small | published: widths of a block
    blocks: int = 10  # T
    embedding: str = "one-hot"  # one-hot | learned | prototype
    dim: int = 20  # d of a learned embedding
    head: str = "linear"  # linear | radial
    dropout: float = 0.2
    gate: float = 0.5  # alpha_t of the chain at the start
    hidden: int = 500  # width of both hidden layers of mlp, ff and dfa
    # the method
    eta: float = 0.1
    eta_ct: float = 1.0
    blind: bool = False  # z is pure noise
    only: int = 0  # train this block alone; 0: all
    inference_steps: int = 50  # of ct and fm
    ode_steps: int = 20
    # training
    budget: str = "blocks"  # blocks | epochs | flops | time: what a training is as long as
    epochs: int = 12
    longer: int = 1
    slower: str = ""  # by data: time of a step over that of a step of the reference
    batch: int = 128
    lr: float = 0.0  # 0: that of `rates` for the data
    rates: str = ""
    warmup: float = 0.0
    schedule: str = "constant"
    weight_decay: float = 1e-3
    # measuring
    evaluations: int = 4
    draws: int = 5  # stochastic inferences that accuracy is the mean of
    test_batch: int = 500


def by_data(text: str, data: str, value: float = 0.0) -> float:
    """``value``, or where it is 0 the entry for ``data`` in a text of ``name=number``. Raises ValueError without one."""
    found = dict(pair.split("=") for pair in text.split())
    if not value and data not in found:
        raise ValueError(f"nothing given for {data} in {text!r}: set it, or lr")
    return value or float(found[data])


ARMS = (
    Arm("noprop", "NoProp-DT", "method"),
    Arm("bp-steps", "back-propagation through the blocks, equal steps", "baseline", {"learner": "chain"}),
    Arm("bp", "back-propagation through the blocks, equal FLOPs", "baseline", {"learner": "chain", "budget": "flops"}),
    Arm("bp-time", "back-propagation through the blocks, equal time", "baseline", {"learner": "chain", "budget": "time", "slower": "digits=9 worn-glyphs=9"}),
    Arm("cnn", "plain CNN of one block's size", "baseline", {"learner": "cnn"}),
    Arm("mlp", "MLP of 500-500, back-propagation", "baseline", {"learner": "mlp", "budget": "flops"}),
    Arm("ff", "Forward-Forward, 500-500", "baseline", {"learner": "ff", "budget": "flops"}),
    Arm("dfa", "direct feedback alignment, 500-500", "baseline", {"learner": "dfa", "budget": "flops"}),
    Arm("noprop-blind", "NoProp-DT without the label path", "ablation", {"blind": True}),
    Arm("noprop-last", "NoProp-DT, last block alone trained", "control", {"only": 10}),
    Arm("noprop-ct", "NoProp-CT", "method", {"learner": "ct"}),
    Arm("noprop-fm", "NoProp-FM", "method", {"learner": "fm"}),
    Arm("ode", "neural ODE, equal time", "baseline", {"learner": "ode", "budget": "time", "slower": "digits=9 worn-glyphs=9"}),
)
SETTINGS = (
    Setting("digits", "Digits", "digits", "bundled", {"data": "digits"}),
    Setting("worn-glyphs", "Worn glyphs", "worn-glyphs", "generated", {"data": "worn-glyphs", "epochs": 4}),
    Setting("digits-random", "Digits", "digits", "bundled", {"data": "digits", "labels": "random"}),
)
CLAIMS = ()
PAPER = Paper(
    slug="noprop", title="NoProp", short="NoProp", area="x", arxiv="2503.24322", year=2025, idea="x", config=Config,
    arms=ARMS, settings=SETTINGS, claims=CLAIMS, presets={"laptop": Preset(seeds=5)}, experiment="papers.noprop.experiment.run",
    primary_metric="error", metrics={"error": ""},
)
