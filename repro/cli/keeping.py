"""``repro records``: verify, merge and clear stores of records."""

from __future__ import annotations

import argparse
from pathlib import Path

from repro import papers
from repro.cli.choices import BadInput
from repro.records import Store, care

#: Lines of one kind that are printed before the rest is counted.
SHOWN = 20


def run(arguments: argparse.Namespace) -> int:
    """Carry out the verb; 1 when something is wrong."""
    from repro import runner

    store = runner.default_store()
    if arguments.action == "verify":
        return _verify([*map(_folder, arguments.folders)] or [store.root, papers.ROOT / "leaderboard" / "reference"])
    if arguments.action == "merge":
        into = Store(arguments.into) if arguments.into else store
        if into.root.exists() and not into.root.is_dir():
            raise BadInput(f"--into takes a folder, and {arguments.into} is none")
        return _merge([*map(_folder, arguments.folders)], into)
    return _clear(store, arguments.delete)


def _folder(given: str) -> Path:
    path = Path(given)
    if not path.is_dir():
        raise BadInput(f"{given!r} is no folder")
    return path


def _verify(roots: list[Path]) -> int:
    bad = 0
    for root in roots:
        found = care.verify(root)
        bad += len(found.problems)
        print(f"{root}: {found.records} records, {found.sealed} of them sealed, {len(found.problems)} problems")
        _lines(found.problems)
    return 1 if bad else 0


def _merge(roots: list[Path], into: Store) -> int:
    bad = 0
    for root in roots:
        found = care.merge(root, into)
        bad += len(found.conflicts) + len(found.problems)
        print(
            f"{root}: {found.added} added, {found.replaced} in place of failed ones, {found.same} were there, "
            f"{len(found.conflicts)} conflicts, {len(found.problems)} problems"
        )
        _lines([
            f"{c.label}: {'; '.join(c.differences[:3])}{' ...' if len(c.differences) > 3 else ''}; kept {c.ours}, "
            f"left out {c.theirs}"
            for c in found.conflicts
        ])  # fmt: skip
        _lines(found.problems)
    return 1 if bad else 0


def _clear(store: Store, delete: bool) -> int:
    known, broken = papers.load_all()
    if broken:
        raise BadInput(f"whether its records are of use cannot be told: {broken[0]}")
    found = care.garbage(store.root, {p.slug: p for p in known})
    print(f"{store.root}: {len(found.files)} files that no current code can use, {found.bytes / 2**20:.1f} MiB")
    _lines([f"{path}: {why}" for path, why in found.files])
    if delete:
        print(f"{care.remove(found)} removed")
    elif found.files:
        print("nothing removed; --delete removes them")
    return 0


def _lines(lines: list[str]) -> None:
    for line in lines[:SHOWN]:
        print(f"  {line}")
    if len(lines) > SHOWN:
        print(f"  and {len(lines) - SHOWN} more")
