"""Checkpoints made once: found again, shared between processes, dropped when their making fails."""

from __future__ import annotations

import multiprocessing
import time
from dataclasses import replace

import pytest
import torch
from filelock import FileLock

from repro.training.checkpoints import Built, Part, obtain

MODULE = "repro.training.checkpoints"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    return tmp_path


def part(name, value=1.0, log=None, wait=0.0):
    def build():
        time.sleep(wait)
        if log is not None:
            log.append(name)
        return Built({"w": torch.full((3,), value)}, {"loss": value})

    return Part(name, {"value": value}, build, MODULE)


def test_made_once_and_found_again():
    log = []
    first = obtain([part("a", 1.0, log), part("b", 2.0, log)])
    assert [c.built for c in first] == [True, True]
    again = obtain([part("b", 2.0, log), part("a", 1.0, log)])
    assert log == ["a", "b"]
    assert [c.built for c in again] == [False, False]
    assert [float(c.state["w"][0]) for c in again] == [2.0, 1.0]
    assert again[0].card["loss"] == 2.0
    assert again[0].card["identity"] == {"value": 2.0}


def test_another_identity_or_other_code_is_another_part():
    a = part("a", 1.0)
    assert a.place() != part("a", 2.0).place()
    assert a.place() == part("a", 1.0).place()
    assert a.place() != replace(a, module="repro.models.vit").place()


def test_nothing_is_kept_of_what_fails(cache):
    def fail():
        raise RuntimeError("no")

    bad = Part("bad", {}, fail, MODULE)
    with pytest.raises(RuntimeError, match="no"):
        obtain([part("a"), bad])
    assert not bad.place().exists()
    assert part("a").place().exists()
    assert not [p for p in (cache / "checkpoints").iterdir() if p.is_dir() and p.name.startswith(".")]


def test_what_cannot_be_read_is_made_again():
    log = []
    obtain([part("a", log=log)])
    (part("a").place() / "card.json").write_text("{")
    assert obtain([part("a", log=log)])[0].built
    assert log == ["a", "a"]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b""])
def test_damaged_weights_are_made_again(damage, caplog):
    log = []
    obtain([part("a", log=log)])
    weights = part("a").place() / "state.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    (again,) = obtain([part("a", log=log)])
    assert again.built
    assert log == ["a", "a"]
    assert "damaged (state.safetensors)" in caplog.text
    assert torch.equal(again.state["w"], torch.ones(3))


def test_what_fails_in_the_meantime_is_left_to_those_who_want_it(cache):
    def fail():
        raise RuntimeError("no")

    (cache / "checkpoints").mkdir()
    a, bad = part("a"), Part("bad", {}, fail, MODULE)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=hold, args=(a.place().name, str(cache / "checkpoints"), 1.0, ready))
    other.start()
    assert ready.wait(60)
    assert obtain([a], meanwhile=[bad])[0].built
    other.join()
    with pytest.raises(RuntimeError, match="no"):
        obtain([bad])


def hold(place, folder, seconds, ready):
    with FileLock(f"{folder}/.{place}.lock"):
        ready.set()
        time.sleep(seconds)


def test_while_another_makes_one_the_others_and_later_ones_are_made(cache):
    (cache / "checkpoints").mkdir()
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    a = part("a")
    other = context.Process(target=hold, args=(a.place().name, str(cache / "checkpoints"), 2.0, ready))
    other.start()
    assert ready.wait(60)
    log, seen = [], []
    found = obtain(
        [part("a", log=log), part("b", log=log)], meanwhile=[part("later", log=log)],
        progress=lambda done, count: seen.append((done, count)),
    )  # fmt: skip
    other.join()
    assert log == ["b", "later", "a"]  # the other ended without a, so that it was made here after all
    assert [c.built for c in found] == [True, True]
    assert seen[0] == (0, 2)
    assert seen[-1] == (2, 2)
