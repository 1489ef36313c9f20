"""Real data: local files under ``REPRO_DATA_DIR``, else the hub."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from repro.data.base import LanguageData, TokenRows, order_seed
from repro.data.cache import cache_dir, cached, column, quiet
from repro.data.errors import MissingData
from repro.data.hub_probe import probe
from repro.data.text import Document, question, token_rows, tokenise, tokenizer_fingerprint
from repro.data.tokenizers import load_tokenizer
from repro.records.provenance import file_fingerprint, run_key

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


@dataclass(frozen=True)
class Source:
    """Where a real data set is found: a folder name under ``REPRO_DATA_DIR``, and a hub id with its configuration."""

    folder: str
    hub_id: str
    config: str | None
    fields: tuple[str, ...]
    layout: str


GSM8K = Source("gsm8k", "openai/gsm8k", "main", ("question", "answer"), "train.jsonl and test.jsonl")
METAMATH = Source("metamath", "meta-math/MetaMathQA", None, ("query", "response"), "MetaMathQA-395K.json")
SLIMPAJAMA = Source("slimpajama", "DKYoon/SlimPajama-6B", None, ("text",), "data/train-*.parquet")


def local_files(folder: Path, split: str) -> list[Path]:
    """Data files of ``split`` under ``folder``: ``split.jsonl`` or the hub's ``split-00000-of-00001.parquet``, also in
    sub-folders. Of several formats the first of jsonl, json, parquet, csv is taken. Sorted; empty when there is none.
    """
    for suffix in _READERS:
        found = [p for p in folder.rglob(f"*{suffix}") if re.fullmatch(rf"{re.escape(split)}(-.*)?", p.stem)]
        if found:
            return sorted(found)
    return []


def load_split(
    source: Source,
    split: str,
    *,
    revision: str | None = None,
    any_file: bool = False,
    stream: bool = False,
) -> tuple[Iterable[Mapping[str, Any]], str]:
    """One split of a real data set as a `datasets.Dataset`, and an identity that changes when its content does.

    Looks in ``REPRO_DATA_DIR/<folder>/`` first, in the hub's file layout or the original one, then on the hub, at
    ``revision`` or the newest commit. Where the folder has one for the configuration, as on the hub, only that is read.
    Runs no code of the data set's.

    Args:
        any_file: take all files of a folder whose file names name no split.
        stream: read from the hub as an iterator (`datasets.IterableDataset`), so that the first documents of a large
            set do not cost the download of all.

    Raises MissingData when neither place has it, or has it without the expected fields, or when local files of several
    folders could be meant.
    """
    from datasets import load_dataset

    root = os.environ.get("REPRO_DATA_DIR")
    folder = Path(root).expanduser() / source.folder if root else None
    if folder is not None and folder.is_dir():
        if source.config and (folder / source.config).is_dir():
            folder = folder / source.config
        files = local_files(folder, split)
        if not files and any_file:
            files = next((f for s in _READERS if (f := sorted(folder.rglob(f"*{s}")))), [])
        if not files:
            raise missing(source, f"{source.folder}/ in REPRO_DATA_DIR holds no file of split {split!r}")
        if source.config and len(places := sorted({str(file.parent.relative_to(folder)) for file in files})) > 1:
            raise missing(
                source, f"split {split!r} is in several folders ({', '.join(places)}), none {source.config!r}"
            )
        identity = run_key({file.relative_to(folder).as_posix(): file_fingerprint(file) for file in files})
        try:
            with quiet():
                found = load_dataset(
                    _READERS[files[0].suffix],
                    data_files=[str(file) for file in files],
                    split="train",
                    cache_dir=str(cache_dir() / "datasets"),
                )
        except Exception as error:
            raise missing(source, f"{files[0].name} cannot be read: {error.__cause__ or error}") from error
    else:
        answer = probe(source.hub_id, revision=revision)
        if answer.problem and not answer.offline:
            raise missing(source, answer.problem)
        commit = answer.commit or revision
        try:
            found = load_dataset(source.hub_id, source.config, split=split, revision=commit, streaming=stream)
        except Exception as error:
            raise missing(source, answer.problem or f"{type(error).__name__}: {error}") from error
        identity = run_key(
            {"hub": source.hub_id, "commit": commit, "split": split, "of": getattr(found, "_fingerprint", "")}
        )
    names = found.column_names or list(next(iter(found)))
    absent = [name for name in source.fields if name not in names]
    if absent:
        raise missing(source, f"the data found have no field {absent[0]!r}, only {', '.join(names)}")
    return found, identity


def missing(source: Source, reason: str) -> MissingData:
    """The error for a data set that is not to be had, with the ways to get it."""
    return MissingData(
        f"data set {source.folder!r} is absent ({reason}). Ways to get it: put its files ({source.layout}) in the "
        f"folder REPRO_DATA_DIR/{source.folder}/; or let the hub serve {source.hub_id!r} (network needed once, "
        "HF_HUB_OFFLINE=1 then uses the cached copy); or choose data that need no download: --data word-problems, "
        "stdlib or composition."
    )


def gsm8k(
    sequence: int, *, limit: int | None = None, tokenizer: str = "bytes", revision: str | None = None
) -> LanguageData:
    """GSM8K, ``query: {question}\\nresponse: {answer}<eos>``, train and test split as published.

    Problems are longer than a short row of bytes, so they are packed: rows start anywhere in a problem. The
    ``<<48/2=24>>`` calculator marks are kept as published. `Batch.answers` marks the final answer, after ``####``.
    ``limit``: number of training problems. Raises MissingData.
    """
    train, train_identity = load_split(GSM8K, "train", revision=revision)
    test, test_identity = load_split(GSM8K, "test", revision=revision)
    cutter = load_tokenizer(tokenizer)

    def rows(split: Iterable[Mapping[str, Any]], identity: str, limit: int | None) -> TokenRows:
        documents = (question(row["question"], row["answer"], "####") for row in itertools.islice(split, limit))
        return _rows("gsm8k", documents, cutter, sequence, True, {"of": identity, "limit": limit})

    items = [
        {"query": row["question"], "response": row["answer"], "answer": row["answer"].rpartition("####")[2].strip()}
        for row in test
    ]
    return LanguageData(
        name="gsm8k",
        train=rows(train, train_identity, limit),
        held_out=rows(test, test_identity, None),
        tokenizer=cutter,
        source="real",
        description=f"GSM8K, train and test split as published, tokenizer {tokenizer}.",
        details={"tokenizer": tokenizer, "held_out_items": len(items), "limit": limit},
        held_out_items=items,
    )


def metamath(
    sequence: int,
    *,
    seed: int = 0,
    limit: int | None = None,
    tokenizer: str = "deepseek-ai/DeepSeek-V2-Lite",
    revision: str | None = None,
    held_out: int = 1000,
) -> LanguageData:
    """MetaMathQA, ``query: {query}\\nresponse: {response}<eos>``, one row a document, cut at ``sequence + 1`` tokens.

    ``held_out`` rows are held out by a shuffle with ``seed``; as the set rephrases each problem many times, they have
    near-duplicates in training. `Batch.answers` marks what follows ``The answer is:``. ``limit``: number of training
    rows. Raises MissingData, and ValueError when there are not enough rows.
    """
    found, identity = load_split(METAMATH, "train", revision=revision, any_file=True)
    table = cast("Dataset", found)
    count = len(table)
    if count <= held_out:
        raise ValueError(f"{count} rows do not leave any for training when {held_out} are held out")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(order_seed("held-out rows", seed)))
    out, kept = order[:held_out], order[held_out:][:limit].sort().values
    cutter = load_tokenizer(tokenizer)

    def rows(chosen: Tensor, part: str) -> TokenRows:
        picked = table.select(chosen.tolist())
        documents = (question(row["query"], row["response"], "The answer is:") for row in picked)
        which = {"of": identity, "part": part, "held_out": held_out, "limit": limit, "seed": seed}
        return _rows("metamath", documents, cutter, sequence, False, which)

    items = [
        {
            "query": row["query"],
            "response": row["response"],
            "answer": row["response"].rpartition("The answer is:")[2].strip(),
        }
        for row in table.select(out.tolist())
    ]
    return LanguageData(
        name="metamath",
        train=rows(kept, "train"),
        held_out=rows(out, "held-out"),
        tokenizer=cutter,
        source="real",
        description=f"MetaMathQA, {len(kept):,} rows for training and {held_out:,} held out, tokenizer {tokenizer}.",
        details={"tokenizer": tokenizer, "data_seed": seed, "limit": limit},
        held_out_items=items,
    )


#: Documents of SlimPajama that are read when no limit is given: about 400 million tokens.
SLIMPAJAMA_DOCUMENTS, SLIMPAJAMA_HELD_OUT = 400_000, 2_000


def slimpajama(
    sequence: int,
    *,
    limit: int | None = None,
    tokenizer: str = "deepseek-ai/DeepSeek-V2-Lite",
    revision: str | None = None,
) -> LanguageData:
    """The 6-billion-token sample of SlimPajama, packed, train and validation split as published.

    Reads the first ``limit`` training documents (400,000 by default, about 400 million tokens) and the first 2,000 of
    the validation split; from the hub as a stream, so that no more is fetched. Raises MissingData.
    """
    limit = SLIMPAJAMA_DOCUMENTS if limit is None else limit
    cutter = load_tokenizer(tokenizer)

    def rows(split: str, limit: int) -> TokenRows:
        found, identity = load_split(SLIMPAJAMA, split, revision=revision, stream=True)
        documents = ((row["text"], (0, 0)) for row in itertools.islice(found, limit))
        return _rows("slimpajama", documents, cutter, sequence, True, {"of": identity, "limit": limit})

    return LanguageData(
        name="slimpajama",
        train=rows("train", limit),
        held_out=rows("validation", SLIMPAJAMA_HELD_OUT),
        tokenizer=cutter,
        source="real",
        description=f"SlimPajama-6B, the first {limit:,} training documents; the first {SLIMPAJAMA_HELD_OUT:,} of its "
        f"validation split held out; tokenizer {tokenizer}.",
        details={"tokenizer": tokenizer, "limit": limit},
    )


def _rows(
    name: str,
    documents: Iterable[Document],
    tokenizer: PreTrainedTokenizerFast,
    sequence: int,
    packed: bool,
    which: Mapping[str, Any],
) -> TokenRows:
    longest = None if packed else sequence + 1
    identity = {**which, "tokenizer": tokenizer_fingerprint(tokenizer), "longest": longest}
    table = cached(name, identity, __name__, lambda: tokenise(documents, tokenizer, longest=longest))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if not packed:
        sequence = min(sequence, int(column(table, "length").max()) - 1)
    return token_rows(table, sequence, packed=packed, pad=pad, vocab_size=len(tokenizer))
