"""Builds the site, the Markdown twin and the files for machines. Same records, same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from leaderboard import machine, markdown
from leaderboard.read import read, strangers
from repro.claims import Paper
from repro.papers import load_paper, slugs
from repro.records import write_atomically
from repro.report import REFERENCE, Story, story

SITE = REFERENCE.parent / "site"


def build(
    reference: Path = REFERENCE,
    local: Path | None = Path("results/records"),
    out: Path = SITE,
    *,
    papers: Sequence[Paper] | None = None,
    problems: list[str] | None = None,
) -> Path:
    """Write the site to ``out`` and ``LEADERBOARD.md`` beside ``reference``; return the front page.

    Args:
        reference: committed records.
        local: records of this machine; None leaves them out.
        papers: instead of those found in ``papers/``.
        problems: takes what could not be read, by name.
    """
    found = [load_paper(s) for s in slugs()] if papers is None else list(papers)
    stories = [_story(paper, reference, local) for paper in found]
    known = {p.slug for p in found}
    lost = [p for s in stories for p in s.problems]
    lost += [*strangers(reference, known, "reference"), *strangers(local, known, "local")]
    if problems is not None:
        problems.extend(lost)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(reference.parent / "LEADERBOARD.md", markdown.leaderboard(stories))
    write_atomically(out / "results.json", machine.as_json(stories))
    write_atomically(out / "results.csv", machine.as_csv(stories))
    page = out / "index.html"
    text = escape(markdown.leaderboard(stories))
    write_atomically(page, f"<!doctype html><meta charset=utf-8><title>Leaderboard</title><pre>{text}</pre>\n")
    return page


def _story(paper: Paper, reference: Path, local: Path | None) -> Story:
    there, here = read(reference, paper.slug, "reference"), read(local, paper.slug, "local")
    return story(paper, there.records, here.records, [*there.problems, *here.problems])
