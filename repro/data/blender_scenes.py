"""NeRF-Synthetic and other scenes in Blender's layout: local files under ``REPRO_DATA_DIR``.

``blender-scene/<scene>/transforms_train.json``, ``transforms_val.json`` and ``transforms_test.json`` name the angle of
view of the camera, and for every picture its file and the camera's place; pictures are PNG with alpha.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repro.data.analytic_scenes import LOWEST, RadianceData, Views
from repro.data.errors import MissingData
from repro.records.provenance import file_fingerprint, run_key

SPLITS = {"train": "train", "validation": "val", "test": "test"}
#: By which positions are multiplied so that NeRF-Synthetic's objects fill the cube [-1, 1]^3.
SCALE = 0.8


def blender_scene(
    seed: int = 0, size: int = 0, train: int = 0, validation: int = 8, test: int = 0, scene: str = "lego"
) -> RadianceData:
    """Pictures of a scene of NeRF-Synthetic (Mildenhall et al., 2020), or of another in its layout.

    Args:
        seed: not used: the splits are the published ones.
        size: pixels along an edge, which pictures are averaged down to; 0 for their own.
        train, validation, test: the first so many pictures of each split; 0 for all.
        scene: its folder.

    Raises MissingData when files are absent or not square, ImportError without Pillow.
    """
    root = os.environ.get("REPRO_DATA_DIR")
    folder = Path(root or "").expanduser() / "blender-scene" / scene
    files = {name: folder / f"transforms_{part}.json" for name, part in SPLITS.items()}
    if not root or not all(file.is_file() for file in files.values()):
        raise MissingData(
            f"blender-scene {scene} is absent: set REPRO_DATA_DIR to a folder that holds blender-scene/{scene}/ with "
            f"{', '.join(f.name for f in files.values())} and their pictures, as in NeRF's nerf_synthetic.zip; or take "
            "the laptop scale, which makes its scenes itself."
        )
    limits = {"train": train, "validation": validation, "test": test}
    views = {name: _read(file, limits[name], size) for name, file in files.items()}
    radius = float(views["train"].centres.norm(dim=1).mean())
    return RadianceData(
        "blender-scene", views["train"], views["validation"], views["test"], radius, LOWEST, "real",
        f"{scene}: pictures from known cameras, in Blender's layout.", None,
        {"scene": scene, "identity": run_key({f.name: file_fingerprint(f) for f in files.values()})},
    )  # fmt: skip


def _read(file: Path, limit: int, size: int) -> Views:
    told = json.loads(file.read_text())
    frames: list[dict[str, Any]] = told["frames"][: limit or None]
    poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float32)
    images = torch.stack([_picture(file.parent / frame["file_path"], size) for frame in frames])
    focal = 0.5 * images.shape[2] / math.tan(0.5 * told["camera_angle_x"])
    return Views(SCALE * poses[:, :3, 3], poses[:, :3, :3], images, focal)


def _picture(path: Path, size: int) -> torch.Tensor:
    """[S, S, 4]: colour times alpha, alpha."""
    from PIL import Image

    path = path if path.suffix else path.with_suffix(".png")
    if not path.is_file():
        raise MissingData(f"the picture {path.name} is absent from {path.parent.name}")
    with Image.open(path) as opened:
        values = torch.from_numpy(np.asarray(opened.convert("RGBA")).astype(np.float32) / 255)
    if values.shape[0] != values.shape[1]:
        raise MissingData(f"{path.name} is not square: {tuple(values.shape[:2])}")
    values = torch.cat((values[..., :3] * values[..., 3:], values[..., 3:]), 2)
    if size:
        values = torch.nn.functional.adaptive_avg_pool2d(values.permute(2, 0, 1), size).permute(1, 2, 0)
    return values.contiguous()
