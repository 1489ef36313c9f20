"""Looking at things imports no torch and answers at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from repro.papers import ROOT, slugs

WATCHED = ["torch", "transformers", "datasets", "lm_eval"]


def heavy_modules(code: str) -> str:
    script = f"{code}\nimport sys\nprint('LOADED', [m for m in {WATCHED!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.rpartition("LOADED")[2].strip()


@pytest.mark.parametrize(
    "code",
    [
        "import repro, repro.claims, repro.records, repro.runner, repro.papers, repro.cli, repro.api",
        "from repro.cli import main; main(['list'])",
        "from repro.cli import main; main([])",
        f"from repro.cli import main; main(['show', {slugs()[0]!r}])",
        f"from repro.cli import main; main(['judge', {slugs()[0]!r}])",
        f"from repro.cli import main; main(['run', {slugs()[0]!r}, '--arms', 'no-such-arm'])",
        "import repro; repro.results()",
    ],
)
def test_no_torch(code, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path))
    assert heavy_modules(code) == "[]"


@pytest.mark.parametrize("argv", [["--help"], ["list"], ["show", slugs()[0]]])
def test_answers_within_a_moment(argv, tmp_path, monkeypatch):
    """Three seconds of a processor where half a second is needed: a guard against an import, not a percentage."""
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path))
    command = [sys.executable, "-m", "repro", *argv]
    best = float("inf")
    for _ in range(3):
        began = sum(os.times()[2:4])  # processor time of children: other work on the machine does not count
        subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
        best = min(best, sum(os.times()[2:4]) - began)
    assert best < 3


def test_importing_the_library_is_nearly_free():
    script = "import time; t = time.process_time(); import repro; print(time.process_time() - t)"
    done = [
        float(
            subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        )
        for _ in range(3)
    ]
    assert min(done) < 0.3


def test_a_closed_pipe_is_no_traceback():
    done = subprocess.run(
        f"{sys.executable} -m repro list | true", shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
