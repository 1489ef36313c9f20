"""The builder of the site: records with whatever text and numbers they may hold become pages that are valid, hold
nothing executable, and name nothing outside their folder."""

from __future__ import annotations

import base64
import csv
import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from leaderboard.build import build
from repro.claims import ACCOUNTING
from repro.records import Record
from tests.fuzz.budget import JSON, NUMBERS, TEXTS, budget
from tests.fuzz.pages import check
from tests.leaderboard import synthetic

PAPER = synthetic.made_up_paper(3)
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M0 0h9"/></svg>'
EVIL = (
    b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', b"<script>alert(1)</script>",
    b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', b"GIF89a", b"",
    b'<!DOCTYPE svg [<!ENTITY a "aaaa">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>',
    b'<svg xmlns="http://www.w3.org/2000/svg"><a href="javascript:alert(1)"><path d="M0 0"/></a></svg>',
    b'<svg xmlns="http://www.w3.org/2000/svg"><foreignObject/><image href="http://example.org/x.png"/></svg>',
    b'<svg xmlns="http://www.w3.org/2000/svg"><style>@import "http://example.org/x.css"</style></svg>',
)  # fmt: skip
PICTURES = st.fixed_dictionaries({
    "kind": st.sampled_from(("png", "svg")),
    "text": TEXTS,
    "data": st.sampled_from((PNG, SVG, *EVIL)).map(lambda b: base64.b64encode(b).decode()) | TEXTS,
})  # fmt: skip
CURVES = st.lists(NUMBERS, max_size=4).map(lambda y: {"x": list(range(len(y))), "y": y, "of": "step"}) | st.builds(
    lambda y, of: {"x": list(y), "y": y, "of": of}, st.lists(NUMBERS, max_size=4), JSON
)


@st.composite
def run(draw):
    """A record of the paper, for one of its cells or for one that there is not."""
    setting = draw(st.sampled_from([s.name for s in PAPER.settings] * 3 + [ACCOUNTING]) | TEXTS)
    arm = ACCOUNTING if setting == ACCOUNTING else draw(st.sampled_from([a.name for a in PAPER.arms] * 3) | TEXTS)
    try:
        config = PAPER.resolve(setting, arm, "laptop")
    except KeyError:
        config = draw(st.dictionaries(TEXTS, JSON, max_size=2))
    metrics = st.sampled_from(("loss", "accuracy", "saving", "final_loss")) | TEXTS
    quantities = st.sampled_from(
        ("wall_s", "train_tokens", "params_total", "peak_memory_bytes", "tokens_per_s")
    ) | TEXTS  # fmt: skip
    return Record(
        key=draw(st.text("abcdef0123456789", min_size=20, max_size=20) | TEXTS),
        paper=PAPER.slug,
        setting=setting,
        arm=arm,
        scale=draw(st.sampled_from(("laptop", "laptop", "published", "smoke")) | TEXTS),
        seed=draw(st.integers(0, 3) | st.integers(-(2**63), 2**63 - 1)),
        status=draw(st.sampled_from(("ok", "ok", "ok", "failed", "diverged"))),
        config=config,
        code=draw(TEXTS),
        metrics=draw(st.dictionaries(metrics, NUMBERS, max_size=4)),
        curves=draw(st.dictionaries(st.just("loss") | TEXTS, CURVES, max_size=2)),
        profile=draw(st.dictionaries(quantities, NUMBERS, max_size=4)),
        data=draw(st.dictionaries(st.sampled_from(("name", "kind", "fingerprint")) | TEXTS, JSON, max_size=3)),
        tables=draw(st.dictionaries(st.just("coactivation") | TEXTS, JSON, max_size=2)),
        environment=draw(
            st.dictionaries(st.sampled_from(("versions", "hardware")), JSON | st.dictionaries(TEXTS, JSON, max_size=2))
        ),
        provenance=draw(st.dictionaries(st.sampled_from(("commit", "started", "wall_s", "dirty")), JSON)),
        error=draw(st.dictionaries(st.sampled_from(("type", "message", "traceback")), JSON)),
        pictures=draw(st.dictionaries(TEXTS, PICTURES, max_size=2)),
    )


@budget(0.25)
@given(st.lists(run(), min_size=1, max_size=6), st.booleans())
def test_any_records_become_valid_pages(tmp_path_factory, found, reference):
    root = tmp_path_factory.mktemp("any")
    lines = [r.to_json() for r in found]
    folder = root / ("reference" if reference else "local") / PAPER.slug
    folder.mkdir(parents=True)
    (folder / "laptop-a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    problems: list[str] = []
    page = build(root / "reference", root / "local", root / "site", papers=[PAPER], problems=problems)
    assert check(page.parent) == []
    assert all(problem.isprintable() for problem in problems)
    drawn = {p.relative_to(page.parent).as_posix(): p.read_bytes() for p in page.parent.rglob("*.[ps][nv]g")}
    assert set(drawn.values()) - {p.read_bytes() for p in (page.parent / "assets").iterdir()} <= {PNG, SVG}
    results = json.loads((page.parent / "results.json").read_text(encoding="utf-8"), parse_constant=_refuse)
    assert results["papers"][0]["slug"] == PAPER.slug
    with open(page.parent / "results.csv", encoding="utf-8", newline="") as file:
        assert len({len(line) for line in csv.reader(file)}) == 1
    assert {p.name for p in root.iterdir()} <= {"reference", "local", "site", "LEADERBOARD.md"}
    for path in (page.parent / "paper").rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)


def _refuse(name):
    raise ValueError(name)


@budget(0.1)
@given(TEXTS, TEXTS, st.lists(TEXTS, max_size=3))
def test_any_words_of_a_paper_become_valid_pages(tmp_path_factory, title, idea, departures):
    root = tmp_path_factory.mktemp("words")
    claims = tuple(replace(c, statement=title, untested=idea) for c in PAPER.claims)
    arms = tuple(replace(a, title=idea) for a in PAPER.arms)
    settings = tuple(replace(s, title=title) for s in PAPER.settings)
    paper = replace(
        PAPER, title=title, short=idea, area=title, idea=idea, departures=tuple(departures), claims=claims, arms=arms,
        settings=settings,
    )  # fmt: skip
    synthetic.write(synthetic.made_up_records(PAPER, seeds=(0, 1)), root / "local")
    page = build(root / "reference", root / "local", root / "site", papers=[paper])
    assert check(page.parent) == []
