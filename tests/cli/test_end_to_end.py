"""A paper laid down by ``repro new``, run, judged, interrupted and resumed in a checkout of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def paper(checkout):
    done = checkout.run("repro", "new", "weight-decay", "--title", 'Weight "decay": $x <b>')
    assert done.returncode == 0, done.stderr
    return checkout


def records(checkout):
    return sorted((checkout.root / "results" / "records").rglob("*.json"))


def test_a_new_paper_keeps_the_contract_and_passes_its_own_tests(paper):
    assert {p.name for p in (paper.root / "papers" / "weight_decay").iterdir()} == {
        "__init__.py", "paper.py", "method.py", "experiment.py", "README.md",
    }  # fmt: skip
    done = paper.run("pytest", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout.splitlines()[-1] or "1 skipped" in done.stdout.splitlines()[-1]
    for tool in (["ruff", "check"], ["ruff", "format", "--check"]):
        done = paper.run(*tool, "--no-cache", "papers", "tests/papers")
        assert done.returncode == 0, done.stdout
    again = paper.run("repro", "new", "weight-decay")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_run_judge_and_rerun(paper):
    done = paper.run("repro", "run", "weight-decay", "--seeds", "3")
    assert done.returncode == 0, done.stderr
    assert "reproduced" in done.stdout
    assert "tripped" not in done.stdout
    assert "index.html" in done.stdout
    assert (paper.root / "leaderboard" / "site" / "index.html").is_file()
    assert len(records(paper)) == 13, "two arms, two settings, three seeds, and the accounting"
    before = {p: p.read_bytes() for p in records(paper)}

    again = paper.run("repro", "run", "weight-decay", "--seeds", "3")
    assert "0 run, 13 from the cache" in again.stdout
    assert {p: p.read_bytes() for p in records(paper)} == before

    judged = paper.run("repro", "judge", "weight-decay")
    assert judged.returncode == 0
    table = done.stdout.partition("13 run")[0].strip()
    assert judged.stdout.strip() == table

    other = paper.run("repro", "run", "weight-decay", "--seeds", "3", "--set", "steps=50", "--settings", "few")
    assert "6 run" in other.stdout
    assert paper.run("repro", "judge", "weight-decay").stdout.strip() == table, "runs with --set are not pooled"


def test_claims_arms_and_data_narrow_the_plan(paper):
    assert "1 run," in paper.run("repro", "run", "weight-decay", "--claims", "C2").stdout
    done = paper.run("repro", "run", "weight-decay", "--scale", "smoke", "--arms", "plain", "--data", "linear")
    assert done.returncode == 0
    assert "2 run, 1 from the cache" in done.stdout
    assert done.stdout.count("reproduced") == 2, "the cost claim and its part; smoke decides nothing else"


def test_a_placebo_is_not_reproduced(paper):
    done = paper.run("repro", "run", "weight-decay", "--placebo", "--set", "steps=200")
    assert done.returncode == 0
    assert "placebo" in done.stdout
    assert "✓ reproduced" not in done.stdout


def test_reference_records_are_written_and_judged(paper):
    done = paper.run("repro", "run", "weight-decay", "--seeds", "3", "--reference")
    folder = paper.root / "leaderboard" / "reference" / "weight_decay"
    assert sorted(p.name for p in folder.iterdir()) == [
        "laptop-few.jsonl", "laptop-plenty.jsonl", "published-accounting.jsonl",
    ]  # fmt: skip
    judged = paper.run("repro", "judge", "weight-decay", "--reference")
    assert judged.stdout.strip() == done.stdout.partition("13 run")[0].strip()


def test_a_run_that_crashes_is_recorded_the_others_go_on_and_the_exit_code_says_so(paper):
    experiment = paper.root / "papers" / "weight_decay" / "experiment.py"
    text = experiment.read_text()
    crash = "    if config.decay and context.seed == 1:\n        raise RuntimeError('the <dog> ate it')\n"
    head, _, tail = text.partition("    inputs, targets = ")
    experiment.write_text(head + crash + "    inputs, targets = " + tail)
    done = paper.run("repro", "run", "weight-decay", "--seeds", "2", "--settings", "few")
    assert done.returncode == 1
    assert "weight_decay few decayed seed 1: failed: the <dog> ate it" in done.stdout
    assert "5 run, 0 from the cache, 1 failed" in done.stdout
    failed = [json.loads(p.read_text()) for p in records(paper) if '"failed"' in p.read_text()]
    assert [f["error"]["type"] for f in failed] == ["RuntimeError"]
    assert "the <dog> ate it" in failed[0]["error"]["traceback"]
    experiment.write_text(text)
    mended = paper.run("repro", "run", "weight-decay", "--seeds", "2", "--settings", "few")
    assert mended.returncode == 0


def test_failures_of_one_cause_are_told_once(paper):
    experiment = paper.root / "papers" / "weight_decay" / "experiment.py"
    text = experiment.read_text()
    experiment.write_text(
        text.replace("    inputs, targets = (", "    raise KeyError('no data')\n    inputs, targets = (")
    )
    done = paper.run("repro", "run", "weight-decay", "--scale", "smoke")
    assert done.returncode == 1
    assert done.stdout.count("no data") == 1
    assert "and 3 more: failed: 'no data'" in done.stdout


def test_tuning_writes_its_table_and_no_verdict_reads_it(paper):
    grid = ("--grid", "lr=0.01,0.1,0.2", "--set", "steps=100", "--settings", "few", "--arms", "plain,decayed")
    done = paper.run("repro", "tune", "weight-decay", *grid)
    assert done.returncode == 0, done.stderr
    cells = [
        json.loads(line) for line in (paper.root / "papers" / "weight_decay" / "tuning.jsonl").read_text().splitlines()
    ]
    assert len(cells) == 6
    assert sum(line.rstrip().endswith(("best", "widen the grid")) for line in done.stdout.splitlines()) == 2
    assert not any("best" in c or "edge" in c for c in cells)
    judged = paper.run("repro", "judge", "weight-decay", "--set", "steps=100")
    assert "reproduced" not in judged.stdout


def test_a_run_over_its_time_is_recorded(paper):
    done = paper.run("repro", "run", "weight-decay", "--seeds", "1", "--settings", "few", "--time-limit", "0.001",
                     "--set", "steps=100000000", "--arms", "plain")  # fmt: skip
    assert done.returncode == 1
    assert "timeout" in done.stdout


def test_a_damaged_record_is_named_and_run_again(paper):
    paper.run("repro", "run", "weight-decay", "--scale", "smoke")
    damaged = next(p for p in records(paper) if "smoke" in p.parts)
    damaged.write_text(damaged.read_text()[:50])
    judged = paper.run("repro", "judge", "weight-decay", "--scale", "smoke")
    assert judged.returncode == 0
    assert damaged.name in judged.stderr
    again = paper.run("repro", "run", "weight-decay", "--scale", "smoke")
    assert "1 run, 4 from the cache" in again.stdout


SLOW = ("repro", "run", "weight-decay", "--seeds", "6", "--settings", "few", "--set", "steps=6000", "--workers", "2")


def started(checkout, group: bool = False):
    """Start a long run and wait until some, not all, of its records are there."""
    process = subprocess.Popen(
        checkout.command(*SLOW), cwd=checkout.root, env=checkout.environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell may have it ignored
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(records(checkout)) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def finish(checkout, kept):
    again = checkout.run(*SLOW)
    assert again.returncode == 0, again.stderr
    counted = [line for line in again.stdout.splitlines() if "from the cache" in line]
    assert len(counted) == 1
    cached = int(counted[0].split(",")[1].split()[0])
    assert len(kept) <= cached < 13
    assert len(records(checkout)) == 13
    assert {p: p.read_bytes() for p in kept} == kept


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_at_any_moment_the_next_start_goes_on(paper):
    process = started(paper)
    process.kill()
    process.communicate()
    kept = {p: p.read_bytes() for p in records(paper)}
    for content in kept.values():
        json.loads(content)
    time.sleep(1)
    assert len(records(paper)) <= len(kept) + 2, "workers do not outlive the runner"
    finish(paper, kept)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_with_130_and_keeps_what_is_finished(paper):
    process = started(paper)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    finish(paper, {p: p.read_bytes() for p in records(paper)})


def test_doctor_and_list(paper):
    listed = paper.run("repro", "list")
    assert "weight-decay" in listed.stdout
    paper.environment["REPRO_DATA_DIR"] = str(paper.root / "nowhere")
    done = paper.run("repro", "doctor")
    assert done.returncode == 0
    for word in ("cores", "memory", "gpu", "torch", "no such folder", "weight-decay", "published"):
        assert word in done.stdout
    assert paper.run("repro", "show", "weight-decay").returncode == 0


def test_the_python_call_returns_tables(paper):
    script = (
        "import repro; t = repro.reproduce('weight-decay', seeds=3, workers=2); r = repro.results('weight-decay'); "
        "print(t.verdict.tolist(), t.attrs, sorted(set(r.claim)), round(t.effect[0]) > 0, t.seeds.dtype)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=paper.root,
        env=paper.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'reproduced'" in done.stdout
    assert "{'interrupted': False, 'failed': []} ['C1', 'C2'] True Int64" in done.stdout
