"""Heat maps as pictures for a paper's page."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from repro.runner.outcome import Picture


def heat_maps(
    panels: Mapping[str, Any], x: str, y: str, value: str, text: str, *, columns: int = 4, cell: int = 9,
    top: float | None = None,
) -> Picture:  # fmt: skip
    """A PNG of panels side by side, each a matrix ``[rows, columns]`` with one colour scale from 0 for all.

    Args:
        x, y: titles of the axes: what columns and rows are.
        value: title of the colour scale.
        cell: side of an entry in pixels.
        top: value of the last colour; None: the largest there is.

    Raises ValueError without a panel or for one that is no matrix.
    """
    import altair as alt
    import vl_convert
    from PIL import Image

    matrices = {name: np.asarray(matrix, float) for name, matrix in panels.items()}
    if not matrices or any(m.ndim != 2 for m in matrices.values()):
        raise ValueError("heat maps are made of one or more matrices")
    high = top if top is not None else max(float(np.nanmax(m)) for m in matrices.values())
    rows = [
        {"panel": name, "x": j, "y": i, "v": round(float(v), 4)}
        for name, m in matrices.items()
        for i, line in enumerate(m)
        for j, v in enumerate(line)
    ]
    shape = next(iter(matrices.values())).shape
    base = alt.Chart(alt.Data(values=rows)).mark_rect()  # type: ignore[no-untyped-call]
    drawn = base.encode(
        alt.X("x:O", title=x, axis=alt.Axis(labels=False, ticks=False)),
        alt.Y("y:O", title=y, axis=alt.Axis(labels=False, ticks=False)),
        alt.Color("v:Q", title=value, scale=alt.Scale(scheme="viridis", domain=[0, high])),
    ).properties(width=cell * shape[1], height=cell * shape[0])
    faceted = drawn.facet(
        facet=alt.Facet("panel:N", title=None, sort=list(matrices)), columns=columns, spacing=10
    ).resolve_scale(x="independent", y="independent")  # fmt: skip
    page = Image.open(io.BytesIO(vl_convert.vegalite_to_png(faceted.to_json(), scale=1.5))).convert("RGB")
    out = io.BytesIO()
    page.quantize(96).save(out, "PNG", optimize=True)
    return Picture("png", out.getvalue(), text)
