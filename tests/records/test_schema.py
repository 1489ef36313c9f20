"""What is written is what is read, and what cannot be read is said so."""

from __future__ import annotations

import contextlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.records import SCHEMA, BadRecord, Record

TEXT = st.text(max_size=20)
NUMBER = st.floats(width=32) | st.integers(-(2**53), 2**53)
PLAIN = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT


@st.composite
def curves(draw):
    y = draw(st.lists(st.floats(width=32), max_size=5))
    return {"x": list(range(len(y))), "y": y, "of": "step"}


RECORDS = st.builds(
    Record,
    key=TEXT,
    paper=TEXT,
    setting=TEXT,
    arm=TEXT,
    scale=TEXT,
    seed=st.integers(0, 2**31),
    status=st.sampled_from(["ok", "diverged", "failed", "timeout", "memory"]),
    config=st.dictionaries(TEXT, PLAIN, max_size=4),
    code=TEXT,
    metrics=st.dictionaries(TEXT, NUMBER, max_size=4),
    curves=st.dictionaries(TEXT, curves(), max_size=2),
    profile=st.dictionaries(TEXT, NUMBER, max_size=4),
    tables=st.dictionaries(TEXT, st.lists(st.lists(st.integers(-9, 9), max_size=3), max_size=3), max_size=2),
    error=st.dictionaries(TEXT, TEXT, max_size=2),
)


def same(a, b):
    """Equal, numbers up to the 9 digits that are written, nan equal to nan."""
    if isinstance(a, float) or isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or a == b or math.isclose(a, b, rel_tol=1e-8)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@settings(max_examples=200, deadline=None)
@given(RECORDS)
def test_round_trip(record):
    text = record.to_json()
    assert "\n" not in text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    back = Record.from_json(text)
    for name in Record.__slots__:
        assert same(getattr(record, name), getattr(back, name)), name
    assert back.to_json() == text


def record(**more):
    base = {
        "key": "k", "paper": "p", "setting": "s", "arm": "a", "scale": "smoke", "seed": 0, "status": "ok",
        "config": {}, "code": "c", "schema": SCHEMA,
    }  # fmt: skip
    return {**base, **more}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks(value):
    made = Record.from_dict(record(metrics={"loss": value}, curves={"loss": {"x": [1], "y": [value]}}))
    back = Record.from_json(made.to_json())
    assert same(back.metrics["loss"], value)
    assert same(back.curves["loss"]["y"], [value])


def test_numpy_scalars_become_plain_numbers():
    import numpy as np

    made = Record.from_dict(record(tables={"t": [np.float32(0.5), np.int64(3)]}))
    assert Record.from_json(made.to_json()).tables == {"t": [0.5, 3]}


def test_objects_are_refused_when_written():
    with pytest.raises(TypeError, match="plain values, not set"):
        Record.from_dict(record(data={"x": {1, 2}})).to_json()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("nonsense", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{}", "schema None"),
        (json.dumps(record(schema=SCHEMA + 1)), f"schema {SCHEMA + 1}"),
        (json.dumps(record(schema="1")), "schema '1'"),
        (json.dumps(record(schema=True)), "schema"),
        (json.dumps(record(surprise=1)), "surprise"),
        (json.dumps({k: v for k, v in record().items() if k != "arm"}), "'arm' is missing"),
        (json.dumps(record(seed="0")), "'seed' is str, not int"),
        (json.dumps(record(seed=True)), "'seed' is bool"),
        (json.dumps(record(seed=1.5)), "'seed' is float"),
        (json.dumps(record(metrics=[1])), "'metrics' is list"),
        (json.dumps(record(metrics={"loss": "low"})), "metrics.loss is str"),
        (json.dumps(record(metrics={"loss": None})), "metrics.loss"),
        (json.dumps(record(profile={"n": True})), "profile.n is bool"),
        (json.dumps(record(status="fine")), "status 'fine'"),
        (json.dumps(record(curves={"loss": [1]})), "curve 'loss'"),
        (json.dumps(record(curves={"loss": {"x": [1], "y": []}})), "1 x and 0 y"),
        (json.dumps(record(curves={"loss": {"x": [1], "y": [{}]}})), "curves.loss is dict"),
    ],
)
def test_what_cannot_be_read_is_a_bad_record(text, says):
    with pytest.raises(BadRecord, match=says):
        Record.from_json(text)


@settings(max_examples=300, deadline=None)
@given(RECORDS, st.data())
def test_every_truncation_is_a_bad_record(made, data):
    text = made.to_json()
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(BadRecord):
        Record.from_json(text[:cut])


JSON = st.recursive(
    PLAIN | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(Record.__slots__)), JSON, max_size=5))
def test_no_json_object_does_worse_than_a_bad_record(fields):
    with contextlib.suppress(BadRecord):
        Record.from_json(json.dumps(record(**fields)))


@pytest.mark.parametrize("literal", ["NaN", "-Infinity", "123456789012345678901234567890"])
def test_numbers_that_only_pythons_own_json_reader_takes_are_read(literal):
    record = Record("k", "p", "s", "a", "laptop", 0, "ok", {}, "c")
    text = record.to_json().replace('"metrics":{}', f'"metrics":{{"loss":{literal}}}')
    value = Record.from_json(text).metrics["loss"]
    assert value == pytest.approx(float(literal), nan_ok=True)


def test_the_key_of_a_plan_can_be_made_again_from_the_record():
    from repro.records.provenance import run_key
    from repro.records.schema import Record, identity

    config = {"first": 1 / 15, "steps": 3, "name": "a"}
    key = run_key(identity("p", "s", "a", "laptop", 0, config, "cpu", "c"))
    line = Record(
        key=key, paper="p", setting="s", arm="a", scale="laptop", seed=0, status="ok", config=config, code="c"
    ).to_json()
    read = Record.from_json(line)
    assert read.config["first"] != config["first"]
    assert run_key(read.identity) == read.key == key
