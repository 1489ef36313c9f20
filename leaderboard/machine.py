"""Results for machines: ``results.json`` and ``results.csv``. The schema is documented in ``docs/schema.md``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from repro.claims import Interval
from repro.report import ClaimStory, Row, Story

SCHEMA = 1
COLUMNS = (
    "paper", "claim", "kind", "headline", "part", "role", "setting", "scale", "origin", "stale", "confirmed",
    "verdict", "reason", "rule", "unit", "published", "published_source", "published_effect", "effect", "low",
    "high", "seeds", "ratio", "computed", "settle", "records",
)  # fmt: skip


def as_json(papers: Sequence[str]) -> str:
    """``results.json`` from the texts of `paper_json`."""
    body = ",\n".join(papers)
    return f'{{"schema":{SCHEMA},"papers":[\n{body}\n]}}\n'


def as_csv(papers: Sequence[str]) -> str:
    """``results.csv`` from the texts of `paper_csv`: one line per claim, part, setting and scale."""
    return ",".join(COLUMNS) + "\n" + "".join(papers)


def paper_json(story: Story) -> str:
    """What the pages say about a paper: strict JSON, one key order, numbers that JSON lacks as null."""
    return json.dumps(_paper(story), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def paper_csv(story: Story) -> str:
    """A paper's lines of ``results.csv``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in story.rows:
        values = flat(row)
        writer.writerow(["" if values[c] is None else values[c] for c in COLUMNS])
    return out.getvalue()


def flat(row: Row) -> dict[str, Any]:
    """A row as one level of plain values, under the names of `COLUMNS`."""
    f = row.finding
    effect = f.effect
    return {
        "paper": row.paper,
        "claim": row.claim,
        "kind": row.kind,
        "headline": row.headline,
        "part": row.part,
        "role": row.role,
        "setting": f.setting,
        "scale": f.scale,
        "origin": row.origin,
        "stale": row.stale,
        "confirmed": row.confirmed,
        "verdict": f.verdict,
        "reason": f.reason,
        "rule": f.rule,
        "unit": f.unit.strip(),
        "published": f.published.text if f.published else None,
        "published_source": f.published.source if f.published else None,
        "published_effect": _finite(f.published.effect) if f.published else None,
        "effect": _finite(effect.mean) if effect else None,
        "low": _finite(effect.low) if effect else None,
        "high": _finite(effect.high) if effect else None,
        "seeds": len(f.seeds),
        "ratio": _finite(f.ratio),
        "computed": _finite(f.computed),
        "settle": f.settle,
        "records": " ".join(f.records),
    }


def _paper(story: Story) -> dict[str, Any]:
    paper = story.paper
    return {
        "slug": paper.slug,
        "title": paper.title,
        "short": paper.short,
        "area": paper.area,
        "arxiv": paper.arxiv,
        "year": paper.year,
        "claims": [_claim(c) for c in story.claims],
        "unfinished": [
            {
                "record": s.record.key,
                "setting": s.record.setting,
                "arm": s.record.arm,
                "scale": s.record.scale,
                "seed": s.record.seed,
                "origin": s.origin,
                "status": s.record.status,
                "error": str(s.record.error.get("message", "")),
            }
            for s in story.unfinished
        ],
        "problems": list(story.problems),
    }


def _claim(claim: ClaimStory) -> dict[str, Any]:
    figure = claim.claim.published
    return {
        "id": claim.claim.id,
        "statement": claim.claim.statement,
        "kind": claim.claim.kind,
        "headline": claim.claim.headline,
        "published": {
            "text": figure.text,
            "source": figure.source,
            "effect": _finite(figure.effect),
            "verified": figure.verified,
        },
        "untested": claim.claim.untested,
        "verdicts": dict(claim.verdicts),
        "stale": claim.stale,
        "rows": [_row(r) for r in claim.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    f = row.finding
    values = flat(row)
    for name in ("paper", "claim", "kind", "headline"):
        del values[name]
    return {
        **values,
        "title": f.title,
        "seeds": list(f.seeds),
        "records": list(f.records),
        "arms": {name: _interval(i) for name, i in f.arms.items()},
        "audit": [
            {
                "quantity": a.quantity,
                "tolerance": a.tolerance,
                "deviation": _finite(a.deviation),
                "ok": a.ok,
                "values": {k: _finite(v) for k, v in a.values.items()},
            }
            for a in f.audit
        ],
    }


def _interval(i: Interval) -> dict[str, Any]:
    return {
        "mean": _finite(i.mean), "low": _finite(i.low), "high": _finite(i.high), "n": i.n, "sd": _finite(i.sd),
        "method": i.method,
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    """Nine significant digits: enough for every use, and the same on every machine."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.9g}")
