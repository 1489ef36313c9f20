"""``repro list`` and ``repro show``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from repro import papers
from repro.claims import Paper
from repro.cli.choices import BadInput, nearest


def find_paper(given: str) -> Paper:
    """The paper of that slug. Raises BadInput, also for one that cannot be loaded."""
    try:
        return papers.load_paper(given)
    except KeyError:
        choices = [slug.replace("_", "-") for slug in papers.slugs()]
        raise BadInput(f"unknown paper {given!r}; {nearest(given.replace('_', '-'), choices)}") from None
    except papers.BrokenPaper as error:
        raise BadInput(str(error)) from error


def list_papers() -> int:
    """Print one line per paper."""
    from tabulate import tabulate

    found, broken = papers.load_all()
    rows = [
        (p.slug.replace("_", "-"), p.short, p.year, p.area, len(p.claims), ", ".join(p.presets)) for p in found
    ]  # fmt: skip
    print(tabulate(rows, headers=("paper", "name", "year", "area", "claims", "scales")))
    return complain(broken)


def complain(broken: Sequence[papers.BrokenPaper]) -> int:
    """Name the papers that cannot be loaded, a line each; 1 when there are any."""
    for problem in broken:
        print(f"skipped {problem}", file=sys.stderr)
    return 1 if broken else 0


def show_paper(given: str) -> int:
    """Print what a paper claims and how it is tried here."""
    paper = find_paper(given)
    from rich.console import Console

    from repro.cli.show import show

    show(paper.slug, Console())
    return 0
