"""Runs that sleep: they show what an executor can keep busy on a machine that has few cores. Imports no torch."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

from repro import papers
from repro.records.provenance import run_code
from repro.runner import Context, Outcome, Run

#: For the worker processes: mean seconds of a nap, the second since the epoch from which beginnings are counted (a
#: record keeps nine digits, too few for an epoch), and a folder with the number of places that have to be open.
MEAN, ZERO, DOOR = "REPRO_NAP_S", "REPRO_NAP_ZERO", "REPRO_NAP_DOOR"
#: Seconds between two looks at whether all places are open.
LOOK = 0.5
#: Bytes that a run may have; a worker without torch has a third of it.
MEMORY = 2**28


def nap_s(seed: int, mean: float) -> float:
    """Seconds that the run of that seed sleeps: between half and one and a half times the mean."""
    return mean * random.Random(seed).uniform(0.5, 1.5)


def nap(config: Any, context: Context) -> Outcome:
    """Sleep, and say since when and for how many seconds.

    With a door, the first runs, one for each place, sleep until all of them have come.
    """
    zero, door = float(os.environ[ZERO]), os.environ.get(DOOR, "")
    began, sleeps = time.time(), nap_s(context.seed, float(os.environ[MEAN]))
    folder, _, places = door.rpartition(":")
    if folder and context.seed < int(places):
        Path(folder, str(context.seed)).touch()
        while len(os.listdir(folder)) < int(places):
            time.sleep(LOOK)
        sleeps = time.time() - began
    else:
        time.sleep(sleeps)
    return Outcome(metrics={"began_s": began - zero, "nap_s": sleeps})


def naps(count: int) -> list[Run]:
    """A plan of so many of them."""
    paper = papers.slugs()[0]  # a run belongs to a paper; its configuration is not read
    entry = "repro.bench.sleeping.nap"
    return [
        Run(
            paper=paper, setting="nap", arm="nap", scale="smoke", seed=seed, config={}, device="cpu",
            code=run_code(entry, {}), key=f"nap{seed:06d}", entry=entry, time_limit=3600.0, memory_limit=MEMORY,
        )
        for seed in range(count)
    ]  # fmt: skip
