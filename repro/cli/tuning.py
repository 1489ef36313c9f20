"""``repro tune``: one grid for all arms named, on tuning seeds that no verdict ever reads."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from repro import papers
from repro.cli.choices import BadInput, parse_overrides, pick, pick_all
from repro.cli.listing import find_paper
from repro.cli.running import check_means, require_device
from repro.records import Record, write_atomically
from repro.records.schema import clocked, plain

#: Tuning seeds count from here; the judge reads seeds from 0 and never these.
FIRST_SEED = 1000


def parse_grid(paper: Any, given: Sequence[str]) -> dict[str, list[Any]]:
    """``key=v1,v2`` pairs, every value typed as the option. Raises BadInput."""
    out: dict[str, list[Any]] = {}
    for pair in given:
        key, equals, texts = pair.partition("=")
        if not equals:
            raise BadInput(f"--grid takes key=value,value,..., not {pair!r}")
        for text in texts.split(","):
            name, value = next(iter(parse_overrides(paper, [f"{key}={text}"]).items()))
            out.setdefault(name, []).append(value)
    if not out:
        raise BadInput("tune needs a --grid key=value,value,...")
    return out


def tune(arguments: argparse.Namespace) -> int:
    """Run the grid, print the table, and write it beside the paper as ``tuning.jsonl`` (one line a cell)."""
    check_means(arguments)
    paper = find_paper(arguments.paper)
    settings = pick_all("setting", arguments.settings, [s.name for s in paper.settings])
    arms = pick_all("arm", arguments.arms, [a.name for a in paper.arms])
    if not settings or not arms:
        raise BadInput("tune needs --settings and --arms")
    scale = pick("scale", arguments.scale, paper.presets)
    grid = parse_grid(paper, arguments.grid)
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    fixed = parse_overrides(paper, arguments.overrides)
    require_device(arguments.device)
    from tabulate import tabulate

    from repro import runner

    runs = [
        (point, run)
        for point in points
        for run in runner.plan(
            paper, scale, settings=settings, arms=arms, claims=[], seeds=list(seeds), overrides={**fixed, **point},
            device=arguments.device,
        )
        if run.setting in settings
    ]  # fmt: skip
    summary = runner.execute([run for _, run in runs], runner.default_store(), workers=arguments.workers,
                             progress=runner.Live(paper.primary_metric))  # fmt: skip
    by_key = {record.key: record for record in summary.records}
    found = [(point, by_key[run.key]) for point, run in runs if run.key in by_key]
    cells = [c for c in rows(paper.primary_metric, found, fixed) if c["seeds"] == len(seeds)]
    idle = unmoved(found)
    cells = [c for c in cells if (c["setting"], c["arm"]) not in idle]
    target = papers.folder(paper.slug) / "tuning.jsonl"
    kept = {key_of(cell): cell for cell in [*read(target), *cells]}
    if cells:
        write_atomically(target, "".join(line(kept[k]) for k in sorted(kept)))
    print(tabulate(table(cells, kept.values()), headers="keys", floatfmt=".4f"))
    for setting, arm in idle:
        print(f"{setting}/{arm}: the grid changes nothing (another option overrides it?), its cells are not kept",
              file=sys.stderr)  # fmt: skip
    if summary.interrupted:
        raise KeyboardInterrupt
    return 1 if summary.failed or idle else 0


def unmoved(found: Sequence[tuple[Mapping[str, Any], Record]]) -> list[tuple[str, str]]:
    """(setting, arm) whose runs of a seed gave the very same metrics at every grid point: the grid did not reach them.

    Runs that failed or diverged say nothing.
    """
    seen: dict[tuple[str, str], dict[int, list[tuple[Mapping[str, Any], Any]]]] = {}
    for point, record in found:
        if record.status == "ok":
            seeds = seen.setdefault((record.setting, record.arm), {})
            counted = {name: value for name, value in record.metrics.items() if not clocked(name)}
            seeds.setdefault(record.seed, []).append((point, counted))
    return [
        place for place, seeds in seen.items()
        if any(len(runs) > 1 for runs in seeds.values())
        and all(metrics == runs[0][1] for runs in seeds.values() for _, metrics in runs)
    ]  # fmt: skip


def line(cell: Mapping[str, Any]) -> str:
    """A cell as it is kept."""
    return json.dumps(plain(dict(cell))) + "\n"


def key_of(cell: Mapping[str, Any]) -> str:
    """Identity of a cell of a tuning table."""
    place = [cell["scale"], cell["setting"], cell["arm"], cell["options"]]
    return json.dumps([*place, cell["fixed"]] if cell.get("fixed") else place, sort_keys=True)


def read(path: Any) -> list[dict[str, Any]]:
    """Cells of a tuning file; none when it is absent."""
    if not path.exists():
        return []
    cells = [json.loads(line) for line in path.read_text().splitlines()]
    # JSON has no infinity: a record, and so a cell, spells it
    return [{**c, "mean": float(c["mean"]), "values": [float(v) for v in c["values"]]} for c in cells]


def rows(
    metric: str, found: Sequence[tuple[Mapping[str, Any], Record]], fixed: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """One cell per (setting, arm, grid point): mean of ``metric`` over the tuning seeds; a run that did not end well
    counts as infinite. ``fixed``: options that ``--set`` gave to all of them."""
    values: dict[tuple[str, str, str], list[float]] = {}
    kept: dict[tuple[str, str, str], tuple[Mapping[str, Any], Record]] = {}
    for point, record in found:
        cell = (record.setting, record.arm, json.dumps(point))
        value = record.metrics.get(metric, math.inf) if record.status == "ok" else math.inf
        values.setdefault(cell, []).append(value)
        kept[cell] = (point, record)
    return [
        {
            "scale": record.scale, "setting": record.setting, "arm": record.arm, "options": dict(point),
            "metric": metric, "mean": sum(values[cell]) / len(values[cell]), "values": values[cell],
            "seeds": len(values[cell]), "code": record.code, **({"fixed": dict(fixed)} if fixed else {}),
        }
        for cell, (point, record) in kept.items()
    ]  # fmt: skip


def group(cell: Mapping[str, Any]) -> str:
    """Cells of one group differ in the values of the same options only: the lowest mean among them is the best."""
    place = [cell["scale"], cell["setting"], cell["arm"], cell["metric"], sorted(cell["options"])]
    return json.dumps([*place, cell.get("fixed")], sort_keys=True)


def edge(best: Mapping[str, Any], cells: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a value of ``best`` is the smallest or largest that its group tried of an option."""
    tried: dict[str, set[Any]] = {}
    for cell in cells:
        for option, value in cell["options"].items():
            tried.setdefault(option, set()).add(value)
    return any(
        len(tried[option]) > 1 and value in (min(tried[option]), max(tried[option]))
        for option, value in best["options"].items()
    )


def table(cells: Iterable[Mapping[str, Any]], kept: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The groups of ``cells`` for people, with what ``kept`` has of them from earlier calls; best first.

    Cells of other code, or of another number of seeds, than this call's are shown below and never called best.
    """
    cells = list(cells)
    here = {(group(cell), cell["code"], cell["seeds"]) for cell in cells}
    groups: dict[str, list[Mapping[str, Any]]] = {group(cell): [] for cell in cells}
    for cell in kept:
        if (name := group(cell)) in groups:
            groups[name].append(cell)
    out = []
    for name, members in groups.items():
        alike = {id(c) for c in members if (name, c["code"], c["seeds"]) in here}
        members.sort(key=lambda c: (id(c) not in alike, c["mean"]))
        comparable = [c for c in members if id(c) in alike]
        for cell in members:
            note = ""
            if id(cell) not in alike:
                note = "other code" if all(cell["code"] != c["code"] for c in comparable) else "other seeds"
            elif cell["mean"] == members[0]["mean"]:
                note = "best" + (", at the edge: widen the grid" if edge(cell, comparable) else "")
            options = {k: f"{v:g}" if isinstance(v, float) else v for k, v in cell["options"].items()}
            out.append({
                "setting": cell["setting"], "arm": cell["arm"], **options, cell["metric"]: cell["mean"],
                "seeds": cell["seeds"], "": note,
            })  # fmt: skip
    return out
