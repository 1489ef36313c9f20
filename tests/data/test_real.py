"""Real data: the loading code on small local files of the hub's layout, on the real files, and without any."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch

from repro.data import DATA_SETS, MissingData, UnknownData, load, load_language, word_tokenizer

PROBLEMS = [
    {
        "question": f"How many are {n} and {n + 1}?",
        "answer": f"{n}+{n + 1}=<<{n}+{n + 1}={2 * n + 1}>>\n#### {2 * n + 1}",
    }
    for n in range(30)
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path / "real"))
    return tmp_path / "real"


def _jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _parquet(path, rows):
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).to_parquet(str(path))


def test_gsm8k_in_both_layouts(folder):
    _jsonl(folder / "gsm8k" / "train.jsonl", PROBLEMS[:20])
    _jsonl(folder / "gsm8k" / "test.jsonl", PROBLEMS[20:])
    original = load_language("gsm8k", 32)
    for file in folder.rglob("*.jsonl"):
        file.unlink()
    _parquet(folder / "gsm8k" / "main" / "train-00000-of-00002.parquet", PROBLEMS[:10])
    _parquet(folder / "gsm8k" / "main" / "train-00001-of-00002.parquet", PROBLEMS[10:20])
    _parquet(folder / "gsm8k" / "main" / "test-00000-of-00001.parquet", PROBLEMS[20:])
    hub = load_language("gsm8k", 32)
    assert hub.fingerprint == original.fingerprint
    first = PROBLEMS[0]
    text = f"query: {first['question']}\nresponse: {first['answer']}"
    assert bytes(hub.train.tokens[: len(text)].tolist()).decode() == text
    assert int(hub.train.tokens[len(text)]) == hub.tokenizer.eos_token_id
    answers = hub.tokenizer.decode(hub.train.tokens[hub.train.answers > 0].tolist())
    assert answers == "".join(str(2 * n + 1) for n in range(20))
    assert [item["answer"] for item in hub.held_out_items] == [str(2 * n + 1) for n in range(20, 30)]
    assert load_language("gsm8k", 32, limit=5).train_rows < hub.train_rows


def test_edited_files_are_read_anew(folder):
    for name in ("train", "test"):
        _jsonl(folder / "gsm8k" / f"{name}.jsonl", PROBLEMS)
    before = load_language("gsm8k", 32).fingerprint
    _jsonl(folder / "gsm8k" / "train.jsonl", PROBLEMS[::-1])
    assert load_language("gsm8k", 32).fingerprint != before


def test_of_several_configurations_the_one_that_is_meant_is_read(folder):
    rows = {
        name: [{"question": f"{name} {n}", "answer": f"#### {n}"} for n in range(12)] for name in ("main", "socratic")
    }
    for name, found in rows.items():
        _parquet(folder / "gsm8k" / name / "train-00000-of-00001.parquet", found)
        _parquet(folder / "gsm8k" / name / "test-00000-of-00001.parquet", found)
    data = load_language("gsm8k", 8)
    assert [item["query"] for item in data.held_out_items] == [f"main {n}" for n in range(12)]
    _parquet(folder / "gsm8k" / "main" / "train-00000-of-00001.parquet", rows["main"][::-1])
    assert load_language("gsm8k", 8).fingerprint != data.fingerprint
    (folder / "gsm8k" / "main").rename(folder / "gsm8k" / "renamed")
    with pytest.raises(MissingData, match=r"several folders \(renamed, socratic\), none 'main'"):
        load_language("gsm8k", 8)


def test_files_of_one_name_in_two_folders_are_told_apart(folder):
    from repro.data.hub import METAMATH, load_split

    for name in ("a", "b"):
        _jsonl(folder / "metamath" / name / "train.jsonl", [{"query": name, "response": "1"}])
    before = load_split(METAMATH, "train")[1]
    _jsonl(folder / "metamath" / "a" / "train.jsonl", [{"query": "changed", "response": "1"}])
    assert load_split(METAMATH, "train")[1] != before


def test_c4_says_when_documents_are_too_few(folder, tokenizer):
    _jsonl(folder / "c4" / "validation.jsonl", [{"text": f"so what is {n} ?"} for n in range(24)])
    assert load_language("c4", 4, limit=12, tokenizer=tokenizer).train_rows > 0
    with pytest.raises(ValueError, match="40 documents are needed, 24 were found"):
        load_language("c4", 4, limit=20, tokenizer=tokenizer)


@pytest.fixture
def tokenizer(folder):
    text = "query: response: what is twice it so The answer is: . ?"
    words = [*text.split(), *(str(n) for n in range(400))]
    word_tokenizer(words).save_pretrained(folder / "tokenizers" / "words")
    return "words"


def test_metamath(folder, tokenizer):
    rows = [
        {
            "query": f"what is twice {n} ?",
            "response": f"it is {2 * n} .\nThe answer is: {2 * n}",
            "type": "GSM_Rephrased",
        }
        for n in range(150)
    ]
    path = folder / "metamath" / "MetaMathQA-395K.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(rows))
    data = load_language("metamath", 64, tokenizer=tokenizer, held_out=30)
    assert (data.train_rows, data.held_out_rows) == (120, 30)
    assert data.sequence == 15  # the longest document, not 64
    queries = {item["query"] for item in data.held_out_items}
    batch = data.rows(torch.arange(120))
    text = [data.tokenizer.decode(row, skip_special_tokens=True) for row in batch.inputs]
    assert not any(any(query in row for query in queries) for row in text)
    for index, item in enumerate(data.held_out_items):
        row = data.held_out.take(torch.tensor([index]))
        assert data.tokenizer.decode(row.targets[row.answers > 0].tolist()) == item["answer"]
        assert item["query"] in data.tokenizer.decode(row.inputs[0])
    assert load_language("metamath", 64, tokenizer=tokenizer, held_out=30).fingerprint == data.fingerprint
    other = load_language("metamath", 64, tokenizer=tokenizer, held_out=30, seed=1)
    assert {item["query"] for item in other.held_out_items} != queries
    short = load_language("metamath", 6, tokenizer=tokenizer, held_out=30)
    assert short.rows(torch.arange(4)).tokens == 24
    with pytest.raises(ValueError, match="150 rows"):
        load_language("metamath", 64, tokenizer=tokenizer)


def test_slimpajama(folder, tokenizer):
    for split, count in (("train", 40), ("validation", 12)):
        rows = [{"text": " ".join(str(n) for n in range(i, i + 9)), "meta": {"set": "C4"}} for i in range(count)]
        _parquet(folder / "slimpajama" / "data" / f"{split}-00000-of-00001-abc.parquet", rows)
    data = load_language("slimpajama", 19, tokenizer=tokenizer, limit=20)
    assert len(data.train.tokens) == 20 * 10
    assert data.train_rows == 10
    assert len(data.held_out.tokens) == 12 * 10
    first = data.tokenizer.decode(data.train.tokens[:20].tolist())
    assert first == "0 1 2 3 4 5 6 7 8 <eos> 1 2 3 4 5 6 7 8 9 <eos>"


def test_files_that_cannot_serve(folder):
    (folder / "gsm8k").mkdir(parents=True)
    with pytest.raises(MissingData, match="no file of split 'train'"):
        load_language("gsm8k", 32)
    (folder / "gsm8k" / "train.jsonl").write_text('{"question": "a", "ans')
    (folder / "gsm8k" / "test.jsonl").write_text("")
    with pytest.raises(MissingData, match=r"train\.jsonl cannot be read"):
        load_language("gsm8k", 32)
    _jsonl(folder / "gsm8k" / "train.jsonl", [{"text": "a"}])
    with pytest.raises(MissingData, match="no field 'question', only text"):
        load_language("gsm8k", 32)


@pytest.mark.parametrize("name", ["gsm8k", "metamath", "slimpajama"])
def test_absent_data_say_how_to_get_them(name, no_network):
    start = time.perf_counter()
    with pytest.raises(MissingData) as caught:
        load_language(name, 32)
    assert time.perf_counter() - start < 5
    text = str(caught.value)
    assert f"REPRO_DATA_DIR/{name}/" in text or "REPRO_DATA_DIR/tokenizers/" in text
    assert "hub" in text


def test_no_network_at_all_is_noticed_quickly(tmp_path):
    """Without the offline switch: the hub's address leads nowhere, as behind a broken connection."""
    code = "from repro.data import load_language, MissingData\ntry:\n  load_language('gsm8k', 32)\n"
    code += "except MissingData as e:\n  print(e)"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_ENDPOINT": "http://192.0.2.1", "HF_HOME": str(tmp_path)}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert "data set 'gsm8k' is absent" in done.stdout, done.stderr
    assert "openai/gsm8k" in done.stdout
    assert time.perf_counter() - start < 30


def test_unknown_names():
    with pytest.raises(UnknownData, match="'word-problem'; valid: word-problems"):
        load("word-problem")
    with pytest.raises(UnknownData, match=r"valid: word-problems, stdlib, gsm8k"):
        load_language("zzz", 32)
    assert {"composition", "word-problems", "stdlib", "gsm8k", "domains", "recall"} <= set(DATA_SETS)


def test_gsm8k_as_published(real_data, module_cache):
    data = load_language("gsm8k", 128)
    assert len(data.held_out_items) == 1319
    assert (data.train.tokens == data.tokenizer.eos_token_id).sum() == 7473
    assert data.held_out_items[0]["answer"] == "18"
    assert "<<16-3-4=9>>" in data.held_out_items[0]["response"]
    assert (data.train.answers > 0).sum() > 7473
    train, test = (bytes(t[t < 256].to(torch.uint8).tolist()) for t in (data.train.tokens, data.held_out.tokens))
    assert test[:60] not in train


def test_importing_the_package_is_light():
    code = "import sys, repro.data, repro.evaluation\n"
    code += "print([m for m in ('torch', 'datasets', 'lm_eval') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
