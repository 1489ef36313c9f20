"""Which records count: those of the standard configuration, old ones included."""

from __future__ import annotations

import json
from dataclasses import replace

from repro.papers import load_paper
from repro.records import Record, standard
from repro.records.schema import plain

PAPER = load_paper("coe")


def record() -> Record:
    config = json.loads(json.dumps(plain(PAPER.resolve("composition", "coe", "laptop"))))
    return Record(
        key="k",
        paper="coe",
        setting="composition",
        arm="coe",
        scale="laptop",
        seed=0,
        status="ok",
        config=config,
        code="",
    )


def test_a_record_from_before_an_option_stays_and_one_with_another_value_does_not():
    now = record()
    assert standard(PAPER, [now], "laptop") == [now]
    older = replace(now, config={k: v for k, v in now.config.items() if k != "clip"})
    assert standard(PAPER, [older], "laptop") == [older]
    other = replace(now, config={**now.config, "clip": 2.0})
    assert standard(PAPER, [other], "laptop") == []
    # an absent option counts as at its default, here one pass, and this arm has two
    unlike = replace(now, config={k: v for k, v in now.config.items() if k != "passes"})
    assert standard(PAPER, [unlike], "laptop") == []


def test_records_of_two_kinds_of_device_do_not_meet():
    def on(device: str, seed: int) -> Record:
        return replace(record(), key=f"{device}{seed}", seed=seed, environment={"hardware": {"device": device}})

    here, there = [on("cpu", s) for s in range(2)], [on("cuda:0", s) for s in range(3)]
    assert standard(PAPER, [*here, *there], "laptop") == there
    assert standard(PAPER, [*there[:2], *here], "laptop") == here, "a tie"
    assert standard(PAPER, here, "laptop") == here
