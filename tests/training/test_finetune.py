"""The fine-tuning frame: what it trains, measures and leaves alone."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from repro.data.base import Batch, LanguageData, TokenRows
from repro.data.instructions import DETERMINED, OPEN, Instruction, response_rows
from repro.data.tokenizers import byte_tokenizer
from repro.evaluation.responses import bits_per_byte, exact_match, target_bytes
from repro.runner.outcome import Context
from repro.training.finetune import finetune, linear_names, with_lora
from repro.training.loop import Optimisation
from repro.training.resume import CannotKeep, Checkpoints

VOCAB = 258


def made(kind="llama", seed=0):
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4}
    if kind == "gpt2":
        shape = {"n_embd": 16, "n_layer": 3, "n_head": 4}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=VOCAB, **shape)).eval()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    rows = [Instruction(f"say {'ab'[i % 2] * 3}: ", "ab"[i % 2] * 3, DETERMINED if i % 2 else OPEN) for i in range(24)]
    tokenizer = byte_tokenizer()

    def part(chosen, name):
        return response_rows(chosen, tokenizer, 24, name="test", identity=name)

    return LanguageData("test", part(rows, "a"), part(rows[:8], "b"), tokenizer, "generated", "")


def tuned(model, data, **options):
    optimisation = Optimisation(options.pop("lr", 1e-2), options.pop("steps", 12), 0.1, weight_decay=0.0)
    return finetune(
        model, data, optimisation, Context(0), batch=4, eval_batches=2, evaluations=1, **options
    )  # fmt: skip


def test_full_fine_tuning_learns_and_measures(data):
    model = made()
    steps = []
    found = tuned(model, data, steps=60, watch=steps.append, exact=0)
    metrics, profile = found.outcome.metrics, found.outcome.profile
    assert metrics["bits_gained"] == pytest.approx(metrics["bits_before"] - metrics["bits_per_byte"])
    assert metrics["bits_gained"] > 1
    assert 0 <= metrics["exact_match"] <= 1
    assert steps == [*range(60), 60]
    total = 4 * sum(p.numel() for p in model.parameters())
    assert found.memory.weights == found.memory.gradients == profile["gradient_bytes"] == total
    assert found.memory.moments == 2 * total
    assert found.memory.activations == profile["activation_bytes"] > 0
    assert profile["params_trainable"] == total / 4


def test_it_is_repeatable(data):
    one, two = (tuned(with_lora(made(), 2, seed=3), data).outcome.metrics for _ in range(2))
    assert one == two


def test_a_watch_of_which_nothing_is_said_cannot_be_kept(data, tmp_path):
    def kept(name, **options):
        keep = Checkpoints(tmp_path / name)
        return finetune(
            made(),
            data,
            Optimisation(1e-2, 2),
            Context(0, keep=keep),
            batch=4,
            eval_batches=2,
            evaluations=1,
            **options,
        )

    with pytest.raises(CannotKeep):
        kept("unsaid", watch=lambda step: None)
    assert kept("said", watch=lambda step: None, stateful={}).outcome.metrics == kept("none").outcome.metrics
    assert list((tmp_path / "said").glob("training-0/000000002"))


class Alternating:
    """Trains one layer at even steps and another at odd ones."""

    def __init__(self, model):
        self.layers = list(model.model.layers)
        self.calls = []
        self.optimizer = None

    def before_step(self, step):
        self.calls.append(step)
        for i, layer in enumerate(self.layers):
            layer.requires_grad_(i == step % 2)

    def attach(self, optimizer):
        assert self.optimizer is None
        self.optimizer = optimizer


def test_a_policy_decides_what_a_step_trains(data):
    model, plain = made(), made()
    policy = Alternating(model)
    found = tuned(model, data, steps=4, policy=policy)
    assert policy.calls == [0, 0, 1, 2, 3]
    assert policy.optimizer is not None
    moved = [
        any(not torch.equal(a, b) for a, b in zip(x.parameters(), y.parameters(), strict=True))
        for x, y in zip(model.model.layers, plain.model.layers, strict=True)
    ]
    assert moved == [True, True, False]
    # the profile is that of the first step: one layer of three
    trained = (
        sum(p.numel() for p in [*model.parameters()]) - 2 * sum(p.numel() for p in model.model.layers.parameters()) / 3
    )
    assert found.outcome.profile["params_trainable"] == trained


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_train_alone_and_the_base_stays(data, kind):
    base = made(kind)
    before = {name: p.clone() for name, p in base.named_parameters()}
    if kind == "gpt2":
        model = with_lora(base, 2, targets=["c_attn", "c_fc"])
    else:
        assert linear_names(base) == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
        model = with_lora(base, 2)
    assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    found = tuned(model, data)
    now = {name.replace("base_model.model.", "").replace(".base_layer", ""): p for name, p in model.named_parameters()}
    assert all(torch.equal(now[name], value) for name, value in before.items())
    assert found.memory.gradients == 4 * sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.outcome.metrics["bits_gained"] > 0


def test_adapters_start_at_nothing_and_repeat_with_the_seed():
    ids = torch.arange(10)[None]
    torch.manual_seed(0)
    model = with_lora(made(), 4, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, made()(input_ids=ids).logits)

    def first(seed):
        return next(p.clone() for name, p in with_lora(made(), 4, seed=seed).named_parameters() if "lora_A" in name)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    torch.manual_seed(5)
    expected = torch.rand(2)
    model = made()
    torch.manual_seed(5)
    with_lora(model, 2)
    assert torch.equal(torch.rand(2), expected)


def test_modules_can_be_trained_whole_beside_adapters():
    model = with_lora(made(), 2, whole=["embed_tokens", "lm_head"])
    whole = {name for name, p in model.named_parameters() if p.requires_grad and "lora" not in name}
    assert {name.rpartition(".weight")[0].rpartition(".")[2] for name in whole} == {"embed_tokens", "lm_head"}


# --- quality without a judge ----------------------------------------------------------------------------------


def rows_of(texts, mark=1):
    ids = [[b % 256 for b in text.encode()] for text in texts]
    width = max(map(len, ids))
    targets = torch.tensor([i + [-100] * (width - len(i)) for i in ids])
    return Batch(targets.clamp(min=0), targets, (targets >= 0).to(torch.uint8) * mark)


def test_bits_per_byte_is_over_bytes_and_not_tokens():
    tokenizer = byte_tokenizer()
    batch = rows_of(["abc", "né"])
    assert target_bytes([batch], tokenizer) == 6
    assert bits_per_byte(2.0, [batch], tokenizer) == pytest.approx(2.0 / 0.6931471805599453)
    end = Batch(*(torch.full((1, 1), value) for value in (257, 257, 0)))
    # an end-of-document token costs bits and stands for no byte
    assert bits_per_byte(1.0, [batch, end], tokenizer) == pytest.approx(7 / 6 / 0.6931471805599453)
    with pytest.raises(ValueError, match="no text"):
        bits_per_byte(1.0, [end], tokenizer)


def test_exact_match_needs_the_whole_response():
    one, two = rows_of(["abc", "ab"], 1), rows_of(["xyz"], 2)

    def model(inputs):
        logits = torch.nn.functional.one_hot(inputs, VOCAB).float()
        logits[:, 2] = 0.0  # the third token is never right
        return logits

    assert exact_match(model, [one]) == 0.5
    assert exact_match(model, [one, two]) == pytest.approx(1 / 3)
    assert exact_match(model, [one, two], mark=2) == 0
    with pytest.raises(ValueError, match="no row"):
        exact_match(model, [one], mark=3)


def test_exact_match_is_what_greedy_generation_gives(data):
    model = made()
    tuned(model, data, steps=80, lr=2e-2)
    batch = data.held_out_batches(1, 8)[0]
    right = 0
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        wanted = targets[targets != -100].tolist()
        start = int((targets != -100).nonzero()[0])
        out = model.generate(
            inputs[None, : start + 1], max_new_tokens=len(wanted), do_sample=False, eos_token_id=None, pad_token_id=256
        )
        right += out[0, start + 1 :].tolist() == wanted
    assert exact_match(model, [batch]) == right / 8
    assert right > 0


def test_packed_text_works_too(tmp_path):
    tokens = torch.arange(400) % 7 + 97
    text = LanguageData("t", TokenRows(tokens, 16), TokenRows(tokens[:100], 16), byte_tokenizer(), "generated", "")
    assert tuned(made(), text).outcome.metrics["bits_gained"] > 0
