"""Where records live: one small file per run, written whole or not at all, never changed afterwards.

A store is a folder ``<root>/<paper>/<scale>/<key>.json``. Committed reference results are the same records, one per
line, in ``leaderboard/reference/<paper>/<scale>-<setting>.jsonl``.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repro.records.schema import BadRecord, Record, plain, printable

_SAFE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,127}\Z", re.IGNORECASE | re.ASCII)


class CannotStore(OSError):
    """A store that cannot be written: full, read-only, or not there. The message names it and the reason."""


@dataclass
class Loaded:
    """Records read from a place and, by name, what could not be read."""

    records: list[Record] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def safe_name(name: str) -> str:
    """The name itself, if it can be a file name that stays in its folder. Raises ValueError."""
    if not _SAFE.match(name) or ".." in name:
        raise ValueError(f"{name!r} cannot be a file name")
    return name


def write_atomically(path: Path, text: str) -> None:
    """Write text so that a reader sees the whole of it or nothing, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        os.fchmod(handle, 0o644)  # a temporary file is private, a record is not
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class Store:
    """Append-only records under ``root``."""

    def __init__(self, root: Path | str):
        self.root = Path(root)

    def path(self, paper: str, scale: str, key: str) -> Path:
        """Where the record with that key stands. Raises ValueError for a name that would leave the store."""
        return self.root / safe_name(paper) / safe_name(scale) / f"{safe_name(key)}.json"

    def save(self, record: Record) -> Path:
        """Write a record; a finished one with the same key stays as it is, a failed one gives way.

        Raises CannotStore.
        """
        path = self.path(record.paper, record.scale, record.key)
        if self.get(record.paper, record.scale, record.key) is None:
            try:
                write_atomically(path, record.to_json() + "\n")
            except OSError as error:
                raise self._cannot(error) from error
        return path

    def check(self) -> None:
        """Raises CannotStore when no record could be written now."""
        try:
            write_atomically(self.root / ".probe", "x" * 4096)
            (self.root / ".probe").unlink(missing_ok=True)
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> CannotStore:
        return CannotStore(f"records cannot be written to {self.root}: {error.strerror or error}")

    def read(self, paper: str, scale: str, key: str) -> Record:
        """The record with that key, however it ended. Raises OSError where there is none, BadRecord."""
        return Record.from_json(self.path(paper, scale, key).read_bytes())

    def get(self, paper: str, scale: str, key: str) -> Record | None:
        """The finished (``ok`` or ``diverged``) record with that key, or None; an unreadable file counts as absent."""
        try:
            record = self.read(paper, scale, key)
        except (OSError, BadRecord):
            return None
        return record if record.status in ("ok", "diverged") else None

    def load(self, paper: str | None = None, scale: str | None = None) -> Loaded:
        """Every readable record, sorted, and the names of the files that could not be read."""
        return load(self.root if paper is None else self.root / paper, scale)


def load(root: Path | str, scale: str | None = None) -> Loaded:
    """Records in every ``.json`` and ``.jsonl`` file below ``root``. Never raises for a bad file: it is reported."""
    out = Loaded()
    for path in _files(root):
        if scale is not None and not _of_scale(path, scale):
            continue
        for name, text in _texts(path, out):
            try:
                out.records.append(Record.from_json(text))
            except BadRecord as error:
                out.problems.append(printable(f"{name}: {error}"))
    out.records.sort(key=lambda r: (r.paper, r.scale, r.setting, r.arm, r.seed, r.key))
    return out


def _of_scale(path: str, scale: str) -> bool:
    folder, name = os.path.split(path)
    return os.path.basename(folder) == scale or name.startswith(f"{scale}-")


def _files(root: Path | str) -> list[str]:
    """Files of records below ``root``, sorted. Plain strings: a store may hold a hundred thousand of them."""
    found = []
    for folder, _, names in os.walk(root):
        found += [os.path.join(folder, n) for n in names if n.endswith((".json", ".jsonl")) and n[0] != "."]
    found.sort()
    return found


def texts(root: Path | str, out: Loaded) -> Iterator[tuple[str, bytes]]:
    """Name and text of every record below ``root``, unparsed; files that cannot be read go to ``out.problems``."""
    for path in _files(root):
        yield from _texts(path, out)


def _texts(path: str, out: Loaded) -> Iterator[tuple[str, bytes]]:
    try:
        with open(path, "rb", buffering=0) as file:
            content = file.readall()
    except OSError as error:
        out.problems.append(printable(f"{path}: {error.strerror}"))
        return
    if path.endswith(".json"):
        yield path, content
        return
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            yield f"{path}:{number}", line


def write_reference(records: Iterable[Record], root: Path | str) -> list[Path]:
    """Write finished records as reference files, one per paper, scale and setting, lines sorted. Returns the paths.

    A record replaces that of the same arm, seed and kind of device; what a file holds of others stays, so that a run of
    some arms does not throw away the rest; of an arm that was run anew, seeds with other options go. A record that is
    replaced stays as long as it can confirm others of its code (`repro.records.confirm`), without its pictures, which
    confirm nothing, and sealed anew. Lines that cannot be read go.
    """
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        if record.status in ("ok", "diverged"):
            groups.setdefault((record.paper, record.scale, record.setting), []).append(record)
    paths = []
    for (paper, scale, setting), made in sorted(groups.items()):
        path = Path(root) / safe_name(paper) / f"{safe_name(scale)}-{safe_name(setting)}.jsonl"
        there = sorted(_readable(str(path)), key=lambda r: str(r.provenance.get("started", "")))
        now = {(r.arm, r.device_kind): _spelled(r.config) for r in made}
        kept = [r for r in there if _agrees(r.config, now.get((r.arm, r.device_kind), {}))]
        last = {_cell(r): r for r in [*kept, *made]}
        codes = {(r.arm, r.device_kind, r.code) for r in last.values()}
        evidence = [
            replace(r, pictures={}) for r in kept
            if r.code != last[_cell(r)].code and r.config == _spelled(last[_cell(r)].config)
            and (r.arm, r.device_kind, r.code) in codes
        ]  # fmt: skip
        group = [*last.values(), *evidence]
        group.sort(key=lambda r: (r.arm, r.seed, r.key))
        write_atomically(path, "".join(r.to_json() + "\n" for r in group))
        paths.append(path)
    return paths


def _readable(path: str) -> Iterator[Record]:
    if os.path.exists(path):
        for _, text in _texts(path, Loaded()):
            with contextlib.suppress(BadRecord):
                yield Record.from_json(text)


def _spelled(config: Mapping[str, Any]) -> dict[str, Any]:
    """As a file has it."""
    return dict(plain(dict(config)))


def _agrees(config: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a configuration says nothing else; an option that it does not know counts for nothing."""
    return all(config[name] == value for name, value in now.items() if name in config)


def _cell(record: Record) -> tuple[str, int, str]:
    return record.arm, record.seed, record.device_kind
