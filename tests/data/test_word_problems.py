"""Every generated problem is right, and what is held out was not seen."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data import load_language
from repro.data.word_problems import FRAMES, STYLES, Problem, problems, rows, spread, vocabulary, word_problems


@pytest.fixture(scope="module")
def data(tmp_path_factory, module_cache):
    return word_problems(128, limit=900, held_out=60, packed=False)


EFFECTS = {"one-more": (1, 1), "two-more": (1, 2), "one-less": (1, -1), "doubled": (2, 0), "tripled": (3, 0)}


def apply(value: int, words: str, modulus: int) -> int:
    """The value after the operations named in ``words``: a second implementation, sharing nothing with the first."""
    for word in words.split():
        if word in EFFECTS:
            factor, term = EFFECTS[word]
            value = value * factor + term
    return value % modulus


def check_solution(response: str, answer: int, modulus: int) -> list[int]:
    """Operations per equation of a solution; asserts that each holds and that they lead to the answer."""
    *lines, last = response.split(" ; ")
    value = None
    for line in lines:
        left, right = line.split(" = ")
        start, operations = left.split(" ", 1)
        assert value is None or value == int(start)
        value = apply(int(start), operations, modulus)
        assert value == int(right)
    assert value is None or value == answer
    assert last == f"answer {answer}"
    return [len(line.split()) - 3 for line in lines]


@given(seed=st.integers(0, 10**6), modulus=st.sampled_from([5, 7, 11, 13]))
@settings(max_examples=25, deadline=None)
def test_every_solution_is_right(seed, modulus):
    for row in rows(12, modulus, seed):
        answer = apply(int(re.search(r"\d+", row["query"]).group()), row["query"], modulus)
        assert row["answer"] == str(answer)
        count = len(row["operations"])
        pairs = [2] * (count // 2) + [1] * (count % 2)
        equations = check_solution(row["response"], answer, modulus)
        assert equations == {"steps": [1] * count, "pairs": pairs, "direct": []}[row["style"]]
        assert row["query"].endswith(f" {row['style']}")


def test_marks_count_the_operations_that_a_token_needs():
    problem = Problem(4, ("doubled", "two-more", "one-less"), 7)
    assert problem.values() == [4, 1, 3, 2]
    for style, text, marked in [
        ("steps", "4 doubled = 1 ; 1 two-more = 3 ; 3 one-less = 2 ; answer 2", [("1", 1), ("3", 1), ("2", 1)]),
        ("pairs", "4 doubled two-more = 3 ; 3 one-less = 2 ; answer 2", [("3", 2), ("2", 1)]),
        ("direct", "answer 2", [("2", 3)]),
    ]:
        response, marks = problem.response(style)
        assert response == text
        assert [(w, m) for w, m in zip(response.split(), marks, strict=True) if m] == marked


def test_chains_are_distinct_and_of_every_length():
    made = list(problems(3000, 7, 0))
    assert len(set(made)) == 3000
    # half of the 875 chains of three, the rest shared by the longer ones
    assert [sum(len(p.operations) == n for p in made) for n in (3, 4, 5)] == [437, 1281, 1282]
    with pytest.raises(ValueError, match="at most"):
        next(problems(10**6, 5, 0))


def test_no_held_out_problem_is_asked_in_training(data):
    def chains(items):
        return {(r["start"], tuple(r["operations"])) for r in items}

    everything = list(rows(960, 7, 0))
    train, held_out = chains(everything[: 3 * 900]), chains(data.held_out_items)
    assert len(train) == 900
    assert len(held_out) == 60
    assert not train & held_out
    texts = {tuple(data.rows(torch.tensor([i])).inputs[0].tolist()) for i in range(data.train_rows)}
    batch = data.held_out.take(torch.arange(data.held_out_rows))
    assert not texts & {tuple(row.tolist()) for row in batch.inputs}


def test_items_are_told_three_times_with_one_answer(data):
    by_item: dict[int, list] = {}
    for row in data.held_out_items:
        by_item.setdefault(row["item"], []).append(row)
    assert all(len(group) == 3 for group in by_item.values())
    assert all(len({row["answer"] for row in group}) == 1 for group in by_item.values())
    assert all(len({row["query"] for row in group}) == 3 for group in by_item.values())
    assert {row["style"] for row in data.held_out_items} == set(STYLES)


def test_same_seed_same_bytes_other_seed_other_bytes(module_cache):
    first = list(rows(40, 11, 3))
    assert first == list(rows(40, 11, 3))
    assert first != list(rows(40, 11, 4))
    a, b, c = (word_problems(128, seed=s, limit=30, held_out=10).fingerprint for s in (3, 3, 4))
    assert a == b != c


def test_generation_is_fixed_for_all_machines():
    """Records of two machines are comparable only if both train on the same problems."""
    row = next(rows(1))
    assert row["query"] == (
        "vera has 0 pins . they get two-more , then tripled , then one-less , then one-less , then one-less . how many "
        "are left ? pairs"
    )
    assert row["response"] == "0 two-more tripled = 6 ; 6 one-less one-less = 4 ; 4 one-less = 3 ; answer 3"


def test_vocabulary_covers_all_text_and_length_is_bounded(data):
    assert 80 <= data.vocab_size <= 120
    assert data.vocab_size == len(vocabulary()) + 3
    unknown = data.tokenizer.unk_token_id
    for row in rows(300, 7, 5):
        text = f"query: {row['query']} response: {row['response']}"
        ids = data.tokenizer(text)["input_ids"]
        assert unknown not in ids
        assert len(ids) + 1 <= 57
        assert data.tokenizer.decode(ids) == text


def test_rows_are_the_texts_with_labels_on_words_only(data):
    for index, row in enumerate(data.held_out_items[:30]):
        batch = data.held_out.take(torch.tensor([index]))
        text = f"query: {row['query']} response: {row['response']} <eos>"
        kept = batch.targets[0] != -100
        words = text.split()
        assert data.tokenizer.convert_ids_to_tokens(batch.targets[0][kept].tolist()) == words[1:]
        shown = words[: data.sequence]
        assert data.tokenizer.convert_ids_to_tokens(batch.inputs[0, : len(shown)].tolist()) == shown
        assert (batch.inputs[0, len(shown) :] == data.tokenizer.pad_token_id).all()
        assert not batch.answers[0][~kept].any()
        marks = [0] * (len(words) - len(row["marks"]) - 1) + row["marks"] + [0]
        assert batch.answers[0][kept].tolist() == marks[1:]


def test_packed_rows_are_the_same_words_end_to_end(data):
    packed = word_problems(32, limit=900, held_out=60)
    words = " ".join(f"query: {r['query']} response: {r['response']} <eos>" for r in data.held_out_items).split()
    batch = packed.held_out.take(torch.arange(3))
    assert packed.tokenizer.convert_ids_to_tokens(batch.targets.flatten().tolist()) == words[1:97]
    assert batch.tokens == 96
    assert 0.04 < (packed.train.answers > 0).float().mean() < 0.1


def test_no_answer_stands_near_the_same_problem(data):
    """Packed, three tellings side by side would let a model copy the answer from the first."""
    order = [row["item"] for row in data.held_out_items]
    for item in set(order):
        first, second, third = (at for at, other in enumerate(order) if other == item)
        assert first < 60 <= second < 120 <= third
    texts = list(rows(50, 7, 1))
    spread_out = spread(texts, 0)
    assert sorted(map(str, spread_out)) == sorted(map(str, texts))
    for turn in range(3):
        assert {row["wording"] for row in spread_out[50 * turn : 50 * turn + 50]} == set(range(len(FRAMES)))


def test_a_short_sequence_cuts_rows(module_cache):
    data = word_problems(20, limit=30, held_out=10, packed=False)
    batch = data.rows(torch.arange(5))
    assert batch.inputs.shape == (5, 20)
    assert 90 <= batch.tokens <= 100  # only the shortest texts end before the cut


def test_second_load_reads_the_cache(module_cache, monkeypatch):
    first = load_language("word-problems", 128, limit=50)
    monkeypatch.setattr("repro.data.word_problems._build", lambda **_: pytest.fail("generated again"))
    second = load_language("word-problems", 128, limit=50)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.rows(torch.arange(9)).inputs, second.rows(torch.arange(9)).inputs)


def test_a_damaged_cache_is_made_again(module_cache):
    first = load_language("word-problems", 128, limit=70)
    (place,) = [p for p in (module_cache / "data").iterdir() if '"items": 70' in (p / "identity.json").read_text()]
    for file in place.glob("*.arrow"):
        file.write_bytes(b"broken")
    assert load_language("word-problems", 128, limit=70).fingerprint == first.fingerprint
