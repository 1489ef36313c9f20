"""What can go wrong with data, as errors with a plain message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MissingData(RuntimeError):
    """A data set or tokenizer that is not on this machine and cannot be had. The message says how to get it."""


class UnknownData(ValueError):
    """A name that no data set has. The message names the nearest ones."""

    def __init__(self, name: str, valid: Iterable[str]) -> None:
        valid = list(valid)
        near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5) or valid
        super().__init__(f"unknown data set {name!r}; valid: {', '.join(near)}")
