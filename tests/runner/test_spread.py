"""Runs that several processes share, and runs that are taken up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest

from repro.cli import main
from repro.papers import load_paper
from repro.records import Store
from repro.runner import BadRequest, Silent, execute, plan
from repro.runner.execute import resident
from repro.runner.plan import trains_through_fit
from repro.runner.worker import kept
from tests.conftest import ROOT

PAPER = load_paper("coe")


def runs(function, seeds=1, **changes):
    made = plan(PAPER, "smoke", settings=["composition"], arms=["moe"], claims=["C1"], seeds=seeds)
    return [
        replace(r, entry=f"tests.runner.spread_jobs.{function}", key=f"{function}{r.seed}", **changes) for r in made
    ]


class Steps(Silent):
    def __init__(self):
        self.seen = []

    def step(self, run, step, steps, loss):
        self.seen.append((step, steps))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_shared_run_leaves_the_record_of_one_process(tmp_path, strategy):
    told = Steps()
    (alone,) = execute(runs("trains"), Store(tmp_path / "one"), workers=0).records
    todo = runs("trains", processes=2, strategy=strategy)
    (shared,) = execute(todo, Store(tmp_path / "two"), workers=1, progress=told).records
    assert shared.status == "ok", shared.error
    assert (8, 8) in told.seen
    assert shared.key == alone.key
    assert shared.identity == alone.identity
    hardware = shared.environment["hardware"]
    assert (hardware["processes"], hardware["strategy"]) == (2, strategy)
    assert hardware.items() >= (alone.environment["hardware"].items() - {("threads", hardware["threads"])})
    assert "processes" not in alone.environment["hardware"]
    assert shared.metrics == pytest.approx(alone.metrics, rel=1e-6)
    for name, curve in alone.curves.items():
        assert shared.curves[name]["x"] == curve["x"]
        assert shared.curves[name]["y"] == pytest.approx(curve["y"], rel=1e-6)
    same = [n for n in alone.profile if not n.endswith("_s") and n not in ("peak_memory_bytes",)]
    assert {n: shared.profile[n] for n in same} == {n: alone.profile[n] for n in same}


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_recorded(tmp_path):
    found = execute(runs("fails_in_one", 4, processes=2), Store(tmp_path), workers=1).records
    assert [r.status for r in found] == ["failed"] * 4
    assert found[0].error["type"] == "RuntimeError"
    assert found[0].error["message"] == "the second process has had enough"
    assert "spread_jobs.py" in found[0].error["traceback"]
    assert str(ROOT) not in found[0].error["traceback"]
    assert found[1].error["message"].startswith("process 1 of 2 was killed")
    assert found[2].error["message"].startswith("this run trains nothing that processes could share")
    assert found[3].error["message"].startswith("the auxiliary loss of a batch")
    assert found[3].error["type"] == "CannotShare"


def test_what_does_not_train_through_fit_is_not_shared():
    assert trains_through_fit("papers.coe.experiment.run")
    assert trains_through_fit("papers.lisa.experiment.run")  # through finetune
    other = load_paper("memo")
    assert not trains_through_fit(other.experiment)
    with pytest.raises(
        BadRequest, match=r"cannot be shared between processes: .* does not go through repro.training.fit"
    ):
        plan(other, "smoke", processes=2)
    with pytest.raises(BadRequest, match="cannot be kept while they go on"):
        plan(other, "smoke", checkpoint=0)


def test_processes_are_no_part_of_what_a_run_is():
    one, two = (plan(PAPER, "smoke", processes=n, strategy="fsdp", checkpoint=5) for n in (1, 2))
    assert [r.key for r in one] == [r.key for r in two] == [r.key for r in plan(PAPER, "smoke")]
    assert [r.processes for r in two] == [1, *[2] * (len(two) - 1)]  # the accounting is arithmetic
    assert two[1].memory == 2 * one[1].memory


def test_bad_flags(capsys):
    for flags, words in [
        (["--processes", "0"], "--processes must be above 0"),
        (["--strategy", "ddp"], "needs --processes above 1"),
        (["--processes", "2", "--strategy", "fdsp"], "did you mean fsdp"),
        (["--checkpoint", "-1"], "--checkpoint must be 0 or above"),
    ]:
        assert main(["run", "coe", "--scale", "smoke", *flags]) == 2
        assert words in capsys.readouterr().err
    assert main(["run", "memo", "--scale", "smoke", "--processes", "2"]) == 2
    assert "cannot be shared between processes" in capsys.readouterr().err


def test_memory_is_that_of_the_whole_family():
    script = "import time; ballast = b'1' * (200 << 20); print(1, flush=True); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert child.stdout.read(1) == b"1"
        assert resident(os.getpid(), family=True) > resident(os.getpid()) + (150 << 20)
    finally:
        child.kill()
        child.wait()
    assert resident(None, family=True) >= 0


SCRIPT = """
    import sys
    from repro.records import Store
    from repro.runner import execute
    from tests.runner.test_spread import runs
    if __name__ == "__main__":
        execute(runs("trains_slowly", checkpoint=4), Store(sys.argv[1]), workers=1)
"""


@pytest.mark.slow
def test_a_killed_run_is_taken_up_and_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    (whole,) = execute(runs("trains_slowly"), Store(tmp_path / "whole"), workers=0).records
    (run,) = runs("trains_slowly", checkpoint=4)
    assert not kept(run).exists()
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "store")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PAUSE": "0.1"},
    )
    until = time.monotonic() + 120
    while not list(kept(run).glob("*/000000008")) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(1.0)  # a worker that outlived its parent would go on
    newest = max(int(path.name) for path in kept(run).glob("*/0*"))
    assert 8 <= newest < 40
    store = Store(tmp_path / "store")
    assert not store.load().records
    (again,) = execute([run], store, workers=0).records
    assert again.provenance["resumed"] == [newest]
    assert again.results == whole.results
    assert "resumed" not in whole.provenance
    assert not kept(run).exists()
