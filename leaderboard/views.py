"""What the pages show, as plain values: no markup, no numbers computed in templates."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leaderboard.pictures import harmless
from repro import report
from repro.claims import ACCOUNTING, SCALES, Computed, Contrast, Finding, Paper
from repro.claims.contract import Setting
from repro.claims.statistics import t_quantile
from repro.records import Record
from repro.report import ClaimStory, Origin, Row, Sourced, Story

#: Quantities of a run's profile that pages show, in order, with their unit for people.
COSTS: Mapping[str, tuple[str, str]] = {
    "params_total": ("parameters", ""),
    "params_active": ("active parameters", ""),
    "train_flops": ("training FLOPs", ""),
    "forward_flops_per_token": ("forward FLOPs per token", ""),
    "peak_memory_bytes": ("peak memory", "B"),
    "wall_s": ("wall time", "s"),
    "tokens_per_s": ("tokens per second", ""),
}
RECORDS_PER_PAGE = 1000
CURVE_POINTS = 30
#: Arms whose matrices a page draws; the rest stay in the records.
MATRIX_ARMS = 6
#: Matrices larger than this on a side are left to the records.
MATRIX_SIDE = 32


def typeset(text: object) -> str:
    """Typographic minus, arrow and thin space before the percent sign; numbers stay what they are."""
    out = str(text).replace(" -> ", " → ").replace("+-", "±").replace("<=", "≤").replace(">=", "≥")
    out = re.sub(r"(?<![\w.)-])-(?=\.?\d)", "\u2212", out)
    return re.sub(r"(?<=\d) %", "\u202f%", out)


def slug(name: str) -> str:
    """A name for a file or an anchor: the name itself where that is safe, else a hash of it behind what is."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        return name
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:40].strip("-")
    return f"{safe or 'x'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


def command(paper: Paper) -> str:
    """The command that makes the paper's rows again."""
    return f"nox -s reproduce-{paper.slug.replace('_', '-')}"


def part_command(paper: Paper, row: Row) -> str:
    """The command that makes one row again."""
    words = [command(paper), "--"]
    if row.finding.scale != "laptop" and row.finding.computed is None:
        words.append(f"--scale {row.finding.scale}")
    words.append(f"--claims {row.claim}")
    if row.finding.setting:
        words.append(f"--settings {row.finding.setting}")
    preset = paper.presets.get(row.finding.scale)
    if row.finding.seeds and preset is not None and len(row.finding.seeds) > preset.seeds:
        words.append(f"--seeds {len(row.finding.seeds)}")
    return " ".join(words)


def quantity(value: float, unit: str = "") -> str:
    """A count or size for people: 1.23 M, 310 MiB, 4.2 min."""
    if not math.isfinite(value):
        return report.number(value)
    if unit == "B":
        for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if abs(value) >= size:
                return f"{report.number(value / size, 3)} {name}"
        return f"{report.number(value, 3)} B"
    if unit == "s":
        for seconds, name in ((3600, "h"), (60, "min")):
            if abs(value) >= 2 * seconds:
                return f"{report.number(value / seconds, 2)} {name}"
        return f"{report.number(value, 2)} s"
    scale: tuple[tuple[float, str], ...] = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    for step, name in scale:
        if abs(value) >= step * 10 or (abs(value) >= step and step > 1e3):
            return f"{report.number(value / step, 3)} {name}"
    return report.number(value, 3)


# --- the front page ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What the runs behind a paper's rows took."""

    runs: int = 0
    total_s: float = 0.0
    median_s: float = math.nan
    peak_bytes: float = math.nan


@dataclass(frozen=True)
class Dot:
    """One setting of the headline claim on the common axis, in multiples of the published effect."""

    title: str
    verdict: str
    mean: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Summary:
    """One line of the front page."""

    slug: str
    short: str
    title: str
    area: str
    year: int
    arxiv: str
    command: str
    marks: tuple[dict[str, Any], ...]
    headline_id: str
    statement: str
    published: str
    #: the published figure as an effect, oriented as ours is
    effect: str
    dots: tuple[Dot, ...]
    ours: str
    cost: Cost
    origins: tuple[str, ...]
    stale: bool
    unfinished: int
    records: int

    @property
    def reproduced(self) -> float:
        """Share of the claims tried that were reproduced; below zero when none was tried."""
        tried = [m["verdict"] for m in self.marks if m["verdict"] != "untested"]
        return tried.count("reproduced") / len(tried) if tried else -1.0

    @property
    def ratio(self) -> float | None:
        """First setting's effect over the published one."""
        return self.dots[0].mean if self.dots else None


def summary(story: Story) -> Summary:
    """The front page's line for a paper."""
    paper = story.paper
    marks = tuple(
        {
            "claim": c.claim.id,
            "verdict": verdict,
            "scale": scale,
            "kind": c.claim.kind,
            "stale": c.stale,
            "statement": c.claim.statement,
            "first": i == 0,
            "tally": tally(c, scale) if verdict == "mixed" else {},
        }
        for c in story.claims
        for i, (scale, verdict) in enumerate(c.verdicts.items())
    )
    head = story.headline
    rows = [r for r in head.rows if r.role == "primary" and r.verdict != "untested"] if head else []
    measured = [r for r in rows if r.finding.computed is None]
    scale = max((r.finding.scale for r in measured), key=SCALES.index, default="laptop")
    rows = [r for r in measured if r.finding.scale == scale] or rows
    dots = tuple(d for d in map(_dot, rows) if d is not None)
    return Summary(
        paper.slug,
        paper.short,
        paper.title,
        paper.area,
        paper.year,
        paper.arxiv,
        command(paper),
        marks,
        head.claim.id if head else "",
        head.claim.statement if head else "",
        report.published_text(head.claim.published) if head else "",
        _published_effect(rows[0].finding) if rows else "",
        dots,
        span(rows) + ("" if scale == "laptop" else f" at {scale} scale"),
        cost(story),
        tuple(dict.fromkeys(r.origin for r in story.rows if r.origin and r.verdict != "untested")),
        any(c.stale for c in story.claims),
        len(story.unfinished),
        len(story.records),
    )


def tally(claim: ClaimStory, scale: str) -> dict[str, int]:
    """How often each verdict occurs among the rows that decide a claim at a scale."""
    return report.counts(
        r.verdict
        for r in claim.rows
        if r.role == "primary"
        and r.verdict != "untested"
        and (r.finding.computed is not None or r.finding.scale == scale)
    )


def _dot(row: Row) -> Dot | None:
    f = row.finding
    title = row.setting_title or "published size"
    if f.computed is not None and f.ratio is not None:
        return Dot(title, f.verdict, f.ratio, f.ratio, f.ratio, report.ours(f))
    if f.effect is None or f.published is None or not f.published.effect or not math.isfinite(f.effect.mean):
        return None
    ends = sorted(v / f.published.effect for v in (f.effect.low, f.effect.high))
    low, high = ends if all(map(math.isfinite, ends)) else (math.nan, math.nan)
    return Dot(title, f.verdict, f.effect.mean / f.published.effect, low, high, report.ours(f))


def _published_effect(f: Finding) -> str:
    """``+6.25 %``; empty where the paper gives none in the unit of the effect, or the figure is no effect."""
    if f.published is None or f.published.effect is None or f.computed is not None:
        return ""
    return report.with_unit(report.signed(f.published.effect), f.unit)


def span(rows: Sequence[Row]) -> str:
    """What was measured in rows of one claim: of one the effect with its interval, of several the least and the largest
    mean."""
    found = [r.finding for r in rows if r.finding.effect is not None and math.isfinite(r.finding.effect.mean)]
    if len(found) == 1:
        return report.ours(found[0])
    if not found:
        exact = [r.finding for r in rows if r.finding.computed is not None]
        return report.ours(exact[0]) if exact else ""
    units = list(dict.fromkeys(f.unit for f in found))
    if len(units) > 1:
        return ", ".join(span([r for r in rows if r.finding.unit == unit]) for unit in units)
    means = [f.effect.mean for f in found if f.effect is not None]
    return f"{report.signed(min(means))} to {report.with_unit(report.signed(max(means)), units[0])}"


def shown(story: Story) -> list[Sourced]:
    """Records whose numbers the pages summarise: judged, not placebo; per setting and scale, of one origin."""
    local = {(r.finding.setting, r.finding.scale) for r in story.rows if r.origin == "local" and r.finding.setting}
    return [
        s
        for s in story.records
        if s.judged
        and s.record.arm != ACCOUNTING
        and not report.placebo_seed(s.record)
        and (s.origin == "local") == ((s.record.setting, s.record.scale) in local)
    ]


def wall_seconds(record: Record) -> float:
    """Wall time of a run, wherever the record keeps it; nan when it does not."""
    return float(record.profile.get("wall_s", record.provenance.get("wall_s", math.nan)))


def cost(story: Story) -> Cost:
    """Wall time and memory of the runs behind the rows."""
    records = [s.record for s in shown(story)]
    walls = [w for w in map(wall_seconds, records) if math.isfinite(w)]
    peaks = [p for p in (r.profile.get("peak_memory_bytes", math.nan) for r in records) if math.isfinite(p)]
    return Cost(
        len(records),
        math.fsum(walls),
        statistics.median(walls) if walls else math.nan,
        max(peaks) if peaks else math.nan,
    )


# --- the paper page -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matrix:
    """Parts of a claim by settings: verdict marks at a glance."""

    scale: str
    #: (title, how many settings, label of what differs inside the group)
    groups: tuple[tuple[str, int, str], ...]
    columns: tuple[tuple[str, str], ...]
    lines: tuple[tuple[str, str, tuple[Row | None, ...]], ...]

    @property
    def stale(self) -> bool:
        """Whether every cell is stale, so that the caption can say it once."""
        cells = [r for _, _, line in self.lines for r in line if r is not None and r.finding.records]
        return bool(cells) and all(r.stale for r in cells)


def matrices(paper: Paper, claim: ClaimStory) -> list[Matrix]:
    """One matrix per scale; settings that nobody tried are left out."""
    out = []
    measured = [r for r in claim.rows if r.finding.computed is None and r.finding.setting]
    for scale in SCALES:
        rows = [r for r in measured if r.finding.scale == scale]
        tried = {r.finding.setting for r in rows if r.verdict != "untested"}
        if not tried:
            continue
        settings = [s for s in paper.settings if s.name in tried]
        groups: list[tuple[str, int, str]] = []
        columns: list[tuple[str, str]] = []
        for data in dict.fromkeys(s.data for s in settings):
            of_data = [s for s in settings if s.data == data]
            family = [s for s in paper.settings if s.data == data]
            key, labels = _difference(family)
            groups.append((_title(family), len(of_data), key))
            columns += [(s.name, labels.get(s.name, "")) for s in of_data]
        cells = {(r.part, r.finding.setting): r for r in rows}
        parts: dict[str, tuple[str, str]] = {}
        for role in ("primary", "secondary", "control"):
            parts.update({r.part: (r.finding.title, r.role) for r in rows if r.role == role})
        lines = tuple(
            (title, role, tuple(cells.get((part, name)) for name, _ in columns))
            for part, (title, role) in parts.items()
            if any((part, name) in cells and cells[part, name].verdict != "untested" for name, _ in columns)
        )
        out.append(Matrix(scale, tuple(groups), tuple(columns), lines))
    return out


def _difference(family: Sequence[Setting]) -> tuple[str, dict[str, str]]:
    """What tells the settings on the same data apart: the option in which they differ, and its value in each."""
    if len(family) < 2:
        return "", {}
    keys = [k for k in family[0].options if len({str(s.options.get(k)) for s in family}) > 1]
    if not keys:
        return "", {s.name: s.name for s in family}
    # Names say what a setting is; numbers such as a learning rate only go with it.
    keys = [k for k in keys if all(isinstance(s.options.get(k), str) for s in family)] or keys
    return ", ".join(keys), {s.name: ", ".join(str(s.options.get(k)) for k in keys) for s in family}


def _title(family: Sequence[Setting]) -> str:
    """What settings on the same data are called together: the first title where the others only add to it, else the
    data's name."""
    first = family[0]
    return first.title if all(s.title.startswith(first.title) for s in family) else first.data


def where(paper: Paper, rows: Sequence[Row]) -> str:
    """The settings of some rows, those on the same data together: ``Composition (normed, prenorm)``."""
    out = []
    for scale in dict.fromkeys(r.finding.scale for r in rows):
        names = {r.finding.setting: r.setting_title for r in rows if r.finding.scale == scale}
        suffix = "" if scale == "laptop" else f", {scale}"
        known = [s for s in paper.settings if s.name in names]
        for data in dict.fromkeys(s.data for s in known):
            family = [s for s in paper.settings if s.data == data]
            _, labels = _difference(family)
            own = [labels[s.name] for s in known if s.data == data and labels.get(s.name)]
            out.append(_title(family) + (f" ({', '.join(own)})" if own else "") + suffix)
        out += [title + suffix for name, title in names.items() if name and all(s.name != name for s in known)]
    return "; ".join(out)


def untried(paper: Paper, claim: ClaimStory) -> list[str]:
    """Titles of data that the claim names and nobody ran."""
    tried = {r.finding.setting for r in claim.rows if r.verdict != "untested"}
    named: dict[str, None] = {}
    for comparison in claim.claim.comparisons:
        if isinstance(comparison, Computed):
            continue
        named.update(dict.fromkeys(comparison.settings or tuple(s.name for s in paper.settings)))
    settings = [s for s in paper.settings if s.name in named]
    data_tried = {s.data for s in settings if s.name in tried}
    first = {s.data: s.title for s in reversed(settings)}
    return [title for data, title in reversed(first.items()) if data not in data_tried]


@dataclass(frozen=True)
class Detail:
    """A row with everything that a sceptic asks for."""

    row: Row
    anchor: str
    published: str
    effect: str
    ours: str
    ratio: str
    verdict: str
    audit: tuple[tuple[bool, str], ...]
    arms: tuple[tuple[str, str], ...]
    link: str
    command: str


def details(paper: Paper, claim: ClaimStory, pages: Mapping[str, str]) -> list[Detail]:
    """Rows of a claim, tried ones first to last as they are judged; ``pages`` says on which page a record stands."""
    return [_detail(paper, r, pages) for r in claim.rows]


def anchor(row: Row) -> str:
    """Identifier of a row on its page."""
    return "-".join([row.claim, slug(row.part), slug(row.finding.setting or "all"), row.finding.scale])


def _detail(paper: Paper, row: Row, pages: Mapping[str, str]) -> Detail:
    f = row.finding
    link = next((pages[k] for k in f.records if k in pages), "")
    if link and f.arms:
        link += "?arms=" + ",".join(a for a in f.arms if re.fullmatch(r"[\w.-]+", a))
        link += "&seeds=" + ",".join(map(str, f.seeds)) if len(f.seeds) <= 40 else ""
    return Detail(
        row,
        anchor(row),
        report.published(f),
        _published_effect(f),
        report.ours(f) if f.effect is not None or f.computed is not None else "",
        "" if f.ratio is None else report.number(f.ratio, 3),
        report.row_verdict(f.role, f.verdict),
        tuple((a.ok, _audit(a)) for a in f.audit),
        tuple((_arm_title(paper, name), report.interval_text(i).lstrip("+")) for name, i in f.arms.items()),
        link,
        part_command(paper, row),
    )


def _audit(a: Any) -> str:
    allowed = f"{a.tolerance:.3g}" if not a.tolerance else f"{100 * a.tolerance:.3g} %"
    name = COSTS.get(a.quantity, (a.quantity.replace("_", " "), ""))[0]
    if not math.isfinite(a.deviation):
        return f"{name}: not measured in every arm"
    if a.deviation == 0:
        return f"{name}: equal"
    values = "; ".join(f"{arm} {quantity(v)}" for arm, v in a.values.items())
    return f"{name}: {100 * a.deviation:.3g} % apart, {allowed if a.tolerance else 'none'} allowed ({values})"


def _arm_title(paper: Paper, name: str) -> str:
    try:
        return paper.arm(name).title
    except KeyError:
        return name


@dataclass(frozen=True)
class ArmLine:
    """An arm in one setting: what it reached and what it cost, over seeds."""

    name: str
    title: str
    role: str
    seeds: int
    metric: str
    costs: Mapping[str, str]
    stale: bool


@dataclass(frozen=True)
class Place:
    """One setting at one scale: its arms, curves and points for the charts."""

    id: str
    title: str
    scale: str
    origin: str
    note: str
    arms: tuple[ArmLine, ...]
    columns: tuple[str, ...]
    link: str
    stale: bool
    chart: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[Shown, ...] = ()


@dataclass(frozen=True)
class Shown:
    """A picture of a run, and the file of the site that it becomes."""

    arm: str
    seed: int
    name: str
    text: str
    file: str
    content: bytes
    """Empty where the record holds no picture of its kind, or one that does more than draw."""


def places(story: Story, pages: Mapping[str, str]) -> list[Place]:
    """Every setting with runs, as the paper orders them; laptop first."""
    paper = story.paper
    groups: dict[tuple[str, str], list[Sourced]] = {}
    for s in shown(story):
        groups.setdefault((s.record.scale, s.record.setting), []).append(s)
    order = {s.name: i for i, s in enumerate(paper.settings)}
    ranks = {"laptop": 0, "gpu": 1, "published": 2, "smoke": 3}
    keys = sorted(groups, key=lambda k: (ranks.get(k[0], 9), order.get(k[1], len(order)), k[1]))
    return [_place(paper, scale, setting, groups[scale, setting], pages) for scale, setting in keys]


def _place(paper: Paper, scale: str, setting: str, group: list[Sourced], pages: Mapping[str, str]) -> Place:
    by_arm: dict[str, list[Sourced]] = {}
    for s in sorted(group, key=lambda s: s.record.seed):
        by_arm.setdefault(s.record.arm, []).append(s)
    names = [a.name for a in paper.arms if a.name in by_arm]
    metric = paper.primary_metric
    lines, points = [], []
    for name in names:
        runs = [s.record for s in by_arm[name] if s.record.status == "ok"]
        mean, low, high = band([r.metrics.get(metric, math.nan) for r in runs])
        means = {
            k: _mean(wall_seconds(r) if k == "wall_s" else r.profile.get(k, math.nan) for r in runs) for k in COSTS
        }
        arm = paper.arm(name)
        text = report.number(mean)
        if math.isfinite(low):
            half = (high - low) / 2
            text = " ".join([report.rounded(mean, half).lstrip("+"), "±", report.rounded(half, half).lstrip("+")])
        lines.append(
            ArmLine(
                name,
                arm.title,
                arm.role,
                len(runs),
                text if runs else "no finished run",
                {k: quantity(v, COSTS[k][1]) if math.isfinite(v) else "" for k, v in means.items()},
                any(s.stale for s in by_arm[name]),
            )
        )
        if math.isfinite(mean):
            points.append(
                {
                    "arm": name,
                    "y": short(mean),
                    "lo": short(low),
                    "hi": short(high),
                    **{k: short(v) for k, v in means.items() if math.isfinite(v)},
                }
            )
    columns = tuple(k for k in COSTS if any(line.costs[k] for line in lines))
    try:
        note = paper.setting(setting).note
    except KeyError:
        note = ""
    chart = {
        "curves": curves(paper, {n: [s.record for s in by_arm[n] if s.record.status == "ok"] for n in names}),
        "points": points,
        "matrices": heatmaps({n: [s.record for s in by_arm[n]] for n in names}),
    }
    return Place(
        f"{scale}-{slug(setting)}",
        report.setting_title(paper, setting),
        scale,
        group[0].origin,
        note,
        tuple(lines),
        columns,
        next((pages[s.record.key] for s in group if s.record.key in pages), ""),
        all(line.stale for line in lines),
        chart,
        tuple(p for name in names for p in _pictures(paper, by_arm[name])),
    )


def _pictures(paper: Paper, runs: Sequence[Sourced]) -> Iterator[Shown]:
    """Those of the first seed of an arm that has any: the same seed for all arms, as runs are whole seeds."""
    record = next((s.record for s in runs if s.record.pictures and s.record.status == "ok"), None)
    if record is None:
        return
    for name, picture in record.pictures.items():
        kind = picture["kind"]
        try:
            content = base64.b64decode(picture["data"], validate=True)
        except ValueError:
            content = b""
        content = content if harmless(kind, content) else b""
        file = f"{slug(record.key)}-{slug(name)}.{kind}"
        yield Shown(paper.arm(record.arm).title, record.seed, name, picture["text"], file, content)


def band(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and Student's t interval of the finite part of ``values``; nan where there is none."""
    if not values or not all(map(math.isfinite, values)):
        return math.nan, math.nan, math.nan
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return mean, math.nan, math.nan
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = t_quantile(0.975, n - 1) * sd / math.sqrt(n)
    return mean, mean - half, mean + half


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found) if found and all(map(math.isfinite, found)) else math.nan


def short(value: float, digits: int = 5) -> float | None:
    """For charts: few digits, null where there is no number."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None


def curves(paper: Paper, runs: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Per arm the mean curve over seeds with its 95 % band, and the same relative to the first baseline.

    x is the share of training in percent: arms differ in length by design, and so do the authors' runs.
    """
    import numpy as np

    metric = paper.curves.metric if paper.curves else paper.primary_metric
    base = next((a.name for a in paper.arms if a.role == "baseline" and runs.get(a.name)), "")
    out: dict[str, Any] = {}
    theirs = {r.seed: r.curves[metric] for r in runs.get(base, ()) if metric in r.curves}
    for name, records in runs.items():
        found = {r.seed: r.curves[metric] for r in records if metric in r.curves and r.curves[metric]["x"]}
        if not found:
            continue
        grid = min((c["x"] for c in found.values()), key=len)
        if any(c["x"][: len(grid)] != grid for c in found.values()) or not all(map(math.isfinite, grid)):
            continue
        keep = _thin(len(grid))
        x = [round(100 * grid[i] / (grid[-1] or 1), 1) for i in keep]
        own = np.array([[c["y"][i] for i in keep] for c in found.values()], dtype=float)
        lines: dict[str, Any] = {"abs": _bands(np, x, own)}
        if name != base and found.keys() <= theirs.keys() and all(theirs[s]["x"] == c["x"] for s, c in found.items()):
            other = np.array([[theirs[s]["y"][i] for i in keep] for s in found], dtype=float)
            with np.errstate(all="ignore"):
                lines["rel"] = _bands(np, x, 100 * (own - other) / other)
        out[name] = lines
    return {"of": metric, "base": base, "arms": out}


def _bands(np: Any, x: Sequence[float], values: Any) -> list[list[float | None]]:
    """Points (x, mean, low, high) from an array of seeds by points; points that are not finite in every seed go."""
    n = len(values)
    with np.errstate(all="ignore"):
        mean = values.mean(axis=0)
        half = t_quantile(0.975, n - 1) * values.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else mean * math.nan
    finite = np.isfinite(mean)
    size = float(np.abs(mean[finite]).max()) if finite.any() else 0.0
    # Four digits of the largest value: rounding a whole array is much cheaper than formatting its numbers.
    digits = 4 - (math.floor(math.log10(size)) + 1 if size else 0)
    columns = [np.round(c, digits).tolist() for c in (mean, mean - half, mean + half)]
    if n < 2:
        columns[1] = columns[2] = [None] * len(x)
    return [list(row) for row, ok in zip(zip(x, *columns, strict=True), finite.tolist(), strict=True) if ok]


def _thin(count: int) -> list[int]:
    if count <= CURVE_POINTS:
        return list(range(count))
    return sorted({round(i * (count - 1) / (CURVE_POINTS - 1)) for i in range(CURVE_POINTS)})


def heatmaps(runs: Mapping[str, Sequence[Record]]) -> dict[str, dict[str, Any]]:
    """Square tables of records, averaged over seeds and scaled to shares of the total, per arm and layer."""
    import numpy as np

    out: dict[str, dict[str, Any]] = {}
    for name in sorted({name for records in runs.values() for r in records for name in r.tables}):
        arms: dict[str, Any] = {}
        for arm, records in runs.items():
            if len(arms) == MATRIX_ARMS:
                break
            stacks: dict[str, list[Any]] = {}
            for record in records:
                table = record.tables.get(name)
                for layer, matrix in table.items() if isinstance(table, dict) else ():
                    stacks.setdefault(str(layer), []).append(matrix)
            shares = {layer: _shares(np, stack) for layer, stack in stacks.items()}
            if any(shares.values()):
                arms[arm] = {layer: matrix for layer, matrix in shares.items() if matrix}
        if arms:
            out[name] = arms
    return out


def _shares(np: Any, stack: Sequence[Any]) -> list[list[float]]:
    """Mean of square matrices in percent of their total; empty for anything that is none."""
    try:
        cube = np.array(stack, dtype=float)
    except (TypeError, ValueError):
        return []
    square = cube.ndim == 3 and cube.shape[1] == cube.shape[2] <= MATRIX_SIDE
    if not square or not np.isfinite(cube).all() or not cube.sum() > 0:
        return []
    flat = (100 * cube.sum(axis=0) / cube.sum()).ravel().tolist()
    side = cube.shape[1]
    return [[float(f"{v:.2g}") for v in flat[i * side : (i + 1) * side]] for i in range(side)]


def environments(story: Story) -> list[tuple[int, str, str, str]]:
    """Distinct environments of the records shown: how many runs, hardware, versions, commits."""
    seen: dict[tuple[str, str], list[str]] = {}
    for s in shown(story):
        env = s.record.environment
        hardware, versions = env.get("hardware"), env.get("versions")
        key = (_pairs(hardware), _pairs(versions))
        commit = str(s.record.provenance.get("commit", ""))
        seen.setdefault(key, []).append(commit + (" (with changes)" if s.record.provenance.get("dirty") else ""))
    return [(len(c), h, v, ", ".join(sorted(set(filter(None, c))))) for (h, v), c in sorted(seen.items())]


def _pairs(values: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items()) if isinstance(values, dict) else ""


def data_read(story: Story) -> list[str]:
    """Distinct data of the records shown, with their fingerprints."""
    return sorted({_pairs(s.record.data) for s in shown(story) if s.record.data})


# --- records ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Records of one origin, scale and setting: what one page lists and one JSON and one CSV file hold."""

    name: str
    origin: Origin
    scale: str
    setting: str
    title: str
    members: tuple[Sourced, ...]

    def pages(self) -> list[tuple[str, tuple[Sourced, ...]]]:
        """File name and records of each page of the group."""
        steps = range(0, max(1, len(self.members)), RECORDS_PER_PAGE)
        return [
            (f"{self.name}{'' if i == 0 else f'-{n}'}.html", self.members[i : i + RECORDS_PER_PAGE])
            for n, i in enumerate(steps, 1)
        ]


def groups(story: Story) -> list[Group]:
    """Records by origin, scale and setting."""
    found: dict[tuple[Origin, str, str], list[Sourced]] = {}
    for s in story.records:
        found.setdefault((s.origin, s.record.scale, s.record.setting), []).append(s)
    return [
        Group(
            f"{origin}-{slug(scale)}-{slug(setting)}",
            origin,
            scale,
            setting,
            "Accounting at the published size" if setting == ACCOUNTING else report.setting_title(story.paper, setting),
            tuple(members),
        )
        for (origin, scale, setting), members in sorted(found.items())
    ]


CSV_HEAD = (
    "key", "origin", "stale", "confirmed", "judged", "paper", "setting", "arm", "scale", "seed", "status", "code",
    "commit", "started",
)  # fmt: skip


def records_csv(group: Group) -> str:
    """The group's records as a table: one line each, metrics and profile as columns."""
    metrics = sorted({k for s in group.members for k in s.record.metrics})
    profile = sorted({k for s in group.members for k in s.record.profile})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*CSV_HEAD, *(f"metrics.{k}" for k in metrics), *(f"profile.{k}" for k in profile)])
    for s in group.members:
        r = s.record
        writer.writerow(
            [
                r.key, s.origin, s.stale, s.confirmed, s.judged, r.paper, r.setting, r.arm, r.scale, r.seed, r.status,
                r.code, r.provenance.get("commit", ""), r.provenance.get("started", ""),
                *(r.metrics.get(k, "") for k in metrics), *(r.profile.get(k, "") for k in profile),
            ]
        )  # fmt: skip
    return out.getvalue()


# --- costs at the published size ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CostLine:
    """One figure recomputed at the published size."""

    paper: str
    short: str
    claim: str
    title: str
    role: str
    published: str
    source: str
    expected: str
    ours: str
    off: float | None
    off_text: str
    tolerance: str
    verdict: str
    stale: bool
    anchor: str


def cost_lines(story: Story) -> list[CostLine]:
    """The paper's figures at published size beside ours."""
    out = []
    for claim in story.claims:
        comparisons = {c.name: c for c in claim.claim.comparisons if isinstance(c, Computed)}
        for row in claim.rows:
            comparison = comparisons.get(row.part)
            if comparison is None:
                continue
            f = row.finding
            off = None if f.ratio is None else f.ratio - 1
            out.append(
                CostLine(
                    story.paper.slug,
                    story.paper.short,
                    row.claim,
                    f.title,
                    f.role,
                    report.published(f),
                    f.published.source if f.published else "",
                    report.with_unit(report.number(comparison.expected, 7), comparison.unit),
                    report.ours(f) or "not computed",
                    off,
                    "" if off is None else "exact" if off == 0 else f"{100 * off:+.2g} %",
                    f"{100 * comparison.tolerance:.3g} %",
                    f.verdict,
                    row.stale,
                    anchor(row),
                )
            )
    return out


def threshold(finding: Finding, comparison: Any) -> list[float]:
    """Values of the effect at which the rule draws its lines, besides zero."""
    if not isinstance(comparison, Contrast):
        return []
    rule = comparison.rule
    named = [getattr(rule, "at_least", 0.0), -getattr(rule, "margin", 0.0)]
    if type(rule).__name__ == "Equivalence":
        named.append(rule.margin)  # type: ignore[union-attr]
    return sorted({v for v in named if v})
