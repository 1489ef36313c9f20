"""What `repro tune` makes of its runs."""

from __future__ import annotations

import math
from types import SimpleNamespace

from repro.cli.tuning import key_of, line, read, rows, table, unmoved


def run(arm, lr, seed, loss, status="ok", **more):
    record = SimpleNamespace(
        setting="s", arm=arm, scale="laptop", seed=seed, status=status, metrics={"loss": loss, **more}, code="c"
    )
    return {"lr": lr}, record


def test_a_grid_that_does_not_reach_an_arm_is_noticed():
    moved = [run("plain", 1, 0, 1.0), run("plain", 2, 0, 1.0), run("plain", 1, 1, 2.0), run("plain", 2, 1, 2.1)]
    still = [run("chain", 1, 0, 3.0), run("chain", 2, 0, 3.0)]
    assert unmoved([*moved, *still]) == [("s", "chain")]
    assert unmoved([run("once", 1, 0, 1.0), run("once", 1, 1, 1.0)]) == [], "one point is no grid"
    tie = [run("tie", 1, 0, 0.0, margin=0.3), run("tie", 2, 0, 0.0, margin=0.4)]
    assert unmoved(tie) == [], "the same in one metric by chance"
    timed = [run("timed", 1, 0, 3.0, step_s=1.0), run("timed", 2, 0, 3.0, step_s=1.1)]
    assert unmoved(timed) == [("s", "timed")], "a clock moves by itself"
    lost = [run("lost", 1, 0, math.inf, "diverged"), run("lost", 2, 0, math.inf, "diverged")]
    assert unmoved(lost) == [], "equal only in having failed"


def test_cells_are_read_as_they_were_kept(tmp_path):
    cells = rows("loss", [run("a", 1, 1000, 1.0), run("a", 2, 1000, 1.0, "diverged")])
    (tmp_path / "tuning.jsonl").write_text("".join(map(line, cells)))
    again = read(tmp_path / "tuning.jsonl")
    assert again == cells
    assert [c["mean"] for c in again] == [1.0, math.inf]
    assert read(tmp_path / "absent.jsonl") == []
    assert table(rows("loss", [run("a", 3, 1000, 2.0)]), again)


def test_cells_are_means_over_seeds_and_failures_are_infinite():
    (cell,) = rows("loss", [run("a", 1, 1000, 1.0), run("a", 1, 1001, 2.0)])
    assert (cell["mean"], cell["values"], cell["seeds"]) == (1.5, [1.0, 2.0], 2)
    (cell,) = rows("loss", [run("a", 1, 1000, 1.0), run("a", 1, 1001, 2.0, "failed")])
    assert cell["mean"] == math.inf


def test_cells_made_with_other_fixed_options_are_kept_apart():
    found = [run("a", 1, 1000, 1.0)]
    plain, fixed = rows("loss", found), rows("loss", found, {"steps": 50})
    assert fixed[0]["fixed"] == {"steps": 50}
    assert "fixed" not in plain[0]
    assert key_of(plain[0]) != key_of(fixed[0])
    assert len(table(fixed, [*plain, *fixed])) == 1


def test_cells_of_other_code_or_seeds_are_never_called_best():
    new = rows("loss", [run("a", lr, 1000, loss) for lr, loss in ((1, 2.0), (2, 1.5), (4, 1.8))])
    other = [{**rows("loss", [run("a", 8, 1000, 1.0)])[0], "code": "before"}]
    other += rows("loss", [run("a", 16, 1000, 1.1), run("a", 16, 1001, 1.1)])
    found = table(new, [*other, *new])
    assert [(r["lr"], r[""]) for r in found] == [(2, "best"), (4, ""), (1, ""), (8, "other code"), (16, "other seeds")]


def test_the_edge_is_that_of_all_calls_together():
    earlier = rows("loss", [run("a", lr, 1000, loss) for lr, loss in ((1, 2.0), (2, 1.0))])
    assert [r[""] for r in table(earlier, earlier)] == ["best, at the edge: widen the grid", ""]
    later = rows("loss", [run("a", 4, 1000, 1.5)])
    found = table(later, [*earlier, *later])
    assert [(r["lr"], r[""]) for r in found] == [(2, "best"), (4, ""), (1, "")]
