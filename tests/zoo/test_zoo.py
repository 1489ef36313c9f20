"""Models of the zoo: built once, found again, refused when they did not learn."""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from repro.data.kept import CARD
from repro.data.registry import load_language
from repro.zoo import ZooError, ZooSpec, obtain, stdlib_llama
from repro.zoo.build import check_floor, unigram_loss, zoo_key

SPEC = ZooSpec(
    "test", (("recall", 1.0),), {"recall": {"limit": 200}}, hidden=16, layers=2, heads=2, kv_heads=1, width=24,
    sequence=32, batch=4, steps=30, lr=1e-2, checkpoints=(0.5,), eval_rows=8, floor="uniform", init_std=0.02, seed=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def found(cache):
    return obtain(SPEC)


def test_it_is_a_plain_transformers_model(found):
    assert found.built
    model, tokenizer = found.model(), found.tokenizer()
    assert type(model) is LlamaForCausalLM
    assert model.config.num_key_value_heads == 1
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    again = AutoModelForCausalLM.from_pretrained(found.folder)
    assert len(AutoTokenizer.from_pretrained(found.folder)) == again.config.vocab_size == 67
    ids = torch.tensor([[1, 5, 40]])
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    assert model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None).shape == (1, 6)


def test_checkpoints_are_kept(found):
    half, whole = found.model(at=0.5), found.model()
    assert not torch.equal(half.lm_head.weight, whole.lm_head.weight)
    with pytest.raises(ZooError, match="keeps"):
        found.model(at=0.75)


def test_the_second_time_nothing_is_trained(found):
    again = obtain(SPEC, progress=lambda *_: pytest.fail("it trains"))
    assert not again.built
    assert again.card == found.card
    assert again.profile()["zoo_built"] == 0
    assert found.profile()["train_tokens"] == 30 * 4 * 32


def test_a_record_says_which_model_it_was(found):
    described = found.describe()
    assert described["model"] == "test"
    assert described["model_key"] == zoo_key(SPEC)
    assert described["model_loss_recall"] > 0
    json.dumps(described)


def test_the_same_specification_gives_the_same_weights(found, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    twin = obtain(SPEC)
    assert twin.built
    for a, b in zip(found.model().parameters(), twin.model().parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_key_is_of_all_that_decides_the_weights(monkeypatch):
    keys = {zoo_key(SPEC), zoo_key(replace(SPEC, seed=4)), zoo_key(replace(SPEC, lr=2e-2)), zoo_key(SPEC, "cuda:1")}
    assert len(keys) == 4
    assert zoo_key(SPEC, "cuda:0") == zoo_key(SPEC, "cuda:1")
    before = zoo_key(SPEC)
    monkeypatch.setattr("repro.zoo.build.code_hash", lambda name, also=(): "other " + ",".join(also))
    assert zoo_key(SPEC) != before


def test_a_model_that_is_no_better_than_token_frequencies_is_refused_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    with pytest.raises(ZooError, match="no model to study"):
        obtain(replace(SPEC, steps=10, lr=1e-6, checkpoints=(), floor="unigram"))
    assert not [place for place in (tmp_path / "zoo").iterdir() if place.is_dir()]


def test_a_loss_that_is_no_number_is_below_no_floor():
    with pytest.raises(ZooError):
        check_floor(SPEC, {"recall": {"loss": float("nan"), "unigram": 4.0}}, 67)


def test_unigram_loss_is_the_cross_entropy_of_frequencies():
    data = load_language("recall", 32, limit=200)
    batches = data.held_out_batches(2, 8)
    counts = torch.bincount(data.train.tokens.long(), minlength=67).double() + 1
    targets = torch.cat([b.targets.flatten() for b in batches])
    wanted = torch.nn.functional.cross_entropy((counts / counts.sum()).log().repeat(len(targets), 1), targets)
    assert unigram_loss(data, batches) == pytest.approx(float(wanted))
    assert unigram_loss(data, batches, answers_only=True) != unigram_loss(data, batches)


def test_a_damaged_model_is_built_again(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    spec = replace(SPEC, steps=20)
    first = obtain(spec)
    (first.folder / CARD).write_text("{")
    assert obtain(spec).built
    assert not obtain(spec).built
    for weights in first.folder.rglob("*.safetensors"):  # of the whole training and of half of it
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert obtain(spec).built
        weights.write_bytes(content[:-8])
        assert obtain(spec).built
    assert not obtain(spec).built


def _ask(folder, built):
    import os

    os.environ["REPRO_CACHE"] = folder
    torch.set_num_threads(1)
    built.put(obtain(replace(SPEC, seed=5)).built)


@pytest.mark.slow
def test_two_processes_that_ask_at_the_same_time_train_once(tmp_path):
    context = multiprocessing.get_context("fork")
    built = context.Queue()
    processes = [context.Process(target=_ask, args=(str(tmp_path), built)) for _ in range(2)]
    for process in processes:
        process.start()
    assert sorted(built.get(timeout=120) for _ in processes) == [False, True]
    for process in processes:
        process.join()
    assert len([p for p in (tmp_path / "zoo").iterdir() if p.is_dir()]) == 1


def test_who_has_to_wait_builds_what_is_wanted_later(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    wanted, later = replace(SPEC, seed=6), replace(SPEC, seed=7)
    (tmp_path / "zoo").mkdir()
    other = FileLock(tmp_path / "zoo" / f".test-{zoo_key(wanted)}.lock")
    other.acquire()  # as if another process were building it
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(obtain, wanted, meanwhile=[later])
        for _ in range(600):
            if (tmp_path / "zoo" / f"test-{zoo_key(later)}" / CARD).is_file():
                break
            time.sleep(0.1)
        assert not waiting.done()
        other.release()
        assert waiting.result(60).built
    assert not obtain(later).built


def test_the_base_model():
    spec = stdlib_llama(7)
    assert spec.seed == 7
    assert dict(spec.mixture) == {"stdlib-bpe": 0.8, "recall-stdlib": 0.2}
    assert stdlib_llama(7) == spec
    assert stdlib_llama(7, files=5, steps=2).data_options["stdlib-bpe"] == {"limit": 5}
    with pytest.raises(ValueError, match="between 0 and 1"):
        stdlib_llama(0, checkpoints=(1.0,))
