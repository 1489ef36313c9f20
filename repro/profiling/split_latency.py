"""Latency of a computation that is split between a device and a server: compute, send, compute.

    latency = device_s + round_trip_s + 8 bytes / bandwidth + server_s

Whole offload and local execution are splits too: nothing on one side, or no bytes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Split:
    """One way to answer a request. ``device_s`` and ``server_s`` in seconds; ``sent_bytes`` over the link, 0 for an
    answer without the server."""

    device_s: float
    sent_bytes: float
    server_s: float = 0.0

    def latency_s(self, bits_per_s: float, round_trip_s: float = 0.0) -> float:
        """Seconds from input to answer. Raises ValueError for a bandwidth that is not positive."""
        if bits_per_s <= 0:
            raise ValueError("bandwidth is positive")
        sent = 8 * self.sent_bytes / bits_per_s + round_trip_s if self.sent_bytes else 0.0
        return self.device_s + sent + self.server_s


def wins_between(this: Split, other: Split, round_trip_s: float = 0.0) -> tuple[float, float]:
    """The bandwidths, bit/s, between which ``this`` is the faster of the two: (low, high), (nan, nan) for none.

    Latencies are a + b / bandwidth, so that one bandwidth at most parts them.
    """
    fixed = [s.device_s + s.server_s + (round_trip_s if s.sent_bytes else 0.0) for s in (this, other)]
    slower, fewer = fixed[0] - fixed[1], 8 * (other.sent_bytes - this.sent_bytes)
    if slower <= 0 and fewer >= 0:
        return (0.0, math.inf) if slower < 0 or fewer > 0 else (math.nan, math.nan)
    if slower >= 0 and fewer <= 0:
        return math.nan, math.nan
    tie = fewer / slower
    return (0.0, tie) if fewer > 0 else (tie, math.inf)


def time_calls(function: Callable[[], object], *, repeats: int = 20, warmup: int = 3) -> float:
    """Median seconds of a call."""
    for _ in range(warmup):
        function()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return median(seconds)
