"""How well executors keep many places busy, and what ten thousand runs cost the process that hands them out.

The runs sleep (`repro.bench.sleeping`), so that 64 places need no 64 cores. Every measurement is a process of its own
that calls `repro.runner.execute` as ``repro run`` does, on a cluster of one node that claims to have so many cores.

    python -m repro.bench.scaling               # as committed: about half an hour
    python -m repro.bench.scaling --again       # only what has no figures yet
    python -m repro.bench.scaling --quick       # a minute, written nowhere

Imports no torch.
"""

from __future__ import annotations

import argparse
import contextlib
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
from repro.bench.sleeping import DOOR, MEAN, MEMORY, ZERO, naps
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
    """One measurement: so many naps for each place, after one for each that ends when all places are open."""

    executor: Executor
    slots: int
    mean: float
    per_slot: int

    @property
    def name(self) -> tuple[str, float, int]:
        """By which its figures are found again."""
        return self.executor, -self.mean, self.slots

    @property
    def count(self) -> int:
        """Runs of the plan."""
        return self.slots * (1 + self.per_slot)


CASES = (
    *(Case(executor, slots, 20.0, 10) for slots in (8, 16, 64) for executor in ("local", "ray")),
    *(Case(executor, 8, 0.0, 1249) for executor in ("local", "ray")),
    *(Case(executor, 64, 2.0, 20) for executor in ("local", "ray")),
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


def cluster(slots: int, attempts: int = 5) -> Any:
    """A node that claims to have so many cores. Ray gives up a start that takes half a minute: on a busy machine it is
    tried again."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": slots, "memory": 2 * slots * MEMORY, "include_dashboard": False}
    for _ in range(attempts - 1):
        with contextlib.suppress(Exception):
            return Cluster(initialize_head=True, head_node_args=node)
    return Cluster(initialize_head=True, head_node_args=node)


@contextlib.contextmanager
def places(executor: Executor, slots: int) -> Iterator[str | None]:
    """The address of a cluster with so many cores; None for local processes."""
    if executor == "local":
        yield None
        return
    made = cluster(slots)
    try:
        yield made.address
    finally:
        made.shutdown()


def measure(case: Case, store: Path) -> dict[str, Any]:
    """Carry out one case in this process."""
    door = store / "door"
    door.mkdir(parents=True)
    os.environ |= {MEAN: str(case.mean), ZERO: str(time.time()), DOOR: f"{door}:{case.slots}"}
    plan, watch = naps(case.count), Watch(max(1, case.count // 100))
    with places(case.executor, case.slots) as address:
        called = time.time()
        more = {"workers": case.slots} if address is None else {"address": address}
        summary = execute(plan, Store(store / "records"), executor=case.executor, progress=watch, **more)  # type: ignore[arg-type]
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

    Args:
        found: metrics of the naps, first those that waited for all places to be open.
    """
    opened = max(run["began_s"] for run in found[:slots])
    began = max(run["began_s"] + run["nap_s"] for run in found[:slots])
    spans = sorted((run["began_s"], run["began_s"] + run["nap_s"]) for run in found[slots:])
    left = [end - max(start, began) for start, end in spans if end > began]
    window = max(end for _, end in spans) - began
    return {
        "start_s": round(opened - min(run["began_s"] for run in found), 3),
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


def name(cell: Mapping[str, Any]) -> tuple[str, float, int]:
    """That of the case."""
    return cell["executor"], -cell["mean_nap_s"], cell["slots"]


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
            f"{c['efficiency'] / c['list_scheduling']:.3f}", f"{c['load']:.0f}",
        ]
        for c in cells if "efficiency" in c
    ]  # fmt: skip
    out = [
        f"Measured {document['started'][:10]} on {hardware['cores']} cores ({hardware['cpu']}, "
        f"{hardware['memory_gib']:g} GiB). The load is how many processes wanted to run just before a case (an average "
        f"over a minute): above the number of cores, runs wait for the machine and not for the executor.",
        pages.table(
            ["executor", "places", "mean nap", "runs", "all open after", "efficiency", "without any cost", "ratio",
             "load before"],
            rows, "lrrrrrrrr",
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
    asked.add_argument("--again", action="store_true", help="only the cases that have no figures yet")
    asked.add_argument("--executor", choices=("local", "ray"), help="only the cases of this one")
    asked.add_argument("--slots", type=int, help="only the cases with so many places")
    asked.add_argument("--case", nargs=4, metavar=("EXECUTOR", "SLOTS", "MEAN", "PER_SLOT"), help=argparse.SUPPRESS)
    given = asked.parse_args(argv)
    if given.case:
        executor, slots, mean, per_slot = given.case
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Case(executor, int(slots), float(mean), int(per_slot)), Path(folder))))
        return 0
    kept = pages.read().get("scaling", {}).get("cells", []) if given.again else []
    cells = [c for c in kept if "error" not in c]
    document = {**begin(), "environment": environment(), "provenance": commit(), "cells": cells}
    cases = [
        case for case in (QUICK if given.quick else CASES)
        if case.name not in map(name, cells)
        and given.executor in (None, case.executor) and given.slots in (None, case.slots)
    ]  # fmt: skip
    for cell in run(cases):
        cells.append(cell)
        cells.sort(key=name)
        if not given.quick:  # what is measured is kept, whatever comes of the rest
            pages.keep("scaling", document)
    if given.quick:
        print(tables(document))
    else:
        pages.write("scaling", tables(document))
    return 1 if any("error" in c for c in cells) else 0


if __name__ == "__main__":
    sys.exit(main())
