"""Functions of source code as tokens: for search by description, detection of clones, and analysis of encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from repro.data.base import epochs, fingerprint

SPLITS = ("train", "validation", "test")


class Ragged(NamedTuple):
    """Rows of different length, one after another: ``values`` [total], ``lengths`` LongTensor [rows]."""

    values: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Ragged:
        """From lists of integers; stored in 32 bits."""
        flat = np.fromiter((value for row in rows for value in row), np.int32)
        return cls(torch.from_numpy(flat), torch.tensor([len(row) for row in rows], dtype=torch.long))

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, indices: Tensor, length: int, fill: int) -> Tensor:
        """The rows ``indices`` as LongTensor [B, length], cut or filled up with ``fill``."""
        place = torch.arange(length)
        starts = (self.lengths.cumsum(0) - self.lengths)[indices][:, None]
        real = place < self.lengths[indices][:, None]
        at = (starts + place).clamp(max=max(0, len(self.values) - 1))
        return torch.where(real, self.values[at].long(), fill)


class Pairs(NamedTuple):
    """Pairs of rows of `CodeData.code`: LongTensors [pairs]; ``labels`` 1 for clones, else 0."""

    left: Tensor
    right: Tensor
    labels: Tensor


class Names(NamedTuple):
    """Names to be told from the code before them: LongTensors [names]; ``rows`` of `CodeData.code`, ``places`` of the
    name's first token in its row."""

    rows: Tensor
    places: Tensor


@dataclass(frozen=True)
class Analysis:
    """What is known about every function beside its text; rows as in `CodeData.functions`.

    Attributes:
        classes: lexical class of every token of ``code``, as `repro.data.stdlib_functions.CLASSES`; -100 where it has
            none.
        tree: the syntax tree in depth-first order with the terminals' values left out.
        twins: rows of ``code`` that are clones of a function, LongTensor [functions, twins].
        complexity: cyclomatic complexity, LongTensor [functions].
    """

    classes: Ragged
    tree: Ragged
    twins: Tensor
    complexity: Tensor


@dataclass(frozen=True, eq=False)
class CodeData:
    """Functions in three splits, tokenised. Rows hold no begin or end mark; `batch` puts ``first`` and ``last`` around.

    Attributes:
        code: functions without their docstrings; what more a task needs (clones) stands behind them.
        summary: their descriptions in the same tokens, empty where there is none.
        functions: of each split, rows of ``code``.
        documented: those of them that have a summary.
        pairs: of each split; empty where the data have no clones.
        names: of each split; empty where none are known.
        vocab_size: number of tokens. ``pad``, ``mask``: their ids.
        first, last: ids before and after every row.
        analysis: None where it is not known.
    """

    name: str
    code: Ragged
    summary: Ragged
    functions: Mapping[str, Tensor]
    documented: Mapping[str, Tensor]
    pairs: Mapping[str, Pairs]
    vocab_size: int
    pad: int
    mask: int
    first: tuple[int, ...]
    last: tuple[int, ...]
    source: str
    description: str
    analysis: Analysis | None = None
    names: Mapping[str, Names] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            parts = [*self.code, *self.summary, *self.functions.values()]
            parts += [part for kind in (self.pairs, self.names) for found in kind.values() for part in found]
            object.__setattr__(self, "fingerprint", fingerprint(*parts))

    def batch(self, rows: Ragged, indices: Tensor, length: int) -> Tensor:
        """Token ids LongTensor [B, length] of rows of ``code``, ``summary`` or a tree, with ``first`` before and
        ``last`` behind, the text cut so that all fits, then ``pad``. Raises ValueError when nothing fits."""
        room = length - len(self.first) - len(self.last)
        if room < 1:
            raise ValueError(f"{length} tokens leave no room for text")
        text = rows.take(indices, room, self.pad)
        out = torch.full((len(indices), length), self.pad)
        out[:, : len(self.first)] = torch.tensor(self.first)
        out[:, len(self.first) : len(self.first) + room] = text
        ends = len(self.first) + rows.lengths[indices].clamp(max=room)
        for step, token in enumerate(self.last):
            out[torch.arange(len(indices)), ends + step] = token
        return out

    def token_classes(self, indices: Tensor, length: int) -> Tensor:
        """Lexical classes LongTensor [B, length] at the positions of `batch`, -100 elsewhere. Raises ValueError when
        they are not known."""
        if self.analysis is None:
            raise ValueError(f"the tokens of {self.name} have no lexical classes")
        room = length - len(self.first) - len(self.last)
        out = torch.full((len(indices), length), -100)
        out[:, len(self.first) : len(self.first) + room] = self.analysis.classes.take(indices, room, -100)
        return out

    def order(self, split: str, task: str, steps: int, batch: int, seed: int) -> Tensor:
        """Indices into a split's ``documented``, ``functions``, ``pairs`` or ``names`` (the task), LongTensor
        [steps, batch]: each epoch a fresh shuffle, the same for every arm of a seed. Raises ValueError for an empty
        split."""
        found = getattr(self, task).get(split, ())
        rows = len(found[0]) if task in ("pairs", "names") and found else len(found)
        if not rows:
            raise ValueError(f"{self.name} has no {task} for {split}")
        return epochs(rows, steps, batch, seed, f"data order {task}")

    def describe(self) -> dict[str, Any]:
        """What a record keeps about its data; JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            **{f"{split}_functions": len(self.functions[split]) for split in SPLITS},
            **{f"{split}_documented": len(self.documented[split]) for split in SPLITS},
            "vocab_size": self.vocab_size,
            **self.details,
        }
