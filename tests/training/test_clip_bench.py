"""What is loaded from the hub is one commit."""

from __future__ import annotations

import pytest

from repro.data.errors import MissingData
from repro.data.hub_probe import Answer
from repro.training import clip_bench


class Kind:
    """Stands in for a class of transformers: says what it was asked for."""

    @staticmethod
    def from_pretrained(name, **options):
        return name, options


class Absent:
    @staticmethod
    def from_pretrained(name, **options):
        raise OSError("not there")


@pytest.fixture
def hub(monkeypatch):
    asked = []

    def set_answer(answer):
        monkeypatch.setattr("repro.data.hub_probe.probe", lambda *a: asked.append(a) or answer)
        return asked

    return set_answer


@pytest.mark.parametrize(("name", "revision"), [("someone/model", None), ("someone/model@v1", "v1")])
def test_the_commit_that_the_hub_names_is_loaded(hub, name, revision):
    asked = hub(Answer("c0ffee", None, False))
    found = clip_bench.pretrained(Kind, name)
    assert found == ("someone/model", {"revision": "c0ffee", "local_files_only": False})
    assert asked == [("someone/model", "model", revision)]


def test_a_hub_out_of_reach_leaves_the_copy_of_the_revision_asked_for(hub):
    hub(Answer(None, "offline", True))
    assert clip_bench.pretrained(Kind, "someone/model@v1") == (
        "someone/model", {"revision": "v1", "local_files_only": True},
    )  # fmt: skip
    assert clip_bench.pretrained(Kind, "someone/model")[1] == {"revision": None, "local_files_only": True}
    with pytest.raises(MissingData, match="offline"):
        clip_bench.pretrained(Absent, "someone/model")


def test_a_folder_is_no_matter_of_the_hub(hub, tmp_path):
    asked = hub(Answer("c0ffee", None, False))
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert clip_bench.pretrained(Kind, str(folder)) == (str(folder), {"revision": None, "local_files_only": True})
    assert not asked
