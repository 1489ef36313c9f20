"""From a request to the list of runs that answer it."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from repro.claims import ACCOUNTING, SCALES, Computed, Contrast, Paper
from repro.claims.judge import PLACEBO_SHIFT, placebo_arm
from repro.records.provenance import run_code, run_key
from repro.records.schema import identity

#: How processes share a training; see `repro.training.distributed`.
STRATEGIES = ("ddp", "fsdp")


class BadRequest(ValueError):
    """Something asked for by a name or value that does not exist; the message names the nearest valid choices."""


@dataclass(frozen=True)
class Run:
    """One (paper, setting, arm, scale, seed), fully resolved. Plain data: it travels to any executor."""

    paper: str
    setting: str
    arm: str
    scale: str
    seed: int
    config: dict[str, Any]
    device: str
    code: str
    key: str
    entry: str
    time_limit: float
    memory_limit: int
    # with what it is carried out; not part of what it is
    processes: int = 1
    strategy: str = "ddp"
    checkpoint: int | None = None

    @property
    def memory(self) -> int:
        """Bytes that all its processes may have together."""
        return self.memory_limit * self.processes

    @property
    def label(self) -> str:
        """For people: ``coe composition/moe seed 0``."""
        if self.arm == ACCOUNTING:
            return f"{self.paper} accounting at the published size"
        return f"{self.paper} {self.setting}/{self.arm} seed {self.seed}"


def unknown(kind: str, name: str, valid: Collection[str]) -> BadRequest:
    """The error for a name that does not exist: nearest choices first, the whole list when it is short."""
    near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
    shown = near or sorted(valid)
    if len(valid) <= 24:
        shown = [*near, *(v for v in valid if v not in near)]
    return BadRequest(f"unknown {kind} {name!r}; choose from {', '.join(shown)}")


def check(kind: str, names: Iterable[str], valid: Collection[str]) -> None:
    """Raise BadRequest for the first name that is not valid."""
    for name in names:
        if name not in valid:
            raise unknown(kind, name, valid)


def plan(
    paper: Paper,
    scale: str,
    *,
    settings: Sequence[str] = (),
    data: Sequence[str] = (),
    arms: Sequence[str] = (),
    claims: Sequence[str] = (),
    seeds: int | Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str = "cpu",
    placebo: bool = False,
    time_limit: float | None = None,
    processes: int = 1,
    strategy: str = "ddp",
    checkpoint: int | None = None,
) -> list[Run]:
    """The runs that a request needs, seeds outermost so that an interrupted suite has whole seeds.

    Args:
        settings: names; empty takes the preset's, or the default ones.
        data: names of data; takes every setting on that data.
        arms: names; empty takes the preset's, or every arm that a comparison reads in the setting.
        claims: ids; takes the arms and settings that these claims need.
        seeds: how many from 0, or which; None takes the preset's number.
        overrides: typed configuration values that win over all others.
        placebo: run only the baselines of two-armed contrasts, under each seed and its shifted twin.
        time_limit: seconds for one run, instead of the preset's.
        processes: that share each training of a run by ``strategy``, ``ddp`` or ``fsdp``.
        checkpoint: keep each training every so many steps (0: with every evaluation), to take it up when its run ended
            early.

    Raises:
        BadRequest: for any name that the paper does not have, and for processes or checkpoints where its experiments do
            not train through `repro.training.fit`.
    """
    check("scale", [scale], SCALES)
    check("arm", arms, [a.name for a in paper.arms])
    check("setting", settings, [s.name for s in paper.settings])
    check("data", data, list(dict.fromkeys(s.data for s in paper.settings)))
    check("claim", claims, [c.id for c in paper.claims])
    check("option", overrides or {}, [f.name for f in fields(paper.config)])
    preset = paper.presets[scale]
    if processes > 1 or checkpoint is not None:
        check("strategy", [strategy], STRATEGIES)
        if not trains_through_fit(paper.experiment):
            wanted = "be shared between processes" if processes > 1 else "be kept while they go on"
            raise BadRequest(
                f"the runs of {paper.slug} cannot {wanted}: their training does not go through repro.training.fit"
            )

    if settings or data:
        chosen = [s.name for s in paper.settings if s.name in settings or s.data in data]
    else:
        chosen = list(preset.settings or (s.name for s in paper.settings if s.default))
    count = preset.seeds if seeds is None else seeds
    numbers = list(range(count)) if isinstance(count, int) else list(count)
    if placebo:
        numbers += [s + PLACEBO_SHIFT for s in numbers]

    cells = []
    for setting in chosen:
        if arms:
            names: Sequence[str] = [a.name for a in paper.arms if a.name in arms]
        elif placebo:
            names = _placebo_arms(paper, setting, claims)
        elif claims:
            names = paper.arms_in(setting, claims)
        elif setting in preset.arms:
            names = preset.arms[setting]
        else:
            names = paper.arms_in(setting)
        cells += [(setting, name) for name in names]

    limit = preset.time_limit if time_limit is None else time_limit
    runs = [
        _run(paper, setting, arm, scale, seed, paper.resolve(setting, arm, scale, overrides), device,
             paper.experiment, limit, preset.memory_limit, processes, strategy, checkpoint)
        for seed in numbers
        for setting, arm in cells
    ]  # fmt: skip
    costs = [c for c in paper.claims if any(isinstance(k, Computed) for k in c.comparisons)]
    if paper.accounting and not placebo and any(not claims or c.id in claims for c in costs):
        runs.insert(0, _run(paper, ACCOUNTING, ACCOUNTING, "published", 0, {}, "cpu", paper.accounting, limit,
                            preset.memory_limit))  # fmt: skip
    return runs


def _placebo_arms(paper: Paper, setting: str, claims: Sequence[str]) -> list[str]:
    found: set[str] = set()
    for claim in paper.claims:
        if claims and claim.id not in claims:
            continue
        for c in claim.comparisons:
            if isinstance(c, Contrast) and (not c.settings or setting in c.settings):
                arm = placebo_arm(c)
                if arm is not None:
                    found.add(arm)
    return [a.name for a in paper.arms if a.name in found]


def _run(
    paper: Paper, setting: str, arm: str, scale: str, seed: int, config: dict[str, Any], device: str,
    entry: str, time_limit: float, memory_limit: int, processes: int = 1, strategy: str = "ddp",
    checkpoint: int | None = None,
) -> Run:  # fmt: skip
    code = run_code(entry, config, device)
    key = run_key(identity(paper.slug, setting, arm, scale, seed, config, device, code))
    return Run(
        paper.slug, setting, arm, scale, seed, config, device, code, key, entry, time_limit, memory_limit,
        processes, strategy, checkpoint,
    )  # fmt: skip


def trains_through_fit(entry: str) -> bool:
    """Whether a module beside the experiment ``entry`` imports `repro.training.fit.fit`, or `finetune`, its caller."""
    frames = {("repro.training.fit", "fit"), ("repro.training.finetune", "finetune")}
    spec = importlib.util.find_spec(entry.rpartition(".")[0])
    if spec is None or spec.origin is None:
        return False
    return any(
        isinstance(node, ast.ImportFrom) and any((node.module, alias.name) in frames for alias in node.names)
        for path in Path(spec.origin).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
    )
