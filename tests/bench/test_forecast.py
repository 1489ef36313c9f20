"""The forecast: where its durations come from, and that the page shows what was computed."""

from __future__ import annotations

import random
import statistics

import pytest

from repro.bench import forecast, pages
from repro.bench.forecast import Part, Throughput, Unknown, derived, examples, forward, job, measured, ratio, suite
from repro.papers import load_paper
from repro.records import Record
from repro.runner import plan
from repro.runner.simulate import Job


def record(config, profile, wall=10.0, arm="a", paper="p", seed=0, setting="s"):
    return Record(
        key=f"{arm}{seed}", paper=paper, setting=setting, arm=arm, scale="laptop", seed=seed, status="ok",
        config=config, code="", profile=profile,
        provenance={"started": f"2026-01-01T10:00:{seed:02d}+00:00", "wall_s": wall},
    )  # fmt: skip


def test_work_is_examples_times_flops_of_one():
    small = {"steps": 10, "batch": 2, "sequence": 8, "layers": 1, "hidden": 4, "vocab": 100}
    large = {**small, "steps": 100, "batch": 4, "sequence": 16, "layers": 3, "hidden": 64}
    assert examples(large) / examples(small) == 40
    assert forward(large) == 2 * (3 * (4 + 8) * 64**2 + 64 * 100)
    found = record(small, {"forward_flops_per_token": 1000.0, "train_tokens": 160.0})
    assert ratio(found, large) == pytest.approx(40 * forward(large) / 1000)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model": "mistralai/Mistral-7B-v0.1", "data": "c4", "eval_batches": 32, "batch": 1, "sequence": 2048}, 65536),
        ({"data": "x", "steps": 10, "batch": 4, "code_length": 6, "query_length": 2}, 320),
        ({"data": "cifar100", "epochs": 2, "nets": "a b", "batch": 1}, 200_000),
        ({"data": "clip-tasks", "tasks": 8, "validation": 10, "test": 20, "steps": 5, "batch": 1}, 240),
    ],
)
def test_examples_of_a_configuration(config, expected):
    assert examples(config) == expected


def test_what_cannot_be_derived_is_said():
    with pytest.raises(Unknown, match="how many examples"):
        examples({"epochs": 3, "data": "unheard of"})
    with pytest.raises(Unknown, match="size of the model"):
        forward({"data": "unheard of", "steps": 3})


def test_a_base_model_counts_for_itself():
    made = record({}, {"pretrain_s": 30.0, "zoo_built": 1.0}, wall=35.0)
    found = record({}, {"pretrain_s": 30.0, "zoo_built": 0.0}, wall=5.0)
    assert job(made) == job(found) == Job(5.0, "p 30", 30.0)
    assert job(record({}, {})) == Job(10.0)


def test_measured_runs_are_as_long_as_their_records_and_others_as_their_arms():
    paper = load_paper("coe")
    runs = plan(paper, "smoke", settings=["composition"], arms=["moe"], claims=["C1"], seeds=3)
    records = [record({}, {}, wall=2.0 + s, arm="moe", setting="composition", seed=s) for s in range(2)]
    found = measured(runs, records)
    assert [j.seconds for j in found] == [2.0, 3.0, 2.5]


def test_a_derived_run_is_laptop_seconds_times_work_over_throughput_within_its_bounds():
    paper = load_paper("coe")
    runs = [r for r in plan(paper, "gpu", seeds=1, device="cuda") if r.arm == "moe"]
    config = paper.resolve("composition", "moe", "laptop")
    like = record(config, {"forward_flops_per_token": 1e6, "train_tokens": 1.0}, wall=20.0, arm="moe", paper="coe")
    to = Throughput(flops=1e14, step_s=0.0, start_s=5.0)
    expected = 5.0 + 20.0 * ratio(like, runs[0].config) * 3e10 / 1e14
    assert [j.seconds for j in derived(runs[:1], [like], 3e10, to)] == [pytest.approx(expected)]
    slow = derived(runs[:1], [like], 3e10, Throughput(flops=1e20, step_s=0.5, start_s=5.0))
    assert slow[0].seconds == 5.0 + 0.5 * runs[0].config["steps"], "a step takes its time, however small the model"
    capped = derived(runs[:1], [like], 3e10, Throughput(flops=1e6))
    assert capped[0].seconds == runs[0].time_limit


def test_the_suite_has_all_papers_that_there_are_and_draws_the_rest():
    parts = [Part(name, "derived", (Job(float(n)),) * n) for n, name in enumerate("abc", 1)]
    jobs = suite(parts, random.Random(0), 10)
    counts = [sum(j.seconds == n for j in jobs) // n for n in (1, 2, 3)]
    assert sum(counts) == 10
    assert min(counts) >= 1
    assert jobs == suite(parts, random.Random(0), 10)


def test_it_agrees_with_the_clock():
    """Records that two processes made in one go: the simulator takes as long as they did, to one part in fifty."""
    checks = pages.read()["forecast"]["check"]
    assert len(checks) >= 5
    ratios = [c["simulated_s"] / c["clock_s"] for c in checks]
    assert 0.98 < statistics.median(ratios) < 1.02


def test_records_of_several_goes_are_checked_by_the_largest():
    def record(second, n):
        began = f"2026-01-01T{second // 3600:02}:{second // 60 % 60:02}:00"
        return Record(
            key=f"{second} {n}", paper="p", setting="s", arm="a", scale="laptop", seed=n, status="ok", config={},
            code="c", provenance={"wall_s": 20.0, "started": began},
        )  # fmt: skip

    first = [record(60 * (n // 6), n) for n in range(12)]
    again = [record(36_000, n) for n in range(3)]
    found = forecast.check([*again, *first])
    assert (found["runs"], found["clock_s"]) == (12, 80.0)
    assert forecast.check(again) is None
    assert forecast.check([]) is None


def test_the_page_shows_the_figures_that_are_kept():
    document = pages.read()["forecast"]
    page = pages.PAGE.read_text(encoding="utf-8")
    assert pages.filled(page, "forecast", forecast.tables(document)) == page


def test_the_page_says_which_papers_were_measured():
    assert "No record" in forecast.basis([{"paper": "a", "basis": "derived"}])
    found = forecast.basis([{"paper": "a", "basis": "measured"}, {"paper": "b", "basis": "derived"}])
    assert " a, " in found
    assert " b" not in found
