"""What `nox -s scaling` measures is what it says, and the process that hands runs out keeps little in hand."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import pytest

from repro.bench import pages, scaling
from repro.bench.scaling import Case, growth, measure, share
from repro.bench.sleeping import DOOR, MEAN, ZERO, nap_s, naps
from repro.records import Record, Store
from repro.runner import Silent, cluster, execute
from repro.runner.cluster import Cluster
from repro.runner.reserve import Reservations
from repro.runner.worker import carry_out


def spans(*pairs):
    return [{"began_s": began, "nap_s": ended - began} for began, ended in pairs]


def test_the_share_counts_from_when_all_places_are_open_to_the_last_end():
    # the second place opens at 2; a scheduler without any cost begins the last run at 3.5, not at 5
    found = share(spans((0, 2), (1, 2), (2, 3), (2, 4), (3, 4.5), (5, 7)), 2)
    assert found["start_s"] == 1
    assert found["window_s"] == 5
    assert found["efficiency"] == (1 + 2 + 1.5 + 2) / 10
    assert found["list_scheduling"] == round((1 + 2 + 1.5 + 2) / 8, 4)


def test_growth_is_counted_after_the_first_tenth():
    found = growth([(n, 100 + (50 if n > 1 else 0) + n) for n in range(1, 101)])
    assert found["grown_bytes"] == (100 + 50 + 100) - (100 + 50 + 11)
    assert growth([(1, 1)]) == {}


def test_naps_are_the_same_again_and_between_half_and_one_and_a_half():
    assert [nap_s(seed, 2.0) for seed in range(50)] == [nap_s(seed, 2.0) for seed in range(50)]
    assert all(1 <= nap_s(seed, 2.0) <= 3 for seed in range(50))
    assert len({run.key for run in naps(50)}) == 50


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_eight_places_are_kept_busy(tmp_path, executor):
    """Half of what is possible, in the best of three: a guard against an executor that waits, not a percentage."""
    if executor == "ray":
        pytest.importorskip("ray")
    best = 0.0
    for attempt in range(3):
        with pytest.MonkeyPatch.context() as patch:
            for name in (MEAN, ZERO, DOOR):  # what `measure` sets is taken back
                patch.setenv(name, "")
            found = measure(Case(executor, 8, 0.6, 4), tmp_path / str(attempt))
        assert found["runs"] == 40
        best = max(best, found.get("efficiency", 0.0) / found.get("list_scheduling", 1.0))
        if best > 0.5:
            break
    assert best > 0.5


class Ray:
    """A cluster that carries out one run whenever it is waited for. Knows what is in hand.

    Args:
        late: looks at the board's answer that find none, before each that finds one.
    """

    exceptions = SimpleNamespace(RayTaskError=RuntimeError, RayError=RuntimeError)

    def __init__(self, cores, late=0):
        self.cores, self.late, self.made, self.boards = cores, late, 0, 0
        self.runs, self.answers, self.heard = {}, {}, []

    def pinned(self, _, actor):
        self.boards += actor is cluster.remote.Board
        return SimpleNamespace(drain=SimpleNamespace(remote=self.drain))

    def drain(self):
        reference = object()
        self.answers[reference] = [self.late, self.heard]
        self.heard = []
        return reference

    def remote(self, function):
        self.made += 1
        return self

    def options(self, **_):
        return SimpleNamespace(remote=self.submit)

    def submit(self, run, attempt, *_):
        reference = object()
        self.runs[reference] = run
        self.heard.append(("begin", run.key, attempt))
        return reference

    def wait(self, references, num_returns, timeout):
        asked = self.answers.get(references[0])
        if asked is not None and asked[0] > 0:
            asked[0] -= 1
            return [], references
        return references[:1], references[1:]

    def get(self, reference):
        if reference in self.answers:
            return self.answers.pop(reference)[1]
        return carry_out(self.runs.pop(reference)).to_json()

    def cluster_resources(self):
        return {"CPU": self.cores}

    def nodes(self):
        return [{"Alive": True, "Resources": {"memory": 2**40}}]

    def shutdown(self):
        return None


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Makes what hands runs to such a cluster."""
    monkeypatch.setenv(MEAN, "0")
    monkeypatch.setenv(ZERO, "0")

    def make(ray, show):
        monkeypatch.setattr(cluster, "_pinned", ray.pinned)
        made = Cluster(Reservations(Store(tmp_path)), show)
        monkeypatch.setattr(made, "_connect", lambda: ray)
        return made

    return make


def test_a_long_plan_is_handed_out_a_few_runs_at_a_time(driver):
    ray = Ray(cores=8)
    handing = driver(ray, Silent())
    most, done = 0, 0
    for _ in handing.carry_out(naps(400)):
        done += 1
        most = max(most, len(handing.flights), len(ray.runs), len(handing.reserved.held))
    assert done == 400
    assert most <= 8 + 2, "as many as there are places, and a quarter more"
    assert most >= 8, "no place waits"
    assert ray.made == 1, "one function for all runs: a cluster keeps each"
    assert not handing.flights
    assert not handing.again
    assert not handing.reserved.held


def test_a_board_that_is_late_is_waited_for(driver):
    """On a busy machine. It is not replaced, and what it was told comes with a later answer."""
    begun = []
    ray, show = Ray(cores=2, late=1), Silent()
    show.begin = lambda run: begun.append(run.seed)
    done = [record.seed for record in driver(ray, show).carry_out(naps(20))]
    assert sorted(done) == list(range(20))
    assert ray.boards == 1
    assert begun, "the beginnings of runs that are still in hand are told"
    assert len(ray.answers) <= 2, "it is not asked over and over"


def test_a_long_plan_leaves_no_records_in_memory(tmp_path, monkeypatch):
    monkeypatch.setenv(MEAN, "0")
    monkeypatch.setenv(ZERO, "0")
    gc.collect()
    before = sum(isinstance(thing, Record) for thing in gc.get_objects())
    summary = execute(naps(60), Store(tmp_path), workers=0)
    gc.collect()
    kept = sum(isinstance(thing, Record) for thing in gc.get_objects()) - before
    assert kept <= 2
    assert [r.seed for r in summary.records] == list(range(60)), "they are read when they are asked for"


# --- the page ------------------------------------------------------------------------------------------------------


def test_a_section_is_replaced_and_the_rest_left():
    page = "a\n<!-- x: written by nox -s x -->\nold\n<!-- /x -->\nb\n"
    once = pages.filled(page, "x", "new")
    assert once == "a\n<!-- x: written by nox -s x -->\n\nnew\n\n<!-- /x -->\nb\n"
    assert pages.filled(once, "x", "new") == once
    with pytest.raises(ValueError, match="no section 'y'"):
        pages.filled(page, "y", "new")


def test_documents_are_kept_beside_each_other(tmp_path):
    path = tmp_path / "figures.json"
    pages.keep("b", {"n": 1}, path)
    pages.keep("a", {"n": 2}, path)
    pages.keep("b", {"n": 3}, path)
    assert pages.read(path) == {"a": {"n": 2}, "b": {"n": 3}}


def test_the_page_shows_the_figures_that_are_kept():
    """Nobody types them."""
    document = pages.read()["scaling"]
    page = pages.PAGE.read_text(encoding="utf-8")
    assert pages.filled(page, "scaling", scaling.tables(document)) == page
