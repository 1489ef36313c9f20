"""Experiments that processes share, for the tests of the runner; named by dotted path."""

from __future__ import annotations

import os
import signal
import time

import torch
import torch.distributed as dist

from repro.data.base import LanguageData, TokenRows
from repro.runner import Context, Outcome
from repro.training.fit import fit
from repro.training.loop import Optimisation
from tests.training.distributed_jobs import LENGTH, ROWS, VOCAB, Tiny


def data() -> LanguageData:
    """Steps of one or two around a circle of tokens."""
    steps = torch.randint(1, 3, (2000,), generator=torch.Generator().manual_seed(3))
    rows = TokenRows(steps.cumsum(0) % VOCAB, LENGTH)
    return LanguageData("circle", rows, rows, range(VOCAB), "generated", "steps around a circle")  # type: ignore[arg-type]


def trains(config, context: Context, steps: int = 8, **options) -> Outcome:
    """A short training through `fit`."""
    return fit(
        Tiny(whole=bool(options.pop("whole", False)), dropout=options.pop("dropout", 0.0)), data(),
        Optimisation(1e-2, steps), context, batch=ROWS, eval_batches=2, evaluations=4, **options,
    ).outcome  # fmt: skip


def trains_slowly(config, context: Context) -> Outcome:
    """Forty steps in four seconds, with dropout."""
    torch.manual_seed(context.seed)
    pause = float(os.environ.get("PAUSE", "0"))
    return trains(config, context, 40, dropout=0.1, before_step=lambda step: time.sleep(pause), stateful={})


def fails_in_one(config, context: Context) -> Outcome:
    """Seed 0: the second process raises; 1: it is killed; 2: nothing is trained; 3: the loss is of the whole batch."""

    def before_step(step: int) -> None:
        if step == 2 and dist.get_rank() == 1:
            if context.seed == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the second process has had enough")

    if context.seed == 2:
        return Outcome(metrics={"loss": 0.0})
    if context.seed == 3:
        return trains(config, context, whole=True)
    return trains(config, context, before_step=before_step)
