"""The command line: whatever is typed ends in an exit code of 0, 1 or 2, and bad input in one line that says so."""

from __future__ import annotations

import contextlib
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import runner
from repro.cli import VERBS, main
from repro.papers import load_paper, slugs
from tests.fuzz.budget import NASTY, budget

PAPERS = slugs()
FLAGS = (
    "--help", "-h", "--scale", "--claims", "--set", "--placebo", "--seeds", "--arms", "--settings", "--data",
    "--device", "--workers", "--executor", "--address", "--time-limit", "--reference", "--grid", "--out", "--into",
    "--delete", "--groups", "--quick", "--repetitions", "--title", "--", "-x", "--no-such-flag", "--set=a",
    "--seeds=1e9", "--seeds=2000000000", "-",
)  # fmt: skip
FIRST = load_paper(PAPERS[0])
WORDS = (
    "all", "smoke", "laptop", "gpu", "published", "cpu", "cuda", "local", "ray", "verify", "merge", "gc", "layer",
    "step", "0", "1", "2", "-1", "1e400", "nan", "inf", "9" * 25, "9" * 5000, "1_000", "0x10", "٣", "C1", "C1,C1", ",",
    "=", "folder", "file", "absent", "new_paper", "lr=1", "lr=nan", "steps=5", "steps=1e3", "lr=1,2",
    "steps=" + "9" * 30, "steps=" + "9" * 5000, "seed=1", "data=../../x", *(a.name for a in FIRST.arms[:2]),
    *(s.name for s in FIRST.settings[:2]), *(s.data for s in FIRST.settings[:1]),
)  # fmt: skip
#: Paths of the machine are no input of these tests: a fuzzer that may name folders finds some.
TEXT = st.one_of(st.sampled_from(NASTY), st.text(max_size=10)).map(
    lambda t: re.sub(r"[/\\~\x00]|\.\.", "", t)
)  # fmt: skip
TYPED = st.sampled_from(VERBS + tuple(PAPERS) + FLAGS + WORDS) | TEXT


@st.composite
def lines(draw):
    """Half of them begin sensibly: with a verb and what belongs to it."""
    start: list[str] = []
    if draw(st.booleans()):
        verb = draw(st.sampled_from(VERBS))
        start = [verb]
        if verb in ("run", "judge", "tune", "show"):
            start.append(draw(st.sampled_from(PAPERS)))
        if verb == "records":
            start.append(draw(st.sampled_from(("verify", "merge", "gc"))))
        if verb == "tune":
            start += ["--settings", FIRST.settings[0].name, "--arms", FIRST.arms[0].name]
    for _ in range(draw(st.integers(0, 4))):
        start += draw(st.tuples(st.sampled_from(FLAGS), TYPED) | st.tuples(TYPED))
    return start


@pytest.fixture(scope="module")
def fenced(tmp_path_factory):
    """What commands would do is noted and not done: they run nothing and write into a folder of the test's own."""
    root = tmp_path_factory.mktemp("cli")
    (root / "folder").mkdir()
    (root / "file").write_text("x")
    (root / "papers").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("REPRO_RESULTS", str(root / "results"))
        patch.setenv("REPRO_SITE", str(root / "site"))
        patch.setenv("COLUMNS", "80")
        patch.setattr(runner, "execute", _nothing)
        patch.setattr("repro.cli.running.build_page", lambda *a: None)
        patch.setattr("repro.cli.running.write_reference", lambda *a: [])
        patch.setattr("repro.cli.bench.measure", lambda *a: {})
        patch.setattr("repro.bench.write", lambda folder, *a: folder)
        patch.setattr("repro.cli.doctor.doctor", lambda: 0)
        patch.setattr("repro.cli.new.papers", _Elsewhere(root))
        patch.setattr("repro.cli.tuning.write_atomically", lambda *a: None)
        yield root


class _Elsewhere:
    """The folders of papers, in another place."""

    def __init__(self, root):
        self.ROOT, self.FOLDER = root, root / "papers"


def _nothing(runs, store, **_):
    for run in runs:
        json.dumps(run.config, allow_nan=True)
    return runner.Summary(runs, store)


@budget()
@given(lines())
def test_whatever_is_typed_ends_in_a_code_and_one_line(fenced, argv):
    before = sorted(p.name for p in fenced.iterdir())
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as stop:  # --help
            code = stop.code
            assert code == 0
    said = err.getvalue()
    assert code in (0, 1, 2), argv
    assert "Traceback" not in said
    if code == 2:
        assert out.getvalue() == ""
        assert said.startswith("repro: ")
        assert said.endswith("\n")
        assert said[:-1].isprintable(), said
    # results, papers and tests of `new`, and nothing else
    assert {p.name for p in fenced.iterdir()} - set(before) <= {"results", "tests", "folder", "site"}


@budget(0.1)
@given(st.lists(TYPED | st.text(max_size=40), max_size=6))
def test_no_slug_leaves_the_folder_of_papers(fenced, words):
    for word in [*words, "../evil", "a/../../b", "..", "A", "é", "ﬁ", "a\n", "con", "a" * 41, "ſ", "__init__"]:
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with quiet[0], quiet[1], contextlib.suppress(SystemExit):
            main(["new", word])
    made = [p for p in fenced.rglob("*") if p.is_file() and p.name != "file"]
    for path in made:
        parts = path.relative_to(fenced).parts
        assert parts[0] in ("papers", "tests", "results"), path
        assert all((part.isascii() and part.islower()) or part == "README.md" for part in parts), path
