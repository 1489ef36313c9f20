"""The runner: plans, workers that fail in every way, resume, determinism."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from repro.papers import load_paper
from repro.records import Store, write_reference
from repro.runner import BadRequest, Live, Outcome, execute, plan, worker
from repro.runner.progress import duration, expected_seconds, work_of
from repro.runner.worker import record_of
from tests.conftest import ROOT

PAPER = load_paper("coe")


def runs(function: str, seeds: int = 3, **changes):
    made = plan(PAPER, "smoke", settings=["composition"], arms=["moe"], claims=["C1"], seeds=seeds)
    return [replace(r, entry=f"tests.runner.faults.{function}", key=f"{function}{r.seed}", **changes) for r in made]


def test_runs_on_an_accelerator_get_one_place_whatever_else_is_planned(tmp_path, monkeypatch):
    seen = []

    class Nothing:
        def __init__(self, count, *_):
            seen.append(count)

        def carry_out(self, todo):
            return iter(())

    monkeypatch.setattr(sys.modules["repro.runner.execute"], "_Pool", Nothing)
    first, *others = runs("fine", 3)
    execute([first, *(replace(run, device="cuda") for run in others)], Store(tmp_path))
    assert seen == [1]


@pytest.mark.parametrize("workers", [0, 2])
def test_runs_once_and_is_found_again(tmp_path, workers):
    store = Store(tmp_path)
    first = execute(runs("fine"), store, workers=workers)
    assert [r.metrics["loss"] for r in first.records] == [0.0, 1.0, 2.0]
    assert (first.ran, first.cached, first.failed) == (3, 0, [])
    record = first.records[0]
    assert record.environment["versions"]["torch"]
    assert record.provenance["wall_s"] >= 0
    assert record.profile["peak_memory_bytes"] > 0
    second = execute(runs("fine"), store, workers=workers)
    assert (second.ran, second.cached) == (0, 3)
    assert [r.to_json() for r in second.records] == [r.to_json() for r in store.load().records]


@pytest.mark.parametrize(
    ("function", "status", "reason"),
    [
        ("raises", "failed", "the reason <b>why</b>"),
        ("dies", "failed", "exit code 3"),
        ("hangs", "timeout", "limit of 3 s"),
        ("swells", "memory", "its limit is 1.00 GiB"),
        ("overflows", "memory", "CUDA out of memory"),
        ("garbage", "failed", "gave a str"),
    ],
)
def test_a_run_that_goes_wrong_is_recorded_and_the_others_go_on(tmp_path, function, status, reason):
    store = Store(tmp_path)
    todo = runs(function, time_limit=60.0, memory_limit=2**30)
    todo = [replace(r, time_limit=3.0) if function == "hangs" and r.seed == 1 else r for r in todo]
    summary = execute(todo, store, workers=2)
    assert [r.status for r in summary.records] == ["ok", status, "ok"]
    assert reason in summary.failed[0].error["message"]
    assert [r.status for r in store.load().records] == ["ok", status, "ok"]
    if function == "raises":
        assert "RuntimeError" in summary.failed[0].error["traceback"]
        assert str(ROOT) not in summary.failed[0].error["traceback"]


def test_a_failed_run_is_tried_again_and_its_record_replaced(tmp_path):
    store = Store(tmp_path)
    execute(runs("raises"), store, workers=1)
    mended = [replace(r, entry="tests.runner.faults.fine") for r in runs("raises")]
    summary = execute(mended, store, workers=1)
    assert (summary.ran, summary.cached) == (1, 2)
    assert [r.status for r in store.load().records] == ["ok"] * 3


def test_code_that_has_changed_since_the_plan_leaves_no_result_under_its_hash(tmp_path):
    (planned,) = plan(PAPER, "smoke", settings=["composition"], arms=["moe"], claims=["C1"], seeds=1)
    changed = replace(planned, code="0" * 16)
    for workers in (0, 1):
        summary = execute([changed], Store(tmp_path / str(workers)), workers=workers)
        assert [r.status for r in summary.failed] == ["failed"]
        assert "no longer the code that the run was planned with" in summary.failed[0].error["message"]


def test_a_diverged_run_is_a_result(tmp_path):
    store = Store(tmp_path)
    summary = execute(runs("diverges", 1), store, workers=0)
    assert summary.failed == []
    assert summary.records[0].status == "diverged"
    assert execute(runs("diverges", 1), store, workers=0).cached == 1


SCRIPT = """
    import sys
    from repro.records import Store
    from repro.runner import execute
    from tests.runner.test_runner import runs
    if __name__ == "__main__":
        summary = execute(runs("slow", 8), Store(sys.argv[1]), workers=2)
        print("interrupted" if summary.interrupted else "complete", summary.ran, flush=True)
"""


def start(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "store")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell may have it ignored
    )  # fmt: skip


def finished(tmp_path) -> int:
    return len(list((tmp_path / "store").rglob("*.json")))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_finished_is_lost_when_the_runner_is_stopped(tmp_path, how):
    process = start(tmp_path)
    until = time.monotonic() + 60
    while finished(tmp_path) < 2 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(how)
    said = process.communicate(timeout=30)[0]
    if how == signal.SIGINT:
        assert said.startswith("interrupted")
    time.sleep(1.0)  # a worker that outlived its parent would go on writing
    kept = finished(tmp_path)
    assert 2 <= kept < 8
    time.sleep(1.0)
    assert finished(tmp_path) == kept
    said = start(tmp_path).communicate(timeout=60)[0]
    assert said == f"complete {8 - kept}\n"
    loaded = Store(tmp_path / "store").load()
    assert [r.seed for r in loaded.records] == list(range(8))
    assert loaded.problems == []


def test_a_worker_whose_runner_is_gone_leaves_no_failed_run(tmp_path):
    """It notices when it tells of a step; the runner's going is not the run's fault."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=worker.serve, args=(theirs, str(tmp_path / "store")))
    process.start()
    theirs.close()
    ours.send(runs("slow", 1)[0])
    ours.close()
    process.join(60)
    assert process.exitcode == 0
    assert not list((tmp_path / "store").rglob("*.json"))


def test_a_run_is_bit_identical_here_and_in_any_worker(tmp_path):
    todo = plan(PAPER, "smoke", settings=["composition"], arms=["moe", "coe-2x"], claims=["C1"])
    results = []
    for name, workers in (("a", 0), ("b", 0), ("c", 2)):
        summary = execute(todo, Store(tmp_path / name), workers=workers)
        assert not summary.failed
        results.append([(r.metrics, r.curves["loss"], r.tables) for r in summary.records])
    assert results[0] == results[1] == results[2]


# --- plans -------------------------------------------------------------------------------------------------------


def test_a_plan_has_whole_seeds_and_the_accounting_first():
    made = plan(PAPER, "laptop", settings=["composition"], arms=["coe", "moe"])
    assert made[0].arm == "accounting"
    assert [(r.arm, r.seed) for r in made[1:]] == [(a, s) for s in range(3) for a in ("moe", "coe")]
    assert len({r.key for r in made}) == len(made)


def test_a_plan_by_claim_takes_the_arms_that_the_claim_needs():
    made = plan(PAPER, "laptop", claims=["C5"], settings=["stdlib"], seeds=1)
    assert [r.arm for r in made] == ["moe", "coe-2x", "dense", "dense-c2"]
    assert plan(PAPER, "laptop", claims=["C6"], settings=["stdlib"])[0].arm == "accounting"


def test_a_plan_by_data_takes_its_settings():
    assert {r.setting for r in plan(PAPER, "laptop", data=["gsm8k"])} == {"accounting", "gsm8k", "gsm8k-prenorm"}
    assert not any(r.setting.startswith("gsm8k") for r in plan(PAPER, "laptop"))


def test_keys_depend_on_all_that_determines_a_result():
    base = plan(PAPER, "smoke", settings=["composition"], arms=["moe"], seeds=1)[-1]
    for other in (
        plan(PAPER, "smoke", settings=["composition"], arms=["coe"], seeds=1)[-1],
        plan(PAPER, "smoke", settings=["stdlib"], arms=["moe"], seeds=1)[-1],
        plan(PAPER, "smoke", settings=["composition"], arms=["moe"], seeds=2)[-1],
        plan(PAPER, "laptop", settings=["composition"], arms=["moe"], seeds=1)[-1],
        plan(PAPER, "smoke", settings=["composition"], arms=["moe"], seeds=1, overrides={"lr": 0.5})[-1],
        plan(PAPER, "smoke", settings=["composition"], arms=["moe"], seeds=1, device="cuda")[-1],
    ):
        assert other.key != base.key
    same = plan(PAPER, "smoke", settings=["composition"], arms=["moe"], seeds=1, time_limit=5)[-1]
    assert same.key == base.key


def test_a_placebo_plan_runs_baselines_under_shifted_seeds():
    made = plan(PAPER, "laptop", settings=["composition"], claims=["C1"], placebo=True)
    assert {r.arm for r in made} == {"moe", "moe-strict"}
    assert sorted({r.seed for r in made}) == [0, 1, 2, 500, 501, 502]


@pytest.mark.parametrize(
    ("request_", "nearest"),
    [
        ({"arms": ["mo"]}, "moe"),
        ({"settings": ["compositoin"]}, "composition"),
        ({"data": ["gsm"]}, "gsm8k"),
        ({"claims": ["C11"]}, "C1"),
        ({"overrides": {"stps": 1}}, "steps"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(request_, nearest):
    with pytest.raises(BadRequest, match=nearest):
        plan(PAPER, "laptop", **request_)
    with pytest.raises(BadRequest, match="laptop"):
        plan(PAPER, "labtop")


def test_lines_are_printed_where_there_is_no_terminal(tmp_path, capfd):
    execute(runs("raises"), Store(tmp_path), workers=0, progress=Live())
    said = capfd.readouterr().err
    assert "3 runs to do, 0 found finished" in said
    assert "[1/3] coe composition/moe seed 0: loss 0.0000" in said
    assert "the reason <b>why</b>" in said


def test_durations():
    assert [duration(s) for s in (5, 75, 3700, float("nan"))] == ["5 s", "1 min 15 s", "1 h 01 min", "?"]


def test_accounting_does_not_enter_the_time_left(capsys):
    from repro.papers import load_paper

    planned = plan(load_paper("coe"), "laptop", settings=["composition"], seeds=1)
    accounting, first = planned[0], planned[1]
    show = Live()
    show.start(planned, 0, 1)
    for run in (accounting, first):
        record = record_of(run, "ok", Outcome(), {}, datetime.now(UTC), 1.0)
        show.finished(record)
    said = capsys.readouterr().err.splitlines()[1:]
    assert "left" not in said[0], "nothing is known yet"
    assert "left" in said[1]
    assert work_of(accounting) == 0 < work_of(first)


def test_the_time_left_is_known_from_earlier_records(tmp_path, capsys):
    from repro.papers import load_paper

    planned = plan(load_paper("coe"), "laptop", settings=["composition", "lookup"], seeds=2)
    first = [r for r in planned if r.seed == 0]

    def took(run):
        return 0.5 if run.arm == "accounting" else 100.0 if run.arm == "moe" else 20.0

    seen = [record_of(run, "ok", Outcome(), {}, datetime.now(UTC), took(run)) for run in first]
    found = expected_seconds(planned, seen)
    assert found == {run.key: took(run) for run in planned}
    assert not expected_seconds(planned, [])
    without = [r for r in seen if r.arm != "moe"]
    assert {expected_seconds(planned, without)[r.key] for r in planned if r.arm == "moe"} == {20.0}

    write_reference(seen, tmp_path)
    show = Live(reference=tmp_path)
    show.start(planned, 0, 2)
    show.began -= 30.0
    show.finished(record_of(next(r for r in planned if r.arm == "moe"), "ok", Outcome(), {}, datetime.now(UTC), 60.0))
    todo = sum(took(run) for run in planned) - 100
    assert show._left(30.0) == pytest.approx(todo / 2 * 90 / 110)
    assert "left" in capsys.readouterr().err
