"""What every folder in papers/ must keep to. A new paper is covered by being there."""

from __future__ import annotations

import ast
import csv
import functools
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from repro import runner
from repro.claims import ACCOUNTING, SCALES, Computed, Ordering
from repro.papers import FOLDER, ROOT, load_paper, slugs
from repro.records import Store
from repro.records.provenance import OUTSIDE, reached
from repro.records.store import safe_name
from repro.runner.plan import trains_through_fit
from repro.runner.worker import carry_out, perform

HEAVY = ("torch", "transformers", "pandas", "datasets", "lm_eval", "altair", "matplotlib", "scipy", "sklearn")
SECTIONS = ("Idea", "Experiment", "Findings", "Departures")
SLUGS = slugs()
every_paper = pytest.mark.parametrize("slug", SLUGS)


def imports_of(path: Path) -> set[str]:
    """Dotted names of the project that a file imports, anywhere in it."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*parts[: len(parts) - node.level], *([base] if base else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def test_there_are_papers():
    assert SLUGS


@every_paper
def test_listing_a_paper_is_light(slug):
    script = (
        f"import json, sys; import papers.{slug}.paper; from repro.papers import load_paper; load_paper({slug!r}); "
        f"print(json.dumps(sorted(set(sys.modules) & set({HEAVY!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@every_paper
def test_its_files_are_there(slug):
    for name in ("__init__.py", "paper.py", "method.py", "experiment.py", "README.md"):
        assert (FOLDER / slug / name).is_file(), name
    assert (ROOT / "tests" / "papers" / f"test_{slug}.py").is_file()


@every_paper
def test_its_page_has_the_sections(slug):
    text = (FOLDER / slug / "README.md").read_text(encoding="utf-8")
    assert re.match(r"# \S", text)
    headings = re.findall(r"^## (.+?)\s*$", text, flags=re.MULTILINE)
    assert [h for h in headings if h in SECTIONS] == list(SECTIONS)


@every_paper
def test_its_facts_are_complete(slug):
    paper = load_paper(slug)
    assert paper.slug == slug
    for name in ("title", "short", "area", "idea"):
        assert getattr(paper, name).strip(), name
    assert 1950 < paper.year < 2100
    assert paper.primary_metric in paper.metrics
    assert is_dataclass(paper.config)
    paper.config()


@every_paper
def test_its_names_are_unique_and_can_be_file_names(slug):
    paper = load_paper(slug)
    for names in (
        [a.name for a in paper.arms], [s.name for s in paper.settings], [c.id for c in paper.claims],
        *([k.name for k in c.comparisons] for c in paper.claims),
    ):  # fmt: skip
        assert len(names) == len(set(names)), names
        for name in names:
            assert "," not in safe_name(name)


@every_paper
def test_its_claims_are_complete(slug):
    paper = load_paper(slug)
    assert paper.claims
    assert sum(c.headline for c in paper.claims) <= 1
    for claim in paper.claims:
        assert claim.statement.strip().endswith("."), claim.id
        assert claim.kind in ("quality", "behaviour", "cost"), claim.id
        assert claim.published.text.strip(), claim.id
        assert claim.published.source.strip(), claim.id
        assert claim.comparisons or claim.untested.strip(), f"{claim.id} has neither a comparison nor a reason"
        for comparison in claim.comparisons:
            assert comparison.title.strip(), f"{claim.id} {comparison.name}"
            if comparison.published is not None:
                assert comparison.published.text.strip()
                assert comparison.published.source.strip()
        if claim.comparisons:
            assert any(k.role == "primary" for k in claim.comparisons), f"{claim.id} has nothing that decides it"


@every_paper
def test_its_comparisons_name_what_exists(slug):
    paper = load_paper(slug)
    arms, settings = {a.name for a in paper.arms}, {s.name for s in paper.settings}
    for claim in paper.claims:
        for comparison in claim.comparisons:
            where = f"{claim.id} {comparison.name}"
            if isinstance(comparison, Computed):
                assert paper.accounting, f"{where} needs an accounting function"
                continue
            assert set(comparison.arms) <= arms, where
            assert set(comparison.settings) <= settings, where
            assert comparison.metric in paper.metrics, f"{where}: metric {comparison.metric!r} is not described"
            assert comparison.min_seeds >= 3, where
            if isinstance(comparison, Ordering):
                assert len(set(comparison.order)) == len(comparison.order) > 1, where
            else:
                assert any(comparison.terms.values()), where
            for condition in comparison.preconditions:
                assert condition.metric in paper.metrics, where


@every_paper
def test_its_quality_claims_have_a_negative_control(slug):
    comparisons = [k for c in load_paper(slug).claims if c.kind == "quality" for k in c.comparisons]
    if any(not isinstance(k, Computed) for k in comparisons):
        assert any(k.role == "control" for k in comparisons)


@every_paper
def test_its_presets_cover_every_scale_and_name_what_exists(slug):
    paper = load_paper(slug)
    assert set(paper.presets) == set(SCALES)
    arms, settings = {a.name for a in paper.arms}, {s.name for s in paper.settings}
    for scale, preset in paper.presets.items():
        assert set(preset.settings) <= settings, scale
        assert set(preset.per_setting) <= settings, scale
        assert set(preset.arms) <= settings, scale
        for names in preset.arms.values():
            assert set(names) <= arms, scale
        assert preset.seeds >= (1 if scale == "smoke" else 3), scale
        assert preset.time_limit > 0
        assert preset.memory_limit > 0


@every_paper
def test_its_options_exist_and_have_the_types_of_the_configuration(slug):
    paper = load_paper(slug)
    defaults = paper.config()
    kinds = {f.name: type(getattr(defaults, f.name)) for f in fields(paper.config)}
    layers = [a.options for a in paper.arms] + [o for a in paper.arms for o in a.at.values()]
    layers += [s.options for s in paper.settings]
    for preset in paper.presets.values():
        layers += [preset.options, *preset.per_setting.values()]
    for arm in paper.arms:
        assert set(arm.at) <= set(SCALES), arm.name
    for layer in layers:
        for name, value in layer.items():
            assert name in kinds, name
            allowed = (int, float) if kinds[name] is float else kinds[name]
            assert isinstance(value, allowed), f"{name}={value!r} is not {kinds[name].__name__}"
            assert isinstance(value, bool) == (kinds[name] is bool), name


@every_paper
def test_every_run_it_could_ask_for_resolves(slug):
    paper = load_paper(slug)
    for scale in SCALES:
        for setting in paper.settings:
            for arm in paper.arms:
                json.dumps(paper.resolve(setting.name, arm.name, scale))


@every_paper
def test_real_data_is_asked_for_by_name(slug):
    paper = load_paper(slug)
    real = {s.name for s in paper.settings if s.source == "real"}
    assert not [s.name for s in paper.settings if s.source == "real" and s.default]
    for scale in ("smoke", "laptop"):
        assert not real & set(paper.presets[scale].settings), f"{scale} scale would need a download"


@every_paper
def test_its_dotted_names_have_a_source_in_its_folder(slug):
    paper = load_paper(slug)
    for entry in filter(None, (paper.experiment, paper.accounting)):
        module, _, function = entry.rpartition(".")
        assert module.startswith(f"papers.{slug}."), entry
        tree = ast.parse((ROOT / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8"))
        assert function in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}, entry


@every_paper
def test_its_published_curves_can_be_read(slug):
    curves = load_paper(slug).curves
    if curves is None:
        pytest.skip("no published curves")
    with (FOLDER / slug / curves.file).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    arms = {a.name for a in load_paper(slug).arms}
    assert rows
    for series in curves.series:
        assert series.arm in arms
        for row in rows:
            float(row[curves.x])
            if row[series.column]:
                float(row[series.column])


@every_paper
def test_no_paper_imports_another(slug):
    for path in (FOLDER / slug).rglob("*.py"):
        others = {n for n in imports_of(path) if n.split(".")[0] == "papers" and n.split(".")[1:2] != [slug]}
        assert not others, f"{path.relative_to(ROOT)} imports {others}"
        assert not any(n.split(".")[0] == "leaderboard" for n in imports_of(path)), path


def test_the_library_imports_no_paper():
    for path in (ROOT / "repro").rglob("*.py"):
        found = {n for n in imports_of(path) if n.split(".")[0] == "papers" and len(n.split(".")) > 1}
        assert not found, f"{path.relative_to(ROOT)} imports {found}"
        assert "papers" not in imports_of(path), path


def test_the_library_names_no_paper():
    """`repro` finds papers by their folder; a slug in a string there would be a special case."""
    for path in (ROOT / "repro").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.fullmatch(r"papers\.\w+(\.\w+)*", node.value), f"{path.relative_to(ROOT)}: {node.value}"


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


@functools.lru_cache
def smoked(slug: str) -> tuple[list[runner.Run], runner.Summary, runner.Summary, float]:
    """The smoke runs of a paper, what they left, what a second start found, and the processor seconds of the first."""
    runs = runner.plan(load_paper(slug), "smoke")
    folder = tempfile.TemporaryDirectory()
    _FOLDERS.append(folder)  # what was found is read from there
    before = os.times()
    first = runner.execute(runs, Store(folder.name), workers=2)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return runs, first, runner.execute(runs, Store(folder.name), workers=2), spent


@pytest.mark.slow
@every_paper
def test_smoke_runs_in_under_a_minute_of_two_cores(slug):
    runs, summary, again, processor_s = smoked(slug)
    assert [(r.arm, r.error) for r in summary.failed] == []
    assert len(summary.records) == len(runs) > 0
    assert 1 < processor_s < 120  # not the clock on the wall: others may use the machine
    assert again.ran == 0
    assert [r.to_json() for r in again.records] == [r.to_json() for r in summary.records]
    paper = load_paper(slug)
    for record in summary.records:
        if record.arm != ACCOUNTING:
            assert record.status == "ok"
            assert record.data.get("name"), "a record names its data"
            assert paper.primary_metric in record.metrics
            assert set(record.metrics) <= set(paper.metrics), "every metric is described"


@pytest.mark.slow
@every_paper
def test_a_run_is_the_same_to_the_last_bit_in_another_process(slug, tmp_path):
    """One run of the method, again in a fresh worker with an empty cache: only what the clock says may differ."""
    runs, first, _, _ = smoked(slug)
    methods = {a.name for a in load_paper(slug).arms if a.role == "method"}
    number = next(i for i, r in enumerate(runs) if r.arm in methods)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
        again = runner.execute([runs[number]], Store(tmp_path / "store"), workers=1).records[0]
    once = first.records[number]
    assert again.results == once.results
    assert again.data == once.data


@pytest.mark.slow
@every_paper
def test_a_training_that_is_broken_off_ends_as_if_it_was_not(slug, tmp_path, monkeypatch):
    """Every arm that trains, kept and broken off in the middle, ends with the same bits; or it cannot be kept."""
    from repro.training.resume import Checkpoints

    if not trains_through_fit(load_paper(slug).experiment):
        with pytest.raises(runner.BadRequest, match="cannot be kept"):
            runner.plan(load_paper(slug), "smoke", checkpoint=1)
        return
    runs, first, _, _ = smoked(slug)
    monkeypatch.setattr("repro.runner.worker.kept", lambda run: tmp_path / run.key)
    after = Checkpoints.after
    tried = set()
    for run, once in zip(runs, first.records, strict=True):
        middle = int(once.config.get("steps", 0)) // 2
        if run.seed or not middle or run.arm in tried:  # what is kept depends on the arm
            continue
        run = replace(run, checkpoint=middle)

        def breaks_off(self: Checkpoints, position: Any, mark: bool, at: int = middle) -> None:
            after(self, position, mark)
            if position.step == at:
                raise RuntimeError("the plug was pulled")

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "after", breaks_off)
            assert carry_out(run).error["message"] == "the plug was pulled"
        again = carry_out(run)
        shutil.rmtree(tmp_path / run.key)
        assert again.provenance["resumed"] == [middle]
        assert again.results == once.results, (run.setting, run.arm)
        assert again.counts == once.counts, (run.setting, run.arm)
        tried.add(run.arm)
    assert tried


def called(run: runner.Run) -> set[str]:
    """Dotted names of the project's definitions in which something was called while a run was carried out."""
    functions: set[tuple[str, str]] = set()

    def watch(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # bodies of modules and classes run when they are imported, and are no calls
        if event == "call" and code.co_flags & inspect.CO_OPTIMIZED:
            functions.add((code.co_filename, code.co_qualname))

    sys.setprofile(watch)
    try:
        perform(run)
    finally:
        sys.setprofile(None)
    found = set()
    for file, name in functions:
        path = Path(file)
        if not path.is_relative_to(ROOT) or path.relative_to(ROOT).parts[0] not in ("repro", "papers"):
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        top = name.partition(".")[0]
        if not module.startswith(OUTSIDE) and top[0] != "<" and top != "__getattr__":
            found.add(f"{module}.{top}")
    return found


@pytest.mark.slow
@every_paper
def test_what_a_run_calls_is_what_its_code_hash_counts(slug):
    """Followed without running anything; here one run of the method is watched."""
    methods = {a.name for a in load_paper(slug).arms if a.role == "method"}
    run = next(r for r in runner.plan(load_paper(slug), "smoke") if r.arm in methods)
    counted = set(reached(run.entry, str(run.config.get("data", ""))))
    # the runner measures memory around the run
    seen = called(run) - {"repro.profiling.memory.PeakMemory"}
    assert run.entry in seen
    assert seen <= counted


@pytest.mark.slow
@every_paper
def test_what_comparisons_read_is_measured(slug):
    """A metric or matched quantity that no run reports would make a verdict inconclusive or unfair for ever."""
    paper = load_paper(slug)
    summary = smoked(slug)[1]
    by_arm = {r.arm: r for r in summary.records}
    settings = {s.name for s in paper.settings}
    for claim in paper.claims:
        for comparison in claim.comparisons:
            if isinstance(comparison, Computed):
                assert comparison.quantity in by_arm[ACCOUNTING].metrics, f"{claim.id} {comparison.name}"
                continue
            for record in summary.records:
                if record.arm not in comparison.compared or record.setting not in (comparison.settings or settings):
                    continue
                where = f"{claim.id} {comparison.name} {record.setting}/{record.arm}"
                assert comparison.metric in record.metrics, where
                assert {m.quantity for m in comparison.matched} <= set(record.profile), where
