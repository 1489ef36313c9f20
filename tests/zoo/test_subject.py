"""The model that a run studies: which one the options name, and with which text."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch

from repro.data.errors import MissingData
from repro.data.registry import load_language
from repro.runner import Context
from repro.zoo.llama import stdlib_llama
from repro.zoo.options import SMALLEST, ModelOptions, zoo_spec
from repro.zoo.subject import calibration, study, text

RECIPES = {"slow": {"lr": 1e-3, "hidden": 96}}


@dataclass(frozen=True)
class Config(ModelOptions):
    data: str = "recall-stdlib"
    rows: int = 3


SMALL = Config(**SMALLEST)


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield study(SMALL, Context(1000, "cpu"))


def test_options_left_alone_give_the_model_that_papers_share():
    assert zoo_spec(Config(), 3, RECIPES) == stdlib_llama(3)


def test_an_option_goes_before_the_recipe():
    assert zoo_spec(Config(recipe="slow"), 0, RECIPES) == stdlib_llama(0, lr=1e-3, hidden=96)
    assert zoo_spec(Config(recipe="slow", base_lr=2e-3, layers=4), 0, RECIPES) == stdlib_llama(
        0, lr=2e-3, hidden=96, layers=4
    )


def test_the_text_s_length_is_not_that_of_pretraining():
    assert zoo_spec(Config(sequence=64), 0).sequence == 128
    assert zoo_spec(Config(base_sequence=64), 0).sequence == 64


def test_an_unknown_recipe_is_named():
    with pytest.raises(ValueError, match="slow, not 'fast'"):
        zoo_spec(Config(recipe="fast"), 0, RECIPES)


def test_the_zoo_s_model_with_its_text(subject):
    assert subject.zoo is not None
    assert not subject.model.training
    assert subject.model.config.vocab_size == len(subject.tokenizer) == subject.data.vocab_size
    described = subject.describe()
    assert described["name"] == "recall-stdlib"
    assert described["model"] == "stdlib-llama"
    assert described["model_seed"] == 1000
    profile = subject.profile()
    assert profile["train_tokens"] == 60 * 8 * 64
    assert profile["params_total"] == sum(p.numel() for p in subject.model.parameters())


def test_calibration_is_drawn_from_training_rows_under_the_run_s_seed(subject):
    drawn = [
        torch.cat(calibration(subject.data, 5, 2, Context(seed, "cpu"), draw))
        for seed, draw in ((0, 0), (0, 1), (1, 0))
    ]
    assert all(part.shape == (5, 64) for part in drawn)
    assert torch.equal(drawn[0], torch.cat(calibration(subject.data, 5, 3, Context(0, "cpu"))))
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    rows = subject.data.rows(torch.arange(len(subject.data.train))).inputs
    assert all((rows == row).all(1).any() for row in drawn[0])


def test_other_text_is_read_in_the_same_tokens(subject):
    other = text(SMALL, "stdlib-prose")
    assert other.name == "stdlib-prose"
    assert other.sequence == 64
    assert other.tokenizer.get_vocab() == subject.tokenizer.get_vocab()
    assert text(SMALL).name == "recall-stdlib"


def test_a_model_from_a_folder(subject, tmp_path, monkeypatch):
    subject.model.save_pretrained(tmp_path / "model")
    subject.tokenizer.save_pretrained(tmp_path / "model")
    options = replace(SMALL, data="tiny", model=str(tmp_path / "model"), limit=7)
    seen = {}

    def load(name, sequence, **given):
        seen.update(given, name=name, sequence=sequence)
        return load_language("recall-stdlib", 64, files=40)

    monkeypatch.setattr("repro.zoo.subject.load_language", load)
    found = study(options, Context(0, "cpu"))
    assert seen == {"name": "tiny", "sequence": 64, "tokenizer": options.model, "limit": 7}
    assert found.zoo is None
    assert found.describe()["model"] == options.model
    assert found.profile()["train_tokens"] == 0
    assert all(torch.equal(a, b) for a, b in zip(found.model.parameters(), subject.model.parameters(), strict=True))


def test_an_absent_model_is_named(tmp_path):
    with pytest.raises(MissingData, match="nothing-here"):
        study(replace(SMALL, model=str(tmp_path / "nothing-here")), Context(0, "cpu"))


def test_configurations_import_no_torch():
    code = "import sys, repro.zoo.options; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
