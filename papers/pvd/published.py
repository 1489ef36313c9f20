"""The published fields on the meta device: parameters, storage, and work for a point."""

from __future__ import annotations

import torch

from papers.pvd.paper import KINDS, SHAPES
from repro.models.radiance_fields import HashField, RadianceField, VMField, make_field
from repro.profiling.counts import count_flops

MIB = 2**20


def on_meta(kind: str) -> RadianceField:
    """A published field without storage."""
    with torch.device("meta"):
        return make_field(kind, **SHAPES["published"][kind])


def work(field: RadianceField) -> float:
    """Multiply-accumulates of one point in its networks; interpolation left out."""
    x = torch.empty(1, 3, device="meta")
    if isinstance(field, HashField):
        return float(sum(p.numel() for net in (field.sigma_net, field.colour_net) for p in net.parameters()))
    return count_flops(lambda: field(x, x)) / 2


def reads(field: RadianceField) -> float:
    """Numbers that interpolation reads for one point."""
    if isinstance(field, HashField):
        return float(8 * field.grid.features)
    if isinstance(field, VMField):
        return float(field.plane.shape[1] * 3 * (4 + 2))
    grid = getattr(field, "grid", None)
    return float(8 * grid.shape[1]) if isinstance(grid, torch.Tensor) else 0.0


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {}
    for kind in KINDS:
        field = on_meta(kind)
        out[f"parameters_{kind}"] = float(sum(p.numel() for p in field.parameters()))
        out[f"storage_mib_{kind}"] = 4 * out[f"parameters_{kind}"] / MIB
        out[f"point_macs_{kind}"] = work(field)
        out[f"point_reads_{kind}"] = reads(field)
        for part in ("sigma_net", "colour_net"):
            if hasattr(field, part):
                out[f"parameters_{part}"] = float(sum(p.numel() for p in getattr(field, part).parameters()))
    for kind in KINDS:
        out[f"ratio_{kind}_mlp"] = out[f"parameters_{kind}"] / out["parameters_mlp"]
    return out
