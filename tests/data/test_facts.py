"""Facts are what they claim to be, and what is held out was not read."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch

from repro.data import load_language
from repro.data.facts import (
    OBJECTS,
    RELATIONS,
    TOPICS,
    WORDINGS,
    facts,
    facts_fresh,
    knowledge,
    names,
    pools,
    sentences,
    vocabulary,
)

FEW = 12


@pytest.fixture(scope="module")
def data(module_cache):
    return facts(64, subjects=FEW)


def test_a_fact_is_one_object_of_a_pair_of_subject_and_relation():
    known = knowledge(0)
    assert len(known) == 1024
    assert len({(f.subject, f.relation) for f in known}) == 1024
    _, what = pools()
    for topic in range(len(TOPICS)):
        for r, relation in enumerate(TOPICS[topic].relations):
            used = Counter(f.object for f in known if f.topic == topic and f.relation == relation)
            assert set(used) <= set(what[topic][r])
            assert max(used.values()) < 10  # 32 subjects over 16 objects: no guess is good


def test_topics_have_relations_and_objects_of_their_own():
    relations = [r for topic in TOPICS for r in topic.relations]
    assert len(set(relations)) == len(relations) == len(TOPICS) * RELATIONS
    who, what = pools()
    words = [w for pool in who for w in pool] + [o for topic in what for pool in topic for o in pool]
    assert len(set(words)) == len(words)
    assert all(len(topic.wordings) == len(TOPICS[0].wordings) for topic in TOPICS)


def test_subject_and_relation_stand_before_the_object():
    for _, fact, text in sentences(0, FEW):
        words = text.split()
        at = words.index(fact.object)
        assert fact.subject in words[:at]
        assert fact.relation in words[:at]
        assert words[at + 1 :] == ["."]
        assert words.count(fact.object) == 1


def test_one_wording_of_every_fact_is_held_out_and_every_wording_is_learned():
    held, kept = defaultdict(set), defaultdict(set)
    for held_out, fact, _ in sentences(0, FEW):
        wording = len(held[fact]) + len(kept[fact])
        (held if held_out else kept)[fact].add(wording)
    assert all(len(w) == 1 for w in held.values() if w)
    assert set(held) >= set(knowledge(0, FEW))
    assert all(len(kept[fact]) == WORDINGS - 1 for fact in knowledge(0, FEW))
    turns = Counter(next(iter(w)) for w in held.values() if w)
    assert set(turns) == set(range(WORDINGS))


def test_no_held_out_sentence_is_read_in_training(data):
    def texts(rows):
        return set(data.tokenizer.decode(rows.tokens.tolist()).split(" . "))

    train, held_out = texts(data.train), texts(data.held_out)
    assert len(held_out) == len(TOPICS) * FEW * RELATIONS
    assert not train & held_out


def test_marks_stand_on_objects_and_all_words_are_known(data):
    _, what = pools(FEW)
    objects = {o for topic in what for pool in topic for o in pool}
    batch = data.held_out.take(torch.arange(4))
    words = data.tokenizer.convert_ids_to_tokens(batch.targets.flatten().tolist())
    assert [w in objects for w in words] == (batch.answers.flatten() > 0).tolist()
    assert data.vocab_size == len(vocabulary(FEW)) + 3
    assert data.tokenizer.unk_token_id not in set(data.train.tokens.tolist())
    assert 0.09 < (data.train.answers > 0).float().mean() < 0.14


def test_without_knowledge_only_the_objects_differ(data, module_cache):
    other = facts_fresh(64, subjects=FEW)
    assert other.name == "facts-fresh"
    assert other.train.tokens.shape == data.train.tokens.shape
    same = other.train.tokens == data.train.tokens
    marked = data.train.answers > 0
    assert torch.equal(other.train.answers, data.train.answers)
    assert same[~marked].all()
    assert 0.5 / OBJECTS < same[marked].float().mean() < 2 / OBJECTS


def test_same_seed_same_bytes_other_seed_other_bytes(module_cache):
    a, b, c = (facts(32, seed=s, subjects=FEW).fingerprint for s in (3, 3, 4))
    assert a == b != c
    fresh = [facts_fresh(32, seed=s, subjects=FEW).fingerprint for s in (3, 4)]
    assert fresh[0] != fresh[1]


def test_generation_is_fixed_for_all_machines():
    """Records of two machines are comparable only if both train on the same facts."""
    assert names(3) == ["gateso", "bobefe", "dizoze"]
    assert next(sentences())[2] == "the capital of lubude is sapefu ."


def test_the_registry_knows_both(module_cache):
    assert load_language("facts", 32, limit=50).train_rows < load_language("facts", 32, limit=500).train_rows
    assert load_language("facts-fresh", 32, limit=50).name == "facts-fresh"
