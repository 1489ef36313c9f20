"""How long a plan takes on so many places: the executors' policy on a clock of its own. Imports no torch, runs nothing.

Executors are list schedulers: whenever a place is free it takes the next run of the plan. What a run takes is given;
a run that finds its base model nowhere makes it first, and once one that did so has ended the others have it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Order = Literal["plan", "longest"]


@dataclass(frozen=True, slots=True)
class Job:
    """One run of a plan.

    Attributes:
        seconds: that it takes by itself.
        base: name of the base model that it needs; "" for none.
        base_s: seconds more where that has to be made.
    """

    seconds: float
    base: str = ""
    base_s: float = 0.0

    def __post_init__(self) -> None:
        for value in (self.seconds, self.base_s):
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"a run takes some seconds, not {value}")


@dataclass(frozen=True, slots=True)
class Schedule:
    """What came of it.

    Attributes:
        slots: places that there were.
        makespan: seconds from the first start to the last end.
        work: seconds that places were busy, base models included.
        bases: seconds of them that went into base models.
        critical: the longest run; no number of places makes the plan shorter. For runs that share a base model it is
            that of the run alone, which makes it itself.
        starts: of every job, in the order of the plan.
    """

    slots: int
    makespan: float
    work: float
    bases: float
    critical: float
    starts: tuple[float, ...]

    @property
    def utilisation(self) -> float:
        """Share of the places' time that is busy; 1 for an empty plan."""
        return self.work / (self.slots * self.makespan) if self.makespan else 1.0

    @property
    def bound(self) -> float:
        """Seconds that no order of these runs can go below on these places."""
        return max(self.work / self.slots, self.critical)


def simulate(jobs: Sequence[Job], slots: int, order: Order = "plan") -> Schedule:
    """Carry out a plan on ``slots`` places.

    Args:
        order: that of the plan, as executors have it, or the longest first.

    Raises:
        ValueError: for fewer places than one.
    """
    if slots < 1:
        raise ValueError(f"a plan needs a place, not {slots}")
    queue = list(range(len(jobs)))
    if order == "longest":
        queue.sort(key=lambda i: -(jobs[i].seconds + jobs[i].base_s))  # stable: equals stay in the plan's order
    free = [0.0] * min(slots, max(len(jobs), 1))
    made: dict[str, float] = {}
    """When each base model is there for all."""
    starts, makespan, bases, critical = [0.0] * len(jobs), 0.0, 0.0, 0.0
    for i in queue:
        job, now = jobs[i], heapq.heappop(free)
        took = job.seconds
        if job.base and made.get(job.base, math.inf) > now:
            took += job.base_s
            bases += job.base_s
            made[job.base] = min(made.get(job.base, math.inf), now + took)
        starts[i] = now
        makespan = max(makespan, now + took)
        critical = max(critical, took)
        heapq.heappush(free, now + took)
    work = sum(job.seconds for job in jobs) + bases
    return Schedule(slots, makespan, work, bases, critical, tuple(starts))


def scaled(jobs: Sequence[Job], factor: float) -> list[Job]:
    """The same runs, each so many times as long."""
    return [replace(job, seconds=job.seconds * factor, base_s=job.base_s * factor) for job in jobs]
