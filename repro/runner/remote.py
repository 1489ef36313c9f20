"""What happens on the nodes of a cluster: one run as a task, the board on which tasks write, the shelf of base models.

Imports no Ray: tasks and actors get their handles from `repro.runner.cluster`.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tarfile
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.data.cache import cache_dir
from repro.runner.plan import Run

#: Kinds of things in the cache folder that take training to make; the rest is made again where it is wanted.
SHELVED = ("zoo", "checkpoints")
#: Bytes that the shelf keeps at most; what comes after that is made again by each node.
SHELF_LIMIT = 4 * 2**30
#: Seconds between two looks at time and memory.
WATCH = 0.25


class Board:
    """An actor on which tasks write what happens to them: ``(kind, key, attempt, ...)``. The oldest lines give way."""

    def __init__(self, limit: int = 100_000):
        self.events: deque[tuple[Any, ...]] = deque(maxlen=limit)

    def tell(self, *event: Any) -> None:
        """Add a line."""
        self.events.append(event)

    def drain(self) -> list[tuple[Any, ...]]:
        """All lines since the last time."""
        out = list(self.events)
        self.events.clear()
        return out


class Shelf:
    """An actor that keeps finished folders of caches, packed, by their names: ``zoo/name-key``.

    Names are addresses of content, so a name stands for the same thing on every node.
    """

    def __init__(self, limit: int = SHELF_LIMIT):
        self.limit, self.used = limit, 0
        self.packed: dict[str, bytes] = {}

    def names(self) -> list[str]:
        """What is there."""
        return list(self.packed)

    def keep(self, name: str, content: bytes) -> bool:
        """Keep it, unless it is there already or there is no room; whether it is there now."""
        if name not in self.packed and self.used + len(content) <= self.limit:
            self.packed[name] = content
            self.used += len(content)
        return name in self.packed

    def give(self, name: str) -> bytes:
        """The packed folder of that name. Raises KeyError."""
        return self.packed[name]


def task(run: Run, attempt: int, board: Any, shelf: Any, python: tuple[int, int]) -> str:
    """Carry out a run in this worker and return the text of its record.

    Raises RuntimeError when this node's Python is not the one that planned the run.
    """
    import ray

    from repro.runner.worker import carry_out, forget, throttled

    if sys.version_info[:2] != tuple(python):
        here = ".".join(map(str, sys.version_info[:2]))
        raise RuntimeError(f"this node has Python {here}, the plan was made with {'.'.join(map(str, python))}")
    board.tell.remote("begin", run.key, attempt)
    progress = throttled(lambda *step: board.tell.remote("step", run.key, attempt, *step), 1.0)

    def last_words(status: str, message: str) -> None:
        with contextlib.suppress(Exception):
            wait_for(board.tell.remote("end", run.key, attempt, status, message), 5)

    with contextlib.suppress(ray.exceptions.RayError):  # without a shelf the run makes its base models itself
        take_down(shelf)
    before = set(shelved(cache_dir()))
    with _watch(run, last_words):
        record = carry_out(run, progress)
    forget(run, record)
    with contextlib.suppress(ray.exceptions.RayError):
        put_up(shelf, before)
    return record.to_json()


def wait_for(reference: Any, seconds: float | None = None) -> Any:
    """What an actor answers. `ray.get` would give this worker's core away meanwhile, and one run more than there are
    cores would begin.

    Raises what the actor raised, RayError when it is lost, TimeoutError.
    """
    return reference.future().result(seconds)


@contextlib.contextmanager
def _watch(run: Run, last_words: Any) -> Iterator[None]:
    """End this process, and with it those that share the run, when it takes more time or memory than it may, after
    saying why."""
    from repro.runner.execute import resident
    from repro.runner.worker import over_memory, over_time

    began, over = time.monotonic(), threading.Event()
    before = resident(os.getpid())  # what earlier runs left in this worker is not this run's

    def look() -> None:
        while not over.wait(WATCH):
            used = resident(os.getpid(), family=run.processes > 1)
            if time.monotonic() - began > run.time_limit:
                last_words(*over_time(run))
            elif used > max(run.memory, before):
                last_words(*over_memory(run, used))
            else:
                continue
            os._exit(1)

    watch = threading.Thread(target=look, daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def shelved(root: Path) -> dict[str, Path]:
    """Finished folders below a cache folder, by their names on the shelf."""
    return {
        f"{kind}/{place.name}": place
        for kind in SHELVED if (root / kind).is_dir()
        for place in sorted((root / kind).iterdir()) if place.is_dir() and not place.name.startswith(".")
    }  # fmt: skip


def take_down(shelf: Any) -> None:
    """Fetch what the shelf has and this node has not."""
    root = cache_dir()
    have = shelved(root)
    for name in wait_for(shelf.names.remote()):
        if name not in have:
            unpack(wait_for(shelf.give.remote(name)), root, name)


def put_up(shelf: Any, before: set[str]) -> None:
    """Give the shelf what came to this node's cache since it held the names in ``before``."""
    new = {name: place for name, place in shelved(cache_dir()).items() if name not in before}
    there = set(wait_for(shelf.names.remote())) if new else set()
    for name, place in new.items():
        if name not in there:
            wait_for(shelf.keep.remote(name, pack(place)))


def pack(place: Path) -> bytes:
    """A folder as the bytes of a tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(place, arcname=".")
    return buffer.getvalue()


def unpack(content: bytes, root: Path, name: str) -> None:
    """Lay a packed folder down under its name, whole or not at all; nothing when it is there.

    Raises ValueError for a name that is none of the shelf's, tarfile.FilterError for a file that would leave the
    folder.
    """
    kind, _, folder = name.partition("/")
    if kind not in SHELVED or not folder or "/" in folder or folder.startswith("."):
        raise ValueError(f"{name!r} is no name of the shelf")
    place = root / kind / folder
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder}-", dir=place.parent) as work:
        inner = Path(work) / "folder"
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(inner, filter="data")
        with contextlib.suppress(OSError):  # another process of this node was first
            inner.rename(place)
