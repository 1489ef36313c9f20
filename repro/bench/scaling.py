"""How well executors keep many places busy, and what ten thousand runs cost the process that hands them out.

The runs sleep (`repro.bench.sleeping`), so that 64 places need no 64 cores. Every measurement is a process of its own
that calls `repro.runner.execute` as ``repro run`` does, on a cluster of one node that claims to have so many cores.

    python -m repro.bench.scaling               # as committed: about a quarter of an hour
    python -m repro.bench.scaling --quick       # seconds, written nowhere

Imports no torch.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import papers
from repro.bench import pages
from repro.bench.document import begin
from repro.bench.sleeping import MEAN, MEMORY, ZERO, naps
from repro.records import Record, Store
from repro.records.provenance import commit, environment
from repro.runner import Silent, execute
from repro.runner.execute import Executor, resident
from repro.runner.simulate import Job, simulate

#: Share of the places' time that should be spent in runs, up to so many places.
GOAL, GOAL_SLOTS = 0.9, 64
#: Bytes by which the handing process may grow over the later nine tenths of a plan.
GROWTH = 32 * 2**20


@dataclass(frozen=True)
class Case:
    """One measurement: so many naps for each place, after one for each with which the workers start."""

    executor: Executor
    slots: int
    mean: float
    per_slot: int

    @property
    def count(self) -> int:
        """Runs of the plan."""
        return self.slots * (1 + self.per_slot)


CASES = (
    *(Case(executor, slots, 10.0, 10) for slots in (1, 8, 64) for executor in ("local", "ray")),
    *(Case(executor, 64, 2.0, 20) for executor in ("local", "ray")),
    *(Case(executor, 8, 0.0, 1249) for executor in ("local", "ray")),
)  # fmt: skip
QUICK = (Case("ray", 4, 0.5, 4), Case("local", 4, 0.5, 4), Case("ray", 4, 0.0, 49), Case("local", 4, 0.0, 49))


class Watch(Silent):
    """Notes how large this process is as runs end."""

    def __init__(self, every: int) -> None:
        self.every, self.done = every, 0
        self.bytes: list[tuple[int, int]] = []

    def finished(self, record: Record) -> None:
        self.done += 1
        if self.done % self.every == 0:
            self.bytes.append((self.done, resident(os.getpid())))


@contextlib.contextmanager
def places(executor: Executor, slots: int) -> Iterator[str | None]:
    """The address of a cluster with so many cores; None for local processes."""
    if executor == "local":
        yield None
        return
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": slots, "memory": 2 * slots * MEMORY, "include_dashboard": False},
    )
    try:
        yield made.address
    finally:
        made.shutdown()


def measure(case: Case, store: Path) -> dict[str, Any]:
    """Carry out one case in this process."""
    os.environ |= {MEAN: str(case.mean), ZERO: str(time.time())}
    plan, watch = naps(case.count), Watch(max(1, case.count // 100))
    with places(case.executor, case.slots) as address:
        called = time.time()
        more = {"workers": case.slots} if address is None else {"address": address}
        summary = execute(plan, Store(store), executor=case.executor, progress=watch, **more)  # type: ignore[arg-type]
        wall = time.time() - called
    if summary.ran != case.count or summary.failed:
        raise RuntimeError(f"{summary.ran} of {case.count} runs, {len(summary.failed)} failed")
    found = [record.metrics for record in summary.records]
    return {
        "executor": case.executor, "slots": case.slots, "mean_nap_s": case.mean, "runs": case.count,
        "wall_s": round(wall, 3), "runs_per_s": round(case.count / wall, 2),
        **(share(found, case.slots) if case.mean else {}), **growth(watch.bytes),
    }  # fmt: skip


def share(found: Sequence[Mapping[str, float]], slots: int) -> dict[str, Any]:
    """What part of the places' time was slept, from when all places are open to the end of the last run.

    ``efficiency`` is that part; ``list_scheduling`` what a scheduler without any cost has on the same runs: at the end
    of a plan places wait for the last runs, whoever hands them out.
    """
    spans = sorted((run["began_s"], run["began_s"] + run["nap_s"]) for run in found)
    ends: list[float] = []
    full = None
    for start, end in spans:
        while ends and ends[0] <= start:
            heapq.heappop(ends)
        heapq.heappush(ends, end)
        if len(ends) == slots:
            full = start
            break
    if full is None:
        return {"error": f"the {slots} places were never open together"}
    # what is left of the runs in progress when the last place opens, then the others in the order of their beginning
    left = [end - max(start, full) for start, end in spans if end > full]
    window = max(end for _, end in spans) - full
    return {
        "start_s": round(full - spans[0][0], 3),
        "window_s": round(window, 3),
        "efficiency": round(sum(left) / (slots * window), 4),
        "list_scheduling": round(simulate([Job(seconds) for seconds in left], slots).utilisation, 4),
    }


def growth(sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """How the handing process grew: over the first tenth of the plan, and over the rest."""
    if len(sizes) < 10:
        return {}
    tenth = sizes[len(sizes) // 10][1]
    return {
        "resident_bytes": [list(pair) for pair in sizes[:: max(1, len(sizes) // 20)]],
        "grown_bytes": sizes[-1][1] - tenth,
    }


def run(cases: Sequence[Case]) -> Iterator[dict[str, Any]]:
    """All cases, each in a fresh process. What does not end well becomes a cell with ``error``."""
    for case in cases:
        words = [case.executor, str(case.slots), str(case.mean), str(case.per_slot)]
        print(f"{case.executor}, {case.slots} places, naps of {case.mean:g} s, {case.count} runs", file=sys.stderr)
        load = begin().get("load")
        done = subprocess.run(
            [sys.executable, "-m", "repro.bench.scaling", "--case", *words], cwd=papers.ROOT,
            env={**os.environ, "PYTHONPATH": str(papers.ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no message"])[-1]
            cell = {"executor": case.executor, "slots": case.slots, "mean_nap_s": case.mean, "error": said[:200]}
        else:
            cell = json.loads(done.stdout.splitlines()[-1])
        print(f"  {cell.get('error') or summary(cell)}", file=sys.stderr)
        yield {**cell, "load": load}


def summary(cell: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    told = [f"{cell['runs_per_s']:g} runs/s"]
    if "efficiency" in cell:
        told.append(f"efficiency {cell['efficiency']:.3f}, list scheduling {cell['list_scheduling']:.3f}")
    if "grown_bytes" in cell:
        told.append(f"grown by {cell['grown_bytes'] / 2**20:.1f} MiB")
    return ", ".join(told)


def tables(document: Mapping[str, Any]) -> str:
    """The section of docs/scale-out.md."""
    cells = document["cells"]
    hardware = document["environment"]["hardware"]
    rows = [
        [
            c["executor"], f"{c['slots']}", f"{c['mean_nap_s']:g} s", f"{c['runs']:,}", f"{c['start_s']:.0f} s",
            f"{c['efficiency']:.3f}", f"{c['list_scheduling']:.3f}",
            f"{c['efficiency'] / c['list_scheduling']:.3f}",
        ]
        for c in cells if "efficiency" in c
    ]  # fmt: skip
    out = [
        f"Measured {document['started'][:10]} on {hardware['cores']} cores ({hardware['cpu']}, "
        f"{hardware['memory_gib']:g} GiB), load average before each case "
        f"{min(c['load'] for c in cells):g} to {max(c['load'] for c in cells):g}.",
        pages.table(
            ["executor", "places", "mean nap", "runs", "all open after", "efficiency", "without any cost", "ratio"],
            rows, "lrrrrrrr",
        ),
    ]  # fmt: skip
    many = [
        [
            c["executor"], f"{c['slots']}", f"{c['runs']:,}", f"{c['runs_per_s']:.0f}",
            f"{c['resident_bytes'][0][1] / 2**20:.0f} MiB", f"{c['resident_bytes'][-1][1] / 2**20:.0f} MiB",
            f"{c['grown_bytes'] / 2**20:+.1f} MiB",
        ]
        for c in cells if not c["mean_nap_s"] and "grown_bytes" in c
    ]  # fmt: skip
    if many:
        out.append(
            pages.table(
                ["executor", "places", "runs", "runs a second", "size at the beginning", "at the end",
                 "growth after the first tenth"],
                many, "lrrrrrr",
            )
        )  # fmt: skip
    out += [f"{c['executor']}, {c['slots']} places, naps of {c['mean_nap_s']:g} s: {c['error']}"
            for c in cells if "error" in c]  # fmt: skip
    return "\n\n".join(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the document and the section; 1 when a case did not end well."""
    asked = argparse.ArgumentParser(prog="repro.bench.scaling", description=__doc__.partition("\n")[0])
    asked.add_argument("--quick", action="store_true", help="a few small cases, written nowhere")
    asked.add_argument("--case", nargs=4, metavar=("EXECUTOR", "SLOTS", "MEAN", "PER_SLOT"), help=argparse.SUPPRESS)
    given = asked.parse_args(argv)
    if given.case:
        executor, slots, mean, per_slot = given.case
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Case(executor, int(slots), float(mean), int(per_slot)), Path(folder))))
        return 0
    began = begin()
    cells: list[dict[str, Any]] = []
    document = {**began, "environment": environment(), "provenance": commit(), "cells": cells}
    for cell in run(QUICK if given.quick else CASES):
        cells.append(cell)
        if not given.quick:  # what is measured is kept, whatever comes of the rest
            pages.keep("scaling", document)
    if given.quick:
        print(tables(document))
    else:
        pages.write("scaling", tables(document))
    return 1 if any("error" in c for c in cells) else 0


if __name__ == "__main__":
    sys.exit(main())
