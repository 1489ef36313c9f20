"""Sets to fine-tune on: prose under a cipher, instructions with responses."""

from __future__ import annotations

import json

import pytest
import torch

from repro.data import MissingData, load_language
from repro.data.instructions import (
    DETERMINED,
    OPEN,
    Instruction,
    alpaca_prompt,
    instructions_of,
    response_rows,
    stdlib_instructions,
)  # fmt: skip
from repro.data.shifted import cipher, stdlib_cipher
from repro.data.stdlib_text import prose, sources, split
from repro.data.tokenizers import byte_tokenizer

FILES = 24
SOURCE = '''
def add(one, two=2, *, three: int = 3):
    """Return the sum.

    More.
    """
    return one + two


class Thing:
    def name(self):
        """No parameters."""

    def set(self, value):
        """Set it."""

def untold(x):
    return x
'''


pytestmark = pytest.mark.usefixtures("module_cache")


# --- cipher ---------------------------------------------------------------------------------------------------


def test_the_cipher_exchanges_half_of_the_letters_and_can_be_undone():
    table = cipher()
    assert len(table) == 2 * 13
    assert all(chr(a) != b for a, b in table.items())
    assert {chr(a) for a in table} == set(table.values())
    back = {ord(b): chr(a) for a, b in table.items()}
    text = "The Quick brown fox (42) jumps!\n"
    assert text.translate(table) != text
    assert text.translate(table).translate(back) == text
    assert text.translate(table).lower() == text.lower().translate(table)
    assert cipher(seed=1) != table == cipher(seed=0)
    assert cipher(0) == {}
    for wrong in (1, 27, -1):
        with pytest.raises(ValueError, match="cannot exchange"):
            cipher(wrong)


def test_ciphered_prose_is_the_prose_letter_by_letter():
    plain, secret = load_language("stdlib-prose", 64, limit=FILES), load_language("stdlib-cipher", 64, limit=FILES)
    back = {ord(b): chr(a) for a, b in cipher().items()}
    assert secret.tokenizer.get_vocab() == plain.tokenizer.get_vocab()
    for part in ("train", "held_out"):
        one, two = (d.tokenizer.decode(getattr(d, part).tokens) for d in (plain, secret))
        assert two.translate(back).replace(secret.tokenizer.eos_token.translate(back), plain.tokenizer.eos_token) == one
        assert two != one
    assert len(secret.train.tokens) > 1.2 * len(plain.train.tokens)
    first = secret.tokenizer.decode(secret.train.tokens[:3000]).partition("<eos>")[0]
    assert first == prose(split(sources(limit=FILES)[0])[0] or "").translate(cipher())
    assert load_language("stdlib-cipher", 64, limit=FILES, seed=1).fingerprint != secret.fingerprint


def test_no_sources(tmp_path):
    for made in (stdlib_cipher, stdlib_instructions):
        with pytest.raises(MissingData, match="no standard-library sources"):
            made(16, root=tmp_path)


# --- instructions ---------------------------------------------------------------------------------------------


def test_what_a_function_gives():
    found = instructions_of(SOURCE)
    head = "def add(one, two=2, *, three: int=3):"
    assert found[:3] == [
        Instruction(f"### Document\n{head}\n### Response\n", "Return the sum.", OPEN),
        Instruction(f"### Parameters\n{head}\n### Response\n", "one, two, three", DETERMINED),
        Instruction(f"### Call\n{head}\n### Response\n", "add(one, two, three)", DETERMINED),
    ]
    assert found[-1].response == "set(value)"
    assert len(found) == 6  # no parameters, or no docstring: nothing
    assert len(instructions_of(SOURCE, first=9)) == 3
    assert len(instructions_of(SOURCE, last=9)) == 3
    assert instructions_of("def broken(:") == []


def test_the_loss_counts_on_the_response_and_its_end():
    tokenizer = byte_tokenizer()
    rows = [Instruction("ask: ", "yes", OPEN), Instruction("a longer one: ", "no", DETERMINED)]
    made = response_rows(rows, tokenizer, 30, name="test", identity="x")
    batch = made.take(torch.arange(2))
    for row, (targets, answers) in zip(rows, zip(batch.targets, batch.answers, strict=True), strict=True):
        counted = targets != -100
        assert tokenizer.decode(targets[counted]) == row.response + "<eos>"
        assert answers[counted].tolist() == [row.kind] * (len(row.response) + 1)
        assert answers[~counted].sum() == 0
    assert tokenizer.decode(batch.inputs[0, :8]) == "ask: yes"


def test_rows_whose_response_is_cut_off_are_left_out():
    rows = [Instruction("x" * 10, "yes", OPEN), Instruction("x" * 7, "yes", OPEN), Instruction("x", "yes", OPEN)]
    made = response_rows(rows, byte_tokenizer(), 8, name="test", identity="y")
    assert len(made) == 2
    batch = made.take(torch.arange(2))
    assert (batch.targets != -100).sum(1).tolist() == [2, 4]  # "ye" of the second; all of the third and its end


def test_instructions_of_this_python():
    data = load_language("stdlib-instructions", 96, limit=FILES)
    assert data.vocab_size == 1024
    assert data.train_rows > 5 * data.held_out_rows > 0
    batch = data.rows(torch.arange(data.train_rows))
    assert bool((batch.targets != -100).any(1).all())
    share = float((batch.answers == DETERMINED).any(1).float().mean())
    assert 0.6 < share <= 0.72
    known = {data.tokenizer.decode(row) for row in batch.inputs}
    later = data.held_out_batches(10**3, 10**3)[0]
    assert not known & {data.tokenizer.decode(row) for row in later.inputs}
    heads = "".join(split(text)[0] for text in sources(limit=FILES))
    for row, marks in zip(later.targets, later.answers, strict=True):
        if int(marks.max()) == OPEN:
            told = data.tokenizer.decode(row[row != -100]).removesuffix("<eos>")
            if told not in heads:
                break
    else:
        raise AssertionError("every held-out docstring was in the training part")


# --- Alpaca ---------------------------------------------------------------------------------------------------


def test_alpaca_in_the_hub_s_layout(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    (tmp_path / "alpaca-gpt4").mkdir()
    rows = [
        {"instruction": f"Count to {i}.", "input": "from one" if i % 2 else "", "output": "1 " * i, "text": "unused"}
        for i in range(1, 21)
    ]
    (tmp_path / "alpaca-gpt4" / "alpaca_gpt4_data.json").write_text(json.dumps(rows))
    data = load_language("alpaca-gpt4", 400, tokenizer="bytes", held_out=5, limit=12)
    assert (data.train_rows, data.held_out_rows) == (12, 5)
    batch = data.rows(torch.arange(12))
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        text = data.tokenizer.decode(inputs, skip_special_tokens=True)
        answer = data.tokenizer.decode(targets[targets != -100]).removesuffix("<eos>")
        row = next(r for r in rows if f"{r['instruction']}\n" in text)
        assert answer == row["output"]
        assert text.startswith(alpaca_prompt(row["instruction"], row["input"]))
        assert ("### Input:\nfrom one" in text) == bool(row["input"])
    with pytest.raises(ValueError, match="do not leave any"):
        load_language("alpaca-gpt4", 400, tokenizer="bytes", held_out=20)


def test_alpaca_that_is_not_there(no_network):
    with pytest.raises(MissingData, match="alpaca_gpt4_data"):
        load_language("alpaca-gpt4", 64)
