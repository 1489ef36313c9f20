"""The built files: same bytes, nothing executable from records, schema, sizes, speed."""

from __future__ import annotations

import csv
import html.parser
import json
import multiprocessing
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import synthetic

from leaderboard import arenas, machine, markdown
from leaderboard.build import CSP, build, pages, script_json
from leaderboard.views import slug, span, typeset
from repro.claims.judge import PLACEBO_SHIFT, Finding
from repro.claims.statistics import Interval
from repro.papers import ROOT, load_paper, slugs
from repro.records import Record, load, write_reference
from repro.report import Row, story

MEGABYTE = 1_000_000


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Elements(html.parser.HTMLParser):
    """Elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_the_same_records_give_the_same_bytes(tmp_path):
    records = synthetic.coe_records(settings=("composition", "stdlib-prenorm"))
    built = []
    for name, order in (("a", 1), ("b", -1)):
        root = tmp_path / name
        write_reference(records[::order], root / "reference")
        synthetic.write(synthetic.hostile_records()[::order], root / "local")
        build(root / "reference", root / "local", root / "site", papers=[load_paper("coe")])
        built.append({**contents(root / "site"), "LEADERBOARD.md": (root / "LEADERBOARD.md").read_bytes()})
    assert built[0].keys() == built[1].keys()
    assert [k for k in built[0] if built[0][k] != built[1][k]] == []


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="processes cannot be forked here")
def test_pages_written_beside_the_judge_are_the_same_bytes(tmp_path, monkeypatch):
    write_reference(synthetic.coe_records(settings=("composition",)), tmp_path / "reference")
    built = []
    for name, limit in (("alone", 10**9), ("beside", 1)):
        monkeypatch.setattr("leaderboard.build.BESIDE_FROM", limit)
        monkeypatch.setattr("leaderboard.build._processes", lambda: 2)
        (tmp_path / name / "paper").mkdir(parents=True)
        (tmp_path / name / "paper" / "gone.html").write_text("old")
        build(tmp_path / "reference", None, tmp_path / name, papers=[load_paper("coe")])
        built.append(contents(tmp_path / name))
    assert built[0] == built[1]
    assert not [name for name in built[1] if "gone" in name]

    monkeypatch.setattr("leaderboard.build._write_group", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match="pages of records"):
        build(tmp_path / "reference", None, tmp_path / "broken", papers=[load_paper("coe")])


def test_a_second_process_with_another_hash_seed_gives_the_same_bytes(tmp_path):
    write_reference(synthetic.coe_records(settings=("composition",)), tmp_path / "reference")
    sums = []
    for seed in ("1", "2"):
        out = tmp_path / f"site{seed}"
        command = [
            sys.executable,
            "-m",
            "leaderboard",
            "--reference",
            tmp_path / "reference",
            "--no-local",
            "--out",
            out,
        ]
        subprocess.run(command, check=True, capture_output=True, env={**_environment(), "PYTHONHASHSEED": seed})
        sums.append(contents(out))
    assert sums[0] == sums[1]


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def test_building_imports_no_torch(tmp_path):
    write_reference(synthetic.coe_records(settings=("composition",)), tmp_path / "reference")
    code = (
        "import sys; from pathlib import Path; from leaderboard.build import build;"
        f"build(Path({str(tmp_path / 'reference')!r}), None, Path({str(tmp_path / 'site')!r}));"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("which", ["site", "many"])
def test_no_page_holds_an_element_or_handler_that_a_record_or_paper_brought(which, request):
    folder = request.getfixturevalue(which)
    found = list(pages(folder))
    assert found
    for page in found:
        elements = Elements(page.read_text(encoding="utf-8"))
        for tag, attributes in elements.found:
            assert tag not in ("iframe", "object", "embed", "base", "style", "form" if "action" in attributes else "-")
            assert not [a for a in attributes if a.startswith("on") or a == "style"], page
            if tag == "script":
                inert = attributes.get("type") == "application/json"
                assert inert or re.fullmatch(r"(\.\./)*assets/(theme|site)\.js", attributes.get("src") or ""), page
            if tag == "img":
                pytest.fail(f"an image in {page}")
            for name in ("src", "href"):
                link = attributes.get(name) or ""
                assert not link.lower().startswith(("javascript:", "data:", "//", "http:"))


@pytest.mark.parametrize("which", ["site", "many"])
def test_every_page_carries_the_policy_before_any_load_and_is_small(which, request):
    for page in pages(request.getfixturevalue(which)):
        text = page.read_text(encoding="utf-8")
        tags = [(t, a) for t, a in Elements(text).found if t in ("meta", "script", "link")]
        policy = next(i for i, (t, a) in enumerate(tags) if a.get("http-equiv") == "Content-Security-Policy")
        assert tags[policy][1]["content"] == CSP
        assert not [t for t, _ in tags[:policy] if t != "meta"]
        assert len(text.encode()) < MEGABYTE, page


@pytest.mark.parametrize("which", ["site", "many"])
def test_every_internal_link_resolves(which, request):
    folder = request.getfixturevalue(which)
    elements = {p: Elements(p.read_text(encoding="utf-8")).found for p in pages(folder)}
    ids = {p: {a["id"] for _, a in found if "id" in a} for p, found in elements.items()}
    outside = re.compile(r"https://(arxiv\.org/abs|github\.com)/")
    checked, broken = 0, []
    for page, found in elements.items():
        for link in {a.get("href") or a.get("src") or "" for _, a in found} - {""}:
            if outside.match(link):
                continue
            checked += 1
            parts = urlsplit(link)
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in ids.get(target, ())):
                broken.append(f"{page.relative_to(folder)}: {link}")
    assert checked > 100
    assert broken == []


@pytest.mark.parametrize("which", ["site", "many"])
def test_no_identifier_occurs_twice_on_a_page(which, request):
    for page in pages(request.getfixturevalue(which)):
        found = [a["id"] for _, a in Elements(page.read_text(encoding="utf-8")).found if "id" in a]
        assert len(found) == len(set(found)), page


def test_the_policy_forbids_everything_from_elsewhere():
    rules = dict(part.strip().split(" ", 1) for part in CSP.split(";"))
    assert rules["default-src"] == "'none'"
    assert not re.search(r"unsafe|https?:|\*", CSP)


def test_json_in_a_script_element_cannot_end_it():
    hostile = {"a": "</script><!--<script>", "b": "\u2028\u2029&"}
    text = str(script_json(hostile))
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == hostile


def test_hostile_text_is_shown_as_text(site):
    page = (site / "paper" / "coe.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<script>alert" in Elements(page).text


def test_unreadable_files_are_named_and_nothing_of_this_machine_is(site):
    for page in ("index.html", "paper/coe.html"):
        text = (site / page).read_text(encoding="utf-8")
        assert "local/coe/laptop/broken.json" in text
        assert "schema 99" in text
        assert str(site.parent) not in text
    assert "local/nobody: no paper of that name" in (site / "index.html").read_text(encoding="utf-8")


def test_local_and_reference_are_labelled(site):
    rows = list(csv.DictReader((site / "results.csv").read_text(encoding="utf-8").splitlines()))
    origin = {(r["part"], r["setting"]): r["origin"] for r in rows if r["claim"] == "C1"}
    assert origin["vs-moe", "composition"] == "local"
    assert origin["vs-moe", "stdlib"] == "reference"
    assert 'origin-local">local' in (site / "paper" / "coe.html").read_text(encoding="utf-8")


def test_the_markdown_twin_rests_on_reference_records_only(site):
    text = (site.parent / "LEADERBOARD.md").read_text(encoding="utf-8")
    write_reference(synthetic.coe_records(), site.parent / "again" / "reference")
    build(site.parent / "again" / "reference", None, site.parent / "again" / "site", papers=[load_paper("coe")])
    assert text == (site.parent / "again" / "LEADERBOARD.md").read_text(encoding="utf-8")
    assert "+18.4 % [+16.0, +20.7]" in text


def test_markdown_escapes_what_would_be_markup(many):
    text = (many.parent / "LEADERBOARD.md").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text


def test_results_json_is_strict_and_follows_the_documented_schema(many):
    def refuse(name):
        raise AssertionError(name)

    found = json.loads((many / "results.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert found["schema"] == machine.SCHEMA
    assert len(found["papers"]) == 85
    schema = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
    paper = next(p for p in found["papers"] if p["slug"] == "coe")
    claim = next(c for c in paper["claims"] if c["id"] == "C1")
    for name in (*found, *paper, *claim, *claim["rows"][0], *claim["rows"][0]["audit"][0], *machine.COLUMNS):
        assert f"`{name}`" in schema, name


def test_results_csv_has_a_line_per_row_of_the_json(many):
    papers = json.loads((many / "results.json").read_text(encoding="utf-8"))["papers"]
    lines = list(csv.DictReader((many / "results.csv").open(newline="", encoding="utf-8")))
    assert len(lines) == sum(len(c["rows"]) for p in papers for c in p["claims"])
    assert tuple(lines[0]) == machine.COLUMNS


def test_records_can_be_downloaded_whole(site):
    files = sorted((site / "paper" / "coe").glob("*.json"))
    records = [r for f in files for r in json.loads(f.read_text(encoding="utf-8"))]
    assert len(records) == len({r["key"] for r in records}) == len(synthetic.coe_records()) + 6 + 3
    assert all(Record.from_dict(r) for r in records)
    for file in files:
        lines = list(csv.DictReader(file.with_suffix(".csv").open(newline="", encoding="utf-8")))
        assert len(lines) == len(json.loads(file.read_text(encoding="utf-8")))


def test_numbers_that_json_lacks_stay_strict_in_the_download(tmp_path):
    record = synthetic.coe_record("composition", "moe", 0)
    folder = tmp_path / "local" / "coe" / "laptop"
    folder.mkdir(parents=True)
    (folder / "x.json").write_text(record.to_json().replace('"metrics":{', '"metrics":{"odd":NaN,'))
    build(tmp_path / "reference", tmp_path / "local", tmp_path / "site", papers=[load_paper("coe")])
    text = (tmp_path / "site" / "paper" / "coe" / "local-laptop-composition.json").read_text()
    assert json.loads(text, parse_constant=lambda n: pytest.fail(n))[0]["metrics"]["odd"] == "nan"


def test_pages_of_settings_that_are_gone_are_removed_and_nothing_else(tmp_path):
    write_reference(synthetic.coe_records(settings=("composition", "stdlib")), tmp_path / "reference")
    site = build(tmp_path / "reference", None, tmp_path / "site", papers=[load_paper("coe")]).parent
    (site / "notes.txt").write_text("mine")
    assert (site / "paper" / "coe" / "reference-laptop-stdlib.html").is_file()
    (tmp_path / "reference" / "coe" / "laptop-stdlib.jsonl").unlink()
    build(tmp_path / "reference", None, tmp_path / "site", papers=[load_paper("coe")])
    assert not (site / "paper" / "coe" / "reference-laptop-stdlib.html").exists()
    assert (site / "notes.txt").read_text() == "mine"


def test_a_site_without_any_record_or_paper_builds(tmp_path):
    for name, papers in (("none", []), ("dry", [load_paper("coe")])):
        page = build(tmp_path / name / "reference", tmp_path / "absent", tmp_path / name / "site", papers=papers)
        assert page.is_file()


def test_published_size_lines_mark_the_difference(many):
    text = (many / "costs.html").read_text(encoding="utf-8")
    assert "823" in text
    assert "−89" in text


def test_a_page_with_many_settings_and_long_curves_stays_small(tmp_path):
    paper = load_paper("coe")
    names = [s.name for s in paper.settings]
    write_reference(synthetic.coe_records(settings=names, points=200), tmp_path / "reference")
    site = build(tmp_path / "reference", None, tmp_path / "site", papers=[paper]).parent
    assert (site / "paper" / "coe.html").stat().st_size < MEGABYTE


def test_file_names_never_leave_their_folder():
    for name in ("../../etc", "a/b", "\u202e", "x" * 300, "", "CON", synthetic.HOSTILE):
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,80}", slug(name))
    assert slug("a/b") != slug("a-b")


def test_typesetting_touches_signs_and_not_words():
    assert (
        typeset("-6.2 % -> pre-norm, top-4, 3e-4, [-1, -2]")
        == "\u22126.2\u202f% → pre-norm, top-4, 3e-4, [\u22121, \u22122]"
    )


def test_a_span_joins_what_has_one_unit():
    def row(mean, unit):
        found = Finding(
            "C1", "c", "t", "primary", "s", "laptop", "reproduced", "", unit, Interval(mean, mean - 1, mean + 1, 3, 1)
        )
        return Row("p", "quality", True, "", "reference", False, found)

    assert span([]) == ""
    assert span([row(2, "%")]) == "+2.0 % [+1.0, +3.0]"
    assert span([row(2, "%"), row(-30, "%")]) == "-30 to +2 %"
    assert span([row(2, "%"), row(0.5, "nats"), row(-30, "%")]) == "-30 to +2 %, +0.5 nats [-0.5, +1.5]"


def test_many_records_build_quickly(tmp_path, record_property):
    """Lax on purpose: shared machines are slow. The figure is for reading."""
    paper = load_paper("coe")
    papers = [replace(paper, slug=f"coe_{i}", short=f"CoE-{i}") for i in range(10)]
    base = [r.to_json() for r in synthetic.coe_records(seeds=range(10))]
    for p in papers:
        folder = tmp_path / "reference" / p.slug
        folder.mkdir(parents=True)
        lines = [line.replace('"paper":"coe"', f'"paper":"{p.slug}"') for line in base]
        (folder / "laptop-all.jsonl").write_text("\n".join(lines))
    began = time.perf_counter()
    build(tmp_path / "reference", None, tmp_path / "site", papers=papers)
    took = time.perf_counter() - began
    record_property("seconds_for_10k_records", round(took, 2))
    assert took < 60


def test_the_table_of_results_in_the_readme_is_that_of_the_records():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    known = [load_paper(slug) for slug in slugs()]
    folder = ROOT / "leaderboard" / "reference"
    sections = [markdown.section(story(p, load(folder / p.slug).records)) for p in known]
    assert markdown.into_readme(text, sections) == text, "run python -m leaderboard --no-local --readme README.md"


def test_figures_of_a_headline_say_what_tells_them_apart():
    def row(title, setting, scale="laptop"):
        found = Finding("C1", "c", title, "primary", "s", scale, "reproduced", "", " points", Interval(2, 1, 3, 3, 1))
        return Row("p", "quality", True, setting, "reference", False, found)

    figure = "+2.0 points [+1.0, +3.0]"
    for rows, told in (
        ([row("a", "")], [""]),
        ([row("a", "X"), row("a", "Y")], [" (X)", " (Y)"]),
        ([row("a", "X"), row("b", "X")], [" (a)", " (b)"]),
        ([row("a", "X"), row("a", "X", "gpu")], [" (X, laptop scale)", " (X, gpu scale)"]),
        ([row("a", "X"), row("b", "X"), row("a", "Y")], [" (X) (a)", " (b)", " (Y)"]),
    ):
        assert markdown.apart(rows) == [figure + text for text in told]


def test_a_readme_without_marks_is_refused():
    with pytest.raises(ValueError, match="the README has no"):
        markdown.into_readme("# Title\n", [])


# --- arenas --------------------------------------------------------------------------------------------------------

ARENA = """
title = "Language <b>modelling</b>"
task = "Predict the next byte."
budget = "1 M tokens"
metric = "loss"
lower_is_better = true
scale = "laptop"
matched = {train_tokens = 0.0, expert_passes = 0.05}
entries = [
  {paper = "coe", setting = "composition", arm = "moe"},
  {paper = "coe", setting = "composition", arm = "coe"},
  {paper = "coe", setting = "composition", arm = "coe-shared-gate"},
  {paper = "coe", setting = "composition", arm = "coe-frozen-gate"},
]
"""


def test_methods_that_cannot_be_told_apart_share_a_rank(tmp_path):
    (tmp_path / "toy.toml").write_text(ARENA)
    (specification,) = arenas.specifications(tmp_path)
    told = story(load_paper("coe"), synthetic.coe_records(settings=("composition",)))
    ranked = arenas.rank(arenas.assemble(specification, arenas.entries(told, specification)))
    ranks = {r.entry.arm: r.rank for r in ranked}
    assert ranks == {"coe-shared-gate": 1, "coe-frozen-gate": 1, "coe": 3, "moe": 4}
    assert [r.tied for r in ranked] == [True, True, False, False]


def test_placebo_runs_take_no_part_in_an_arena(tmp_path):
    (tmp_path / "toy.toml").write_text(ARENA)
    (specification,) = arenas.specifications(tmp_path)
    records = synthetic.coe_records(settings=("composition",))
    shifted = [synthetic.coe_record("composition", "coe", PLACEBO_SHIFT + n, shift=9.0) for n in range(3)]
    plain, more = (
        arenas.assemble(specification, arenas.entries(story(load_paper("coe"), found), specification))
        for found in (records, [*records, *shifted])
    )
    assert [e.values for e in more.entries] == [e.values for e in plain.entries]


def test_ranking_without_shared_seeds_and_with_too_few():
    def entry(arm, values):
        return arenas.Entry("p", "P", arm, arm, values)

    apart = entry("a", {0: 1.0, 1: 1.1, 2: 0.9}), entry("b", {5: 2.0, 6: 2.1, 7: 1.9})
    assert arenas.better(*apart, lower_is_better=True)
    assert not arenas.better(*apart, lower_is_better=False)
    assert not arenas.better(entry("a", {0: 1.0}), entry("b", {0: 9.0}), lower_is_better=True)
    assert not arenas.better(entry("a", {0: 1.0, 1: float("nan")}), entry("b", {0: 2.0, 1: 2.0}), lower_is_better=True)


def test_an_arena_gets_its_page(tmp_path):
    (tmp_path / "arenas").mkdir()
    (tmp_path / "arenas" / "toy.toml").write_text(ARENA)
    write_reference(synthetic.coe_records(settings=("composition",)), tmp_path / "reference")
    site = build(
        tmp_path / "reference", None, tmp_path / "site", papers=[load_paper("coe")], arena_folder=tmp_path / "arenas"
    ).parent
    text = (site / "arenas.html").read_text(encoding="utf-8")
    assert "Language &lt;b&gt;modelling" in text
    assert "shared" in text
    assert "tokens: 0&#8239;% apart, 0&#8239;% allowed" in text
    assert "not measured in every entry" in text or "expert passes: " in text


def test_what_entries_are_matched_on_is_audited():
    entries = tuple(
        arenas.Entry("p", "P", arm, arm, {0: 1.0}, costs={"train_flops": flops, "train_tokens": 5.0})
        for arm, flops in (("a", 100.0), ("b", 104.0))
    )
    matched = {"train_flops": 0.03, "train_tokens": 0.0, "params_active": 0.1}
    arena = arenas.Arena("x", "x", "", "", "loss", True, "laptop", entries, matched)
    (flops, tokens, active) = arenas.audit(arena)
    assert flops[1:] == (pytest.approx(0.04), 0.03, False)
    assert tokens == ("train_tokens", 0.0, 0.0, True)
    assert not active[3]


def test_a_malformed_arena_is_named(tmp_path):
    (tmp_path / "bad.toml").write_text('title = "x"')
    with pytest.raises(ValueError, match=r"bad\.toml: task is missing"):
        arenas.specifications(tmp_path)
