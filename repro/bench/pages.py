"""Sections of docs/scale-out.md that commands write, and the figures behind them in docs/scale-out.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro.papers import ROOT
from repro.records import write_atomically

PAGE = ROOT / "docs" / "scale-out.md"
FIGURES = ROOT / "docs" / "scale-out.json"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    """A Markdown table; ``sides`` has ``l`` or ``r`` for each column."""
    rule = ["---:" if side == "r" else "---" for side in sides]
    return "\n".join("| " + " | ".join(row) + " |" for row in (headers, rule, *rows))


def keep(name: str, document: Mapping[str, Any], path: Path = FIGURES) -> None:
    """Put one document beside the others in the file of figures."""
    kept = read(path)
    kept[name] = dict(document)
    write_atomically(path, json.dumps(dict(sorted(kept.items())), indent=1, allow_nan=False) + "\n")


def read(path: Path = FIGURES) -> dict[str, Any]:
    """All documents; empty where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write(name: str, text: str, path: Path = PAGE) -> None:
    """Put a text between the marks of that name. Raises ValueError for a page that has no such marks."""
    write_atomically(path, filled(path.read_text(encoding="utf-8"), name, text))


def filled(page: str, name: str, text: str) -> str:
    """A page with the text between its marks. Raises ValueError where they are missing."""
    head, opening, rest = page.partition(f"<!-- {name}: written by nox -s {name} -->")
    _, closing, tail = rest.partition(f"<!-- /{name} -->")
    if not opening or not closing:
        raise ValueError(f"the page has no section {name!r}")
    return f"{head}{opening}\n\n{text}\n\n{closing}{tail}"
