"""Rows of the token task against a small library of known content."""

from __future__ import annotations

import pytest
import torch

from repro.data import MissingData
from repro.data.token_kinds import FEATURES, token_kinds, tokens_of

SOURCE = b"""# a comment
def add(one, two=2):
    return one + two
"""


def test_rows_of_a_known_file():
    rows = list(tokens_of(SOURCE))
    text = [values[0] for values, _, _ in rows]
    # the newest token before each row; line ends and indentation stand by their kind
    assert text[:6] == ["^", "def", "add", "(", "one", ","]
    assert "INDENT" in text
    assert "NEWLINE" in text
    values, name, line = rows[4]  # what comes after "one"
    assert values == ("one", "(", "add", "def", "^", "0", "(")
    assert not name
    assert line == 2
    assert [name for _, name, _ in rows[:6]] == [True, True, False, True, False, True]
    inside = next(values for values, _, _ in rows if values[0] == "return")
    assert inside[5:] == ("1", ":")


def test_what_cannot_be_tokenised_ends_the_file():
    assert len(list(tokens_of(b"x = 1\ny = (\n"))) >= 4


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "lib"
    folder.mkdir()
    for i in range(12):
        body = "".join(f"def f{i}_{j}(x):\n    return x + {j}\n\n" for j in range(60))
        (folder / f"module{i}.py").write_text(body)
    return folder


def test_the_task_on_a_small_library(library):
    data = token_kinds(1, rows=6000, files=10, root=library)
    total = sum(len(part.labels) for part in (data.train, data.validation, data.test))
    assert total == 6000
    assert data.features == FEATURES
    assert data.sizes[6] == 10
    for part in (data.train, data.validation, data.test):
        assert len(part.labels) > 100
        assert (part.ids.amax(0) < torch.tensor(data.sizes)).all()
    again = token_kinds(1, rows=6000, files=10, root=library)
    assert again.fingerprint == data.fingerprint
    assert token_kinds(2, rows=6000, files=10, root=library).fingerprint != data.fingerprint


def test_no_sources_are_an_error_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MissingData, match="no standard-library sources"):
        token_kinds(root=tmp_path)
