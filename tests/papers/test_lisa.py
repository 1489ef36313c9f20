"""LISA: against plain AdamW, against its own definition, and on transformers' own models and trainer."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainingArguments

from papers.lisa.experiment import Norms, run
from papers.lisa.method import LISA, STATES, LISACallback, decoder_layers, importance, layer_norms, never_trained
from papers.lisa.paper import EQUAL, PAPER, RATIO, Config, learning_rate
from papers.lisa.published import TOKENS, deepened, held, step_flops, trainable
from repro.profiling.architectures import ARCHITECTURES
from repro.runner import Context
from repro.training.finetune import with_lora
from repro.zoo import stdlib_llama

VOCAB, DEPTH = 40, 6
SHAPES = {
    "llama": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": DEPTH, "num_attention_heads": 4,
              "num_key_value_heads": 2},
    "gpt2": {"n_embd": 16, "n_layer": DEPTH, "n_head": 4, "n_positions": 64},
    "qwen2": {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": DEPTH, "num_attention_heads": 4,
              "num_key_value_heads": 2, "tie_word_embeddings": True},
}  # fmt: skip


def made(kind: str = "llama", seed: int = 0):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        kind, vocab_size=VOCAB, pad_token_id=0, bos_token_id=1, eos_token_id=2, **SHAPES[kind]
    )
    config._attn_implementation = "eager"
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return AutoModelForCausalLM.from_config(config).eval()


def batch(step: int):
    return torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(step))


def loss(model, step):
    ids = batch(step)
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def adamw(model, lr=1e-2, **options):
    return torch.optim.AdamW(model.parameters(), lr=lr, **options)


def trained(model, steps, lisa=None, optimizer=None, each=lambda step: None):
    optimizer = optimizer or adamw(model)
    if lisa is not None and lisa.optimizer is None:
        lisa.attach(optimizer)
    for step in range(steps):
        if lisa is not None:
            lisa.before_step(step)
        loss(model, step).backward()
        each(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def layer_of(name):
    parts = name.split(".")
    return int(parts[2]) if parts[1] in ("layers", "h") else None


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


# --- parity ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("state", ["keep", "drop"])
def test_all_layers_are_full_adamw_step_by_step(kind, state):
    """With gamma = N_L nothing is ever frozen, so nothing is ever dropped either."""
    model, plain = made(kind), made(kind)
    optimizer, other = adamw(model), adamw(plain)
    lisa = LISA(model, DEPTH, 2, optimizer=optimizer, state=state)
    for step in range(5):
        lisa.before_step(step)
        for one, by in ((model, optimizer), (plain, other)):
            loss(one, step).backward()
            by.step()
            by.zero_grad(set_to_none=True)
        assert not changed(weights(model), weights(plain))
    assert changed(weights(made(kind)), weights(model))


@pytest.mark.parametrize("kind", SHAPES)
def test_no_layers_leaves_the_decoder_bit_identical(kind):
    model = made(kind)
    before = weights(model)
    trained(model, 4, LISA(model, 0, 2))
    moved = changed(before, weights(model))
    assert all(layer_of(name) is None for name in moved)
    assert moved == {name for name in before if layer_of(name) is None}  # embedding, head and norm, all of them


def test_what_is_outside_can_be_frozen_too():
    model = made()
    before = weights(model)
    lisa = LISA(model, 2, 10, always=False)
    trained(model, 3, lisa)
    assert {layer_of(name) for name in changed(before, weights(model))} == set(lisa.active)


@pytest.mark.parametrize("state", ["drop", "keep", "restart"])
def test_between_draws_exactly_gamma_layers_change(state):
    model = made()
    optimizer = adamw(model, weight_decay=0.1)
    lisa = LISA(model, 2, 3, optimizer=optimizer, state=state, seed=3)
    seen = set()
    for start in (0, 3, 6, 9):
        before = weights(model)
        for step in range(start, start + 3):
            lisa.before_step(step)
            loss(model, step).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)  # zeros in the place of gradients must not move frozen layers
        moved = {layer_of(name) for name in changed(before, weights(model))}
        assert moved == {None, *lisa.active}
        assert len(lisa.active) == 2
        seen |= set(lisa.active)
    assert len(seen) > 2
    assert int(lisa.visits.sum()) == 8


def test_the_embedding_s_gradient_is_that_of_full_training():
    model, plain = made(), made()
    LISA(model, 1).before_step(0)
    for one in (model, plain):
        loss(one, 0).backward()
    pairs = zip(model.named_parameters(), plain.parameters(), strict=True)
    for (name, mine), theirs in pairs:
        if mine.requires_grad:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-7, rtol=1e-5, msg=name)
        else:
            assert mine.grad is None
    assert model.model.embed_tokens.weight.grad.abs().max() > 0


# --- the optimiser's state ------------------------------------------------------------------------------------


def with_state(optimizer, parameters):
    return [p for p in parameters if p in optimizer.state]


def test_drop_keeps_the_state_of_what_is_trained_and_no_other():
    model = made()
    optimizer = adamw(model)
    lisa = LISA(model, 2, 2, optimizer=optimizer)
    steps = []
    trained(model, 7, lisa, optimizer, lambda _: steps.append(lisa.active))
    for index, own in enumerate(lisa.parameters):
        assert len(with_state(optimizer, own)) == (len(own) if index in lisa.active else 0)
    assert len(with_state(optimizer, lisa.outside)) == len(lisa.outside)
    assert {float(optimizer.state[p]["step"]) for p in lisa.outside} == {7}
    assert len(set(steps)) > 1


def test_keep_never_forgets():
    model = made()
    optimizer = adamw(model)
    lisa = LISA(model, 3, 1, optimizer=optimizer, state="keep", seed=1)
    trained(model, 12, lisa, optimizer)
    assert (lisa.visits > 0).all()
    for index, own in enumerate(lisa.parameters):
        assert {float(optimizer.state[p]["step"]) for p in own} == {int(lisa.visits[index])}


def test_restart_forgets_everything():
    model = made()
    optimizer = adamw(model)
    trained(model, 8, LISA(model, 2, 3, optimizer=optimizer, state="restart"), optimizer)
    assert {float(state["step"]) for state in optimizer.state.values()} == {2}


@pytest.mark.parametrize("state", ["drop", "keep"])
def test_after_a_drop_the_first_update_is_the_learning_rate(state):
    """Adam's first step is lr * sign(gradient), eps aside; with moments kept it is not."""
    model = made()
    lr = 1e-3
    optimizer = adamw(model, lr, weight_decay=0.0, eps=1e-12)
    lisa = LISA(model, 1, 1, optimizer=optimizer, state=state)
    turns = iter([(2,), (4,), (2,)])
    lisa.draw = lambda: next(turns)
    before = {}
    trained(model, 3, lisa, optimizer, lambda step: before.update(weights(model)) if step == 2 else None)
    name = "model.layers.2.mlp.up_proj.weight"
    step = (dict(model.named_parameters())[name].detach() - before[name]).abs()
    first = torch.allclose(step, torch.full_like(step, lr), rtol=1e-2)
    assert first == (state == "drop")


def test_an_optimiser_built_after_freezing_is_refused():
    """The trap: it would never update the layers that are drawn later."""
    model = made()
    for layer in model.model.layers[1:]:
        layer.requires_grad_(False)
    late = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="frozen already"):
        LISA(model, 1, optimizer=late)
    model.requires_grad_(True)
    with pytest.raises(ValueError, match="build it before LISA"):
        LISA(model, 1, optimizer=late)
    lisa = LISA(model, 1)
    with pytest.raises(ValueError, match="build it before LISA"):
        lisa.attach(late)
    lisa.before_step(0)
    late = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match="build it before LISA"):
        lisa.attach(late)


def test_a_state_that_cannot_be_dropped_is_an_error():
    lisa = LISA(made(), 1, 2)
    lisa.before_step(0)
    lisa.before_step(1)
    with pytest.raises(ValueError, match="no optimiser is attached"):
        lisa.before_step(2)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("middle", [3, 4])  # within a period, and where layers are drawn anew
def test_a_training_that_is_taken_up_goes_on_as_it_would_have(state, middle):
    """By another object, which hears of its optimiser when that makes its first step."""

    def go_on(model, optimizer, lisa, steps):
        for step in steps:
            lisa.before_step(step)
            loss(model, step).backward()
            if lisa.optimizer is None:
                lisa.attach(optimizer)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    model = made()
    lisa, optimizer = LISA(model, 2, 2, state=state, seed=1), adamw(model)
    go_on(model, optimizer, lisa, range(middle))
    other = made(seed=7)
    again, fresh = LISA(other, 2, 2, state=state, seed=5), adamw(other)
    again.before_step(0)  # as the frame does before it profiles
    own = dict(model.named_parameters())
    for name, parameter in other.named_parameters():
        parameter.data.copy_(own[name].data)
        parameter.requires_grad_(own[name].requires_grad)
        if own[name] in optimizer.state:
            fresh.state[parameter] = {key: value.clone() for key, value in optimizer.state[own[name]].items()}
    again.load_state_dict(copy.deepcopy(lisa.state_dict()))
    assert again.active == lisa.active
    go_on(model, optimizer, lisa, range(middle, 9))
    go_on(other, fresh, again, range(middle, 9))
    assert not changed(weights(model), weights(other))
    assert again.active == lisa.active
    assert again.visits.tolist() == lisa.visits.tolist()
    assert [name for name, p in model.named_parameters() if p in optimizer.state] == [
        name for name, p in other.named_parameters() if p in fresh.state
    ]


# --- draws ----------------------------------------------------------------------------------------------------


def test_layers_are_drawn_uniformly_without_replacement():
    lisa = LISA(made(), 2, 1, state="keep", seed=5)
    for step in range(1000):
        lisa.before_step(step)
        assert len(set(lisa.active)) == 2
    assert lisa.visits.sum() == 2000
    # draws without replacement spread less than the test assumes, so it errs on the safe side
    assert chisquare(lisa.visits.numpy()).pvalue > 0.01


def test_draws_repeat_with_the_seed_and_leave_the_global_generator_alone():
    def drawn(seed):
        lisa = LISA(made(), 2, 1, state="keep", seed=seed)
        return [lisa.before_step(step) or lisa.active for step in range(20)]

    first = drawn(0)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    lisa = LISA(made(), 2, 1, state="keep")
    torch.manual_seed(0)
    lisa.before_step(0)
    assert torch.equal(torch.rand(3), expected)
    assert drawn(0) == first != drawn(1)


def test_a_second_call_for_a_step_draws_nothing_new():
    lisa = LISA(made(), 2, 4, state="keep")
    lisa.before_step(0)
    first = lisa.active
    lisa.before_step(0)
    assert lisa.active == first
    assert lisa.visits.sum() == 2


def test_sampling_by_importance():
    ratios = importance([1.0, 4.0, 1.0], [1.0, 1.0, 2.0], 2)
    assert sum(ratios) == pytest.approx(2)
    assert ratios[1] == pytest.approx(8 * ratios[2])
    lisa = LISA(made(), 1, 1, state="keep", weights=[0.0, 0.0, 3.0, 1.0, 0.0, 0.0])
    for step in range(400):
        lisa.before_step(step)
    assert lisa.visits[[0, 1, 4, 5]].sum() == 0
    assert 250 < lisa.visits[2] < 350
    with pytest.raises(ValueError, match="positive norm"):
        importance([1.0], [0.0], 1)


def test_share_of_layers_that_are_never_trained():
    """The card's figure for the paper's ablation runs: 122 steps, K = 20, 32 layers."""
    assert never_trained(32, 2, 6) == pytest.approx(0.68, abs=0.005)
    missed, model = [], made()
    for seed in range(200):
        lisa = LISA(model, 2, 1, state="keep", seed=seed)
        for step in range(3):
            lisa.before_step(step)
        missed.append(float((lisa.visits == 0).float().mean()))
        lisa.release()
    assert sum(missed) / 200 == pytest.approx(never_trained(DEPTH, 2, 3), abs=0.03)


def test_what_cannot_be():
    model = made()
    for options, message in (
        ({"gamma": 7}, "cannot draw 7 of 6"), ({"period": 0}, "at least one step"), ({"state": "lose"}, "state is one"),
        ({"weights": [1.0]}, "as many weights"), ({"gamma": 2, "weights": [1.0, 0, 0, 0, 0, 0]}, "of them positive"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            LISA(model, **options)
    with pytest.raises(ValueError, match="name its layers"):
        decoder_layers(torch.nn.Linear(2, 2))
    assert len(LISA(torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(3))), 1, layers=[torch.nn.Linear(2, 2)]
                    ).layers) == 1  # fmt: skip


def test_release_thaws_everything():
    model = made()
    lisa = LISA(model, 1, 1, always=False)
    lisa.before_step(0)
    assert sum(p.requires_grad for p in model.parameters()) < 10
    lisa.release()
    assert all(p.requires_grad for p in model.parameters())


def test_what_was_frozen_for_good_stays_frozen():
    model = made()
    model.model.embed_tokens.requires_grad_(False)
    lisa = LISA(model, 1, 1)
    lisa.before_step(0)
    lisa.release()
    assert not model.model.embed_tokens.weight.requires_grad


def test_layer_norms_are_the_norms_of_all_weights_of_a_layer():
    model = made()
    found = layer_norms(model)
    flat = torch.cat([p.flatten() for p in model.model.layers[3].parameters()])
    torch.testing.assert_close(found["layers"][3], flat.norm())
    torch.testing.assert_close(found["head"], model.lm_head.weight.norm())
    assert found["layers"].shape == (DEPTH,)


# --- transformers' trainer ------------------------------------------------------------------------------------


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 32

    def __getitem__(self, index):
        ids = batch(index)[0]
        return {"input_ids": ids, "labels": ids}


def test_the_trainer_s_callback(tmp_path):
    model = made()
    before = weights(model)
    callback = LISACallback(gamma=1, period=2, seed=4)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=6, per_device_train_batch_size=2, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, learning_rate=1e-2, gradient_accumulation_steps=2, logging_strategy="no",
    )  # fmt: skip
    Trainer(model=model, args=arguments, train_dataset=Rows(), callbacks=[callback]).train()
    visited = {i for i, n in enumerate(callback.lisa.visits.tolist()) if n}
    assert callback.lisa.visits.sum() == 3
    assert {layer_of(name) for name in changed(before, weights(model))} == {None, *visited}
    assert len(visited) < DEPTH
    assert all(p.requires_grad for p in model.parameters())


# --- experiment -----------------------------------------------------------------------------------------------


@pytest.fixture
def alpaca(tmp_path, monkeypatch):
    """A model and Alpaca-GPT4 in the hub's layout, small."""
    from repro.data import word_tokenizer

    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    words = [f"w{i}" for i in range(VOCAB - 3)]
    draw = random.Random(0)
    rows = [
        {
            "instruction": " ".join(draw.choices(words, k=4)),
            "input": "",
            "output": " ".join(draw.choices(words[:5], k=6)),
        }
        for _ in range(1030)
    ]
    (tmp_path / "alpaca-gpt4").mkdir()
    (tmp_path / "alpaca-gpt4" / "alpaca_gpt4_data.json").write_text(json.dumps(rows))
    folder = tmp_path / "model"
    made().save_pretrained(folder)
    word_tokenizer(words).save_pretrained(folder)
    return {"model": str(folder), "dtype": "float32", "sequence": 48, "steps": 6, "period": 2, "eval_batches": 4,
            "batch": 2, "norms": True, "norm_every": 2}  # fmt: skip


@pytest.mark.parametrize("arm", ["lisa", "full", "lora-all", "ends"])
def test_a_model_and_instructions_of_the_hub_s_layout(alpaca, arm):
    """The configuration of the published scale on small local files."""
    config = PAPER.resolve("alpaca-llama-2-7b", arm, "published", {**alpaca, "rank": 2} if "lora" in arm else alpaca)
    outcome = run(Config(**config), Context(seed=0))
    assert set(outcome.metrics) <= set(PAPER.metrics)
    assert outcome.data["model"] == alpaca["model"]
    assert outcome.metrics["bits_before"] > 0
    share = outcome.metrics["states_percent"]
    assert share == pytest.approx(100) if arm == "full" else share < 100
    assert ("update_skew" in outcome.metrics) == (arm != "ends")
    assert sum(outcome.tables.get("visits", [])) == (6 if arm == "lisa" else 0)
    assert ("visits" in outcome.tables) == (arm in ("lisa", "ends"))


def test_an_adapter_s_norm_is_that_of_what_it_adds():
    model, plain = with_lora(made(), 2, targets=["q_proj", "embed_tokens", "lm_head"]), made()
    norms = Norms(model, 1)
    optimizer = adamw(model, 0.1)
    for step in range(2):
        norms(step)
        loss(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    norms(2)
    merged = model.merge_and_unload()
    for part, twin, index in (
        (merged.lm_head, plain.lm_head, -1), (merged.model.embed_tokens, plain.model.embed_tokens, 0),
        (merged.model.layers[2], plain.model.layers[2], 3),
    ):  # fmt: skip
        pairs = list(zip(part.parameters(), twin.parameters(), strict=True))
        wanted = torch.cat([(a - b).flatten() for a, b in pairs]).norm()
        torch.testing.assert_close(norms.updates[-1][index], wanted, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(norms.weights[-1][index], torch.cat([a.flatten() for a, _ in pairs]).norm())
    assert norms.updates[-1][0] > 0
    assert len(norms.updates) == 2  # nothing has moved before the first step


def test_equal_parameters_are_equal():
    """LoRA of rank 19 trains as many parameters as a step of LISA in the zoo's model, rank 9 in the published ratio."""
    config = AutoConfig.for_model("llama", **stdlib_llama(0).config(1024))

    def blank():
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)

    drawn = blank()
    LISA(drawn, 2).before_step(0)
    assert trainable(with_lora(blank(), EQUAL)) == pytest.approx(trainable(drawn), rel=0.02)
    ratio = trainable(drawn) / trainable(with_lora(blank(), RATIO))
    assert ratio == pytest.approx(666_914_816 / 319_815_680, rel=0.02)


# --- published figures ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted():
    from papers.lisa.published import accounting

    return accounting()


@pytest.mark.parametrize(
    ("name", "layer", "always", "lisa", "share", "moments", "full"),
    [
        ("llama-2-7b", 202_383_360, 262_148_096, 666_914_816, 9.9, 5.3, 53.9),
        ("mistral-7b", 218_112_000, 262_148_096, 698_372_096, 9.6, 5.6, 57.9),
        ("llama-3.1-8b", 218_112_000, 1_050_677_248, 1_486_901_248, 18.5, 11.9, 64.2),
        ("tinyllama", 44_044_288, 131_074_048, 219_162_624, 19.9, 1.8, 8.8),
        ("llama-2-70b", 855_654_400, 524_296_192, 3_946_913_792, 5.7, 31.6, 551.8),
    ],
)
def test_published_sizes(counted, name, layer, always, lisa, share, moments, full):
    assert counted[f"layer_{name}"] == layer
    assert counted[f"always_{name}"] == always
    assert counted[f"lisa_{name}"] == lisa
    assert counted[f"lisa_share_{name}"] == pytest.approx(share, abs=0.05)
    assert counted[f"moments_lisa_gb_{name}"] == pytest.approx(moments, abs=0.05)
    assert counted[f"moments_full_gb_{name}"] == pytest.approx(full, abs=0.05)


def test_lora_of_the_published_rank(counted):
    assert counted["lora128_llama-2-7b"] == 319_815_680
    assert counted["moments_lora128_gb_llama-2-7b"] == pytest.approx(2.6, abs=0.05)
    assert counted["always_share_llama-3.1-8b"] == pytest.approx(70.7, abs=0.05)
    assert counted["never_trained_percent"] == pytest.approx(68, abs=0.5)


SMALL = ARCHITECTURES["tinyllama"]._replace(layers=5, hidden=64, heads=4, kv_heads=2, width=96, vocab=100)


@pytest.mark.parametrize("fused", [False, True])
def test_a_few_layers_tell_the_memory_of_all(fused):
    assert deepened(SMALL, fused) == held(SMALL, fused)


def test_fused_attention_keeps_no_scores():
    plain, fused = held(SMALL, False)["full"], held(SMALL, True)["full"]
    # per layer and head: the softmax in float32, and in 16 bits for the product with the values
    scores = SMALL.heads * TOKENS * TOKENS * (4 + 2)
    assert plain.activations - fused.activations > 0.95 * SMALL.layers * scores
    assert plain.states == fused.states


@pytest.mark.parametrize("treat", ["full", "lisa", "lora", "lora-ends"])
def test_flops_of_the_accounting_are_what_torch_counts(treat):
    from repro.profiling.counts import count_flops

    model = made()
    if treat == "lisa":
        LISA(model, 2).before_step(0)
    elif "lora" in treat:
        model = with_lora(model, 3, whole=["embed_tokens", "lm_head"] if treat == "lora-ends" else [])
    ids = batch(0)
    found = count_flops(lambda: model(input_ids=ids, labels=ids, use_cache=False).loss.backward())
    assert len(ids) * step_flops(model, ids.shape[1]) == pytest.approx(found, rel=1e-3)


def test_learning_rates_are_per_arm_and_data_unless_one_is_given():
    for setting in ("cipher", "prose", "instructions"):
        for arm in PAPER.arms:
            assert 0 < learning_rate(Config(**PAPER.resolve(setting, arm.name, "laptop"))) < 0.1
    assert learning_rate(Config(lr=0.5)) == 0.5
    with pytest.raises(ValueError, match="no learning rate for stdlib"):
        learning_rate(Config(data="stdlib"))


@pytest.mark.parametrize(("setting", "scale"), [("alpaca-tinyllama", "gpu"), ("alpaca-llama-2-7b", "published")])
def test_on_published_models_lora_has_a_rate_of_its_own_and_quality_decides_nothing(setting, scale):
    """The setting's rate is LISA's; nothing is tuned there."""
    rates = {arm.name: learning_rate(Config(**PAPER.resolve(setting, arm.name, scale))) for arm in PAPER.arms}
    lora = {arm.name for arm in PAPER.arms if arm.options.get("way") == "lora"}
    assert len(lora) == 4
    for name, rate in rates.items():
        assert rate == pytest.approx(4 * rates["lisa"] if name in lora else rates["lisa"]), name
    assert not [
        c.name for claim in PAPER.claims if claim.kind == "quality" for c in claim.comparisons
        if c.role == "primary" and setting in c.settings
    ]  # fmt: skip


def test_robustness_to_the_draw_and_memory_can_fail():
    """By draws that differ much, but evenly to both sides, and a method that saves too little."""
    from repro.claims import Contrast

    parts = {c.name: c for claim in PAPER.claims for c in claim.comparisons if isinstance(c, Contrast)}
    here = parts["here"]
    assert here.offset + sum(k * 36.5 for k in here.terms.values()) < 0 < here.offset + here.terms["lisa"] * 20.0
    primary = [c for c in PAPER.claim("C5").comparisons if c.role == "primary" and "lisa-redrawn" in c.arms]
    assert primary
    # two draws at 3.3 and 4.1 in turns, LoRA at 3.6: their mean difference is 0, and there is no lead
    turns = [{"lora": 3.6, "lisa": a, "lisa-redrawn": b} for a, b in ((3.3, 4.1), (4.1, 3.3))]
    for part in primary:
        means = [sum(k * bits[arm] for arm, k in part.terms.items()) for bits in turns]
        assert sum(means) / 2 < -0.05, part.name
