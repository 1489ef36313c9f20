"""Data sets: generated, bundled with Python, and real. Importing this package imports no torch.

``load(name, ...)`` returns a `LanguageData` or a `TupleData`; both give batches through the same methods.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repro.data.base import Batch, LanguageData, TokenRows, TupleData
    from repro.data.cache import cache_dir
    from repro.data.errors import MissingData, UnknownData
    from repro.data.registry import DATA_SETS, load, load_language, load_tuples
    from repro.data.tokenizers import byte_tokenizer, load_tokenizer, word_tokenizer

_WHERE = {
    "Batch": "base",
    "LanguageData": "base",
    "TokenRows": "base",
    "TupleData": "base",
    "cache_dir": "cache",
    "MissingData": "errors",
    "UnknownData": "errors",
    "DATA_SETS": "registry",
    "load": "registry",
    "load_language": "registry",
    "load_tuples": "registry",
    "byte_tokenizer": "tokenizers",
    "load_tokenizer": "tokenizers",
    "word_tokenizer": "tokenizers",
}
__all__ = [
    "DATA_SETS",
    "Batch",
    "LanguageData",
    "MissingData",
    "TokenRows",
    "TupleData",
    "UnknownData",
    "byte_tokenizer",
    "cache_dir",
    "load",
    "load_language",
    "load_tokenizer",
    "load_tuples",
    "word_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"repro.data.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'repro.data' has no attribute {name!r}")
