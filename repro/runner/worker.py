"""Carries out one run, in whatever process it finds itself in, and turns whatever happens into a record."""

from __future__ import annotations

import gc
import importlib
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.claims import ACCOUNTING
from repro.records import Record
from repro.records.provenance import commit, environment, run_code
from repro.runner.outcome import Context, Outcome, quiet
from repro.runner.plan import Run

if TYPE_CHECKING:
    from repro.training.loop import Engine

Progress = Callable[[int, int, float | None], None]

#: For every process that trains: one thread, because threads of several processes fight over few cores, and no
#: threads inside tokenizers. Set before torch is imported.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class Elsewhere(RuntimeError):
    """What another process raised, as `describe` put it there; ``status`` is that of the record."""

    def __init__(self, status: str, error: dict[str, str]):
        super().__init__(error["message"])
        self.status, self.error = status, error


def carry_out(run: Run, progress: Progress | None = None) -> Record:
    """Run it and return its record. Exceptions of the experiment become a ``failed`` record, ``memory`` where there was
    too little of it, on the processor or an accelerator; Ctrl-C passes through."""
    started = datetime.now(UTC)
    clock = time.perf_counter()
    status, error, outcome = "ok", {}, Outcome()
    resumed: list[int] = []
    try:
        if run.arm == ACCOUNTING:
            outcome = Outcome(metrics=_entry(run)())
        elif run.processes > 1:
            from repro.runner.spread import spread

            outcome, resumed = spread(run, progress)
        else:
            outcome, resumed = perform(run, progress)
        if outcome.diverged:
            status = "diverged"
    except MemoryError as problem:
        status, error = "memory", describe(problem)
    except Elsewhere as problem:
        status, error = problem.status, describe(problem)
    except Exception as problem:
        status = "memory" if type(problem).__name__ == "OutOfMemoryError" else "failed"  # torch's, not imported for it
        error = describe(problem)
    give_back(run.device)
    wall = time.perf_counter() - clock
    return record_of(run, status, outcome, error, started, wall, resumed)


def give_back(device: str) -> None:
    """Leave no memory of an accelerator to a run that has ended: the next one may be that of another process."""
    if device.startswith("cuda") and "torch" in sys.modules:
        import torch

        gc.collect()
        torch.cuda.empty_cache()


def _entry(run: Run) -> Callable[..., Any]:
    """What carries the run out. Raises RuntimeError where its code is not that of the plan any more."""
    module, _, name = run.entry.rpartition(".")
    function = getattr(importlib.import_module(module), name)
    now = run.code
    with suppress(FileNotFoundError):  # what lies outside of the project's code has no hash
        now = run_code(run.entry, run.config, run.device)
    if now != run.code:  # a worker may import long after the plan was made, and the record tells the plan's hash
        raise RuntimeError(f"{run.entry} is no longer the code that the run was planned with: {now}, was {run.code}")
    return function


def perform(run: Run, progress: Progress | None = None, engine: Engine | None = None) -> tuple[Outcome, list[int]]:
    """Carry out the experiment in this process: its outcome, and the steps at which its trainings were taken up."""
    from repro.papers import load_paper
    from repro.profiling.memory import PeakMemory

    function = _entry(run)
    config = load_paper(run.paper).config(**run.config)
    keep = None
    if run.checkpoint is not None:
        from repro.training.resume import Checkpoints

        keep = Checkpoints(kept(run), run.checkpoint)
    context = Context(run.seed, run.device, run.scale, progress or quiet, engine, keep)
    with PeakMemory(run.device) as memory, ways(run.device):
        outcome = function(config, context)
    if not isinstance(outcome, Outcome):
        raise TypeError(f"{run.entry} gave a {type(outcome).__name__}, not an Outcome")
    if math.isfinite(memory.peak_bytes):
        outcome.profile.setdefault("peak_memory_bytes", memory.peak_bytes)
    outcome.encoded_pictures()  # too many of them: the experiment's fault, and named as such
    return outcome, [step for step in keep.taken_up if step] if keep else []


def ways(device: str) -> AbstractContextManager[None]:
    """How experts run on a device; nothing is imported for one that has no way of its own."""
    if not device.startswith("cuda"):
        return nullcontext()
    from repro.models.dispatch_cuda import accelerated

    return accelerated(device)


def kept(run: Run) -> Path:
    """Where the checkpoints of a run are."""
    from repro.data.cache import cache_dir

    return cache_dir() / "kept" / f"{run.paper}-{run.key}"


def forget(run: Run, record: Record) -> None:
    """Remove the checkpoints of a run that has its result; those of one that failed serve the next attempt."""
    if run.checkpoint is not None and record.status in ("ok", "diverged"):
        shutil.rmtree(kept(run), ignore_errors=True)


def describe(problem: BaseException) -> dict[str, str]:
    """Type, message and traceback of an exception, without the paths of this machine."""
    if isinstance(problem, Elsewhere):
        return problem.error
    text = "".join(traceback.format_exception(problem))
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for prefix in (root + os.sep, sys.prefix + os.sep, os.path.expanduser("~") + os.sep):
        text = text.replace(prefix, "")
    return {"type": type(problem).__name__, "message": str(problem)[:2000], "traceback": text[-8000:]}


def record_of(
    run: Run,
    status: str,
    outcome: Outcome,
    error: dict[str, str],
    started: datetime,
    wall: float,
    resumed: Sequence[int] = (),
) -> Record:
    """The record of a run that ended in ``status`` after ``wall`` seconds; ``resumed``: steps at which trainings were
    taken up."""
    around = environment(run.device)
    if run.processes > 1:
        around = {
            **around, "hardware": {**around["hardware"], "processes": run.processes, "strategy": run.strategy}
        }  # fmt: skip
    return Record(
        key=run.key,
        paper=run.paper,
        setting=run.setting,
        arm=run.arm,
        scale=run.scale,
        seed=run.seed,
        status=status,
        config=run.config,
        code=run.code,
        metrics=outcome.metrics,
        curves=outcome.curves,
        profile=outcome.profile,
        data=outcome.data,
        tables=outcome.tables,
        pictures=outcome.encoded_pictures(),
        environment=around,
        # an empty digest asks for a seal
        provenance={
            **commit(),
            "started": started.isoformat(timespec="seconds"),
            "wall_s": round(wall, 3),
            **({"resumed": list(resumed)} if resumed else {}),
            "digest": "",
        },
        error=error,
    )


def over_time(run: Run) -> tuple[str, str]:
    """Status and message of a run that was stopped after its time."""
    return "timeout", f"stopped after its limit of {run.time_limit:g} s"


def over_memory(run: Run, used: int) -> tuple[str, str]:
    """Status and message of a run that was stopped at so many bytes."""
    return "memory", f"stopped at {used / 2**30:.2f} GiB, its limit is {run.memory / 2**30:.2f} GiB"


def throttled(tell: Progress, every: float) -> Progress:
    """Steps are told at most once in so many seconds, the last one always."""
    last = 0.0

    def progress(step: int, steps: int, loss: float | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= every or step >= steps:
            last = now
            tell(step, steps, loss)

    return progress


def serve(connection: Any, store_root: str | None) -> None:
    """Loop of a worker process: take runs from the pipe, save each record before telling of it, end with the pipe."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    from repro.records import CannotStore, Store

    store = Store(store_root) if store_root else None

    def tell(*step: Any) -> None:
        try:
            connection.send(("step", *step))
        except OSError:  # the runner is gone; that is no failure of this run, and leaves no record of one
            raise SystemExit from None

    progress = throttled(tell, 0.2)
    try:
        while True:
            run = connection.recv()
            record = carry_out(run, progress)
            try:
                if store is not None:
                    store.save(record)
                    forget(run, record)
            except CannotStore as error:
                connection.send(("unsaved", str(error)))
            else:
                connection.send(("record", record))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def die_with_parent() -> None:
    """Ask the kernel to end this process with its parent, where that exists: an orphan would train on."""
    if sys.platform != "linux":
        return
    import ctypes

    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, 9)
