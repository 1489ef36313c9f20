"""Rows for tables: what a paper claimed, what was measured, and where that comes from.

The terminal, the Markdown twin and the site all read these rows, so that they cannot tell different stories. Nothing
here trains, draws or imports torch.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from repro import papers
from repro.claims import ACCOUNTING, SCALES, Claim, Computed, Finding, Interval, Judgement, Paper, judge
from repro.claims.contract import Comparison, Kind, Published, Role, Verdict
from repro.claims.judge import PLACEBO_SHIFT, combine
from repro.records import Record, load, standard
from repro.records.confirm import confirmed
from repro.records.provenance import earlier_codes, run_code
from repro.records.schema import clocked

Origin = Literal["local", "reference"]
ORIGINS: tuple[Origin, ...] = ("local", "reference")
REFERENCE = papers.ROOT / "leaderboard" / "reference"

#: Verdicts are told apart by glyph and word; colour only repeats what these say.
GLYPHS: Mapping[str, str] = {
    "reproduced": "✓",
    "partly": "◐",
    "contradicted": "✗",
    "inconclusive": "?",
    "unfair": "≠",
    "untested": "○",
    "mixed": "⇅",
}
MEANINGS: Mapping[str, str] = {
    "reproduced": "the effect is there at 95 % and as large as the rule asks",
    "partly": "the direction is there at 95 %, the size is below what the rule asks",
    "contradicted": "the measurement excludes what the rule asks at 95 %",
    "inconclusive": "too few seeds, too wide an interval, or a precondition that does not hold",
    "unfair": "the arms were not matched as the claim demands",
    "untested": "no measurement that could decide it",
    "mixed": "its settings or parts disagree; each is shown",
}
#: What a verdict on a negative control means: there the effect should be absent.
CONTROLS: Mapping[str, str] = {
    "reproduced": "! tripped",
    "partly": "! tripped",
    "contradicted": "✓ quiet",
    "inconclusive": "? undecided",
}
STYLES: Mapping[str, str] = {
    "reproduced": "bold blue",
    "partly": "cyan",
    "contradicted": "bold red",
    "inconclusive": "yellow",
    "unfair": "magenta",
    "untested": "dim",
    "mixed": "bold yellow",
}


@dataclass(frozen=True, slots=True)
class Sourced:
    """A record with where it stands: its origin, whether its code has changed since, whether it is judged.

    ``confirmed``: a run repeated on the changed code found the same (`repro.records.confirm`); it is not stale then.
    """

    record: Record
    origin: Origin
    stale: bool
    judged: bool
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One part of a claim in one setting at one scale, from the records of one origin."""

    paper: str
    kind: Kind
    headline: bool
    setting_title: str
    origin: Origin | Literal[""]
    stale: bool
    finding: Finding
    #: how many of its records are confirmed
    confirmed: int = 0

    @property
    def age(self) -> str:
        """``stale``, ``confirmed`` or nothing, of the code behind its records."""
        return "stale" if self.stale else "confirmed" if self.confirmed else ""

    @property
    def claim(self) -> str:
        """Identifier of the claim."""
        return self.finding.claim

    @property
    def part(self) -> str:
        """Name of the comparison."""
        return self.finding.comparison

    @property
    def role(self) -> Role:
        """Whether it decides the claim, stands beside it, or is a negative control."""
        return self.finding.role

    @property
    def verdict(self) -> Verdict:
        """The verdict of this part, in this setting, at this scale."""
        return self.finding.verdict


@dataclass(frozen=True, slots=True)
class ClaimStory:
    """A claim with its rows and, per scale, its verdict over the rows that decide it."""

    claim: Claim
    rows: tuple[Row, ...]
    verdicts: Mapping[str, Verdict]

    @property
    def tripped(self) -> tuple[Row, ...]:
        """Negative controls in which the effect was found although it should be absent."""
        return tuple(r for r in self.rows if r.role == "control" and r.verdict in ("reproduced", "partly"))

    @property
    def stale(self) -> bool:
        """Whether any row rests on a record whose code has changed and that is not confirmed."""
        return any(r.stale for r in self.rows)


@dataclass(frozen=True, slots=True)
class Story:
    """Everything known about a paper: its claims with rows, and the records behind them."""

    paper: Paper
    claims: tuple[ClaimStory, ...]
    #: the same from reference records alone, for the committed Markdown
    reference: tuple[ClaimStory, ...] = ()
    records: tuple[Sourced, ...] = ()
    problems: tuple[str, ...] = field(default=())

    @property
    def rows(self) -> tuple[Row, ...]:
        """All rows, in the order of the claims."""
        return tuple(r for c in self.claims for r in c.rows)

    @property
    def unfinished(self) -> tuple[Sourced, ...]:
        """Runs that diverged, failed, or exceeded their time or memory."""
        return tuple(s for s in self.records if s.record.status != "ok")

    @property
    def headline(self) -> ClaimStory | None:
        """The claim that a reader looks for first."""
        return next((c for c in self.claims if c.claim.headline), self.claims[0] if self.claims else None)


@functools.lru_cache
def current_code(entry: str, data: str = "", device: str = "cpu") -> str:
    """Hash of the code behind a dotted function name, on a data set and a kind of device; empty when its source is not
    here."""
    try:
        return run_code(entry, {"data": data}, device)
    except (FileNotFoundError, SyntaxError):
        return ""


def is_stale(paper: Paper, record: Record) -> bool:
    """Whether the code that made a record differs from the code that is here."""
    entry = paper.accounting if record.arm == ACCOUNTING else paper.experiment
    data = str(record.config.get("data", ""))
    code = current_code(entry, data, record.device_kind)
    return code not in (record.code, earlier_codes(entry, data, record.device_kind).get(record.code))


def reads_a_clock(comparison: Comparison) -> bool:
    """Whether a comparison rests on seconds or on measured memory: by its metric, a precondition's, or what its arms
    are matched on. Runs that are repeated need not give these again."""
    if isinstance(comparison, Computed):
        return False
    metrics = [comparison.metric, *(p.metric for p in comparison.preconditions)]
    matched = [m.quantity for m in comparison.matched]
    return any(map(clocked, [*metrics, *matched])) or any(name.startswith("peak_") for name in matched)


def story(
    paper: Paper, reference: Iterable[Record], local: Iterable[Record] = (), problems: Sequence[str] = ()
) -> Story:
    """Judge both origins apart, and pick for every row one of them: local when it says something, else reference."""
    here, judged_here = _judged(paper, list(local), "local")
    there, judged_there = _judged(paper, list(reference), "reference")
    sourced = [*judged_here, *judged_there]
    only = tuple(_claim(paper, claim, _choose({}, there)) for claim in paper.claims)
    both = only if not here else tuple(_claim(paper, claim, _choose(here, there)) for claim in paper.claims)
    return Story(paper, both, only, tuple(sourced), tuple(problems))


_Key = tuple[str, str, str, str]


def _judged(paper: Paper, records: list[Record], origin: Origin) -> tuple[dict[_Key, Row], list[Sourced]]:
    used: set[str] = set()
    rows: dict[_Key, Row] = {}
    changed = {r.key for r in records if is_stale(paper, r)}
    held = confirmed(records, changed)
    stale = changed - held.keys()
    timed = {(c.id, p.name) for c in paper.claims for p in c.comparisons if reads_a_clock(p)}
    scales = [s for s in SCALES if s != "smoke" and any(r.scale == s and r.arm != ACCOUNTING for r in records)]
    if not scales and any(r.arm == ACCOUNTING for r in records):
        scales = ["laptop"]
    for scale in scales:
        chosen = standard(paper, records, scale)
        used.update(r.key for r in chosen)
        for judgement in judge(paper, chosen, scale):
            for finding in judgement.findings:
                # what a clock decides is not among what a repeated run has to give again
                by_clock = (finding.claim, finding.comparison) in timed
                old = changed if by_clock else stale
                rows[finding.claim, finding.comparison, finding.setting, finding.scale] = Row(
                    paper.slug,
                    judgement.claim.kind,
                    judgement.claim.headline,
                    setting_title(paper, finding.setting),
                    origin,
                    any(key in old for key in finding.records),
                    finding,
                    0 if by_clock else sum(key in held for key in finding.records),
                )
    return rows, [Sourced(r, origin, r.key in stale, r.key in used, r.key in held) for r in records]


def _choose(local: Mapping[_Key, Row], reference: Mapping[_Key, Row]) -> list[Row]:
    chosen: dict[_Key, Row] = {}
    for key in dict.fromkeys([*local, *reference]):
        row = local.get(key)
        if row is None or (row.verdict == "untested" and key in reference):
            row = reference[key]
        chosen[key] = row
    placed = {(claim, part, scale) for (claim, part, setting, scale) in chosen if setting}
    tried = {(c, p) for (c, p, _, _), row in chosen.items() if row.verdict != "untested"}
    return [
        row
        for (claim, part, setting, scale), row in chosen.items()
        if setting or (row.verdict != "untested" or ((claim, part, scale) not in placed and (claim, part) not in tried))
    ]


def _claim(paper: Paper, claim: Claim, rows: Sequence[Row]) -> ClaimStory:
    own = [r for r in rows if r.claim == claim.id]
    if not own:
        blank = next(j for j in judge(paper, [], "laptop") if j.claim.id == claim.id)
        own = [Row(paper.slug, claim.kind, claim.headline, "", "", False, f) for f in blank.findings]
    names = [c.name for c in claim.comparisons]
    places = {s.name: i for i, s in enumerate(paper.settings)}
    own.sort(
        key=lambda r: (SCALES.index(r.finding.scale), names.index(r.part), places.get(r.finding.setting, len(places)))
    )
    computed = {c.name for c in claim.comparisons if isinstance(c, Computed)}
    exact = [r.verdict for r in own if r.part in computed and r.role == "primary"]
    measured: dict[str, list[Verdict]] = {}
    for row in own:
        if row.part not in computed and row.role == "primary":
            measured.setdefault(row.finding.scale, []).append(row.verdict)
    # a scale at which nothing was measured says nothing beside another: what is computed belongs to no scale
    tried = [s for s in SCALES if any(v != "untested" for v in measured.get(s, ()))]
    verdicts: dict[str, Verdict] = {scale: combine([*measured[scale], *exact]) for scale in tried}
    if not verdicts:  # what is computed alone: at the published size; nothing at all: where it would be measured
        unmeasured = [s for s in SCALES if s in measured and combine(exact) == "untested"]
        verdicts[next(iter(unmeasured), "published" if exact else "laptop")] = combine(exact)
    return ClaimStory(claim, tuple(own), verdicts)


def setting_title(paper: Paper, name: str) -> str:
    """For people; the name itself for a setting that the paper no longer has."""
    try:
        return paper.setting(name).title if name else ""
    except KeyError:
        return name


def default_local() -> Path:
    """Where the runner keeps its records: below ``results/``, or below the folder that ``REPRO_RESULTS`` names."""
    return Path(os.environ.get("REPRO_RESULTS", "results")) / "records"


def read_story(slug: str, reference: Path | None = None, local: Path | None = None) -> Story:
    """The story of a paper from the records on disk. Raises KeyError for an unknown paper."""
    paper = papers.load_paper(slug)
    there = load((REFERENCE if reference is None else reference) / paper.slug)
    here = load((default_local() if local is None else local) / paper.slug)
    return story(paper, there.records, here.records, [*there.problems, *here.problems])


# --- words and numbers ----------------------------------------------------------------------------------------


def number(value: float | None, digits: int = 4) -> str:
    """A number for people: significant digits, thousands apart, no needless zeros."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1e12 or size < 1e-4:
        return f"{value:.{digits - 1}e}"
    if size >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    places = digits - 1 - math.floor(math.log10(size))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign, for effects."""
    text = number(value, digits)
    return text if text.startswith(("-", "nan")) or value == 0 else f"+{text}"


def with_unit(text: str, unit: str) -> str:
    """Number and unit, apart by a space."""
    return f"{text} {unit.strip()}" if unit.strip() else text


def interval_text(interval: Interval | None, unit: str = "") -> str:
    """``+19.3 % [+15.1, +23.5]``, to two digits of the interval's half-width; the mean alone without an interval.

    ``no value`` where the mean is nan: a run ended well but lacks the figure (a level that was never reached).
    """
    if interval is None:
        return ""
    if math.isnan(interval.mean):
        return "no value"
    half = (interval.high - interval.low) / 2
    if not math.isfinite(half):
        return with_unit(signed(interval.mean), unit)
    mean, low, high = (rounded(v, half) for v in (interval.mean, interval.low, interval.high))
    return f"{with_unit(mean, unit)} [{low}, {high}]"


def rounded(value: float, half: float) -> str:
    """A signed value to the decimals that an interval of that half-width warrants."""
    if not math.isfinite(value) or not half > 0 or abs(value) >= 1e6 or half < 1e-6:
        return signed(value)
    places = max(0, 1 - math.floor(math.log10(half)))
    text = f"{value:+,.{places}f}"
    return text[1:] if not text.strip("+-0.,") else text


def ours(finding: Finding) -> str:
    """What was measured or computed here, for a table cell."""
    if finding.computed is not None:
        return with_unit(number(finding.computed, 6), finding.unit)
    if finding.effect is not None:
        return interval_text(finding.effect, finding.unit)
    if finding.arms:
        return ", ".join(f"{arm} {number(i.mean)}" for arm, i in finding.arms.items())
    return ""


def published(finding: Finding) -> str:
    """The paper's figure, marked where it was recalled and not read."""
    return "" if finding.published is None else published_text(finding.published)


def published_text(figure: Published) -> str:
    """A published figure, marked where it was recalled and not read."""
    return figure.text + ("" if figure.verified else " (unverified)")


def verdict_text(verdict: str) -> str:
    """Glyph and word."""
    return f"{GLYPHS[verdict]} {verdict}"


def row_verdict(role: str, verdict: str) -> str:
    """The verdict for a table cell; a negative control says whether it stayed quiet instead."""
    if role != "control" or verdict in ("untested", "unfair"):
        return verdict_text(verdict)
    return CONTROLS[verdict]


def seeds_text(finding: Finding) -> str:
    """How many paired seeds, and about how many would settle an open case."""
    if finding.computed is not None:
        return "exact"
    text = str(len(finding.seeds)) if finding.seeds else ""
    return f"{text} (about {finding.settle} to settle)" if finding.settle else text


def counts(verdicts: Iterable[str]) -> dict[str, int]:
    """How often each verdict occurs, in the order of `GLYPHS`, without zeros."""
    seen = list(verdicts)
    return {v: seen.count(v) for v in GLYPHS if v in seen}


def answer(rows: Sequence[Row]) -> str:
    """One part of a claim in a sentence: ``reproduced in 2 of 6 settings (A; B); contradicted in 4 (...)``."""
    tried = [r for r in rows if r.verdict != "untested"]
    if not tried:
        return "untested"
    if len(tried) == 1:
        place = tried[0].setting_title
        return f"{tried[0].verdict}{f' ({place})' if place else ''}"
    said: list[str] = []
    for verdict, count in counts(r.verdict for r in tried).items():
        places = [r.setting_title for r in tried if r.verdict == verdict]
        total = f" of {len(tried)}" if not said else ""
        every = "all " if count == len(tried) else ""
        said.append(
            f"{verdict} in {every}{count}{'' if every else total} settings".replace(" 1 settings", " 1 setting")
        )
        said[-1] += f" ({'; '.join(places)})"
    return "; ".join(said)


def placebo_seed(record: Record) -> bool:
    """Whether a record was made for the placebo, and so belongs to no arm's summary."""
    return record.seed >= PLACEBO_SHIFT


def finding_cells(judgements: Sequence[Judgement]) -> list[tuple[str, ...]]:
    """Cells (claim, setting, part, published, ours, seeds, verdict) of what was tried; primary parts always."""
    cells: list[tuple[str, ...]] = []
    for judgement in judgements:
        for f in judgement.findings:
            if f.verdict == "untested" and f.role != "primary":
                continue
            role = "" if f.role == "primary" else f" [{f.role}]"
            cells.append(
                (
                    f.claim,
                    f.setting or ("published size" if f.scale == "published" else "-"),
                    f.comparison + role,
                    published(f),
                    ours(f),
                    seeds_text(f),
                    row_verdict(f.role, f.verdict),
                )
            )
    return cells
