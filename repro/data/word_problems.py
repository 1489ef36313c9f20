"""Procedural word problems with worked solutions; stands in for MetaMathQA at laptop scale.

An item is a chain of three or four operations modulo 7, told three times in different words (MetaMathQA, too, holds
several rephrasings of each problem). Every telling asks for one of three kinds of solution:

- ``steps`` writes every intermediate value: one table lookup at each ``=``;
- ``pairs`` writes every second one: two chained lookups at ``=``;
- ``direct`` gives the answer at once: three or four chained lookups.

A value that is not written down has to be computed inside one position, where attention to earlier tokens cannot help
any more: only what happens between the layers, and between the passes of a layer, can. `Batch.answers` holds that
number of operations for every computed token, so that the loss can be told apart by it.

The wording is terse, the modulus small and the rows are packed without padding, so that computed values are a
fifteenth of all tokens: with longer texts and modulus 11 a small model stayed at chance on them for as long as a
laptop trains, and the data said nothing about computing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
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
ITEMS, HELD_OUT_ITEMS = 16_000, 500
OPERATIONS = (3, 4)
STYLES = ("steps", "pairs", "direct")


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
#: Per wording: how each operation is told, and the frame around the operations.
PHRASES = (
    {"+": "finds {c}", "-": "loses {c}", "*": "times {c}"},
    {"+": "add {c}", "-": "subtract {c}", "*": "multiply {c}"},
    {"+": "up {c}", "-": "down {c}", "*": "scaled {c}"},
)
FRAMES = (
    ("{name} has {x} {things} ,", " , ", ". left ?"),
    ("start {x} :", " , ", "?"),
    ("{x} {things}", " then ", "?"),
)
CUES = {"steps": "steps", "pairs": "pairs", "direct": "direct"}


@dataclass(frozen=True)
class Problem:
    """A chain: ``start``, then operators (``+ - *``) with their operands, left to right, modulo ``modulus``."""

    start: int
    operators: tuple[str, ...]
    operands: tuple[int, ...]
    modulus: int

    def values(self) -> list[int]:
        """The start and the value after every operation."""
        values = [self.start]
        for operator, operand in zip(self.operators, self.operands, strict=True):
            last = values[-1]
            raw = last + operand if operator == "+" else last - operand if operator == "-" else last * operand
            values.append(raw % self.modulus)
        return values

    def query(self, wording: int, style: str, name: str, things: str) -> str:
        opening, joint, closing = FRAMES[wording]
        told = [PHRASES[wording][o].format(c=c) for o, c in zip(self.operators, self.operands, strict=True)]
        text = f"{opening} {joint.join(told)} {closing} {CUES[style]}"
        return " ".join(text.format(name=name, things=things, x=self.start).split())

    def response(self, style: str) -> tuple[str, list[int]]:
        """The solution, and for each of its words the number of operations that it needs (0: none)."""
        values = self.values()
        words: list[str] = []
        marks: list[int] = []
        stride = {"steps": 1, "pairs": 2, "direct": len(self.operators)}[style]
        if style != "direct":
            for at in range(0, len(self.operators), stride):
                upto = min(at + stride, len(self.operators))
                line = [str(values[at]), self.operators[at], str(self.operands[at])]
                if upto - at == 2:
                    line = ["(", *line, ")", self.operators[at + 1], str(self.operands[at + 1])]
                words += [*line, "=", str(values[upto]), ";"]
                marks += [*[0] * (len(line) + 1), upto - at, 0]
        words += ["answer", str(values[-1])]
        # After written-out steps the answer is a copy of the last value.
        marks += [0, stride if style == "direct" else 0]
        return " ".join(words), marks


def vocabulary(modulus: int = MODULUS) -> list[str]:
    """All words that problems and solutions are made of: numbers first, then the rest in alphabetical order."""
    numbers = [str(n) for n in range(modulus + 1)]
    words = {*_words("query: response: answer + - * = ; ( )"), *NAMES, *THINGS}
    for texts in (*(p.values() for p in PHRASES), *FRAMES, CUES.values()):
        words |= {word for text in texts for word in text.split() if not word.startswith("{")}
    return numbers + sorted(words)


def problems(count: int, modulus: int, seed: int) -> Iterator[Problem]:
    """``count`` distinct chains, as many of each length in `OPERATIONS`, in random order.

    Raises ValueError when they would take more than four fifths of the shortest chains that the modulus allows.
    """
    shortest = modulus * (3 * modulus - 4) ** OPERATIONS[0]
    most = len(OPERATIONS) * 4 * shortest // 5
    if count > most:
        raise ValueError(f"at most {most} items with modulus {modulus}, not {count}")
    draw = random.Random(f"word problems/{modulus}/{seed}")
    choices = [(o, c) for o in "+-*" for c in range(2 if o == "*" else 1, modulus)]
    seen: set[Problem] = set()
    while len(seen) < count:
        steps = draw.choices(choices, k=OPERATIONS[len(seen) % len(OPERATIONS)])
        made = Problem(draw.randrange(modulus), tuple(o for o, _ in steps), tuple(c for _, c in steps), modulus)
        if made not in seen:
            seen.add(made)
            yield made


def rows(items: int, modulus: int = MODULUS, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Three tellings of every item, as mappings: ``query``, ``response``, ``answer`` and the facts behind them."""
    draw = random.Random(f"tellings/{modulus}/{seed}")
    for item, problem in enumerate(problems(items, modulus, seed)):
        name, things = draw.choice(NAMES), draw.choice(THINGS)
        for wording in range(len(FRAMES)):
            style = draw.choice(STYLES)
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
                "operators": list(problem.operators),
                "operands": list(problem.operands),
                "modulus": modulus,
            }


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

    ``packed`` lays them end to end in rows of ``sequence + 1`` words; otherwise each has a padded row of its own.

    Whole *items* are held out, with all their tellings: a chain of operations that is asked about there occurs in no
    training row in any wording. (MetaMathQA's random split, in contrast, leaves rephrasings of the same problem on both
    sides.) ``limit``: number of training items (16,000 by default), three texts each. ``seed`` is the seed of the data,
    not of a run. Padded rows longer than ``sequence + 1`` words are cut; the longest has 52.

    Raises ValueError for more items than there are distinct problems.
    """
    items = ITEMS if limit is None else limit
    identity = {"items": items + held_out, "modulus": modulus, "seed": seed}
    table = cached("word-problems", identity, __name__, lambda: _build(**identity))
    tokenizer = word_tokenizer(vocabulary(modulus))
    cut = 3 * items
    ids, marks, lengths = (column(table, name) for name in ("ids", "id_marks", "length"))
    width = min(sequence + 1, int(lengths.max()))
    ends = np.cumsum(lengths)
    border = int(ends[cut - 1])

    def split(rows: slice, stream: slice) -> TokenRows:
        words, answers = (
            torch.from_numpy(ids[stream].astype(np.int16)),
            torch.from_numpy(marks[stream].astype(np.uint8)),
        )
        if packed:
            return TokenRows(words, sequence, answers)
        return TokenRows(
            words,
            width - 1,
            answers,
            torch.from_numpy((ends - lengths)[rows] - stream.start),
            torch.from_numpy(lengths[rows]),
        )

    return LanguageData(
        name="word-problems",
        train=split(slice(0, cut), slice(0, border)),
        held_out=split(slice(cut, None), slice(border, None)),
        tokenizer=tokenizer,
        source="generated",
        description=f"{items:,} templated problems of 3 or 4 operations modulo {modulus}, three wordings each, with "
        f"solutions that write every value, every second one, or the answer only; {held_out} other problems held out.",
        details={"items": items, "held_out_items": held_out, "modulus": modulus, "data_seed": seed, "packed": packed},
        held_out_items=table.select(range(cut, len(table))).remove_columns(["ids", "id_marks", "length"]).to_list(),
    )


def _build(items: int, modulus: int, seed: int) -> Dataset:
    from datasets import Dataset

    index = {word: at for at, word in enumerate(("<pad>", "<eos>", "<unk>", *vocabulary(modulus)))}
    columns: dict[str, list[Any]] = {}
    for row in rows(items, modulus, seed):
        query = row["query"].split()
        row["ids"] = [index[word] for word in ("query:", *query, "response:", *row["response"].split(), "<eos>")]
        row["id_marks"] = [*[0] * (len(query) + 2), *row["marks"], 0]
        row["length"] = len(row["ids"])
        for key, value in row.items():
            columns.setdefault(key, []).append(value)
    return Dataset.from_dict(columns)
