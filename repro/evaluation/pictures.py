"""Pictures that a run leaves for its paper's page: images, sheets of them, and charts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from repro.runner.outcome import Picture


def image(pixels: Any, text: str, scale: int = 1) -> Picture:
    """A PNG of ``pixels``: [H, W] grey, [3, H, W] or [H, W, 3] colour; uint8, or floats that are cut to [0, 1].

    Args:
        text: what it shows, in words.
        scale: every pixel becomes a square of so many.

    Raises ValueError for another shape.
    """
    from PIL import Image

    array = _bytes(pixels)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"an image is [H, W], [3, H, W] or [H, W, 3], not {list(array.shape)}")
    array = array.repeat(scale, 0).repeat(scale, 1)
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(out, "PNG", optimize=True)
    return Picture("png", out.getvalue(), text)


def sheet(images: Any, text: str, columns: int = 8, gap: int = 1, scale: int = 1) -> Picture:
    """Images [N, C, H, W] (C 1 or 3) or [N, H, W] in rows of ``columns``, white lines of ``gap`` pixels between them.

    Raises ValueError for another shape or no image.
    """
    array = _bytes(images)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or array.shape[1] not in (1, 3) or not len(array):
        raise ValueError(f"images are [N, C, H, W] with one or three channels, not {list(array.shape)}")
    count, channels, height, width = array.shape
    rows = -(-count // columns)
    columns = min(columns, count)
    page = np.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255, np.uint8)
    for i, one in enumerate(array):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        page[:, top : top + height, left : left + width] = one
    return image(page if channels == 3 else page[0], text, scale)


def chart(
    series: Mapping[str, Mapping[str, Sequence[float]]], x: str, y: str, text: str, *, points: bool = False,
    log_x: bool = False, log_y: bool = False,
) -> Picture:  # fmt: skip
    """An SVG of lines by name, each ``{"x": [...], "y": [...]}`` and, for a band, ``"low"`` and ``"high"``.

    Args:
        x, y: titles of the axes.
        points: marks at the points (a front of few points) instead of lines alone.

    Raises ValueError for a series whose parts differ in length.
    """
    import altair as alt
    import vl_convert

    rows: list[dict[str, Any]] = []
    for name, parts in series.items():
        if len({len(part) for part in parts.values()}) != 1:
            raise ValueError(f"series {name!r} has parts of different lengths")
        rows += [
            {"name": name, **dict(zip(parts, values, strict=True))} for values in zip(*parts.values(), strict=True)
        ]
    base = alt.Chart(alt.Data(values=rows))  # type: ignore[no-untyped-call]
    horizontal = alt.X("x:Q", title=x, scale=alt.Scale(type="log" if log_x else "linear", zero=False))
    colour = alt.Color("name:N", title=None, sort=list(series))
    scale = alt.Scale(type="log" if log_y else "linear", zero=False)
    layers: list[Any] = []
    if any("low" in parts for parts in series.values()):
        layers.append(base.mark_area(opacity=0.2).encode(horizontal, alt.Y("low:Q", title=y), alt.Y2("high:Q"), colour))
    layers.append(base.mark_line(point=points).encode(horizontal, alt.Y("y:Q", title=y, scale=scale), colour))
    drawn = alt.layer(*layers).properties(width=320, height=220)
    return Picture("svg", vl_convert.vegalite_to_svg(drawn.to_json()).encode(), text)


def _bytes(pixels: Any) -> np.ndarray:
    array = np.asarray(pixels)
    if array.dtype == np.uint8:
        return array
    return (np.nan_to_num(array.astype(np.float64)).clip(0, 1) * 255).round().astype(np.uint8)
