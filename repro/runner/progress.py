"""What a person sees while runs go on."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

from repro.claims import ACCOUNTING
from repro.records import Record
from repro.runner.plan import Run


class Progress(Protocol):
    """Events of an execution. Every method may be called many times; none may raise."""

    def __enter__(self) -> Progress: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None: ...
    def start(self, todo: Sequence[Run], cached: int, workers: int) -> None: ...
    def begin(self, run: Run) -> None: ...
    def step(self, run: Run, step: int, steps: int, loss: float | None) -> None: ...
    def finished(self, record: Record) -> None: ...


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def start(self, todo: Sequence[Run], cached: int, workers: int) -> None:
        return None

    def begin(self, run: Run) -> None:
        return None

    def step(self, run: Run, step: int, steps: int, loss: float | None) -> None:
        return None

    def finished(self, record: Record) -> None:
        return None


class Live(Silent):
    """Bars in a terminal (rich), one line per finished run elsewhere. The time left weighs runs by their work."""

    def __init__(self, metric: str = "loss") -> None:
        self.metric = metric
        self.bars: Any = None
        self.tasks: dict[str, Any] = {}
        self.total: Any = None
        self.work: dict[str, float] = {}
        self.done = 0.0
        self.began = 0.0
        self.number = 0
        self.count = 0

    def __enter__(self) -> Live:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self.bars = Progress(
                TextColumn("{task.description:<52}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self.bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bars is not None:
            self.bars.stop()

    def start(self, todo: Sequence[Run], cached: int, workers: int) -> None:
        self.began = time.monotonic()
        self.count = len(todo)
        self.work = {run.key: work_of(run) for run in todo}
        hands = f", {workers} worker{'s' if workers != 1 else ''}" if workers else ""
        self._say(f"{len(todo)} runs to do, {cached} found finished{hands}")
        if self.bars is not None:
            self.total = self.bars.add_task("all runs", total=sum(self.work.values()) or 1.0, note="")

    def begin(self, run: Run) -> None:
        if self.bars is not None and run.key not in self.tasks:  # a run may begin again after its worker was lost
            self.tasks[run.key] = self.bars.add_task(run.label, total=1.0, note="starting")

    def step(self, run: Run, step: int, steps: int, loss: float | None) -> None:
        if self.bars is None or run.key not in self.tasks:
            return
        note = f"step {step}/{steps}" + (f"  loss {loss:.3f}" if loss is not None else "")
        self.bars.update(self.tasks[run.key], completed=step / max(steps, 1), note=note)

    def finished(self, record: Record) -> None:
        self.number += 1
        self.done += self.work.get(record.key, 0.0)
        elapsed = time.monotonic() - self.began
        share = self.done / (sum(self.work.values()) or 1.0)
        left = elapsed * (1 - share) / share if share > 0 else math.nan
        value = record.metrics.get(self.metric)
        what = f"{self.metric} {value:.4f}" if value is not None else record.error.get("message", "") or record.status
        wall = record.provenance.get("wall_s", 0.0)
        name = f"{record.paper} {record.setting}/{record.arm} seed {record.seed}"
        estimate = f"about {duration(left)} left" if math.isfinite(left) else ""
        took = f"{wall:.1f} s; {estimate}" if estimate else f"{wall:.1f} s"
        self._say(f"[{self.number}/{self.count}] {name}: {what} ({took})")
        if self.bars is not None:
            task = self.tasks.pop(record.key, None)
            if task is not None:
                self.bars.remove_task(task)
            self.bars.update(self.total, completed=self.done, note=estimate)

    def _say(self, text: str) -> None:
        if self.bars is not None:
            self.bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def work_of(run: Run) -> float:
    """Rough relative work of a run: its steps, times what multiplies them, or 1 where it has none.

    Accounting counts for nothing: it takes seconds, whatever the runs take.
    """
    if run.arm == ACCOUNTING:
        return 0.0
    c = run.config
    work = float(c.get("steps", 1))
    for name in ("length_scale", "depth_scale"):
        work *= float(c.get(name, 1))
    return work


def duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    if not math.isfinite(seconds):
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
