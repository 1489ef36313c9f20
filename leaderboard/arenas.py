"""Arenas: one task and budget on which the methods of several papers meet.

An arena is a file ``leaderboard/arenas/<name>.toml``::

    title = "Byte-level language modelling, 10 M tokens"
    task = "..."          # in a sentence or two
    budget = "..."
    metric = "loss"
    lower_is_better = true
    scale = "laptop"
    [matched]             # may be left out: what entries must have in common, and how far apart they may be
    train_tokens = 0.0
    train_flops = 0.03
    [[entries]]
    paper = "coe"
    setting = "stdlib"
    arm = "coe"

Entries are ranked by their mean over seeds: an entry's rank is one more than the number of entries that are better than
it at 95 %, by the paired t interval of their difference over shared seeds, or by Welch's where they share fewer than
two. What entries are matched on is measured in their runs and shown beside them.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro import report
from repro.claims import Interval, mean_interval
from repro.claims.statistics import t_quantile
from repro.report import Story

#: What an arena's file must hold.
FIELDS = ("title", "task", "budget", "metric", "lower_is_better", "scale", "entries")
FOLDER = Path(__file__).parent / "arenas"


@dataclass(frozen=True)
class Entry:
    """A method in an arena: which paper's, and its metric per seed."""

    paper: str
    short: str
    arm: str
    title: str
    values: Mapping[int, float]
    origin: str = "reference"
    stale: bool = False
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Arena:
    """One task and budget with its entries."""

    name: str
    title: str
    task: str
    budget: str
    metric: str
    lower_is_better: bool
    scale: str
    entries: tuple[Entry, ...]
    matched: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranked:
    """An entry with its interval and rank; ``tied`` when the rank is shared."""

    rank: int
    tied: bool
    entry: Entry
    interval: Interval


def better(a: Entry, b: Entry, lower_is_better: bool) -> bool:
    """Whether ``a`` is better than ``b`` with the 95 % interval of the difference clear of zero."""
    sign = 1.0 if lower_is_better else -1.0
    shared = sorted(a.values.keys() & b.values.keys())
    if len(shared) >= 2:
        return mean_interval([sign * (b.values[s] - a.values[s]) for s in shared]).low > 0
    x, y = mean_interval(list(a.values.values())), mean_interval(list(b.values.values()))
    if x.n < 2 or y.n < 2:
        return False
    u, v = x.sd**2 / x.n, y.sd**2 / y.n
    if not math.isfinite(u + v):
        return False
    gap = sign * (y.mean - x.mean)
    if u + v == 0:
        return gap > 0
    freedom = (u + v) ** 2 / (u**2 / (x.n - 1) + v**2 / (y.n - 1))
    return gap - t_quantile(0.975, max(1, math.floor(freedom))) * math.sqrt(u + v) > 0


def rank(arena: Arena) -> list[Ranked]:
    """Entries best first; those with as many better ones on one rank."""
    entries = [e for e in arena.entries if e.values]
    means = {id(e): mean_interval(list(e.values.values())) for e in entries}
    ranks = {
        id(e): 1 + sum(better(other, e, arena.lower_is_better) for other in entries if other is not e) for e in entries
    }
    sign = 1.0 if arena.lower_is_better else -1.0

    def place(e: Entry) -> tuple[int, bool, float, str, str]:
        mean = means[id(e)].mean
        return ranks[id(e)], not math.isfinite(mean), sign * mean if math.isfinite(mean) else 0.0, e.paper, e.arm

    shared = list(ranks.values())
    return [Ranked(ranks[id(e)], shared.count(ranks[id(e)]) > 1, e, means[id(e)]) for e in sorted(entries, key=place)]


def specifications(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """The arenas of a folder as they are written. Raises ValueError for a file that lacks something."""
    out = []
    for path in sorted(folder.glob("*.toml")):
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        missing = [k for k in FIELDS if k not in raw]
        missing += [f"entries.{k}" for e in raw.get("entries", ()) for k in ("paper", "setting", "arm") if k not in e]
        if missing:
            raise ValueError(f"arenas/{path.name}: {missing[0]} is missing")
        out.append({**raw, "name": path.stem})
    return out


def entries(story: Story, specification: Mapping[str, Any]) -> list[Entry]:
    """What one paper brings into an arena."""
    return [
        _entry(
            story,
            e["setting"],
            e["arm"],
            specification["scale"],
            specification["metric"],
            specification.get("matched", ()),
        )
        for e in specification["entries"]
        if e["paper"] == story.paper.slug
    ]


def assemble(specification: Mapping[str, Any], found: Sequence[Entry]) -> Arena:
    """The arena with the entries of all papers."""
    given = {k: specification[k] for k in ("name", *FIELDS) if k != "entries"}
    return Arena(**given, entries=tuple(found), matched=specification.get("matched", {}))


def audit(arena: Arena) -> list[tuple[str, float, float, bool]]:
    """Per matched quantity: its name, how far apart the entries are (largest over smallest, less one; nan where it was
    not measured), the tolerance, and whether that is kept."""
    out = []
    for name, tolerance in arena.matched.items():
        values = [e.costs.get(name, math.nan) for e in arena.entries if e.values]
        known = bool(values) and all(math.isfinite(v) and v > 0 for v in values)
        apart = max(values) / min(values) - 1 if known else math.nan
        out.append((name, apart, tolerance, apart <= tolerance + 1e-9))
    return out


def _entry(story: Story, setting: str, arm: str, scale: str, metric: str, matched: Iterable[str]) -> Entry:
    found = [
        s
        for s in story.records
        if s.judged
        and not report.placebo_seed(s.record)
        and (s.record.setting, s.record.arm, s.record.scale) == (setting, arm, scale)
    ]
    origin = "local" if any(s.origin == "local" for s in found) else "reference"
    own = [s for s in found if s.origin == origin]
    values = {
        s.record.seed: s.record.metrics.get(metric, math.nan) if s.record.status == "ok" else math.nan for s in own
    }
    try:
        title = story.paper.arm(arm).title
    except KeyError:
        title = arm
    costs = {}
    for name in matched:
        counted = [s.record.profile.get(name, math.nan) for s in own]
        costs[name] = sum(counted) / len(counted) if counted else math.nan
    return Entry(story.paper.slug, story.paper.short, arm, title, values, origin, any(s.stale for s in own), costs)
