"""Finds papers by their folder: ``papers/<slug>/paper.py`` with a ``PAPER`` in it. Imports no torch."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

from repro.claims import Paper

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "papers"


def slugs() -> list[str]:
    """Slugs of the papers present, sorted; underscores as in the folder names."""
    return sorted(p.parent.name for p in FOLDER.glob("[a-z]*/paper.py"))


@functools.lru_cache
def load_paper(slug: str) -> Paper:
    """The paper of that slug (hyphens count as underscores). Raises KeyError for an unknown one."""
    name = slug.replace("-", "_")
    if name not in slugs():
        raise KeyError(slug)
    return importlib.import_module(f"papers.{name}.paper").PAPER


def folder(slug: str) -> Path:
    """The paper's folder."""
    return FOLDER / slug.replace("-", "_")
