"""A code encoder pretrained here, and the tasks it is fine-tuned on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from repro.data.code import Ragged
from repro.data.stdlib_functions import (
    CLS,
    MASK,
    SEP,
    SPECIAL,
    functions_of,
    name_places,
    pieces_of,
    stdlib_functions,
    tokens_of,
)
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
from repro.training.code_tasks import Clones, Completion, NameHead, Search, TaskModel, clone_head, tune
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


@pytest.mark.parametrize("kind", ["search", "clones", "completion"])
def test_tasks_are_learned_and_frozen_parts_stay(data, kind):
    encoder = fresh(SPEC, data.vocab_size)
    task, head = {
        "search": (Search(data, 32, 16), torch.nn.Identity()),
        "clones": (Clones(data, 32), clone_head(16, 0)),
        "completion": (Completion(data, 32), NameHead(16, data.vocab_size, 0)),
    }[kind]
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


@pytest.mark.parametrize("length", [12, 48])
@pytest.mark.parametrize("split", ["train", "test"])
def test_neither_the_name_nor_what_follows_is_shown(data, length, split):
    """Inputs are the same whatever stands from the name on, and hold all before it that fits."""
    rows = torch.arange(len(data.names[split].rows))
    functions, places = data.names[split]
    starts = (data.code.lengths.cumsum(0) - data.code.lengths)[functions]
    ids, masks, names = Completion(data, length).batch(rows, split)
    other = data.code.values.clone()
    for start, place, size in zip(starts, places, data.code.lengths[functions], strict=True):
        other[start + place : start + size] = -7
    code = Ragged(other, data.code.lengths)
    hidden, hidden_masks, hidden_names = Completion(replace(data, code=code), length).batch(rows, split)
    assert torch.equal(ids, hidden)
    assert torch.equal(masks, hidden_masks)
    assert (hidden_names == -7).all()
    assert not (ids == -7).any()
    assert (names >= len(SPECIAL)).all()
    for row in range(len(rows)):
        start, place, mask = int(starts[row]), int(places[row]), int(masks[row])
        shown = min(place, length - 3)
        before = data.code.values[start + place - shown : start + place].tolist()
        assert ids[row].tolist() == [CLS, *before, MASK, SEP] + [0] * (length - shown - 3)
        assert mask == 1 + shown


def test_names_to_complete():
    source = "def f(self, a):\n    self.getThing(a)\n    return open(a._x).read_all + len\n"
    (function,) = functions_of(source)
    tokens = tokens_of(function.node)
    pieces = [piece for token in tokens for piece in pieces_of(token)]
    assert [pieces[at] for at in name_places(tokens)] == ["get", "open", "read"]


def test_names_of_one_split_stand_in_its_files_only(data):
    found = {split: set(names.rows.tolist()) for split, names in data.names.items()}
    for split, rows in found.items():
        assert rows <= set(data.functions[split].tolist())
        assert len(rows) == len(data.names[split].rows)
    assert not found["train"] & found["test"]


def test_exact_match_by_hand(data):
    task = Completion(data, 32)
    said = torch.eye(7)[[3, 1, 2, 0]] + torch.tensor([6.0, 5, 4, 3, 2, 1, 0]) / 100
    task.batch = lambda *_: (None, None, torch.tensor([3, 0, 2, 6]))  # type: ignore[method-assign]
    task.logits = lambda *_: said  # type: ignore[method-assign]
    found = task.evaluate(None, "test", 4)
    assert found["quality"] == pytest.approx(50)
    assert found["recall_5"] == pytest.approx(75)


def test_the_output_table_is_the_encoder_s(data):
    encoder = fresh(SPEC, data.vocab_size)
    model = TaskModel(encoder, NameHead(16, data.vocab_size, 0))
    task = Completion(data, 32)
    batch = task.batch(torch.arange(4), "train")
    before = task.logits(model, *batch[:2]).detach()
    assert before.shape == (4, data.vocab_size)
    row = next(i for i in range(len(SPECIAL), data.vocab_size) if not (batch[0] == i).any())
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight[row] *= 2
    after = task.logits(model, *batch[:2])
    assert (after != before).any(0).nonzero().flatten().tolist() == [row]
