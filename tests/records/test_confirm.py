"""Stale records that a repeated run confirms, and those that it does not."""

from __future__ import annotations

from dataclasses import replace

from repro.papers import load_paper
from repro.records import load, standard, write_reference
from repro.records.confirm import confirmed, same
from tests.leaderboard import synthetic

OLD, NEW = "a" * 16, "b" * 16


def made(seeds=(0, 1, 2), code=OLD, arms=("moe", "coe"), **changes):
    """Records of two arms, those of new code begun later."""
    records = [synthetic.coe_record("composition", arm, seed) for arm in arms for seed in seeds]
    started = "2026-02-01T10:00:00+00:00" if code == NEW else "2026-01-01T10:00:00+00:00"
    return [
        replace(r, code=code, key=f"{r.key}{code[:2]}", provenance={**r.provenance, "started": started}, **changes)
        for r in records
    ]


def stale(records):
    return {r.key for r in records if r.code != NEW}


def test_all_seeds_of_an_arm_are_confirmed_by_one_that_was_repeated():
    old, new = made(), made(seeds=(0,), code=NEW)
    found = confirmed([*old, *new], stale(old))
    assert found == {o.key: n.key for o in old for n in new if o.arm == n.arm}


def test_nothing_is_confirmed_without_a_repetition():
    old = made()
    assert confirmed(old, stale(old)) == {}
    other = made(seeds=(7,), code=NEW)
    assert confirmed([*old, *other], stale(old)) == {}


def test_arms_are_confirmed_each_for_itself():
    old, new = made(), made(seeds=(0,), code=NEW, arms=("coe",))
    assert set(confirmed([*old, *new], stale(old))) == {o.key for o in old if o.arm == "coe"}


def test_one_digit_of_one_repeated_seed_is_enough_to_refuse():
    old, new = made(arms=("coe",)), made(seeds=(0, 1), code=NEW, arms=("coe",))
    assert len(confirmed([*old, *new], stale(old))) == 3
    metrics = {**new[1].metrics, "loss": new[1].metrics["loss"] + 1e-8}
    assert confirmed([*old, new[0], replace(new[1], metrics=metrics)], stale(old)) == {}


def test_what_was_found_counted_and_read_decides_and_the_clock_does_not():
    (one,) = made(seeds=(0,), arms=("coe",))
    late = {**one.metrics, "search_s": 3.0}
    assert same(one, replace(one, metrics=late, profile={**one.profile, "train_s": 9.9, "peak_memory_bytes": 1.0}))
    assert same(one, replace(one, data={**one.data, "model_key": "other"}))
    for name in ("zoo_built", "base_zoo_built", "parts_built"):  # which of several runs built what they share
        assert same(replace(one, profile={name: 1.0}), replace(one, profile={name: 0.0}))
    assert not same(one, replace(one, profile={**one.profile, "train_flops": 1.0}))
    assert not same(one, replace(one, data={**one.data, "fingerprint": "other"}))
    assert not same(one, replace(one, curves={}))
    assert not same(one, replace(one, status="diverged"))


def test_another_configuration_or_device_confirms_nothing():
    old, new = made(arms=("coe",)), made(seeds=(0,), code=NEW, arms=("coe",))[0]
    assert confirmed([*old, replace(new, config={**new.config, "steps": 7})], stale(old)) == {}
    cuda = {**new.environment, "hardware": {"device": "cuda:0"}}
    assert confirmed([*old, replace(new, environment=cuda)], stale(old)) == {}


def test_a_failed_run_confirms_nothing():
    old, new = made(arms=("coe",)), made(seeds=(0,), code=NEW, arms=("coe",), status="failed")
    assert confirmed([*old, *new], stale(old)) == {}


def test_reference_files_keep_the_evidence_as_long_as_it_is_needed(tmp_path):
    old, first, rest = made(arms=("coe",)), made((0,), NEW, ("coe",)), made((1, 2), NEW, ("coe",))
    write_reference(old, tmp_path)
    write_reference(first, tmp_path)
    there = load(tmp_path).records
    assert sorted(r.key for r in there) == sorted(r.key for r in [*old, *first])
    assert len(confirmed(there, stale(there))) == 3
    write_reference(first, tmp_path)  # again: the same
    assert len(load(tmp_path).records) == 4
    write_reference(rest, tmp_path)
    assert sorted(r.key for r in load(tmp_path).records) == sorted(r.key for r in [*first, *rest])


def test_evidence_leaves_its_pictures(tmp_path):
    picture = {"view": {"kind": "svg", "text": "a view", "data": "<svg/>"}}
    old, new = made(arms=("coe",), pictures=picture), made(seeds=(0,), code=NEW, arms=("coe",), pictures=picture)
    write_reference(old, tmp_path)
    write_reference(new, tmp_path)
    there = load(tmp_path)
    assert not there.problems
    assert {(r.seed, r.code): bool(r.pictures) for r in there.records} == {
        (0, OLD): False, (0, NEW): True, (1, OLD): True, (2, OLD): True
    }  # fmt: skip
    assert len(confirmed(there.records, stale(there.records))) == 3


def test_judged_is_the_repeated_run_and_not_the_old_one():
    old, new = made(arms=("coe",)), made((0,), NEW, ("coe",))
    chosen = standard(load_paper("coe"), [*new, *old], "laptop")
    assert {r.key for r in chosen} == {new[0].key, *(r.key for r in old if r.seed)}
