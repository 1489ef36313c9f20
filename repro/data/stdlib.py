"""The Python standard library's own sources as a corpus of code and prose that every machine has."""

from __future__ import annotations

import platform
import sysconfig
from pathlib import Path

import numpy as np
import torch

from repro.data.base import LanguageData, TokenRows
from repro.data.errors import MissingData
from repro.data.tokenizers import byte_tokenizer, encode_bytes

#: Folders that hold other people's packages, tests, or tables rather than code.
SKIPPED = frozenset(
    ("__pycache__", "site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo",
     "pydoc_data", "encodings", "ensurepip", "lib-dynload", "msilib")
)  # fmt: skip


def library_files(root: Path | None = None) -> list[Path]:
    """The ``.py`` files of the standard library in sorted order, without `SKIPPED` folders and without
    ``_sysconfigdata*`` (which describes the machine that built Python)."""
    root = root or Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        folders = path.relative_to(root).parts[:-1]
        skip = any(part in SKIPPED or part.startswith("config-") for part in folders)
        if not skip and not path.name.startswith("_sysconfigdata"):
            found.append(path)
    return found


def stdlib(sequence: int, *, limit: int | None = None, root: Path | None = None) -> LanguageData:
    """Byte-level language modelling of the standard library.

    The last 5 % of every file, from the next start of a line on, is held out; the rest is for training. Held-out text
    is thus of the same modules as the training text, and later in the file. Parts are joined with an end-of-document
    token between them. ``limit``: read that many files only. The content, hence the fingerprint, depends on the Python
    version.

    Raises MissingData when this Python has no sources beside it.
    """
    root = root or Path(sysconfig.get_paths()["stdlib"])
    train, held_out = [], []
    files = library_files(root)[:limit]
    for path in files:
        raw = path.read_bytes()
        cut = raw.find(b"\n", int(0.95 * len(raw))) + 1 or len(raw)
        train.append(encode_bytes(raw[:cut], end=True))
        if cut < len(raw):
            held_out.append(encode_bytes(raw[cut:], end=True))
    if not held_out:
        raise MissingData(
            f"no standard-library sources under {root}: install a Python that ships its .py files, or choose other data"
        )
    return LanguageData(
        name="stdlib",
        train=TokenRows(torch.from_numpy(np.concatenate(train)), sequence),
        held_out=TokenRows(torch.from_numpy(np.concatenate(held_out)), sequence),
        tokenizer=byte_tokenizer(),
        source="bundled",
        description=f"Bytes of {len(files)} source files of Python {platform.python_version()}'s standard library; the "
        "last 5 % of every file is held out.",
        details={"files": len(files), "python": platform.python_version()},
    )
