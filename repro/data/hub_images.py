"""MNIST, CIFAR-10 and CIFAR-100: files under ``REPRO_DATA_DIR`` in the original or the hub's layout, else the hub.

Pixels are shares of full scale, in [0, 1]; the test split is the published one, and validation images are taken out of
training. No pickled file is read: of CIFAR's original releases the binary one serves.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from repro.data.base import order_seed
from repro.data.errors import MissingData
from repro.data.hub import Source, load_split
from repro.data.images import ImageData, Images
from repro.records.provenance import file_fingerprint, run_key

Split = Literal["train", "test"]


@dataclass(frozen=True)
class _Set:
    """Where a set is found, what its hub tables call image and label, and the original files of its splits."""

    source: Source
    classes: int
    shape: tuple[int, int, int]
    files: Mapping[str, Sequence[str]]
    #: bytes before the pixels of an image of the binary release, the last of them its label; 0: IDX files
    header: int

    @property
    def name(self) -> str:
        return self.source.folder


_MNIST = _Set(
    Source("mnist", "ylecun/mnist", "mnist", ("image", "label"), "train-images-idx3-ubyte[.gz] and the like"),
    10, (1, 28, 28),
    {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
     "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")},
    0,
)  # fmt: skip
_CIFAR10 = _Set(
    Source("cifar10", "uoft-cs/cifar10", "plain_text", ("img", "label"), "data_batch_1.bin and the like"),
    10, (3, 32, 32),
    {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    1,
)  # fmt: skip
_CIFAR100 = _Set(
    Source("cifar100", "uoft-cs/cifar100", "cifar100", ("img", "fine_label"), "train.bin and test.bin"),
    100, (3, 32, 32),
    {"train": ("train.bin",), "test": ("test.bin",)},
    2,
)  # fmt: skip


def mnist(seed: int = 0, *, validation: int = 5000, limit: int | None = None, revision: str | None = None) -> ImageData:
    """MNIST (LeCun et al.): 60,000 and 10,000 grey images of digits, [1, 28, 28].

    ``validation`` images are drawn with ``seed`` out of the training split; ``limit`` bounds those of each published
    split that are read. Raises MissingData, and ValueError when validation leaves nothing to train on.
    """
    return _task(_MNIST, seed, validation, limit, revision)


def cifar10(
    seed: int = 0, *, validation: int = 5000, limit: int | None = None, revision: str | None = None
) -> ImageData:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 and 10,000 colour images of 10 classes, [3, 32, 32]. As `mnist`."""
    return _task(_CIFAR10, seed, validation, limit, revision)


def cifar100(
    seed: int = 0, *, validation: int = 5000, limit: int | None = None, revision: str | None = None
) -> ImageData:
    """CIFAR-100 (Krizhevsky, 2009) with its 100 fine labels, [3, 32, 32]. As `mnist`."""
    return _task(_CIFAR100, seed, validation, limit, revision)


def _task(data: _Set, seed: int, validation: int, limit: int | None, revision: str | None) -> ImageData:
    (pixels, labels), train_identity = _read(data, "train", limit, revision)
    test, test_identity = _read(data, "test", limit, revision)
    if not 0 <= validation < len(labels):
        raise ValueError(f"{validation} validation images leave none of {len(labels)} for training")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(order_seed("validation images", seed)))
    held, kept = order[:validation], order[validation:].sort().values
    return ImageData(
        name=data.name,
        train=Images(pixels[kept], labels[kept]),
        validation=Images(pixels[held], labels[held]),
        test=Images(*test),
        classes=data.classes,
        source="real",
        description=f"{data.name}: {len(kept):,} training, {validation:,} validation and {len(test[1]):,} test images.",
        details={
            "split_seed": seed,
            "limit": limit,
            "identity": run_key({"train": train_identity, "test": test_identity}),
        },
    )


def _read(data: _Set, split: Split, limit: int | None, revision: str | None) -> tuple[tuple[Tensor, Tensor], str]:
    root = os.environ.get("REPRO_DATA_DIR")
    files = _original(Path(root).expanduser() / data.name, data.files[split]) if root else []
    if files:
        found = _idx(files, limit) if data.header == 0 else _binary(files, data, limit)
        identity = run_key({file.name: file_fingerprint(file) for file in files})
    else:
        found, identity = _table(data, split, limit, revision)
    images, labels = found
    if (
        images.shape[1:] != data.shape
        or len(images) != len(labels)
        or not 0 <= labels.min() <= labels.max() < data.classes
    ):
        raise MissingData(
            f"what was found as {data.name}, split {split}, is not {data.classes} classes of {data.shape}"
        )
    return (torch.from_numpy(images).float() / 255, torch.from_numpy(labels.astype(np.int64))), identity


def _original(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files ``names`` (or their ``.gz``) anywhere under ``folder``; empty unless all are there."""
    found = [next(iter(sorted(folder.rglob(name)) or sorted(folder.rglob(f"{name}.gz"))), None) for name in names]
    return [] if None in found else cast("list[Path]", found)


def _content(file: Path) -> bytes:
    raw = file.read_bytes()
    return gzip.decompress(raw) if file.suffix == ".gz" else raw


def _idx(files: Sequence[Path], limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 1, rows, columns] and labels [N] of a pair of IDX files (two zero bytes, a type byte, a byte for the
    number of dimensions, big-endian sizes, content)."""
    arrays = []
    for file in files:
        raw = _content(file)
        if len(raw) < 4 or raw[:3] != b"\0\0\x08":
            raise MissingData(f"{file.name} is no IDX file of bytes")
        sizes = struct.unpack_from(f">{raw[3]}I", raw, 4)
        start = 4 + 4 * raw[3]
        if len(raw) - start != math.prod(sizes):
            raise MissingData(f"{file.name} is cut short: {len(raw) - start} bytes where {math.prod(sizes)} are said")
        arrays.append(np.frombuffer(raw, np.uint8, offset=start).reshape(sizes)[:limit])
    return arrays[0][:, None].copy(), arrays[1].copy()


def _binary(files: Sequence[Path], data: _Set, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 3, 32, 32] and labels [N] of CIFAR's binary release."""
    size = data.header + math.prod(data.shape)
    rows = []
    for file in files:
        raw = np.frombuffer(_content(file), np.uint8)
        if len(raw) % size or not len(raw):
            raise MissingData(f"{file.name} is cut short: {len(raw)} bytes are no number of images of {size}")
        rows.append(raw.reshape(-1, size))
    table = np.concatenate(rows)[:limit]
    return table[:, data.header :].reshape(-1, *data.shape).copy(), table[:, data.header - 1].copy()


def _table(
    data: _Set, split: Split, limit: int | None, revision: str | None
) -> tuple[tuple[np.ndarray, np.ndarray], str]:
    """From tables as the hub keeps them: encoded images in a column, class numbers in another."""
    from datasets import Dataset, Image

    try:
        found, identity = load_split(data.source, split, revision=revision)
    except MissingData as error:
        reason = str(error).rpartition("; or choose data")[0] or str(error)
        raise MissingData(f"{reason}; or take the laptop scale, which draws its images itself.") from error
    image, label = data.source.fields
    table = cast(Dataset, found)
    table = table.select(range(min(limit, len(table)))) if limit else table
    table = table.cast_column(image, Image(mode="L" if data.shape[0] == 1 else "RGB"))
    pixels = np.stack([np.asarray(picture) for picture in table[image]])
    pixels = pixels[:, None] if data.shape[0] == 1 else pixels.transpose(0, 3, 1, 2)
    return (np.ascontiguousarray(pixels), np.asarray(table[label])), identity
