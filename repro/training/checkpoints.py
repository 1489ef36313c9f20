"""Trained weights that several runs share: made once, kept by content, made by several processes at the same time.

    parts = [Part("base", identity, build_base), *(Part(f"task-{t}", ..., build_task(t)) for t in range(6))]
    base, *tuned = obtain(parts)  # Checkpoint: state, card, built

A part is built from nothing, or from earlier parts that its function obtains itself.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from repro.data.cache import cache_dir
from repro.records.provenance import code_hash, run_key

#: Seconds between two looks at a part that another process is building.
PATIENCE = 0.5


class Built(NamedTuple):
    """What a builder returns: tensors by name, and what was measured (JSON)."""

    state: Mapping[str, Tensor]
    card: Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """Weights that can be made.

    Args:
        name: for people and for the folder's name.
        identity: everything that decides the weights besides code, as JSON; the seed is part of it.
        build: makes them.
        module: dotted name of the module whose code, with what it imports here, decides the weights.
    """

    name: str
    identity: Mapping[str, Any]
    build: Callable[[], Built] = field(compare=False)
    module: str

    def place(self) -> Path:
        """Its folder: addressed by identity, code, Python and torch."""
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        key = run_key({"identity": dict(self.identity), "code": code_hash(self.module), **versions})
        return cache_dir() / "checkpoints" / f"{self.name}-{key}"


@dataclass(frozen=True)
class Checkpoint:
    """Weights from disk: ``state`` on the CPU; ``card`` as the builder measured; whether this call built it."""

    state: dict[str, Tensor]
    card: dict[str, Any]
    built: bool


def obtain(
    parts: Sequence[Part],
    *,
    meanwhile: Sequence[Part] = (),
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Checkpoint]:
    """All parts, in their order: from the cache folder, or built now and put there.

    Of several processes that want the same parts each builds some and then waits for the others' rest. A part appears
    whole or not at all. What a builder raises passes through, and nothing is kept of that part.

    Args:
        meanwhile: parts that will be wanted later, built one at a time while there is nothing to do but wait.
        progress: called with (parts that are there, parts).
    """
    from filelock import FileLock, Timeout

    places = {part.name: part.place() for part in (*parts, *meanwhile)}
    built: set[str] = set()

    def attempt(part: Part) -> bool:
        place = places[part.name]
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(place.parent / f".{place.name}.lock", timeout=0):
                if _card(place) is None:
                    _make(part, place)
                    built.add(part.name)
        except Timeout:
            return False
        return True

    later = list(meanwhile)
    while missing := [part for part in parts if _card(places[part.name]) is None]:
        progress(len(parts) - len(missing), len(parts))
        if any(attempt(part) for part in missing):
            continue
        if later:
            other = later.pop(0)
            if _card(places[other.name]) is None:
                attempt(other)
        else:
            _wait()
    progress(len(parts), len(parts))
    return [_read(places[part.name], part.name in built) for part in parts]


def _wait() -> None:
    import time

    time.sleep(PATIENCE)


def _make(part: Part, place: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{part.name}-", dir=place.parent))
    try:
        state, card = part.build()
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, work / "state.safetensors"
        )
        (work / "card.json").write_text(json.dumps({**card, "identity": dict(part.identity)}, indent=1))
        shutil.rmtree(place, ignore_errors=True)  # what is there has no card
        work.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _card(place: Path) -> dict[str, Any] | None:
    """The card of finished weights; None where there are none, or a card that cannot be read."""
    try:
        card = json.loads((place / "card.json").read_text())
    except (OSError, ValueError):
        return None
    return card if isinstance(card, dict) and (place / "state.safetensors").is_file() else None


def _read(place: Path, built: bool) -> Checkpoint:
    card = _card(place)
    assert card is not None
    return Checkpoint(load_file(place / "state.safetensors"), card, built)
