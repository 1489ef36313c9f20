"""Records are written whole or not at all, once, and never outside their folder."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace

import pytest

from repro.claims import ACCOUNTING, Arm, Paper, Preset, Setting
from repro.records import Record, Store, load, standard, write_atomically, write_reference


def make(**more):
    base = {
        "key": "k0", "paper": "p", "setting": "s", "arm": "a", "scale": "smoke", "seed": 0, "status": "ok",
        "config": {}, "code": "c",
    }  # fmt: skip
    return Record(**{**base, **more})


def test_saved_records_come_back(tmp_path):
    store = Store(tmp_path)
    made = make(metrics={"loss": 1.5})
    path = store.save(made)
    assert path == tmp_path / "p" / "smoke" / "k0.json"
    assert store.get("p", "smoke", "k0") == made
    assert store.load().records == [made]
    assert store.load("p", "smoke").records == [made]
    assert store.load("p", "laptop").records == []
    assert store.load("q").records == []


def test_a_finished_record_is_never_replaced_and_a_failed_one_gives_way(tmp_path):
    store = Store(tmp_path)
    store.save(make(status="failed"))
    assert store.get("p", "smoke", "k0") is None
    assert len(store.load().records) == 1
    store.save(make(metrics={"loss": 1.0}))
    store.save(make(metrics={"loss": 2.0}))
    store.save(make(status="failed"))
    assert store.load().records[0].metrics == {"loss": 1.0}


def test_a_damaged_file_is_reported_by_name_skipped_and_replaced(tmp_path):
    store = Store(tmp_path)
    good = make(key="good")
    store.save(good)
    cut = store.save(make(key="cut"))
    cut.write_text(cut.read_text()[:40])
    (tmp_path / "p" / "smoke" / "old.json").write_text('{"schema": 0}')
    (tmp_path / "p" / "smoke" / "text.json").write_text("hello")
    (tmp_path / "p" / "smoke" / "empty.json").write_text("")
    loaded = store.load()
    assert loaded.records == [good]
    assert {os.path.basename(p.split(":")[0]) for p in loaded.problems} == {
        "cut.json",
        "old.json",
        "text.json",
        "empty.json",
    }
    assert store.get("p", "smoke", "cut") is None
    store.save(make(key="cut"))
    assert store.get("p", "smoke", "cut") is not None


def test_a_bad_line_of_a_reference_file_is_reported_with_its_number(tmp_path):
    (path,) = write_reference([make(key="k0"), make(key="k1", seed=1)], tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "", lines[1][:30], '{"schema": 99}']))
    loaded = load(tmp_path)
    assert [r.key for r in loaded.records] == ["k0"]
    assert [p.split(": ")[0] for p in loaded.problems] == [f"{path}:3", f"{path}:4"]


def test_what_is_no_record_file_is_left_alone(tmp_path):
    Store(tmp_path).save(make())
    (tmp_path / "p" / "smoke" / ".x.part").write_text("half")
    (tmp_path / "p" / "smoke" / "note.txt").write_text("hello")
    loaded = load(tmp_path)
    assert len(loaded.records) == 1
    assert not loaded.problems


def test_an_absent_folder_holds_nothing(tmp_path):
    assert load(tmp_path / "nowhere").records == []


@pytest.mark.parametrize(
    "name", ["../evil", "a/b", "..", ".", "", "/etc/passwd", "a\0b", ".hidden", "a\\b", "x" * 200, "a\n"]
)
@pytest.mark.parametrize("part", ["paper", "scale", "key"])
def test_no_name_leaves_the_store(part, name, tmp_path):
    with pytest.raises(ValueError, match="cannot be a file name"):
        Store(tmp_path / "store").save(make(**{part: name}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["paper", "scale", "setting"])
def test_no_name_leaves_the_reference_folder(part, tmp_path):
    with pytest.raises(ValueError, match="cannot be a file name"):
        write_reference([make(**{part: "../evil"})], tmp_path / "reference")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_text_and_no_debris(tmp_path, monkeypatch):
    path = tmp_path / "f.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_a_writer_killed_at_any_moment_leaves_whole_files(tmp_path):
    """A process that rewrites files as fast as it can is killed; every file that is there is complete."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from repro.records import write_atomically
        print("ready", flush=True)
        for i in range(10**9):
            write_atomically(Path(sys.argv[1]) / f"{i % 7}.json", str(i % 10) * 200_000)
        """
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        while not (tmp_path / "3.json").exists():
            assert process.poll() is None
        process.kill()
        process.wait()
        process.stdout.close()
        files = list(tmp_path.glob("[0-9].json"))
        assert files
        for file in files:
            text = file.read_text()
            assert len(text) == 200_000
            assert len(set(text)) == 1
            file.unlink()


def test_seeds_of_an_arm_with_other_options_leave_the_reference(tmp_path):
    old = [make(key=f"{arm}{seed}", arm=arm, seed=seed, config={"lr": 0.1}) for arm in "ab" for seed in (0, 1)]
    write_reference(old, tmp_path)
    write_reference([make(key="n", arm="a", config={"lr": 0.2, "width": (8, 1 / 3)})], tmp_path)
    assert [(r.arm, r.seed, r.config["lr"]) for r in load(tmp_path).records] == [
        ("a", 0, 0.2),
        ("b", 0, 0.1),
        ("b", 1, 0.1),
    ]
    # numbers as a file spells them, and an option that came later, are no other options
    write_reference([make(key="m", arm="a", seed=1, config={"lr": 0.2, "width": [8, 1 / 3], "new": 1})], tmp_path)
    assert [(r.arm, r.seed) for r in load(tmp_path).records] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_reference_files_are_sorted_finished_and_replaced(tmp_path):
    other = tmp_path / "p" / "laptop-s.jsonl"
    write_atomically(other, make(scale="laptop").to_json() + "\n")
    records = [make(key=f"k{i}", seed=i, arm=arm) for i, arm in enumerate("cab")] + [make(key="bad", status="failed")]
    (path,) = write_reference(records, tmp_path)
    assert path == tmp_path / "p" / "smoke-s.jsonl"
    assert [r.arm for r in load(tmp_path / "p", "smoke").records] == ["a", "b", "c"]
    first = path.read_bytes()
    write_reference(records[::-1], tmp_path)
    assert path.read_bytes() == first
    write_reference([make(key="new", seed=0, arm="c")], tmp_path)
    assert [(r.arm, r.key) for r in load(tmp_path / "p", "smoke").records] == [("a", "k1"), ("b", "k2"), ("c", "new")]
    with path.open("ab") as file:
        file.write(b'{"broken')
    write_reference(records[:1], tmp_path)
    assert [r.key for r in load(tmp_path / "p", "smoke").records] == ["k1", "k2", "k0"], "others stay, rubbish goes"
    assert other.exists()


@dataclass(frozen=True)
class Config:
    lr: float = 0.1
    steps: int = 10
    shape: tuple[int, ...] = (1, 2)


PAPER = Paper(
    "p", "P", "P", "tests", "", 2026, "", Config, (Arm("a", "A", "method", {"lr": 0.2}),),
    (Setting("s", "S", "s", "generated"),), (), {"smoke": Preset({"steps": 5}), "laptop": Preset()}, "nowhere.run",
)  # fmt: skip
USUAL = {"lr": 0.2, "steps": 5, "shape": [1, 2]}


def test_the_records_that_count_have_the_configuration_asked_for():
    usual = make(key="usual", config=USUAL)
    tried = make(key="tried", config={**USUAL, "steps": 99})
    everything = [
        usual,
        tried,
        make(key="laptop", scale="laptop", config=USUAL),
        make(key="q", paper="q", config=USUAL),
    ]
    assert standard(PAPER, everything, "smoke") == [usual]
    assert standard(PAPER, everything, "smoke", {"steps": 99}) == [tried]
    assert standard(PAPER, [make(arm="gone", config=USUAL)], "smoke") == []


def test_of_two_records_for_one_cell_the_one_started_last_counts():
    early = make(key="early", config=USUAL, code="1", provenance={"started": "2026-01-01T00:00:00+00:00"})
    late = make(key="late", config=USUAL, code="2", provenance={"started": "2026-02-01T00:00:00+00:00"})
    assert standard(PAPER, [late, early], "smoke") == [late]
    assert standard(PAPER, [early, late], "smoke") == [late]


def test_accounting_belongs_to_every_scale():
    accounting = replace(make(arm=ACCOUNTING, setting=ACCOUNTING, scale="published"))
    assert standard(PAPER, [accounting], "smoke") == [accounting]
