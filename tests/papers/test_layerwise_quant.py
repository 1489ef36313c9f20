"""Layer-wise quantisation: scores on distributions with known answers, allocation, and models quantised for good."""

from __future__ import annotations

import itertools
import json
import math
import random
from statistics import NormalDist

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from papers.layerwise_quant.method import (
    allocate,
    allocate_levels,
    at_random,
    average_bits,
    block_weights,
    by_lim,
    by_zd,
    dynamic,
    far_above,
    lim,
    lowered_for,
    quantise_layerwise,
    reverse,
    zd,
)
from papers.layerwise_quant.paper import PAPER, Config, moved_counts
from repro.claims import Computed
from repro.models.blocks import block_similarities, decoder_blocks
from repro.models.quantise import Bank, QuantisedLinear, Quantiser, weight_of
from tests.tiny import tiny_lm

VOCAB = 50
KINDS = ("llama", "qwen2", "gpt2")
IDS = torch.randint(3, VOCAB, (3, 11), generator=torch.Generator().manual_seed(5))


def made(kind: str = "llama", seed: int = 0):
    return tiny_lm(kind, layers=6, heads=4, vocab=VOCAB, seed=seed)


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


# --- LIM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_lim_is_the_negative_cosine_of_the_hidden_states(kind):
    model = made(kind)
    with torch.no_grad():
        states = model(input_ids=IDS, output_hidden_states=True, use_cache=False).hidden_states
    found = lim(model, [IDS[:2], IDS[2:]])
    assert found.dtype == torch.float64
    assert ((found >= -1) & (found <= 1)).all()
    # the last state there has passed the final norm
    for index in range(5):
        wanted = -F.cosine_similarity(states[index], states[index + 1], dim=-1).mean()
        assert float(found[index]) == pytest.approx(float(wanted), abs=1e-5)
    # Block Influence is 1 - cos: LIM = BI - 1
    torch.testing.assert_close(found, (1 - block_similarities(model, [IDS]).per_token) - 1, atol=1e-6, rtol=0)
    assert not torch.allclose(lim(model, [IDS], flattened=True), found, atol=1e-4)


class Block(torch.nn.Module):
    """Stands in for a block: a function of the stream."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, hidden_states, **_kwargs):
        return self.function(hidden_states)


@pytest.mark.parametrize(
    ("function", "wanted"),
    [(lambda x: x, -1), (lambda x: 3 * x, -1), (lambda x: -x, 1), (lambda x: x.roll(1, -1), None)],
)
def test_lim_of_hand_made_blocks(function, wanted):
    model = made()
    for index in range(6):
        model.model.layers[index] = Block(function)
    found = lim(model, [IDS])
    if wanted is not None:
        assert found.tolist() == pytest.approx([wanted] * 6, abs=1e-5)
    scaled = made()
    scaled.model.embed_tokens.weight.data *= 7
    for index in range(6):
        scaled.model.layers[index] = Block(lambda x: 5 * function(x))
    torch.testing.assert_close(lim(scaled, [IDS]), found, atol=1e-5, rtol=0)


# --- ZD -------------------------------------------------------------------------------------------------------


def test_zd_of_known_distributions():
    draw = torch.Generator().manual_seed(0)
    n = 400_000
    normal, uniform = torch.randn(n, generator=draw), torch.rand(n, generator=draw)
    laplace = torch.rand(n, generator=draw).sub(0.5)
    laplace = -laplace.sign() * (1 - 2 * laplace.abs()).log()
    assert far_above(normal) == pytest.approx(1 - NormalDist().cdf(1), abs=0.002)
    assert far_above(uniform) == pytest.approx((1 - 1 / math.sqrt(3)) / 2, abs=0.002)
    assert far_above(laplace) == pytest.approx(0.5 * math.exp(-math.sqrt(2)), abs=0.002)
    assert far_above(3 * normal + 2) == pytest.approx(far_above(normal), abs=1e-4)
    one_sided = torch.cat([torch.zeros(90), -torch.ones(10)])
    assert far_above(one_sided) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_zd_pools_all_linear_weights_of_a_block(kind):
    model = made(kind)
    block = decoder_blocks(model)[2]
    matrices = [p.detach().reshape(-1) for p in block.parameters() if p.dim() == 2]
    pooled = torch.cat(matrices)
    assert len(block_weights(block)) == len(pooled)
    wanted = float(((pooled - pooled.mean()) / pooled.std(correction=0) > 1).double().mean())
    assert float(zd(model)[2]) == pytest.approx(wanted, abs=1e-4)
    assert zd(model).shape == (6,)


# --- orders and bits ------------------------------------------------------------------------------------------


def test_the_small_example():
    scores = torch.tensor([-0.2, -0.9, -0.95, -0.6])
    assert by_lim(scores) == [2, 1, 3, 0]
    assert allocate(by_lim(scores), 2, 4, 2) == (4, 2, 2, 4)


def test_many_large_weights_are_unimportant_for_zd():
    assert by_zd(torch.tensor([0.12, 0.16, 0.14])) == [1, 2, 0]


@given(st.lists(st.sampled_from([-0.9, -0.5, -0.1]), min_size=1, max_size=9))
@settings(max_examples=50, deadline=None)
def test_orders_are_deterministic_and_lowered_sets_grow(scores):
    order = by_lim(torch.tensor(scores))
    for a, b in itertools.pairwise(order):
        assert (scores[a], a) < (scores[b], b)  # equals by their index
    assert reverse(reverse(order)) == order
    depth = len(order)
    before: set[int] = set()
    for k in range(depth + 1):
        bits = allocate(order, k, 4, 2)
        lowered = {i for i, b in enumerate(bits) if b == 2}
        assert len(lowered) == k
        assert before <= lowered
        before = lowered
        assert average_bits(bits) == pytest.approx(((depth - k) * 4 + k * 2) / depth)
    assert sorted(at_random(depth, random.Random(0))) == list(range(depth))


def test_several_levels_and_averages():
    assert allocate_levels([3, 1, 0, 2], ((2, 1), (4, 2), (8, 1))) == (4, 4, 8, 2)
    assert lowered_for(3.5, 40, 4, 2) == 10
    assert lowered_for(4, 40, 4, 2) == 0
    assert lowered_for(2, 40, 4, 2) == 40
    assert lowered_for(3.9, 10, 4, 2) == 1
    for target in (2.2, 2.75, 3.1, 3.9):
        k = lowered_for(target, 32, 4, 2)
        assert average_bits(allocate(range(32), k, 4, 2)) <= target
        assert k == 0 or average_bits(allocate(range(32), k - 1, 4, 2)) > target
    with pytest.raises(ValueError, match="no mixture"):
        lowered_for(5, 10, 4, 2)
    with pytest.raises(ValueError, match="permutation"):
        allocate([0, 0, 1], 1, 4, 2)
    with pytest.raises(ValueError, match="not the 3 of the model"):
        allocate([0, 1, 2], 4, 4, 2)


def test_moved_counts_are_percent_of_the_blocks():
    config = Config()
    assert moved_counts(10, config) == {10 * n: n for n in range(1, 7)}
    assert moved_counts(40, config)[30] == 12
    assert moved_counts(32, config)[50] == 16
    assert moved_counts(5, config) == {10: 1, 20: 1, 30: 2, 40: 2, 50: 3, 60: 3}
    assert moved_counts(4, config) == {20: 1, 30: 1, 40: 2, 50: 2, 60: 2}


# --- quantised models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantiser", [Quantiser(), Quantiser("gptq")])
def test_the_ends_are_uniform_for_every_order_and_memory_is_linear(kind, quantiser):
    model = made(kind)
    bank = Bank(model, (2, 4), quantiser, [IDS])
    orders = [by_lim(lim(model, [IDS])), by_zd(zd(model)), reverse(range(6)), at_random(6, random.Random(1))]
    ends = {}
    for width in (2, 4):
        with bank.applied([width] * 6):
            ends[width] = logits(model)
    sizes = []
    for order in orders:
        for k, width in ((0, 4), (6, 2)):
            with bank.applied(allocate(order, k, 4, 2)):
                assert torch.equal(logits(model), ends[width])
        sizes.append([bank.nbytes(allocate(order, k, 4, 2)) for k in range(7)])
    steps = {a - b for size in sizes for a, b in itertools.pairwise(size)}
    assert len(steps) == 1
    assert all(size == sizes[0] for size in sizes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", ["lim", "zd"])
def test_a_model_quantised_for_good(kind, score):
    model, twin = made(kind), made(kind)
    quantised, bits = quantise_layerwise(model, 3.5, score=score, batches=[IDS])
    assert bits.count(2) == 2  # of 6 blocks: 3.33 is the first average below 3.5
    with Bank(twin, (2, 4)).applied(bits):
        torch.testing.assert_close(logits(quantised), logits(twin), atol=1e-5, rtol=1e-5)
    for block, width in zip(decoder_blocks(quantised), bits, strict=True):
        assert {part.bits for part in block.modules() if isinstance(part, QuantisedLinear)} == {width}
    out = quantised.generate(IDS, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert out.shape == (3, 14)
    with pytest.raises(ValueError, match="lim or zd"):
        quantise_layerwise(twin, 3, score="bi")
    with pytest.raises(ValueError, match="no calibration tokens"):
        quantise_layerwise(twin, 3)


def test_rounding_leaves_few_values_and_the_embeddings_alone():
    model = made()
    before = model.lm_head.weight.clone()
    bank = Bank(model, (2, 4))
    with bank.applied([2] * 6):
        assert torch.equal(model.lm_head.weight, before)
        for name in ("self_attn.q_proj", "mlp.down_proj"):
            for row in weight_of(decoder_blocks(model)[3].get_submodule(name)):
                assert len(row.unique()) <= 4


def test_a_dynamic_quantiser_keeps_the_average_with_and_without_an_order():
    bank = Bank(made(), (2, 3, 4))

    def average(bits):
        spent = sum(b * bank.weights(i, name) for i, part in enumerate(bits) for name, b in part.items())
        return spent / sum(bank.weights(i, name) for i, part in enumerate(bits) for name in part)

    plain = dynamic(bank, 3, (2, 3, 4))
    ordered = dynamic(bank, 3, (2, 3, 4), order=[4, 2, 0, 1, 3, 5], k=3)
    assert 2.8 < average(plain) <= 3
    assert 2.8 < average(ordered) <= 3
    poor, rich = average([ordered[4]] * 6), average([ordered[5]] * 6)
    assert poor <= 2.5 < rich <= 3.5
    assert plain[0] != ordered[4] != ordered[5]
    assert dynamic(bank, 3, (2, 3, 4), order=[0, 1, 2, 3, 4, 5], k=0) == plain


# --- experiment -----------------------------------------------------------------------------------------------


def test_tolerated_is_where_the_curve_crosses():
    from papers.layerwise_quant.experiment import tolerated

    assert tolerated([(10, 5.0), (20, 15.0), (30, 25.0)]) == pytest.approx(25)
    assert tolerated([(10, 40.0), (20, 10.0)]) == pytest.approx(5)  # the first time
    assert tolerated([(50, 10.0)]) == pytest.approx(50 + 50 * 10 / 90)
    assert tolerated([(50, -3.0)], close=150) == 100
    assert tolerated([]) == pytest.approx(20)


def test_chance_of_zd_is_what_normal_weights_show():
    from papers.layerwise_quant.experiment import ZD_VARIANCE

    draw = torch.Generator().manual_seed(0)
    found = torch.tensor([far_above(torch.randn(2000, generator=draw)) for _ in range(2000)])
    assert float(found.var()) * 2000 == pytest.approx(ZD_VARIANCE, rel=0.15)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_and_text_of_the_hub_s_layout(tmp_path, monkeypatch, kind):
    """The configuration of the published scale on small local files."""
    from papers.layerwise_quant.experiment import run
    from repro.data import word_tokenizer
    from repro.runner import Context

    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    words = [f"w{i}" for i in range(VOCAB - 3)]
    draw = random.Random(0)
    (tmp_path / "c4").mkdir()
    lines = [json.dumps({"text": " ".join(draw.choices(words[:9], k=40)), "url": ""}) for _ in range(40)]
    (tmp_path / "c4" / "c4-validation.00000-of-00008.jsonl").write_text("\n".join(lines))
    folder = tmp_path / "model"
    made(kind).save_pretrained(folder)
    word_tokenizer(words).save_pretrained(folder)
    options = {"sequence": 32, "calibration_rows": 4, "eval_batches": 2, "limit": 20, "group": 8, "draws": 1}
    options |= {"model": str(folder), "dtype": "float32"}
    for arm in ("lim", "random", "prune", "dynamic-lim") if kind == "llama" else ("lim",):
        config = PAPER.resolve("mistral-7b", arm, "gpu", options)
        outcome = run(Config(**config), Context(seed=0))
        assert set(outcome.metrics) <= set(PAPER.metrics)
        assert outcome.data["model"] == str(folder)
        assert outcome.profile["train_tokens"] == 0
        assert "share_50" in outcome.metrics
        if arm == "lim":
            assert outcome.profile["average_bits_50"] == 3
            assert {"saved_20", "saved_40", "zd_signal"} <= set(outcome.metrics)
    with pytest.raises(ValueError, match="order is lim"):
        run(Config(**PAPER.resolve("mistral-7b", "lim", "gpu", {**options, "order": "best"})), Context(seed=0))


# --- published figures ----------------------------------------------------------------------------------------


def test_published_sizes():
    from papers.layerwise_quant.published import accounting

    found = accounting()
    assert found["weights_per_block_llama-2-7b"] == 202_375_168
    assert found["weights_llama-2-7b"] == 6_476_005_376
    assert found["weights_per_block_llama-2-13b"] == 317_194_240
    assert found["weights_llama-2-13b"] == 12_687_769_600
    assert found["params_llama-2-7b"] == 6_738_415_616
    assert found["params_mistral-7b"] == 7_241_732_096
    assert found["params_qwen2-7b"] == 7_615_616_512
    for name, k, bits, gigabytes in (
        ("llama-2-7b", 0, 4, 3.238), ("llama-2-7b", 8, 3.5, 2.833), ("llama-2-7b", 16, 3, 2.429),
        ("llama-2-7b", 32, 2, 1.619), ("llama-2-13b", 0, 4, 6.344), ("llama-2-13b", 10, 3.5, 5.551),
        ("llama-2-13b", 20, 3, 4.758), ("llama-2-13b", 40, 2, 3.172),
    ):  # fmt: skip
        assert found[f"average_bits_{name}_{k}"] == bits
        assert found[f"bytes_codes_{name}_{k}"] / 1e9 == pytest.approx(gigabytes, abs=0.0006)
        assert found[f"stored_bits_{name}_{k}"] == pytest.approx(bits + 16 / 128)
    # embeddings and head, and the norms beside them
    assert found["bytes_rest_llama-2-7b"] / 1e9 == pytest.approx(0.524, abs=0.002)
    assert found["bytes_rest_llama-2-13b"] / 1e9 == pytest.approx(0.655, abs=0.002)
    for claim in PAPER.claims:
        for part in claim.comparisons:
            if isinstance(part, Computed):  # what a comparison expects has to be what the scheme gives
                assert found[part.quantity] == pytest.approx(part.expected, rel=part.tolerance), part.name
