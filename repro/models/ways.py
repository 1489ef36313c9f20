"""Which of several ways to compute one thing is used, where that is not left to the library.

The ways themselves are in `repro.models.dispatch` and `repro.models.dispatch_cuda`. Their names stand apart from them:
what only counts FLOPs does not depend on how experts are run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

#: Ways to run experts on their tokens.
NAMES = ("naive", "dense", "grouped", "lean", "cuda")
_forced: ContextVar[str | None] = ContextVar("way", default=None)


def in_force() -> str | None:
    """The way that `forced` prescribes here, or None."""
    return _forced.get()


@contextlib.contextmanager
def forced(way: str) -> Iterator[None]:
    """Use one way everywhere inside the block. Raises KeyError for a name that is not in `NAMES`."""
    if way not in NAMES:
        raise KeyError(way)
    token = _forced.set(way)
    try:
        yield
    finally:
        _forced.reset(token)
