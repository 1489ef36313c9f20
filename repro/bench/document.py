"""The result of a benchmark: one JSON document per device and hardware, written whole by `write` and never by hand.

A document holds the groups that were measured, each with where it comes from: measuring one group again leaves the
others as they are.

    {"schema": 1, "device": "cpu",
     "groups": {"layer": {"started": ..., "load": 0.1, "finished": ..., "quick": false, "environment": {...},
                          "provenance": {"commit": ..., "dirty": ...}, "code": <hash of repro.models.dispatch>,
                          "cells": [<cell>, ...]}}}

A cell of ``layer`` and ``step`` has ``name``, ``shape``, ``mode``, ``repetitions``, ``way`` (what the automatic choice
was) and per contender either ``ms`` and ``ours_over`` (the time of ours over its time) with quartiles, or ``skipped``
or ``error`` with the reason; of ``layer`` on a GPU also ``kernels``, the share of its time by kind. A cell of
``choices`` or ``harness`` has ``name``, perhaps ``detail``, and either ``repetitions`` and ``ratio`` or ``seconds``
with quartiles, or ``error``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repro.papers import ROOT
from repro.records import write_atomically
from repro.records.provenance import code_hash, commit, environment

SCHEMA = 1
GROUPS = ("layer", "step", "choices", "harness")
FOLDER = ROOT / "leaderboard" / "bench"
#: What of the environment says which machine it is; the number of threads belongs to a process.
_HARDWARE = ("cpu", "cores", "memory_gib", "system", "device", "gpu", "gpu_memory_gib")


class BadDocument(ValueError):
    """A file that is no document of this schema."""


def begin() -> dict[str, Any]:
    """When a group starts (UTC), and how many processes wanted to run on this machine just before (a load average):
    on a busy machine times are long and ratios noisy."""
    load = {"load": round(os.getloadavg()[0], 2)} if hasattr(os, "getloadavg") else {}
    return {"started": _now(), **load}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def group(cells: Sequence[Mapping[str, Any]], device: str, quick: bool, began: Mapping[str, Any]) -> dict[str, Any]:
    """One group with where it comes from. Call it after torch is imported, so that the environment names the GPU."""
    return {
        **began,
        "finished": _now(),
        "quick": quick,
        "environment": environment(device),
        "provenance": commit(),
        "code": code_hash("repro.models.dispatch_cuda" if device.startswith("cuda") else "repro.models.dispatch"),
        "cells": list(cells),
    }


def path_of(folder: Path, device: str) -> Path:
    """Where the document of this machine stands: ``<device>-<hash of the hardware description>.json``."""
    hardware = environment(device)["hardware"]
    text = json.dumps({k: hardware[k] for k in _HARDWARE if k in hardware}, sort_keys=True)
    return folder / f"{device}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"


def write(folder: Path, device: str, groups: Mapping[str, Any]) -> Path:
    """Write the groups to the document of this machine, beside those that it has already."""
    path = path_of(folder, device)
    try:
        kept = read(path)["groups"]
    except BadDocument:
        kept = {}
    merged = {name: g for name in GROUPS if (g := groups.get(name, kept.get(name))) is not None}
    document = {"schema": SCHEMA, "device": device, "groups": merged}
    write_atomically(path, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read(path: Path) -> dict[str, Any]:
    """The document in a file. Raises BadDocument with the reason, which names no folder."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise BadDocument(f"not readable: {type(problem).__name__}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise BadDocument(f"schema {found.get('schema') if isinstance(found, dict) else None!r}, not {SCHEMA}")
    groups = found.get("groups")
    if not isinstance(found.get("device"), str) or not isinstance(groups, dict):
        raise BadDocument("device or groups are missing")
    for name, one in groups.items():
        cells = one.get("cells") if isinstance(one, dict) else None
        if not isinstance(cells, list) or not all(
            isinstance(c, dict) and isinstance(c.get("name"), str) for c in cells
        ):
            raise BadDocument(f"group {name!r} has no cells")
    return found
