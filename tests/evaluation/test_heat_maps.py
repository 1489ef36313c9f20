"""Heat maps: small pictures that are the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from repro.evaluation.heat_maps import heat_maps


def test_panels_become_one_small_picture():
    panels = {f"block {i}": np.random.default_rng(i).random((4, 6)) for i in range(3)}
    found = heat_maps(panels, "position", "expert", "share", "what it shows", columns=2)
    assert found.kind == "png"
    assert found.content.startswith(b"\x89PNG")
    assert len(found.content) < 40_000
    assert found.text == "what it shows"
    again = heat_maps(panels, "position", "expert", "share", "what it shows", columns=2)
    assert found.content == again.content
    other = heat_maps({**panels, "block 0": np.zeros((4, 6))}, "position", "expert", "share", "", columns=2)
    assert other.content != found.content


def test_only_matrices_are_drawn():
    for panels in ({}, {"a": [1.0, 2.0]}):
        with pytest.raises(ValueError, match="matrices"):
            heat_maps(panels, "x", "y", "v", "")
