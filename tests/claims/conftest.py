"""A paper and records made up for the occasion, so that the truth behind a verdict is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from repro.claims import Arm, Claim, Paper, Preset, Published, Setting
from repro.records import Record


@dataclass(frozen=True)
class Config:
    steps: int = 10


def build_paper(*comparisons: Any, kind: str = "quality", settings: Sequence[str] = ("s",)) -> Paper:
    claim = Claim("C1", "a beats b", kind, Published("1 %", "Table 1", 1.0), comparisons)  # type: ignore[arg-type]
    return Paper(
        slug="made_up",
        title="Made up",
        short="MU",
        area="tests",
        arxiv="",
        year=2026,
        idea="",
        config=Config,
        arms=tuple(Arm(n, n, "method") for n in "abcd"),
        settings=tuple(Setting(n, n, n, "generated") for n in settings),
        claims=(claim,),
        presets={scale: Preset() for scale in ("smoke", "laptop")},
        experiment="nowhere.run",
    )


def build_records(
    arms: Mapping[str, Sequence[float]],
    setting: str = "s",
    scale: str = "laptop",
    profile: Mapping[str, Mapping[str, float]] | None = None,
    status: Mapping[tuple[str, int], str] | None = None,
    seeds: Sequence[int] | None = None,
    metric: str = "loss",
) -> list[Record]:
    """One record per arm and seed; ``arms`` maps an arm to its metric per seed."""
    return [
        Record(
            key=f"{setting}-{arm}-{seed}",
            paper="made_up",
            setting=setting,
            arm=arm,
            scale=scale,
            seed=seed,
            status=(status or {}).get((arm, seed), "ok"),
            config={"steps": 10},
            code="0",
            metrics={metric: float(value)},
            profile=dict((profile or {}).get(arm, {})),
        )
        for arm, values in arms.items()
        for seed, value in zip(seeds or range(len(values)), values, strict=True)
    ]


@pytest.fixture
def paper_of() -> Callable[..., Paper]:
    return build_paper


@pytest.fixture
def records_of() -> Callable[..., list[Record]]:
    return build_records
