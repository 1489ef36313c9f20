"""Records that outlive a change of the code, because runs that were repeated on the new code gave the same again.

A change of shared code makes the records of many papers stale, though most changes alter no number. To train everything
anew for each of them would freeze the code. So a stale record is *confirmed* when the same arm, with the same
configuration, was run again under one of its seeds on the code that is here, and everything that it found and counted
is equal to the last digit. That is evidence from a sample, not proof: pages say `confirmed`, never `current`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable

from repro.records.schema import Record


def confirmed(records: Iterable[Record], stale: Collection[str]) -> dict[str, str]:
    """Keys of stale records that are confirmed, each with the key of the repeated run that says so.

    Args:
        records: of one store; those made by earlier code and those that repeat them.
        stale: keys of the records whose code has changed.

    A single seed that was repeated and differs leaves all records of that arm and code unconfirmed.
    """
    if not stale:
        return {}
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record.status in ("ok", "diverged"):
            groups[_place(record)].append(record)
    out: dict[str, str] = {}
    for members in groups.values():
        current = {r.seed: r for r in members if r.key not in stale}
        if not current:
            continue
        by_code: dict[str, list[Record]] = defaultdict(list)
        for record in members:
            if record.key in stale:
                by_code[record.code].append(record)
        for old in by_code.values():
            repeated = [(record, current[record.seed]) for record in old if record.seed in current]
            if repeated and all(same(*pair) for pair in repeated):
                out |= dict.fromkeys((record.key for record in old), repeated[0][1].key)
    return out


def same(a: Record, b: Record) -> bool:
    """Whether two runs found, counted and read the same; what a clock or the machine's memory decides aside."""
    return (a.results, a.counts, a.read) == (b.results, b.counts, b.read)


def _place(record: Record) -> tuple[str, ...]:
    config = json.dumps(record.config, sort_keys=True)
    return record.paper, record.scale, record.setting, record.arm, record.device_kind, config
