"""Charts as Vega-Lite specifications: data, no code. The page's script adds sizes and the colours of the theme."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leaderboard.views import short, slug, threshold, typeset
from repro import report
from repro.claims import Paper
from repro.papers import folder
from repro.report import ClaimStory, Story

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
#: Verdicts by shape as well as by colour; the colours are the page's.
SHAPES: Mapping[str, str] = {
    "reproduced": "circle",
    "partly": "triangle-up",
    "contradicted": "cross",
    "inconclusive": "triangle-right",
    "unfair": "diamond",
    "untested": "square",
    "mixed": "triangle-down",
}


def forests(paper: Paper, claim: ClaimStory) -> list[dict[str, Any]]:
    """Forest plots of a claim's effects, one per unit and scale."""
    comparisons = {c.name: c for c in claim.claim.comparisons}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    marks: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for role in ("primary", "secondary", "control"):
        for row in claim.rows:
            f = row.finding
            if row.role != role or f.effect is None or not math.isfinite(f.effect.mean):
                continue
            key = (f.scale, f.unit)
            title = typeset(f.title) + ("" if role == "primary" else f" ({role})")
            known = f.published is not None and f.published.effect is not None
            groups.setdefault(key, []).append(
                {
                    "part": title,
                    "setting": f"{report.row_verdict(role, f.verdict).split()[0]} {row.setting_title}",
                    "mean": short(f.effect.mean),
                    "low": short(f.effect.low),
                    "high": short(f.effect.high),
                    "published": short(f.published.effect) if known else None,  # type: ignore[union-attr, arg-type]
                    "verdict": "untested" if role == "control" else f.verdict,
                    "says": report.row_verdict(role, f.verdict),
                    "ours": typeset(report.ours(f)),
                    "seeds": f.effect.n,
                }
            )
            for value in threshold(f, comparisons.get(row.part)):
                line = {"part": title, "value": short(value)}
                if line not in marks.setdefault(key, []):
                    marks[key].append(line)
    return [_forest(claim, scale, unit, rows, marks.get((scale, unit), [])) for (scale, unit), rows in groups.items()]


def _forest(
    claim: ClaimStory, scale: str, unit: str, rows: list[dict[str, Any]], marks: list[dict[str, Any]]
) -> dict[str, Any]:
    """One view: a line for the title of a part, and under it a line per setting."""
    lines: list[str] = []
    data: list[dict[str, Any]] = []
    titles: list[dict[str, Any]] = []
    spans: dict[str, tuple[str, str]] = {}
    for part in dict.fromkeys(r["part"] for r in rows):
        titles.append({"line": _line("", lines), "title": part})
        own = [{**r, "line": _line(r["setting"], lines)} for r in rows if r["part"] == part]
        spans[part] = (own[0]["line"], own[-1]["line"])
        data += own
    bounds = [{"value": m["value"], "from": spans[m["part"]][0], "to": spans[m["part"]][1]} for m in marks]

    title = f"effect in {unit.strip()}" if unit.strip() else "effect"
    x: dict[str, Any] = {
        "type": "quantitative",
        "title": f"{title}; right of 0 supports the claim",
        "scale": {"zero": True},
        "axis": {"grid": False, "tickCount": 8},
    }
    place = {"type": "nominal", "title": None, "sort": None}
    y = {"field": "line", **place, "axis": {"ticks": False, "domain": False, "grid": False}}
    verdicts = [v for v in report.GLYPHS if any(r["verdict"] == v for r in rows)]
    colour = {"field": "verdict", "type": "nominal", "legend": None}
    shape = {**colour, "scale": {"domain": verdicts, "range": [SHAPES[v] for v in verdicts]}}
    tooltip = [
        {"field": "setting", "title": "setting"},
        {"field": "ours", "title": "ours"},
        {"field": "says", "title": "verdict"},
        {"field": "seeds", "title": "seeds"},
    ]
    layers: list[dict[str, Any]] = [
        {
            "data": {"values": [{"zero": 0}]},
            "mark": {"type": "rule", "strokeWidth": 1, "opacity": 0.6},
            "encoding": {"x": {"field": "zero", **x}},
        },
        {
            "data": {"values": titles},
            "mark": {"type": "text", "align": "left", "baseline": "middle", "fontWeight": 600, "fontSize": 13},
            "encoding": {"x": {"value": 0}, "y": y, "text": {"field": "title"}},
        },
        {
            "data": {"name": "effects"},
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}, "y": y, "color": colour},
        },
    ]
    if bounds:
        layers.append(
            {
                "data": {"values": bounds},
                "mark": {"type": "rule", "strokeDash": [3, 3], "opacity": 0.8},
                "encoding": {
                    "x": {"field": "value", **x},
                    "y": {"field": "from", **place, "bandPosition": 0},
                    "y2": {"field": "to", "bandPosition": 1},
                },
            }
        )
    if any(d["published"] is not None for d in data):
        layers.append(
            {
                "data": {"name": "effects"},
                "mark": {"type": "point", "shape": "diamond", "size": 60, "filled": False, "strokeWidth": 1.4},
                "encoding": {"x": {"field": "published", **x}, "y": y},
            }
        )
    layers.append(
        {
            "data": {"name": "effects"},
            "mark": {"type": "point", "filled": True, "size": 65, "opacity": 1},
            "encoding": {"x": {"field": "mean", **x}, "y": y, "tooltip": tooltip, "color": colour, "shape": shape},
        }
    )
    return {
        "$schema": SCHEMA,
        "description": f"Forest plot of claim {claim.claim.id} at {scale} scale: {len(rows)} effects with 95 % "
        "intervals; the table below holds the same numbers.",
        "height": {"step": 19},
        "datasets": {"effects": [{k: v for k, v in d.items() if k != "part"} for d in data]},
        "layer": layers,
        # for the page's script, which gives every layer this order of lines and the colours of the theme
        "usermeta": {"lines": lines},
    }


def _line(label: str, lines: list[str]) -> str:
    """A label that is unlike all others by zero-width spaces, so that several parts may name the same setting."""
    unique = label + "\u200b" * (len(lines) + 1)
    lines.append(unique)
    return unique


def explorer(story: Story, shown: list[Any]) -> dict[str, Any]:
    """Data and choices behind the charts of arms: what the page's script puts into `CURVES` and `POINTS`."""
    paper = story.paper
    head = story.headline
    wanted = [a for c in (head.claim.comparisons if head else ()) for a in getattr(c, "compared", ())]
    first = list(dict.fromkeys(wanted)) or [a.name for a in paper.arms[:4]]
    found: dict[str, Any] = {
        "arms": {a.name: {"title": a.title, "role": a.role} for a in paper.arms},
        "first": first[:4],
        "metric": paper.curves.metric if paper.curves else paper.primary_metric,
        "meaning": paper.metrics.get(paper.primary_metric, paper.primary_metric),
        "places": {p.id: p.chart for p in shown},
        "published": published_curves(paper),
        "source": paper.curves.source if paper.curves else "",
        "costs": {k: {"title": t, "unit": u} for k, (t, u) in _costs().items()},
    }
    _fit(found)
    return found


#: Bytes of chart data that a page may carry; a page stays below a megabyte.
ROOM = 320_000


def _fit(found: dict[str, Any]) -> None:
    """Where charts would make the page too heavy: half the points of every curve, then no matrices, and so on."""
    while len(json.dumps(found, separators=(",", ":"))) > ROOM:
        thinned = False
        for place in found["places"].values():
            for lines in place["curves"]["arms"].values():
                for name, points in lines.items():
                    if len(points) > 8:
                        lines[name] = [*points[:-1:2], points[-1]]
                        thinned = True
        if not thinned and not any(p["matrices"] for p in found["places"].values()):
            return
        if not thinned:
            for place in found["places"].values():
                place["matrices"] = {}


def _costs() -> Mapping[str, tuple[str, str]]:
    from leaderboard.views import COSTS

    return {k: v for k, v in COSTS.items() if k != "tokens_per_s"}


def published_curves(paper: Paper, root: Path | None = None) -> dict[str, Any]:
    """The authors' released curves per arm, over the share of training; empty where there are none."""
    if paper.curves is None:
        return {}
    path = (root or folder(paper.slug)) / paper.curves.file
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except OSError:
        return {}
    steps = [float(line[paper.curves.x]) for line in lines]
    last = steps[-1] if steps else 1.0
    base = next((a.name for a in paper.arms if a.role == "baseline"), "")
    columns = {s.arm: [_float(line.get(s.column)) for line in lines] for s in paper.curves.series}
    out: dict[str, Any] = {}
    for series in paper.curves.series:
        values = columns[series.arm]
        keep = [i for i in range(0, len(values), max(1, len(values) // 50)) if math.isfinite(values[i])]
        if values and len(values) - 1 not in keep:
            keep.append(len(values) - 1)
        entry: dict[str, Any] = {
            "title": series.title,
            "abs": [[short(100 * steps[i] / last, 4), short(values[i])] for i in keep],
        }
        if base in columns and series.arm != base:
            entry["rel"] = [
                [short(100 * steps[i] / last, 4), short(100 * (values[i] / columns[base][i] - 1))] for i in keep
            ]
        out[series.arm] = entry
    return out


def _float(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def identifier(claim: ClaimStory, number: int) -> str:
    """Name of a chart on its page."""
    return f"forest-{slug(claim.claim.id)}-{number}"
