"""What `repro tune` makes of its cells."""

from __future__ import annotations

from repro.cli.tuning import unmoved


def cell(arm: str, values: list[float]) -> dict:
    return {"setting": "s", "arm": arm, "values": values}


def test_a_grid_that_does_not_reach_an_arm_is_noticed():
    moved = [cell("plain", [1.0, 2.0]), cell("plain", [1.0, 2.1])]
    still = [cell("chain", [3.0, 4.0]), cell("chain", [3.0, 4.0])]
    assert unmoved([*moved, *still]) == [("s", "chain")]
    assert unmoved([cell("once", [1.0])]) == [], "one point is no grid"
    diverged = [cell("lost", [float("inf")]), cell("lost", [float("inf")])]
    assert unmoved(diverged) == [], "equal only in having failed"
