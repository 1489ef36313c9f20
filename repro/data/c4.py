"""C4 (Raffel et al., 2020), English, as calibration and evaluation text for pretrained models."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from repro.data.base import LanguageData, TokenRows
from repro.data.cache import cached
from repro.data.hub import Source, load_split
from repro.data.text import token_rows, tokenise, tokenizer_fingerprint
from repro.data.tokenizers import load_tokenizer

C4 = Source("c4", "allenai/c4", "en", ("text",), "c4-validation.jsonl, or en/ of the hub as jsonl or parquet")
#: Documents read when no limit is given: about a million tokens of each part.
DOCUMENTS = 2_000


def c4(
    sequence: int,
    *,
    limit: int | None = None,
    tokenizer: str = "mistralai/Mistral-7B-v0.1",
    revision: str | None = None,
) -> LanguageData:
    """Documents of C4's *validation* split, packed; the first ``limit`` are for calibration (``train``), as many after
    them held out. Pruning papers calibrate on a validation file, so that nothing of the training split is fetched.

    Local files: ``validation.jsonl`` and the like in ``REPRO_DATA_DIR/c4/``. Raises MissingData, and ValueError when
    there are not enough documents.
    """
    wanted = limit or DOCUMENTS
    found, identity = load_split(C4, "validation", revision=revision, any_file=True, stream=True)
    cutter = load_tokenizer(tokenizer)

    def counted(rows: Iterable[Mapping[str, Any]], first: int) -> Iterator[Mapping[str, Any]]:
        """The rows; raises after the last of too few, before anything is kept of them."""
        count = 0
        for row in rows:
            count += 1
            yield row
        if count < wanted:
            raise ValueError(f"{2 * wanted} documents are needed, {first + count} were found")

    def rows(first: int) -> TokenRows:
        which: Mapping[str, Any] = {
            "of": identity, "first": first, "count": wanted, "tokenizer": tokenizer_fingerprint(cutter)
        }  # fmt: skip
        documents = ((row["text"], (0, 0)) for row in counted(itertools.islice(found, first, first + wanted), first))
        table = cached("c4", which, __name__, lambda: tokenise(documents, cutter))
        pad = cutter.pad_token_id if cutter.pad_token_id is not None else cutter.eos_token_id
        return token_rows(table, sequence, packed=True, pad=pad, vocab_size=len(cutter))

    return LanguageData(
        name="c4",
        train=rows(0),
        held_out=rows(wanted),
        tokenizer=cutter,
        source="real",
        description=f"C4 (en), validation split: {wanted:,} documents for calibration and as many held out; "
        f"tokenizer {tokenizer}.",
        details={"tokenizer": tokenizer, "limit": wanted},
    )
