"""Procedural word problems with worked solutions; stands in for MetaMathQA at laptop scale.

An item is a chain of three to five operations modulo 7, told three times in different words (MetaMathQA, too, holds
several rephrasings of each problem). Every telling asks for one of three kinds of solution:

- ``steps`` writes every intermediate value: one table lookup at each ``=``;
- ``pairs`` writes every second one: two chained lookups at ``=``;
- ``direct`` gives the answer at once: three to five chained lookups.

A value that is not written down has to be computed inside one position, where attention to earlier tokens cannot help
any more: only what happens between the layers, and between the passes of a layer, can. `Batch.answers` holds that
number of operations for every computed token, so that the loss can be told apart by it.

An operation is one word and there are five of them, 35 facts in all: a decoder of two layers, started with weights of
standard deviation 0.125, learns the single lookups within 600 steps of 1,024 words and chains of two within 1,200.
Operations spelled as verb and number stay at chance for as long as a laptop trains, and so does any of this with the
usual start of 0.02. Chains of three and more stay at chance here; the loss tells.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repro.data.base import LanguageData, TokenRows
from repro.data.cache import cached, column
from repro.data.tokenizers import word_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

MODULUS = 7
ITEMS, HELD_OUT_ITEMS = 8000, 400
LENGTHS = (3, 4, 5)
#: Weights by which tellings ask for each kind of solution.
STYLES = {"steps": 2, "pairs": 3, "direct": 1}
#: What an operation does to a number before it is taken modulo; permutations for every prime modulus above 3.
OPERATIONS: dict[str, Callable[[int], int]] = {
    "one-more": lambda n: n + 1,
    "two-more": lambda n: n + 2,
    "one-less": lambda n: n - 1,
    "doubled": lambda n: 2 * n,
    "tripled": lambda n: 3 * n,
}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words(
    "ada ben carla dan eva finn gina hugo ida jon kira leo mona nils olga pia quinn rosa sam tara uma vera will zoe "
    "amir bela chen dina emil fay"
)
THINGS = _words(
    "apples beads books boxes cards coins cups eggs flags hats jars keys lamps maps nuts pens rings shells stamps toys "
    "bells bricks candles dolls figs kites leaves marbles pins plates ribbons seeds stones tickets"
)
#: Per wording: what stands before, between and after the operations.
FRAMES = (
    ("{name} has {x} {things} . they get", ", then", ". how many are left ?"),
    ("start with {x} {things} . first", ", next", ". what is the result ?"),
    ("what does {name} find when {x} {things} are", "and after that", "?"),
)


@dataclass(frozen=True)
class Problem:
    """A chain: ``start``, then names of `OPERATIONS` from left to right, all modulo ``modulus``."""

    start: int
    operations: tuple[str, ...]
    modulus: int

    def values(self) -> list[int]:
        """The start and the value after every operation."""
        values = [self.start]
        for operation in self.operations:
            values.append(OPERATIONS[operation](values[-1]) % self.modulus)
        return values

    def query(self, wording: int, style: str, name: str, things: str) -> str:
        """The problem in words; its last word asks for a kind of solution."""
        opening, joint, closing = FRAMES[wording]
        told = f"{opening} {f' {joint} '.join(self.operations)} {closing} {style}"
        return told.format(name=name, things=things, x=self.start)

    def response(self, style: str) -> tuple[str, list[int]]:
        """The solution, and for each of its words the number of operations that it needs (0: none)."""
        values = self.values()
        words: list[str] = []
        marks: list[int] = []
        stride = {"steps": 1, "pairs": 2, "direct": len(self.operations)}[style]
        if style != "direct":
            for at in range(0, len(self.operations), stride):
                upto = min(at + stride, len(self.operations))
                line = [str(values[at]), *self.operations[at:upto], "="]
                words += [*line, str(values[upto]), ";"]
                marks += [*[0] * len(line), upto - at, 0]
        words += ["answer", str(values[-1])]
        # After written-out steps the answer is a copy of the last value.
        marks += [0, stride if style == "direct" else 0]
        return " ".join(words), marks


def vocabulary(modulus: int = MODULUS) -> list[str]:
    """All words that problems and solutions are made of: numbers first, then the rest in alphabetical order."""
    words = {*_words("query: response: answer = ;"), *STYLES, *OPERATIONS, *NAMES, *THINGS}
    words |= {word for frame in FRAMES for text in frame for word in text.split() if not word.startswith("{")}
    return [str(n) for n in range(modulus)] + sorted(words)


def problems(count: int, modulus: int, seed: int) -> Iterator[Problem]:
    """``count`` distinct chains of the `LENGTHS`, in random order: as many of each length, as far as half of the chains
    of that length go, and more of the longer ones otherwise.

    Raises ValueError when that is not enough.
    """
    lengths: list[int] = []
    for place, length in enumerate(LENGTHS):
        wanted = (count - len(lengths)) // (len(LENGTHS) - place)
        lengths += [length] * min(wanted, modulus * len(OPERATIONS) ** length // 2)
    if len(lengths) < count:
        raise ValueError(f"at most {len(lengths)} items with modulus {modulus}, not {count}")
    draw = random.Random(f"word problems/{modulus}/{seed}")
    draw.shuffle(lengths)
    names = list(OPERATIONS)
    seen: set[Problem] = set()
    for length in lengths:
        while (made := Problem(draw.randrange(modulus), tuple(draw.choices(names, k=length)), modulus)) in seen:
            pass
        seen.add(made)
        yield made


def rows(items: int, modulus: int = MODULUS, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Three tellings of every item, as mappings: ``query``, ``response``, ``answer`` and the facts behind them."""
    draw = random.Random(f"tellings/{modulus}/{seed}")
    for item, problem in enumerate(problems(items, modulus, seed)):
        name, things = draw.choice(NAMES), draw.choice(THINGS)
        for wording in range(len(FRAMES)):
            (style,) = draw.choices(list(STYLES), list(STYLES.values()))
            response, marks = problem.response(style)
            yield {
                "item": item,
                "wording": wording,
                "style": style,
                "query": problem.query(wording, style, name, things),
                "response": response,
                "answer": str(problem.values()[-1]),
                "marks": marks,
                "start": problem.start,
                "operations": list(problem.operations),
                "modulus": modulus,
            }


def spread(texts: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Tellings in three rounds, one of each item a round, items in random order: packed end to end, no answer stands a
    few words behind the same problem in other words, where it could be copied."""
    draw = random.Random(f"order/{seed}")
    told = len(FRAMES)
    made = []
    for turn in range(told):
        items = list(range(len(texts) // told))
        draw.shuffle(items)
        made += [texts[told * item + (item + turn) % told] for item in items]
    return made


def word_problems(
    sequence: int,
    *,
    seed: int = 0,
    limit: int | None = None,
    held_out: int = HELD_OUT_ITEMS,
    modulus: int = MODULUS,
    packed: bool = True,
) -> LanguageData:
    """Word problems as texts ``query: ... response: ... <eos>``, loss on all words.

    ``packed`` lays them end to end in rows of ``sequence + 1`` words; otherwise each has a padded row of its own, cut
    at ``sequence + 1`` words (the longest has 53).

    Whole *items* are held out, with all their tellings: a chain of operations that is asked about there occurs in no
    training text in any wording. (MetaMathQA's random split, in contrast, leaves rephrasings of the same problem on
    both sides.) ``limit``: number of training items (8,000 by default), three texts each. ``seed`` is the seed of the
    data, not of a run.

    Raises ValueError for more items than there are distinct problems.
    """
    items = ITEMS if limit is None else limit
    identity = {"items": items, "held_out": held_out, "modulus": modulus, "seed": seed}
    table = cached("word-problems", identity, __name__, lambda: _build(**identity))
    cut = len(FRAMES) * items
    ids, marks, lengths = (column(table, name) for name in ("ids", "id_marks", "length"))
    ends = np.cumsum(lengths)
    border = int(ends[cut - 1])
    width = min(sequence + 1, int(lengths.max()))

    def split(texts: slice, stream: slice) -> TokenRows:
        words = torch.from_numpy(ids[stream].astype(np.int16))
        answers = torch.from_numpy(marks[stream].astype(np.uint8))
        if packed:
            return TokenRows(words, sequence, answers)
        starts = torch.from_numpy((ends - lengths)[texts] - stream.start)
        return TokenRows(words, width - 1, answers, starts, torch.from_numpy(lengths[texts]))

    return LanguageData(
        name="word-problems",
        train=split(slice(0, cut), slice(0, border)),
        held_out=split(slice(cut, None), slice(border, None)),
        tokenizer=word_tokenizer(vocabulary(modulus)),
        source="generated",
        description=f"{items:,} templated problems of 3 to 5 operations modulo {modulus}, three wordings each, with "
        f"solutions that write every value, every second one, or the answer only; {held_out} other problems held out.",
        details={"items": items, "held_out_items": held_out, "modulus": modulus, "data_seed": seed, "packed": packed},
        held_out_items=table.select(range(cut, len(table))).remove_columns(["ids", "id_marks", "length"]).to_list(),
    )


def _build(items: int, held_out: int, modulus: int, seed: int) -> Dataset:
    from datasets import Dataset

    index = {word: at for at, word in enumerate(("<pad>", "<eos>", "<unk>", *vocabulary(modulus)))}
    texts = list(rows(items + held_out, modulus, seed))
    cut = len(FRAMES) * items
    columns: dict[str, list[Any]] = {}
    for row in (*spread(texts[:cut], seed), *spread(texts[cut:], seed)):
        query = row["query"].split()
        row["ids"] = [index[word] for word in ("query:", *query, "response:", *row["response"].split(), "<eos>")]
        row["id_marks"] = [*[0] * (len(query) + 2), *row["marks"], 0]
        row["length"] = len(row["ids"])
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return Dataset.from_dict(columns)
