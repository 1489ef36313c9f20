"""From records to verdicts: worked examples, and every way in which a verdict must be withheld."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy import stats

from repro.claims import (
    ACCOUNTING,
    Computed,
    Contrast,
    Equivalence,
    Interval,
    Match,
    NonInferiority,
    Ordering,
    Precondition,
    Superiority,
    judge,
    mean_interval,
)
from repro.claims.judge import PLACEBO_SHIFT, combine, decide
from repro.claims.statistics import seeds_to_settle
from repro.records import Record

B_OVER_A = {"a": 1.0, "b": -1.0}


def contrast(rule=None, **more):
    return Contrast("k", "b against a", B_OVER_A, "loss", rule or Superiority(), **more)


def only(judgements):
    (judgement,) = judgements
    return judgement


def finding(judgements):
    (found,) = only(judgements).findings
    return found


def test_effects_are_paired_percentages_of_the_baseline(paper_of, records_of):
    paper = paper_of(contrast(relative_to="a"))
    a, b = [2.0, 4.0, 5.0], [1.9, 3.7, 4.4]
    found = finding(judge(paper, records_of({"a": a, "b": b}), "laptop"))
    effects = [100 * (x - y) / x for x, y in zip(a, b, strict=True)]  # 5, 7.5, 12 percent
    expected = stats.ttest_1samp(effects, 0).confidence_interval(0.95)
    assert (found.effect.low, found.effect.high) == pytest.approx((expected.low, expected.high))
    assert found.effect.mean == pytest.approx(8.1666667)
    assert found.unit == "%"
    assert found.seeds == (0, 1, 2)
    assert found.ratio == pytest.approx(found.effect.mean / 1.0)
    assert found.arms["a"].mean == pytest.approx(11 / 3)
    assert set(found.records) == {f"s-{arm}-{s}" for arm in "ab" for s in range(3)}


def test_a_negative_metric_keeps_the_sign_of_its_effect(paper_of, records_of):
    """Log-likelihoods are negative; percent of a negative base must not turn a gain into a loss."""
    paper = paper_of(Contrast("k", "", {"b": 1.0, "a": -1.0}, "loss", Superiority(), relative_to="a"))
    found = finding(judge(paper, records_of({"a": [-2.0, -2.1, -2.2], "b": [-1.8, -1.9, -2.0]}), "laptop"))
    assert found.effect.mean > 0
    assert found.verdict == "reproduced"


def test_a_contrast_may_weigh_several_arms_and_a_constant(paper_of, records_of):
    paper = paper_of(Contrast("k", "", {"a": 0.5, "b": -1.0, "c": 2.0}, "loss", Superiority(), offset=1.0))
    found = finding(judge(paper, records_of({"a": [2, 2, 4], "b": [1, 2, 3], "c": [1, 1, 2]}), "laptop"))
    assert found.effect.mean == pytest.approx((3 + 2 + 4) / 3)


EXACT = [
    (Superiority(), [1.0, 1.1, 1.2], "reproduced"),
    (Superiority(1.0), [1.0, 1.1, 1.2], "reproduced"),
    (Superiority(1.5), [1.0, 1.1, 1.2], "partly"),
    (Superiority(), [-1.0, -1.1, -1.2], "contradicted"),
    (Superiority(), [-1.0, 0.3, 1.2], "inconclusive"),
    (Superiority(3.0), [-0.1, 0.0, 0.2], "contradicted"),
    (NonInferiority(1.0), [0.0, -0.1, 0.1], "reproduced"),
    (NonInferiority(1.0, 0.0), [-0.2, -0.1, -0.3], "partly"),
    (NonInferiority(1.0), [-2.0, -2.1, -2.2], "contradicted"),
    (NonInferiority(1.0), [-2.0, 0.0, 1.0], "inconclusive"),
    (Equivalence(1.0), [0.1, 0.0, -0.1], "reproduced"),
    (Equivalence(1.0), [2.1, 2.0, 1.9], "contradicted"),
    (Equivalence(1.0), [-2.1, -2.0, -1.9], "contradicted"),
    (Equivalence(1.0), [0.8, 1.0, 1.1], "inconclusive"),
]


@pytest.mark.parametrize(("rule", "effects", "verdict"), EXACT)
def test_the_rules_on_clear_cases(rule, effects, verdict, paper_of, records_of):
    records = records_of({"a": [10 + e for e in effects], "b": [10.0] * 3})
    found = finding(judge(paper_of(contrast(rule)), records, "laptop"))
    assert found.verdict == verdict, found.reason
    assert only(judge(paper_of(contrast(rule)), records, "laptop")).verdict == verdict
    assert (found.settle is None) == (verdict != "inconclusive")


@pytest.mark.parametrize("rule", [Superiority(), Superiority(0.4), NonInferiority(0.5), Equivalence(0.5)])
@pytest.mark.parametrize("mean", [-0.35, -0.05, 0.05, 0.15, 0.3, 0.9])
def test_the_seeds_to_settle_are_the_fewest_at_which_the_rule_decides(rule, mean):
    def after(n):
        half = stats.t.ppf(0.975, n - 1) * 1.0 / math.sqrt(n)
        return decide(rule, Interval(mean, mean - half, mean + half, n, 1.0))

    verdict, _, boundaries = after(3)
    assert verdict == "inconclusive"
    wanted = seeds_to_settle(Interval(mean, mean - 9, mean + 9, 3, 1.0), boundaries)
    fewest = next(n for n in range(2, 10_000) if after(n)[0] != "inconclusive")
    assert wanted == pytest.approx(fewest, rel=0.02)  # large numbers are looked for in steps


def test_orders_are_told_from_the_best_on_and_ties_are_no_order(paper_of, records_of):
    arms = {"a": [3.0, 3.1, 3.2], "b": [2.0, 2.1, 2.2], "c": [1.0, 1.1, 1.2]}
    high = finding(
        judge(paper_of(Ordering("o", "", ("a", "b", "c"), "loss", lower_is_better=False)), records_of(arms), "laptop")
    )
    assert (high.verdict, high.rule) == ("reproduced", "Page's trend test, p <= 0.025: a > b > c")
    assert high.reason.startswith("measured a > b > c; p = ")
    for names in (("c", "b", "a"), ("c", "a", "b")):  # whatever the equal ones are called
        low, tied, highest = names
        records = records_of({low: [1.0, 1.1, 1.2, 1.3], tied: [2.0, 2.1, 2.2, 2.3], highest: [2.1, 2.2, 2.3, 2.0]})
        equal = finding(judge(paper_of(Ordering("o", "", names, "loss")), records, "laptop"))
        assert equal.verdict == "partly"
        assert f"{low} < " in equal.reason
        assert " = " in equal.reason


def test_boundaries_belong_to_nobody():
    touching = mean_interval([0.0, 0.0, 0.0])
    assert decide(Superiority(), touching)[0] == "inconclusive"
    assert decide(NonInferiority(0.0), touching)[0] == "inconclusive"


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_seeds_are_inconclusive_however_clear(n, paper_of, records_of):
    found = finding(judge(paper_of(contrast()), records_of({"a": [5.0] * n, "b": [1.0] * n}), "laptop"))
    assert found.verdict == "inconclusive"
    assert f"{n} paired seeds, 3 needed" in found.reason


def test_only_seeds_that_all_arms_share_are_paired(paper_of, records_of):
    records = records_of({"a": [3.0, 3.1, 3.2, 3.3]}) + records_of({"b": [1.0, 1.1]}, seeds=[1, 7])
    found = finding(judge(paper_of(contrast()), records, "laptop"))
    assert found.seeds == (1,)
    assert found.verdict == "inconclusive"


@pytest.mark.parametrize("status", ["diverged", "failed", "timeout", "memory"])
def test_a_run_that_did_not_end_well_is_named_not_dropped(status, paper_of, records_of):
    records = records_of({"a": [3.0] * 5, "b": [1.0] * 5}, status={("b", 2): status})
    found = finding(judge(paper_of(contrast()), records, "laptop"))
    assert found.verdict == "inconclusive"
    assert f"b seed 2: {status}" in found.reason
    assert 2 in found.seeds


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_inconclusive(value, paper_of, records_of):
    records = records_of({"a": [3.0] * 4, "b": [1.0, 1.1, value, 1.0]})
    found = finding(judge(paper_of(contrast()), records, "laptop"))
    assert found.verdict == "inconclusive"
    assert "not finite" in found.reason
    ordering = paper_of(Ordering("o", "", ("b", "a"), "loss"))
    assert finding(judge(ordering, records, "laptop")).verdict == "inconclusive"


def test_a_metric_that_is_absent_is_inconclusive(paper_of, records_of):
    records = records_of({"a": [3.0] * 3, "b": [1.0] * 3}, metric="accuracy")
    assert finding(judge(paper_of(contrast()), records, "laptop")).verdict == "inconclusive"


def test_arms_that_are_not_matched_are_unfair_with_the_numbers(paper_of, records_of):
    profile = {"a": {"train_tokens": 1000.0}, "b": {"train_tokens": 1030.0}}
    records = records_of({"a": [3.0, 3.1, 3.2], "b": [1.0, 1.1, 1.3]}, profile=profile)
    strict = finding(judge(paper_of(contrast(matched=(Match("train_tokens"),))), records, "laptop"))
    assert strict.verdict == "unfair"
    assert "train_tokens differs by 3.00%" in strict.reason
    assert strict.audit[0].values == {"a": 1000.0, "b": 1030.0}
    assert strict.audit[0].deviation == pytest.approx(0.03)
    loose = finding(judge(paper_of(contrast(matched=(Match("train_tokens", 0.03),))), records, "laptop"))
    assert loose.verdict == "reproduced"
    assert loose.audit[0].ok


def test_a_quantity_that_was_not_measured_is_unfair(paper_of, records_of):
    records = records_of({"a": [3.0] * 3, "b": [1.0] * 3}, profile={"a": {"train_tokens": 10.0}})
    assert (
        finding(judge(paper_of(contrast(matched=(Match("train_tokens", 9.0),))), records, "laptop")).verdict == "unfair"
    )


def test_arms_of_a_precondition_are_not_matched(paper_of, records_of):
    condition = Precondition("c is trained", {"c": 1.0}, "loss")
    records = records_of(
        {"a": [3.0, 3.1, 3.2], "b": [1.0, 1.0, 1.1], "c": [1.0, 1.1, 1.2]},
        profile={"a": {"train_tokens": 1.0}, "b": {"train_tokens": 1.0}, "c": {"train_tokens": 9.0}},
    )
    paper = paper_of(contrast(matched=(Match("train_tokens"),), preconditions=(condition,)))
    assert finding(judge(paper, records, "laptop")).verdict == "reproduced"


def test_a_failed_precondition_withholds_the_verdict_and_is_named(paper_of, records_of):
    condition = Precondition("the teacher beats chance", {"c": 1.0}, "loss", offset=-1.0)
    paper = paper_of(contrast(preconditions=(condition,)))
    arms = {"a": [3.0, 3.1, 3.2], "b": [1.0, 1.0, 1.1]}
    held = finding(judge(paper, records_of({**arms, "c": [2.0, 2.1, 2.2]}), "laptop"))
    assert held.verdict == "reproduced"
    missed = finding(judge(paper, records_of({**arms, "c": [0.9, 1.0, 1.1]}), "laptop"))
    assert missed.verdict == "inconclusive"
    assert "the teacher beats chance" in missed.reason


def test_a_run_that_ended_well_but_lacks_the_metric_is_named(paper_of, records_of):
    condition = Precondition("the teacher beats chance", {"c": 1.0}, "loss", offset=-1.0)
    arms = {"a": [3.0, math.nan, 3.2], "b": [1.0, 1.0, math.nan]}
    found = finding(judge(paper_of(contrast()), records_of(arms), "laptop"))
    assert (found.verdict, found.reason) == ("inconclusive", "loss is not finite: a seed 1, b seed 2")
    paper = paper_of(contrast(preconditions=(condition,)))
    both = finding(judge(paper, records_of({**arms, "c": [0.9, 1.0, 1.1]}), "laptop"))
    assert both.reason == "precondition not met: the teacher beats chance; loss is not finite: a seed 1, b seed 2"
    other = replace(condition, metric="accuracy", terms={"c": 1.0}, offset=-0.5)
    whole = {"a": [3.0, 3.1, 3.2], "b": [1.0, 1.0, 1.1]}
    asked = records_of(whole) + records_of({"c": [0.80, 0.81, 0.82]}, metric="accuracy")
    held = finding(judge(paper_of(contrast(preconditions=(other,))), asked, "laptop"))
    assert held.verdict == "reproduced"  # an arm that only a precondition reads need not have the metric
    assert set(held.arms) == {"a", "b"}
    order = finding(judge(paper_of(Ordering("o", "", ("b", "a"), "loss")), records_of(arms), "laptop"))
    assert (order.verdict, order.reason) == ("inconclusive", "loss is not finite: b seed 2, a seed 1")


def test_settings_are_never_pooled(paper_of, records_of):
    paper = paper_of(contrast(), settings=("s", "t", "u"))
    records = records_of({"a": [3.0, 3.1, 3.2], "b": [1.0, 1.0, 1.1]}, setting="s")
    records += records_of({"a": [1.0, 1.0, 1.1], "b": [3.0, 3.1, 3.2]}, setting="t")
    judged = only(judge(paper, records, "laptop"))
    assert {f.setting: f.verdict for f in judged.findings} == {"s": "reproduced", "t": "contradicted"}
    assert judged.verdict == "mixed"


def test_only_primary_parts_decide(paper_of, records_of):
    paper = paper_of(
        contrast(),
        Contrast("other", "", {"b": 1.0, "a": -1.0}, "loss", Superiority(), role="secondary"),
    )
    judged = only(judge(paper, records_of({"a": [3.0, 3.1, 3.2], "b": [1.0, 1.0, 1.1]}), "laptop"))
    assert judged.verdict == "reproduced"
    assert judged.findings[1].verdict == "contradicted"


def test_a_negative_control_trips_when_the_effect_is_there(paper_of, records_of):
    paper = paper_of(contrast(), contrast(role="control", settings=("t",)), settings=("s", "t"))
    gain = {"a": [3.0, 3.1, 3.2], "b": [1.0, 1.0, 1.1]}
    none = {"a": [1.0, 1.2, 0.9], "b": [1.1, 1.0, 1.0]}
    main = records_of(gain, setting="s")
    assert only(judge(paper, main + records_of(none, setting="t"), "laptop")).tripped == ()
    tripped = only(judge(paper, main + records_of(gain, setting="t"), "laptop"))
    assert [f.setting for f in tripped.tripped] == ["t"]
    assert tripped.verdict == "reproduced"


def test_smoke_scale_never_gives_a_verdict(paper_of, records_of):
    records = records_of({"a": [3.0, 3.1, 3.2], "b": [1.0, 1.0, 1.1]}, scale="smoke")
    failing = records_of({"a": [3.0], "b": [1.0]}, scale="smoke", status={("b", 0): "failed"})
    for given in (records, records[:2], failing):
        for comparison in (contrast(), Ordering("o", "", ("b", "a"), "loss")):
            judged = only(judge(paper_of(comparison), given, "smoke"))
            assert judged.verdict == "untested"
            assert {f.verdict for f in judged.findings} == {"untested"}
            assert not judged.tripped
    assert "b seed 0: failed" in finding(judge(paper_of(contrast()), failing, "smoke")).reason


def test_other_scales_do_not_count(paper_of, records_of):
    records = records_of({"a": [3.0] * 3, "b": [1.0] * 3}, scale="gpu")
    assert only(judge(paper_of(contrast()), records, "laptop")).verdict == "untested"


def test_a_missing_arm_is_untested_and_named(paper_of, records_of):
    found = finding(judge(paper_of(contrast()), records_of({"a": [3.0] * 3}), "laptop"))
    assert found.verdict == "untested"
    assert "no records of b" in found.reason


def test_an_ordering_wants_every_neighbour_in_place(paper_of, records_of):
    paper = paper_of(Ordering("o", "", ("a", "b", "c"), "loss"))

    def verdict(a, b, c):
        return finding(judge(paper, records_of({"a": a, "b": b, "c": c}), "laptop")).verdict

    assert verdict([1, 1, 1], [2, 2, 2], [3, 3, 3]) == "reproduced"
    assert verdict([3, 3, 3], [2, 2, 2], [1, 1, 1]) == "contradicted"
    assert verdict([1, 3, 2], [2, 1, 3], [3, 2, 1]) == "inconclusive"
    swapped = {"a": [2.0] * 6, "b": [1.9, 2.1, 1.9, 2.1, 1.9, 1.9], "c": [3.0] * 6}
    assert finding(judge(paper, records_of(swapped), "laptop")).verdict == "partly"
    higher = paper_of(Ordering("o", "", ("a", "b", "c"), "loss", lower_is_better=False))
    arms = {"a": [3, 3, 3], "b": [2, 2, 2], "c": [1, 1, 1]}
    assert finding(judge(higher, records_of(arms), "laptop")).verdict == "reproduced"


def accounting(**metrics):
    return Record("k", "made_up", ACCOUNTING, ACCOUNTING, "published", 0, "ok", {}, "0", metrics=metrics)


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(100.0, "reproduced"), (101.0, "reproduced"), (101.1, "contradicted"), (98.9, "contradicted")],
)
def test_computed_figures_must_round_to_the_published_one(value, verdict, paper_of):
    paper = paper_of(Computed("c", "", "params", 100.0, 0.01), kind="cost")
    judged = only(judge(paper, [accounting(params=value)], "smoke"))
    assert judged.verdict == verdict
    assert judged.findings[0].computed == value


def test_a_published_figure_of_zero_must_be_met_exactly(paper_of):
    paper = paper_of(Computed("c", "", "params", 0.0, 0.01), kind="cost")
    assert only(judge(paper, [accounting(params=0.0)], "laptop")).verdict == "reproduced"
    assert only(judge(paper, [accounting(params=1.0)], "laptop")).verdict == "contradicted"


def test_a_figure_that_was_not_computed_is_untested(paper_of):
    paper = paper_of(Computed("c", "", "params", 100.0, 0.01), kind="cost")
    assert only(judge(paper, [], "laptop")).verdict == "untested"
    assert only(judge(paper, [accounting(other=1.0)], "laptop")).verdict == "untested"
    assert only(judge(paper, [accounting(params=math.nan)], "laptop")).verdict == "inconclusive"


def test_a_claim_without_comparisons_is_untested(paper_of):
    assert only(judge(paper_of(), [], "laptop")).verdict == "untested"


def test_disagreeing_verdicts_are_mixed_and_untried_ones_do_not_vote():
    assert combine([]) == "untested"
    assert combine(["untested", "reproduced"]) == "reproduced"
    assert combine(["reproduced", "inconclusive"]) == "mixed"


def test_a_placebo_reads_the_baseline_twice(paper_of, records_of):
    paper = paper_of(
        contrast(relative_to="a"),
        Contrast("three", "", {"a": 1.0, "b": -2.0, "c": 1.0}, "loss", Superiority()),
        Ordering("o", "", ("a", "b"), "loss"),
        Computed("c", "", "params", 1.0, 0.1),
    )
    records = records_of({"a": [2.0, 2.0, 2.0]}) + records_of(
        {"a": [1.0, 1.1, 0.9]}, seeds=[PLACEBO_SHIFT + s for s in range(3)]
    )
    found = finding(judge(paper, records, "laptop", placebo=True))
    assert found.effect.mean == pytest.approx(50.0)
    assert found.seeds == (0, 1, 2)
    tuning = records_of({"a": [9.0] * 3}, seeds=[2 * PLACEBO_SHIFT + s for s in range(3)])
    assert finding(judge(paper, records + tuning, "laptop", placebo=True)) == found, "tuning seeds are not read"
    others = records_of({"b": [1.0] * 6}, seeds=[*range(3), *(PLACEBO_SHIFT + s for s in range(3))])
    plain = finding(judge(paper_of(contrast()), records + others, "laptop"))
    assert plain.seeds == (0, 1, 2), "shifted seeds stay out of ordinary judgements"
    assert plain.effect.mean == pytest.approx(1.0)


def test_a_placebo_asks_for_an_effect_also_where_the_claim_is_that_there_is_none(paper_of, records_of):
    shifted = [PLACEBO_SHIFT + s for s in range(3)]
    records = records_of({"a": [2.0, 2.1, 1.9]}) + records_of({"a": [2.1, 1.9, 2.0]}, seeds=shifted)
    for rule in (NonInferiority(5.0), Equivalence(5.0)):
        assert finding(judge(paper_of(contrast(rule)), records, "laptop", placebo=True)).verdict == "inconclusive"


def test_a_placebo_run_that_failed_is_named(paper_of, records_of):
    shifted = [PLACEBO_SHIFT + s for s in range(3)]
    records = records_of({"a": [2.0, 2.0, 2.0]}) + records_of(
        {"a": [2.0, 2.1, 1.9]}, seeds=shifted, status={("a", shifted[1]): "failed"}
    )
    found = finding(judge(paper_of(contrast()), records, "laptop", placebo=True))
    assert found.verdict == "inconclusive"
    assert f"a seed {shifted[1]}: failed" in found.reason


def test_a_placebo_baseline_of_zero_is_inconclusive(paper_of, records_of):
    records = records_of({"a": [0.0, 0.0, 0.0]}) + records_of(
        {"a": [0.0, 0.0, 0.0]}, seeds=[PLACEBO_SHIFT + s for s in range(3)]
    )
    found = finding(judge(paper_of(contrast(relative_to="a")), records, "laptop", placebo=True))
    assert found.verdict == "inconclusive"


def test_judging_is_a_pure_function_of_the_set_of_records(paper_of, records_of):
    records = records_of({"a": [3.0, 3.1, 3.2], "b": [1.0, 1.0, 1.1]})
    paper = paper_of(contrast())
    assert judge(paper, records, "laptop") == judge(paper, records[::-1], "laptop")
