"""What `repro tune` makes of its runs."""

from __future__ import annotations

import math
from types import SimpleNamespace

from repro.cli.tuning import key_of, rows, table, unmoved


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
    lost = [run("lost", 1, 0, math.inf, "diverged"), run("lost", 2, 0, math.inf, "diverged")]
    assert unmoved(lost) == [], "equal only in having failed"


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


def test_the_edge_is_that_of_all_calls_together():
    earlier = rows("loss", [run("a", lr, 1000, loss) for lr, loss in ((1, 2.0), (2, 1.0))])
    assert [r[""] for r in table(earlier, earlier)] == ["best, at the edge: widen the grid", ""]
    later = rows("loss", [run("a", 4, 1000, 1.5)])
    found = table(later, [*earlier, *later])
    assert [(r["lr"], r[""]) for r in found] == [(2, "best"), (4, ""), (1, "")]
