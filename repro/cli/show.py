"""The story of a paper in the terminal: ``repro show``, and the table that ends a run."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from repro import report
from repro.claims import Judgement

if TYPE_CHECKING:
    from rich.console import Console

HEADERS = ("claim", "setting", "part", "published", "ours [95 % interval]", "seeds", "verdict")


def _wrapped(rows: Iterable[Sequence[Any]], widths: Sequence[int]) -> list[list[str]]:
    """Cells broken into lines; tabulate's own wrapping fails on a number with commas in it."""
    return [
        ["\n".join(textwrap.wrap(str(c), w)) if w else str(c) for c, w in zip(row, widths, strict=True)] for row in rows
    ]


def claims_table(judgements: Sequence[Judgement]) -> str:
    """What was tried, one line per part and setting, and under it the verdict of every claim."""
    from tabulate import tabulate

    details = tabulate(
        _wrapped(report.finding_cells(judgements), (0, 0, 28, 34, 34, 12, 0)),
        headers=HEADERS,
        disable_numparse=True,
    )
    verdicts = tabulate(
        [(j.claim.id, report.verdict_text(j.verdict), j.claim.statement) for j in judgements],
        headers=("claim", "verdict", "statement"),
        disable_numparse=True,
        maxcolwidths=[None, None, 90],
    )
    tripped = [
        f"negative control tripped: {f.claim} {f.comparison} in {f.setting}" for j in judgements for f in j.tripped
    ]
    return "\n\n".join([details, verdicts, *tripped])


def show(slug: str, console: Console) -> None:
    """Print what a paper claims, what was measured, at what certainty and cost. Raises KeyError if unknown."""
    from rich.markup import escape
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    told = report.read_story(slug)
    paper = told.paper

    def mark(verdict: str) -> Text:
        return Text(report.verdict_text(verdict), style=report.STYLES[verdict])

    def style(row: report.Row) -> str:
        if row.role != "control":
            return report.STYLES[row.verdict]
        return "bold red" if row.verdict in ("reproduced", "partly") else "dim"

    console.print()
    console.print(Text.assemble((paper.short, "bold"), "  ", paper.subtitle))
    console.print(
        Text(
            f"{paper.area} · arXiv {paper.arxiv} · {paper.year}" + (f" · {paper.code}" if paper.code else ""),
            style="dim",
        )
    )
    console.print()
    console.print(Padding(Text(paper.idea), (0, 0, 1, 0)))

    overview = Table(title="Claims", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("claim", "verdict", "scale", "statement"):
        overview.add_column(heading, overflow="fold")
    for claim in told.claims:
        for i, (scale, verdict) in enumerate(claim.verdicts.items()):
            overview.add_row(
                claim.claim.id if i == 0 else "",
                mark(verdict),
                scale,
                Text(claim.claim.statement) if i == 0 else Text(""),
            )
    console.print(overview)

    for claim in told.claims:
        rows = [r for r in claim.rows if r.verdict != "untested"]
        if not rows and not claim.claim.untested:
            continue
        console.print()
        head = Text.assemble((claim.claim.id, "bold"), "  ", claim.claim.statement)
        console.print(head)
        figure = claim.claim.published
        console.print(Text(f"published: {figure.text} ({figure.source})", style="dim"))
        for part in dict.fromkeys(r.part for r in rows if r.finding.computed is None):
            of_part = [r for r in rows if r.part == part]
            role = "" if of_part[0].role == "primary" else f"[{of_part[0].role}] "
            table = Table(
                title=escape(f"{role}{of_part[0].finding.title}"), title_justify="left", title_style="italic", box=None,
                pad_edge=False, padding=(0, 2, 0, 0),
            )  # fmt: skip
            for heading in (
                "setting",
                "published",
                "ours [95 % interval]",
                "x published",
                "seeds",
                "verdict",
                "origin",
            ):
                table.add_column(heading, overflow="fold")
            for r in of_part:
                f = r.finding
                table.add_row(
                    Text(r.setting_title or "published size"),
                    Text(report.published(f)),
                    Text(report.ours(f)),
                    "" if f.ratio is None else f"{f.ratio:.2f}",
                    report.seeds_text(f),
                    Text(report.row_verdict(r.role, r.verdict), style=style(r)),
                    Text(f"{r.origin}, {f.scale}" + (f", {r.age}" if r.age else "")),
                )
            console.print(Padding(table, (0, 0, 0, 2)))
            for r in of_part:
                if r.verdict in ("inconclusive", "unfair"):
                    console.print(Padding(Text(f"{r.setting_title}: {r.finding.reason}", style="dim"), (0, 0, 0, 4)))
        exact = [r for r in rows if r.finding.computed is not None]
        if exact:
            table = Table(
                title="recomputed at the published size", title_justify="left", title_style="italic", box=None,
                pad_edge=False, padding=(0, 2, 0, 0),
            )  # fmt: skip
            for heading in ("quantity", "published", "ours", "verdict", "origin"):
                table.add_column(heading, overflow="fold")
            for r in exact:
                role = "" if r.role == "primary" else f" [{r.role}]"
                table.add_row(
                    Text(r.finding.title + role), Text(report.published(r.finding)), Text(report.ours(r.finding)),
                    mark(r.verdict), Text(r.origin + (f", {r.age}" if r.age else "")),
                )  # fmt: skip
            console.print(Padding(table, (0, 0, 0, 2)))
        for r in claim.tripped:
            console.print(Text(f"  negative control tripped: {r.finding.title} in {r.setting_title}", style="bold red"))
        if claim.claim.untested:
            console.print(Padding(Text(f"open: {claim.claim.untested}", style="dim"), (0, 0, 0, 2)))

    if told.unfinished:
        console.print()
        console.print(Text("Runs that did not end well", style="bold"))
        for run in told.unfinished:
            record = run.record
            why = (record.error.get("message") or record.error.get("type") or "").splitlines()
            place = f"{record.setting}/{record.arm} seed {record.seed} ({run.origin})"
            console.print(Text(f"  {place}: {record.status}" + (f": {why[0]}" if why else "")))
    if told.problems:
        console.print()
        console.print(Text("Record files that could not be read", style="bold"))
        for problem in told.problems:
            console.print(Text(f"  {problem}"))
    if paper.departures:
        console.print()
        console.print(Text("Departures from the paper", style="bold"))
        for departure in paper.departures:
            console.print(Padding(Text(f"- {departure}"), (0, 0, 0, 2)))
    console.print()
    console.print(Text("Settings: " + ", ".join(s.name for s in paper.settings), style="dim"))
    console.print(Text("Arms: " + ", ".join(a.name for a in paper.arms), style="dim"))
    console.print(Text("Scales: " + ", ".join(paper.presets), style="dim"))
    console.print(Text(f"Run it: nox -s reproduce-{paper.slug.replace('_', '-')}"))
