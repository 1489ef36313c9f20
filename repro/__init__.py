"""Papers' claims as experiments that run: the shared library. Importing it imports no torch."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["reproduce", "results"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from repro import api

        return getattr(api, name)
    raise AttributeError(f"module 'repro' has no attribute {name!r}")
