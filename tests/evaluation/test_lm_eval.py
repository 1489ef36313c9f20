"""The bridge to lm-evaluation-harness, offline: models that know, models that do not."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GenerationMixin, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from repro.data import byte_tokenizer, load_language
from repro.data.base import LanguageData, TokenRows
from repro.evaluation import HUB_TASKS, LOCAL_TASKS, evaluate_with_lm_eval, tasks_for


def _llama(vocab: int, positions: int = 128) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=positions, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


class Oracle(LlamaForCausalLM, GenerationMixin):
    """Continues every text that it knows by heart, whatever its weights say."""

    def learn(self, texts: list[list[int]], pad: int, eos: int) -> None:
        self.table: dict[tuple[int, ...], int] = {}
        self.pad, self.eos = pad, eos
        for ids in texts:
            for at in range(1, len(ids)):
                self.table[tuple(ids[:at])] = ids[at]

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
        return {"input_ids": input_ids}  # the whole text, as there is no cache

    def forward(self, input_ids=None, **_):
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        for row, ids in enumerate(input_ids.tolist()):
            lead = next((i for i, token in enumerate(ids) if token != self.pad), len(ids))
            for at in range(lead, len(ids)):
                logits[row, at, self.table.get(tuple(ids[lead : at + 1]), self.eos)] = 50.0
        return CausalLMOutput(logits=logits)


def _oracle(data: LanguageData, texts: list[str], positions: int = 128) -> Oracle:
    model = Oracle(_llama(data.vocab_size, positions).config)
    eos = data.tokenizer.eos_token_id
    model.learn([[*data.tokenizer(text)["input_ids"], eos] for text in texts], data.tokenizer.pad_token_id, eos)
    return model


def test_a_model_that_knows_every_answer(word_data):
    texts = [f"query: {item['query']} response: {item['response']}" for item in word_data.held_out_items]
    model = _oracle(word_data, texts)
    found = evaluate_with_lm_eval(model, word_data.tokenizer, tasks_for(word_data), data=word_data, limit=16)
    assert found == {
        "word_problems_exact/exact_match": 1.0,
        "word_problems_exact/n": 16.0,
        "word_problems_choice/acc": 1.0,
        "word_problems_choice/n": 16.0,
    }


def test_a_model_with_every_second_answer_wrong(word_data):
    wrong = [i for i in range(len(word_data.held_out_items)) if i % 2]
    texts = []
    for index, item in enumerate(word_data.held_out_items):
        head, answer = item["response"].rsplit(" ", 1)
        answer = str((int(answer) + 1) % 11) if index in wrong else answer
        texts.append(f"query: {item['query']} response: {head} {answer}")
    found = evaluate_with_lm_eval(
        _oracle(word_data, texts), word_data.tokenizer, ["word_problems_exact"], data=word_data
    )
    assert found == {"word_problems_exact/exact_match": 0.5, "word_problems_exact/n": 120.0}


def test_an_untrained_model_is_at_chance(word_data):
    model = _llama(word_data.vocab_size)
    found = evaluate_with_lm_eval(model, word_data.tokenizer, tasks_for(word_data), data=word_data, limit=-1)
    count = found["word_problems_choice/n"]
    assert count == sum(item["style"] == "direct" for item in word_data.held_out_items)
    assert abs(found["word_problems_choice/acc"] - 1 / 11) < 3 * (1 / 11 * 10 / 11 / count) ** 0.5
    assert found["word_problems_exact/exact_match"] < 0.1


def test_random_number_generators_and_mode_are_left_alone(word_data):
    model = _llama(word_data.vocab_size).train()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    results = [
        evaluate_with_lm_eval(model, word_data.tokenizer, ["word_problems_choice"], data=word_data, limit=4)
        for _ in range(2)
    ]
    assert results[0] == results[1]
    assert model.training
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())


def test_a_vocabulary_wider_than_the_tokenizers(word_data):
    """Published shapes keep their vocabulary on small data: some tokens have no name."""
    model = _llama(word_data.vocab_size + 1000)
    nn.init.normal_(model.lm_head.weight, std=1.0)
    found = evaluate_with_lm_eval(model, word_data.tokenizer, ["word_problems_exact"], data=word_data, limit=8)
    assert found["word_problems_exact/n"] == 8


def _gsm8k(items: list[dict]) -> LanguageData:
    rows = TokenRows(torch.arange(9, dtype=torch.int16), 4)
    return LanguageData("gsm8k", rows, rows, byte_tokenizer(), "real", "", held_out_items=items)


def test_gsm8k_is_matched_on_the_number_after_the_marks(word_data):
    items = [
        {"query": f"What is {n} times a thousand?", "response": f"It is <<{n}*1000={n}000>>.\n#### {n},000"}
        for n in range(1, 7)
    ]
    data = _gsm8k(items)
    told = ["{},000", "{}000", "${}000", "{}000.", "{}001", "none"]
    texts = [
        f"query: {item['query']}\nresponse: It is so.\n#### {form.format(n)}"
        for n, (item, form) in enumerate(zip(items, told, strict=True), start=1)
    ]
    found = evaluate_with_lm_eval(_oracle(data, texts, 256), data.tokenizer, tasks_for(data), data=data)
    assert found == {"gsm8k_exact/exact_match": 0.5, "gsm8k_exact/n": 6.0}


def test_gsm8k_from_the_folder_of_real_data(word_data):
    import os

    if not os.environ.get("REPRO_DATA_DIR"):
        pytest.skip("REPRO_DATA_DIR names no folder of real data")
    data = load_language("gsm8k", 64)
    found = evaluate_with_lm_eval(_llama(data.vocab_size, 512), data.tokenizer, ["gsm8k_exact"], limit=3)
    assert found["gsm8k_exact/n"] == 3
    assert found["gsm8k_exact/exact_match"] == 0


def test_what_cannot_be_evaluated_is_refused(word_data):
    model = _llama(word_data.vocab_size)
    with pytest.raises(ValueError, match="unknown lm-eval task 'word_problem'"):
        evaluate_with_lm_eval(model, word_data.tokenizer, ["word_problem"])
    with pytest.raises(ValueError, match="asks items of 'gsm8k', not of 'word-problems'"):
        evaluate_with_lm_eval(model, word_data.tokenizer, ["gsm8k_exact"], data=word_data)
    assert evaluate_with_lm_eval(model, word_data.tokenizer, []) == {}


def test_tasks_by_data(word_data):
    assert tasks_for(word_data) == ("word_problems_exact", "word_problems_choice")
    assert tasks_for(_gsm8k([])) == ("gsm8k_exact",)
    assert tasks_for(SimpleNamespace(name="metamath")) == ("arc_easy", "hellaswag", "piqa")
    assert tasks_for(SimpleNamespace(name="stdlib")) == ()


def test_the_papers_tasks_exist_in_the_harness():
    from lm_eval.tasks import TaskManager

    from repro.evaluation.lm_eval import _harness_folders

    manager = TaskManager(include_path=_harness_folders(list(HUB_TASKS)), include_defaults=False)
    assert set(HUB_TASKS) <= set(manager.all_tasks)


def test_hub_tasks_without_a_hub(word_data):
    from repro.data import MissingData

    with pytest.raises(MissingData, match="arc_easy"):
        evaluate_with_lm_eval(_llama(word_data.vocab_size), word_data.tokenizer, ["arc_easy"], limit=2)


def test_shipped_tasks_are_complete():
    import yaml

    from repro.evaluation.lm_eval import _TASKS

    found = {path.stem: yaml.safe_load(path.read_text()) for path in _TASKS.glob("*.yaml")}
    assert set(found) == set(LOCAL_TASKS)
    for name, config in found.items():
        assert config["task"] == name
        assert config["metadata"]["version"]
        assert json.dumps(config)
