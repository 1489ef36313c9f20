"""Compositions of random functions on a small token set: every input of the domain, its bridge values, what is trained.

A *hop* is one primitive function, a table of i.i.d. uniform values; a task chains hops, and the value of a hop that
is not the last is a *bridge*:

    two-hop           t = f2(f1(x1, x2), x3)
    parallel-two-hop  t = f3(f1(x1, x2), f2(x3, x4))
    three-hop         t = f3(f2(f1(x1, x2), x3), x4)
    non-tree          t = f2(f1(x1, x2), x2, x3)          x2 acts on two paths

A share of every primitive's domain is allowed in training; the training set is drawn from the combinations whose
primitives are all allowed. An input then has a *type*, a bit for each hop whose primitive occurs in no training row:
type 0 is the unseen combination of seen primitives, which follows from the training data if anything does; the other
types need a table entry that was never shown.

Under one seed, tasks share the tables of hops of equal position and arity (f1 is one function in all tasks), and a
larger training set holds a smaller one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from repro.data.base import IGNORED, Batch, LanguageData, TokenRows, order_seed
from repro.data.tokenizers import word_tokenizer

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Thought = Literal["none", "bridges", "constant"]
THOUGHTS = ("none", "bridges", "constant")
#: The word that stands in for every bridge when the written-out steps are ``constant``.
BLANK = "_"


class Task(NamedTuple):
    """``hops[i]``: the columns that primitive i reads. Columns are the inputs, then the value of every hop in turn."""

    inputs: int
    hops: tuple[tuple[int, ...], ...]


TASKS = {
    "two-hop": Task(3, ((0, 1), (3, 2))),
    "parallel-two-hop": Task(4, ((0, 1), (2, 3), (4, 5))),
    "three-hop": Task(4, ((0, 1), (4, 2), (5, 3))),
    "non-tree": Task(3, ((0, 1), (3, 1, 2))),
}


@dataclass(frozen=True, eq=False)
class MultiHop:
    """A task with its functions and its training set.

    Attributes:
        task: a name in `TASKS`.
        size: n, the number of tokens; every column takes values in ``range(n)``.
        tables: per hop, its values [n] * arity.
        seen: per hop, which table entries the training set uses; same shapes.
        domain: every input, [n^m, m], in lexicographic order.
        columns: the same with the value of every hop behind it, [n^m, m + hops]; the last one is the target.
        train: rows of the domain that are trained on, [N], in the order of drawing.
        types: type of every input, [n^m]: bit i is set where the entry of hop i is not in ``seen``. Training rows are
            of type 0 as well.
        pool: rows of the domain all of whose primitives training may use, in the order of drawing.
        entries: per hop, the flat table entry that every input of the domain reads, [n^m].
    """

    task: str
    size: int
    tables: tuple[Ints, ...]
    seen: tuple[Bools, ...]
    domain: Ints
    columns: Ints
    train: Ints
    types: Ints
    pool: Ints
    entries: tuple[Ints, ...]

    def with_rows(self, rows: int) -> MultiHop:
        """The same functions with the first ``rows`` of the pool as training set (0: all of it).

        Raises ValueError when the pool is smaller.
        """
        if rows > len(self.pool):
            raise ValueError(
                f"{self.task}: {rows} rows asked for, {len(self.pool)} combinations have seen primitives only"
            )
        train = self.pool[: rows or None]
        used, types = [], np.zeros(len(self.domain), np.int64)
        for i, (table, read) in enumerate(zip(self.tables, self.entries, strict=True)):
            mark = np.zeros(table.size, bool)
            mark[read[train]] = True
            types += (~mark[read]).astype(np.int64) << i
            used.append(mark.reshape(table.shape))
        return replace(self, seen=tuple(used), train=train, types=types)

    @property
    def arity(self) -> int:
        """m, the number of inputs."""
        return TASKS[self.task].inputs

    @property
    def targets(self) -> Ints:
        """t of every input of the domain, [n^m]."""
        return self.columns[:, -1]

    @property
    def bridges(self) -> Ints:
        """Values of the hops before the last, [n^m, hops - 1]."""
        return self.columns[:, self.arity : -1]

    def of_type(self, kind: int, limit: int = 0, seed: int = 0) -> Ints:
        """Rows of the domain of a type, training rows left out; a random ``limit`` of them unless 0."""
        found = self.types == kind
        found[self.train] = False
        rows = np.flatnonzero(found)
        if 0 < limit < len(rows):
            rows = np.sort(_generator(f"multi-hop tests {kind}", seed).choice(rows, limit, replace=False))
        return rows

    def tokens(self, rows: Ints, thought: Thought = "none") -> tuple[Ints, int]:
        """Rows of the domain as tokens, and how many of them are the prompt.

        One token a symbol, ids as in `tokenizer`: the inputs, with ``bridges`` the bridge values in the order of the
        hops, with ``constant`` the blank in place of each, and the target. LongTensor-like [rows, m + steps + 1].

        Raises ValueError for an unknown kind of thought.
        """
        if thought not in THOUGHTS:
            raise ValueError(f"thought is one of {', '.join(THOUGHTS)}, not {thought!r}")
        chosen = self.columns[rows]
        kept = [chosen[:, : self.arity]]
        if thought != "none":
            steps = chosen[:, self.arity : -1]
            kept.append(steps if thought == "bridges" else np.full_like(steps, self.size))
        return np.concatenate([*kept, chosen[:, -1:]], axis=1) + SPECIAL, self.arity

    def language(self, thought: Thought = "none") -> LanguageData:
        """As language data: held out are all unseen combinations of type 0; the loss counts after the prompt.

        The closing token of the published format counts in no loss and comes last, so that it changes nothing; it is
        left out.
        """
        held_out = self.of_type(0)
        if not len(held_out):
            raise ValueError(f"{self.task}: {len(self.train)} training rows leave no unseen combination")
        operations = 1 if thought == "bridges" else len(self.tables)
        return LanguageData(
            name=self.task,
            train=answer_rows(*self.tokens(self.train, thought), operations),
            held_out=answer_rows(*self.tokens(held_out, thought), operations),
            tokenizer=tokenizer(self.size),
            source="generated",
            description=f"{self.task}: random functions on {self.size} tokens, {len(self.train):,} combinations of "
            f"primitives in training; held out are {len(held_out):,} unseen combinations of seen primitives.",
            details={"size": self.size, "thought": thought},
        )


#: Ids of symbols start behind the three special tokens of `repro.data.tokenizers.word_tokenizer`.
SPECIAL = 3


def tokenizer(size: int):  # type: ignore[no-untyped-def]
    """Words ``0`` to ``n-1`` and the blank, behind the special tokens: symbol v has id ``SPECIAL + v``."""
    return word_tokenizer([*map(str, range(size)), BLANK])


@dataclass(frozen=True, eq=False)
class AnswerRows(TokenRows):
    """Rows of which the first ``prompt`` tokens count in no loss."""

    prompt: int = 1

    def take(self, indices: torch.Tensor) -> Batch:
        """The rows ``indices`` (LongTensor [batch]) as a batch; targets inside the prompt are -100."""
        batch = super().take(indices)
        batch.targets[:, : self.prompt - 1] = IGNORED
        return batch


def answer_rows(tokens: Ints, prompt: int, operations: int = 1) -> AnswerRows:
    """Rows of equal length, [rows, length], whose loss begins behind ``prompt`` tokens; `Batch.answers` holds
    ``operations`` there."""
    rows, length = tokens.shape
    marks = np.zeros((rows, length), np.uint8)
    marks[:, prompt:] = operations
    return AnswerRows(
        torch.from_numpy(tokens.reshape(-1).copy()),
        length - 1,
        torch.from_numpy(marks.reshape(-1)),
        torch.arange(rows) * length,
        torch.full((rows,), length),
        prompt=prompt,
    )


def multi_hop(
    task: str, size: int, rows: int, seed: int = 0, *, seen: float = 0.7,
    last: Literal["random", "addition"] = "random",
    spread: float = 0.0,
) -> MultiHop:  # fmt: skip
    """Draw a task's functions and its training set.

    Args:
        task: a name in `TASKS`.
        size: n.
        rows: N, training rows, drawn without replacement; 0 takes all there are.
        seed: of the functions and the draw.
        seen: share of every primitive's domain that training may use.
        last: ``random``, or ``addition`` for a last hop that adds what it reads modulo n: a function with a structure
            that can be found beyond what is shown.
        spread: 0 draws training rows uniformly. Otherwise every entry of the first hop has a weight of its own,
            log-normal with this standard deviation, so that one training set shows some fragments in nearly all
            contexts and others in few.

    Raises:
        ValueError: for an unknown task or last hop, or more rows than there are combinations of seen primitives.
    """
    if task not in TASKS:
        raise ValueError(f"task is one of {', '.join(TASKS)}, not {task!r}")
    if last not in ("random", "addition"):
        raise ValueError(f"last hop is random or addition, not {last!r}")
    inputs, hops = TASKS[task]
    domain = np.indices((size,) * inputs).reshape(inputs, -1).T
    columns = list(domain.T)
    tables, allowed, entries = [], [], []
    for i, reads in enumerate(hops):
        table, mask = _primitive(i, len(reads), size, seed, seen)
        if last == "addition" and i == len(hops) - 1:
            table = np.indices(table.shape).sum(0) % size
        read = np.ravel_multi_index([columns[c] for c in reads], table.shape)
        columns.append(table.ravel()[read])
        tables.append(table)
        allowed.append(mask)
        entries.append(read)
    ready = np.logical_and.reduce([mask.ravel()[read] for mask, read in zip(allowed, entries, strict=True)])
    pool = _generator("multi-hop rows", seed).permutation(np.flatnonzero(ready))
    if spread:  # weighted draw without replacement: Efraimidis and Spirakis (2006)
        weight = np.exp(spread * _generator("multi-hop weights", seed).normal(size=tables[0].size))[entries[0][pool]]
        pool = pool[np.argsort(_generator("multi-hop draw", seed).exponential(size=len(pool)) / weight)]
    nothing = np.empty(0, np.int64)
    drawn = MultiHop(
        task, size, tuple(tables), (), domain, np.stack(columns, 1), nothing, nothing, pool, tuple(entries)
    )
    return drawn.with_rows(rows)


def _primitive(position: int, arity: int, size: int, seed: int, seen: float) -> tuple[Ints, Bools]:
    """Table of a hop and the part of its domain that training may use: a fixed number of entries."""
    name = f"multi-hop {position} {arity} {size}"
    table = _generator(f"{name} table", seed).integers(size, size=(size,) * arity)
    mask = np.zeros(table.size, bool)
    mask[_generator(f"{name} seen", seed).permutation(table.size)[: round(seen * table.size)]] = True
    return table, mask.reshape(table.shape)


def _generator(purpose: str, seed: int) -> np.random.Generator:
    return np.random.default_rng(order_seed(purpose, seed))


def _language(
    task: str, sequence: int = 0, limit: int | None = None, seed: int = 0, *, size: int = 16, thought: Thought = "none"
) -> LanguageData:
    return multi_hop(task, size, 1000 if limit is None else limit, seed).language(thought)


two_hop = functools.partial(_language, "two-hop")
parallel_two_hop = functools.partial(_language, "parallel-two-hop")
three_hop = functools.partial(_language, "three-hop")
non_tree = functools.partial(_language, "non-tree")
