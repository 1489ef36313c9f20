"""A code encoder pretrained here, and the tasks it is fine-tuned on."""

from __future__ import annotations

import pytest
import torch

from repro.data.stdlib_functions import MASK, SPECIAL, stdlib_functions
from repro.training.code_encoder import (
    EncoderSpec,
    encode,
    fresh,
    hidden_states,
    loaded,
    masked_tokens,
    mean_pool,
    pretrained,
    pretraining_batches,
)
from repro.training.code_tasks import Clones, Search, TaskModel, clone_head, tune
from repro.training.initial import generator
from repro.training.loop import Optimisation

SPEC = EncoderSpec(layers=2, hidden=16, heads=2, width=32, length=32, steps=60, batch=16, lr=1e-2, files=24, seed=1000)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data():
    return stdlib_functions(limit=24)


def test_masks(data):
    ids = data.batch(data.code, data.functions["train"][:200], 32)
    inputs, chosen = masked_tokens(ids, 0.15, data.vocab_size, MASK, generator("masks", 0))
    assert not (chosen & (ids < len(SPECIAL))).any()
    assert torch.equal(inputs[~chosen], ids[~chosen])
    share = chosen.sum() / (ids >= len(SPECIAL)).sum()
    assert float(share) == pytest.approx(0.15, abs=0.01)
    assert float((inputs[chosen] == MASK).double().mean()) == pytest.approx(0.8, abs=0.05)
    assert float((inputs[chosen] == ids[chosen]).double().mean()) == pytest.approx(0.1, abs=0.05)


def test_views(data):
    """The second half of a batch is the first under other masks, its twins, or the functions that it describes."""
    kinds = set()
    for inputs, chosen, ids in pretraining_batches(data, SPEC):
        first, second = ids.chunk(2)
        assert torch.equal(inputs[~chosen], ids[~chosen])
        if torch.equal(first, second):
            kinds.add("tree")
            continue
        own, twins = data.functions["train"], data.analysis.twins[data.functions["train"], -1]
        told = data.documented["train"]
        views = {"twin": ((data.code, own), (data.code, twins)), "told": ((data.summary, told), (data.code, told))}
        pairs = {
            kind: set(
                zip(*([tuple(r) for r in data.batch(source, rows, 32).tolist()] for source, rows in pair), strict=True)
            )
            for kind, pair in views.items()
        }
        (kind,) = (
            kind
            for kind, known in pairs.items()
            if {*zip(map(tuple, first.tolist()), map(tuple, second.tolist()), strict=True)} <= known
        )
        kinds.add(kind)
    assert kinds == {"tree", "twin", "told"}


def test_batches_repeat(data):
    one, other = (list(pretraining_batches(data, SPEC)) for _ in range(2))
    assert len(one) == SPEC.steps
    assert all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def test_pretraining_learns_and_is_kept(data):
    checkpoint = pretrained(SPEC)
    assert checkpoint.built
    assert checkpoint.card["loss"] < torch.tensor(data.vocab_size).log() - 1.5
    assert not pretrained(SPEC).built
    encoder = loaded(SPEC, checkpoint)
    first = fresh(SPEC, data.vocab_size)
    assert not torch.equal(encoder.encoder.layer[1].output.dense.weight, first.encoder.layer[1].output.dense.weight)


def test_padding_changes_nothing(data):
    encoder = fresh(SPEC, data.vocab_size).eval()
    ids = data.batch(data.summary, data.documented["train"][:6], 24)
    longer = torch.cat([ids, torch.zeros(6, 4, dtype=torch.long)], 1)
    short, long = (mean_pool(encode(encoder, x, 0), x, 0) for x in (ids, longer))
    torch.testing.assert_close(short, long)
    states = hidden_states(encoder, ids, 0)
    assert len(states) == 3
    torch.testing.assert_close(states[-1], encode(encoder, ids, 0))


@pytest.mark.parametrize("kind", ["search", "clones"])
def test_tasks_are_learned_and_frozen_parts_stay(data, kind):
    encoder = fresh(SPEC, data.vocab_size)
    task = Search(data, 32, 16) if kind == "search" else Clones(data, 32)
    head = torch.nn.Identity() if kind == "search" else clone_head(16, 0)
    model = TaskModel(encoder, head)
    encoder.embeddings.requires_grad_(False)
    before = encoder.embeddings.word_embeddings.weight.clone()
    start = task.evaluate(model.eval(), "train", 40)
    order = data.order("train", task.kind, 60, 16, 0)
    found = tune(model, task, order, Optimisation(5e-3, 60), evaluations=3, validation=30)
    assert task.evaluate(model, "train", 40)["loss"] < start["loss"]
    assert torch.equal(before, encoder.embeddings.word_embeddings.weight)
    assert found.best["quality"] == max(found.trained.curves()["quality"]["y"])
    assert task.evaluate(model, "validation", 30)["quality"] == pytest.approx(found.best["quality"])


def test_a_perfect_search_has_full_marks(data):
    task = Search(data, 32, 16)
    task.vectors = lambda model, ids: torch.eye(64)[: len(ids)]  # type: ignore[method-assign]
    found = task.evaluate(None, "test", 10)
    assert found["quality"] == found["recall_1"] == 100


def test_f1_by_hand(data):
    task = Clones(data, 32)
    _, _, labels = task.batch(torch.arange(8), "test")
    said = torch.ones(8, dtype=torch.long)
    task.logits = lambda *_: torch.nn.functional.one_hot(said, 2).double()  # type: ignore[method-assign]
    task.batch = lambda *_: (None, None, torch.tensor([1, 1, 0, 0, 0, 1, 0, 0]))  # type: ignore[method-assign]
    found = task.evaluate(None, "test", 8)
    assert found["quality"] == pytest.approx(200 * 3 / (8 + 3))
    assert found["accuracy"] == pytest.approx(37.5)
    assert labels.shape == (8,)
