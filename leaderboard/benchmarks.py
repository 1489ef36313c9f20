"""What the page of benchmarks shows: the committed documents of `repro.bench` as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import bench
from repro.bench.summary import MEASURES, OURS, ROOF, TRANSFORMERS, Line, bounds, quartiles
from repro.report import number

MODES = {
    "forward": "Layer of experts, forward",
    "forward+backward": "Layer of experts, forward and backward",
    "step": "Training step of a small language model",
}


@dataclass(frozen=True)
class Table:
    """One mode of ``layer`` or ``step``: a row per cell, a column per contender."""

    anchor: str
    title: str
    contenders: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    against: str
    roof: str
    has_roof: bool
    has_tokens: bool
    notes: tuple[str, ...]
    bounds: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """One document."""

    anchor: str
    title: str
    goals: tuple[tuple[str, str, str, bool | None, str], ...]
    tables: tuple[Table, ...]
    choices: tuple[tuple[str, str, str, str], ...]
    harness: tuple[tuple[str, str, str, str], ...]
    origins: tuple[tuple[str, str], ...]


def machines(folder: Path) -> tuple[list[Machine], list[str]]:
    """The documents below a folder, by file name, and by name what could not be read."""
    found: list[Machine] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            document = bench.read(path)
        except bench.BadDocument as problem:
            problems.append(f"bench/{path.name}: {problem}")
        else:
            found.append(machine(document, f"machine-{len(found) + 1}"))
    return found, problems


def machine(document: Mapping[str, Any], anchor: str) -> Machine:
    """One document as the page shows it; ``anchor`` is unique on the page."""
    groups = {name: document["groups"][name] for name in bench.GROUPS if name in document["groups"]}
    tables: list[Table] = []
    for name in ("layer", "step"):
        lines = bench.lines(groups[name]["cells"]) if name in groups else []
        for mode in MODES:
            some = [line for line in lines if line.mode == mode]
            if some:
                tables.append(_table(mode, some, f"{anchor}-{len(tables) + 1}"))
    return Machine(
        anchor,
        _title(document, groups),
        tuple(
            (g.title, "not measured" if v is None else _figure(v, g.unit), _figure(g.at_most, g.unit),
             None if v is None else v <= g.at_most, "" if floor is None else _figure(floor, g.unit))
            for g, v, floor in bench.outcomes(groups)
        ),
        tuple(tables),
        _figures(groups, "choices"),
        _figures(groups, "harness"),
        tuple((name, _origin(g)) for name, g in groups.items()),
    )  # fmt: skip


def _table(mode: str, lines: list[Line], anchor: str) -> Table:
    names = tuple(dict.fromkeys(n for line in lines for n in (*line.times, *line.notes)))
    rows = [
        {
            "name": line.name,
            "way": line.way,
            "repetitions": line.repetitions,
            "times": [_spread(line.times.get(n)) for n in names],
            "against": "" if line.against is None else _ratio(line.against),
            "slower": line.against is not None and line.against[0] > 1,
            "rival": line.rival.removeprefix(TRANSFORMERS),
            "roof": "" if line.roof is None else f"{100 * line.roof:.0f} %",
            "tokens": f"{line.tokens_per_s:,.0f}" if line.tokens_per_s else "",
        }
        for line in lines
    ]
    against, roof = bench.means(lines)
    return Table(
        anchor,
        MODES[mode],
        names,
        tuple(rows),
        "" if against is None else f"{against:.2f}",
        "" if roof is None else f"{100 * roof:.0f} %",
        any(ROOF in line.times for line in lines),
        any(line.tokens_per_s for line in lines),
        tuple(f"{line.name}: {n}: {why}" for line in lines for n, why in line.notes.items()),
        tuple(f"{line.name}: {bounds(line)}" for line in lines if line.kernels),
    )


def _spread(found: tuple[float, float, float] | None) -> tuple[str, str]:
    """Median, and the quartiles around it."""
    return ("", "") if found is None else (number(found[1], 3), f"{number(found[0], 3)} to {number(found[2], 3)}")


def _ratio(found: tuple[float, float, float]) -> tuple[str, str]:
    return f"{found[1]:.2f}", f"{found[0]:.2f} to {found[2]:.2f}"


def _figures(groups: Mapping[str, Any], name: str) -> tuple[tuple[str, str, str, str], ...]:
    return tuple(_figure_of(c, MEASURES[name]) for c in groups.get(name, {}).get("cells", ()))


def _figure_of(cell: Mapping[str, Any], measure: str) -> tuple[str, str, str, str]:
    """Name, median and quartiles of what was measured, and what was run or why there is no figure."""
    found = quartiles(cell.get(measure))
    median, rest = _spread(found)
    single = cell.get("repetitions") == 1
    said = str(cell.get("detail", "")) if found else str(cell.get("error", "no figure"))
    return cell["name"], median, "once" if found and single else rest, said


def _figure(value: float, unit: str) -> str:
    return f"{number(value, 3)} {unit}".strip()


def _title(document: Mapping[str, Any], groups: Mapping[str, Any]) -> str:
    hardware: Any = {}
    for g in groups.values():
        environment = g.get("environment")
        hardware = environment.get("hardware") if isinstance(environment, dict) else None
        if isinstance(hardware, dict):
            break
    if not isinstance(hardware, dict) or not hardware:
        return str(document["device"])
    cpu = f"{hardware.get('cpu', 'unknown processor')}, {hardware.get('cores', '?')} cores"
    return f"{hardware['gpu']} ({cpu})" if "gpu" in hardware else cpu


def _origin(group: Mapping[str, Any]) -> str:
    """When, from which commit, on what."""
    environment, provenance = group.get("environment"), group.get("provenance")
    environment = environment if isinstance(environment, dict) else {}
    provenance = provenance if isinstance(provenance, dict) else {}
    changed = " with changes" if provenance.get("dirty") else ""
    words = [
        f"{group.get('started', '?')}{', quick' if group.get('quick') else ''}",
        f"commit {provenance.get('commit', 'unknown')}{changed}",
        f"code of the experts {group.get('code', 'unknown')}",
        f"load average at the start {group['load']}" if "load" in group else "",
        _pairs(environment.get("hardware")),
        _pairs(environment.get("versions")),
    ]
    return "; ".join(w for w in words if w)


def _pairs(values: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in values.items()) if isinstance(values, dict) else ""


#: What the columns are, for the page.
CONTENDERS: Mapping[str, str] = {
    OURS: "what the library runs: the way that it chooses for the shape",
    "naive": "expert by expert, the plain loop that published code has",
    "dense": "every expert on every token, unselected ones weighted by zero",
    "grouped": "tokens sorted by expert, one grouped matmul per projection",
    "lean": "the same with its backward written out",
    f"{TRANSFORMERS}eager": "transformers’ loop over experts",
    f"{TRANSFORMERS}batched_mm": "transformers, weights gathered per token",
    f"{TRANSFORMERS}grouped_mm": "transformers, grouped matmuls",
    ROOF: "a dense SwiGLU of as many FLOPs, without routing: what matmuls alone would take",
}
