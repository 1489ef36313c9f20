"""Claims as data, verdicts as a pure function of records. Imports no torch."""

from repro.claims.contract import (
    ACCOUNTING,
    SCALES,
    VERDICTS,
    Arm,
    Claim,
    Computed,
    Contrast,
    Equivalence,
    Match,
    NonInferiority,
    Ordering,
    Paper,
    Precondition,
    Preset,
    Published,
    PublishedCurves,
    Series,
    Setting,
    Superiority,
)
from repro.claims.judge import Audited, Finding, Judgement, judge
from repro.claims.statistics import Interval, mean_interval

__all__ = [
    "ACCOUNTING", "SCALES", "VERDICTS", "Arm", "Audited", "Claim", "Computed", "Contrast", "Equivalence", "Finding",
    "Interval", "Judgement", "Match", "NonInferiority", "Ordering", "Paper", "Precondition", "Preset", "Published",
    "PublishedCurves", "Series", "Setting", "Superiority", "judge", "mean_interval",
]  # fmt: skip
