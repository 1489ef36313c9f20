"""One command line: list, show, run, judge, tune, leaderboard, records, bench, doctor, new.

Exit codes: 0; 1 when a run failed; 2 for bad input, with one line that names the nearest valid choices; 130 after
Ctrl-C. Nothing here imports torch before a run starts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from repro.claims import SCALES
from repro.cli.choices import BadInput, nearest
from repro.records.schema import printable
from repro.records.store import CannotStore

VERBS = ("list", "show", "run", "judge", "tune", "leaderboard", "records", "bench", "doctor", "new")


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        found, rest = super().parse_known_args(args, namespace)
        unknown = [word for word in rest if word.startswith("-")]
        if unknown:
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            raise BadInput(f"unknown flag {unknown[0]!r}; {nearest(unknown[0].partition('=')[0], flags)}")
        return found, rest


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = _Parser(prog="repro", description="Claims of machine-learning papers as experiments that run.")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=text, description=text, allow_abbrev=False)

    verb("list", "List the papers.")

    show = verb("show", "Show a paper: its claims, arms, settings and scales.")
    show.add_argument("paper", metavar="PAPER")

    run = verb("run", "Run papers, judge their claims and write the leaderboard page.")
    run.add_argument("papers", metavar="PAPER", nargs="+", help="slugs, or all")
    _selection(run)
    run.add_argument("--seeds", type=int, metavar="N", help="number of seeds, counted from 0")
    run.add_argument("--arms", metavar="A,B", help="only these arms")
    run.add_argument("--settings", metavar="A,B", help="only these settings")
    run.add_argument("--data", metavar="A,B", help="only the settings on this data")
    run.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu (default) or cuda")
    run.add_argument("--workers", type=int, metavar="N", help="processes at a time (default: as the cores allow)")
    run.add_argument("--executor", default="local", metavar="EXECUTOR", help="local (default) or ray")
    run.add_argument("--address", metavar="ADDRESS", help="of a Ray cluster (default: one is started for the runs)")
    run.add_argument("--processes", type=int, default=1, metavar="N", help="that share each training (default: 1)")
    run.add_argument("--strategy", metavar="STRATEGY", help="how they share it: ddp (default) or fsdp")
    run.add_argument(
        "--checkpoint", type=int, metavar="STEPS",
        help="keep each training every so many steps (0: with every evaluation) and take up what ended early",
    )  # fmt: skip
    run.add_argument("--time-limit", type=float, metavar="SECONDS", help="for one run")
    run.add_argument(
        "--reference", action="store_true", help="afterwards write the finished records to leaderboard/reference"
    )

    judge = verb("judge", "Judge stored records again, without running anything.")
    judge.add_argument("paper", metavar="PAPER")
    _selection(judge)
    judge.add_argument("--reference", action="store_true", help="judge the committed reference records instead")

    tune = verb("tune", "Try a grid of options on tuning seeds (1000 and up), which no verdict reads.")
    tune.add_argument("paper", metavar="PAPER")
    tune.add_argument("--scale", default="laptop", metavar="SCALE", help=", ".join(SCALES) + " (default: laptop)")
    tune.add_argument("--settings", metavar="A,B", help="settings to tune in")
    tune.add_argument("--arms", metavar="A,B", help="arms to tune, all on one grid")
    tune.add_argument("--grid", action="append", default=[], metavar="KEY=V1,V2", help="values to try; repeatable")
    tune.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    tune.add_argument("--seeds", type=int, default=2, metavar="N", help="number of tuning seeds (default: 2)")
    tune.add_argument("--device", default="cpu", metavar="DEVICE")
    tune.add_argument("--workers", type=int, metavar="N")

    board = verb("leaderboard", "Build the leaderboard page from reference and local records.")
    board.add_argument("--out", metavar="FOLDER", help="where the page goes (default: leaderboard/site)")

    keeping = verb("records", "Check, merge and clear stores of records.")
    action = keeping.add_subparsers(dest="action", metavar="ACTION", parser_class=_Parser, required=True)

    def act(name: str, text: str) -> argparse.ArgumentParser:
        return action.add_parser(name, help=text, description=text, allow_abbrev=False)

    checking = act("verify", "Check that records are whole, sealed, and where they belong.")
    checking.add_argument("folders", metavar="DIR", nargs="*", help="default: the local and the reference records")
    merging = act("merge", "Bring the records of other stores into this one; conflicts are reported and left.")
    merging.add_argument("folders", metavar="DIR", nargs="+", help="stores, or folders of reference files")
    merging.add_argument("--into", metavar="DIR", help="instead of the local store")
    clearing = act("gc", "List the local records that no current code can use; --delete removes them.")
    clearing.add_argument("--delete", action="store_true", help="remove what is listed")

    timing = verb("bench", "Time the fast paths against transformers and plain references, and the harness.")
    timing.add_argument("--groups", metavar="A,B", help="layer, step, choices, harness (default: all)")
    timing.add_argument("--quick", action="store_true", help="a few small cells; kept only where --out says")
    timing.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu (default) or cuda")
    timing.add_argument("--repetitions", type=int, metavar="N", help="per cell (default: as many as fit its time)")
    timing.add_argument("--out", metavar="FOLDER", help="where the result goes (default: leaderboard/bench)")

    verb("doctor", "Say what this machine has and what each scale would need.")

    new = verb("new", "Lay down the folder and the test of a new paper.")
    new.add_argument("slug", metavar="SLUG", help="lower-case letters, digits, underscores")
    new.add_argument("--title", help="of the paper")
    return top


def _selection(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--scale", default="laptop", metavar="SCALE", help=", ".join(SCALES) + " (default: laptop)")
    verb.add_argument("--claims", metavar="C1,C2", help="only these claims")
    verb.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides",
        help="override an option of the paper's configuration; repeatable",
    )  # fmt: skip
    verb.add_argument(
        "--placebo",
        action="store_true",
        help="compare one arm of each pair with itself under other seeds: no effect must show",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        code = _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except BadInput as error:
        print(f"repro: {printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("repro: interrupted; what is finished is kept and the next start goes on from there", file=sys.stderr)
        return 130
    except CannotStore as error:
        print(f"repro: {printable(str(error))}; what was finished before is kept", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(argv: list[str]) -> int:
    top = parser()
    if not argv:
        top.print_help()
        return 0
    if not argv[0].startswith("-") and argv[0] not in VERBS:
        raise BadInput(f"unknown verb {argv[0]!r}; {nearest(argv[0], VERBS)}")
    arguments = top.parse_args(argv)
    if arguments.verb == "list":
        from repro.cli.listing import list_papers

        return list_papers()
    if arguments.verb == "show":
        from repro.cli.listing import show_paper

        return show_paper(arguments.paper)
    if arguments.verb == "doctor":
        from repro.cli.doctor import doctor

        return doctor()
    if arguments.verb == "tune":
        from repro.cli.tuning import tune

        return tune(arguments)
    if arguments.verb == "bench":
        from repro.cli import bench

        return bench.run(arguments)
    if arguments.verb == "new":
        from repro.cli.new import new

        return new(arguments.slug, arguments.title)
    if arguments.verb == "records":
        from repro.cli import keeping

        return keeping.run(arguments)
    from repro.cli import running

    return getattr(running, arguments.verb)(arguments)
