"""Bad input, said in one line that names the nearest valid choices."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from repro.claims import Paper

#: Lists up to this long are printed whole.
SHORT = 24


class BadInput(ValueError):
    """What the user typed cannot be used. The message is one line, ready to print."""


def nearest(given: str, choices: Iterable[str]) -> str:
    """``did you mean ...?`` and the choices, the latter only when they are few."""
    names = list(dict.fromkeys(choices))
    lower = {name.lower(): name for name in reversed(names)}
    close = [lower[key] for key in difflib.get_close_matches(given.lower(), lower, n=3, cutoff=0.5)]
    parts = [f"did you mean {' or '.join(close)}?"] if close else []
    if not names:
        parts.append("there are none")
    elif len(names) <= SHORT:
        parts.append("choices: " + ", ".join(names))
    elif not close:
        parts.append(f"{len(names)} choices, among them " + ", ".join(names[:SHORT]))
    return " ".join(parts)


def pick(kind: str, given: str, choices: Iterable[str]) -> str:
    """``given``, when it is one of the choices. Raises BadInput."""
    names = list(choices)
    if given not in names:
        raise BadInput(f"unknown {kind} {given!r}; {nearest(given, names)}")
    return given


def pick_all(kind: str, given: str | None, choices: Sequence[str]) -> tuple[str, ...]:
    """The names in a comma-separated list, each one of the choices. Raises BadInput."""
    if given is None:
        return ()
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise BadInput(f"no {kind} named; {nearest('', choices)}")
    return tuple(dict.fromkeys(pick(kind, name, choices) for name in names))


_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def parse_overrides(paper: Paper, given: Sequence[str]) -> dict[str, Any]:
    """``key=value`` pairs, typed as the fields of the paper's configuration. Raises BadInput."""
    types = typing.get_type_hints(paper.config)
    names = [f.name for f in fields(paper.config)]
    out: dict[str, Any] = {}
    for pair in given:
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise BadInput(f"--set takes key=value, not {pair!r}")
        if key not in names:
            raise BadInput(f"{paper.slug} has no option {key!r}; {nearest(key, names)}")
        out[key] = _typed(key, text.strip(), types[key])
    return out


def _typed(key: str, text: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return _BOOLEANS[text.lower()]
        if kind is int and abs(int(text)) < 2**63:
            return int(text)
        if kind is float:
            return float(text)
        if kind is str:
            return text
    except (ValueError, KeyError):
        raise BadInput(f"option {key!r} is of type {kind.__name__}; {text!r} is not") from None
    if kind is int:
        raise BadInput(f"option {key!r} is a number of 64 bits; {text!r} is larger")
    raise BadInput(f"option {key!r} is of type {kind} and cannot be set on the command line")
