"""Sites built from made-up records, shared by the tests of this folder."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import synthetic

from leaderboard.build import build
from repro.papers import load_paper
from repro.records import write_reference


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """Chain-of-Experts from reference records, hostile local ones, files that cannot be read."""
    root = tmp_path_factory.mktemp("one")
    write_reference(synthetic.coe_records(), root / "reference")
    local = root / "local"
    synthetic.write(
        [synthetic.coe_record("composition", a, s, shift=1.0) for a in ("moe", "coe") for s in range(3)], local
    )
    synthetic.write(synthetic.hostile_records(), local)
    (local / "coe" / "laptop" / "broken.json").write_text('{"schema": 1, "key": "<b>half')
    (local / "coe" / "laptop" / "future.json").write_text('{"schema": 99}')
    (local / "nobody" / "laptop").mkdir(parents=True)
    synthetic.write_benchmark(root / "bench")
    return build(root / "reference", local, root / "site", papers=[load_paper("coe")]).parent


@pytest.fixture(scope="session")
def many(tmp_path_factory) -> Path:
    """Eighty-five papers: Chain-of-Experts, stale made-up ones, one that nobody has run, one with hostile facts."""
    root = tmp_path_factory.mktemp("many")
    papers = [load_paper("coe"), *(synthetic.made_up_paper(i) for i in range(83)), synthetic.hostile_paper()]
    records = synthetic.coe_records(seeds=(0, 1, 2))
    for paper in papers[1:-1]:
        if paper.slug == "made_up_07":
            continue
        own = synthetic.made_up_records(paper)
        records += [replace(r, code="0" * 16) for r in own] if paper.slug == "made_up_03" else own
    write_reference(records, root / "reference")
    return build(root / "reference", None, root / "site", papers=papers).parent
