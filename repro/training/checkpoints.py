"""Trained weights that several runs share: made once, kept by content, made by several processes at the same time.

    parts = [Part("base", identity, build_base), *(Part(f"task-{t}", ..., build_task(t)) for t in range(6))]
    base, *tuned = obtain(parts)  # Checkpoint: state, card, built

A part is built from nothing, or from earlier parts that its function obtains itself.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from repro.data.cache import cache_dir
from repro.data.kept import Folder, keep
from repro.records.provenance import code_hash, run_key

STATE = "state.safetensors"


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
    whole or not at all, and damaged weights are made again. What a builder raises passes through, and nothing is kept
    of that part.

    Args:
        meanwhile: parts that will be wanted later, built one at a time while there is nothing to do but wait.
        progress: called with (parts that are there, parts).
    """
    found = keep([_folder(part) for part in parts], meanwhile=[_folder(part) for part in meanwhile], progress=progress)
    return [Checkpoint(load_file(kept.place / STATE), kept.card, kept.made) for kept in found]


def _folder(part: Part) -> Folder:
    def make(place: Path) -> dict[str, Any]:
        state, card = part.build()
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, place / STATE)
        return {**card, "identity": dict(part.identity)}

    return Folder(part.place(), make)
