"""Finished folders in the cache: made once, by whichever process comes first, appearing whole or not at all, and made
again when their content has changed since."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

#: What is known about a folder's content, and the checksums of its files.
CARD = "card.json"
#: Seconds between two looks at a folder that another process is making.
PATIENCE = 0.5
_FILES = "files"


class Folder(NamedTuple):
    """A folder that can be made.

    ``place`` is addressed by all that decides its content. ``make`` fills an empty folder and returns the card: what is
    known about it, as JSON.
    """

    place: Path
    make: Callable[[Path], Mapping[str, Any]]


class Kept(NamedTuple):
    """A finished folder, its card, and whether this call made it."""

    place: Path
    card: dict[str, Any]
    made: bool


def keep(
    wanted: Sequence[Folder],
    *,
    meanwhile: Sequence[Folder] = (),
    progress: Callable[[int, int], None] = lambda *_: None,
) -> list[Kept]:
    """All folders wanted, in their order: found, or made now.

    Of several processes that want the same folders each makes some and then waits for the others' rest. What ``make``
    raises passes through, and nothing is kept of that folder. A folder whose files are not what was written is made
    again.

    Args:
        meanwhile: folders that will be wanted later, made one at a time while there is nothing to do but wait; what
            fails then is left to those who want it.
        progress: called with (folders that are there, folders wanted).
    """
    found: dict[Path, Kept] = {}

    def look(folder: Folder) -> bool:
        if folder.place not in found and (card := read(folder.place)) is not None:
            found[folder.place] = Kept(folder.place, card, False)
        return folder.place in found

    later = list(meanwhile)
    while missing := [folder for folder in wanted if not look(folder)]:
        progress(len(wanted) - len(missing), len(wanted))
        if any(_attempt(folder, found) for folder in missing):
            continue
        if later:
            with contextlib.suppress(Exception):
                _attempt(later.pop(0), {})
        else:
            time.sleep(PATIENCE)
    progress(len(wanted), len(wanted))
    return [found[folder.place] for folder in wanted]


def read(place: Path) -> dict[str, Any] | None:
    """The card of a finished folder; None where there is none, or where a file is not what was written."""
    try:
        card = json.loads((place / CARD).read_text(encoding="utf-8"))
        sums = card.pop(_FILES)
        changed = [name for name, mark in sums.items() if checksum(place / name) != mark]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None
    if changed:
        log.warning("%s is damaged (%s): it will be made again", place.name, ", ".join(changed))
        return None
    return card


def checksum(file: Path) -> str:
    """SHA-256 of a file's content. Raises OSError."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _attempt(folder: Folder, found: dict[Path, Kept]) -> bool:
    """Make a folder unless it is there by now; False when another process is at it."""
    from filelock import FileLock, Timeout

    place = folder.place
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place.parent / f".{place.name}.lock", timeout=0):
            if (card := read(place)) is not None:
                found[place] = Kept(place, card, False)
            else:
                found[place] = Kept(place, _make(folder), True)
    except Timeout:
        return False
    return True


def _make(folder: Folder) -> dict[str, Any]:
    place = folder.place
    work = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        card = dict(folder.make(work))
        files = sorted(file for file in work.rglob("*") if file.is_file())
        sums = {file.relative_to(work).as_posix(): checksum(file) for file in files}
        text = json.dumps(card | {_FILES: sums}, indent=1)
        (work / CARD).write_text(text, encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)  # what is there is not whole
        work.rename(place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    kept: dict[str, Any] = json.loads(text)  # as it is read from now on
    del kept[_FILES]
    return kept
