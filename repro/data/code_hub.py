"""Published data of code tasks, in the tokens of a published encoder: local files under ``REPRO_DATA_DIR``, else the
hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from repro.data.cache import cached, column
from repro.data.code import SPLITS, CodeData, Pairs, Ragged
from repro.data.hub import Source, load_split
from repro.data.text import tokenizer_fingerprint
from repro.data.tokenizers import load_tokenizer

CODE_SEARCH_NET = Source(
    "code-search-net", "code-search-net/code_search_net", "python",
    ("func_code_tokens", "func_documentation_tokens"), "python/train-*.parquet, validation-*, test-*",
)  # fmt: skip
BIG_CLONE_BENCH = Source(
    "big-clone-bench", "google/code_x_glue_cc_clone_detection_big_clone_bench", None,
    ("id1", "id2", "func1", "func2", "label"), "train-*.parquet, validation-*, test-*",
)  # fmt: skip
#: Tokens that are kept of a text.
LONGEST = 512


def code_search_net(*, tokenizer: str, prefix: str = "", limit: int | None = None) -> CodeData:
    """CodeSearchNet, Python: functions without docstrings and their documentation, splits as published.

    Args:
        tokenizer: hub id or folder of the encoder.
        prefix: token that stands after the first one, with a separator behind it: UniXcoder's ``<encoder-only>``.
        limit: rows of the training split.

    Raises MissingData, and ValueError for a prefix that is no token.
    """
    return _data("code-search-net", _search, tokenizer, prefix, limit)


def big_clone_bench(*, tokenizer: str, prefix: str = "", limit: int | None = None) -> CodeData:
    """BigCloneBench as in CodeXGLUE: pairs of Java functions. Arguments and errors as `code_search_net`."""
    return _data("big-clone-bench", _clones, tokenizer, prefix, limit)


def _data(name: str, build: Callable[..., Any], tokenizer: str, prefix: str, limit: int | None) -> CodeData:
    cutter: Any = load_tokenizer(tokenizer)
    first: tuple[int, ...] = (cutter.cls_token_id,)
    if prefix:
        mode = cutter.convert_tokens_to_ids(prefix)
        if mode in (None, cutter.unk_token_id):
            raise ValueError(f"{tokenizer} has no token {prefix!r}")
        first = (cutter.cls_token_id, mode, cutter.sep_token_id)
    code, summary, functions, pairs = build(cutter, limit)
    return CodeData(
        name=name,
        code=code,
        summary=summary,
        functions=functions,
        documented=functions if build is _search else {split: rows[:0] for split, rows in functions.items()},
        pairs=pairs,
        vocab_size=len(cutter),
        pad=cutter.pad_token_id,
        mask=cutter.mask_token_id,
        first=first,
        last=(cutter.sep_token_id,),
        source="real",
        description=f"{name}, splits as published, tokenizer {tokenizer}.",
        details={"tokenizer": tokenizer, "limit": limit},
    )


def _ragged(texts: Sequence[str], cutter: Any, identity: Mapping[str, Any]) -> Ragged:
    """Texts as tokens without marks around them, kept as Arrow."""

    def build() -> Any:
        from datasets import Dataset

        found = cutter(list(texts), add_special_tokens=False, truncation=True, max_length=LONGEST)["input_ids"]
        return Dataset.from_dict({"ids": found, "length": [len(row) for row in found]})

    which = {**identity, "tokenizer": tokenizer_fingerprint(cutter), "longest": LONGEST, "texts": len(texts)}
    table = cached("hub-code", which, __name__, build)
    ids, lengths = column(table, "ids").astype("int32"), column(table, "length").astype("int64")
    return Ragged(torch.from_numpy(ids), torch.from_numpy(lengths))


def _tables(source: Source, limit: int | None) -> tuple[dict[str, Any], dict[str, str]]:
    tables, identities = {}, {}
    for split in SPLITS:
        found: Any
        found, identities[split] = load_split(source, split)
        tables[split] = found.select(range(min(limit, len(found)))) if limit and split == "train" else found
    return tables, identities


def _search(cutter: Any, limit: int | None) -> tuple[Ragged, Ragged, dict[str, torch.Tensor], dict[str, Pairs]]:
    tables, identities = _tables(CODE_SEARCH_NET, limit)
    columns = [
        _ragged(
            [" ".join(tokens) for split in SPLITS for tokens in tables[split][part]], cutter,
            {**identities, "part": part, "limit": limit},
        )
        for part in CODE_SEARCH_NET.fields
    ]  # fmt: skip
    functions, start = {}, 0
    for split in SPLITS:
        functions[split] = torch.arange(start, start + len(tables[split]))
        start += len(tables[split])
    none = torch.empty(0, dtype=torch.long)
    return columns[0], columns[1], functions, {split: Pairs(none, none, none) for split in SPLITS}


def _clones(cutter: Any, limit: int | None) -> tuple[Ragged, Ragged, dict[str, torch.Tensor], dict[str, Pairs]]:
    tables, identities = _tables(BIG_CLONE_BENCH, limit)
    place: dict[Any, int] = {}
    texts: list[str] = []
    functions, pairs = {}, {}
    for split in SPLITS:
        sides: list[list[int]] = [[], []]
        labels = []
        for row in tables[split]:
            labels.append(int(row["label"]))
            for side, number in zip(sides, "12", strict=True):
                key = row[f"id{number}"]
                if key not in place:
                    place[key] = len(texts)
                    texts.append(row[f"func{number}"])
                side.append(place[key])
        pairs[split] = Pairs(*(torch.tensor(part, dtype=torch.long) for part in (*sides, labels)))
        functions[split] = torch.tensor(sorted({*sides[0], *sides[1]}))
    code = _ragged(texts, cutter, {**identities, "part": "functions", "limit": limit})
    empty = Ragged(torch.empty(0, dtype=torch.int32), torch.zeros(len(texts), dtype=torch.long))
    return code, empty, functions, pairs
