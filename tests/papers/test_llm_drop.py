"""LLM-Drop: scores, selection and the dropped model against transformers' own models, and the paper's figures."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM

from papers.llm_drop.method import (
    Dropped,
    NoSublayer,
    Similarity,
    blocks,
    choose,
    choose_random,
    degradation_ratio,
    drop,
    dropped_of,
    iterative,
    kv_cache,
    load_dropped,
    similarities,
    without,
)
from papers.llm_drop.paper import PAPER, Config, dropped_counts

VOCAB = 50
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
KINDS = ("llama", "mistral", "qwen2", "qwen3")


def made(kind: str = "llama", seed: int = 0, **changes):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**SHAPE, **changes})
    if kind == "qwen3":
        config.head_dim = 4
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
            elif parameter.dim() == 1 and parameter.std() == 0:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


IDS = torch.randint(3, VOCAB, (3, 11), generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


# --- the dropped model ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_dropped_is_the_model_itself(kind):
    model = made(kind)
    before = logits(model)
    assert torch.equal(logits(drop(model, Dropped())), before)


@pytest.mark.parametrize("kind", KINDS)
def test_dropping_equals_zeroing_the_output_projection(kind):
    model, twin = made(kind), made(kind)
    gone = Dropped(attention=(1, 4), mlp=(0, 4))
    for layer in (twin.model.layers[i].self_attn.o_proj for i in gone.attention):
        for parameter in layer.parameters():
            parameter.data.zero_()
    for layer in (twin.model.layers[i].mlp.down_proj for i in gone.mlp):
        for parameter in layer.parameters():
            parameter.data.zero_()
    before = logits(model)
    torch.testing.assert_close(logits(drop(model, gone)), logits(twin), atol=1e-5, rtol=1e-5)
    assert (logits(model) - before).abs().max() > 1e-3


def test_dropping_a_block_is_dropping_both_of_its_sublayers():
    model, twin = made(), made()
    drop(model, choose(Similarity(torch.zeros(6), torch.zeros(6), torch.arange(6.0)), 2, "block"))
    del twin.model.layers[4:]  # blocks 4 and 5 taken out whole
    twin.config.num_hidden_layers = 4
    torch.testing.assert_close(logits(model), logits(twin), atol=1e-6, rtol=0)


def test_dropped_sublayers_hold_no_parameters_and_no_norm():
    model = made()
    whole = sum(p.numel() for p in model.parameters())
    layer = model.model.layers[2]
    wanted = whole - sum(
        p.numel() for part in (layer.self_attn, layer.input_layernorm, layer.mlp, layer.post_attention_layernorm)
        for p in part.parameters()
    )  # fmt: skip
    drop(model, Dropped((2,), (2,)))
    assert sum(p.numel() for p in model.parameters()) == wanted
    assert not any(name.startswith("model.layers.2.") for name in model.state_dict())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attention", [(0, 3), (4, 5), (0, 1, 2, 3, 4, 5)])
def test_generating_with_a_cache_gives_what_the_full_forward_gives(kind, attention):
    model = drop(made(kind), Dropped(attention=attention, mlp=(1,)))
    model.generation_config.eos_token_id = None
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    out = model.generate(IDS, **options)
    ids = IDS
    with torch.no_grad():
        for _ in range(8):
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, ids)
    assert torch.equal(model.generate(IDS, past_key_values=kv_cache(model), **options), ids)


def test_the_cache_has_as_many_slots_as_attentions():
    model = drop(made(), Dropped(attention=(0, 2, 5)))
    cache = kv_cache(model)
    assert len(cache.layers) == 3
    kept = [layer.self_attn for layer in blocks(model) if not isinstance(layer.self_attn, NoSublayer)]
    assert [attention.layer_idx for attention in kept] == [0, 1, 2]
    with torch.no_grad():
        model(input_ids=IDS, past_key_values=cache, use_cache=True)
        whole = model(input_ids=IDS, use_cache=True).past_key_values
    assert cache.get_seq_length() == IDS.shape[1]
    assert all(layer.is_initialized for layer in cache.layers)
    assert isinstance(whole, DynamicCache)
    assert sum(bool(layer.is_initialized) for layer in whole.layers) == 3


def test_the_model_comes_back():
    model = made("mistral")
    before, names = logits(model), set(model.state_dict())
    with contextlib.suppress(KeyError), without(model, Dropped((0, 5), (2,))):
        assert len(dropped_of(model)) == 3
        assert (logits(model) - before).abs().max() > 1e-3
        raise KeyError
    assert torch.equal(logits(model), before)
    assert set(model.state_dict()) == names
    assert not hasattr(model.config, "drop_attn_list")
    assert model.generate(IDS, max_new_tokens=2, do_sample=False).shape[1] <= IDS.shape[1] + 2
    with without(model, Dropped((1,))), without(model, Dropped((3,))):
        assert dropped_of(model) == Dropped((1, 3))
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_save_and_load(kind, tmp_path):
    model = drop(made(kind), Dropped((1, 2), (4,)))
    model.save_pretrained(tmp_path)
    again = load_dropped(tmp_path)
    assert dropped_of(again) == Dropped((1, 2), (4,))
    assert torch.equal(logits(again), logits(model))
    assert set(again.state_dict()) == set(model.state_dict())


def test_released_configurations_are_understood(tmp_path):
    """Truth values per block, and a class of the authors' own that is not run."""
    model = drop(made("mistral"), Dropped((1, 4)))
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "drop_attn_list": [False, True, False, False, True, False], "drop_mlp_list": [False] * 6,
        "auto_map": {"AutoModelForCausalLM": "modeling_dropped_mistral.MistralForCausalLM"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits(load_dropped(tmp_path)), logits(model))


def test_weights_that_are_missing_without_being_dropped_are_an_error(tmp_path):
    model = drop(made(), Dropped((1,)))
    model.config.drop_attn_list = []
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks weights that are not dropped"):
        load_dropped(tmp_path)


def test_models_it_cannot_work_on():
    with pytest.raises(ValueError, match="has no blocks"):
        blocks(torch.nn.Linear(2, 2))
    gemma = AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma2", **SHAPE, head_dim=4))
    with pytest.raises(ValueError, match="further norms"):
        blocks(gemma)
    mixed = made("qwen2", layer_types=["full_attention", "sliding_attention"] * 3, use_sliding_window=True)
    with pytest.raises(ValueError, match="several kinds"):
        drop(mixed, Dropped((1,)))
    with pytest.raises(ValueError, match="no block 6"):
        drop(made(), Dropped((6,)))


def test_a_dropped_model_passes_through_lm_eval(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    from repro.data import load_language
    from repro.evaluation import evaluate_with_lm_eval

    data = load_language("word-problems", 64, limit=50)
    model = drop(made(vocab_size=data.vocab_size, max_position_embeddings=256), Dropped((2, 3), (0,)))
    found = evaluate_with_lm_eval(model, data.tokenizer, ["word_problems_choice"], data=data, limit=4)
    assert 0 <= found["word_problems_choice/acc"] <= 1


# --- scores ---------------------------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """A sublayer with an output of its own, for hand-made cases."""

    def __init__(self, function, attention):
        super().__init__()
        self.function, self.attention = function, attention

    def forward(self, hidden_states, *_args, **_kwargs):
        out = self.function(hidden_states)
        return (out, None) if self.attention else out


def fixed(function, part="self_attn", layer=0, seed=0):
    """A model in which one sublayer is a function of the stream: its norm passes the stream on."""
    model = made(seed=seed)
    block = model.model.layers[layer]
    setattr(block, "input_layernorm" if part == "self_attn" else "post_attention_layernorm", torch.nn.Identity())
    setattr(block, part, Fixed(function, part == "self_attn"))
    return model


def reference(model, ids):
    """The definition, from transformers' own hidden states and sublayers, block by block."""
    with torch.no_grad():
        hidden = model(input_ids=ids, output_hidden_states=True, use_cache=False)
        position = model.model.rotary_emb(hidden.hidden_states[0], torch.arange(ids.shape[1])[None])
        causal = torch.full((ids.shape[1],) * 2, float("-inf")).triu(1)[None, None]
        attention, mlp, block = [], [], []
        x = hidden.hidden_states[0]
        for layer in model.model.layers:
            y = x + layer.self_attn(layer.input_layernorm(x), position_embeddings=position, attention_mask=causal)[0]
            z = y + layer.mlp(layer.post_attention_layernorm(y))
            attention.append(F.cosine_similarity(x, y, dim=-1).mean())
            mlp.append(F.cosine_similarity(y, z, dim=-1).mean())
            block.append(F.cosine_similarity(x, z, dim=-1).mean())
            x = z
    return torch.stack(attention), torch.stack(mlp), torch.stack(block)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_definition(kind):
    model = made(kind)
    found = similarities(model, [IDS[:2], IDS[2:]])
    for ours, theirs in zip((found.attention, found.mlp, found.block), reference(model, IDS), strict=True):
        torch.testing.assert_close(ours.float(), theirs, atol=1e-5, rtol=0)
    assert found.attention.std() > 1e-3


def test_runs_of_blocks_are_scored_from_the_first_input_to_the_last_output():
    model = made()
    found = similarities(model, [IDS[:2], IDS[2:]], runs=(1, 3))
    torch.testing.assert_close(found.run[1], found.block)
    states: list[torch.Tensor] = []
    handles = [layer.register_forward_pre_hook(lambda _m, args: states.append(args[0])) for layer in model.model.layers]
    handles.append(model.model.norm.register_forward_pre_hook(lambda _m, args: states.append(args[0])))
    logits(model)
    for handle in handles:
        handle.remove()
    wanted = torch.stack([F.cosine_similarity(states[i], states[i + 3], dim=-1).mean() for i in range(4)])
    torch.testing.assert_close(found.run[3].float(), wanted, atol=1e-5, rtol=0)
    best = int(wanted.argmax())
    assert choose(found, 3, "run") == Dropped(tuple(range(best, best + 3)), tuple(range(best, best + 3)))
    with pytest.raises(ValueError, match="not scored"):
        choose(found, 2, "run")


def test_hand_example():
    """x = (1, 0), F = (0, 1): y = (1, 1), cos = 0.7071, S = 0.2929 (in pairs of coordinates)."""
    model = fixed(lambda x: torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2))
    found = similarities(model, [IDS])
    assert 1 - float(found.attention[0]) == pytest.approx(0.2929, abs=1e-4)


@pytest.mark.parametrize("part", ["self_attn", "mlp"])
def test_no_output_is_a_cosine_of_one_and_twice_the_opposite_of_minus_one(part):
    name = "attention" if part == "self_attn" else "mlp"
    silent = similarities(fixed(lambda x: 0 * x, part, layer=3), [IDS])
    assert float(getattr(silent, name)[3]) == pytest.approx(1, abs=1e-6)
    assert getattr(choose(silent, 1, name), name) == (3,)
    assert getattr(choose(silent, 1, "joint"), name) == (3,)
    turned = similarities(fixed(lambda x: -2 * x, part, layer=3), [IDS])
    assert float(getattr(turned, name)[3]) == pytest.approx(-1, abs=1e-6)


def test_scores_do_not_see_the_scale_of_the_stream_or_the_order_of_tokens():
    def linear(x):
        return x.roll(3, dims=-1)

    model, scaled = fixed(linear), fixed(linear)
    scaled.model.embed_tokens.weight.data *= 7
    a, b = similarities(model, [IDS]), similarities(scaled, [IDS])
    assert float(a.attention[0]) == pytest.approx(float(b.attention[0]), abs=1e-6)
    shuffled = similarities(model, [IDS.flip(0)])
    torch.testing.assert_close(a.attention, shuffled.attention, atol=1e-6, rtol=0)
    turned = similarities(model, [IDS.flip(1)])  # block 0 works on each token alone here
    assert float(turned.attention[0]) == pytest.approx(float(a.attention[0]), abs=1e-6)


def test_hooks_are_gone_afterwards_and_no_tokens_are_an_error():
    model = made()
    similarities(model, [IDS])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.layers.modules())
    with pytest.raises(ValueError, match="no calibration tokens"):
        similarities(model, [])


# --- selection ------------------------------------------------------------------------------------------------

SCORES = Similarity(
    torch.tensor([0.1, 0.9, 0.8, 0.95], dtype=torch.float64),
    torch.tensor([0.2, 0.7, 0.85, 0.3], dtype=torch.float64),
    torch.tensor([0.1, 0.6, 0.7, 0.2], dtype=torch.float64),
)


def test_the_most_similar_go_first():
    assert choose(SCORES, 2) == Dropped(attention=(1, 3))
    assert choose(SCORES, 2, "mlp") == Dropped(mlp=(1, 2))
    assert choose(SCORES, 1, "block") == Dropped((2,), (2,))
    assert choose(SCORES, 3, "joint") == Dropped((1, 3), (2,))
    assert len(choose(SCORES, 8, "joint")) == 8
    assert choose(SCORES, 0, "run") == Dropped()
    with pytest.raises(ValueError, match="cannot drop 5 of 4"):
        choose(SCORES, 5)
    with pytest.raises(ValueError, match="kind is one of"):
        choose(SCORES, 1, "heads")  # type: ignore[arg-type]


def test_joint_is_attention_drop_while_attentions_score_above_every_mlp():
    scores = Similarity(SCORES.attention + 1, SCORES.mlp, SCORES.block)
    for n in range(5):
        assert choose(scores, n, "joint") == choose(scores, n, "attention")
    assert choose(scores, 5, "joint").mlp == (2,)


def test_random_choices_have_the_right_number_and_depend_on_the_draw_only():
    for kind, size in (("attention", 3), ("mlp", 3), ("block", 6), ("joint", 3), ("run", 6)):
        found = [choose_random(8, 3, kind, random.Random(draw)) for draw in (1, 1, 2, 3, 4)]  # type: ignore[arg-type]
        assert all(len(one) == size for one in found)
        assert found[0] == found[1]
        assert len(set(found)) > 1
    with pytest.raises(ValueError, match="cannot drop"):
        choose_random(4, 9, "joint", random.Random(0))


def test_iterative_measures_again_after_every_drop():
    model = made(seed=3)
    rounds = list(iterative(model, [IDS], 3))
    assert [len(r) for r in rounds] == [1, 2, 3]
    assert rounds[0] == choose(similarities(model, [IDS]), 1)
    with without(model, rounds[0]):
        left = similarities(model, [IDS]).attention
    left[rounds[0].attention[0]] = -2
    assert set(rounds[1].attention) == {*rounds[0].attention, int(left.argmax())}
    assert dropped_of(model) == Dropped()
    assert len(list(iterative(model, [IDS], 6, "block"))[-1]) == 12
    assert len(list(iterative(model, [IDS], 12, "joint"))[-1]) == 12


def test_degradation_ratio_is_points_per_percent():
    assert degradation_ratio(2.4, 1.484) == pytest.approx(0.05, abs=0.001)
    assert degradation_ratio(1.0, 1.0) == float("inf")


def test_counts_are_percent_of_the_blocks():
    assert dropped_counts(10, Config()) == {10 * n: n for n in range(1, 9)}
    assert dropped_counts(40, Config())[20] == 8
    assert dropped_counts(80, Config())[50] == 40
    assert dropped_counts(10, Config(drop="joint", up_to=160))[160] == 16
    assert dropped_counts(4, Config(up_to=160)) == {
        20: 1,
        30: 1,
        40: 2,
        50: 2,
        60: 2,
        70: 3,
        80: 3,
        90: 4,
        100: 4,
        110: 4,
    }


# --- experiment -----------------------------------------------------------------------------------------------


def test_a_model_and_text_of_the_hub_s_layout(tmp_path, monkeypatch):
    """The configuration of the published scale on small local files."""
    from papers.llm_drop.experiment import run
    from repro.data import word_tokenizer
    from repro.runner import Context

    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    words = [f"w{i}" for i in range(VOCAB - 3)]
    draw = random.Random(0)
    (tmp_path / "c4").mkdir()
    lines = [json.dumps({"text": " ".join(draw.choices(words[:9], k=40)), "url": ""}) for _ in range(40)]
    (tmp_path / "c4" / "c4-validation.00000-of-00008.jsonl").write_text("\n".join(lines))
    folder = tmp_path / "mistral"
    made("mistral").save_pretrained(folder)
    word_tokenizer(words).save_pretrained(folder)
    options = {"sequence": 32, "calibration_rows": 4, "eval_batches": 2, "limit": 20, "speed_tokens": 2}
    config = PAPER.resolve("mistral-7b", "attention", "gpu", {**options, "model": str(folder), "dtype": "float32"})
    outcome = run(Config(**config), Context(seed=0))
    # 6 blocks: 20 % is 1 of them, 50 % is 3
    assert {"damage_20", "damage_50", "published_overlap", "rank_resampled"} <= set(outcome.metrics)
    assert outcome.metrics["kv_cache_kept_50"] == 50
    assert outcome.data["model"] == str(folder)
    assert outcome.profile["train_tokens"] == 0
    assert set(outcome.metrics) <= set(PAPER.metrics)


def test_a_model_that_is_not_there_is_an_error_that_says_so(monkeypatch):
    from repro.data import MissingData
    from repro.zoo.hub import hub_model

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingData, match="absent"):
        hub_model("nobody/no-such-model")
    with pytest.raises(ValueError, match="no dtype"):
        hub_model("nobody/no-such-model", dtype="float17")


# --- published figures ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted():
    from papers.llm_drop.published import accounting

    return accounting()


@pytest.mark.parametrize(
    ("name", "total", "attention", "mlp", "saved", "kv"),
    [
        ("llama-2-7b", 6_738_415_616, 67_108_864, 135_266_304, 15.94, 524_288),
        ("llama-2-13b", 13_015_864_320, 104_857_600, 212_336_640, 16.11, 819_200),
        ("llama-2-70b", 68_976_648_192, 150_994_944, 704_643_072, 8.76, 327_680),
        ("llama-3-8b", 8_030_261_248, 41_943_040, 176_160_768, 8.36, 131_072),
        ("llama-3-70b", 70_553_706_496, 150_994_944, 704_643_072, 8.56, 327_680),
        ("mistral-7b", 7_241_732_096, 41_943_040, 176_160_768, 9.27, 131_072),
    ],
)
def test_published_sizes(counted, name, total, attention, mlp, saved, kv):
    assert counted[f"params_{name}"] == total
    assert counted[f"params_attention_{name}"] == attention
    assert counted[f"params_mlp_{name}"] == mlp
    assert counted[f"params_saved_percent_{name}"] == pytest.approx(saved, abs=0.005)
    assert counted[f"kv_bytes_per_token_{name}"] == kv
    assert counted[f"kv_kept_percent_{name}"] == 50


def test_flops_of_the_accounting_are_what_torch_counts():
    from papers.llm_drop.published import forward_flops
    from repro.profiling.counts import count_flops

    model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    tokens = IDS.numel()
    for gone in (Dropped(), Dropped((1, 2), (3,))):
        with without(model, gone), torch.no_grad():
            # the counter multiplies the whole square of scores
            assert count_flops(lambda: model(input_ids=IDS, use_cache=False)) == forward_flops(
                model, tokens, IDS.shape[1]
            )


def test_speed_ups_that_arithmetic_allows(counted):
    assert 1.05 < counted["flops_speedup_llama-2-70b"] < 1.2
    assert 1.05 < counted["bytes_speedup_llama-2-70b"] < 1.2
    assert counted["bytes_speedup_limit_llama-2-70b"] == pytest.approx(2, abs=0.01)
    assert counted["tokens_behind_52_gb_llama-2-13b"] == pytest.approx(63_500, rel=0.002)
