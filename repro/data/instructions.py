"""Instruction and response, one row each, with the loss on the response only: supervised fine-tuning.

``stdlib-instructions`` is made from the functions of Python's standard library. Each one that has a docstring gives
three rows:

    ### Document            ### Parameters          ### Call
    def add(one, two=2):    def add(one, two=2):    def add(one, two=2):
    ### Response            ### Response            ### Response
    Return the sum.         one, two                add(one, two)

The response to *Document* (the first line of the docstring) is open, the others follow from the instruction. So
`Batch.answers` is 1 on open responses and 2 on determined ones, and losses and accuracies come apart by that number
(``answer_loss_ops1``, ``answer_loss_ops2``). Whether a whole determined response is right needs no judge:
`repro.evaluation.responses.exact_match`.
"""

from __future__ import annotations

import ast
import platform
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from repro.data.base import IGNORED, Batch, LanguageData, TokenRows, order_seed
from repro.data.cache import cached, column
from repro.data.hub import Source, load_split
from repro.data.stdlib_text import sources, split, stdlib_tokenizer
from repro.data.text import Document, tokenise, tokenizer_fingerprint
from repro.data.tokenizers import load_tokenizer
from repro.records.provenance import run_key

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

OPEN, DETERMINED = 1, 2
#: Longest signature and first line of a docstring, in characters.
LONGEST = 120

ALPACA_GPT4 = Source(
    "alpaca-gpt4", "vicgalle/alpaca-gpt4", None, ("instruction", "input", "output"), "alpaca_gpt4_data.json"
)
ALPACA_HELD_OUT = 1000


class ResponseRows(TokenRows):
    """Rows by document in which only marked tokens (``answers`` above 0) count in the loss."""

    def take(self, indices: Tensor) -> Batch:
        """The rows ``indices`` (LongTensor [batch]) as a batch; targets that are not marked are -100."""
        batch = super().take(indices)
        return batch._replace(targets=batch.targets.masked_fill(batch.answers == 0, IGNORED))


class Instruction(NamedTuple):
    """A row before tokenisation; ``kind`` is `OPEN` or `DETERMINED`."""

    prompt: str
    response: str
    kind: int


def response_rows(
    rows: Iterable[Instruction], tokenizer: PreTrainedTokenizerFast, sequence: int, *, name: str, identity: Any,
    module: str = __name__,
) -> ResponseRows:  # fmt: skip
    """Rows of a set of instructions: prompt, response, end-of-document token; the loss counts on the last two.

    A row longer than ``sequence + 1`` tokens is cut; one whose response is cut off whole is left out. ``name``,
    ``identity``: of the cache entry. Raises ValueError when no row is left.
    """
    kinds: list[int] = []

    def documents() -> Iterator[Document]:
        for row in rows:
            kinds.append(row.kind)
            yield row.prompt + row.response, (len(row.prompt), len(row.prompt) + len(row.response))

    def build() -> Dataset:
        table = tokenise(documents(), tokenizer, longest=sequence + 1)
        return table.add_column("kind", kinds)  # type: ignore[call-arg]

    which = {"of": identity, "longest": sequence + 1, "tokenizer": tokenizer_fingerprint(tokenizer)}
    table = cached(name, which, module, build)
    ids, marks = column(table, "ids"), column(table, "id_marks").copy()
    lengths = column(table, "length").astype(np.int64)
    starts = lengths.cumsum() - lengths
    last = starts + lengths - 1
    ended = ids[last] == tokenizer.eos_token_id
    marks[last[ended]] = 1  # to stop is part of the response
    answered = np.add.reduceat(marks.astype(np.int64), starts) - marks[starts] > 0
    marks *= np.repeat(column(table, "kind").astype(np.uint8), lengths)
    kind = np.int16 if len(tokenizer) < 2**15 else np.int32
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return ResponseRows(
        torch.from_numpy(ids.astype(kind, copy=False)),
        min(sequence, int(lengths.max()) - 1),
        torch.from_numpy(marks),
        torch.from_numpy(starts[answered]),
        torch.from_numpy(lengths[answered]),
        pad,
    )


# --- the standard library -------------------------------------------------------------------------------------


def instructions_of(source: str, first: int = 0, last: int | None = None) -> list[Instruction]:
    """The instructions that the functions of a source give, those whose ``def`` stands on a line after ``first`` and
    that end by line ``last``. A source that Python cannot parse gives none."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if node.lineno <= first or (last is not None and (node.end_lineno or node.lineno) > last):
            continue
        signature = f"def {node.name}({ast.unparse(node.args)}):"
        told = (ast.get_docstring(node) or "").partition("\n")[0].strip()
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        names = [name for name in names if name not in ("self", "cls")]
        if not told or not names or max(len(signature), len(told)) > LONGEST:
            continue
        for task, response, kind in (
            ("Document", told, OPEN),
            ("Parameters", ", ".join(names), DETERMINED),
            ("Call", f"{node.name}({', '.join(names)})", DETERMINED),
        ):
            found.append(Instruction(f"### {task}\n{signature}\n### Response\n", response, kind))
    return found


def stdlib_instructions(sequence: int, *, limit: int | None = None, root: Path | None = None) -> LanguageData:
    """Instructions from the functions of the standard library, in the tokens of ``stdlib-bpe``; one row each.

    Held out are functions in the last 5 % of every file, the part that ``stdlib-bpe`` holds out as well: a model that
    was pretrained on that set has not read them. Of these, rows that training has word for word are left out.
    ``limit``: read that many files only. Raises MissingData when this Python has no sources beside it.
    """
    texts = sources(root, limit)
    tokenizer = stdlib_tokenizer(root=root, limit=limit)
    train: list[Instruction] = []
    held_out: list[Instruction] = []
    for text in texts:
        line = split(text)[0].count("\n")
        train += instructions_of(text, last=line)
        held_out += instructions_of(text, first=line)
    known = set(train)
    held_out = [row for row in held_out if row not in known]

    def rows(part: list[Instruction]) -> ResponseRows:
        identity = run_key({"rows": [list(row) for row in part]})
        return response_rows(part, tokenizer, sequence, name="stdlib-instructions", identity=identity)

    return LanguageData(
        name="stdlib-instructions",
        train=rows(train),
        held_out=rows(held_out),
        tokenizer=tokenizer,
        source="bundled",
        description=f"Instructions about the documented functions of {len(texts)} source files of Python "
        f"{platform.python_version()}'s standard library; the loss counts on responses; functions in the last 5 % of "
        "every file are held out.",
        details={"files": len(texts), "python": platform.python_version()},
    )


# --- the paper's kind of data ---------------------------------------------------------------------------------


def alpaca_prompt(instruction: str, given: str) -> str:
    """The prompt of Stanford Alpaca, with and without a further input."""
    if given:
        head = "an instruction that describes a task, paired with an input that provides further context. "
        middle = f"### Instruction:\n{instruction}\n\n### Input:\n{given}"
    else:
        head = "an instruction that describes a task. "
        middle = f"### Instruction:\n{instruction}"
    return f"Below is {head}Write a response that appropriately completes the request.\n\n{middle}\n\n### Response:\n"


def alpaca_gpt4(
    sequence: int,
    *,
    seed: int = 0,
    limit: int | None = None,
    tokenizer: str = "meta-llama/Llama-2-7b-hf",
    revision: str | None = None,
    held_out: int = ALPACA_HELD_OUT,
) -> LanguageData:
    """Alpaca-GPT4 (Peng et al., 2023): 52,000 instructions with responses of GPT-4, in Alpaca's prompt; one row each.

    ``held_out`` rows are held out by a shuffle with ``seed``. ``limit``: number of training rows. Raises MissingData,
    and ValueError when there are not enough rows.
    """
    found, identity = load_split(ALPACA_GPT4, "train", revision=revision, any_file=True)
    table = cast("Dataset", found)
    if len(table) <= held_out:
        raise ValueError(f"{len(table)} rows do not leave any for training when {held_out} are held out")
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(order_seed("held-out rows", seed)))
    out, kept = order[:held_out], order[held_out:][:limit].sort().values
    cutter = load_tokenizer(tokenizer)

    def rows(chosen: Tensor, part: str) -> ResponseRows:
        def instructions() -> Iterator[Instruction]:
            for row in cast("Iterable[Mapping[str, Any]]", table.select(chosen.tolist())):
                yield Instruction(alpaca_prompt(row["instruction"], row["input"] or ""), row["output"], OPEN)

        which = {"of": identity, "part": part, "held_out": held_out, "limit": limit, "seed": seed}
        return response_rows(instructions(), cutter, sequence, name="alpaca-gpt4", identity=which)

    return LanguageData(
        name="alpaca-gpt4",
        train=rows(kept, "train"),
        held_out=rows(out, "held-out"),
        tokenizer=cutter,
        source="real",
        description=f"Alpaca-GPT4, {len(kept):,} rows for training and {held_out:,} held out; the loss counts on "
        f"responses; tokenizer {tokenizer}.",
        details={"tokenizer": tokenizer, "data_seed": seed, "limit": limit},
    )
