"""What a paper's README says was found is what its reference records say: every ``mean [low, high]`` that it shows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest

from repro import papers, report
from repro.claims import Interval
from repro.report import Story

NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?"
#: A mean, up to three words (its unit), an interval; a dagger behind it marks records that are in the history only.
SHOWN = re.compile(rf"({NUMBER})(?:\s+(?:%|[^\W\d]+)){{0,3}}\s*\[({NUMBER}),\s*({NUMBER})\](†?)")
CLAIM_ROW = re.compile(r"\|\s*(C\d+)\b.*\|\s*([^|]*?)\s*\|\s*$")
VERDICTS = ("reproduced", "partly", "contradicted", "inconclusive", "unfair", "untested")


class Shown(NamedTuple):
    """An interval in a text: what it looks like, its three numbers with the decimals of each, the line."""

    text: str
    numbers: tuple[tuple[float, int], ...]
    line: int


def shown(text: str) -> Iterator[Shown]:
    for found in SHOWN.finditer(text):
        if not found[4]:
            numbers = tuple(
                (float(t), len(t.partition(".")[2])) for t in (g.replace(",", "") for g in found.groups()[:3])
            )
            yield Shown(" ".join(found[0].split()), numbers, text[: found.start()].count("\n") + 1)


def is_rounded(interval: Interval, numbers: Sequence[tuple[float, int]], offset: float = 0.0) -> bool:
    """Whether the numbers are the interval's, without the rule's offset, as such or in percent, in either sign."""
    for factor in (1, 100, -1, -100):
        low, high = (interval.low, interval.high) if factor > 0 else (interval.high, interval.low)
        values = [(v - offset) * factor for v in (interval.mean, low, high)]
        if all(abs(v - n) <= 0.5001 * 10**-d for v, (n, d) in zip(values, numbers, strict=True)):
            return True
    return False


def verdicts_of(story: Story, numbers: Sequence[tuple[float, int]], claim: str = "") -> set[str]:
    """Of the rows (of one claim) whose effect, or one of whose arms, is the interval with these numbers."""
    offsets = {(c.id, p.name): getattr(p, "offset", 0.0) for c in story.paper.claims for p in c.comparisons}
    found = set()
    for row in story.rows:
        f = row.finding
        if claim not in ("", f.claim):
            continue
        effects = [] if f.effect is None else [(f.effect, 0.0), (f.effect, offsets[f.claim, f.comparison])]
        for interval, offset in effects:
            if math.isfinite(interval.low) and is_rounded(interval, numbers, offset):
                found.add(row.verdict)
        if not claim and any(is_rounded(i, numbers) for i in f.arms.values() if math.isfinite(i.low)):
            found.add("of an arm")
    return found


@pytest.fixture(scope="module", params=papers.slugs())
def paper(request, tmp_path_factory) -> tuple[Story, str]:
    slug = request.param
    nothing = tmp_path_factory.mktemp("none")
    return report.read_story(slug, local=nothing), (papers.folder(slug) / "README.md").read_text(encoding="utf-8")


def test_every_interval_is_one_of_the_reference_records(paper):
    story, text = paper
    lost = [f"line {s.line}: {s.text}" for s in shown(text) if not verdicts_of(story, s.numbers)]
    assert not lost, "no row of the leaderboard has these; mark what is history with a dagger behind the bracket"


def test_a_row_of_the_findings_names_the_verdicts_of_its_intervals(paper):
    story, text = paper
    wrong = []
    for n, line in enumerate(text.splitlines(), 1):
        row = CLAIM_ROW.match(line)
        said = {v for v in VERDICTS if row and v in row[2]}
        if not row or not said:
            continue  # a table with a column for each setting says its verdicts in the text
        known = {r.verdict for r in story.rows if r.claim == row[1]}
        wrong += [f"line {n}: no row of {row[1]} is {v}" for v in sorted(said - known)]
        for s in shown(line):
            judged = verdicts_of(story, s.numbers, row[1])
            if judged and not judged & said:
                wrong.append(f"line {n}: {s.text} is {' or '.join(sorted(judged))}")
    assert not wrong


def test_figures_that_are_off_are_seen():
    interval = Interval(0.1234, 0.1049, 0.1419, 3, 0.01)
    (good,) = shown("| C1 | a | +12.3 % [10.5, 14.2] | reproduced |")
    assert is_rounded(interval, good.numbers)
    for text in ("+12.4 % [10.5, 14.2]", "+12.3 % [10.4, 14.2]", "+12.3 points [10.5, 14.3]"):
        (off,) = shown(text)
        assert not is_rounded(interval, off.numbers), text
    (behind,) = shown("-0.12 nats per token\n  [-0.14, -0.10]")
    assert is_rounded(interval, behind.numbers)
    (margin,) = shown("0.02 [0.00, 0.04]")
    assert is_rounded(interval, margin.numbers, offset=0.1)
    assert not list(shown("+12.3 [10.5, 14.2]†, k = 1, 2 of [3]"))
