"""Stores: checked, merged, cleared."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pytest

from repro.claims import Arm, Paper, Preset, Setting
from repro.cli import main
from repro.records import BadRecord, CannotStore, Record, Store, care, write_reference
from repro.records.provenance import run_key


def make(seed=0, **more):
    base = {
        "key": "", "paper": "p", "setting": "s", "arm": "a", "scale": "laptop", "seed": seed, "status": "ok",
        "config": {"lr": 0.1}, "code": "c", "metrics": {"loss": 1.0 + seed, "accuracy": 0.5},
        "provenance": {"wall_s": 1.0, "digest": ""},
    }  # fmt: skip
    made = Record(**{**base, **more})
    return replace(made, key=run_key(made.identity)) if not made.key else made


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


# ------------------------------------------------------------------------------------------------------------- the seal
def test_a_sealed_record_comes_back_and_seals_the_same_again():
    text = make(error={"traceback": 'x = {"digest":""}'}).to_json()
    back = Record.from_json(text)
    assert len(back.provenance["digest"]) == 64
    assert back.to_json() == text
    assert Record.from_json(text.encode() + b"\n") == back


def test_every_flipped_bit_is_noticed():
    text = make().to_json().encode()
    word = text.index(b"digest")  # without this word there is no seal, and all else is as it was
    for at in (i for i in range(len(text)) if not word <= i < word + 6):
        for bit in (0, 3):
            broken = bytearray(text)
            broken[at] ^= 1 << bit
            with pytest.raises(BadRecord):
                Record.from_json(bytes(broken))


def test_an_edited_number_is_noticed_and_another_layout_is_not():
    import json

    text = make().to_json()
    with pytest.raises(BadRecord, match="damaged or edited"):
        Record.from_json(text.replace('"loss":1.0', '"loss":0.9'))
    laid_out = json.dumps(json.loads(text), indent=2)
    assert Record.from_json(laid_out).metrics["loss"] == 1.0
    with pytest.raises(BadRecord, match="damaged or edited"):
        Record.from_json(laid_out.replace('"loss": 1.0', '"loss": 0.9'))


@pytest.mark.parametrize("digest", ["", "x", 3, None, ["a"], "\ud800"])
def test_a_digest_that_is_none_is_a_broken_seal(digest):
    import json

    raw = json.loads(make().to_json())
    raw["provenance"]["digest"] = digest
    with pytest.raises(BadRecord):
        Record.from_json(json.dumps(raw))


# --------------------------------------------------------------------------------------------------------------- verify
def test_a_good_store_has_no_problems(store, tmp_path):
    made = [make(0), make(1), make(2, provenance={})]
    for record in made:
        store.save(record)
    assert care.verify(store.root) == care.Verified(3, 2, [])
    write_reference(made, tmp_path / "reference")
    assert care.verify(tmp_path / "reference") == care.Verified(3, 2, [])


def test_what_is_wrong_in_a_store_is_named(store):
    paths = [store.save(make(seed)) for seed in range(4)]
    paths[0].write_bytes(paths[0].read_bytes()[:-30])  # cut
    os.renames(paths[1], store.root / "q" / "laptop" / paths[1].name)  # moved
    store.save(make(9, key="0" * 20))  # a key that is not its own
    twice = store.root / "p" / "laptop" / f"copy-{paths[2].name}"
    twice.write_bytes(paths[2].read_bytes())
    found = care.verify(store.root)
    assert found.records == 5
    text = "\n".join(found.problems)
    assert len(found.problems) == 4
    assert f"{paths[0]}: not JSON" in text
    assert "stands there" in text
    assert "is not that of its configuration" in text
    assert "is also in" in text


# ---------------------------------------------------------------------------------------------------------------- merge
def test_stores_become_one(store, tmp_path):
    other = Store(tmp_path / "other")
    store.save(make(0))
    store.save(make(1, status="failed", metrics={}))
    other.save(make(0, provenance={"wall_s": 9.0, "digest": ""}))  # the same result, another time
    other.save(make(1))
    other.save(make(2))
    other.save(make(3, status="timeout", metrics={}))
    found = care.merge(other.root, store)
    assert (found.added, found.replaced, found.same, found.conflicts, found.problems) == (2, 1, 1, [], [])
    assert [r.seed for r in store.load().records] == [0, 1, 2, 3]
    assert store.load().records[0].provenance["wall_s"] == 1.0
    again = care.merge(other.root, store)
    assert (again.added, again.replaced, again.same) == (0, 0, 4)
    assert care.verify(store.root).problems == []


def test_a_conflict_is_reported_and_nothing_is_chosen(store, tmp_path):
    ours = store.save(make(0))
    before = ours.read_bytes()
    theirs = make(0, metrics={"loss": 1.5, "extra": 2.0}, tables={"t": [1]})
    write_reference([theirs], tmp_path / "other")
    found = care.merge(tmp_path / "other", store)
    (conflict,) = found.conflicts
    assert conflict.differences == ["accuracy 0.5 and absent", "extra absent and 2.0", "loss 1.0 and 1.5", "tables"]
    assert conflict.ours == str(ours)
    assert conflict.theirs.endswith("laptop-s.jsonl:1")
    assert ours.read_bytes() == before
    store.save(make(1))
    assert care.differences(make(0), make(0, status="diverged")) == ["status ok and diverged"]


def test_a_merge_that_cannot_be_written_is_no_traceback(store, tmp_path, monkeypatch, capsys):
    write_reference([make(0), make(1)], tmp_path / "other")
    store.root.write_text("a file where the store would be")
    with pytest.raises(CannotStore, match="cannot be written"):
        care.merge(tmp_path / "other", store)
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    (tmp_path / "results").write_text("another")
    assert main(["records", "merge", str(tmp_path / "other")]) == 1
    assert "what was finished before is kept" in capsys.readouterr().err


def test_what_is_damaged_or_would_leave_the_store_is_not_merged(store, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    evil = make(0, paper="../evil")
    (other / "a.json").write_text(evil.to_json())
    (other / "b.json").write_text(make(1).to_json()[:-5])
    (other / "c.json").write_text(make(2, key="f" * 20).to_json())
    found = care.merge(other, store)
    assert found.added == 0
    assert len(found.problems) == 3
    assert not store.root.exists()


# ------------------------------------------------------------------------------------------------------------------- gc
@dataclass(frozen=True)
class Config:
    data: str = "d"


def test_garbage_is_what_no_current_code_can_use(store, monkeypatch):
    import repro.report

    monkeypatch.setattr(repro.report, "current_code", lambda *_: "now")
    paper = Paper(
        "p", "P", "P", "tests", "", 2026, "", Config, (Arm("a", "A", "method"),),
        (Setting("s", "S", "s", "generated"),), (), {"laptop": Preset()}, "nowhere.run",
    )  # fmt: skip
    good = store.save(make(0, code="now"))
    stale = store.save(make(1, code="then"))
    failed = store.save(make(2, code="now", status="failed"))
    strange = store.save(make(3, code="now", paper="gone"))
    cut = store.save(make(4, code="now"))
    cut.write_bytes(cut.read_bytes()[:50])
    part, fresh = (good.parent / name for name in (".a.part", ".b.part"))
    part.write_text("x" * 10)
    fresh.write_text("y")
    os.utime(part, (0, 0))
    found = care.garbage(store.root, {"p": paper})
    assert {path for path, _ in found.files} == {stale, failed, strange, cut, part}
    assert found.bytes == sum(p.stat().st_size for p in (stale, failed, strange, cut, part))
    assert stale.exists(), "nothing goes unasked"
    stale.unlink()
    assert care.remove(found) == 4
    assert sorted(p for p in store.root.rglob("*") if p.is_file()) == sorted([good, fresh])
    # what pages use as confirmed stays, and so does everything where the code that is here cannot be read
    confirmed = [store.save(make(seed, key=f"{seed}" * 20, code="then")) for seed in (0, 5)]
    assert not {path for path, _ in care.garbage(store.root, {"p": paper}).files} & set(confirmed)
    monkeypatch.setattr(repro.report, "current_code", lambda *_: "")
    assert {path for path, _ in care.garbage(store.root, {"p": paper}).files} <= {part, strange}


# --------------------------------------------------------------------------------------------------------- command line
def test_the_command_line(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    store.save(make(0))
    assert main(["records", "merge", str(store.root)]) == 0
    assert "1 added" in capsys.readouterr().out
    store.path("p", "laptop", make(0).key).unlink()
    store.save(make(0, metrics={"loss": 2.0}))
    assert main(["records", "merge", str(store.root)]) == 1
    assert "p s/a, laptop, seed 0: accuracy 0.5 and absent; loss 1.0 and 2.0; kept" in capsys.readouterr().out
    assert main(["records", "verify"]) == 0
    assert main(["records", "verify", str(store.root)]) == 0
    assert "1 records, 1 of them sealed, 0 problems" in capsys.readouterr().out
    assert main(["records", "gc"]) == 0
    assert "there is no paper p" in capsys.readouterr().out
    assert main(["records", "gc", "--delete"]) == 0
    assert "1 removed" in capsys.readouterr().out
    assert list((tmp_path / "results").rglob("*.json")) == []
    assert main(["records", "verify", "nowhere"]) == 2
