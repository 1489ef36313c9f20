"""Which of the stored records answer a question: those made with the configuration asked for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from repro.claims.contract import ACCOUNTING, Paper
from repro.records.schema import Record, plain


def standard(
    paper: Paper, records: Iterable[Record], scale: str, overrides: Mapping[str, Any] | None = None
) -> list[Record]:
    """The records of a paper at a scale whose configuration is the preset's with ``overrides``, one per cell.

    A store also holds what was tried with other options (``--set``); pooling those would compare arms that were
    trained differently. An option that a record does not know, because the paper got it later, counts as at its
    default there: such a record is stale, but it does not vanish. Of several records for one (setting, arm, seed),
    made by different code, the one that started last counts. Arms are compared on one kind of device: where a setting
    has records of several, the kind with the most of them counts, the processor in a tie. Accounting records belong to
    no scale and are kept.
    """
    cells: dict[tuple[str, str, str, int], Record] = {}
    wanted: dict[tuple[str, str], dict[str, Any] | None] = {}
    defaults = json.loads(json.dumps(plain(asdict(paper.config()))))
    for record in records:
        if record.paper != paper.slug:
            continue
        if record.arm != ACCOUNTING:
            if record.scale != scale:
                continue
            place = (record.setting, record.arm)
            if place not in wanted:
                wanted[place] = _resolved(paper, *place, scale, overrides)
            options = wanted[place]
            if options is None:
                continue
            if not options.items() <= record.config.items() and any(
                record.config.get(k, defaults.get(k)) != v for k, v in options.items()
            ):
                continue
        cell = (record.device_kind, record.setting, record.arm, record.seed)
        if cell not in cells or _started(record) >= _started(cells[cell]):
            cells[cell] = record
    count = Counter((device, setting) for device, setting, _, _ in cells)
    best: dict[str, str] = {}
    for (device, setting), _ in sorted(count.items(), key=lambda c: (-c[1], c[0][0] != "cpu", c[0])):
        best.setdefault(setting, device)
    return [record for (device, setting, _, _), record in cells.items() if device == best[setting]]


def _resolved(
    paper: Paper, setting: str, arm: str, scale: str, overrides: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The configuration as a record spells it; None for an arm or setting that the paper no longer has."""
    try:
        options = paper.resolve(setting, arm, scale, overrides)
    except KeyError:
        return None
    return json.loads(json.dumps(plain(options)))


def _started(record: Record) -> str:
    return str(record.provenance.get("started", ""))
