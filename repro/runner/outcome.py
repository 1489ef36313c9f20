"""What an experiment gets and what it gives back."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repro.training.loop import Engine, Keep


def quiet(step: int, steps: int, loss: float | None) -> None:
    """Nobody is told."""
    return None


@dataclass(frozen=True, slots=True)
class Context:
    """What a run may know besides its configuration.

    Attributes:
        seed: the seed of the run; data, initialisation and sampling derive separate generators from it.
        device: torch device name.
        scale: name of the scale, for the record; experiments read sizes from the configuration instead.
        progress: call with (step, steps, latest loss or None); cheap enough for every few steps.
        engine: carries out the steps of a training; None: this process alone.
        keep: keeps a training while it goes on; None: nothing does.
    """

    seed: int
    device: str = "cpu"
    scale: str = "smoke"
    progress: Callable[[int, int, float | None], None] = quiet
    engine: Engine | None = None
    keep: Keep | None = None


#: Bytes that the pictures of one run may have together: records are read by the thousand.
PICTURES_LIMIT = 300_000


@dataclass(frozen=True, slots=True)
class Picture:
    """Something to look at, shown on the paper's page; see `repro.evaluation.pictures` for ways to make one.

    Attributes:
        kind: ``png`` or ``svg``.
        content: the file.
        text: what it shows, in words, for who does not see it.
    """

    kind: str
    content: bytes
    text: str


@dataclass(slots=True)
class Outcome:
    """What an experiment measured; the fields are those of `repro.records.Record`."""

    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    profile: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    diverged: bool = False
    pictures: dict[str, Picture] = field(default_factory=dict)

    def encoded_pictures(self) -> dict[str, dict[str, str]]:
        """As a record holds them. Raises ValueError when they are larger than `PICTURES_LIMIT` together."""
        size = sum(len(p.content) for p in self.pictures.values())
        if size > PICTURES_LIMIT:
            raise ValueError(f"the pictures of a run have {size} bytes, {PICTURES_LIMIT} are allowed")
        return {
            name: {"kind": p.kind, "text": p.text, "data": base64.b64encode(p.content).decode()}
            for name, p in self.pictures.items()
        }
