"""Quantisers against plain references, packing against arithmetic, and models whose blocks have bits of their own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.models.blocks import decoder_blocks
from repro.models.quantise import (
    FULL,
    Bank,
    QuantisedLinear,
    Quantiser,
    dynamic_bits,
    find_grid,
    find_grid_naive,
    gptq,
    gptq_naive,
    grams,
    linears,
    output_error,
    pack_bits,
    pack_bits_naive,
    packed_bytes,
    round_to_nearest,
    stored_bytes,
    unpack_bits,
    unpacked,
    weight_of,
)
from tests.tiny import tiny_lm

IDS = torch.randint(3, 40, (4, 12), generator=torch.Generator().manual_seed(5))


def made(kind: str = "llama"):
    return tiny_lm(kind, layers=3)


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def correlated(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight matrix and the Gram matrix of inputs that depend on each other."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(200, columns, generator=draw) @ torch.randn(columns, columns, generator=draw)
    return torch.randn(rows, columns, generator=draw), x.T @ x


# --- packing --------------------------------------------------------------------------------------------------


@given(st.integers(1, 8).flatmap(lambda b: st.tuples(st.just(b), st.lists(st.integers(0, 2**b - 1), max_size=40))))
@settings(max_examples=100, deadline=None)
def test_packing_is_the_plain_one_and_comes_back(drawn):
    bits, codes = drawn
    given_codes = torch.tensor(codes, dtype=torch.uint8)
    stream = pack_bits(given_codes, bits)
    assert torch.equal(stream, pack_bits_naive(given_codes, bits))
    assert stream.dtype == torch.uint8
    assert len(stream) == -(-len(codes) * bits // 8)
    assert torch.equal(unpack_bits(stream, bits, len(codes)), given_codes)


def test_packing_by_hand():
    # 1, 2, 3, 0 in two bits, lowest first: 00 11 10 01
    assert pack_bits(torch.tensor([1, 2, 3, 0], dtype=torch.uint8), 2).tolist() == [0b00111001]


def test_what_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="does not fit"):
        pack_bits(torch.tensor([4], dtype=torch.uint8), 2)
    with pytest.raises(ValueError, match="bits are 1 to 8"):
        pack_bits(torch.tensor([0], dtype=torch.uint8), 9)
    with pytest.raises(ValueError, match="are not 2 bytes"):
        unpack_bits(torch.zeros(2, dtype=torch.uint8), 4, 7)
    with pytest.raises(ValueError, match="bits are 2 to 8"):
        round_to_nearest(torch.ones(2, 4), 1)
    with pytest.raises(ValueError, match="whole groups"):
        round_to_nearest(torch.ones(2, 4), 4, group=3)
    with pytest.raises(ValueError, match="Gram matrix of 4 inputs"):
        gptq(torch.ones(2, 4), torch.eye(3), 4)
    with pytest.raises(ValueError, match="rtn or gptq"):
        Quantiser("awq")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs calibration"):
        Quantiser("gptq")(torch.ones(2, 4), 4)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [0, 8])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_stored_bytes_are_the_formula_and_nothing_is_lost(bits, group, symmetric):
    weight, _ = correlated(5, 24)
    found = round_to_nearest(weight, bits, group=group, symmetric=symmetric)
    assert found.nbytes() == packed_bytes(5, 24, bits, group, symmetric)
    again = unpacked(found.packed(), (5, 24), bits)
    assert torch.equal(again.dequantise(), found.dequantise())
    assert again.symmetric == symmetric


# --- rounding -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("steps", [0, 80])
def test_the_grid_is_that_of_plain_numbers(bits, symmetric, steps):
    # shares of 1/64: what lies between two values of a grid is then exactly between in float32 too
    weight = (torch.randn(6, 10, generator=torch.Generator().manual_seed(bits)) * 64).round() / 64
    weight[3] = weight[3].abs()
    weight[4] = 0
    scale, zero = find_grid(weight, bits, symmetric, steps)
    for row in range(6):
        plain_scale, plain_zero = find_grid_naive(weight[row].tolist(), bits, symmetric, steps)
        assert float(scale[row]) == pytest.approx(plain_scale, rel=1e-3)
        assert int(zero[row]) == plain_zero


def test_rounding_has_few_values_and_takes_the_nearest():
    weight, _ = correlated(8, 64)
    for bits in (2, 3, 4):
        found = round_to_nearest(weight, bits)
        other = found.dequantise()
        for row in range(8):
            assert len(other[row].unique()) <= 2**bits
            values = (torch.arange(2**bits) - 2 ** (bits - 1)) * float(found.scale[row, 0])
            nearest = (weight[row, :, None] - values).abs().amin(1)
            torch.testing.assert_close((weight[row] - other[row]).abs(), nearest)


def test_more_bits_smaller_groups_and_the_clip_search_each_lower_the_error():
    weight, _ = correlated(16, 64)

    def error(bits, **options):
        return float((weight - round_to_nearest(weight, bits, **options).dequantise()).square().sum())

    assert error(2) > error(3) > error(4) > error(8)
    assert error(3, group=16) < error(3)
    assert error(2, exponent=2.0) < error(2, steps=0)


def test_weights_on_the_grid_stay():
    weight = torch.tensor([[-2.0, -1.0, 0.0, 1.0], [4.0, -8.0, 0.0, 4.0]])
    assert torch.equal(round_to_nearest(weight, 2, steps=0).dequantise()[:, 2], torch.zeros(2))
    eight = torch.arange(-128, 128).float()[None] / 64
    torch.testing.assert_close(
        round_to_nearest(eight, 8, steps=0, symmetric=False).dequantise(), eight, atol=1e-2, rtol=0
    )


# --- GPTQ -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "block"), [(0, 128), (0, 5), (4, 8), (4, 6), (12, 5)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_gptq_is_least_squares_after_every_rounding(group, block, symmetric):
    weight, gram = correlated(6, 12)
    fast = gptq(weight, gram, 3, group=group, block=block, symmetric=symmetric)
    plain = gptq_naive(weight, gram, 3, group=group, symmetric=symmetric)
    assert torch.equal(fast.codes, plain.codes)
    assert torch.equal(fast.scale, plain.scale)
    assert torch.equal(fast.zero, plain.zero)


def test_gptq_of_independent_inputs_is_rounding():
    weight, _ = correlated(6, 16)
    for group in (0, 4):
        assert torch.equal(
            gptq(weight, torch.eye(16), 3, group=group).codes, round_to_nearest(weight, 3, group=group).codes
        )


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_gptq_errs_less_on_the_outputs(bits):
    for seed in range(3):
        weight, gram = correlated(24, 32, seed)
        rounded = output_error(weight, round_to_nearest(weight, bits).dequantise(), gram)
        assert output_error(weight, gptq(weight, gram, bits).dequantise(), gram) < 0.8 * rounded


def test_output_error_is_that_of_the_outputs():
    weight, _ = correlated(4, 6)
    x = torch.randn(50, 6)
    other = weight + 0.1 * torch.randn(4, 6)
    wanted = float((x @ (weight - other).T).square().sum())
    assert output_error(weight, other, x.T @ x) == pytest.approx(wanted, rel=1e-4)


def test_inputs_that_are_always_zero_are_rounded():
    weight, gram = correlated(4, 8)
    gram[3], gram[:, 3] = 0, 0
    assert torch.isfinite(gptq(weight, gram, 4).dequantise()).all()


# --- models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "qwen2"])
def test_gram_matrices_are_those_of_the_inputs(kind):
    if kind == "opt":
        model = made("opt")
    else:
        model = made(kind)
    part = linears(decoder_blocks(model)[1])
    seen: dict = {name: [] for name in part}
    handles = [p.register_forward_pre_hook(lambda _m, a, n=n: seen[n].append(a[0])) for n, p in part.items()]
    logits(model)
    for handle in handles:
        handle.remove()
    found = grams(model, part, [IDS[:2], IDS[2:]])
    for name, (x,) in seen.items():
        flat = x.reshape(-1, x.shape[-1])
        torch.testing.assert_close(found[name].float(), flat.T @ flat, atol=1e-4, rtol=1e-4)
        assert found[name].shape[0] == weight_of(part[name]).shape[1]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("quantiser", [Quantiser(), Quantiser("gptq", group=8)])
def test_a_bank_puts_bits_on_and_takes_them_off(kind, quantiser):
    model = made(kind)
    before = logits(model)
    bank = Bank(model, (2, 4), quantiser, [IDS], at_once=2)
    with bank.applied([4, FULL, 2]):
        inside = logits(model)
    assert (inside - before).abs().max() > 1e-3
    assert torch.equal(logits(model), before)
    with bank.applied([FULL] * 3):
        assert torch.equal(logits(model), before)
    with pytest.raises(RuntimeError, match="stop"), bank.applied([2, 2, 2]):
        raise RuntimeError("stop")
    assert torch.equal(logits(model), before)
    bytes_of = bank.nbytes([4, FULL, 2])
    assert bytes_of == sum(
        packed_bytes(*weight_of(part).shape, bits, quantiser.group)
        for block, bits in zip(decoder_blocks(model), (4, FULL, 2), strict=True)
        for part in linears(block).values()
    )
    # packed for good: the same outputs, and the saved tensors weigh what was counted
    whole = stored_bytes(decoder_blocks(model)[0])
    held = bank.nbytes([4] * 3) // 3
    bank.install([4, FULL, 2])
    torch.testing.assert_close(logits(model), inside, atol=1e-5, rtol=1e-5)
    packed = [m for m in decoder_blocks(model)[0].modules() if isinstance(m, QuantisedLinear)]
    assert sum(part.nbytes for m in packed for part in (m.codes, m.scale)) == held
    weights = sum(weight_of(part).numel() for part in linears(made(kind).get_submodule(path(kind))).values())
    assert stored_bytes(decoder_blocks(model)[0]) == whole - 4 * weights + held


def path(kind: str) -> str:
    return "transformer.h.0" if kind == "gpt2" else "model.layers.0"


def test_a_bank_refuses_what_it_does_not_have():
    bank = Bank(made(), (2, 4))
    with pytest.raises(ValueError, match="not quantised to 3 bits"), bank.applied([2, 3, 4]):
        pass
    with pytest.raises(ValueError, match="3 blocks need"):
        bank.nbytes([2, 4])
    with pytest.raises(ValueError, match="no calibration token"):
        Bank(made(), (4,), Quantiser("gptq"))
    block = torch.nn.Module()
    block.experts = torch.nn.Parameter(torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match="outside of linear layers: experts"):
        linears(block)
    with pytest.raises(ValueError, match="no linear layers"):
        linears(torch.nn.LayerNorm(3))


def test_eight_bits_hardly_change_a_model():
    model = made()
    before = logits(model)
    with Bank(model, (8,)).applied([8] * 3):
        torch.testing.assert_close(logits(model), before, atol=0.1, rtol=0)


def test_bits_by_error_keep_the_budget_and_go_where_they_help():
    bank = Bank(made(), (2, 3, 4))
    wanted = "self_attn.q_proj"

    def error(block, name, bits):
        return (100.0 if name == wanted and block == 1 else 1.0) * 2.0 ** (-2 * bits)

    found = dynamic_bits(bank, range(3), 2.5, (2, 3, 4), error)
    spent = sum(bits * bank.weights(i, name) for i, part in found.items() for name, bits in part.items())
    total = sum(bank.weights(i, name) for i, part in found.items() for name in part)
    assert 2.4 < spent / total <= 2.5
    assert found[1][wanted] == 4
    assert dynamic_bits(bank, [0], 2, (2, 3, 4), error)[0] == dict.fromkeys(bank.parts[0], 2)
    assert dynamic_bits(bank, [0], 4, (2, 3, 4), error)[0] == dict.fromkeys(bank.parts[0], 4)
    with pytest.raises(ValueError, match="fewer than 2"):
        dynamic_bits(bank, [0], 1.5, (2, 3, 4), error)
