"""Every task gets its own number of examples, and its usual score."""

from __future__ import annotations

import pytest
import torch

from repro.evaluation import few_shot as module
from repro.evaluation.few_shot import average_score, score_of


def test_scores():
    assert score_of({"acc": 0.5, "acc_norm": 0.6}) == 0.6
    assert score_of({"acc": 0.5, "f1": 0.1}) == 0.5
    with pytest.raises(ValueError, match="no score"):
        score_of({"perplexity": 3.0})


def test_tasks_are_read_with_their_shots(monkeypatch):
    asked = {}

    def fake(model, tokenizer, tasks, limit=None):
        asked.update(tasks)
        return {name: {"acc": shots / 10} for name, shots in tasks.items()}

    monkeypatch.setattr(module, "few_shot", fake)
    assert average_score(torch.nn.Linear(1, 1), None, ["boolq", "mmlu:5"], limit=3) == pytest.approx(0.25)
    assert asked == {"boolq": 0, "mmlu": 5}


def test_the_harness_is_asked_once_a_task(monkeypatch):
    import lm_eval
    import lm_eval.models.huggingface as huggingface
    import lm_eval.tasks as tasks

    asked = []

    class Manager:
        all_tasks = ("arc_challenge", "mmlu")

    def evaluate(**options):
        asked.append((options["tasks"], options["num_fewshot"], options["limit"]))
        (name,) = options["tasks"]
        groups = {"mmlu": {"acc,none": 0.7}} if name == "mmlu" else {}
        return {"results": {name: {"acc,none": 0.3, "acc_norm,none": 0.4, "acc_stderr,none": 0.1}}, "groups": groups}

    monkeypatch.setattr(tasks, "TaskManager", Manager)
    monkeypatch.setattr(lm_eval, "simple_evaluate", evaluate)
    monkeypatch.setattr(huggingface, "HFLM", lambda **options: options)
    found = module.few_shot(None, None, {"arc_challenge": 25, "mmlu": 5}, limit=0)
    assert asked == [(["arc_challenge"], 25, None), (["mmlu"], 5, None)]
    assert found == {"arc_challenge": {"acc": 0.3, "acc_norm": 0.4}, "mmlu": {"acc": 0.7}}
    with pytest.raises(ValueError, match="unknown lm-eval task 'nothing'"):
        module.few_shot(None, None, {"nothing": 0})
