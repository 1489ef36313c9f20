"""Executors: the same runs, in this process or in a pool of local processes, the same records."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from repro.records import CannotStore, Record, Store
from repro.runner.outcome import Outcome
from repro.runner.plan import Run
from repro.runner.progress import Progress, Silent
from repro.runner.reserve import Reservations
from repro.runner.worker import ONE_THREAD, carry_out, forget, over_memory, over_time, record_of, serve

Executor = Literal["local", "ray"]
#: Seconds between two looks at workers that say nothing, and at runs that another runner has.
TICK = 0.5


@dataclass
class Summary:
    """What an execution did."""

    runs: Sequence[Run]
    store: Store
    ran: int = 0
    cached: int = 0
    failed: list[Record] = field(default_factory=list)
    interrupted: bool = False
    wall_s: float = 0.0
    ended: set[str] = field(default_factory=set)
    """Keys of the runs that have a record."""

    @functools.cached_property
    def records(self) -> list[Record]:
        """The records of the whole plan, in its order, whether run now or found; read when they are asked for, so that
        a long plan takes no memory while it is carried out."""
        return [self.store.read(run.paper, run.scale, run.key) for run in self.runs if run.key in self.ended]


def default_store() -> Store:
    """Records below ``results/`` of the working directory, or of the folder that ``REPRO_RESULTS`` names."""
    return Store(Path(os.environ.get("REPRO_RESULTS", "results")) / "records")


def default_workers(device: str = "cpu") -> int:
    """One process per usable core, one thread each; one process on an accelerator."""
    if device != "cpu":
        return 1
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def execute(
    runs: Sequence[Run],
    store: Store,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    executor: Executor = "local",
    address: str | None = None,
) -> Summary:
    """Carry out what the store does not have yet, and return every record of the plan.

    A run that crashes, runs over its time or its memory leaves a record that says so, and the others go on. Ctrl-C
    stops the workers and returns what is finished, with ``interrupted`` set. ``workers=0`` runs in this process,
    without time or memory limits (for notebooks and debuggers).

    ``executor="ray"`` hands the runs to the Ray cluster at ``address``, or to one that is started here for them;
    ``workers`` is then the number of runs at a time, as many as the cluster has places when None.

    Several runners may work on one store: a run that another has in hand is waited for, and taken over when that
    runner is gone.

    Raises NoCluster when there is no Ray, no cluster at the address, or no node for a run of several processes;
    CannotStore when records cannot be written.
    """
    clock = time.monotonic()
    show = progress or Silent()
    plan = {run.key: run for run in runs}
    found = {run.key for run in plan.values() if store.get(run.paper, run.scale, run.key) is not None}
    todo = [run for run in plan.values() if run.key not in found]
    summary = Summary(runs, store, cached=len(found), ended=found)
    reserved = Reservations(store)
    if todo:
        store.check()
    if executor == "ray":
        from repro.runner.cluster import Cluster

        count = workers or 0
        carrying = Cluster(reserved, show, address, workers).carry_out(todo)
    else:
        most = max((run.processes for run in todo), default=1)
        # accounting runs on the processor whatever the others run on
        free = max(1, min((default_workers(run.device) for run in todo), default=1) // most)
        count = min(workers if workers is not None else free, len(todo))
        carrying = _here(todo, reserved, show) if count == 0 else _Pool(count, reserved, show).carry_out(todo)
    with show:
        show.start(todo, summary.cached, count)
        try:
            for record in carrying:
                summary.ended.add(record.key)
                if record.status not in ("ok", "diverged"):
                    summary.failed.append(record)
                others = record.key in reserved.others
                summary.cached += others
                summary.ran += not others
                show.finished(record)
        except KeyboardInterrupt:
            summary.interrupted = True
        finally:
            reserved.close()
    place = {key: number for number, key in enumerate(plan)}
    summary.failed.sort(key=lambda record: place[record.key])
    summary.wall_s = time.monotonic() - clock
    return summary


def _here(runs: Sequence[Run], reserved: Reservations, show: Progress) -> Iterator[Record]:
    waiting = deque(runs)
    while waiting:
        run, record = reserved.next(waiting)
        if run is not None:
            show.begin(run)
            record = carry_out(run, lambda step, steps, loss, run=run: show.step(run, step, steps, loss))  # type: ignore[misc]
            reserved.store.save(record)
            forget(run, record)
            reserved.release(run)
        if record is None:
            time.sleep(TICK)
        else:
            yield record


@dataclass
class _Worker:
    process: Any
    pipe: Any
    run: Run | None = None
    since: float = 0.0
    started: datetime = field(default_factory=lambda: datetime.now(UTC))


class _Pool:
    """Persistent spawned workers, so that torch is imported once per worker; a worker over its limit is replaced."""

    def __init__(self, count: int, reserved: Reservations, show: Progress):
        self.count, self.reserved, self.show = count, reserved, show
        self.store = reserved.store
        self.context = multiprocessing.get_context("spawn")
        self.workers: list[_Worker] = []
        self.daemons = True

    def carry_out(self, runs: Sequence[Run]) -> Iterator[Record]:
        waiting, looked = deque(runs), 0.0
        # what multiprocessing calls a daemon may start no processes; these end with this one either way
        self.daemons = all(run.processes == 1 for run in runs)
        try:
            while waiting or any(w.run for w in self.workers):
                while waiting and len(self.workers) < self.count:
                    self.workers.append(self._spawn())
                for worker in self.workers:
                    while worker.run is None and waiting:
                        run, record = self.reserved.next(waiting)
                        if run is not None:
                            self._hand(worker, run)
                        elif record is not None:
                            yield record
                        else:
                            break
                ready = set(multiprocessing.connection.wait([w.pipe for w in self.workers], timeout=TICK))
                look = time.monotonic() - looked >= TICK
                looked = time.monotonic() if look else looked
                for worker in list(self.workers):
                    record = self._hear(worker) if worker.pipe in ready else None
                    if record is None and look:  # not at every word of one of them
                        record = self._over_limit(worker)
                    if record is not None:
                        yield record
        finally:
            for worker in self.workers:
                worker.pipe.close()  # all at once: the idle ones go while the first is waited for
            for worker in self.workers:
                self._end(worker)

    def _spawn(self) -> _Worker:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=serve, args=(theirs, str(self.store.root)), daemon=self.daemons)
        with _environment(ONE_THREAD):
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def _hand(self, worker: _Worker, run: Run) -> None:
        worker.run, worker.since, worker.started = run, time.monotonic(), datetime.now(UTC)
        self.show.begin(run)
        with contextlib.suppress(BrokenPipeError):  # a worker that is gone is noticed when it is listened to
            worker.pipe.send(run)

    def _hear(self, worker: _Worker) -> Record | None:
        try:
            message = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join(5)
            code = worker.process.exitcode
            return self._lost(worker, "failed", f"the worker process ended with exit code {code}")
        run = worker.run
        assert run is not None
        if message[0] == "step":
            self.show.step(run, *message[1:])
            return None
        worker.run = None
        self.reserved.release(run)
        if message[0] == "unsaved":
            raise CannotStore(f"{message[1]}; {run.label} was carried out and is lost")
        return message[1]

    def _over_limit(self, worker: _Worker) -> Record | None:
        run = worker.run
        if run is None:
            return None
        if time.monotonic() - worker.since > run.time_limit:
            return self._lost(worker, *over_time(run))
        used = resident(worker.process.pid, run.processes > 1)
        if used > run.memory:
            return self._lost(worker, *over_memory(run, used))
        return None

    def _lost(self, worker: _Worker, status: str, message: str) -> Record | None:
        run = worker.run
        self._end(worker)
        self.workers.remove(worker)
        if run is None:
            return None
        error = {"type": status, "message": message, "traceback": ""}
        record = record_of(run, status, Outcome(), error, worker.started, time.monotonic() - worker.since)
        self.store.save(record)
        self.reserved.release(run)
        return record

    def _end(self, worker: _Worker) -> None:
        worker.pipe.close()
        if worker.run is None:
            worker.process.join(2)  # an idle worker ends with its pipe and cleans up after itself
        worker.process.kill()
        worker.process.join(5)


def resident(pid: int | None, family: bool = False) -> int:
    """Bytes of a process that are in memory, with those of its ``family`` of descendants; 0 where the system does not
    say."""
    if family:
        import psutil

        try:
            children = psutil.Process(pid).children(recursive=True)
        except psutil.Error:
            children = []
        return resident(pid) + sum(resident(child.pid) for child in children)
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
