"""X-LoRA: against peft's own tuners on adapters read from disk, and against its own definition."""

from __future__ import annotations

import math

import pytest
import torch
from peft import LoraConfig, PeftModel, XLoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from papers.x_lora.method import ScalingHead, XLora, head_parameters, keep_largest, softmax_scalings
from repro.models.adapters import read_adapter

VOCAB, HIDDEN, BLOCKS, ADAPTERS = 30, 16, 2, 3
MODULES = 7 * BLOCKS


def made(seed: int = 0):
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "llama", vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=24, num_hidden_layers=BLOCKS,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2, use_cache=False,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def batch(seed: int = 0, rows: int = 2, tokens: int = 7):
    return torch.randint(3, VOCAB, (rows, tokens), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Adapters with B away from zero, as peft writes them."""
    root = tmp_path_factory.mktemp("adapters")
    out = []
    for i in range(ADAPTERS):
        torch.manual_seed(100 + i)
        config = LoraConfig(
            task_type="CAUSAL_LM", r=2 + i, lora_alpha=4, init_lora_weights=False, target_modules="all-linear"
        )
        get_peft_model(made(), config).save_pretrained(root / f"a{i}")
        out.append(str(root / f"a{i}"))
    return out


@pytest.fixture
def adapters(folders):
    return [read_adapter(folder) for folder in folders]


#: peft's names of our options.
NAMES = {
    "depth": "xlora_depth", "size": "xlora_size", "temperature": "softmax_temperature", "top_k": "top_k_lora",
    "weight": "global_scaling_weight", "softmax": "enable_softmax", "softmax_top_k": "enable_softmax_topk",
    "layerwise": "layerwise_scalings", "scaling_pass": "scaling_pass_value",
}  # fmt: skip


def theirs(folders, options):
    """peft's own tuner on the same model and adapters."""
    named = {"layerwise_scalings": True} | {NAMES[name]: value for name, value in options.items()}
    paths = {str(i): folder for i, folder in enumerate(folders)}
    config = XLoraConfig(task_type="CAUSAL_LM", hidden_size=HIDDEN, adapters=paths, **named)
    return get_peft_model(made(), config).eval()


def alike(mine, other):
    """Copy our head's weights to peft's."""
    wanted = [m for m in mine.head.layers if isinstance(m, torch.nn.Linear)]
    found = [m for m in other.base_model.internal_xlora_classifier.layers if isinstance(m, torch.nn.Linear)]
    for a, b in zip(wanted, found, strict=True):
        b.load_state_dict(a.state_dict())


def constant_head(mixture, bias=None):
    """A head whose logits are the same for every token."""
    last = mixture.head.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        if bias is not None:
            last.bias.view(-1, len(mixture.bank)).add_(bias)
    return mixture


# --- parity with peft -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"depth": 2, "size": 12}, {"depth": 3, "size": 5}, {"temperature": 0.3}, {"weight": 0.7}, {"top_k": 2},
     {"top_k": 2, "softmax": False, "softmax_top_k": True}, {"scaling_pass": 0.25}, {"layerwise": False}],
    ids=str,
)  # fmt: skip
def test_it_is_peft_s_x_lora(folders, adapters, options):
    mixture = XLora(made(), adapters, seed=5, **options).eval()
    with torch.no_grad():
        for p in mixture.head.parameters():
            p.mul_(5)
    other = theirs(folders, options)
    alike(mixture, other)
    ids = batch()
    with torch.no_grad():
        mine, wanted = mixture(ids).logits, other(input_ids=ids).logits
        plain = made()(ids).logits
    torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-5)
    assert (mine - plain).abs().max() > 1e-2


def test_gradients_are_peft_s_too(folders, adapters):
    mixture, other = XLora(made(), adapters), theirs(folders, {})
    alike(mixture, other)
    ids = batch()
    for one in (mixture, other):
        one.eval()
        one(input_ids=ids, labels=ids).loss.backward()
    torch.testing.assert_close(
        mixture.head.layers[0].weight.grad, other.base_model.internal_xlora_classifier.layers[0].weight.grad,
        atol=1e-6, rtol=1e-4,
    )  # fmt: skip


def test_one_adapter_is_plain_lora(folders, adapters):
    mixture = XLora(made(), adapters[1:2]).eval()
    plain = PeftModel.from_pretrained(made(), folders[1]).eval()
    with torch.no_grad():
        torch.testing.assert_close(mixture(batch()).logits, plain(input_ids=batch()).logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(mixture.latest, torch.ones_like(mixture.latest))


def test_a_head_of_zeros_is_the_sum_of_deltas_over_n(folders, adapters):
    mixture = constant_head(XLora(made(), adapters).eval())
    plain = PeftModel.from_pretrained(made(), folders[0], adapter_name="0")
    for i, folder in enumerate(folders[1:], 1):
        plain.load_adapter(folder, adapter_name=str(i))
    plain.add_weighted_adapter(["0", "1", "2"], [1 / 3] * 3, "mean", combination_type="cat")
    plain.set_adapter("mean")
    with torch.no_grad():
        mine, wanted = mixture(batch()).logits, plain.eval()(input_ids=batch()).logits
        with mixture.fixed(mixture.bank.uniform()):
            fixed = mixture.model(batch()).logits
    torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine, fixed, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("chosen", range(ADAPTERS))
def test_a_large_bias_is_one_adapter_alone(folders, adapters, chosen):
    mixture = XLora(made(), adapters).eval()
    constant_head(mixture, 200 * mixture.bank.one(chosen))
    plain = PeftModel.from_pretrained(made(), folders[chosen]).eval()
    with torch.no_grad():
        torch.testing.assert_close(mixture(batch()).logits, plain(input_ids=batch()).logits, atol=1e-5, rtol=1e-5)


# --- invariants -----------------------------------------------------------------------------------------------


def test_no_weight_is_the_base_model_bit_by_bit(adapters):
    wanted = made()(batch()).logits
    mixture = XLora(made(), adapters, weight=0.0).eval()
    assert torch.equal(mixture(batch()).logits, wanted)
    mixture = XLora(made(), adapters).eval()
    with mixture.fixed(None):
        assert torch.equal(mixture.model(batch()).logits, wanted)
    assert not torch.equal(mixture.model(batch()).logits, wanted)
    mixture.release()
    assert torch.equal(mixture.model(batch()).logits, wanted)
    assert not any("lora" in name for name in mixture.model.state_dict())


def test_only_the_head_gets_a_gradient(adapters):
    mixture = XLora(made(), adapters, depth=2, size=8).train()
    ids = batch()
    mixture(ids, labels=ids).loss.backward()
    for name, parameter in mixture.named_parameters():
        if name.startswith("head."):
            assert parameter.grad.abs().max() > 0
        else:
            assert parameter.grad is None
            assert not parameter.requires_grad


def test_no_gradient_goes_through_the_scaling_pass(adapters):
    seen = []

    def reads(ids, output):
        seen.append(output.hidden_states[-1])
        return seen[-1]

    mixture = XLora(made(), adapters, reads=reads)
    mixture.model.requires_grad_(True)  # even then
    mixture(batch())
    assert [h.requires_grad for h in seen] == [False]
    torch.testing.assert_close(seen[0], made()(batch(), output_hidden_states=True).hidden_states[-1])
    torch.testing.assert_close(made().model.norm(torch.ones(HIDDEN)), torch.ones(HIDDEN))  # the final norm is inside
    torch.testing.assert_close(seen[0].square().mean(-1), torch.ones(2, 7), atol=0.05, rtol=0)


def test_scalings_sum_to_one_unless_some_are_dropped(adapters):
    mixture = XLora(made(), adapters).eval()
    dense = mixture.scalings(batch())
    assert dense.shape == (2, 7, MODULES, ADAPTERS)
    torch.testing.assert_close(dense.sum(-1), torch.ones(2, 7, MODULES))
    mixture.top_k = 2
    sparse = mixture.scalings(batch())
    assert (sparse.sum(-1) < 1).all()
    assert ((sparse > 0).sum(-1) == 2).all()
    torch.testing.assert_close(sparse, dense.masked_fill(dense == dense.min(-1, keepdim=True).values, 0.0))


def test_tokens_do_not_compete_in_top_k():
    """Normalised over the batch, as the original code did, the first token's share would depend on the second."""
    logits = torch.tensor([[2.0, 1.0, 0.0], [9.0, 8.0, 7.0]])
    both, alone = keep_largest(logits, 2, True), keep_largest(logits[:1], 2, True)
    torch.testing.assert_close(both[:1], alone)
    torch.testing.assert_close(alone[0, 0], torch.tensor(math.e / (1 + math.e)))
    assert alone[0, 2] == 0
    with pytest.raises(ValueError, match="cannot keep 4 of 3"):
        keep_largest(logits, 4)


def test_temperature_by_hand():
    logits = torch.tensor([0.0, math.log(3)])
    torch.testing.assert_close(softmax_scalings(logits), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(softmax_scalings(logits, 0.5), torch.tensor([0.1, 0.9]))


def test_gates_are_causal(adapters):
    mixture = XLora(made(), adapters).eval()
    ids, other = batch(), batch()
    other[:, 5:] = 4
    torch.testing.assert_close(mixture.scalings(ids)[:, :5], mixture.scalings(other)[:, :5])
    torch.testing.assert_close(mixture(ids).logits[:, :5], mixture(other).logits[:, :5])


def test_padding_on_the_left_changes_nothing(adapters):
    mixture = XLora(made(), adapters).eval()
    ids = batch()
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1)
    mask = (torch.arange(10) >= 3).long().expand(2, 10)
    found = mixture(padded, attention_mask=mask, position_ids=(torch.arange(10) - 3).clamp(min=0).expand(2, 10))
    torch.testing.assert_close(found.logits[:, 3:], mixture(ids).logits, atol=1e-5, rtol=1e-5)


def test_generation_reads_the_prefix_twice_per_token(adapters):
    mixture = XLora(made(), adapters).eval()
    read = []
    handle = mixture.model.model.register_forward_pre_hook(
        lambda m, a, k: read.append(k["input_ids"].shape[1]), with_kwargs=True
    )
    ids = batch(rows=1)
    out = mixture.generate(input_ids=ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
    handle.remove()
    assert read == [7, 7, 8, 8, 9, 9]
    for step in range(3):
        assert out[0, 7 + step] == mixture(out[:, : 7 + step]).logits[0, -1].argmax()
    with pytest.raises(ValueError, match="use_cache=False"):
        mixture.model(ids, use_cache=True)
    with pytest.raises(ValueError, match="by name"):
        mixture.model(inputs_embeds=torch.zeros(1, 2, HIDDEN))


def test_a_call_that_fails_leaves_no_gates_behind(adapters):
    mixture = XLora(made(), adapters).eval()
    with pytest.raises(IndexError):
        mixture(torch.tensor([[VOCAB + 5]]))
    assert mixture.bank.gates is None
    with mixture.fixed(None):
        assert torch.equal(mixture.model(batch()).logits, made()(batch()).logits)


def test_the_head_starts_near_uniform_and_repeats_with_its_seed(adapters):
    torch.manual_seed(3)
    before = torch.rand(2)
    torch.manual_seed(3)
    one, same, other = (ScalingHead(64, 4, 24, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(2), before)
    assert torch.equal(one.layers[0].weight, same.layers[0].weight)
    assert not torch.equal(one.layers[0].weight, other.layers[0].weight)
    assert one.layers[0].weight.abs().max() <= 64**-0.5
    hidden = torch.randn(3, 5, 64)
    assert softmax_scalings(one(hidden)).mean((0, 1, 2)).sub(0.25).abs().max() < 0.05
    for depth in (1, 2, 3):
        head = ScalingHead(64, 4, 24, depth=depth, size=10)
        assert sum(p.numel() for p in head.parameters()) == head_parameters(64, 4, 24, depth, 10)
    with pytest.raises(ValueError, match="at least one"):
        ScalingHead(64, 4, 24, depth=0)
