"""The reader of records, and all that is done with what it lets pass: whatever stands in a file, a record or a reason
comes out, and nothing else is raised."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict

from hypothesis import given
from hypothesis import strategies as st

from repro.claims import SCALES
from repro.records import BadRecord, Record, Store, care, load, standard, write_reference
from repro.records.provenance import run_key
from repro.records.schema import STATUSES, plain
from repro.report import story
from tests.fuzz.budget import JSON, NUMBERS, SCALARS, TEXTS, budget
from tests.runner.test_runner import PAPER

NAMES = st.sampled_from([a.name for a in PAPER.arms]) | TEXTS
SETTINGS = st.sampled_from([s.name for s in PAPER.settings]) | TEXTS
FLAT = st.dictionaries(TEXTS, SCALARS, max_size=3)
OBJECTS = st.dictionaries(st.just("device") | TEXTS, JSON, max_size=2)


@st.composite
def curves(draw):
    y = draw(st.lists(NUMBERS, max_size=4))
    return {"x": draw(st.lists(NUMBERS, min_size=len(y), max_size=len(y))), "y": y, "of": draw(TEXTS)}


@st.composite
def records(draw, sealed=False):
    """Well-typed records with whatever a field may hold."""
    provenance = draw(FLAT) | ({"digest": ""} if sealed or draw(st.booleans()) else {})
    return Record(
        key=draw(TEXTS),
        paper=draw(st.just(PAPER.slug) | TEXTS),
        setting=draw(SETTINGS),
        arm=draw(NAMES),
        scale=draw(st.sampled_from(SCALES) | TEXTS),
        seed=draw(st.integers(0, 9) | st.integers(-(2**63), 2**63 - 1)),
        status=draw(st.sampled_from(STATUSES)),
        config=draw(FLAT),
        code=draw(TEXTS),
        metrics=draw(st.dictionaries(st.just("loss") | TEXTS, NUMBERS, max_size=3)),
        curves=draw(st.dictionaries(st.just("loss") | TEXTS, curves(), max_size=2)),
        profile=draw(st.dictionaries(st.sampled_from(("wall_s", "train_tokens")) | TEXTS, NUMBERS, max_size=3)),
        data=draw(FLAT),
        tables=draw(st.dictionaries(TEXTS, JSON, max_size=2)),
        environment=draw(st.fixed_dictionaries({}, optional={"hardware": OBJECTS, "versions": OBJECTS})),
        provenance=provenance,
        error=draw(st.dictionaries(st.sampled_from(("type", "message", "traceback", "digest")), TEXTS, max_size=3)),
    )


def used(record):
    """Everything that is done with a record that was read."""
    assert record.device_kind
    assert run_key(record.identity)
    assert record.results["status"] in STATUSES
    standard(PAPER, [record], "laptop")
    told = story(PAPER, [record], [record])
    assert told.claims
    care.differences(record, record)
    return record.to_json()


@budget()
@given(JSON)
def test_any_json_is_a_record_or_a_reason(value):
    with contextlib.suppress(BadRecord, UnicodeEncodeError):
        Record.from_json(json.dumps(value))


@budget()
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_bytes_are_a_record_or_a_reason(text):
    with contextlib.suppress(BadRecord):
        Record.from_json(text)


@budget()
@given(records(), st.sampled_from([*Record.__dataclass_fields__, "surplus"]), JSON, st.booleans())
def test_a_record_with_any_field_exchanged_is_read_or_refused(record, name, value, dropped):
    raw = plain(asdict(record))
    raw[name] = value
    if dropped:
        del raw[name]
    try:
        text = json.dumps(raw)
        found = Record.from_json(text)
    except BadRecord:
        return
    used(found)


@budget()
@given(records())
def test_what_is_written_is_read_again(record):
    text = record.to_json()
    for given_ in (text, text.encode(), json.dumps(json.loads(text), indent=1)):
        found = Record.from_json(given_)
        assert found.results == record.results
        assert plain(found.config) == plain(record.config)
        assert found.provenance.keys() == plain(record.provenance).keys()
    assert used(Record.from_json(text)) == text


@budget()
@given(records(sealed=True), st.data())
def test_a_flipped_bit_or_a_missing_end_never_changes_a_result(record, data):
    text = record.to_json()
    damaged = bytearray(text.encode())
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del damaged[data.draw(st.integers(0, len(damaged) - 1)) :]
    with contextlib.suppress(BadRecord):
        assert Record.from_json(bytes(damaged)).results == record.results


@budget(0.3)
@given(st.lists(records() | st.binary(max_size=40), min_size=1, max_size=4), st.data())
def test_stores_survive_whatever_lies_in_them(tmp_path_factory, found, data):
    root = tmp_path_factory.mktemp("store")
    place = root / PAPER.slug / "laptop"
    place.mkdir(parents=True)
    lines = []
    for number, one in enumerate(found):
        text = one if isinstance(one, bytes) else one.to_json().encode()
        (place / f"{number}.json").write_bytes(text)
        lines.append(text.replace(b"\n", b" "))
    (place / "all.jsonl").write_bytes(b"\n".join(lines))
    loaded = load(root)
    assert len(loaded.records) + len(loaded.problems) >= len(found)
    assert all(problem.isprintable() for problem in loaded.problems)
    checked = care.verify(root)
    assert checked.records == len(loaded.records)
    assert all(problem.isprintable() for problem in checked.problems)
    other = Store(root.parent / f"{root.name}-other")
    care.merge(root, other)
    for garbage, _ in care.garbage(root, {PAPER.slug: PAPER}).files:
        assert garbage.is_relative_to(root)


@budget(0.3)
@given(records(), TEXTS)
def test_no_name_in_a_record_leads_out_of_a_store(tmp_path_factory, record, setting):
    folder = tmp_path_factory.mktemp("outside")
    inner = folder / "a" / "store"
    for write in (Store(inner).save, lambda r: write_reference([r], inner)):
        with contextlib.suppress(ValueError):  # a name that cannot be a file's
            write(record)
    assert {p.name for p in folder.iterdir()} <= {"a"}
    assert {p.name for p in (folder / "a").iterdir()} <= {"store"} if (folder / "a").exists() else True
    for path in inner.rglob("*"):
        assert len(path.relative_to(inner).parts) <= 3
