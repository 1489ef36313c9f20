"""What an experiment gets and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


def _quiet(step: int, steps: int, loss: float | None) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Context:
    """What a run may know besides its configuration.

    Attributes:
        seed: the seed of the run; data, initialisation and sampling derive separate generators from it.
        device: torch device name.
        scale: name of the scale, for the record; experiments read sizes from the configuration instead.
        progress: call with (step, steps, latest loss or None); cheap enough for every few steps.
    """

    seed: int
    device: str = "cpu"
    scale: str = "smoke"
    progress: Callable[[int, int, float | None], None] = _quiet


@dataclass(slots=True)
class Outcome:
    """What an experiment measured; the fields are those of `repro.records.Record`."""

    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    profile: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    diverged: bool = False
