"""Finds papers by their folder: ``papers/<slug>/paper.py`` with a ``PAPER`` in it. Imports no torch."""

from __future__ import annotations

import functools
import importlib
import traceback
from pathlib import Path

from repro.claims import Paper

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "papers"


class BrokenPaper(RuntimeError):
    """A paper whose ``paper.py`` cannot be loaded. The message is one line that names the file and the reason."""


def slugs() -> list[str]:
    """Slugs of the papers present, sorted; underscores as in the folder names."""
    return sorted(p.parent.name for p in FOLDER.glob("[a-z]*/paper.py"))


@functools.lru_cache
def load_paper(slug: str) -> Paper:
    """The paper of that slug (hyphens count as underscores).

    Raises KeyError for an unknown one, BrokenPaper for one whose module raises or holds no paper.
    """
    name = slug.replace("-", "_")
    if name not in slugs():
        raise KeyError(slug)
    try:
        found = importlib.import_module(f"papers.{name}.paper").PAPER
        if not isinstance(found, Paper):
            raise TypeError(f"PAPER is a {type(found).__name__}")
    except Exception as error:  # whatever half-written code can raise
        own = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent.name == name]
        line = error.lineno if isinstance(error, SyntaxError) else own[-1] if own else None
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise BrokenPaper(f"papers/{name}/paper.py{f', line {line}' if line else ''}: {reason}") from error
    return found


def load_all() -> tuple[list[Paper], list[BrokenPaper]]:
    """The papers that can be loaded, and what is wrong with the others: one of them does not hide the rest."""
    found: list[Paper] = []
    broken: list[BrokenPaper] = []
    for slug in slugs():
        try:
            found.append(load_paper(slug))
        except BrokenPaper as error:
            broken.append(error)
    return found, broken


def folder(slug: str) -> Path:
    """The paper's folder."""
    return FOLDER / slug.replace("-", "_")
