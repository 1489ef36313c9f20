"""The command line's verbs as functions that return pandas tables, for notebooks.

import repro
repro.reproduce("coe", scale="smoke")
repro.results()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from repro.claims import Claim, Finding

#: As in the leaderboard's ``results.csv``, with the verdict of the whole claim beside that of the part.
COLUMNS = (
    "paper", "claim", "statement", "kind", "claim_verdict", "part", "role", "setting", "scale", "verdict", "effect",
    "low", "high", "unit", "seeds", "settle", "published", "published_effect", "ratio", "computed", "reason", "rule",
)  # fmt: skip


def reproduce(
    paper: str,
    scale: str = "laptop",
    *,
    settings: Sequence[str] = (),
    data: Sequence[str] = (),
    arms: Sequence[str] = (),
    claims: Sequence[str] = (),
    seeds: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str = "cpu",
    workers: int | None = None,
    placebo: bool = False,
) -> pd.DataFrame:
    """Run what is not yet stored, judge it, and return the table of claims, one row per part and setting.

    Args:
        paper: slug.
        scale: ``smoke``, ``laptop``, ``gpu`` or ``published``.
        settings, data, arms, claims: names to choose from; empty means what the scale's preset says.
        seeds: how many, counted from 0.
        overrides: options of the paper's configuration, already of their types.
        workers: processes; 0 runs in this one.
        placebo: compare one arm of each pair with itself under other seeds.

    Raises:
        KeyError: for an unknown paper.
        ValueError: for an unknown name, with the nearest valid ones.

    Runs that failed are listed under ``attrs["failed"]`` of the table, as ``setting/arm seed: reason``; after Ctrl-C
    ``attrs["interrupted"]`` is true and the table is of what was finished.
    """
    from repro import runner
    from repro.claims import judge
    from repro.papers import load_paper
    from repro.records import standard

    found = load_paper(paper)
    runs = runner.plan(
        found, scale, settings=settings, data=data, arms=arms, claims=claims, seeds=seeds, overrides=overrides or {},
        device=device, placebo=placebo,
    )  # fmt: skip
    store = runner.default_store()
    summary = runner.execute(runs, store, workers=workers, progress=runner.Live())
    records = standard(found, store.load(found.slug).records, scale, overrides)
    rows = []
    for judgement in judge(found, records, scale, placebo=placebo):
        if not claims or judgement.claim.id in claims:
            rows += _rows(found.slug, judgement.claim, scale, judgement.verdict, judgement.findings)
    table = _table(rows)
    table.attrs["interrupted"] = summary.interrupted
    table.attrs["failed"] = [
        f"{r.setting}/{r.arm} seed {r.seed}: {r.error.get('message') or r.status}" for r in summary.failed
    ]
    return table


def results(paper: str | None = None) -> pd.DataFrame:
    """What is known so far, from local and committed reference records, without running anything.

    Args:
        paper: slug; None takes all papers. Those that cannot be loaded are named in ``attrs["broken"]`` of the table.

    Raises:
        KeyError: for an unknown paper.
        BrokenPaper: for one that cannot be loaded.
    """
    from repro.papers import load_all, load_paper
    from repro.report import read_story

    rows: list[dict[str, Any]] = []
    if paper is None:
        found, broken = load_all()
    else:
        found, broken = [load_paper(paper)], []
    for slug in [p.slug for p in found]:
        for told in read_story(slug).claims:
            findings = [row.finding for row in told.rows]
            for scale in dict.fromkeys(f.scale for f in findings):
                verdict = told.verdicts.get(scale, "untested")
                rows += _rows(slug, told.claim, scale, verdict, [f for f in findings if f.scale == scale])
            if not findings:
                rows += _rows(slug, told.claim, "", "untested", [])
    table = _table(rows)
    table.attrs["broken"] = [str(problem) for problem in broken]
    return table


def _rows(paper: str, claim: Claim, scale: str, verdict: str, findings: Sequence[Finding]) -> list[dict[str, Any]]:
    whole = {
        "paper": paper, "claim": claim.id, "statement": claim.statement, "kind": claim.kind, "scale": scale,
        "claim_verdict": verdict,
    }  # fmt: skip
    if not findings:
        return [{**whole, "verdict": verdict, "reason": claim.untested, "published": claim.published.text}]
    return [
        {
            **whole,
            "part": f.comparison,
            "role": f.role,
            "setting": f.setting,
            "scale": f.scale,
            "verdict": f.verdict,
            "effect": f.effect.mean if f.effect else None,
            "low": f.effect.low if f.effect else None,
            "high": f.effect.high if f.effect else None,
            "unit": f.unit.strip(),
            "seeds": len(f.seeds),
            "settle": f.settle,
            "published": f.published.text if f.published else None,
            "published_effect": f.published.effect if f.published else None,
            "ratio": f.ratio,
            "computed": f.computed,
            "reason": f.reason,
            "rule": f.rule,
        }
        for f in findings
    ]


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = ["effect", "low", "high", "published_effect", "ratio", "computed"]
    return table.astype({**dict.fromkeys(numbers, "float64"), "seeds": "Int64", "settle": "Int64"})
