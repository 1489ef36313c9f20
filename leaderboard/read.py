"""Records of one paper with the text they were read from, so that a page can hand out what the runner wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from repro.records import BadRecord, Record
from repro.records.schema import printable
from repro.records.store import Loaded, texts
from repro.report import Origin


@dataclass
class Folder:
    """Records of one paper and one origin, their texts by key, and what could not be read, by name."""

    records: list[Record] = field(default_factory=list)
    texts: dict[str, bytes] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read(root: Path | None, slug: str, origin: Origin) -> Folder:
    """Every readable record of a paper below ``root``, in the store's order; the last of several with one key."""
    out = Folder()
    if root is None:
        return out
    seen = Loaded()
    found: dict[str, Record] = {}
    for name, text in texts(root / slug, seen):
        try:
            record = Record.from_json(text)
        except BadRecord as error:
            seen.problems.append(printable(f"{name}: {error}"))
            continue
        if record.paper != slug:
            seen.problems.append(f"{name}: belongs to paper {record.paper!r}, not {slug!r}")
            continue
        found[record.key] = record
        strict = b"NaN" not in text and b"Infinity" not in text
        out.texts[record.key] = text.strip() if strict else record.to_json().encode()
    out.records = sorted(found.values(), key=lambda r: (r.scale, r.setting, r.arm, r.seed, r.key))
    out.problems = [_relative(p, root, origin) for p in seen.problems]
    return out


def strangers(root: Path | None, known: set[str], origin: Origin) -> list[str]:
    """Folders of records that belong to no paper present."""
    if root is None or not root.is_dir():
        return []
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name not in known and not p.name.startswith("."))
    return [f"{origin}/{name}: no paper of that name" for name in names]


def _relative(problem: str, root: Path, origin: Origin) -> str:
    """Problems name files below the root only: pages name no folder of the machine that built them."""
    return origin + problem.removeprefix(str(root))
