"""Tokenizers survive the trip to disk, and fast paths equal slow ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from repro.data import MissingData, byte_tokenizer, load_tokenizer, word_tokenizer
from repro.data.text import _encode_bytes, question, tokenise
from repro.data.tokenizers import encode_bytes

BYTES = byte_tokenizer()


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_byte_tokens_are_the_bytes(text):
    ids = BYTES(text)["input_ids"]
    assert ids == list(text.encode())
    assert encode_bytes(text).tolist() == ids
    assert BYTES.decode(ids) == text


def test_save_and_load(tmp_path):
    for name, tokenizer, text in (
        ("bytes", BYTES, "x = 'né' # \t 1\n"),
        ("words", word_tokenizer(["a", "b", "="]), "a = b"),
    ):
        tokenizer.save_pretrained(tmp_path / name)
        again = AutoTokenizer.from_pretrained(tmp_path / name)
        assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
        assert again.decode(again(text)["input_ids"]) == text
        assert (again.pad_token_id, again.eos_token_id, len(again)) == (
            tokenizer.pad_token_id,
            tokenizer.eos_token_id,
            len(tokenizer),
        )
        assert load_tokenizer(str(tmp_path / name))(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_special_tokens():
    assert (len(BYTES), BYTES.pad_token_id, BYTES.eos_token_id) == (258, 256, 257)
    assert encode_bytes("a", end=True).tolist() == [97, 257]
    words = word_tokenizer(["one", "two"])
    assert words("one three two <eos>")["input_ids"] == [3, 2, 4, 1]
    with pytest.raises(ValueError, match="distinct"):
        word_tokenizer(["one", "one"])
    with pytest.raises(ValueError, match="white space"):
        word_tokenizer(["one two"])


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=8))
@settings(max_examples=100, deadline=None)
def test_answers_are_marked_exactly(query, solution, answer):
    document = question(query, f"{solution}#### {answer}", "####")
    ids, marks = _encode_bytes(document)
    answer = answer.rpartition("####")[2].strip()
    assert bytes(
        ids[:-1].tolist()
    ) == f"query: {query}\nresponse: {document[0].partition('response: ')[2]}".encode() or ("response: " in query)
    assert bytes(ids[marks > 0].tolist()).decode() == answer


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_fast_bytes_equal_the_tokenizers_way(texts):
    slow = byte_tokenizer()
    slow.name_or_path = "some other"
    documents = [question(text, f"{text} #### {text}", "####") for text in texts]
    fast_table, slow_table = tokenise(documents, BYTES, longest=50), tokenise(documents, slow, longest=50, batch=2)
    assert fast_table.to_dict() == slow_table.to_dict()


def test_a_tokenizer_that_is_absent(no_network):
    with pytest.raises(MissingData, match=r"deepseek-ai/DeepSeek-V2-Lite.*REPRO_DATA_DIR/tokenizers/DeepSeek-V2-Lite"):
        load_tokenizer("deepseek-ai/DeepSeek-V2-Lite")


def test_a_tokenizer_from_the_folder_of_real_data(real_data):
    tokenizer = load_tokenizer("pythia")
    assert len(tokenizer) > 50_000
    text = "query: What is 2 + 2?\nresponse: It is 4.\nThe answer is: 4"
    table = tokenise([question("What is 2 + 2?", "It is 4.\nThe answer is: 4", "The answer is:")], tokenizer)
    ids, marks = np.array(table[0]["ids"]), np.array(table[0]["id_marks"])
    assert tokenizer.decode(ids[:-1]) == text
    assert tokenizer.decode(ids[marks > 0]).strip() == "4"
    assert ids[-1] == tokenizer.eos_token_id
