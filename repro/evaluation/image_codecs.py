"""Codecs for images, through Pillow, with the bytes that an image itself takes.

Files of small images are mostly headers: tables, sizes, containers. Sender and receiver can agree on these beforehand,
as JPEG's abbreviated format does (ISO/IEC 10918-1, B.5), so only what differs from image to image is counted: for JPEG
the entropy-coded segment under the standard tables, for WebP and AVIF the compressed frame. That favours the codecs.
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

    Raises ValueError for another codec, and what Pillow raises where its build lacks the codec.
    """
    files = [encode_image(image, codec, quality) for image in pixels]
    payload = [CODECS[codec][1](file) for file in files]
    seen = torch.stack([decode_image(file, pixels.shape[1] == 1) for file in files])
    return Coded(seen, torch.tensor(payload), torch.tensor([len(file) for file in files]))


def encode_image(pixels: Tensor, codec: str, quality: int) -> bytes:
    """One image, float [C, H, W] in 0..1, as a file. Raises as `code_images` does."""
    from PIL import Image

    if codec not in CODECS:
        raise ValueError(f"a codec is {', '.join(CODECS)}, not {codec!r}")
    grey = pixels.shape[0] == 1
    array = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    source = Image.fromarray(array[:, :, 0] if grey else array)
    stream = io.BytesIO()
    # only JPEG knows grey files; the others hold a colourless one
    (source if codec == "jpeg" else source.convert("RGB")).save(stream, quality=quality, **CODECS[codec][0](grey))
    return stream.getvalue()


def decode_image(file: bytes, grey: bool) -> Tensor:
    """The image in a file, float [1 or 3, H, W] in 0..1."""
    from PIL import Image

    with Image.open(io.BytesIO(file)) as read:
        array = np.asarray(read.convert("L" if grey else "RGB"))
    found = torch.from_numpy(array.copy()).float() / 255
    return found[None] if grey else found.permute(2, 0, 1).contiguous()


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
    """Bytes of the frame of a lossy WebP file without its start code and size (RFC 6386, 9.1; the three bytes before
    them hold the length of a partition, which the decoder needs). Raises ValueError for another file."""
    if file[:4] != b"RIFF" or file[8:12] != b"WEBP":
        raise ValueError("not a WebP file")
    at = 12
    while at < len(file):
        kind, length = file[at : at + 4], struct.unpack("<I", file[at + 4 : at + 8])[0]
        if kind == b"VP8 ":
            return length - 7
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
