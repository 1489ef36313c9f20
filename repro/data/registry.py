"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from repro.data.base import LanguageData, TupleData
from repro.data.errors import UnknownData


def _word_problems(sequence: int, **options: Any) -> LanguageData:
    from repro.data.word_problems import word_problems

    return word_problems(sequence, **options)


def _stdlib(sequence: int, *, seed: int = 0, **options: Any) -> LanguageData:
    from repro.data.stdlib import stdlib

    return stdlib(sequence, **options)


def _gsm8k(sequence: int, *, seed: int = 0, **options: Any) -> LanguageData:
    from repro.data.hub import gsm8k

    return gsm8k(sequence, **options)


def _metamath(sequence: int, **options: Any) -> LanguageData:
    from repro.data.hub import metamath

    return metamath(sequence, **options)


def _slimpajama(sequence: int, *, seed: int = 0, **options: Any) -> LanguageData:
    from repro.data.hub import slimpajama

    return slimpajama(sequence, **options)


def _composition(seed: int) -> TupleData:
    from repro.data.tuples import composition

    return composition(seed)


def _lookup(seed: int) -> TupleData:
    from repro.data.tuples import lookup

    return lookup(seed)


def _lookup_joint(seed: int) -> TupleData:
    from repro.data.tuples import lookup_joint

    return lookup_joint(seed)


_LANGUAGE: dict[str, Callable[..., LanguageData]] = {
    "word-problems": _word_problems,
    "stdlib": _stdlib,
    "gsm8k": _gsm8k,
    "metamath": _metamath,
    "slimpajama": _slimpajama,
}
_TUPLES: dict[str, Callable[[int], TupleData]] = {
    "composition": _composition,
    "lookup": _lookup,
    "lookup-joint": _lookup_joint,
}
#: Names that `load` knows.
DATA_SETS = (*_TUPLES, *_LANGUAGE)


def load(
    name: str, sequence: int = 128, *, seed: int = 0, limit: int | None = None, **options: Any
) -> LanguageData | TupleData:
    """The data set ``name`` of either kind; tuples have no use for ``sequence`` and ``limit``.

    Raises UnknownData (a ValueError) for a name that is not in `DATA_SETS`, and what the two loaders raise.
    """
    if name in _TUPLES:
        return load_tuples(name, seed=seed)
    return load_language(name, sequence, seed=seed, limit=limit, **options)


def load_language(name: str, sequence: int, *, seed: int = 0, limit: int | None = None, **options: Any) -> LanguageData:
    """A language-modelling data set with rows of ``sequence`` predictions.

    ``seed`` belongs to the data (generation or split), not to a run: arms and seeds that are compared share it.
    ``limit`` bounds the training items (word-problems, gsm8k, metamath), documents (slimpajama) or files (stdlib).
    ``options`` are those of the data set's own function (tokenizer, revision...).

    Raises UnknownData for an unknown name, MissingData for real data that is not at hand, ValueError when the data do
    not fill one row.
    """
    if name not in _LANGUAGE:
        raise UnknownData(name, _LANGUAGE)
    return _LANGUAGE[name](sequence, seed=seed, limit=limit, **options)


def load_tuples(name: str, *, seed: int = 0) -> TupleData:
    """A task on tuples of symbols. ``seed`` is the seed of the task. Raises UnknownData for an unknown name."""
    if name not in _TUPLES:
        raise UnknownData(name, _TUPLES)
    return _TUPLES[name](seed)
