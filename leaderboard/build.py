"""Builds the site, the Markdown twin and the files for machines. Same records, same bytes.

Papers are independent of each other: each is read, judged and written on its own, in parallel processes when there is
much to read, and leaves only its summary for the pages that show all of them.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import math
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from html import escape as escape_text
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from leaderboard import arenas, benchmarks, charts, machine, markdown, views
from leaderboard.read import Folder, read, strangers
from repro import report
from repro.claims import SCALES, Computed, Finding, Interval, Paper
from repro.claims.statistics import BOOTSTRAP_FROM, RESAMPLES
from repro.papers import load_all, slugs
from repro.report import REFERENCE, ClaimStory, Sourced, Story, story

HERE = Path(__file__).parent
SITE = REFERENCE.parent / "site"
#: Folder of the pages per paper inside the site.
PAGES = "paper"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
#: From about this many bytes of records on, papers are built in parallel.
PARALLEL_FROM = 40_000_000
#: From this many records of one paper on, their pages are written while the paper is judged.
BESIDE_FROM = 10_000
UNFINISHED_SHOWN = 200
#: Characters that HTML allows nowhere; a terminal's colours in an error message are made of them.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
#: Claims with more secondary parts than this leave them to the matrix.
SECONDARY_SENTENCES = 2


@dataclass(frozen=True)
class Built:
    """What one paper leaves for the pages that show all of them."""

    summary: views.Summary
    costs: tuple[views.CostLine, ...]
    json: str
    csv: str
    section: markdown.Section
    entries: tuple[tuple[arenas.Entry, ...], ...]
    problems: tuple[str, ...]
    records: Mapping[str, int]
    written: tuple[str, ...]


def build(
    reference: Path = REFERENCE,
    local: Path | None = Path("results/records"),
    out: Path = SITE,
    *,
    papers: Sequence[Paper] | None = None,
    problems: list[str] | None = None,
    arena_folder: Path = arenas.FOLDER,
    bench_folder: Path | None = None,
    readme: Path | None = None,
) -> Path:
    """Write the site to ``out`` and ``LEADERBOARD.md`` beside ``reference``; return the front page.

    Args:
        reference: committed records.
        local: records of this machine; None leaves them out.
        out: folder of the site; pages of papers that are gone are removed from it.
        papers: instead of those found in ``papers/``.
        problems: takes what could not be read, by name.
        arena_folder: where arenas are described.
        bench_folder: results of benchmarks; ``bench`` beside ``reference`` when None.
        readme: a README whose table of results is written anew.
    """
    reference, out = Path(reference), Path(out)
    local = None if local is None else Path(local)
    found, broken = load_all() if papers is None else (list(papers), [])
    (out / "assets").mkdir(parents=True, exist_ok=True)
    bundling = _assets(out / "assets")
    specifications = arenas.specifications(arena_folder)
    one = functools.partial(_build_paper, reference=reference, local=local, out=out, specifications=specifications)
    with _no_garbage_collection():
        built = _map(one, found, [reference, local])

    known = {p.slug for p in found} | ({*slugs()} if broken else set())
    lost = [*(str(b) for b in broken), *(p for b in built for p in b.problems)]
    lost += [*strangers(reference, known, "reference"), *strangers(local, known, "local")]
    machines, unread = benchmarks.machines(reference.parent / "bench" if bench_folder is None else Path(bench_folder))
    if problems is not None:
        problems.extend([*lost, *unread])

    pages = _Pages(out, _totals(built))
    names = sorted(built, key=lambda b: b.summary.short.lower())
    pages.write(
        "index.html",
        "index.html",
        papers=[b.summary for b in names],
        areas=sorted({b.summary.area for b in built}),
        scales=[s for s in SCALES if s != "smoke"],
        problems=lost,
    )
    pages.write("costs.html", "costs.html", lines=[line for b in names for line in b.costs])
    pages.write("bench.html", "bench.html", machines=machines, problems=unread, contenders=benchmarks.CONTENDERS)
    pages.write("method.html", "method.html", bootstrap_from=BOOTSTRAP_FROM, resamples=RESAMPLES)
    met = [
        arenas.assemble(s, [e for b in built for e in b.entries[i]]) for i, s in enumerate(specifications)
    ]  # fmt: skip
    pages.write(
        "arenas.html", "arenas.html", arenas=[(a, arenas.rank(a), arenas.audit(a)) for a in met], costs=views.COSTS
    )
    _write(out / "results.json", machine.as_json([b.json for b in built]))
    _write(out / "results.csv", machine.as_csv([b.csv for b in built]))
    _prune(out / PAGES, {name for b in built for name in b.written})
    if not broken:  # committed tables do not lose the rows of a paper that is being written
        _write(reference.parent / "LEADERBOARD.md", markdown.leaderboard([b.section for b in built]))
    if readme is not None and not broken:
        _write(readme, markdown.into_readme(readme.read_text(encoding="utf-8"), [b.section for b in built]))
    _finish(bundling, out / "assets")
    return out / "index.html"


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Records are trees without cycles; looking for cycles in them takes a fifth of the build."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _map(one: Callable[[Paper], Built], papers: Sequence[Paper], roots: Sequence[Path | None]) -> list[Built]:
    workers = min(len(papers), _processes())
    if workers < 2 or _weight(roots) < PARALLEL_FROM:
        return [one(p) for p in papers]
    # Imported before the fork, so that the workers share it instead of importing it each.
    import scipy.stats  # noqa: F401

    # Papers travel by inheritance, not by pickling: a paper may hold what cannot be pickled.
    global _INHERITED
    _INHERITED = (one, papers)
    try:
        with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
            return list(pool.map(_inherited, range(len(papers))))
    finally:
        _INHERITED = None


_INHERITED: tuple[Callable[[Paper], Built], Sequence[Paper]] | None = None


def _inherited(index: int) -> Built:
    assert _INHERITED is not None
    one, papers = _INHERITED
    return one(papers[index])


def _processes() -> int:
    """Processes that can work at the same time here; 1 where processes cannot be forked."""
    if "fork" not in multiprocessing.get_all_start_methods():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _beside(work: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """Start work in a forked process; a function that waits for it and gives its result.

    Raises RuntimeError there when the work failed: what it raised is on standard error.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=lambda: there.send(work()))
    process.start()
    there.close()

    def result() -> list[str]:
        try:
            return here.recv()
        except EOFError:
            raise RuntimeError("the process that writes pages of records failed") from None
        finally:
            here.close()
            process.join()

    return result


def _weight(roots: Sequence[Path | None]) -> int:
    """About how many bytes of records lie below the roots; single records are counted, not measured."""
    total = 0
    for root in roots:
        for folder, _, names in os.walk(root) if root is not None else ():
            lines = [n for n in names if n.endswith(".jsonl")]
            total += 3000 * (len(names) - len(lines))
            total += sum(os.path.getsize(os.path.join(folder, n)) for n in lines)
    return total


# --- one paper --------------------------------------------------------------------------------------------------


def _build_paper(
    paper: Paper, *, reference: Path, local: Path | None, out: Path, specifications: Sequence[Mapping[str, Any]]
) -> Built:
    there, here = read(reference, paper.slug, "reference"), read(local, paper.slug, "local")
    told = story(paper, there.records, here.records, [*there.problems, *here.problems])
    count = {"reference": len(there.records), "local": len(here.records)}
    folder = views.slug(paper.slug)
    pages = _Pages(out, count)
    groups = views.groups(told)
    links = {s.record.key: f"{folder}/{name}" for group in groups for name, part in group.pages() for s in part}

    def write_groups() -> list[str]:
        mine = _Pages(out, count)
        for group in groups:
            _write_group(mine, paper, folder, group, {"reference": there, "local": here}[group.origin])
        return mine.written

    if len(told.records) >= BESIDE_FROM and _processes() > 1:
        wait = _beside(write_groups)
        _write_paper(pages, told, folder, groups, links)
        built = _summed_up(told, specifications, count, pages.written)
        return replace(built, written=(*built.written, *wait()))
    pages.written += write_groups()
    _write_paper(pages, told, folder, groups, links)
    return _summed_up(told, specifications, count, pages.written)


def _summed_up(
    told: Story, specifications: Sequence[Mapping[str, Any]], count: Mapping[str, int], written: Sequence[str]
) -> Built:
    return Built(
        views.summary(told),
        tuple(views.cost_lines(told)),
        machine.paper_json(told),
        machine.paper_csv(told),
        markdown.section(told),
        tuple(tuple(arenas.entries(told, s)) for s in specifications),
        told.problems,
        count,
        tuple(written),
    )


def _write_group(pages: _Pages, paper: Paper, folder: str, group: views.Group, source: Folder) -> None:
    metric = paper.primary_metric
    parts = group.pages()
    for name, members in parts:
        pages.write(
            f"{PAGES}/{folder}/{name}",
            "records.html",
            paper=paper,
            group=group,
            parts=parts,
            file_name=name,
            back=f"../{folder}.html",
            metric=metric,
            lines=Markup("".join(_record_line(s, metric) for s in members)),
        )
    base = f"{PAGES}/{folder}/{group.name}"
    pages.put(f"{base}.json", b"[\n" + b",\n".join(source.texts[s.record.key] for s in group.members) + b"\n]\n")
    pages.put(f"{base}.csv", views.records_csv(group).encode("utf-8", "surrogatepass"))


def _record_line(s: Sourced, metric: str) -> str:
    """A line of a record page. Not in the template: there are as many as records, and calls of filters add up."""
    r = s.record
    value, wall = r.metrics.get(metric), views.wall_seconds(r)
    arm, started, code, key = (
        escape_text(clip(text, 120), quote=True) for text in (r.arm, r.provenance.get("started", ""), r.code, r.key)
    )
    shown = "" if value is None else report.number(value, 5)
    seconds = "" if not math.isfinite(wall) else f"{wall:.4g}"
    took = "" if not math.isfinite(wall) else views.quantity(wall, "s")
    notes = (" stale" if s.stale else " confirmed" if s.confirmed else "") + ("" if s.judged else " not judged")
    return (
        f'<tr data-arm="{arm}" data-seed="{r.seed}"><th scope="row">{arm}</th>'
        f'<td class="n">{r.seed}</td><td>{r.status}</td>'
        f'<td class="n" data-value="{shown}">{shown}</td><td class="n" data-value="{seconds}">{took}</td>'
        f"<td>{started}</td><td><code>{code}</code>{notes}</td><td><code>{key}</code></td></tr>\n"
    )


def _write_paper(
    pages: _Pages, told: Story, folder: str, groups: Sequence[views.Group], links: Mapping[str, str]
) -> None:
    paper = told.paper
    places = views.places(told, links)
    for picture in (p for place in places for p in place.pictures if p.content):
        pages.put(f"{PAGES}/{folder}/{picture.file}", picture.content)
    unfinished = told.unfinished
    judged_or_smoke = sum(not s.judged for s in told.records)
    pages.write(
        f"{PAGES}/{folder}.html",
        "paper.html",
        paper=paper,
        folder=folder,
        command=views.command(paper),
        claims=[_claim(paper, c, links) for c in told.claims],
        places=places,
        explorer=charts.explorer(told, places) if places else {},
        metric=paper.primary_metric,
        meaning=paper.metrics.get(paper.primary_metric, paper.primary_metric),
        source=paper.curves.source if paper.curves else "",
        costs=views.COSTS,
        unfinished=unfinished[:UNFINISHED_SHOWN],
        unfinished_more=len(unfinished[UNFINISHED_SHOWN:]),
        environments=views.environments(told)[:20],
        data=views.data_read(told)[:40],
        groups=groups,
        aside=judged_or_smoke,
        problems=told.problems,
        commands=[
            (views.command(paper), "the default scale"),
            *((f"{views.command(paper)} -- --scale {s}", f"{s} scale") for s in paper.presets if s != "laptop"),
            (f"repro show {paper.slug.replace('_', '-')}", "this story in the terminal"),
        ],
    )


def _claim(paper: Paper, claim: ClaimStory, links: Mapping[str, str]) -> dict[str, Any]:
    details = views.details(paper, claim, links)
    told = [d for d in details if d.row.verdict != "untested" or d.row.role == "primary"]
    lines = {line.anchor: line for line in views.cost_lines(Story(paper, (claim,)))}
    exact = [
        {**vars(lines[d.anchor]), "link": d.link} for d in details if d.anchor in lines
    ]  # fmt: skip
    return {
        "story": claim,
        "tallies": {s: views.tally(claim, s) for s, v in claim.verdicts.items() if v == "mixed"},
        "answers": _answers(paper, claim),
        "untried": views.untried(paper, claim),
        "matrices": views.matrices(paper, claim),
        "forests": [(charts.identifier(claim, i), s) for i, s in enumerate(charts.forests(paper, claim))],
        "exact": exact,
        "details": [d for d in told if d.anchor not in lines],
    }


def _answers(paper: Paper, claim: ClaimStory) -> list[dict[str, Any]]:
    """Per part, in a sentence: which verdict in how many settings, and which they are."""
    computed = {c.name for c in claim.claim.comparisons if isinstance(c, Computed)}
    out = []
    for role in ("primary", "secondary", "control"):
        parts = dict.fromkeys(r.part for r in claim.rows if r.role == role and r.part not in computed)
        if role == "secondary" and len(parts) > SECONDARY_SENTENCES:
            continue
        for part in parts:
            rows = [r for r in claim.rows if r.part == part and r.verdict != "untested"]
            words = []
            for verdict, count in report.counts(r.verdict for r in rows).items():
                some = [r for r in rows if r.verdict == verdict]
                named = views.where(paper, some) if count < len(rows) or len(rows) == 1 else ""
                words.append((report.row_verdict(role, verdict), named, count, len(rows)))
            if words:
                out.append({"title": rows[0].finding.title, "role": role, "words": words})
    return out


# --- pages --------------------------------------------------------------------------------------------------------


class _Pages:
    """Renders templates into the site and remembers what it wrote below `PAGES`."""

    def __init__(self, out: Path, totals: Mapping[str, Any]):
        self.out = out
        self.totals = totals
        self.written: list[str] = []

    def write(self, path: str, template: str, **values: Any) -> None:
        text = (
            _environment()
            .get_template(template)
            .render(
                root="../" * path.count("/"), here=path, totals=self.totals, csp=CSP, vega=_library_name(), **values
            )
        )
        self.put(path, _FORBIDDEN.sub("\ufffd", text).encode("utf-8", "replace"))

    def put(self, path: str, content: bytes) -> None:
        _write(self.out / path, content)
        self.written.append(path)


def _write(path: Path, content: str | bytes) -> None:
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _prune(folder: Path, keep: set[str]) -> None:
    """Remove pages and data of papers or settings that are gone; nothing but what this module writes."""
    for path in sorted(folder.rglob("*")):
        if (
            path.suffix in (".html", ".json", ".csv", ".png", ".svg")
            and path.relative_to(folder.parent).as_posix() not in keep
        ):
            path.unlink()


def _totals(built: Sequence[Built]) -> dict[str, Any]:
    marks = [m for b in built for m in b.summary.marks]
    scales = [s for s in SCALES if any(m["scale"] == s for m in marks)]
    reference = sum(b.records["reference"] for b in built)
    local = sum(b.records["local"] for b in built)
    return {
        "reference": reference,
        "local": local,
        "records": reference + local,
        "claims": sum(m["first"] for m in marks),
        "by_scale": [(s, report.counts(m["verdict"] for m in marks if m["scale"] == s)) for s in scales],
    }


@functools.lru_cache
def _environment() -> Environment:
    env = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.globals.update(glyphs=report.GLYPHS, meanings=report.MEANINGS, axis=axis, inside=inside)
    env.filters.update(
        typeset=views.typeset,
        slug=views.slug,
        anchor=views.anchor,
        quantity=views.quantity,
        json=script_json,
        clip=clip,
        ticks=ticks,
        nobreak=lambda text: str(text).replace(" ", "\u00a0"),
        mean_text=mean_text,
        plain_interval=plain_interval,
    )
    return env


#: The common axis of the front page, in multiples of the published effect, and its place in the drawing.
AXIS = (-1.5, 3.0)
_LEFT, _WIDTH = 8.0, 168.0


def axis(value: float) -> float:
    """Horizontal place of a ratio in the front page's drawing; beyond the ends it stops at them."""
    low, high = AXIS
    share = (min(max(value, low), high) - low) / (high - low)
    return round(_LEFT + _WIDTH * share, 1)


def inside(value: float) -> bool:
    """Whether a ratio lies on the axis of the front page."""
    return AXIS[0] <= value <= AXIS[1]


def script_json(value: Any) -> Markup:
    """JSON that is safe inside a script element: it can neither end the element nor start a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def clip(value: Any, length: int = 120) -> str:
    """Text from a record, cut where it would break a page."""
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"


def ticks(text: str) -> Markup:
    """Words between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def mean_text(finding: Finding) -> str:
    """The mean effect with its unit, to the digits that its interval warrants."""
    return report.interval_text(finding.effect, finding.unit).partition(" [")[0]


def plain_interval(interval: Interval) -> str:
    """Mean and interval of a level, not of a difference: without signs."""
    return report.interval_text(interval).replace("+", "")


# --- assets -------------------------------------------------------------------------------------------------------


def _assets(folder: Path) -> subprocess.Popen[bytes] | None:
    """Copy the assets; where the chart library has to be bundled first, start that and return the process."""
    for path in sorted((HERE / "assets").iterdir()):
        (folder / path.name).write_bytes(path.read_bytes())
    target = folder / _library_name()
    if target.is_file():
        return None
    for old in folder.glob("vega-*.js"):
        old.unlink()
    kept = _kept_library()
    if kept.is_file():
        shutil.copyfile(kept, target)
        return None
    return subprocess.Popen([sys.executable, "-c", _BUNDLE, str(target)])


#: Vega, Vega-Lite and Vega-Embed as one script, from the package that ships them. Bundling takes seconds and starts
#: threads, so it has a process of its own beside the pages.
_BUNDLE = """
import os, sys, vl_convert
target = sys.argv[1]
with open(target + ".part", "w", encoding="utf-8") as file:
    file.write(vl_convert.javascript_bundle())
os.replace(target + ".part", target)
"""


def _finish(bundling: subprocess.Popen[bytes] | None, folder: Path) -> None:
    if bundling is None:
        return
    if bundling.wait():
        raise RuntimeError("vl-convert could not bundle the chart library")
    kept = _kept_library()
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / _library_name(), kept.with_suffix(".part"))
        kept.with_suffix(".part").replace(kept)


@functools.lru_cache
def _library_name() -> str:
    from importlib.metadata import version

    return f"vega-{version('vl-convert-python')}.js"


def _kept_library() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "repro" / _library_name()


def pages(site: Path) -> Iterator[Path]:
    """Every page of a built site."""
    yield from sorted(site.rglob("*.html"))
