"""The standard library's sources as subword tokens, whole or only the prose in them."""

from __future__ import annotations

import hashlib
import io
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repro.data.base import LanguageData, TokenRows
from repro.data.bpe import cached_bpe
from repro.data.cache import cached, column
from repro.data.errors import MissingData
from repro.data.stdlib import library_files

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

#: Tokens of the vocabulary.
VOCAB = 1024
#: Every so many-th file is read to learn the vocabulary; all of them would change little and take longer.
SAMPLED = 4


def sources(root: Path | None = None, limit: int | None = None) -> list[str]:
    """Text of the files of `library_files`, undecodable bytes replaced. Raises MissingData when there are none."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_bytes().decode("utf-8", "replace") for path in library_files(root)[:limit]]
    if not texts:
        raise MissingData(
            f"no standard-library sources under {root}: install a Python that ships its .py files, or choose other data"
        )
    return texts


def split(text: str) -> tuple[str, str]:
    """A source for training and the last 5 % of it, from the next start of a line on, which is held out."""
    cut = text.find("\n", int(0.95 * len(text))) + 1 or len(text)
    return text[:cut], text[cut:]


def prose(text: str) -> str:
    """Comments and triple-quoted strings of a source, without ``#`` and quotes, one after another.

    A source, or the end of one, that Python cannot cut into tokens gives what was read until there.
    """
    found = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                found.append(token.string.lstrip("#! "))
            elif token.type == tokenize.STRING and token.string.lower().lstrip("rbuf")[:3] in ('"""', "'''"):
                found.append(token.string.lstrip("rbufRBUF")[3:-3].strip())
    except (tokenize.TokenError, SyntaxError):
        pass
    return "\n".join(part for part in found if part)


def _identity(root: Path | None, limit: int | None) -> str:
    digest = hashlib.sha256()
    for text in sources(root, limit):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def stdlib_tokenizer(
    vocab: int = VOCAB, *, root: Path | None = None, limit: int | None = None
) -> PreTrainedTokenizerFast:
    """Byte-pair encoding learned on the training part of every `SAMPLED`-th source file."""
    texts = (split(text)[0] for text in sources(root, limit)[::SAMPLED])
    return cached_bpe("stdlib", _identity(root, limit), texts, vocab)


def stdlib_bpe(
    sequence: int, *, limit: int | None = None, root: Path | None = None, vocab: int = VOCAB, only_prose: bool = False
) -> LanguageData:
    """Language modelling of the standard library in tokens of `stdlib_tokenizer`.

    The last 5 % of every file is held out, as in ``stdlib``. Files are joined with an end-of-document token between
    them. ``only_prose``: nothing but comments and triple-quoted strings (``stdlib-prose``), with the same tokenizer.
    ``limit``: read that many files only. The content, hence the fingerprint, depends on the Python version.

    Raises MissingData when this Python has no sources beside it.
    """
    tokenizer = stdlib_tokenizer(vocab, root=root, limit=limit)
    name = "stdlib-prose" if only_prose else "stdlib-bpe"
    identity: dict[str, Any] = {"texts": _identity(root, limit), "vocab": vocab, "prose": only_prose}
    table = cached(name, identity, __name__, lambda: _build(tokenizer, root, limit, only_prose))
    ids, lengths, kept = (column(table, part) for part in ("ids", "length", "held_out"))
    border = int(lengths[~kept.astype(bool)].sum())
    tokens = torch.from_numpy(ids.astype(np.int16))
    files = len(sources(root, limit))
    return LanguageData(
        name=name,
        train=TokenRows(tokens[:border], sequence),
        held_out=TokenRows(tokens[border:], sequence),
        tokenizer=tokenizer,
        source="bundled",
        description=f"{'Comments and docstrings' if only_prose else 'Text'} of {files} source files of Python "
        f"{platform.python_version()}'s standard library in {vocab} byte-pair tokens; the last 5 % of every file is "
        "held out.",
        details={"files": files, "python": platform.python_version()},
    )


def stdlib_prose(sequence: int, **options: Any) -> LanguageData:
    """`stdlib_bpe` of comments and docstrings only."""
    return stdlib_bpe(sequence, only_prose=True, **options)


def _build(tokenizer: PreTrainedTokenizerFast, root: Path | None, limit: int | None, only_prose: bool) -> Dataset:
    from datasets import Dataset

    def parts() -> Iterator[tuple[int, str]]:
        texts = [split(text) for text in sources(root, limit)]
        for held_out in (0, 1):
            for pair in texts:
                # cut first: what is held out is then the same text in both data sets
                text = prose(pair[held_out]) if only_prose else pair[held_out]
                if text:
                    yield held_out, text

    wanted = list(parts())
    end = tokenizer.eos_token_id
    encoded = tokenizer.backend_tokenizer.encode_batch_fast([text for _, text in wanted], add_special_tokens=False)
    ids = [[*found.ids, end] for found in encoded]
    return Dataset.from_dict(
        {"ids": ids, "length": [len(one) for one in ids], "held_out": [held_out for held_out, _ in wanted]}
    )
