"""What a person sees while runs go on."""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from repro.claims import ACCOUNTING
from repro.records import Record, load
from repro.runner.plan import Run

#: Seconds of work after which what was measured here weighs as much as what was known before.
SETTLING = 60.0


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
    """Bars in a terminal (rich), one line per finished run elsewhere.

    Args:
        metric: what is said of a finished run.
        reference: folder of records that tell how long such runs took. The time left is then known from the start;
            without them runs are weighed by their work as it turns out.
    """

    def __init__(self, metric: str = "loss", reference: Path | None = None) -> None:
        self.metric = metric
        self.reference = reference
        self.known = False
        self.workers = 1
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
        self.workers = max(1, workers)
        seen: list[Record] = []
        if self.reference is not None:
            for paper in sorted({run.paper for run in todo}):
                seen += load(self.reference / paper).records
        found = expected_seconds(todo, seen)
        self.known = bool(found)
        self.work = found or {run.key: work_of(run) for run in todo}
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
        left = self._left(elapsed)
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

    def _left(self, elapsed: float) -> float:
        """Seconds."""
        todo = sum(self.work.values()) - self.done
        if not self.known:
            return elapsed * todo / self.done if self.done > 0 else math.nan
        # how this machine compares with those of the records shows slowly: runs in progress are not counted yet
        pace = (elapsed + SETTLING) / (self.done / self.workers + SETTLING)
        return pace * todo / self.workers

    def _say(self, text: str) -> None:
        if self.bars is not None:
            self.bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)


def expected_seconds(todo: Sequence[Run], seen: Iterable[Record]) -> dict[str, float]:
    """Seconds that runs will take, by key, from what such runs took: the median of the same arm, else of the setting's
    arms, else of the paper's settings. Empty when nothing is known of a paper."""
    took: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for record in seen:
        wall = float(record.provenance.get("wall_s") or 0.0)
        if wall > 0 and record.status == "ok":
            place = (record.device_kind, record.scale, record.paper, record.setting, record.arm)
            for length in (5,) if record.arm == ACCOUNTING else (5, 4, 3):
                took[place[:length]].append(wall)
    out = {}
    for run in todo:
        wanted = (run.device.partition(":")[0], run.scale, run.paper, run.setting, run.arm)
        known = next((took[wanted[:length]] for length in (5, 4, 3) if wanted[:length] in took), None)
        if known is None:
            return {}
        out[run.key] = statistics.median(known)
    return out


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
