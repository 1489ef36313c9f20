"""Key-value recall: the value of a key stands earlier in the row and nowhere else, so that attention is needed.

    <eos> k3 v7 k1 v2 k3 v7 k5 v1 k1 v2 ...

Every row draws `keys_per_row` keys and gives each a random value of its own; then keys come in random order, each
followed by its value. The first time a value cannot be known; from then on it can be looked up, in this row only. So
the loss on these values (marked in `Batch.answers`) measures retrieval from context: no weight can hold it, and a model
whose attention cannot reach back stays at the logarithm of the number of values. Multi-query associative recall (Arora
et al., 2024, arXiv 2312.04927) is the same with all keys told first.

To find the value two steps of attention are needed in general: which token stood behind the same key is known only
once tokens carry what stands before them. With ``own_values`` every key has values of its own, which no other key can
have: then one step is enough, as a value says whose it is, and small models learn the task within hundreds of steps
instead of thousands.

Keys and values are words. With a subword tokenizer they are words that are single tokens in it, so that the task can be
mixed into the pretraining of a language model (``recall-stdlib``: tokens of ``stdlib-bpe``, 16 keys with 4 values of
their own each, 4 keys in a row).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import torch

from repro.data.base import LanguageData, TokenRows
from repro.data.stdlib_text import stdlib_tokenizer
from repro.data.tokenizers import word_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

KEYS, VALUES, KEYS_PER_ROW = 32, 32, 8
#: Rows of the two splits.
ROWS, HELD_OUT = 12_000, 1_000


def single_tokens(tokenizer: PreTrainedTokenizerFast, count: int) -> list[int]:
    """Ids of ``count`` different words of letters, each with a space before it, that are one token: the first learned.

    Raises ValueError when the vocabulary has fewer.
    """
    found = []
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
        if token.startswith("Ġ") and token[1:].isascii() and token[1:].isalpha() and len(token) > 3:
            found.append(index)
    if len(found) < count:
        raise ValueError(f"the vocabulary has {len(found)} words of one token, not {count}")
    return found[:count]


def recall(
    sequence: int,
    *,
    seed: int = 0,
    limit: int | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    keys: int = KEYS,
    values: int = VALUES,
    keys_per_row: int = KEYS_PER_ROW,
    own_values: bool = False,
) -> LanguageData:
    """Rows of ``sequence`` tokens, each a document of its own that starts with the end-of-document token.

    Args:
        seed: of the data, not of a run.
        limit: that many training rows; `ROWS` by default.
        tokenizer: keys and values are its first words of one token; by default a tokenizer of these words only.
        keys, values: sizes of the two vocabularies, which share no word.
        keys_per_row: keys of one row.
        own_values: every key has ``values / keys`` values of its own.

    Raises ValueError for a row that is too short for a key to come again, more keys in a row than there are, or values
    that the keys cannot share evenly.
    """
    if keys_per_row > keys:
        raise ValueError(f"a row cannot have {keys_per_row} of {keys} keys")
    if own_values and values % keys:
        raise ValueError(f"{keys} keys cannot have as many of {values} values each")
    if sequence < 2 * keys_per_row + 3:
        raise ValueError(f"in {sequence} tokens none of {keys_per_row} keys has to come again")
    name = "recall" if tokenizer is None else "recall-stdlib"
    if tokenizer is None:
        tokenizer = word_tokenizer([f"k{i}" for i in range(keys)] + [f"v{i}" for i in range(values)])
        ids = np.arange(3, 3 + keys + values)
    else:
        words = np.array(single_tokens(tokenizer, keys + values))
        # by turns, else the keys would be the more frequent words of the text
        is_value = np.zeros(keys + values, bool)
        is_value[np.linspace(0, keys + values, values, endpoint=False).astype(int) + (keys >= values)] = True
        ids = np.concatenate([words[~is_value], words[is_value]])
    end = tokenizer.eos_token_id
    assert end is not None
    rows = {"train": ROWS if limit is None else limit, "held-out": HELD_OUT}

    def rows_of(part: str) -> TokenRows:
        draw = np.random.default_rng(random.Random(f"recall/{part}/{seed}").getrandbits(63))
        tokens, known = draw_rows(draw, rows[part], sequence, keys, values, keys_per_row, own_values)
        stream = np.where(tokens < 0, end, ids[tokens]).astype(np.int16)
        # one token more, so that the last row has a token to end with
        return TokenRows(
            torch.from_numpy(np.append(stream, np.int16(end))), sequence,
            torch.from_numpy(np.append(known.reshape(-1), np.uint8(0))),
        )  # fmt: skip

    return LanguageData(
        name=name,
        train=rows_of("train"),
        held_out=rows_of("held-out"),
        tokenizer=tokenizer,
        source="generated",
        description=f"Rows of {keys_per_row} of {keys} keys, each followed by its value, one of "
        f"{f'{values // keys} of its own' if own_values else values}, again and again; "
        "the pairs are drawn anew for every row.",
        details={
            "keys": keys,
            "values": values,
            "keys_per_row": keys_per_row,
            "own_values": own_values,
            "data_seed": seed,
            "limit": limit,
        },
    )


def draw_rows(
    draw: np.random.Generator,
    rows: int,
    sequence: int,
    keys: int,
    values: int,
    keys_per_row: int,
    own_values: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Symbols int64 [rows, sequence] (-1 at the start, keys from 0, values from ``keys``), and uint8 of that shape: 1
    on values that stood in the row before."""
    pairs = sequence // 2
    mine = draw.permuted(np.tile(np.arange(keys), (rows, 1)), axis=1)[:, :keys_per_row]
    if own_values:
        theirs = keys + mine * (values // keys) + draw.integers(values // keys, size=(rows, keys_per_row))
    else:
        theirs = keys + draw.integers(values, size=(rows, keys_per_row))
    which = draw.integers(keys_per_row, size=(rows, pairs))
    symbols = np.full((rows, 1 + 2 * pairs), -1)
    symbols[:, 1::2] = np.take_along_axis(mine, which, 1)
    symbols[:, 2::2] = np.take_along_axis(theirs, which, 1)
    known = np.zeros(symbols.shape, np.uint8)
    for key in range(keys_per_row):
        here = which == key
        known[:, 2::2] |= (here & (np.cumsum(here, 1) > 1)).astype(np.uint8)
    return symbols[:, :sequence], known[:, :sequence]


def recall_stdlib(
    sequence: int, *, seed: int = 0, limit: int | None = None, files: int | None = None
) -> LanguageData:  # fmt: skip
    """`recall` in the tokens of ``stdlib-bpe``; ``files`` as its ``limit``, which decides the tokenizer."""
    cutter = stdlib_tokenizer(limit=files)
    return recall(
        sequence, seed=seed, limit=limit, tokenizer=cutter, keys=16, values=64, keys_per_row=4, own_values=True
    )
