"""Looking after stores of records: are they whole, how do several become one, what can go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from repro.claims import ACCOUNTING
from repro.records.provenance import run_key
from repro.records.schema import BadRecord, Record, printable
from repro.records.store import Loaded, Store, texts

if TYPE_CHECKING:
    from repro.claims import Paper

#: Seconds after which a part-written file has no writer any more.
ABANDONED = 3600.0


@dataclass
class Verified:
    """What `verify` found: how many records are readable, how many of them carry a seal, and what is wrong, by name."""

    records: int = 0
    sealed: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class Conflict:
    """Two finished records of one run that do not say the same."""

    key: str
    label: str
    ours: str
    theirs: str
    differences: list[str]


@dataclass
class Merged:
    """What `merge` did: records added, replaced (a failed one by a finished one), present already; and what it left."""

    added: int = 0
    replaced: int = 0
    same: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Garbage:
    """Files of a store that no current code can use, each with the reason, and their bytes together."""

    files: list[tuple[Path, str]] = field(default_factory=list)
    bytes: int = 0


def _read(root: Path | str, unread: list[str]) -> Iterator[tuple[str, Record | BadRecord]]:
    """Name and record of every text below ``root``, or what is wrong with it; ``unread`` takes files that cannot be
    opened."""
    loaded = Loaded()
    for name, text in texts(root, loaded):
        try:
            yield name, Record.from_json(text)
        except BadRecord as error:
            yield name, error
    unread += loaded.problems


def verify(root: Path | str) -> Verified:
    """Check every record below ``root``: readable, its seal unbroken, its key the hash of what it says determined it,
    its file where that belongs, and no key there twice."""
    out = Verified()
    seen: dict[str, str] = {}
    for name, record in _read(root, out.problems):
        if isinstance(record, BadRecord):
            out.problems.append(printable(f"{name}: {record}"))
            continue
        out.records += 1
        out.sealed += "digest" in record.provenance
        wrong = _misplaced(name, record)
        if run_key(record.identity) != record.key:
            wrong = f"its key {record.key} is not that of its configuration, code and seed"
        elif record.key in seen:
            wrong = f"the key {record.key} is also in {seen[record.key]}"
        if wrong:
            out.problems.append(printable(f"{name}: {wrong}"))
        seen.setdefault(record.key, name)
    return out


def _misplaced(name: str, record: Record) -> str:
    path = Path(name.partition(".jsonl:")[0])
    if name.endswith(".json"):
        good = (path.stem, path.parent.name, path.parent.parent.name) == (record.key, record.scale, record.paper)
    else:
        good = (path.name, path.parent.name) == (f"{record.scale}-{record.setting}", record.paper)
    return "" if good else f"a record of {record.paper}, {record.scale}, {record.setting} stands there"


def merge(source: Path | str, into: Store) -> Merged:
    """Bring the records below ``source`` (a store, or a folder of reference files) into a store.

    What is there stays. A finished record takes the place of a failed one. Two finished records of one key whose
    results agree to the last digit are one, though their timings and machines differ; where they do not agree both
    files stay as they are and the conflict is reported. Damaged records are named and left out.

    Raises CannotStore; what was merged before stays.
    """
    out = Merged()
    for name, record in _read(source, out.problems):
        if isinstance(record, BadRecord):
            out.problems.append(printable(f"{name}: {record}"))
            continue
        if run_key(record.identity) != record.key:
            out.problems.append(printable(name) + ": its key is not that of its configuration, code and seed")
            continue
        try:
            path = into.path(record.paper, record.scale, record.key)
        except ValueError as error:
            out.problems.append(printable(f"{name}: {error}"))
            continue
        ours = into.get(record.paper, record.scale, record.key)
        finished = record.status in ("ok", "diverged")
        if ours is not None and not finished:
            out.same += 1
        elif ours is not None:
            if different := differences(ours, record):
                out.conflicts.append(Conflict(record.key, _label(record), str(path), name, different))
            else:
                out.same += 1
        elif path.exists() and not finished:
            out.same += 1
        else:
            out.replaced += path.exists()
            out.added += not path.exists()
            into.save(record)
    return out


def _label(record: Record) -> str:
    return printable(f"{record.paper} {record.setting}/{record.arm}, {record.scale}, seed {record.seed}")


def differences(ours: Record, theirs: Record) -> list[str]:
    """In which results two records differ, a line each; empty when they agree."""
    a, b = ours.results, theirs.results
    out = [] if a["status"] == b["status"] else [f"status {a['status']} and {b['status']}"]
    for name in sorted({*a["metrics"], *b["metrics"]}):
        x, y = a["metrics"].get(name, "absent"), b["metrics"].get(name, "absent")
        if x != y:
            out.append(f"{name} {x} and {y}")
    out += [part for part in ("curves", "tables") if a[part] != b[part]]
    return [printable(line) for line in out]


def garbage(root: Path | str, papers: Mapping[str, Paper], now: float | None = None) -> Garbage:
    """What of a store no current code can use. Nothing is removed.

    Records of papers that are not in ``papers``, records made by code that has changed since and that no repeated run
    confirms, records that cannot be read, records of runs that failed, and part-written files whose writer is gone (an
    hour old; ``now`` is in seconds since 1970). Nothing is called stale where the code that is here cannot be read.
    """
    from repro.records.confirm import confirmed
    from repro.report import current_code, is_stale

    read = [(name, record) for name, record in _read(root, []) if name.endswith(".json")]
    stale: set[str] = set()
    for slug, paper in papers.items():
        own = [record for _, record in read if isinstance(record, Record) and record.paper == slug]
        entries = {r.key: paper.accounting if r.arm == ACCOUNTING else paper.experiment for r in own}
        changed = {
            r.key for r in own if is_stale(paper, r) and current_code(entries[r.key], str(r.config.get("data", "")))
        }  # fmt: skip
        stale |= changed - confirmed(own, changed).keys()

    out = Garbage()

    def add(path: Path, why: str) -> None:
        out.files.append((path, why))
        out.bytes += path.stat().st_size

    for name, record in read:
        if isinstance(record, BadRecord):
            add(Path(name), f"unreadable: {record}")
        elif record.paper not in papers:
            add(Path(name), printable(f"there is no paper {record.paper}"))
        elif record.status not in ("ok", "diverged"):
            add(Path(name), f"it ended in {record.status} and would be run again")
        elif record.key in stale:
            add(Path(name), "stale: the code that made it has changed")
    moment = time.time() if now is None else now
    for folder, _, names in os.walk(root):
        for part in (Path(folder) / n for n in names if n.startswith(".") and n.endswith(".part")):
            if moment - part.stat().st_mtime > ABANDONED:
                add(part, "part-written, its writer is gone")
    return out


def remove(found: Garbage) -> int:
    """Remove what `garbage` found; how many files went (one that is gone already counts for nothing)."""
    gone = 0
    for path, _ in found.files:
        try:
            path.unlink()
            gone += 1
        except FileNotFoundError:
            continue
    return gone
