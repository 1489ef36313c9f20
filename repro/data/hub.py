"""Real data: local files under ``REPRO_DATA_DIR``, else the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from repro.data.base import LanguageData, TokenRows
from repro.data.cache import cache_dir, quiet
from repro.data.errors import MissingData
from repro.data.tokenizers import byte_tokenizer, encode_bytes

if TYPE_CHECKING:
    from datasets import Dataset

#: Seconds to wait for the hub before calling it out of reach.
PATIENCE = 4.0
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


def reachable(hub_id: str, kind: Literal["dataset", "model"] = "dataset", revision: str | None = None) -> str | None:
    """None when the hub answers for ``hub_id`` within `PATIENCE` seconds, else the reason why not."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        HfApi().repo_info(hub_id, repo_type=kind, revision=revision, timeout=PATIENCE)
    except Exception as error:  # every way in which a network can fail
        return f"{type(error).__name__} from the hub"
    return None


def local_files(folder: Path, split: str) -> list[Path]:
    """Data files of ``split`` under ``folder``: ``split.jsonl`` or the hub's ``split-00000-of-00001.parquet``, also in
    sub-folders. Of several formats the first of jsonl, json, parquet, csv is taken. Sorted; empty when there is none.
    """
    for suffix in _READERS:
        found = [p for p in folder.rglob(f"*{suffix}") if re.fullmatch(rf"{re.escape(split)}(-.*)?", p.stem)]
        if found:
            return sorted(found)
    return []


def load_split(source: Source, split: str, *, revision: str | None = None, any_file: bool = False) -> Dataset:
    """One split of a real data set as a `datasets.Dataset`.

    Looks in ``REPRO_DATA_DIR/<folder>/`` first, in the hub's file layout or the original one, then on the hub
    (``HF_HUB_OFFLINE=1`` reads what the hub's client has cached). ``any_file``: a folder without split names in its
    file names is one split. Runs no code of the data set's. Raises MissingData.
    """
    from datasets import load_dataset

    root = os.environ.get("REPRO_DATA_DIR")
    folder = Path(root).expanduser() / source.folder if root else None
    if folder is not None and folder.is_dir():
        files = local_files(folder, split)
        if not files and any_file:
            files = next((f for s in _READERS if (f := sorted(folder.rglob(f"*{s}")))), [])
        if not files:
            raise _missing(source, f"{folder} holds no file of split {split!r}")
        with quiet():
            found = load_dataset(
                _READERS[files[0].suffix],
                data_files=[str(file) for file in files],
                split="train",
                cache_dir=str(cache_dir() / "datasets"),
            )
    else:
        from huggingface_hub.constants import HF_HUB_OFFLINE

        problem = reachable(source.hub_id, revision=revision)
        if problem and not HF_HUB_OFFLINE:
            raise _missing(source, problem)
        try:
            found = load_dataset(source.hub_id, source.config, split=split, revision=revision)
        except Exception as error:
            raise _missing(source, problem or f"{type(error).__name__}: {error}") from error
    absent = [name for name in source.fields if name not in found.column_names]
    if absent:
        raise _missing(source, f"the data found have no field {absent[0]!r}, only {', '.join(found.column_names)}")
    return found


def _missing(source: Source, reason: str) -> MissingData:
    return MissingData(
        f"data set {source.folder!r} is absent ({reason}). Ways to get it: put its files ({source.layout}) in the "
        f"folder REPRO_DATA_DIR/{source.folder}/; or let the hub serve {source.hub_id!r} (network needed once; "
        "HF_HUB_OFFLINE=1 then uses the cached copy); or choose data that need no download: --data word-problems, "
        "stdlib or composition."
    )


def gsm8k(sequence: int, *, limit: int | None = None, revision: str | None = None) -> LanguageData:
    """GSM8K as bytes, ``query: {question}\\nresponse: {answer}<eos>``, train and test split as published.

    Problems are longer than a short row of bytes, so they are packed: rows start anywhere in a problem. The
    ``<<48/2=24>>`` calculator marks are kept as published. `Batch.answers` marks the final answer, after ``####``.
    ``limit``: number of training problems. Raises MissingData.
    """
    train = load_split(GSM8K, "train", revision=revision)
    train = train.select(range(min(limit, len(train)))) if limit is not None else train
    test = load_split(GSM8K, "test", revision=revision)
    items = [
        {"query": row["question"], "response": row["answer"], "answer": row["answer"].rpartition("####")[2].strip()}
        for row in test.to_list()
    ]
    return LanguageData(
        name="gsm8k",
        train=_packed_questions(((r["question"], r["answer"]) for r in train.to_list()), sequence),
        held_out=_packed_questions(((r["query"], r["response"]) for r in items), sequence),
        tokenizer=byte_tokenizer(),
        source="real",
        description=f"GSM8K as bytes: {len(train):,} training problems, {len(test):,} test problems held out.",
        details={"problems": len(train), "held_out_problems": len(test)},
        held_out_items=items,
    )


def _packed_questions(pairs: Iterable[tuple[str, str]], sequence: int) -> TokenRows:
    tokens, marks = [], []
    for question, answer in pairs:
        ids = encode_bytes(f"query: {question}\nresponse: {answer}", end=True)
        mark = np.zeros(len(ids), np.uint8)
        _, found, final = answer.rpartition("#### ")
        if found:
            mark[-1 - len(final.encode()) : -1] = 1
        tokens.append(ids)
        marks.append(mark)
    return TokenRows(torch.from_numpy(np.concatenate(tokens)), sequence, torch.from_numpy(np.concatenate(marks)))


def metamath(sequence: int, **options: Any) -> LanguageData:
    raise NotImplementedError


def slimpajama(sequence: int, **options: Any) -> LanguageData:
    raise NotImplementedError
