"""Models and tokenizers of the hub, with and without a revision in their name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from repro.data import MissingData, byte_tokenizer, load_tokenizer
from repro.data.hub_probe import Answer, split_revision
from repro.zoo.hub import hub_model

FOUND, OFFLINE = Answer("c0ffee", None, False), Answer(None, "offline", True)


def model(name: str) -> Any:
    return hub_model(name)


@pytest.fixture(params=[model, load_tokenizer], ids=["model", "tokenizer"])
def load(request):
    return request.param


@pytest.fixture
def hub(monkeypatch):
    """What was asked of the hub and what of transformers, which loads anything; ``set_answer`` says the hub's word."""
    monkeypatch.delenv("REPRO_DATA_DIR", raising=False)
    asked: list[Any] = []
    loaded: list[Any] = []

    def loads(made):
        return lambda name, **options: loaded.append((name, options)) or made

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loads(nn.Linear(1, 1)))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", loads(byte_tokenizer()))

    def set_answer(answer):
        monkeypatch.setattr("repro.data.hub_probe.probe", lambda *a: asked.append(a) or answer)
        return asked, loaded

    return set_answer


def options_of(loaded):
    [(name, options)] = loaded
    assert options.pop("trust_remote_code") is False
    assert options.pop("dtype", torch.float32) is torch.float32
    loaded.clear()
    return name, options


def test_the_commit_of_a_revision_is_loaded(load, hub):
    asked, loaded = hub(FOUND)
    load("someone/model@v1")
    assert asked == [("someone/model", "model", "v1")]
    assert options_of(loaded) == ("someone/model", {"local_files_only": False, "revision": "c0ffee"})


def test_a_hub_out_of_reach_leaves_the_copy_of_the_revision(load, hub):
    _, loaded = hub(OFFLINE)
    load("someone/model@c0ffee")
    assert options_of(loaded) == ("someone/model", {"local_files_only": True, "revision": "c0ffee"})


def test_a_name_without_revision_is_loaded_as_it_is(load, hub):
    asked, loaded = hub(FOUND)
    load("someone/model")
    assert asked == [("someone/model", "model", None)]
    assert options_of(loaded) == ("someone/model", {"local_files_only": False})
    hub(OFFLINE)
    load("someone/model")
    assert options_of(loaded) == ("someone/model", {"local_files_only": True})


def test_a_folder_may_have_the_sign_in_its_name(load, hub, tmp_path, monkeypatch):
    asked, loaded = hub(FOUND)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a@b"
    byte_tokenizer().save_pretrained(folder)
    for name in (str(folder), "a@b"):
        load(name)
        assert options_of(loaded) == (name, {"local_files_only": True})
    assert not asked


def test_a_folder_of_real_data_does_not_stand_in_for_a_revision(hub, tmp_path, monkeypatch):
    asked, loaded = hub(FOUND)
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    plain, pinned = tmp_path / "tokenizers" / "model", tmp_path / "tokenizers" / "model@v1"
    byte_tokenizer().save_pretrained(plain)
    load_tokenizer("someone/model")
    assert options_of(loaded)[0] == str(plain)
    load_tokenizer("someone/model@v1")
    assert options_of(loaded)[0] == "someone/model"
    assert len(asked) == 1
    byte_tokenizer().save_pretrained(pinned)
    load_tokenizer("someone/model@v1")
    assert options_of(loaded)[0] == str(pinned)


def test_what_is_absent_is_named_with_its_revision(load, hub, monkeypatch):
    hub(OFFLINE)

    def absent(*_, **__):
        raise OSError("not there")

    for kind in ("AutoModelForCausalLM", "AutoTokenizer"):
        monkeypatch.setattr(f"transformers.{kind}.from_pretrained", absent)
    with pytest.raises(MissingData, match=r"someone/model@refs/pr/1.*offline"):
        load("someone/model@refs/pr/1")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("gpt2@v1", ("gpt2", "v1")), ("a/b-c.d@refs/pr/1", ("a/b-c.d", "refs/pr/1")), ("a/b@", ("a/b", None)),
        ("a/b", ("a/b", None)), ("/home/me@there/b", ("/home/me@there/b", None)), ("~/a@b/c", ("~/a@b/c", None)),
    ],
)  # fmt: skip
def test_a_path_has_no_revision(name, parts):
    assert split_revision(name) == parts
