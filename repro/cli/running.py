"""``repro run``, ``repro judge`` and ``repro leaderboard``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro import papers
from repro.claims import SCALES, Judgement, Paper
from repro.claims import judge as judge_claims
from repro.claims.judge import PLACEBO_SHIFT
from repro.cli.choices import BadInput, nearest, parse_overrides, pick, pick_all
from repro.cli.listing import complain, find_paper
from repro.records import Record, load, standard, write_reference

DEVICES = ("cpu", "cuda")
EXECUTORS = ("local", "ray")
STRATEGIES = ("ddp", "fsdp")
REFERENCE = papers.ROOT / "leaderboard" / "reference"


@dataclass(frozen=True)
class Selection:
    """What of one paper is asked for, checked against what it has."""

    paper: Paper
    scale: str
    claims: tuple[str, ...]
    overrides: Mapping[str, Any]
    placebo: bool
    arms: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


def select(paper: Paper, arguments: argparse.Namespace) -> Selection:
    """Check the flags against a paper. Raises BadInput."""
    scale = pick("scale", arguments.scale, SCALES)
    if scale not in paper.presets:
        raise BadInput(f"{paper.slug} has no scale {scale!r}; {nearest(scale, paper.presets)}")
    return Selection(
        paper,
        scale,
        pick_all("claim", arguments.claims, [c.id for c in paper.claims]),
        parse_overrides(paper, arguments.overrides),
        arguments.placebo,
        pick_all("arm", getattr(arguments, "arms", None), [a.name for a in paper.arms]),
        pick_all("setting", getattr(arguments, "settings", None), [s.name for s in paper.settings]),
        pick_all("data", getattr(arguments, "data", None), list(dict.fromkeys(s.data for s in paper.settings))),
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the papers named, judge them and write the leaderboard page. Raises BadInput."""
    if arguments.reference and arguments.overrides:
        raise BadInput("--reference keeps runs of a preset: with --set they are others, and would take their place")
    check_means(arguments)
    broken: list[papers.BrokenPaper] = []
    if "all" in arguments.papers:
        chosen, broken = papers.load_all()
    else:
        chosen = [find_paper(name) for name in dict.fromkeys(arguments.papers)]
    selections = [select(paper, arguments) for paper in chosen]
    if arguments.address is None:
        require_device(arguments.device)

    from repro import runner

    runs = []
    for s in selections:
        try:
            planned = runner.plan(
                s.paper, s.scale, settings=s.settings, data=s.data, arms=s.arms, claims=s.claims, seeds=arguments.seeds,
                overrides=s.overrides, device=arguments.device, placebo=s.placebo, time_limit=arguments.time_limit,
                processes=arguments.processes, strategy=arguments.strategy or "ddp", checkpoint=arguments.checkpoint,
            )  # fmt: skip
        except runner.BadRequest as error:
            raise BadInput(str(error)) from None
        if not planned:
            raise BadInput(f"{s.paper.slug}: nothing to run; no comparison reads such an arm in such a setting")
        runs.extend(planned)

    store = runner.default_store()
    try:
        summary = runner.execute(
            runs,
            store,
            workers=arguments.workers,
            progress=runner.Live(reference=REFERENCE),
            executor=arguments.executor,
            address=arguments.address,
        )
    except runner.NoCluster as error:
        raise BadInput(str(error).partition("\n")[0]) from None
    for s in selections:
        report(s, store.load(s.paper.slug).records)
    _report_failures(summary.failed)
    print(f"{summary.ran} run, {summary.cached} from the cache, {len(summary.failed)} failed, {summary.wall_s:.0f} s")
    if arguments.reference and not summary.interrupted:
        for path in write_reference(summary.records, REFERENCE):
            print(f"reference: {_shown(path)}")
    if summary.interrupted:
        raise KeyboardInterrupt
    page = build_page(store.root)
    if page is not None:
        print(f"leaderboard: {_shown(page)}")
    return complain(broken) or (1 if summary.failed else 0)


def judge(arguments: argparse.Namespace) -> int:
    """Judge what is stored and print the table."""
    paper = find_paper(arguments.paper)
    selection = select(paper, arguments)
    if arguments.reference:
        loaded = load(REFERENCE / paper.slug)
    else:
        from repro import runner

        loaded = runner.default_store().load(paper.slug)
    for problem in loaded.problems:
        print(f"skipped {problem}", file=sys.stderr)
    report(selection, loaded.records)
    return 0


def leaderboard(arguments: argparse.Namespace) -> int:
    """Build the page."""
    from repro import runner

    out = Path(arguments.out) if arguments.out else None
    if out is not None and out.exists() and not out.is_dir():
        raise BadInput(f"--out takes a folder, and {arguments.out} is none")
    page = build_page(runner.default_store().root, out)
    if page is None:
        raise BadInput("the leaderboard package is not part of this installation")
    print(f"leaderboard: {_shown(page)}")
    return 0


def judgements(selection: Selection, records: Sequence[Record]) -> list[Judgement]:
    """Verdicts of the claims selected, from the records made with the configuration selected."""
    chosen = standard(selection.paper, records, selection.scale, selection.overrides)
    found = judge_claims(selection.paper, chosen, selection.scale, placebo=selection.placebo)
    return [j for j in found if not selection.claims or j.claim.id in selection.claims]


def report(selection: Selection, records: Sequence[Record]) -> None:
    """Print the table of claims."""
    from repro.cli.show import claims_table

    placebo = ", placebo: an arm of each pair against itself" if selection.placebo else ""
    print(f"\n{selection.paper.short}: {selection.paper.subtitle} ({selection.scale} scale{placebo})")
    print(claims_table(judgements(selection, records)))


def build_page(local: Path, out: Path | None = None) -> Path | None:
    """Build the leaderboard page; None when the leaderboard package is not installed."""
    try:
        build = importlib.import_module("leaderboard.build")
    except ModuleNotFoundError as error:
        if error.name not in ("leaderboard", "leaderboard.build"):
            raise
        return None
    return build.build(REFERENCE, local, out or Path(os.environ.get("REPRO_SITE") or REFERENCE.parent / "site"))


def _report_failures(failed: Sequence[Record]) -> None:
    """One line per reason: an absent data set fails every run that reads it in the same way."""
    reasons: dict[str, list[Record]] = {}
    for record in failed:
        said = record.error.get("message") or record.error.get("type") or ""
        reasons.setdefault(f"{record.status}: {said.partition(chr(10))[0]}", []).append(record)
    if reasons:
        print("\nfailed:")
    for reason, records in reasons.items():
        first, others = records[0], len(records) - 1
        where = f"{first.paper} {first.setting} {first.arm} seed {first.seed}"
        print(f"  {where}{f' and {others} more' if others else ''}: {reason}")


def check_means(arguments: argparse.Namespace) -> None:
    """Check the flags that say with what to run, without importing torch. Raises BadInput."""
    for flag in ("seeds", "workers", "time_limit", "processes"):
        value = getattr(arguments, flag, None)
        if value is not None and not value > 0:
            raise BadInput(f"--{flag.replace('_', '-')} must be above 0, not {value:g}")
    if (getattr(arguments, "seeds", None) or 0) > PLACEBO_SHIFT:
        raise BadInput(f"--seeds must be at most {PLACEBO_SHIFT}: later ones are for placebos and tuning")
    pick("device", arguments.device, DEVICES)
    if getattr(arguments, "executor", "local") != "ray" and getattr(arguments, "address", None):
        raise BadInput("--address is that of a Ray cluster; it needs --executor ray")
    pick("executor", getattr(arguments, "executor", "local"), EXECUTORS)
    if (strategy := getattr(arguments, "strategy", None)) is not None:
        pick("strategy", strategy, STRATEGIES)
        if arguments.processes < 2:
            raise BadInput("--strategy says how processes share a training; it needs --processes above 1")
    if (getattr(arguments, "checkpoint", None) or 0) < 0:
        raise BadInput(f"--checkpoint must be 0 or above, not {arguments.checkpoint}")


def require_device(device: str) -> None:
    """Raises BadInput where torch cannot use the device."""
    if device == "cpu":
        return
    try:
        import torch
    except ImportError:
        raise BadInput(f"device {device} needs torch, which is not installed; choices: cpu") from None
    if not torch.cuda.is_available():
        raise BadInput(f"device {device} is not available on this machine; choices: cpu")


def _shown(path: Path) -> str:
    """Relative to the working directory when below it."""
    path = Path(path).resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
