"""A paper whose module raises is named with its reason, and hides no other."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(checkout):
    for slug in ("weight-decay", "half-written"):
        assert checkout.run("repro", "new", slug, "--title", slug).returncode == 0
    return checkout


def breaks(checkout, text):
    (checkout.root / "papers" / "half_written" / "paper.py").write_text(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = 1\nraise RuntimeError('why\\nnot')\n", "papers/half_written/paper.py, line 2: RuntimeError: why"),
        ("PAPER = [\n", "papers/half_written/paper.py, line 1: SyntaxError"),
        ("PAPER = 3\n", "papers/half_written/paper.py: TypeError: PAPER is a int"),
        ("import nothing_of_that_name\n", "papers/half_written/paper.py, line 1: ModuleNotFoundError"),
        ("", "papers/half_written/paper.py: AttributeError"),
    ],
)
def test_it_is_named_with_its_line(checkout, text, reason):
    breaks(checkout, text)
    done = checkout.run("repro", "list")
    assert done.returncode == 1
    assert "weight-decay" in done.stdout
    assert f"skipped {reason}" in done.stderr
    assert "Traceback" not in done.stderr
    done = checkout.run("repro", "show", "half-written")
    assert done.returncode == 2
    assert done.stderr.startswith(f"repro: {reason}")


def test_the_others_run_and_the_committed_tables_stay(checkout):
    breaks(checkout, "raise RuntimeError('half')\n")
    table = checkout.root / "leaderboard" / "LEADERBOARD.md"
    table.write_text("committed")
    done = checkout.run("repro", "run", "all", "--scale", "smoke")
    assert done.returncode == 1
    assert "skipped papers/half_written/paper.py, line 1: RuntimeError: half" in done.stderr
    assert "0 failed" in done.stdout
    page = (checkout.root / "leaderboard" / "site" / "index.html").read_text()
    assert "papers/half_written/paper.py, line 1: RuntimeError: half" in page
    assert table.read_text() == "committed"
    done = checkout.run("repro", "run", "weight-decay", "--scale", "smoke")
    assert done.returncode == 0
    done = checkout.run("repro", "records", "gc")
    assert done.returncode == 2, "what a broken paper's records are worth cannot be told"
    assert checkout.run("repro", "doctor").returncode == 0
