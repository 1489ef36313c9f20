"""Telly-K on transformers' own encoders: what is frozen stays, what is not moves, and the backward pass stops there."""

from __future__ import annotations

import json
import random

import pytest
import torch
from transformers import AutoModel, GPT2Config, ModernBertConfig, RobertaConfig, RobertaModel

from papers.telly.experiment import library, order_of, run
from papers.telly.method import (
    GeometryChange,
    centroid,
    embeddings,
    freeze,
    geometry_change,
    layer_geometry,
    layers_to_freeze,
    peak,
    step_fraction,
    telly,
    trained_parameters,
)
from papers.telly.paper import MOST_COMMON, PAPER, Config, learning_rate
from papers.telly.published import GRAPHCODEBERT, TASKS, UNIXCODER, Published, Shape, accounting, on_meta, step_flops
from repro.claims import judge
from repro.data.stdlib_functions import stdlib_functions
from repro.profiling.counts import count_step
from repro.records import Record
from repro.runner import Context
from repro.training.code_encoder import hidden_states
from repro.training.code_tasks import Completion

DEPTH, VOCAB = 4, 50


def made(dropout: float = 0.0, seed: int = 0):
    torch.manual_seed(seed)
    config = RobertaConfig(
        vocab_size=VOCAB, hidden_size=16, num_hidden_layers=DEPTH, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, type_vocab_size=2, pad_token_id=0, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, initializer_range=0.2,
    )  # fmt: skip
    return RobertaModel(config).eval()


def batch(step: int = 0):
    return torch.randint(1, VOCAB, (6, 12), generator=torch.Generator().manual_seed(step))


def loss(model, step):
    return model(input_ids=batch(step)).last_hidden_state[..., 0].square().mean()


def trained(model, steps):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(steps):
        loss(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def layer_of(name: str):
    return int(name.split(".")[2]) if name.startswith("encoder.layer.") else None


# --- Telly-K --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", range(DEPTH))
def test_what_is_frozen_is_bit_identical_and_the_rest_moves(k):
    model = telly(made(dropout=0.1), k)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(model, 4)
    for name, parameter in model.named_parameters():
        layer = layer_of(name)
        frozen = name.startswith("embeddings.") or (layer is not None and layer < k)
        assert torch.equal(before[name], parameter) == (frozen or name.startswith("pooler.")), name
        assert parameter.requires_grad != frozen, name


@pytest.mark.parametrize("k", range(DEPTH))
def test_the_backward_pass_ends_at_layer_k(k):
    model = telly(made(dropout=0.1), k).train()
    states = model(input_ids=batch(), output_hidden_states=True).hidden_states
    assert [s.requires_grad for s in states] == [False] * (k + 1) + [True] * (DEPTH - k)
    states[-1].square().mean().backward()
    for name, parameter in model.named_parameters():
        layer = layer_of(name)
        if name.startswith("embeddings.") or (layer is not None and layer < k):
            assert parameter.grad is None, name
    assert model.encoder.layer[k].intermediate.dense.weight.grad.abs().max() > 0
    assert model.encoder.layer[k].training


def test_with_no_steps_it_is_the_base():
    model, base = telly(made(), 2), made()
    assert torch.equal(model(input_ids=batch()).last_hidden_state, base(input_ids=batch()).last_hidden_state)


def test_gradients_above_are_those_of_full_training():
    model, base = telly(made(), 2), made()
    for one in (model, base):
        loss(one, 0).backward()
    for (name, mine), theirs in zip(model.named_parameters(), base.parameters(), strict=True):
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


def test_all_tables_and_the_norm_of_the_embeddings_are_frozen():
    model = telly(made(), 0)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight", "embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias",
    }  # fmt: skip


def test_other_kinds_of_models():
    gpt = AutoModel.from_config(GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=20, n_positions=8))
    telly(gpt, 2)
    frozen = {name.rpartition(".")[0].split(".")[0] for name, p in gpt.named_parameters() if not p.requires_grad}
    assert frozen == {"wte", "wpe", "h"}
    assert all(p.requires_grad for p in gpt.h[2].parameters())
    modern = AutoModel.from_config(ModernBertConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=20, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    ))  # fmt: skip
    telly(modern, 1)
    assert embeddings(modern) == [modern.embeddings]
    assert [all(p.requires_grad for p in layer.parameters()) for layer in modern.layers] == [False, True]
    with pytest.raises(ValueError, match="no single list"):
        telly(torch.nn.Linear(2, 2), 0)


def test_which_layers():
    assert layers_to_freeze("bottom", 2, 6) == (0, 1)
    assert layers_to_freeze("top", 2, 6) == (4, 5)
    assert layers_to_freeze("none", 2, 6) == ()
    assert layers_to_freeze("all", 2, 6) == tuple(range(6))
    drawn = {layers_to_freeze("random", 3, 6, seed) for seed in range(20)}
    assert len(drawn) > 5
    assert all(len(set(d)) == 3 for d in drawn)
    assert layers_to_freeze("random", 3, 6, 4) == layers_to_freeze("random", 3, 6, 4)
    for way, k in (("bottom", 6), ("top", -1), ("middle", 1)):
        with pytest.raises(ValueError, match=r"K is in 0\.\.5|freeze none"):
            layers_to_freeze(way, k, 6)


def test_bottom_and_top_train_as_many_parameters():
    bottom, top = (freeze(made(), layers_to_freeze(way, 2, DEPTH)) for way in ("bottom", "top"))
    assert trained_parameters(bottom) == trained_parameters(top) < trained_parameters(telly(made(), 0))


def test_cost_of_a_step():
    """The card's figures."""
    assert step_fraction(12, 5) == pytest.approx(0.722, abs=5e-4)
    assert step_fraction(12, 11) == pytest.approx(0.389, abs=5e-4)
    assert step_fraction(6, 0) == 1


# --- geometry -------------------------------------------------------------------------------------------------


def geometry(model, pad=None):
    return layer_geometry(lambda ids: hidden_states(model, ids, 0), [batch(s) for s in range(3)], pad)


def test_hidden_states_are_those_of_transformers():
    model, ids = made(), batch()
    other = made(seed=1)
    other.load_state_dict(model.state_dict())
    theirs = other(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
    for mine, one in zip(hidden_states(model, ids, 0), theirs, strict=True):
        torch.testing.assert_close(mine, one)


def test_an_encoder_is_like_itself():
    change = geometry_change(geometry(made()), geometry(made()))
    assert change.pearson == pytest.approx([1.0] * (DEPTH + 1))
    assert change.spearman == pytest.approx([1.0] * (DEPTH + 1))
    assert change.drops() == pytest.approx((0, 0))


@pytest.mark.parametrize("k", range(DEPTH))
def test_geometry_is_kept_up_to_hidden_state_k(k):
    tuned = trained(telly(made(), k), 20)
    change = geometry_change(geometry(made()), geometry(tuned))
    assert change.pearson[: k + 1] == pytest.approx([1.0] * (k + 1), abs=1e-12)
    assert all(value < 1 - 1e-9 for value in change.pearson[k + 1 :])


def test_snippets_are_means_of_length_one():
    model, ids = made(), batch()
    ids[:, 8:] = 0
    states = hidden_states(model, ids, 0)
    padded, real = (layer_geometry(lambda x: hidden_states(model, x, 0), [ids], pad) for pad in (None, 0))
    assert padded.shape == (DEPTH + 1, 6, 16)
    for found, positions in ((padded, 12), (real, 8)):
        expected = torch.nn.functional.normalize(states[2][:, :positions].mean(1), dim=-1)
        torch.testing.assert_close(found[2], expected)


def test_drops_and_rises():
    change = GeometryChange([1.0, 0.99, 0.97, 0.98, 0.95, 0.7, 0.3], [1.0] * 7)
    assert change.drops() == pytest.approx((0.65, 0.05))
    assert change.largest_rise() == pytest.approx(0.01)
    assert GeometryChange([1.0, 0.5], [1.0, 0.5]).largest_rise() == 0


def test_centroid_and_peak():
    assert centroid([0.25, 0.5, 0.25]) == 1
    assert centroid([0, 0, 1]) == 2
    assert peak([0.25] * 4) == 1
    assert peak([1.0, 0, 0, 0]) == 4


# --- published size -------------------------------------------------------------------------------------------


def test_the_card_s_counts():
    found = accounting()
    for name, count in {
        "params_base": 125_929_728, "params_embeddings": 40_284_672, "params_layer": 7_087_872,
        "params_pooler": 590_592, "params_m_telly_0": 85.054464, "params_m_telly_1": 77.966592,
        "params_m_telly_5": 49.615104, "params_m_telly_9": 21.263616, "params_m_telly_11": 7.087872,
        "clone_params_m_base": 127.111682, "clone_params_m_telly_11": 8.269826,
    }.items():  # fmt: skip
        assert found[name] == count, name
    assert found["moments_gb_base"] == pytest.approx(1.01, abs=0.005)
    assert found["moments_gb_telly_11"] == pytest.approx(0.057, abs=0.0005)
    assert found["flops_saved_clone_5"] == pytest.approx(27.8, abs=1)
    assert found["flops_saved_clone_11"] == pytest.approx(61.1, abs=1)
    assert found["params_m_graphcodebert"] == pytest.approx(124.6, abs=0.05)
    assert on_meta(GRAPHCODEBERT).config.num_hidden_layers == 12
    assert set(TASKS) == {"clone", "search", "completion"}


@pytest.mark.parametrize("k", [None, *range(DEPTH)])
def test_flops_are_those_of_the_counter(k):
    model = made()
    model.pooler = None
    if k is not None:
        telly(model, k)
    _, step = count_step(model, lambda: loss(model, 0))
    shape = Shape(VOCAB, 40, 2, 16, DEPTH, 2, 32)
    assert step_flops(shape, Published(6, (12,)), k) == pytest.approx(step, rel=0.02)
    assert step_flops(UNIXCODER, TASKS["search"], 0) < step_flops(UNIXCODER, TASKS["search"], None)


# --- experiment -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def smoked(setting, arm, seed=1000, **options):
    return run(Config(**PAPER.resolve(setting, arm, "smoke", options)), Context(seed=seed))


def test_a_run_repeats_and_arms_differ(cache):
    first, again, other = (smoked("search", arm) for arm in ("telly-3", "telly-3", "telly-5"))
    clocked = {"step_time_saved", "step_time_gap"}
    assert {k: v for k, v in first.metrics.items() if k not in clocked} == {
        k: v for k, v in again.metrics.items() if k not in clocked
    }
    assert first.curves == again.curves
    assert first.profile["params_trainable"] > other.profile["params_trainable"]
    assert first.metrics["step_mflops"] > other.metrics["step_mflops"]
    assert first.profile["train_samples"] == other.profile["train_samples"] == 48
    assert other.metrics["step_saved_expected"] == pytest.approx(100 * 10 / 18)


def test_few_rows_are_drawn_under_the_seed(cache):
    config = Config(**PAPER.resolve("search", "base", "smoke", {"rows": 12, "steps": 9}))
    data = library(config.data, config.files)
    one, again, other = (order_of(config, data, "documented", seed) for seed in (1000, 1000, 1001))
    assert torch.equal(one, again)
    assert one.shape == (9, 8)
    assert len(one.unique()) == 12
    assert set(one.flatten().tolist()) != set(other.flatten().tolist())
    assert one.flatten().bincount().max() == 6


def test_the_analysed_arms(cache):
    base, frozen, chance = (smoked("search", arm) for arm in ("base", "frozen", "random"))
    assert len(base.tables["rsa"]) == len(base.tables["layer_weights_lexical"]) == 7
    assert sum(base.tables["layer_weights_structural"]) == pytest.approx(1)
    assert frozen.metrics["quality"] != chance.metrics["quality"]
    assert frozen.profile["train_samples"] == 0
    for outcome in (base, frozen, chance):
        assert set(outcome.metrics) <= set(PAPER.metrics)
        assert 0 <= outcome.metrics["probe_semantic"] <= 100


def test_a_frozen_encoder_still_trains_a_head(cache):
    frozen = smoked("clones", "frozen")
    assert frozen.profile["train_samples"] == 48
    assert frozen.metrics["trained_percent"] == 0
    assert "probe_lexical" not in frozen.metrics


def test_rates_are_per_task_unless_set():
    config = Config(task="completion", rates="search=1e-3 completion=4e-3")
    assert learning_rate(config) == 4e-3
    assert learning_rate(Config(task="completion", lr=1e-2)) == 1e-2


def test_names_are_completed(cache):
    base, telly, frozen = (smoked("completion", arm) for arm in ("base", "telly-3", "frozen"))
    assert len(base.tables["rsa"]) == 7
    assert set(base.metrics) <= set(PAPER.metrics)
    assert base.profile["train_samples"] == telly.profile["train_samples"] == frozen.profile["train_samples"] == 48
    assert frozen.metrics["trained_percent"] == 0 < telly.metrics["trained_percent"] < 100


def test_what_cannot_be(cache):
    with pytest.raises(ValueError, match="task is search, clones or completion"):
        smoked("search", "base", task="generation", lr=1e-3)
    with pytest.raises(ValueError, match="no learning rate for generation"):
        learning_rate(Config(task="generation"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An encoder, CodeSearchNet and BigCloneBench in the hub's layout, small."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    words = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", "<encoder-only>", *(f"w{i}" for i in range(VOCAB - 6))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = tmp_path / "model"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", cls_token="<s>", sep_token="</s>", unk_token="<unk>",
        mask_token="<mask>",
    ).save_pretrained(model)  # fmt: skip
    made().save_pretrained(model)
    draw = random.Random(0)
    text = lambda n: draw.choices(words[6:], k=n)  # noqa: E731
    (tmp_path / "code-search-net" / "python").mkdir(parents=True)
    (tmp_path / "big-clone-bench").mkdir()
    for split, rows in (("train", 24), ("validation", 8), ("test", 10)):
        search = [{"func_code_tokens": text(9), "func_documentation_tokens": text(4)} for _ in range(rows)]
        clones = [
            {
                "id": i,
                "id1": i,
                "id2": i + 1,
                "func1": " ".join(text(8)),
                "func2": " ".join(text(8)),
                "label": i % 2 == 0,
            }
            for i in range(rows)
        ]
        for place, found in (("code-search-net/python", search), ("big-clone-bench", clones)):
            (tmp_path / place / f"{split}.jsonl").write_text("\n".join(map(json.dumps, found)))
    return {"model": str(model), "steps": 3, "batch": 4, "evaluations": 1, "rsa": 8, "code_length": 16,
            "query_length": 12}  # fmt: skip


@pytest.mark.parametrize("setting", ["codesearchnet", "bigclonebench"])
@pytest.mark.parametrize("arm", ["base", "telly-0"])
def test_a_model_and_data_of_the_hub_s_layout(hub, setting, arm):
    """The configuration of the published scale on small local files."""
    outcome = run(Config(**PAPER.resolve(setting, arm, "published", hub)), Context(seed=0))
    assert outcome.data["model"] == hub["model"]
    assert outcome.data["train_functions"] >= 24
    assert ("rsa_excess" in outcome.metrics) == (arm == "base")
    assert set(outcome.metrics) <= set(PAPER.metrics)
    assert (outcome.metrics["trained_percent"] > 95) == (arm == "base")  # the unused pooler is no part of it


def test_a_prefix_that_is_no_token_is_an_error(hub):
    with pytest.raises(ValueError, match="has no token"):
        run(Config(**PAPER.resolve("codesearchnet", "base", "published", hub | {"prefix": "<none>"})), Context(seed=0))


# --- rules ----------------------------------------------------------------------------------------------------


def test_how_often_the_most_common_name_is_right():
    data = stdlib_functions()
    task = Completion(data, Config().code_length)
    train, test = (task.batch(torch.arange(len(data.names[s].rows)), s)[2] for s in ("train", "test"))
    # another release of Python has other functions
    assert 100 * float((test == train.mode().values).double().mean()) == pytest.approx(MOST_COMMON, abs=0.5)


@pytest.mark.parametrize(("quality", "verdict"), [(4.0, "inconclusive"), (8.0, "reproduced")])
def test_the_control_from_random_weights_needs_more_than_the_most_common_name(quality, verdict):
    records = [
        Record(f"{arm}-{seed}", PAPER.slug, "completion", arm, "laptop", seed, "ok", {}, "",
               metrics={"quality": value + 0.001 * seed}, profile={"train_samples": 1.0})
        for arm, value in (("scratch", quality), ("scratch-3", quality + 1))
        for seed in range(4)
    ]  # fmt: skip
    found = {(f.claim, f.comparison): f.verdict for j in judge(PAPER, records, "laptop") for f in j.findings}
    assert found["C1", "scratch"] == verdict
