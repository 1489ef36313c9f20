"""Things that go wrong around the runs. Each ends alike: what was finished is there, once; what failed is named; the
next start completes the plan; the leaderboard builds.

``REPRO_FAULT_ROUNDS`` sets how often chance is tried: few in CI, 200 in ``nox -s faults``.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from leaderboard.build import build
from repro.records import CannotStore, Store
from repro.runner import Live, execute, worker
from repro.runner.reserve import FOLDER, Reservations
from tests.conftest import ROOT
from tests.runner.test_runner import PAPER, runs

ROUNDS = int(os.environ.get("REPRO_FAULT_ROUNDS", "3"))
pytestmark = pytest.mark.slow

SCRIPT = """
    import pickle, sys
    from repro.records import Store
    from repro.runner import execute
    if __name__ == "__main__":
        with open(sys.argv[2], "rb") as file:
            runs = pickle.load(file)
        summary = execute(runs, Store(sys.argv[1]), workers=2)
        print(summary.ran, summary.cached, len(summary.failed), flush=True)
"""


def start(tmp_path, seeds):
    """A runner; its plan is made here, so that it is soon at work."""
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    (tmp_path / "plan").write_bytes(pickle.dumps(runs("slow", seeds)))
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "store"), str(tmp_path / "plan")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def settled(tmp_path, store, todo):
    """The plan is complete, every run of it once, and pages can be made of it."""
    loaded = store.load()
    assert loaded.problems == []
    assert sorted(r.key for r in loaded.records) == sorted(r.key for r in todo)
    assert {r.status for r in loaded.records} == {"ok"}
    assert build(tmp_path / "none", store.root, tmp_path / "site", papers=[PAPER]).is_file()


def test_kills_at_random_moments(tmp_path):
    """Runner or one of its workers, by SIGKILL, at some moment of the time that the whole plan takes here."""
    chance, store, todo = random.Random(0), Store(tmp_path / "store"), runs("slow", 6)
    began = time.monotonic()
    assert start(tmp_path, 6).wait(120) == 0
    took, hit, early = time.monotonic() - began, 0, 0
    for number in range(ROUNDS):
        if len(list(store.root.rglob("*.json"))) == 6:  # complete: begin again
            for path in store.root.rglob("*.json"):
                path.unlink()
        before = {p.name: p.read_bytes() for p in store.root.rglob("*.json") if '"status":"ok"' in p.read_text()}
        process = start(tmp_path, 6)
        time.sleep(chance.uniform(0.0, took))
        with contextlib.suppress(psutil.NoSuchProcess):  # it was complete before
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children()]
            victim = family[0] if number % 2 == 0 else chance.choice(family)
            victim.kill()
        code = process.wait(120)
        assert code in (0, -signal.SIGKILL), "a lost worker does not stop the others"
        hit += code != 0
        early += code != 0 and len(list(store.root.rglob("*.json"))) == len(before)
        after = {p.name: p.read_bytes() for p in store.root.rglob("*.json")}
        assert before.items() <= after.items(), "what was finished stays as it is"
        for record in store.load().records:
            assert record.status == "ok" or "the worker process ended with exit code" in record.error["message"]
    assert hit or ROUNDS < 2, "no kill came in time"
    assert early < hit or ROUNDS < 20, "no kill came after a run had ended"
    process = start(tmp_path, 6)
    assert process.communicate(timeout=120)[0].split()[2] == "0"
    settled(tmp_path, store, todo)
    assert list((store.root / FOLDER).iterdir()) == [] or all(
        Reservations(store).take(run) for run in todo
    ), "a lock of the dead holds nobody up"  # fmt: skip


def test_two_runners_share_the_work(tmp_path):
    both = [start(tmp_path, 12) for _ in range(2)]
    said = [list(map(int, p.communicate(timeout=180)[0].split())) for p in both]
    assert sum(ran for ran, _, _ in said) == 12, "no run is done twice"
    assert all(ran + cached == 12 and failed == 0 for ran, cached, failed in said)
    settled(tmp_path, Store(tmp_path / "store"), runs("slow", 12))


def test_damaged_records_are_made_again(tmp_path):
    """Cut short, one bit flipped, emptied, filled with rubbish."""
    chance, store, todo = random.Random(1), Store(tmp_path / "store"), runs("fine", 8)
    execute(todo, store, workers=0)
    for _ in range(max(2, ROUNDS // 10)):
        files = sorted(store.root.rglob("*.json"))
        intact = {p: p.read_bytes() for p in files}
        hurt = chance.sample(files, 4)
        for path, how in zip(hurt, ("cut", "flip", "empty", "rubbish"), strict=True):
            content = bytearray(intact[path])
            at = chance.randrange(len(content) - 2)
            if how == "cut":
                content = content[:at]
            elif how == "flip":
                content[at] ^= 1 << chance.randrange(8)
            elif how == "empty":
                content = bytearray()
            else:
                content = bytearray(chance.randbytes(500))
            path.write_bytes(content)
        named = "\n".join(store.load().problems)
        # a bit of the word "digest" takes the seal away and leaves all else whole
        unsealed = b'"digest"' not in hurt[1].read_bytes()
        assert all(p.name in named for p in hurt if p != hurt[1] or not unsealed)
        summary = execute(todo, store, workers=0)
        assert summary.ran >= 3
        assert all(p.read_bytes() == intact[p] for p in files if p not in hurt)
        settled(tmp_path, store, todo)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 kB, and a way to change it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)

    if sys.platform != "linux" or mount("size=256k").returncode:
        pytest.skip("no small disk can be mounted here")
    yield place, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_said_and_a_larger_one_goes_on(tmp_path, small_disk, workers):
    place, remount = small_disk
    store, todo = Store(place / "store"), runs("bulky", 8)
    with pytest.raises(CannotStore, match="No space left on device"):
        execute(todo, store, workers=workers)
    kept = {p.name: p.read_bytes() for p in store.root.rglob("*.json")}
    assert 1 <= len(kept) < 8
    assert store.load().problems == []
    assert not list(store.root.rglob("*.part")), "no debris takes the last of the room"
    with pytest.raises(CannotStore):
        execute(todo, store, workers=workers)
    remount("size=8m")
    summary = execute(todo, store, workers=workers)
    assert (summary.cached, summary.ran) == (len(kept), 8 - len(kept))
    assert all((place / "store" / "coe" / "smoke" / name).read_bytes() == kept[name] for name in kept)
    settled(tmp_path, store, todo)


def test_a_read_only_store_is_said_before_anything_runs(tmp_path, small_disk):
    place, remount = small_disk
    store, todo = Store(place / "store"), runs("fine", 3)
    execute(todo[:1], store, workers=0)
    remount("ro")
    with pytest.raises(CannotStore, match="Read-only file system"):
        execute(todo, store, workers=2)
    assert execute(todo[:1], store, workers=2).cached == 1, "what is there can be read"
    remount("rw")
    execute(todo, store, workers=0)
    settled(tmp_path, store, todo)


def test_the_command_line_says_that_the_store_cannot_be_written(tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    done = subprocess.run(
        [sys.executable, "-m", "repro", "run", "coe", "--scale", "smoke", "--arms", "moe", "--seeds", "1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "REPRO_RESULTS": str(tmp_path / "results")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("repro: records cannot be written to")
    assert "Traceback" not in done.stderr


def test_a_clock_that_goes_backwards_changes_nothing(tmp_path, monkeypatch):
    hours = itertools.count()

    class Backwards:
        @staticmethod
        def now(zone):
            return datetime(2030, 1, 1, tzinfo=UTC) - timedelta(hours=next(hours))

    monkeypatch.setattr(worker, "datetime", Backwards)
    store, todo = Store(tmp_path / "store"), runs("slow", 3)
    summary = execute(todo, store, workers=0, progress=Live())
    assert all(0.3 <= r.provenance["wall_s"] < 60 for r in summary.records)
    settled(tmp_path, store, todo)


def test_without_locks_a_run_may_be_done_twice(tmp_path, monkeypatch):
    """Some network file systems have none: better two records, of which the first is kept, than none."""
    import filelock

    def has_none(self, *_, **__):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(filelock.FileLock, "acquire", has_none)
    store, todo = Store(tmp_path), runs("fine", 2)
    ours, theirs = Reservations(store), Reservations(store)
    assert ours.take(todo[0])
    assert theirs.take(todo[0])
    ours.close()
    assert execute(todo, store, workers=0).ran == 2


def test_a_reservation_ends_with_its_holder(tmp_path):
    store, (run, *_) = Store(tmp_path), runs("fine", 1)
    ours, theirs = Reservations(store), Reservations(store)
    assert ours.take(run)
    assert not theirs.take(run)
    ours.release(run)
    assert theirs.take(run)
    theirs.close()
    assert ours.take(run)
    ours.close()
    assert store.load().records == []
