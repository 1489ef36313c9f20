"""``repro tune``: one grid for all arms named, on tuning seeds that no verdict ever reads."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from repro import papers
from repro.cli.choices import BadInput, parse_overrides, pick, pick_all
from repro.cli.listing import find_paper
from repro.cli.running import check_means, require_device
from repro.records import Record, write_atomically
from repro.records.schema import plain

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
    cells = rows(paper.primary_metric, [(point, by_key[run.key]) for point, run in runs if run.key in by_key], grid)
    print(tabulate(table(cells, grid), headers="keys", floatfmt=".4f"))
    idle = unmoved(cells)
    for setting, arm in idle:
        print(f"{setting}/{arm}: the grid changes nothing (another option overrides it?), its cells are not kept",
              file=sys.stderr)  # fmt: skip
    cells = [c for c in cells if (c["setting"], c["arm"]) not in idle]
    if summary.interrupted:
        raise KeyboardInterrupt
    target = papers.folder(paper.slug) / "tuning.jsonl"
    kept = {key_of(cell): cell for cell in [*read(target), *cells]}
    write_atomically(target, "".join(line(kept[k]) for k in sorted(kept)))
    return 1 if summary.failed or idle else 0


def unmoved(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(setting, arm) whose every grid point gave the very same values: the grid did not reach the run."""
    seen: dict[tuple[str, str], list[Any]] = {}
    for cell in cells:
        seen.setdefault((cell["setting"], cell["arm"]), []).append(cell["values"])
    return [
        place for place, values in seen.items()
        if len(values) > 1 and math.isfinite(sum(values[0])) and all(v == values[0] for v in values)
    ]  # fmt: skip


def line(cell: Mapping[str, Any]) -> str:
    """A cell as kept: without what is relative to the grid of one call."""
    return json.dumps(plain({k: v for k, v in cell.items() if k not in ("best", "edge")})) + "\n"


def key_of(cell: Mapping[str, Any]) -> str:
    """Identity of a cell of a tuning table."""
    return json.dumps([cell["scale"], cell["setting"], cell["arm"], cell["options"]], sort_keys=True)


def read(path: Any) -> list[dict[str, Any]]:
    """Cells of a tuning file; none when it is absent."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rows(
    metric: str, found: Sequence[tuple[Mapping[str, Any], Record]], grid: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """One cell per (setting, arm, grid point): mean over the tuning seeds, whether best of its arm, whether at an edge.

    The lowest mean is best; a run that did not end well counts as infinite.
    """
    values: dict[tuple[str, str, str], list[float]] = {}
    kept: dict[tuple[str, str, str], tuple[Mapping[str, Any], Record]] = {}
    for point, record in found:
        cell = (record.setting, record.arm, json.dumps(point))
        value = record.metrics.get(metric, math.inf) if record.status == "ok" else math.inf
        values.setdefault(cell, []).append(value)
        kept[cell] = (point, record)
    means = {cell: sum(v) / len(v) for cell, v in values.items()}
    best: dict[tuple[str, str], float] = {}
    for (setting, arm, _), mean in means.items():
        best[setting, arm] = min(mean, best.get((setting, arm), math.inf))
    out = []
    for cell, (point, record) in kept.items():
        edge = any(len(v) > 1 and point[k] in (min(v), max(v)) for k, v in grid.items())
        is_best = means[cell] == best[cell[:2]]
        out.append({
            "scale": record.scale, "setting": record.setting, "arm": record.arm, "options": dict(point),
            "metric": metric, "mean": means[cell], "values": values[cell], "seeds": len(values[cell]),
            "best": is_best, "edge": bool(is_best and edge), "code": record.code,
        })  # fmt: skip
    return out


def table(cells: Sequence[Mapping[str, Any]], grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The cells for people, best first within an arm."""
    ordered = sorted(cells, key=lambda c: (c["setting"], c["arm"], c["mean"]))
    return [
        {
            "setting": c["setting"],
            "arm": c["arm"],
            **{k: f"{v:g}" if isinstance(v, float) else v for k, v in ((k, c["options"][k]) for k in grid)},
            c["metric"]: c["mean"],
            "seeds": c["seeds"],
            "": ("best" + (", at the edge: widen the grid" if c["edge"] else "")) if c["best"] else "",
        }
        for c in ordered
    ]
