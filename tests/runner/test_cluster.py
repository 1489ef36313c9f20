"""Runs on a Ray cluster of several nodes on this machine: the same records, and what happens when parts of it go."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from dataclasses import replace

import psutil
import pytest

from repro.bench import sleeping
from repro.records import Store
from repro.runner import NoCluster, Silent, execute, plan
from repro.runner.cluster import Cluster
from repro.runner.remote import Board, Shelf, pack, shelved, unpack
from repro.runner.reserve import Reservations
from tests.conftest import ROOT
from tests.runner.test_runner import PAPER, runs

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@contextlib.contextmanager
def nodes(*cores):
    """Head without a place for runs, and one node for each number of cores."""
    from ray.cluster_utils import Cluster as Nodes

    made = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        yield made, [made.add_node(num_cpus=n, memory=8 * 2**30) for n in cores]
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def address():
    with nodes(2) as (made, _):
        yield made.address


@pytest.fixture
def carry_out(tmp_path, address, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))

    def carry(todo, more=()):
        cluster = Cluster(
            Reservations(Store(tmp_path / "store")), Silent(), address,
            environment={"PYTHONPATH": str(ROOT), **dict(more)},
        )  # fmt: skip
        return sorted(cluster.carry_out(todo), key=lambda r: r.seed)

    return carry


def test_the_records_are_those_of_the_local_executor(tmp_path, address):
    todo = plan(PAPER, "smoke", settings=["composition"], arms=["moe", "coe-2x"], claims=["C1"], seeds=1)
    here = execute(todo, Store(tmp_path / "here"), workers=1)
    there = execute(todo, Store(tmp_path / "there"), executor="ray", address=address)
    assert not there.failed
    assert [r.results for r in there.records] == [r.results for r in here.records]
    assert [r.key for r in there.records] == [r.key for r in here.records]
    assert there.records[0].provenance["commit"] == here.records[0].provenance["commit"]
    assert Store(tmp_path / "there").load().problems == []
    again = execute(todo, Store(tmp_path / "there"), executor="ray", address=address)
    assert (again.ran, again.cached) == (0, len(todo))


def test_the_code_travels_and_workers_stay(carry_out):
    records = carry_out(runs("where", 4))
    assert all(str(ROOT) not in r.data["file"] for r in records), "from the working directory that was sent"
    assert len({r.metrics["pid"] for r in records}) <= 2, "a process for each place, not for each run"


def test_no_more_runs_go_on_than_there_are_cores(tmp_path, address):
    """Not even while a run waits for an actor."""
    settings = {"PYTHONPATH": str(ROOT), sleeping.MEAN: "0.2", sleeping.ZERO: str(time.time())}
    cluster = Cluster(Reservations(Store(tmp_path)), Silent(), address, environment=settings)
    metrics = [record.metrics for record in cluster.carry_out(sleeping.naps(40))]
    spans = [(m["began_s"], m["began_s"] + m["nap_s"]) for m in metrics]
    assert len(spans) == 40
    assert max(sum(began <= moment < ended for began, ended in spans) for moment, _ in spans) == 2


def test_runs_that_go_wrong_are_recorded_and_the_others_go_on(carry_out, tmp_path):
    wrong = {
        "raises": ("failed", "the reason <b>why</b>"),
        "dies": ("failed", "its worker was lost 4 times"),
        "hangs": ("timeout", "limit of 3 s"),
        "swells": ("memory", "its limit is 1.50 GiB"),
        "garbage": ("failed", "gave a str"),
    }
    todo = [run for function in wrong for run in runs(function, 2, memory_limit=3 * 2**29)]
    todo = [replace(r, time_limit=3.0) if r.key == "hangs1" else r for r in todo]
    records = {r.key: r for r in carry_out(todo)}
    assert len(records) == 10
    for function, (status, reason) in wrong.items():
        assert records[f"{function}0"].status == "ok"
        assert records[f"{function}1"].status == status
        assert reason in records[f"{function}1"].error["message"]
    assert {r.key: r.status for r in Store(tmp_path / "store").load().records} == {
        key: record.status for key, record in records.items()
    }


def test_processes_share_a_run_on_one_node(carry_out, tmp_path):
    from tests.runner.test_spread import runs as trainings

    todo = trainings("trains", seeds=2, processes=2)
    (here,) = execute(todo[:1], Store(tmp_path / "here"), workers=1).records
    there = carry_out(todo)
    assert [r.status for r in there] == ["ok", "ok"], [r.error for r in there]
    assert there[0].results == here.results
    assert there[0].environment["hardware"]["processes"] == 2


def test_what_no_node_can_hold_is_said_and_not_waited_for(carry_out):
    todo = [replace(run, processes=3) for run in runs("fine", 2)]
    with pytest.raises(NoCluster, match="runs of 3 processes need a node with as many cores; the largest has 2"):
        carry_out(todo)


def test_a_killed_training_is_taken_up_on_its_node(carry_out, tmp_path, monkeypatch):
    from repro.runner.worker import kept
    from tests.runner.test_spread import runs as trainings

    (whole,) = execute(trainings("trains_slowly"), Store(tmp_path / "whole"), workers=0).records
    (run,) = trainings("trains_slowly", checkpoint=4)
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    found = []

    def kill():
        until = time.monotonic() + 120
        while not list(kept(run).glob("*/000000008")) and time.monotonic() < until:
            time.sleep(0.02)
        for process in psutil.process_iter(["cmdline"]):
            if process.info["cmdline"] and process.info["cmdline"][0] == f"ray::{run.label}":
                found.append(process.pid)
                process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    (again,) = carry_out([run], more={"PAUSE": "0.1"})
    killer.join()
    assert len(found) == 1
    assert again.provenance["resumed"][0] >= 8
    assert again.results == whole.results
    assert not kept(run).exists()


def test_base_models_travel_between_nodes(tmp_path, address, monkeypatch):
    """The cache is emptied after the first run: the second is on a node that has nothing, and builds nothing."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("REPRO_CACHE", str(cache))
    reserved = Reservations(Store(tmp_path / "store"))
    cluster = Cluster(reserved, Silent(), address, slots=1, environment={"PYTHONPATH": str(ROOT)})
    built = []
    for record in cluster.carry_out(runs("makes_a_base_model", 2)):
        built.append(record.metrics["built"])
        assert list(shelved(cache)) == ["zoo/base-0123"]
        shutil.rmtree(cache)
    assert built == [1, 0]


def test_what_is_packed_is_unpacked_whole_and_once(tmp_path):
    shelf = Shelf()
    place = tmp_path / "cache" / "zoo" / "base-0123"
    place.mkdir(parents=True)
    (place / "weights").write_bytes(b"w" * 1000)
    made = shelved(tmp_path / "cache")
    for name, place in made.items():
        assert shelf.keep(name, pack(place))
        unpack(shelf.give(name), tmp_path / "other", name)
        unpack(shelf.give(name), tmp_path / "other", name)
    assert (tmp_path / "other" / "zoo" / "base-0123" / "weights").read_bytes() == b"w" * 1000
    assert [p.name for p in (tmp_path / "other" / "zoo").iterdir()] == ["base-0123"], "no debris"


def test_the_shelf_has_a_limit_and_keeps_the_first():
    shelf = Shelf(limit=10)
    assert shelf.keep("zoo/a", b"12345")
    assert shelf.keep("zoo/a", b"other")
    assert not shelf.keep("zoo/b", b"123456")
    assert shelf.keep("zoo/c", b"12345")
    assert shelf.give("zoo/a") == b"12345"


@pytest.mark.parametrize("name", ["zoo/../../evil", "../evil", "zoo/.hidden", "zoo", "data/x", "/etc/x", "zoo/"])
def test_nothing_is_laid_down_outside_the_shelf(tmp_path, name):
    with pytest.raises(ValueError, match="no name of the shelf"):
        unpack(b"", tmp_path, name)


def test_a_packed_file_cannot_leave_its_folder(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../evil"))
    with pytest.raises(tarfile.FilterError):
        unpack(buffer.getvalue(), tmp_path / "cache", "zoo/x")
    assert not (tmp_path / "evil").exists()


def test_a_board_forgets_the_oldest():
    board = Board(limit=2)
    for number in range(3):
        board.tell("step", number)
    assert board.drain() == [("step", 1), ("step", 2)]
    assert board.drain() == []


def test_no_cluster_is_said():
    with pytest.raises(NoCluster, match="no cluster at"):
        next(Cluster(Reservations(Store("nowhere")), Silent(), "127.0.0.1:1").carry_out(runs("fine", 1)))


def test_a_node_goes_and_a_worker_is_killed(tmp_path):
    """What was on them is carried out elsewhere, and every run has one record."""
    with nodes(1, 1, 1) as (made, added):
        cluster = Cluster(Reservations(Store(tmp_path)), Silent(), made.address, environment={"PYTHONPATH": str(ROOT)})
        seen = []
        for record in cluster.carry_out(runs("slow", 12)):
            seen.append(record)
            if len(seen) == 2:
                made.remove_node(added[0], allow_graceful=False)
            if len(seen) == 4:
                os.kill(int(record.metrics["pid"]), signal.SIGKILL)
    assert sorted(r.seed for r in seen) == list(range(12))
    assert all(r.status == "ok" for r in seen)
    assert len(Store(tmp_path).load().records) == 12


SCRIPT = """
    import sys
    from repro.records import Store
    from repro.runner import Silent
    from repro.runner.cluster import Cluster
    from repro.runner.reserve import Reservations
    from tests.runner.test_runner import runs
    cluster = Cluster(Reservations(Store(sys.argv[2])), Silent(), sys.argv[1], environment={"PYTHONPATH": sys.argv[3]})
    print("complete", sum(1 for _ in cluster.carry_out(runs("slow", int(sys.argv[4])))), flush=True)
"""


def start(tmp_path, address, seeds):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    return subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), address, str(tmp_path / "store"), str(ROOT), str(seeds)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_gcs_rpc_server_reconnect_timeout_s": "2"},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def test_the_head_is_lost_and_the_next_start_goes_on(tmp_path):
    with nodes(1) as (made, _):
        process = start(tmp_path, made.address, 400)
        until = time.monotonic() + 90
        while len(list((tmp_path / "store").rglob("*.json"))) < 2 and time.monotonic() < until:
            time.sleep(0.05)
    assert process.wait(60) != 0, "without its head a runner ends, it does not wait for ever"
    kept = len(list((tmp_path / "store").rglob("*.json")))
    assert 2 <= kept < 400
    with nodes(1) as (made, _):
        summary = execute(runs("slow", kept + 2), Store(tmp_path / "store"), executor="ray", address=made.address)
    assert summary.cached == kept
    assert summary.ran == 2
    assert Store(tmp_path / "store").load().problems == []
