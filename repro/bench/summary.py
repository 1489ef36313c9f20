"""What a document says in few numbers: read by the terminal and by the leaderboard, so that both say the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Names of the contenders.
OURS, ROOF, NAIVE = "ours", "roof", "naive"
TRANSFORMERS = "transformers "


@dataclass(frozen=True, slots=True)
class Line:
    """One cell of ``layer`` or ``step``.

    Args:
        times: contender to (q1, median, q3) in milliseconds.
        notes: contender to why it has no time.
        rival: the fastest of transformers' implementations.
        against: the time of ours over that of the rival: (q1, median, q3); below 1, ours is faster.
        roof: the time of the dense layer over that of ours: 1 is as fast as dense matmuls of as many FLOPs. Of a step,
            the time of a step with such layers in the place of the experts.
        tokens_per_s: of ours; 0 where no step was timed.
        over: contender to the median time of ours over its time.
        shape: numbers of tokens, experts...
        kernels: on a GPU, kinds of kernels to their share of its time, and ``busy``: the share of the wall time in
            which it has something to do.
    """

    name: str
    mode: str
    way: str
    repetitions: int
    times: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    rival: str = ""
    against: tuple[float, float, float] | None = None
    roof: float | None = None
    tokens_per_s: float = 0.0
    over: Mapping[str, float] = field(default_factory=dict)
    shape: Mapping[str, int] = field(default_factory=dict)
    kernels: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that the library wants to keep at or below ``at_most``.

    Args:
        group: where it is measured.
        cell: of ``harness`` and ``choices`` how the cell's name begins (all such cells count, by their geometric mean),
            elsewhere the mode; "" takes every mode.
        over: the contender over whose time ours is taken; `TRANSFORMERS` takes the fastest of its implementations.
        tokens: smallest and largest number of tokens of the cells that count.
        experts: number of experts of the cells that count; 0 takes any.
        worst: the largest ratio instead of the geometric mean.
        device: the kind of device that the goal is for.
    """

    group: str
    title: str
    at_most: float
    unit: str = ""
    cell: str = ""
    over: str = TRANSFORMERS
    tokens: tuple[int, int] = (0, 1 << 30)
    experts: int = 0
    worst: bool = False
    device: str = "cpu"

    def takes(self, line: Line) -> bool:
        """Whether a line counts."""
        return (
            self.cell in ("", line.mode)
            and self.tokens[0] <= line.shape.get("tokens", 0) <= self.tokens[1]
            and self.experts in (0, line.shape.get("experts"))
        )


#: Groups whose cells are one figure each, and the name that it has.
MEASURES = {"choices": "ratio", "harness": "seconds"}
LAPTOP = (0, 2048)
BOTH = "forward+backward"
GOALS = (
    Goal("layer", "experts at laptop sizes: time over the fastest of transformers, geometric mean", 1 / 1.25,
         cell=BOTH, tokens=LAPTOP),
    Goal("layer", "experts: the same at the worst point of the grid", 1.0, cell=BOTH, worst=True),
    Goal("layer", "experts from 2,048 tokens up: time over a dense layer of equal FLOPs, geometric mean", 1 / 0.75,
         cell=BOTH, over=ROOF, tokens=(2048, 1 << 30)),
    Goal("layer", "experts at the published size of CoE: time over the fastest of transformers, worst of two",
         1.0, cell=BOTH, tokens=(32768, 32768), worst=True, device="cuda"),
    Goal("step", "training step, 16 experts: time over the loop over experts, geometric mean", 1 / 1.5, over=NAIVE,
         experts=16),
    Goal("step", "training step, 64 experts: the same", 1 / 3, over=NAIVE, experts=64),
    Goal("choices", "training step, two passes of K/2 over one of K at equal compute, geometric mean", 1.1,
         cell="two passes of "),
    Goal("harness", "importing the library without torch", 0.3, "s", "import repro"),
    Goal("harness", "from the command to the first training step", 5.0, "s", "first training step"),
    Goal("harness", "leaderboard of 100,000 records", 10.0, "s", "leaderboard of 100,000 records"),
)  # fmt: skip


def lines(cells: Iterable[Mapping[str, Any]]) -> list[Line]:
    """The cells as lines; what is malformed in a cell is left out of its line."""
    return [_line(cell) for cell in cells]


def _line(cell: Mapping[str, Any]) -> Line:
    contenders = cell.get("contenders")
    times: dict[str, tuple[float, float, float]] = {}
    ratios: dict[str, tuple[float, float, float]] = {}
    notes: dict[str, str] = {}
    for name, found in (contenders if isinstance(contenders, dict) else {}).items():
        if not isinstance(found, dict):
            continue
        spread, ratio = quartiles(found.get("ms")), quartiles(found.get("ours_over"))
        if spread is not None:
            times[name] = spread
        if ratio is not None:
            ratios[name] = ratio
        if spread is None:
            notes[name] = str(found.get("error") or found.get("skipped") or "no time")
    rivals = [n for n in times if n.startswith(TRANSFORMERS) and n in ratios]
    rival = min(rivals, key=lambda n: times[n][1], default="")
    repetitions, speed, shape = cell.get("repetitions"), cell.get("tokens_per_s"), cell.get("shape")
    return Line(
        str(cell.get("name", "")),
        str(cell.get("mode", "")),
        str(cell.get("way", "")),
        repetitions if isinstance(repetitions, int) else 0,
        times,
        notes,
        rival,
        ratios.get(rival),
        1 / ratios[ROOF][1] if ROOF in ratios else None,
        float(speed) if isinstance(speed, (int, float)) else 0.0,
        {name: ratio[1] for name, ratio in ratios.items()},
        {k: v for k, v in shape.items() if isinstance(v, int)} if isinstance(shape, dict) else {},
        _shares(cell.get("kernels")),
    )


def _shares(found: Any) -> dict[str, float]:
    if not isinstance(found, dict):
        return {}
    return {str(k): float(v) for k, v in found.items() if isinstance(v, (int, float)) and 0 <= v <= 1}


def bounds(line: Line) -> str:
    """What the time of a GPU is made of, in a sentence; empty where it was not measured."""
    kinds = [f"{100 * share:.0f} % {kind}" for kind, share in line.kernels.items() if kind != "busy"]
    busy = line.kernels.get("busy")
    return ", ".join(kinds) + (f"; busy {100 * busy:.0f} % of the time" if kinds and busy is not None else "")


def quartiles(found: Any) -> tuple[float, float, float] | None:
    """Quartiles as a document has them; None for anything else or for what is not above 0."""
    if not isinstance(found, dict):
        return None
    values = [found.get(name) for name in ("q1", "median", "q3")]
    if not all(isinstance(v, (int, float)) and math.isfinite(v) and v > 0 for v in values):
        return None
    return float(values[0]), float(values[1]), float(values[2])  # type: ignore[arg-type]


def geometric_mean(values: Sequence[float]) -> float | None:
    """None for no values."""
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else None


def means(some: Sequence[Line]) -> tuple[float | None, float | None]:
    """Geometric means of the time of ours over the rival's, and of the share of the roof."""
    return (
        geometric_mean([line.against[1] for line in some if line.against is not None]),
        geometric_mean([line.roof for line in some if line.roof is not None]),
    )


def _device(group: Any) -> str:
    """``cpu`` or ``cuda``."""
    environment = group.get("environment") if isinstance(group, dict) else None
    hardware = environment.get("hardware") if isinstance(environment, dict) else None
    return str(hardware.get("device", "cpu") if isinstance(hardware, dict) else "cpu").partition(":")[0]


class Reached(NamedTuple):
    """A goal, the figure that was measured or None, and ``floor``: the figure of a dense layer of equal FLOPs in the
    place of the experts, without routing; None where it was not timed."""

    goal: Goal
    value: float | None
    floor: float | None = None


def outcomes(groups: Mapping[str, Any]) -> list[Reached]:
    """Every goal for the device that was measured."""
    out: list[Reached] = []
    seen = {_device(group) for group in groups.values()} or {"cpu"}
    for goal in (g for g in GOALS if g.device in seen):
        group = groups.get(goal.group)
        cells = group.get("cells", []) if isinstance(group, dict) else []
        if goal.group in MEASURES:
            named = [c for c in cells if str(c.get("name", "")).startswith(goal.cell)]
            found = [quartiles(c.get(MEASURES[goal.group])) for c in named]
            out.append(Reached(goal, geometric_mean([q[1] for q in found if q is not None])))
        else:
            counted = [(line, _over(goal, line)) for line in lines(cells) if goal.takes(line)]
            ratios = [ratio for _, ratio in counted if ratio is not None]
            floors = [ratio * line.roof for line, ratio in counted if ratio is not None and line.roof is not None]
            out.append(Reached(goal, _joined(goal, ratios), None if goal.over == ROOF else _joined(goal, floors)))
    return out


def _over(goal: Goal, line: Line) -> float | None:
    if goal.over == TRANSFORMERS:
        return None if line.against is None else line.against[1]
    return line.over.get(goal.over)


def _joined(goal: Goal, ratios: Sequence[float]) -> float | None:
    return max(ratios, default=None) if goal.worst else geometric_mean(ratios)
