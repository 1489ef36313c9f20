"""Rows: which records they rest on, whether these are stale, and how numbers are put into words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import synthetic
from rich.console import Console

from repro import report
from repro.claims import Interval, Match, judge
from repro.claims.judge import PLACEBO_SHIFT
from repro.cli.show import claims_table, show
from repro.papers import load_paper
from repro.records import write_reference

PAPER = load_paper("coe")


def pick(story, claim="C1", part="vs-moe", setting="composition"):
    (row,) = [r for r in story.rows if (r.claim, r.part, r.finding.setting) == (claim, part, setting)]
    return row


def some(seeds=(0, 1, 2), shift=0.0, code=None, settings=("composition", "stdlib")):
    return [
        synthetic.coe_record(s, a, n, code=code, shift=shift) for s in settings for a in ("moe", "coe") for n in seeds
    ]


def test_local_records_show_where_they_say_something_and_reference_ones_elsewhere():
    story = report.story(PAPER, some(), some(settings=("composition",), shift=5.0))
    assert pick(story).origin == "local"
    assert pick(story, setting="stdlib").origin == "reference"
    assert pick(story).finding.effect.mean > pick(report.story(PAPER, some())).finding.effect.mean + 3


def test_local_records_that_say_nothing_leave_the_reference_row():
    half = [r for r in some() if r.arm == "moe"]
    assert pick(report.story(PAPER, some(), half)).origin == "reference"


def test_no_row_mixes_the_records_of_two_origins():
    reference, local = some(seeds=(0, 1, 2)), some(seeds=(3, 4, 5))
    story = report.story(PAPER, reference, local)
    keys = {"reference": {r.key for r in reference}, "local": {r.key for r in local}}
    rows = [r for r in story.rows if r.finding.records]
    assert rows
    for row in rows:
        assert set(row.finding.records) <= keys[row.origin]
        assert len(row.finding.seeds) == 3


def test_the_markdown_side_knows_no_local_records():
    story = report.story(PAPER, some(), some(shift=5.0))
    assert {r.origin for c in story.reference for r in c.rows} <= {"reference", ""}


def test_a_row_is_stale_when_one_record_behind_it_is():
    records = some()
    records[0] = replace(records[0], code="0" * 16)
    story = report.story(PAPER, records)
    assert pick(story).stale
    assert not pick(story, setting="stdlib").stale


def test_what_a_clock_decides_is_not_confirmed_by_a_repeated_run():
    claims = tuple(
        replace(c, comparisons=tuple(
            replace(p, matched=(*p.matched, Match("train_s", 9.0))) if (c.id, p.name) == ("C1", "vs-moe") else p
            for p in c.comparisons
        )) for c in PAPER.claims
    )  # fmt: skip
    old = some()
    records = [
        *(replace(r, code="0" * 16) for r in old), *(replace(r, key=f"new {r.key}") for r in old if r.seed == 0)
    ]  # fmt: skip
    assert pick(report.story(PAPER, records)).age == "confirmed"
    timed = pick(report.story(replace(PAPER, claims=claims), records))
    assert (timed.age, timed.confirmed) == ("stale", 0)


def test_a_row_whose_stale_records_are_confirmed_is_not_stale():
    old = some()
    repeated = [replace(r, key=f"new {r.key}") for r in old if r.seed == 0]
    before = [replace(r, code="0" * 16) for r in old]
    story = report.story(PAPER, [*before, *repeated])
    assert (pick(story).stale, pick(story).age) == (False, "confirmed")
    assert pick(story).confirmed == 2 * (len(pick(story).finding.seeds) - 1)
    other = [replace(r, metrics={**r.metrics, "loss": 9.0}) for r in repeated]
    assert pick(report.story(PAPER, [*before, *other])).age == "stale"
    assert pick(report.story(PAPER, old)).age == ""


def test_accounting_is_stale_by_the_code_of_the_accounting():
    fresh = report.story(PAPER, [synthetic.coe_accounting()])
    old = report.story(PAPER, [synthetic.coe_accounting(code=report.current_code(PAPER.experiment))])
    assert not next(r for r in fresh.rows if r.claim == "C6").stale
    assert next(r for r in old.rows if r.claim == "C6").stale


def test_with_only_the_accounting_done_training_claims_are_untested_at_the_default_scale():
    story = report.story(PAPER, [synthetic.coe_accounting()])
    told = {c.claim.id: c.verdicts for c in story.claims}
    assert told["C1"] == {"laptop": "untested"}
    assert any(r.verdict == "reproduced" and r.finding.scale == "published" for r in story.rows)


def test_a_scale_at_which_nothing_of_a_claim_was_tried_stays_unsaid_beside_one_with_a_verdict():
    gpu = [
        replace(r, setting="gsm8k", scale="gpu", config=PAPER.resolve("gsm8k", "moe", "gpu"))
        for r in some(settings=("stdlib",)) if r.arm == "moe"
    ]  # fmt: skip
    assert gpu
    records = [*some(), *gpu, synthetic.coe_accounting()]
    told = {c.claim.id: c.verdicts for c in report.story(PAPER, records).claims}
    assert list(told["C1"]) == ["laptop"]
    assert list(told["C3"]) == ["published"], "its memory is computed, and nothing of it was tried at a scale"
    assert told["C1"]["laptop"] != "untested"
    assert told["C7"] == {"laptop": "untested"}


def test_records_made_with_other_options_are_listed_and_not_judged():
    odd = [replace(r, config={**r.config, "steps": 7}) for r in some()]
    story = report.story(PAPER, odd)
    assert all(r.verdict == "untested" for r in story.rows)
    assert len(story.records) == len(odd)
    assert not any(s.judged for s in story.records)


def test_placebo_seeds_belong_to_no_row():
    records = some() + some(seeds=tuple(s + PLACEBO_SHIFT for s in range(3)))
    assert pick(report.story(PAPER, records)).finding.seeds == (0, 1, 2)


def test_every_claim_is_told_also_without_records():
    story = report.story(PAPER, [])
    assert [c.claim.id for c in story.claims] == [c.id for c in PAPER.claims]
    assert {v for c in story.claims for v in c.verdicts.values()} == {"untested"}


def test_runs_that_did_not_end_well_are_told():
    story = report.story(PAPER, [], synthetic.hostile_records())
    assert {s.record.status for s in story.unfinished} == {"failed", "diverged"}


def test_the_verdict_over_settings_is_mixed_and_never_pooled():
    story = report.story(PAPER, synthetic.coe_records())
    head = next(c for c in story.claims if c.claim.id == "C1")
    assert head.verdicts == {"laptop": "mixed"}
    assert pick(story).verdict == "reproduced"
    assert pick(story, setting="stdlib").verdict in ("contradicted", "inconclusive")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1234567, "1,234,567"), (0.123456, "0.1235"), (12345.6, "12,346"), (1e-7, "1.000e-07"),
     (math.nan, "nan"), (math.inf, "inf"), (-2.5, "-2.5"), (100.0, "100"), (None, "")],
)  # fmt: skip
def test_numbers(value, text):
    assert report.number(value) == text


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(18.356, 15.98, 20.73, 3, 1.0), "+18.4 % [+16.0, +20.7]"),
        (Interval(-0.0207, -1.81, 1.77, 3, 1.0), "0.0 % [-1.8, +1.8]"),
        (Interval(0.00123, 0.00101, 0.00145, 3, 1.0), "+0.00123 % [+0.00101, +0.00145]"),
        (Interval(2.0, math.nan, math.nan, 1, math.nan), "+2 %"),
        (Interval(math.nan, math.nan, math.nan, 2, math.nan), "no value"),
    ],
)
def test_intervals_keep_the_digits_that_they_warrant(interval, text):
    assert report.interval_text(interval, "%") == text


def test_a_negative_control_says_whether_it_stayed_quiet():
    assert report.row_verdict("control", "contradicted") == "✓ quiet"
    assert report.row_verdict("control", "partly") == "! tripped"
    assert report.row_verdict("primary", "partly") == "◐ partly"


def test_the_table_after_a_run_names_every_part_with_published_and_ours():
    table = claims_table(judge(PAPER, synthetic.coe_records(), "laptop"))
    for word in ("vs-moe", "vs-strict [secondary]", "composition", "+18.4 %", "✓ reproduced", "✓ quiet", "⇅ mixed"):
        assert word in table
    assert max(map(len, table.splitlines())) < 170


def test_the_story_in_the_terminal(tmp_path, monkeypatch):
    write_reference(synthetic.coe_records(), tmp_path / "reference")
    synthetic.write(synthetic.hostile_records(), tmp_path / "local" / "records")
    (tmp_path / "local" / "records" / "coe" / "laptop" / "broken.json").write_text("{")
    monkeypatch.setattr(report, "REFERENCE", tmp_path / "reference")
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "local"))
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show("coe", console)
    text = console.export_text()
    for word in (
        "In-token composition",
        "✓ reproduced",
        "recomputed at the published size",
        "did not end well",
        "broken.json",
    ):
        assert word in text


def test_an_unknown_paper_is_a_key_error():
    with pytest.raises(KeyError):
        report.read_story("nothing-of-that-name")
