"""The second executor: the same runs as Ray tasks, on one machine or many, with the same records.

Results are streamed home: a worker returns the text of its record, this process saves it, so that workers need no
shared disk. The project's code travels as Ray's working directory, finished base models through a shelf of the
cluster's own (`repro.runner.remote`). A run whose worker or node is lost is tried again; one over its time or memory is
ended by a watch inside its worker, and by this process when that watch is held up.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from repro.papers import ROOT
from repro.records import BadRecord, Record
from repro.records.provenance import commit
from repro.runner import remote
from repro.runner.errors import NoCluster
from repro.runner.outcome import Outcome
from repro.runner.plan import Run
from repro.runner.progress import Progress
from repro.runner.reserve import Reservations
from repro.runner.worker import ONE_THREAD, describe, over_time, record_of

#: How often a run whose worker or node was lost is tried again.
RETRIES = 3
#: Seconds past its limit after which a run is ended from here.
GRACE = 20.0
#: Seconds between two looks at what the workers say.
TICK = 0.25
#: Seconds between two looks at how large the cluster is.
LOOK = 1.0
#: Seconds to wait for a cluster, or one of its actors, to answer.
PATIENCE = 10.0
#: Nothing of these is needed to carry out a run.
LEFT_AT_HOME = (
    ".git", ".nox", ".venv*", "results", "leaderboard", "docs", "tests", ".ci", "*.egg-info", "__pycache__",
    ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "build", "dist",
)  # fmt: skip
#: Settings of this process that its workers take over. Tokens do not travel: what a task is started with can be read by
#: whoever sees the cluster.
_INHERITED = ("REPRO_DATA_DIR", "REPRO_CACHE", "HF_HOME", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass
class _Flight:
    """A run that was handed to the cluster."""

    run: Run
    attempt: int
    handed: float
    began: float | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    #: (status, message) with which its own watch ended it
    ended: tuple[str, str] | None = None


class Cluster:
    """Runs on a Ray cluster.

    Args:
        reserved: the store where records are put as they come, and what of it is reserved.
        show: is told of beginnings and steps.
        address: of a running cluster (``auto``, ``host:port``, ``ray://host:port``); without one a cluster is started
            on this machine and ended with the runs.
        slots: runs at a time; as many as the cluster has cores (or accelerators) when None.
        environment: further environment variables of the workers.

    Raises:
        NoCluster: when `carry_out` finds no Ray or no cluster.
    """

    def __init__(
        self,
        reserved: Reservations,
        show: Progress,
        address: str | None = None,
        slots: int | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self.reserved, self.show, self.address, self.slots = reserved, show, address, slots
        self.store = reserved.store
        self.environment = {
            **ONE_THREAD,
            **{name: os.environ[name] for name in _INHERITED if name in os.environ},
            **(environment or {}),
        }
        self.flights: dict[Any, _Flight] = {}
        #: what the board was asked and has not answered yet
        self.asked: list[Any] = []
        #: when the size of the cluster was looked up, for what runs, and what it was
        self.seen: tuple[float, tuple[str, int], tuple[int, int]] = (-math.inf, ("", 1), (1, 0))
        #: processes of the runs that have most of them
        self.most = 1
        #: runs whose worker was lost, with the number of the next attempt
        self.again: deque[tuple[Run, int]] = deque()

    def carry_out(self, runs: Sequence[Run]) -> Iterator[Record]:
        """Yield the record of every run as it ends, in the order of ending."""
        ray = self._connect()
        try:
            self.most = max((run.processes for run in runs), default=1)
            _can_hold(ray, runs)
            self.board = _pinned(ray, remote.Board)
            self.shelf = _pinned(ray, remote.Shelf)
            self.task = ray.remote(remote.task)  # once: the cluster keeps what is made of each such function
            waiting = deque(runs)
            while waiting or self.again or self.flights:
                yield from self._hand(ray, waiting)
                if not self.flights:  # another runner has all that is left
                    time.sleep(TICK)
                    continue
                ready, _ = ray.wait(list(self.flights), num_returns=1, timeout=TICK)
                self._listen(ray)
                if ready:  # all that are ready, not one a turn
                    ready, _ = ray.wait(list(self.flights), num_returns=len(self.flights), timeout=0)
                for reference in ready:
                    yield from self._land(ray, reference)
                for reference in self._overdue():
                    yield from self._land(ray, reference)
        finally:
            for reference in self.flights:
                with contextlib.suppress(Exception):
                    ray.cancel(reference, force=True)
            ray.shutdown()

    def _connect(self) -> Any:
        try:
            import ray
        except ImportError:
            raise NoCluster("the executor ray needs Ray: pip install -e '.[ray]'") from None
        _reachable(self.address)
        # Ray warns that it will one day leave CUDA_VISIBLE_DEVICES alone
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            ray.init(
                address=self.address,
                runtime_env={
                    "working_dir": str(ROOT), "excludes": list(LEFT_AT_HOME), "env_vars": dict(self.environment),
                },
                include_dashboard=False if self.address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            raise NoCluster(f"no cluster at {self.address or 'this machine'}: {error}") from error
        return ray

    def _hand(self, ray: Any, waiting: deque[Run]) -> Iterator[Record]:
        """Keep a few more runs handed out than there are places, so that no place waits for this process; and no more,
        so that ten thousand runs cost no memory. Yields what another runner has carried out."""
        if not waiting and not self.again:
            return
        places, room = self._size(ray, waiting[0] if waiting else self.again[0][0])
        ahead = 0 if self.slots else max(2, places // 4)
        while (waiting or self.again) and len(self.flights) < places + ahead:
            if self.again:
                run, attempt = self.again.popleft()
            else:
                mine, record = self.reserved.next(waiting)
                if record is not None:
                    yield record
                    continue
                if mine is None:
                    return
                run, attempt = mine, 1
            task = self.task.options(
                num_cpus=run.processes, num_gpus=run.processes if run.device.startswith("cuda") else 0,
                memory=min(run.memory, room), max_retries=0, name=run.label,
            )  # fmt: skip
            reference = task.remote(run, attempt, self.board, self.shelf, sys.version_info[:2])
            self.flights[reference] = _Flight(run, attempt, time.monotonic())

    def _size(self, ray: Any, run: Run) -> tuple[int, int]:
        """Runs at a time, and bytes of the largest node; asked for once in a while, as nodes come and go."""
        looked, before, found = self.seen
        now, kind = time.monotonic(), (_resource(run), self.most)
        if before != kind or now - looked > LOOK:
            found = self.slots or _places(ray, *kind), _memory(ray, *kind)
            self.seen = now, kind, found
        return found

    def _listen(self, ray: Any, seconds: float = TICK) -> None:
        """Take in what the workers said since the last time; what the board does not tell within so many seconds, as it
        does not on a busy machine, the next time."""
        if len(self.asked) < 2:
            self.asked.append(self.board.drain.remote())
        events: list[tuple[Any, ...]] = []
        while self.asked:
            ready, _ = ray.wait(self.asked[:1], num_returns=1, timeout=seconds)
            if not ready:
                break
            try:
                events += ray.get(self.asked.pop(0))
            except Exception:  # the board went with its node; runs go on, their steps are not seen
                self.asked.clear()
                self.board = _pinned(ray, remote.Board)
                break
        by_run = {(f.run.key, f.attempt): f for f in self.flights.values()}
        for kind, key, attempt, *rest in events:
            flight = by_run.get((key, attempt))
            if flight is None:
                continue
            if kind == "begin":
                flight.began, flight.started = time.monotonic(), datetime.now(UTC)
                self.show.begin(flight.run)
            elif kind == "step":
                self.show.step(flight.run, *rest)
            else:
                flight.ended = (rest[0], rest[1])

    def _overdue(self) -> list[Any]:
        now = time.monotonic()
        late = [
            reference for reference, f in self.flights.items()
            if f.began is not None and now - f.began > f.run.time_limit + GRACE
        ]  # fmt: skip
        for reference in late:
            self.flights[reference].ended = over_time(self.flights[reference].run)
        return late

    def _land(self, ray: Any, reference: Any) -> Iterator[Record]:
        """The record of a run that ended; none when it is tried again."""
        flight = self.flights.pop(reference)
        run = flight.run
        if flight.ended is not None:
            with contextlib.suppress(Exception):
                ray.cancel(reference, force=True)
            yield self._failed(flight, *flight.ended)
            return
        try:
            record = _received(ray.get(reference), run)
        except (ray.exceptions.RayTaskError, BadRecord) as error:
            yield self._failed(flight, "failed", str(error).strip().splitlines()[-1], describe(error)["traceback"])
        except ray.exceptions.RayError as error:
            self._listen(ray, PATIENCE)  # its last words may have come meanwhile
            if flight.ended is not None:
                yield self._failed(flight, *flight.ended)
            elif flight.attempt <= RETRIES:
                self.again.append((run, flight.attempt + 1))
            else:
                reason = str(error).strip().partition("\n")[0]
                yield self._failed(flight, "failed", f"its worker was lost {flight.attempt} times, last: {reason}")
        else:
            self.store.save(record)
            self.reserved.release(run)
            yield record

    def _failed(self, flight: _Flight, status: str, message: str, traceback: str = "") -> Record:
        error = {"type": status, "message": message[:2000], "traceback": traceback}
        wall = time.monotonic() - (flight.began or flight.handed)
        record = record_of(flight.run, status, Outcome(), error, flight.started, wall)
        self.store.save(record)
        self.reserved.release(flight.run)
        return record


def _reachable(address: str | None) -> None:
    """Raises NoCluster where nothing answers at ``host:port``: Ray would go on trying for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except (OSError, ValueError) as error:
        raise NoCluster(f"no cluster at {address}: {error}") from None


def _received(text: str, run: Run) -> Record:
    """The record that a worker sent, with the commit of this checkout. Raises BadRecord for another run's."""
    record = Record.from_json(text)
    if record.key != run.key:
        raise BadRecord(f"a worker answered with the record of another run, {record.key}")
    return replace(record, provenance={**commit(), **record.provenance})


def _pinned(ray: Any, actor: type) -> Any:
    """The actor on this process's own node, which is there as long as somebody listens."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(actor).options(num_cpus=0, scheduling_strategy=here).remote()


def _resource(run: Run) -> str:
    return "GPU" if run.device.startswith("cuda") else "CPU"


def _can_hold(ray: Any, runs: Sequence[Run]) -> None:
    """Raises NoCluster for runs that no node can hold: they would wait for ever."""
    needed: dict[str, int] = {}
    for run in runs:
        needed[_resource(run)] = max(needed.get(_resource(run), 0), run.processes)
    for resource, count in needed.items():
        most = max((node["Resources"].get(resource, 0) for node in ray.nodes() if node["Alive"]), default=0)
        if resource == "GPU" and not most:
            raise NoCluster("the cluster has no accelerator, and --device cuda asks for one")
        # a run of one process may wait for a node that is still to come
        if count > max(1, most):
            what = "accelerators" if resource == "GPU" else "cores"
            raise NoCluster(f"runs of {count} processes need a node with as many {what}; the largest has {most:g}")


def _places(ray: Any, resource: str, processes: int) -> int:
    """Runs that the cluster as it is now can carry out at a time; at least 1, as nodes may still come."""
    return max(1, int(ray.cluster_resources().get(resource, 1)) // processes)


def _memory(ray: Any, resource: str, processes: int) -> int:
    """Bytes of the node that has most of them, of those that can hold a run at all: a run that may use more than any
    has would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    able = [each for each in nodes if each.get(resource, 0) >= processes]
    return int(max((each.get("memory", 0) for each in able or nodes), default=0))
