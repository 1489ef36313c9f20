"""How often a verdict is wrong, on simulated studies whose truth is known.

Every rate is measured through `judge` itself. A rate of 2.5 % estimated from n studies has a standard error of
``sqrt(0.025 * 0.975 / n)``; the bounds allow three of them.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from repro.claims import Contrast, Equivalence, NonInferiority, Ordering, Superiority, judge
from repro.claims.judge import PLACEBO_SHIFT

STUDIES = 2500
NOMINAL = 0.025
ALLOWED = NOMINAL + 3 * math.sqrt(NOMINAL * (1 - NOMINAL) / STUDIES)


@pytest.fixture
def rates(paper_of, records_of):
    """Share of each verdict over studies in which b is better than a by ``effect``, seed noise shared by the arms."""

    def measure(rule, effect, seeds, sd=1.0, studies=STUDIES, stream=0):
        rng = np.random.default_rng([stream, seeds])
        paper = paper_of(Contrast("k", "", {"a": 1.0, "b": -1.0}, "loss", rule))
        counts: Counter[str] = Counter()
        for _ in range(studies):
            shared = rng.normal(20.0, 5.0, seeds)
            a = shared + rng.normal(0.0, sd / math.sqrt(2), seeds)
            b = shared - effect + rng.normal(0.0, sd / math.sqrt(2), seeds)
            (judged,) = judge(paper, records_of({"a": a, "b": b}), "laptop")
            counts[judged.verdict] += 1
        return {verdict: count / studies for verdict, count in counts.items()}

    return measure


@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize(
    ("rule", "effect"),
    [
        pytest.param(Superiority(), 0.0, id="superiority-null"),
        pytest.param(NonInferiority(1.5), -1.5, id="non-inferiority-at-its-margin"),
        pytest.param(Equivalence(3.0), 3.0, id="equivalence-at-its-margin"),
        pytest.param(Equivalence(3.0), -3.0, id="equivalence-at-its-lower-margin"),
    ],
)
def test_an_effect_that_is_not_there_is_rarely_reproduced(rule, effect, seeds, rates):
    found = rates(rule, effect, seeds)
    assert found.get("reproduced", 0.0) + found.get("partly", 0.0) <= ALLOWED
    if not isinstance(rule, Equivalence):
        assert found["reproduced"] >= NOMINAL - (ALLOWED - NOMINAL), "the rule wastes its error budget"


def test_many_seeds_keep_the_error_rate_too(rates):
    studies = 300
    found = rates(Superiority(), 0.0, 30, studies=studies)
    assert found.get("reproduced", 0.0) <= NOMINAL + 3 * math.sqrt(NOMINAL * (1 - NOMINAL) / studies)


@pytest.mark.parametrize(
    ("rule", "effect"),
    [
        pytest.param(Superiority(), 0.0, id="superiority-null"),
        pytest.param(NonInferiority(1.5), -1.5, id="non-inferiority-at-its-margin"),
        pytest.param(Equivalence(1.0), 1.0, id="equivalence-at-its-margin"),
    ],
)
def test_an_effect_on_the_boundary_is_rarely_contradicted(rule, effect, rates):
    assert rates(rule, effect, 5).get("contradicted", 0.0) <= ALLOWED


def test_a_true_effect_of_the_size_asked_for_is_rarely_contradicted(rates):
    assert rates(Superiority(1.0), 1.0, 5).get("contradicted", 0.0) <= ALLOWED


def test_clear_effects_are_found(rates):
    """Effect three standard deviations, five seeds: power 99.5 % by the noncentral t."""
    assert rates(Superiority(), 3.0, 5, studies=500)["reproduced"] > 0.95
    assert rates(Superiority(), -3.0, 5, studies=500)["contradicted"] > 0.95
    assert rates(NonInferiority(3.0), 0.0, 5, studies=500)["reproduced"] > 0.95
    assert rates(Equivalence(4.0), 0.0, 5, studies=500)["reproduced"] > 0.95
    assert rates(Equivalence(1.0), 6.0, 5, studies=500)["contradicted"] > 0.95


def test_two_seeds_never_decide(rates):
    assert rates(Superiority(), 50.0, 2, studies=200) == {"inconclusive": 1.0}


@pytest.mark.parametrize("seeds", [3, 6])
def test_orders_that_are_not_there_are_rarely_reproduced(seeds, paper_of, records_of):
    studies = 2000
    rng = np.random.default_rng(seeds)
    paper = paper_of(Ordering("o", "", ("a", "b", "c"), "loss"))
    counts = Counter(
        judge(paper, records_of(dict(zip("abc", rng.normal(size=(3, seeds)), strict=True))), "laptop")[0].verdict
        for _ in range(studies)
    )
    bound = NOMINAL + 3 * math.sqrt(NOMINAL * (1 - NOMINAL) / studies)
    assert (counts["reproduced"] + counts["partly"]) / studies <= bound
    assert counts["contradicted"] / studies <= bound


@pytest.mark.parametrize("seeds", [3, 5])
def test_placebos_are_reproduced_at_no_more_than_the_nominal_rate(seeds, paper_of, records_of):
    rng = np.random.default_rng(seeds)
    paper = paper_of(Contrast("k", "", {"a": 1.0, "b": -1.0}, "loss", Superiority(), relative_to="a"))
    numbers = [*range(seeds), *(PLACEBO_SHIFT + s for s in range(seeds))]
    counts = Counter(
        judge(paper, records_of({"a": rng.normal(3.0, 0.05, 2 * seeds)}, seeds=numbers), "laptop", placebo=True)[
            0
        ].verdict
        for _ in range(STUDIES)
    )
    assert counts["reproduced"] / STUDIES <= ALLOWED
    assert counts["inconclusive"] > 0.9 * STUDIES
