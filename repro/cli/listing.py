"""``repro list`` and ``repro show``."""

from __future__ import annotations

from repro import papers
from repro.claims import Paper
from repro.cli.choices import BadInput, nearest


def find_paper(given: str) -> Paper:
    """The paper of that slug. Raises BadInput."""
    try:
        return papers.load_paper(given)
    except KeyError:
        choices = [slug.replace("_", "-") for slug in papers.slugs()]
        raise BadInput(f"unknown paper {given!r}; {nearest(given.replace('_', '-'), choices)}") from None


def list_papers() -> int:
    """Print one line per paper."""
    from tabulate import tabulate

    rows = []
    for slug in papers.slugs():
        paper = papers.load_paper(slug)
        rows.append(
            (slug.replace("_", "-"), paper.short, paper.year, paper.area, len(paper.claims), ", ".join(paper.presets))
        )
    print(tabulate(rows, headers=("paper", "name", "year", "area", "claims", "scales")))
    return 0


def show_paper(given: str) -> int:
    """Print what a paper claims and how it is tried here."""
    paper = find_paper(given)
    from rich.console import Console

    from repro.cli.show import show

    show(paper.slug, Console())
    return 0
