"""A click-like task on real vocabularies that every machine has: whether the next token of Python code is a name.

Features of a row, from the sources of the standard library: the five tokens before, as strings, each position with a
vocabulary of its own; the depth of indentation; the file; and the operator that came last. Token strings follow Zipf's
law by themselves.
"""

from __future__ import annotations

import io
import platform
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from repro.data.base import order_seed
from repro.data.cache import cached, column
from repro.data.clicks import ClickData, Clicks
from repro.data.errors import MissingData
from repro.data.stdlib import library_files

if TYPE_CHECKING:
    from datasets import Dataset

BEFORE = 5
FEATURES = (*(f"token {-i}" for i in range(1, BEFORE + 1)), "depth", "file", "operator")
_SKIPPED = (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER)
#: Longest string of a token that is told from others; what is longer is one value by its kind.
LONGEST = 40
#: Lines of code of a block, which is trained on or held out as a whole.
BLOCK = 20


def tokens_of(source: bytes) -> Iterator[tuple[tuple[str, ...], bool, int]]:
    """Rows of one file: the features but the file's, as strings, whether the next token is a name, and its line.

    Ends quietly where the file cannot be tokenised further. Keywords are names, as in the module ``tokenize``.
    """
    before = ["^"] * BEFORE
    depth, operator = 0, "^"
    try:
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token.type in _SKIPPED:
                continue
            yield (*before, str(depth), operator), token.type == tokenize.NAME, token.start[0]
            depth += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
            kind = tokenize.tok_name[token.type]
            plain = token.type in (tokenize.NAME, tokenize.OP) or 0 < len(token.string.strip()) <= LONGEST
            before = [token.string if plain else kind, *before[:-1]]
            operator = token.string if token.type == tokenize.OP else operator
    except (tokenize.TokenError, SyntaxError):
        return


def token_kinds(seed: int = 0, *, rows: int = 120_000, files: int = 200, root: Path | None = None) -> ClickData:
    """The task on the first ``rows / files`` tokens of files of the standard library, until there are ``rows``.

    Files are taken in a fixed random order; short ones give fewer tokens, so that more than ``files`` are read. Blocks
    of 20 lines are dealt at random, by ``seed``, to training (80 %), validation and test (10 % each). A value's id is
    its place in the alphabetical order of its feature's values. The rows depend on the Python version.

    Raises MissingData when this Python has no sources beside it.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    identity = {"python": platform.python_version(), "rows": rows, "files": files, "root": str(root)}

    def build() -> Dataset:
        from datasets import Dataset

        found: list[tuple[str, ...]] = []
        labels, blocks = [], []
        sources = library_files(root)
        each = max(1, rows // files)
        order = np.random.default_rng(order_seed("files", 0)).permutation(len(sources))
        for number in order:
            if len(found) >= rows:
                break
            at = len(found)
            for values, label, line in tokens_of(sources[number].read_bytes()):
                if len(found) - at >= each:
                    break
                found.append((*values[:-1], sources[number].relative_to(root).as_posix(), values[-1]))
                labels.append(int(label))
                blocks.append(number * 100_000 + line // BLOCK)
        if not found:
            raise MissingData(
                f"no standard-library sources under {root}: install a Python that ships its .py files, or choose other "
                "data"
            )
        columns = {name: [row[i] for row in found[:rows]] for i, name in enumerate(FEATURES)}
        coded = {name: np.unique(np.array(v, dtype=object), return_inverse=True)[1] for name, v in columns.items()}
        return Dataset.from_dict({**coded, "label": labels[:rows], "block": blocks[:rows]})

    table = cached("token-kinds", identity, __name__, build)
    ids = torch.from_numpy(np.stack([column(table, name) for name in FEATURES], -1).astype(np.int64))
    labels = torch.from_numpy(column(table, "label").astype(np.int64))
    blocks, place = np.unique(column(table, "block"), return_inverse=True)
    share = torch.from_numpy(np.random.default_rng(order_seed("blocks", seed)).random(len(blocks))[place])
    parts = [
        Clicks(ids[chosen], labels[chosen], torch.empty(int(chosen.sum()), 0))
        for chosen in (share < 0.8, (share >= 0.8) & (share < 0.9), share >= 0.9)
    ]
    return ClickData(
        name="token-kinds",
        features=FEATURES,
        sizes=tuple(int(n) + 1 for n in ids.amax(0)),
        train=parts[0],
        validation=parts[1],
        test=parts[2],
        source="bundled",
        description=f"Whether the next token is a name, for {len(labels):,} tokens of the standard library of Python "
        f"{platform.python_version()}.",
        details={"split_seed": seed, "python": platform.python_version()},
    )
