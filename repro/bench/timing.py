"""Interleaved paired timing."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Contenders = Mapping[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Quartiles:
    """First quartile, median and third quartile, linearly interpolated."""

    q1: float
    median: float
    q3: float

    @classmethod
    def of(cls, values: tuple[float, ...]) -> Quartiles:
        """Raises ValueError when there are no values."""
        if not values:
            raise ValueError("no values")
        ordered = sorted(values)

        def at(share: float) -> float:
            place = share * (len(ordered) - 1)
            low = int(place)
            high = min(low + 1, len(ordered) - 1)
            return ordered[low] + (place - low) * (ordered[high] - ordered[low])

        return cls(at(0.25), at(0.5), at(0.75))

    def plain(self, digits: int = 5) -> dict[str, float]:
        """For JSON, to so many significant digits."""
        return {name: float(f"{getattr(self, name):.{digits}g}") for name in ("q1", "median", "q3")}


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds per contender, one for each repetition, in the order of the repetitions."""

    seconds: Mapping[str, tuple[float, ...]]

    def spread(self, name: str) -> Quartiles:
        """Of the seconds of one contender."""
        return Quartiles.of(self.seconds[name])

    def ratio(self, name: str, base: str) -> Quartiles:
        """Of the time of ``name`` over that of ``base`` within one repetition; below 1, ``name`` is faster."""
        return Quartiles.of(tuple(a / b for a, b in zip(self.seconds[name], self.seconds[base], strict=True)))


def turns(count: int, repetition: int) -> list[int]:
    """Order in which ``count`` contenders run in one repetition: a Williams design.

    A zigzag that is shifted by one from repetition to repetition, and for an odd count reversed in every second round:
    over all of them each contender stands at each place and follows each other one equally often. What runs before
    decides what is in the caches, and a plain rotation would always let the same one run before.
    """
    zigzag = [(i + 1) // 2 if i % 2 else (count - i // 2) % count for i in range(count)]
    order = [(place + repetition) % count for place in zigzag]
    return order[::-1] if count % 2 and repetition // count % 2 else order


def measure(
    contenders: Contenders, repetitions: int, warmup: int, clock: Callable[[], float] = time.perf_counter
) -> Timings:
    """Run every contender once per repetition and time it.

    The order changes from repetition to repetition as `turns` says. The first ``warmup`` repetitions are not kept.
    Garbage is collected before and not in between.

    Args:
        contenders: what is timed, by name; a call returns when its work is done (on an accelerator: synchronised).
        clock: gives seconds.

    Raises:
        ValueError: without contenders, or for fewer than one repetition.
    """
    if not contenders or repetitions < 1 or warmup < 0:
        raise ValueError("nothing to time")
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for repetition in range(-warmup, repetitions):
            for name in (names[i] for i in turns(len(names), repetition)):
                contender = contenders[name]
                began = clock()
                contender()
                took = clock() - began
                if repetition >= 0:
                    seconds[name].append(took)
    finally:
        if collecting:
            gc.enable()
    return Timings({name: tuple(values) for name, values in seconds.items()})
