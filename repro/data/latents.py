"""Latents of images, encoded beforehand: two arrays for each split under ``REPRO_DATA_DIR``.

    imagenet-latents/train_latents.npy        [N, 4, 32, 32], float16 or float32, scaled as the model reads them
    imagenet-latents/train_labels.npy         [N], integers
    imagenet-latents/validation_latents.npy   and validation_labels.npy: what is tested on

The README of the paper that trains on them says how to make them with a published autoencoder.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from repro.data.base import fingerprint, order_seed
from repro.data.errors import MissingData
from repro.data.images import ImageData, Images

FOLDER = "imagenet-latents"


def imagenet_latents(seed: int = 0, *, validation: int = 5000, limit: int | None = None) -> ImageData:
    """ImageNet-1k in the latent space of an autoencoder, 1,000 classes.

    ``validation`` images are drawn with ``seed`` out of the training split; ``limit`` bounds those of each split
    that are read. Raises MissingData, and ValueError when validation leaves nothing to train on.
    """
    latents, labels = _split("train", limit)
    test, test_labels = _split("validation", limit)
    if not 0 <= validation < len(labels):
        raise ValueError(f"{validation} validation images leave none of {len(labels)} for training")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(order_seed("validation images", seed)))
    held, kept = order[:validation], order[validation:].sort().values
    return ImageData(
        name=FOLDER,
        train=Images(latents[kept], labels[kept]),
        validation=Images(latents[held].float(), labels[held]),
        test=Images(test.float(), test_labels),
        classes=1000,
        source="real",
        description=f"ImageNet-1k as latents: {len(kept):,} training, {validation:,} validation and {len(test):,} test "
        "images.",
        details={"split_seed": seed, "limit": limit},
        # gigabytes are not hashed: labels and some latents stand for them
        fingerprint=fingerprint(labels, test_labels, latents[:256], test[:256]),
    )


def _split(name: str, limit: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    root = os.environ.get("REPRO_DATA_DIR")
    folder = Path(root).expanduser() / FOLDER if root else None
    files = [folder / f"{name}_{part}.npy" for part in ("latents", "labels")] if folder else []
    if not files or not all(file.is_file() for file in files):
        raise MissingData(
            f"{FOLDER}: {name}_latents.npy and {name}_labels.npy are not in {FOLDER} under the folder that "
            "REPRO_DATA_DIR names; encode ImageNet-1k as the paper's README says, or take the laptop scale."
        )
    latents, labels = (np.load(file, mmap_mode="r", allow_pickle=False)[:limit] for file in files)
    if latents.ndim != 4 or len(latents) != len(labels) or labels.ndim != 1:
        raise MissingData(f"{FOLDER}, split {name}: latents are [N, C, H, W] and labels [N], not "
                          f"{list(latents.shape)} and {list(labels.shape)}")  # fmt: skip
    return torch.from_numpy(np.array(latents)), torch.from_numpy(np.array(labels).astype(np.int64))
