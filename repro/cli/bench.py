"""``repro bench``: time the fast paths and the harness, print tables, keep the result as a document."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro import bench
from repro.bench.summary import OURS, bounds
from repro.cli.choices import BadInput, pick_all
from repro.cli.running import check_means, require_device
from repro.report import number
from repro.runner.worker import ONE_THREAD


def run(arguments: argparse.Namespace) -> int:
    """Measure the groups asked for. A quick run keeps its result only where ``--out`` says."""
    check_means(arguments)
    groups = pick_all("group", arguments.groups, bench.GROUPS) or bench.GROUPS
    if arguments.repetitions is not None and arguments.repetitions < 1:
        raise BadInput(f"--repetitions must be above 0, not {arguments.repetitions}")
    folder = Path(arguments.out) if arguments.out else None if arguments.quick else bench.FOLDER
    if folder is not None and folder.exists() and not folder.is_dir():
        raise BadInput(f"--out takes a folder, and {arguments.out} is none")
    os.environ.update(ONE_THREAD)
    require_device(arguments.device)
    measured = measure(groups, arguments.device, arguments.quick, arguments.repetitions)
    print(tables(measured))
    if folder is not None:
        path = bench.write(folder, arguments.device, measured)
        print(f"\nbenchmark: {path}")
    broken = [n for n, g in measured.items() for c in g["cells"] if _errors(c)]
    return 1 if broken else 0


def measure(groups: tuple[str, ...], device: str, quick: bool, repetitions: int | None) -> dict[str, Any]:
    """The groups as a document has them, with one thread."""
    import torch

    from repro.bench import document

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = {}
    try:
        for name in groups:
            began = document.begin()
            module = importlib.import_module(f"repro.bench.{name}")
            cells = module.cells(device, quick, repetitions, lambda text: print(text, file=sys.stderr, flush=True))
            out[name] = document.group(cells, device, quick, began)
    finally:
        torch.set_num_threads(threads)
    return out


def tables(groups: Mapping[str, Any]) -> str:
    """For the terminal: medians in ms, ratios, goals."""
    from tabulate import tabulate

    parts = []
    for name in (n for n in ("layer", "step") if n in groups):
        found = bench.lines(groups[name]["cells"])
        for mode in dict.fromkeys(line.mode for line in found):
            some = [line for line in found if line.mode == mode]
            contenders = list(dict.fromkeys(n for line in some for n in (*line.times, *line.notes)))
            rows: list[list[str]] = [
                [
                    line.name,
                    line.way,
                    *(number(line.times[n][1], 3) if n in line.times else "-" for n in contenders),
                    ""
                    if line.against is None
                    else f"{line.against[1]:.2f} [{line.against[0]:.2f}, {line.against[2]:.2f}]",
                    line.rival.removeprefix("transformers "),
                    f"{line.tokens_per_s:,.0f}" if line.tokens_per_s else "",
                    "" if line.roof is None else f"{line.roof:.0%}",
                ]
                for line in some
            ]
            against, roof = bench.means(some)
            rows.append(
                ["geometric mean", *[""] * (1 + len(contenders)), "" if against is None else f"{against:.2f}", "", "",
                 "" if roof is None else f"{roof:.0%}"]
            )  # fmt: skip
            headers = ["cell", "way", *contenders, f"{OURS} / best of transformers", "which", "tokens/s", "of the roof"]
            kept = [i for i in range(len(headers)) if any(row[i] for row in rows)]
            table = tabulate(
                [[row[i] for i in kept] for row in rows],
                headers=[headers[i] for i in kept],
                disable_numparse=True,
                maxheadercolwidths=[16] * len(kept),
            )
            parts.append(f"\n{name}, {mode}: medians in ms\n\n{table}")
            parts += [f"  {line.name}: {n}: {why}" for line in some for n, why in line.notes.items()]
            parts += [f"  {line.name}: {bounds(line)}" for line in some if line.kernels]
    for name, measure_name in bench.MEASURES.items():
        if name not in groups:
            continue
        rows = []
        for cell in groups[name]["cells"]:
            q = cell.get(measure_name)
            shown = (
                [number(q["median"], 3), f"[{number(q['q1'], 3)}, {number(q['q3'], 3)}]"] if q else [cell["error"], ""]
            )
            rows.append([cell["name"], *shown])
        table = tabulate(rows, headers=[name, measure_name, "quartiles"], disable_numparse=True)
        parts.append(f"\n{table}")
    goals = [
        [g.title, f"{number(value, 3)} {g.unit}".strip(), f"{g.at_most:.4g} {g.unit}".strip(), _met(g, value),
         "" if floor is None else number(floor, 3)]
        for g, value, floor in bench.outcomes(groups)
        if value is not None
    ]  # fmt: skip
    if goals:
        headers = ["goal", "measured", "at most", "", "a dense layer instead"]
        parts.append("\n" + tabulate(goals, headers=headers, disable_numparse=True))
    return "\n".join(parts)


def _met(goal: bench.Goal, value: float) -> str:
    return "met" if value <= goal.at_most else "missed"


def _errors(cell: Mapping[str, Any]) -> bool:
    return "error" in cell or any("error" in c for c in cell.get("contenders", {}).values())
