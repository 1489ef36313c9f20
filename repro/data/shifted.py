"""Prose to fine-tune on that is far from what the zoo's models have read: comments and docstrings under a cipher.

A fixed substitution of half of the letters leaves lengths, spaces, punctuation and the other half as they are, so that
the text has the statistics of ``stdlib-prose`` while hardly a word is spelled as before: its subword tokens are other,
rarer and shorter ones. ``stdlib-prose`` itself is the small shift beside it.
"""

from __future__ import annotations

import platform
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repro.data.base import LanguageData, TokenRows
from repro.data.cache import cached, column
from repro.data.stdlib_text import VOCAB, prose, sources, split, stdlib_tokenizer
from repro.data.text import tokenise, tokenizer_fingerprint
from repro.records.provenance import run_key

if TYPE_CHECKING:
    from datasets import Dataset

#: Letters that change: half of the alphabet.
LETTERS = 13


def cipher(letters: int = LETTERS, seed: int = 0) -> dict[int, str]:
    """A table for `str.translate`: ``letters`` random letters, each replaced by the next of them in a random circle;
    capitals alike. None of them stays as it is; the others do. The table is a bijection.

    Raises ValueError for a number of letters that cannot be exchanged (1, or not within 0..26).
    """
    if letters == 1 or not 0 <= letters <= 26:
        raise ValueError(f"cannot exchange {letters} letters among themselves")
    circle = random.Random(f"cipher/{letters}/{seed}").sample(string.ascii_lowercase, letters)
    pairs = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    return {ord(a): b for a, b in pairs.items()} | {ord(a.upper()): b.upper() for a, b in pairs.items()}


def stdlib_cipher(
    sequence: int, *, seed: int = 0, limit: int | None = None, root: Path | None = None, letters: int = LETTERS
) -> LanguageData:
    """``stdlib-prose`` with every text under `cipher`, in the tokens of ``stdlib-bpe``.

    The same files, the same last 5 % of each held out; the bytes are as many as those of ``stdlib-prose``.
    ``seed``: of the cipher. ``limit``: read that many files only. Raises MissingData when this Python has no sources
    beside it.
    """
    tokenizer = stdlib_tokenizer(root=root, limit=limit)
    table = cipher(letters, seed)
    texts = [split(text) for text in sources(root, limit)]

    def rows(held_out: int) -> TokenRows:
        def documents() -> Iterator[tuple[str, tuple[int, int]]]:
            for pair in texts:
                if text := prose(pair[held_out]):
                    yield text.translate(table), (0, 0)

        def build() -> Dataset:
            return tokenise(documents(), tokenizer)

        identity: dict[str, Any] = {
            "texts": run_key({"all": [pair[held_out] for pair in texts]}), "cipher": sorted(table.items()),
            "tokenizer": tokenizer_fingerprint(tokenizer),
        }  # fmt: skip
        ids = column(cached("stdlib-cipher", identity, __name__, build), "ids")
        return TokenRows(torch.from_numpy(ids.astype(np.int16)), sequence)

    return LanguageData(
        name="stdlib-cipher",
        train=rows(0),
        held_out=rows(1),
        tokenizer=tokenizer,
        source="bundled",
        description=f"Comments and docstrings of {len(texts)} source files of Python {platform.python_version()}'s "
        f"standard library with {letters} letters exchanged, in {VOCAB} byte-pair tokens; the last 5 % of every file "
        "is held out.",
        details={"files": len(texts), "python": platform.python_version(), "letters": letters, "cipher_seed": seed},
    )
