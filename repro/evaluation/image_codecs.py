"""Codecs for images, through Pillow, with the bytes that an image itself takes.

Files of small images are mostly headers: tables, sizes, containers. Sender and receiver can agree on these beforehand,
as JPEG's abbreviated format does (ISO/IEC 10918-1, B.5), so only what differs from image to image is counted: for JPEG the
entropy-coded segment under the standard tables, for WebP and AVIF the compressed frame. That favours the codecs.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Coded(NamedTuple):
    """``pixels`` as the receiver sees them, float [N, C, H, W] in 0..1; ``payload`` and ``file`` LongTensors [N], bytes
    of every image without and with headers."""

    pixels: Tensor
    payload: Tensor
    file: Tensor


def code_images(pixels: Tensor, codec: str, quality: int) -> Coded:
    """Every image through a codec and back.

    Args:
        pixels: float [N, C, H, W] in 0..1, C 1 (grey) or 3.
        codec: ``jpeg``, ``webp`` or ``avif``.
        quality: as Pillow takes it, 0 (smallest) to 100.

    Raises ValueError for another codec, ImportError without Pillow (``pip install 'repro[vision]'``), OSError where this
    build of Pillow lacks the codec.
    """
    from PIL import Image

    if codec not in CODECS:
        raise ValueError(f"a codec is {', '.join(CODECS)}, not {codec!r}")
    options, measure = CODECS[codec]
    grey = pixels.shape[1] == 1
    arrays = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    seen, payload, whole = [], [], []
    for array in arrays:
        source = Image.fromarray(np.ascontiguousarray(array[:, :, 0] if grey else array))
        stream = io.BytesIO()
        (source if codec == "jpeg" else source.convert("RGB")).save(stream, quality=quality, **options(grey))
        written = stream.getvalue()
        payload.append(measure(written))
        whole.append(len(written))
        with Image.open(io.BytesIO(written)) as read:
            seen.append(np.asarray(read.convert("L" if grey else "RGB")))
    back = torch.from_numpy(np.stack(seen)).float() / 255
    back = back[:, None] if grey else back.permute(0, 3, 1, 2)
    return Coded(back.contiguous(), torch.tensor(payload), torch.tensor(whole))


def jpeg_payload(file: bytes) -> int:
    """Bytes of the entropy-coded segment of a baseline JPEG file. Raises ValueError for another file."""
    if file[:2] != b"\xff\xd8" or file[-2:] != b"\xff\xd9":
        raise ValueError("not a whole JPEG file")
    at = 2
    while True:
        mark, length = struct.unpack(">HH", file[at : at + 4])
        at += 2 + length
        if mark == 0xFFDA:  # start of scan: what follows is entropy-coded
            return len(file) - 2 - at


def webp_payload(file: bytes) -> int:
    """Bytes of the frame of a lossy WebP file without its start code and size. Raises ValueError for another file."""
    if file[:4] != b"RIFF" or file[8:12] != b"WEBP":
        raise ValueError("not a WebP file")
    at = 12
    while at < len(file):
        kind, length = file[at : at + 4], struct.unpack("<I", file[at + 4 : at + 8])[0]
        if kind == b"VP8 ":
            return length - 10
        at += 8 + length + length % 2
    raise ValueError("no lossy frame in this WebP file")


def avif_payload(file: bytes) -> int:
    """Bytes of the frame of an AVIF file without its container and sequence header. Raises ValueError for another
    file."""
    if file[4:8] != b"ftyp":
        raise ValueError("not an AVIF file")
    at, found = 0, 0
    while at < len(file):
        length, kind = struct.unpack(">I", file[at : at + 4])[0], file[at + 4 : at + 8]
        if kind == b"mdat":
            found += sum(size for obu, size in _units(file[at + 8 : at + length]) if obu in (3, 4, 6))
        at += length
    return found


def _units(data: bytes) -> list[tuple[int, int]]:
    """Kinds and lengths of the units of an AV1 stream whose units all state their length."""
    at, out = 0, []
    while at < len(data):
        header = data[at]
        at += 2 if header & 4 else 1
        size = shift = 0
        while True:
            byte = data[at]
            at += 1
            size |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                break
        out.append((header >> 3 & 15, size))
        at += size
    return out


#: Options of Pillow (given whether the image is grey) and what measures a file.
CODECS: dict[str, tuple[Callable[[bool], dict[str, Any]], Callable[[bytes], int]]] = {
    "jpeg": (lambda grey: {"format": "JPEG"}, jpeg_payload),
    "webp": (lambda grey: {"format": "WEBP", "method": 6}, webp_payload),
    "avif": (
        lambda grey: {"format": "AVIF", "speed": 6, "max_threads": 1, "subsampling": "4:0:0" if grey else "4:2:0"},
        avif_payload,
    ),
}
