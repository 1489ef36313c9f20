"""From documents to tokens: one Arrow table of ids for any corpus and tokenizer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from repro.data.base import TokenRows, fingerprint
from repro.data.cache import column
from repro.data.tokenizers import encode_bytes

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

#: A text, and where in it the answer stands (first character and the one after the last); (0, 0): nowhere.
Document = tuple[str, tuple[int, int]]


def question(query: str, response: str, marker: str) -> Document:
    """``query: ...\\nresponse: ...`` with the final answer marked: what follows the last ``marker`` of the response."""
    text = f"query: {query}\nresponse: {response}"
    _, found, answer = response.rpartition(marker)
    stripped = answer.strip()
    start = len(text) - len(answer) + len(answer) - len(answer.lstrip())
    return text, (start, start + len(stripped)) if found and stripped else (0, 0)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hash of everything that decides how a fast tokenizer cuts text."""
    return fingerprint(tokenizer.backend_tokenizer.to_str(), str(tokenizer.eos_token_id))


def tokenise(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerFast, *, longest: int | None = None, batch: int = 1000
) -> Dataset:
    """Ids of every document with an end-of-document token behind it, cut at ``longest`` tokens.

    Columns: ``ids`` (lists of int32), ``id_marks`` (lists of uint8: 1 on the answer's tokens), ``length``. Works batch
    by batch: the texts need not fit into memory. Raises ValueError for no documents or a tokenizer without ``<eos>``.
    """
    import pyarrow as pa
    from datasets import Dataset

    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token")
    parts = []
    for group in _groups(documents, batch):
        encoded = [(ids[:longest], marks[:longest]) for ids, marks in _encode(group, tokenizer)]
        lengths = np.array([len(ids) for ids, _ in encoded], np.int32)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        ids = pa.array(np.concatenate([ids for ids, _ in encoded]).astype(np.int32))
        marks = pa.array(np.concatenate([marks for _, marks in encoded]))
        columns = [pa.ListArray.from_arrays(offsets, ids), pa.ListArray.from_arrays(offsets, marks), pa.array(lengths)]
        parts.append(pa.RecordBatch.from_arrays(columns, names=["ids", "id_marks", "length"]))
    if not parts:
        raise ValueError("no documents")
    return Dataset(pa.Table.from_batches(parts))


def _groups(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    stream = iter(documents)
    while group := list(itertools.islice(stream, size)):
        yield group


def _encode(group: list[Document], tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if tokenizer.name_or_path == "bytes":
        yield from map(_encode_bytes, group)
        return
    encoded = tokenizer(
        [text for text, _ in group], add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
    )
    for (_, (start, end)), ids, spans in zip(group, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        marks = np.zeros(len(ids) + 1, np.uint8)
        if end > start and ids:
            first, last = np.asarray(spans).T
            marks[:-1] = (last > start) & (first < end)
        yield np.append(np.asarray(ids, np.int32), tokenizer.eos_token_id), marks


def _encode_bytes(document: Document) -> tuple[np.ndarray, np.ndarray]:
    """The fast path for the byte tokenizer: same result without the detour through it."""
    text, (start, end) = document
    ids = encode_bytes(text, end=True)
    marks = np.zeros(len(ids), np.uint8)
    marks[len(text[:start].encode()) : len(text[:end].encode())] = end > start
    return ids, marks


def token_rows(table: Dataset, sequence: int, *, packed: bool, pad: int, vocab_size: int) -> TokenRows:
    """Rows of tokens over what `tokenise` made."""
    ids, marks = column(table, "ids"), column(table, "id_marks")
    kind = np.int16 if vocab_size < 2**15 else np.int32
    tokens = torch.from_numpy(ids.astype(kind, copy=False))
    answers = torch.from_numpy(marks) if marks.any() else None
    if packed:
        return TokenRows(tokens, sequence, answers)
    lengths = torch.from_numpy(column(table, "length").astype(np.int64))
    return TokenRows(tokens, sequence, answers, lengths.cumsum(0) - lengths, lengths, pad)
