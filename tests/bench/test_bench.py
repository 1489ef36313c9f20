"""Benchmarks measure the same thing for all contenders, and their results are kept whole. No test asserts a time."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from repro import bench
from repro.bench import document, harness, summary
from repro.bench.timing import turns
from repro.cli import main
from repro.papers import ROOT, load_paper, slugs


class Clock:
    """Time that only contenders move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def contender(self, name, *seconds):
        taken = iter(seconds)

        def run():
            self.calls.append(name)
            self.now += next(taken)

        return run


# --- timing -------------------------------------------------------------------------------------------------------


def test_warm_up_is_dropped_and_ratios_are_taken_within_a_repetition():
    clock = Clock()
    contenders = {"a": clock.contender("a", 99, 1, 10, 100), "b": clock.contender("b", 99, 2, 20, 200)}
    found = bench.measure(contenders, 3, 1, clock)
    assert found.seconds == {"a": (1, 10, 100), "b": (2, 20, 200)}
    assert found.spread("a") == bench.Quartiles(5.5, 10, 55)
    assert found.ratio("b", "a") == bench.Quartiles(2, 2, 2)


def test_every_contender_runs_once_per_repetition():
    clock = Clock()
    names = "abc"
    bench.measure({n: clock.contender(n, *[1] * 8) for n in names}, 6, 2, clock)
    rounds = [clock.calls[i : i + 3] for i in range(0, len(clock.calls), 3)]
    assert len(rounds) == 8
    assert all(sorted(r) == list(names) for r in rounds)


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9])
def test_everyone_stands_everywhere_and_follows_everyone_equally_often(count):
    rounds = [turns(count, i) for i in range(2 * count)]
    places = Counter((place, who) for r in rounds for place, who in enumerate(r))
    follows = Counter(pair for r in rounds for pair in itertools.pairwise(r))
    assert set(places.values()) == {2}
    assert set(follows.values()) <= {2}
    assert len(follows) == count * (count - 1)


@pytest.mark.parametrize(("contenders", "repetitions"), [({}, 1), ({"a": list}, 0)])
def test_nothing_to_time_is_refused(contenders, repetitions):
    with pytest.raises(ValueError, match="nothing to time"):
        bench.measure(contenders, repetitions, 0)


def test_quartiles_interpolate():
    assert bench.Quartiles.of((3.0, 1.0, 2.0, 4.0)) == bench.Quartiles(1.75, 2.5, 3.25)
    with pytest.raises(ValueError, match="no values"):
        bench.Quartiles.of(())


@pytest.fixture(scope="module")
def one_thread():
    """As `repro bench` has it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- groups -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layer(one_thread):
    """A tiny cell of ``layer``, both modes."""
    from repro.bench.layer import Shape, measure_cell

    return list(measure_cell(Shape(48, 16, 8, 8, 2), "cpu", 2))


@pytest.fixture(scope="module")
def step(one_thread):
    """A tiny cell of ``step``."""
    from repro.bench.step import Model, measure_cell

    return measure_cell(Model(4, 2, 2), "cpu", 2, batch=2, length=16)


def test_all_contenders_agree_and_have_a_time(layer):
    assert [c["mode"] for c in layer] == ["forward", "forward+backward"]
    for cell in layer:
        assert set(cell["contenders"]) == set(summary_names())
        for name, found in cell["contenders"].items():
            assert summary.quartiles(found.get("ms")), (name, found)
        assert cell["way"] == "lean"


def summary_names() -> list[str]:
    ways = ["naive", "dense", "grouped", "lean"]
    return ["ours", *ways, *(f"transformers {n}" for n in ("eager", "batched_mm", "grouped_mm")), "roof"]


def test_a_contender_that_disagrees_or_raises_has_no_time(one_thread, monkeypatch):
    from repro.bench import layer as module
    from repro.models.dispatch import naive

    def raises(*_):
        raise NotImplementedError("not <b>here</b>\nsecond line")

    wrong = {"transformers wrong": lambda *a: 1.01 * naive(*a), "transformers absent": raises}
    monkeypatch.setattr(module, "all_transformers", lambda: wrong)
    cell = next(module.measure_cell(module.Shape(16, 8, 8, 4, 2), "cpu", 1))
    assert "differs by" in cell["contenders"]["transformers wrong"]["error"]
    assert cell["contenders"]["transformers absent"] == {
        "skipped": "does not run: NotImplementedError: not <b>here</b>"
    }


def test_what_takes_too_long_or_too_much_is_left_out_with_the_reason(one_thread, monkeypatch):
    from repro.bench import layer as module

    monkeypatch.setattr(module, "SLOWEST", 0.0)
    monkeypatch.setattr(module, "MEMORY", 1)
    cell = next(module.measure_cell(module.Shape(16, 8, 8, 4, 2), "cpu", 1))
    timed = {n for n, found in cell["contenders"].items() if "ms" in found}
    assert timed == {"ours", "roof"}
    assert "GiB" in cell["contenders"]["transformers batched_mm"]["skipped"]
    assert cell["contenders"]["naive"]["skipped"].startswith("takes ")


def test_a_step_has_a_time_for_each_dispatch(step):
    names = {"ours", "naive", "transformers eager", "transformers grouped_mm", "roof"}
    assert set(step["contenders"]) == names
    assert all("ms" in found for found in step["contenders"].values()), step
    assert step["tokens_per_s"] > 0


def test_a_way_that_does_not_fit_in_memory_is_named_and_the_others_are_timed(one_thread, monkeypatch):
    import torch

    from repro.bench import step as module
    from repro.models.dispatch import naive

    calls = []

    def full(*_):
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    def full_beside_the_others(*arguments):
        calls.append(1)
        # the layers of the comparison pass, then comes a step
        return full() if len(calls) > 2 else naive(*arguments)

    late = {"transformers at once": full, "transformers late": full_beside_the_others}
    monkeypatch.setattr(module, "all_transformers", lambda: late)
    found = module.measure_cell(module.Model(4, 2, 1), "cpu", 1, batch=2, length=8)["contenders"]
    for name in late:
        assert found[name] == {"skipped": "does not fit in memory: tried to allocate 9 GiB"}
    assert all("ms" in found[name] for name in ("ours", "naive"))


def test_models_follow_the_device(monkeypatch):
    from repro.bench import step as module

    def asked(device, quick=False):
        taken = []

        def measure(model, device, repetitions, batch, length):
            taken.append((model, batch * length))
            return {"name": str(model)}

        monkeypatch.setattr(module, "measure_cell", measure)
        module.cells(device, quick, None, lambda text: None)
        return taken

    assert asked("cpu") == [(model, 1024) for model in module.FULL]
    assert asked("cuda:0")[:2] == [(model, 32768) for model in module.PUBLISHED]
    assert asked("cuda", quick=True) == [(model, 1024) for model in module.QUICK]


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_choices_are_ratios_of_the_same_work(one_thread, monkeypatch):
    from repro.bench import choices

    monkeypatch.setattr(choices, "BATCH", 2)
    monkeypatch.setattr(choices, "LENGTH", 8)
    found = [*choices.two_passes(*choices.PAIRS[0], "cpu", 1), *choices.stacked_seeds("cpu", 1)]
    assert [c for c in found if "error" in c] == []
    assert all(summary.quartiles(c["ratio"]) for c in found)
    one, two = (choices.Copy(m, choices.example("cpu"), "cpu").model for m in choices.PAIRS[0])
    assert not any(".shared." in name for name, _ in one.named_parameters())
    routers = 2 * 16 * 64  # of the second pass, in two layers
    assert sum(p.numel() for p in two.parameters()) - sum(p.numel() for p in one.parameters()) == routers


@pytest.mark.slow
def test_layouts_are_measured():
    from repro.bench import choices

    found = list(choices.layouts(1, 0.2))
    assert len(found) == len(choices.LAYOUTS) - 1
    assert all(summary.quartiles(c["ratio"]) for c in found)


def test_another_dispatch_is_in_force_only_inside_the_block(one_thread):
    import torch

    from repro.bench.contenders import instead
    from repro.models.dispatch import WAYS, naive, run_experts

    before = dict(WAYS)
    x, indices, weights = torch.ones(3, 4), torch.zeros(3, 1, dtype=torch.long), torch.ones(3, 1)
    gate_up, down = torch.ones(2, 8, 4), torch.ones(2, 4, 4)
    with instead(lambda *a: 7 * naive(*a)):
        inside = run_experts(x, indices, weights, gate_up, down)
    torch.testing.assert_close(inside, 7 * run_experts(x, indices, weights, gate_up, down))
    assert before == WAYS


def test_made_up_records_build_a_leaderboard(tmp_path):
    from leaderboard.build import build
    from repro.records import load, write_reference

    paper = load_paper(slugs()[0])
    write_reference(harness.synthetic(paper, 40), tmp_path / "reference")
    assert len(load(tmp_path / "reference").records) == 40 + bool(paper.accounting)
    problems: list[str] = []
    build(tmp_path / "reference", None, tmp_path / "site", papers=[paper], problems=problems)
    assert problems == []


@pytest.mark.slow
def test_the_harness_is_measured_without_an_error():
    paper = load_paper(slugs()[0])
    cells = [*harness.starts(1), *harness.runs(paper, "cpu", 1), *harness.boards(paper, (120,))]
    assert [c for c in cells if "error" in c] == []
    measured = {c["name"] for c in cells}
    assert {g.cell for g in bench.GOALS if g.group == "harness"} - measured == {"leaderboard of 100,000 records"}


def test_a_process_that_fails_says_why():
    with pytest.raises(harness.Failed, match="exit code 1: AssertionError: why"):
        harness._python(["-c", "assert False, 'why'"])


# --- documents ----------------------------------------------------------------------------------------------------


def test_a_document_comes_back_as_it_was_and_groups_are_kept(tmp_path, layer, step):
    first = document.group(layer, "cpu", True, document.begin())
    path = bench.write(tmp_path, "cpu", {"layer": first})
    assert path == bench.path_of(tmp_path, "cpu")
    assert bench.read(path)["groups"] == json.loads(json.dumps({"layer": first}))
    bench.write(tmp_path, "cpu", {"step": document.group([step], "cpu", True, document.begin())})
    assert list(bench.read(path)["groups"]) == ["layer", "step"]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_document_names_no_user_host_or_path(tmp_path, layer):
    path = bench.write(tmp_path, "cpu", {"layer": document.group(layer, "cpu", True, document.begin())})
    text = path.read_text(encoding="utf-8")
    import getpass
    import socket

    assert str(ROOT) not in text
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    assert f'"{socket.gethostname()}"' not in text
    assert f'"{getpass.getuser()}"' not in text


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "device": "cpu", "groups": {"layer": []}}',
     '{"schema": 1, "device": "cpu", "groups": {"layer": {"cells": [{"name": 3}]}}}'],
)  # fmt: skip
def test_what_is_no_document_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(bench.BadDocument):
        bench.read(tmp_path / "x.json")


def test_a_line_compares_with_the_fastest_of_transformers():
    def found(ms, over=None):
        spread = {"q1": ms, "median": ms, "q3": ms}
        return {"ms": spread, **({"ours_over": {"q1": over, "median": over, "q3": over}} if over else {})}

    contenders = {
        "ours": found(2.0), "transformers eager": found(8.0, 0.25), "transformers grouped_mm": found(4.0, 0.5),
        "roof": found(1.0, 2.0), "naive": {"skipped": "takes 9 s"}, "dense": {"ms": {"q1": "x"}}, "lean": 3,
    }  # fmt: skip
    cell = {"name": "c", "mode": "forward", "contenders": contenders}
    (line,) = bench.lines([cell])
    assert line.rival == "transformers grouped_mm"
    assert line.against == (0.5, 0.5, 0.5)
    assert line.roof == 0.5
    assert line.notes == {"naive": "takes 9 s", "dense": "no time"}
    assert bench.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)


def test_what_bounds_a_device_is_a_sentence():
    cell = {"name": "a", "mode": "step", "kernels": {"products": 0.7, "moving rows": 0.3, "busy": 0.95, "odd": "x"}}
    line = bench.lines([cell])[0]
    assert bench.bounds(line) == "70 % products, 30 % moving rows; busy 95 % of the time"
    assert bench.bounds(bench.lines([{"name": "a", "mode": "step"}])[0]) == ""
    assert bench.bounds(bench.lines([{"name": "a", "mode": "step", "kernels": [1]}])[0]) == ""


def test_goals_read_the_cells_they_are_about():
    def cell(tokens, against, roof, mode="forward+backward"):
        def over(x):
            return {"ms": {"q1": x, "median": x, "q3": x}, "ours_over": {"q1": x, "median": x, "q3": x}}

        contenders = {"ours": {"ms": over(1.0)["ms"]}, "transformers eager": over(against), "roof": over(roof)}
        return {"name": "c", "mode": mode, "shape": {"tokens": tokens, "experts": 16}, "contenders": contenders}

    cells = [cell(512, 0.5, 9.0), cell(2048, 0.9, 1.2), cell(4096, 1.5, 1.4), cell(512, 0.1, 9.0, "forward")]
    laptop, worst, roof, *others = [value for _, value, _ in bench.outcomes({"layer": {"cells": cells}})]
    assert laptop == pytest.approx((0.5 * 0.9) ** 0.5)
    assert worst == 1.5
    assert roof == pytest.approx((1.2 * 1.4) ** 0.5)
    assert others == [None] * len(others)
    pair = [{"name": f"two passes of K={k}", "ratio": {"q1": r, "median": r, "q3": r}} for k, r in ((2, 1.2), (4, 1.0))]
    (found,) = [v for g, v, _ in bench.outcomes({"choices": {"cells": pair}}) if g.group == "choices"]
    assert found == pytest.approx(1.2**0.5)
    loop = {"name": "m", "mode": "step", "shape": {"experts": 64}, "contenders": {
        "ours": {"ms": {"q1": 1, "median": 1, "q3": 1}},
        "naive": {"ms": {"q1": 4, "median": 4, "q3": 4}, "ours_over": {"q1": 0.25, "median": 0.25, "q3": 0.25}},
    }}  # fmt: skip
    found = {
        g.experts: (value, floor)
        for g, value, floor in bench.outcomes({"step": {"cells": [loop]}})
        if g.group == "step"
    }
    assert found == {16: (None, None), 64: (0.25, None)}
    loop["contenders"]["roof"] = {
        "ms": {"q1": 0.8, "median": 0.8, "q3": 0.8}, "ours_over": {"q1": 1.25, "median": 1.25, "q3": 1.25},
    }  # fmt: skip
    (reached,) = [r for r in bench.outcomes({"step": {"cells": [loop]}}) if r.goal.experts == 64]
    assert reached.floor == pytest.approx(0.8 / 4)  # the dense model over the loop
    gpu = {"cells": [cell(32768, 0.8, 2.0), cell(512, 3.0, 9.0)], "environment": {"hardware": {"device": "cuda:0"}}}
    assert [(g.device, value) for g, value, _ in bench.outcomes({"layer": gpu})] == [("cuda", 0.8)]
    assert {g.device for g, _, _ in bench.outcomes({})} == {"cpu"}


# --- command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--groups", "layers"], ["unknown group 'layers'", "did you mean layer?", "layer, step, choices, harness"]),
        (["--groups", ","], ["no group named", "layer, step, choices, harness"]),
        (["--device", "tpu"], ["unknown device 'tpu'", "cpu, cuda"]),
        (["--repetitions", "0"], ["--repetitions must be above 0"]),
        (["--repetitions", "many"], ["--repetitions", "int", "'many'"]),
        (["--quik"], ["unknown flag '--quik'", "did you mean --quick"]),
        (["--out", __file__], ["--out takes a folder"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(argv, words, capsys):
    assert main(["bench", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert all(w in err for w in words), err


def test_bad_input_imports_no_torch():
    code = (
        "import sys; from repro.cli import main; assert main(['bench', '--groups', 'x']) == 2; import repro.bench;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_the_command_prints_tables_and_keeps_the_result(tmp_path, monkeypatch, capsys):
    from repro.bench import layer as module

    monkeypatch.setattr(module, "QUICK", (module.Shape(32, 8, 8, 4, 2),))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(name, "1")  # put back afterwards
    argv = ["bench", "--quick", "--groups", "layer", "--repetitions", "1", "--out", str(tmp_path)]
    assert main(argv) == 0
    out, _ = capsys.readouterr()
    assert "geometric mean" in out
    assert "T=32 d=8 f=8 N=4 K=2" in out
    (path,) = tmp_path.iterdir()
    assert bench.read(path)["groups"]["layer"]["quick"] is True


# --- page ---------------------------------------------------------------------------------------------------------

HOSTILE = "<script>alert('x')</script>\"'>&\u2028"


def page(tmp_path: Path) -> str:
    from leaderboard.build import build

    build(tmp_path / "reference", None, tmp_path / "site", papers=[])
    return (tmp_path / "site" / "bench.html").read_text(encoding="utf-8")


def test_the_page_shows_a_document(tmp_path, layer, step):
    groups = {
        "layer": document.group(layer, "cpu", False, document.begin()),
        "step": document.group([step], "cpu", False, document.begin()),
        "choices": document.group(
            [{"name": "three at once", "repetitions": 2, "ratio": {"q1": 1.5, "median": 1.6, "q3": 1.7}}],
            "cpu", False, document.begin(),
        ),
        "harness": document.group(
            [
                {"name": "import repro", "repetitions": 3, "seconds": {"q1": 0.001, "median": 0.0025, "q3": 0.004}},
                {"name": "repro list", "error": "exit code 1: no such thing"},
            ],
            "cpu", False, document.begin(),
        ),
    }  # fmt: skip
    bench.write(tmp_path / "bench", "cpu", groups)
    text = page(tmp_path)
    for words in (
        "T=48 d=16 f=8 N=8 K=2",
        "Geometric mean",
        "0.0025",
        "no such thing",
        "three at once",
        "N=4 K=2 C=2",
        "torch",
    ):
        assert words in text, words
    assert 'href="bench.html" aria-current="page"' in text
    assert text == page(tmp_path)


def test_the_page_without_documents_says_so(tmp_path):
    assert "Nothing has been measured yet" in page(tmp_path)


def test_a_hostile_document_is_text_and_an_unreadable_one_is_named(tmp_path):
    spread = {"q1": 1.0, "median": 1.0, "q3": 1.0}
    cell = {
        "name": HOSTILE, "mode": "forward", "way": HOSTILE, "repetitions": HOSTILE,
        "contenders": {"ours": {"ms": spread}, f"transformers {HOSTILE}": {"ms": spread, "ours_over": spread},
                       HOSTILE: {"error": HOSTILE}},
    }  # fmt: skip
    one = {
        "started": HOSTILE, "load": HOSTILE, "code": HOSTILE, "provenance": {"commit": HOSTILE, "dirty": True},
        "environment": {"hardware": {"cpu": HOSTILE, "gpu": HOSTILE}, "versions": {HOSTILE: HOSTILE}},
    }  # fmt: skip
    harness_cells = [{"name": HOSTILE, "error": HOSTILE}, {"name": "x", "seconds": {"q1": "<b>"}, "detail": HOSTILE}]
    groups = {"layer": {**one, "cells": [cell]}, "harness": {**one, "cells": harness_cells}, HOSTILE: {"cells": []}}
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "a.json").write_text(json.dumps({"schema": 1, "device": HOSTILE, "groups": groups}))
    (tmp_path / "bench" / "b.json").write_text('{"schema": 99}')
    text = page(tmp_path)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
    assert "bench/b.json: schema 99" in text
