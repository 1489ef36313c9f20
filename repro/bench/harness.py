"""Group ``harness``: what the machinery around the experiments costs, in seconds of wall time.

Every figure is that of fresh processes, as a person at a terminal waits for them. Imports no torch itself.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import papers
from repro.bench.timing import Quartiles, measure
from repro.claims import ACCOUNTING, Computed, Paper
from repro.records import Record, write_reference
from repro.records.provenance import run_key
from repro.report import current_code

REPETITIONS, QUICK_REPETITIONS = 9, 3
WITHOUT_TORCH = (
    "import sys, repro, repro.claims, repro.records, repro.runner, repro.papers, repro.cli, repro.api, repro.bench; "
    "assert 'torch' not in sys.modules, 'torch was imported'"
)
#: Runs `repro run` with a progress display that notes when things happen (seconds since the epoch, so that another
#: process can compare them) and writes them to a file; leaves the page out, which is measured apart.
FIRST_STEP = """
import json, sys, time
from repro import runner
from repro.cli import main, running

class Spy(runner.Silent):
    events = {"step": None, "begin": {}, "runs": []}

    def begin(self, run):
        self.events["begin"][run.key] = time.time()

    def step(self, run, step, steps, loss):
        if self.events["step"] is None:
            self.events["step"] = time.time()

    def finished(self, record):
        took = time.time() - self.events["begin"][record.key]
        self.events["runs"].append([took, record.provenance["wall_s"], record.status])

runner.Live = lambda **_: Spy()
running.build_page = lambda *_: None
code = main(sys.argv[2:])
del Spy.events["begin"]
with open(sys.argv[1], "w") as file:
    json.dump(Spy.events, file)
sys.exit(code)
"""


def cells(device: str, quick: bool, repetitions: int | None, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure all; ``say`` hears of each. A step that fails becomes a cell with ``error``."""
    count = repetitions or (QUICK_REPETITIONS if quick else REPETITIONS)
    paper = papers.load_paper(papers.slugs()[0])
    out: list[dict[str, Any]] = []
    for part in (
        lambda: starts(count),
        lambda: runs(paper, device, max(1, count // 3)),
        lambda: boards(paper, (1_000,) if quick else (10_000, 100_000)),
    ):
        for cell in part():
            say(f"harness {cell['name']}")
            out.append(cell)
    return out


def starts(repetitions: int) -> Iterator[dict[str, Any]]:
    """A bare interpreter, importing the library, listing the papers."""
    commands = {
        "python, nothing imported": ["-c", "pass"],
        "python -c 'import repro'": ["-c", "import repro"],
        "everything that needs no torch imported": ["-c", WITHOUT_TORCH],
        "repro list": ["-m", "repro", "list"],
    }
    racing, failed = {}, {}
    for name, command in commands.items():
        try:
            _python(command)
        except Failed as problem:
            failed[name] = str(problem)
        else:
            racing[name] = lambda command=command: _python(command)
    timings = measure(racing, repetitions, 0)
    for name in commands:
        yield _cell(name, timings.seconds[name]) if name in racing else {"name": name, "error": failed[name]}
    # the library's own share, in the interpreter that imports it
    script = "import time; t = time.perf_counter(); import repro; print(time.perf_counter() - t)"
    yield _cell("import repro", tuple(float(_python(["-c", script])) for _ in range(repetitions)))


def runs(paper: Paper, device: str, repetitions: int) -> Iterator[dict[str, Any]]:
    """From ``repro run`` at smoke scale to the first training step, and what a run costs beyond its own wall time.

    One worker runs one arm under three seeds. The first run starts the worker and imports torch, the others do not.
    """
    preset = paper.presets["smoke"]
    trained = (c for c in paper.claims if c.comparisons and not any(isinstance(k, Computed) for k in c.comparisons))
    claim = next(trained, None)
    setting = (preset.settings or tuple(s.name for s in paper.settings if s.default))[0]
    arms = [a for a in paper.arms if a.name in paper.arms_in(setting)]
    arm = next((a for a in arms if a.role == "method"), arms[0])
    command = [
        "run", paper.slug, "--scale", "smoke", "--settings", setting, "--arms", arm.name, "--seeds", "3",
        "--workers", "1", "--device", device, *(["--claims", claim.id] if claim else []),
    ]  # fmt: skip
    first, start, later = [], [], []
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory() as folder:
            events = Path(folder) / "events.json"
            began = time.time()
            try:
                _python(["-c", FIRST_STEP, str(events), *command], REPRO_RESULTS=folder)
            except Failed as problem:
                yield {"name": "first training step", "error": str(problem)}
                return
            seen = json.loads(events.read_text())
        overheads = [took - own for took, own, _ in seen["runs"]]
        if seen["step"] is not None:
            first.append(seen["step"] - began)
        start.append(overheads[0])
        later += overheads[1:]
    detail = f"{paper.short}, arm {arm.name}, setting {setting}, smoke scale, one worker"
    if first:
        yield _cell("first training step", tuple(first), detail)
    yield _cell("overhead of the first run of a worker", tuple(start), detail)
    yield _cell("overhead of a later run", tuple(max(v, 1e-6) for v in later), detail)


def boards(paper: Paper, counts: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Building the leaderboard from so many made-up records of one paper, once each."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for count in (100, *counts):  # the first puts the chart library where later ones find it
            name = f"leaderboard of {count:,} records"
            made = root / str(count)
            write_reference(synthetic(paper, count), made / "reference")
            arguments = ["--reference", str(made / "reference"), "--no-local", "--out", str(made / "site")]
            began = time.perf_counter()
            try:
                _python(["-m", "leaderboard", *arguments])
            except Failed as problem:
                yield {"name": name, "error": str(problem)}
                continue
            if count != 100 or counts == (100,):
                yield _cell(name, (time.perf_counter() - began,), f"one paper, {paper.short}; charts included")


def synthetic(paper: Paper, count: int, points: int = 30) -> Iterator[Record]:
    """Records of every arm that a default setting compares, shaped like the runner's, with drawn numbers."""
    cells = [(s.name, a) for s in paper.settings if s.default for a in paper.arms_in(s.name)]
    resolved = {cell: paper.resolve(*cell, "laptop") for cell in cells}
    codes = {cell: current_code(paper.experiment, str(c.get("data", ""))) for cell, c in resolved.items()}
    draw = random.Random(0)
    x = list(range(1, points + 1))
    for number in range(count):
        cell, seed = cells[number % len(cells)], number // len(cells)
        value = 2 + draw.gauss(0, 0.1)
        y = [value + math.exp(-i / 5) for i in x]
        yield Record(
            key=run_key({"bench": number}), paper=paper.slug, setting=cell[0], arm=cell[1], scale="laptop", seed=seed,
            status="ok", config=resolved[cell], code=codes[cell],
            metrics={name: value + draw.gauss(0, 0.01) for name in paper.metrics},
            curves={"loss": {"x": x, "y": y, "of": "step"}, "train_loss": {"x": x, "y": y, "of": "step"}},
            profile={
                "train_tokens": 1e5, "params_total": 2e5, "params_active": 1e5, "train_flops": 1e12,
                "forward_flops_per_token": 3e6, "peak_memory_bytes": 4e8, "wall_s": 30.0, "tokens_per_s": 9e3,
            },
            data={"name": str(resolved[cell].get("data", "")), "kind": "generated", "fingerprint": "0" * 16},
            provenance={"commit": "0" * 12, "dirty": False, "started": "2026-01-01T10:00:00+00:00", "wall_s": 30.0},
        )  # fmt: skip
    if paper.accounting:
        yield Record(
            key=run_key({"bench": ACCOUNTING}), paper=paper.slug, setting=ACCOUNTING, arm=ACCOUNTING,
            scale="published", seed=0, status="ok", config={}, code=current_code(paper.accounting),
        )  # fmt: skip


@dataclass
class Failed(Exception):
    """A process that did not end well."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def _python(arguments: Sequence[str], **environment: str) -> str:
    """Standard output of a Python process in the project's folder. Raises Failed with its last line of complaint."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=papers.ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise Failed(f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}")
    return done.stdout


def _cell(name: str, seconds: tuple[float, ...], detail: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "repetitions": len(seconds), "seconds": Quartiles.of(seconds).plain()}
    return found | ({"detail": detail} if detail else {})
