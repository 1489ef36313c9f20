"""X-LoRA: against peft's own tuners on adapters read from disk, and against its own definition."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
from peft import LoraConfig, PeftModel, XLoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from papers.x_lora.method import ScalingHead, XLora, head_parameters, keep_largest, softmax_scalings
from papers.x_lora.paper import PAPER, Config
from repro.models.adapters import read_adapter
from repro.runner import Context
from tests.tiny import tiny_lm

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


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "gpt2", "gpt_neox"])
def test_other_families_of_models(kind, tmp_path):
    folders = []
    for i in range(2):
        torch.manual_seed(i)
        config = LoraConfig(
            task_type="CAUSAL_LM", r=2, lora_alpha=4, init_lora_weights=False, target_modules="all-linear",
            fan_in_fan_out=kind == "gpt2",
        )  # fmt: skip
        get_peft_model(tiny_lm(kind, layers=2), config).save_pretrained(tmp_path / str(i))
        folders.append(str(tmp_path / str(i)))
    mixture = XLora(tiny_lm(kind, layers=2), [read_adapter(f) for f in folders]).eval()
    constant_head(mixture, 200 * mixture.bank.one(1))
    plain = PeftModel.from_pretrained(tiny_lm(kind, layers=2), folders[1]).eval()
    torch.testing.assert_close(mixture(batch()).logits, plain(input_ids=batch()).logits, atol=1e-4, rtol=1e-4)


# --- experiment -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    from papers.x_lora.experiment import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        arms = ("x-lora", "token", "sequence", "prefix", "embedding", "constant", "shuffled", "untrained", "single",
                "own", "uniform", "base")  # fmt: skip
        found = {a: run(Config(**PAPER.resolve("sources", a, "smoke")), Context(seed=7)) for a in arms}
        found["one-source"] = run(Config(**PAPER.resolve("one-source", "x-lora", "smoke")), Context(seed=7))
        found["again"] = run(Config(**PAPER.resolve("sources", "shuffled", "smoke")), Context(seed=7))
        return found


def test_arms_of_a_seed_share_models_and_rows(outcomes):
    plain = {name: o for name, o in outcomes.items() if name != "one-source"}
    assert len({o.data["fingerprint"] for o in plain.values()}) == 1
    assert len({o.profile["eval_tokens"] for o in outcomes.values()}) == 1
    assert outcomes["x-lora"].profile["parts_built"] == 3
    assert sum(o.profile["parts_built"] for o in plain.values()) == 3
    assert outcomes["one-source"].profile["parts_built"] == 1  # base and first adapter are those of the other setting
    for name in ("sequence", "prefix", "embedding", "constant", "shuffled"):
        for quantity in ("params_head", "train_tokens"):
            assert outcomes[name].profile[quantity] == outcomes["x-lora"].profile[quantity]
    assert outcomes["token"].profile["params_head"] < outcomes["x-lora"].profile["params_head"]
    assert outcomes["x-lora"].profile["params_trainable"] == outcomes["x-lora"].profile["params_head"]
    for outcome in outcomes.values():
        assert set(outcome.metrics) <= set(PAPER.metrics)


def test_a_run_is_a_function_of_its_seed(outcomes):
    assert outcomes["again"].metrics == outcomes["shuffled"].metrics


def test_what_arms_read(outcomes):
    assert outcomes["constant"].metrics["module_variance"] == pytest.approx(100, abs=1e-6)
    assert outcomes["token"].metrics["module_variance"] == pytest.approx(0, abs=1e-6)
    assert outcomes["own"].metrics["worst_percent"] == 0
    assert outcomes["untrained"].metrics["gate_entropy"] > 0.8
    assert outcomes["untrained"].profile["train_tokens"] == 0


def test_two_passes_cost_about_two(outcomes):
    flops = {name: o.metrics["forward_mflops_per_token"] for name, o in outcomes.items()}
    assert flops["base"] < flops["own"] == flops["single"] < flops["uniform"] < flops["x-lora"]
    assert flops["x-lora"] > flops["base"] + flops["uniform"]


def test_spread_by_hand():
    from papers.x_lora.experiment import spread

    even = torch.full((5, 4, 2), 0.5)
    found = spread(even)
    assert found["gate_entropy"] == pytest.approx(1)
    assert found["active_adapters"] == pytest.approx(2)
    by_module = torch.eye(2)[[0, 1, 0, 1]].expand(5, 4, 2)
    assert spread(by_module)["module_variance"] == pytest.approx(100)
    assert spread(by_module)["gate_entropy"] == pytest.approx(0, abs=1e-6)
    by_token = torch.eye(2)[[0, 1, 0, 1, 1]][:, None].expand(5, 4, 2)
    assert spread(by_token)["module_variance"] == pytest.approx(0)
    assert spread(by_token)["largest_share"] == pytest.approx(0.6)


def test_readers(adapters):
    from papers.x_lora import experiment

    model = made()
    ids = batch()
    output = model(ids, output_hidden_states=True)
    hidden = output.hidden_states[-1]
    torch.testing.assert_close(experiment.sequence_mean(ids, output), hidden.mean(1, keepdim=True))
    torch.testing.assert_close(experiment.prefix_mean(ids, output)[:, 2], hidden[:, :3].mean(1))
    assert experiment.nothing(ids, output).abs().max() == 0
    dealt = experiment.shuffled(0)(ids, output)
    assert not torch.equal(dealt, hidden)
    torch.testing.assert_close(dealt.flatten().sort().values, hidden.flatten().sort().values)
    read = experiment.embeddings(model)(ids, output)
    torch.testing.assert_close(read.square().mean(-1), torch.ones(2, 7))
    changed = ids.clone()
    changed[:, 0] = 3
    torch.testing.assert_close(experiment.embeddings(model)(changed, output)[:, 1:], read[:, 1:])


@pytest.fixture
def hub_files(tmp_path, monkeypatch):
    """A model, adapters in sub-folders, and text in the hub's layout, small."""
    from repro.data import word_tokenizer

    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    words = [f"w{i}" for i in range(VOCAB - 3)]
    draw = random.Random(0)

    def text(some):
        return " ".join(draw.choices(some, k=8))

    made().save_pretrained(tmp_path / "model")
    word_tokenizer(words).save_pretrained(tmp_path / "model")
    for i in range(1, 4):
        torch.manual_seed(i)
        config = LoraConfig(task_type="CAUSAL_LM", r=2, init_lora_weights=False, target_modules=["q_proj", "up_proj"])
        get_peft_model(made(), config).save_pretrained(tmp_path / "adapters" / f"adapter_{i}")
    for name in ("gsm8k", "metamath", "alpaca-gpt4"):
        (tmp_path / name).mkdir()
    for split in ("train", "test"):
        rows = [{"question": text(words[:9]), "answer": f"{text(words[:9])} #### 3"} for _ in range(40)]
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = [{"query": text(words[9:18]), "response": text(words[9:18])} for _ in range(1040)]
    (tmp_path / "metamath" / "MetaMathQA-395K.json").write_text(json.dumps(rows))
    rows = [{"instruction": text(words[18:]), "input": "", "output": text(words[18:])} for _ in range(1040)]
    (tmp_path / "alpaca-gpt4" / "alpaca_gpt4_data.json").write_text(json.dumps(rows))
    return {
        "model": str(tmp_path / "model"), "adapters": str(tmp_path / "adapters"),
        "folders": "adapter_1 adapter_2 adapter_3", "dtype": "float32", "autocast": "float32", "sequence": 64,
        "piece": 16, "steps": 3, "test": 12, "limit": 30,
    }  # fmt: skip


@pytest.mark.parametrize("arm", ["x-lora", "own"])
def test_models_adapters_and_text_of_the_hub_s_layout(hub_files, arm):
    """The configuration of the published scale on small local files."""
    from papers.x_lora.experiment import run

    outcome = run(Config(**PAPER.resolve("zephyr", arm, "published", hub_files)), Context(seed=0))
    assert outcome.data["domains"] == ["gsm8k", "metamath", "alpaca-gpt4"]
    assert outcome.data["model"] == hub_files["model"]
    assert len(outcome.data["own"].split()) == 3
    assert outcome.data["held_out_rows"] == 24
    assert math.isfinite(outcome.metrics["excess_spliced"])
    assert set(outcome.metrics) <= set(PAPER.metrics)


def test_spliced_text_is_text_of_the_domain_that_it_names(hub_files):
    from repro.data.base import IGNORED
    from repro.data.markov import pieces
    from repro.data.registry import load_language
    from repro.training.adapter_bench import text_rows

    data = [load_language(n, 64, tokenizer=hub_files["model"], limit=30) for n in ("metamath", "alpaca-gpt4")]
    length = max(part.sequence for part in data)
    rows = text_rows(data, pieces([0, 1], 20, length, 8, 0, "test"), 0)
    known = (rows.targets[:, :-1] != IGNORED) & (rows.targets[:, :-1] != 1)  # the end of a text is never read
    assert torch.equal(rows.targets[:, :-1][known], rows.inputs[:, 1:][known])
    assert (rows.targets != 0).all()  # padding is never predicted
    for domain, (low, high) in enumerate(((9, 18), (18, 30))):
        mine = (rows.domains == domain) & (rows.targets != IGNORED)
        mine[:, :-1] &= rows.domains[:, 1:] == domain  # the last target of a piece is the next one's first token
        found = rows.targets[mine] - 3
        found = found[found >= 0]
        assert found.numel() > 10
        assert ((found >= low) & (found < high)).all()


def test_absent_adapters_are_an_error_that_says_so(hub_files):
    from papers.x_lora.experiment import run
    from repro.data import MissingData

    config = Config(**PAPER.resolve("zephyr", "x-lora", "published", {**hub_files, "folders": "adapter_1 adapter_9"}))
    with pytest.raises(MissingData, match="adapter_9' is absent"):
        run(config, Context(seed=0))


def test_partners_of_the_controls_read_nothing_that_is_still_to_come(adapters):
    """Gates that read the tokens to be predicted have a head start, under which a control of C2 stays quiet."""
    from types import SimpleNamespace

    from papers.x_lora.experiment import mixture_of

    def looks_ahead(arm: str, setting: str) -> bool:
        config = Config(**PAPER.resolve(setting, arm, "laptop"))
        mixture = mixture_of(config, SimpleNamespace(model=made(), adapters=adapters), Context(seed=0)).eval()
        ids, other = batch(), batch()
        other[:, 5:] = 4
        one, two = (mixture.scalings(x).expand(2, 7, -1, -1)[:, :5] for x in (ids, other))
        mixture.release()
        return not torch.allclose(one, two, atol=1e-6)

    controls = [c for c in PAPER.claim("C2").comparisons if c.role == "control"]
    assert {c.name for c in controls} == {"pure", "one-source"}
    assert looks_ahead("sequence", "sources")
    for control in controls:
        for arm in control.terms:
            assert not looks_ahead(arm, control.settings[0]), (control.name, arm)


def test_gates_that_are_the_same_for_all_tokens_do_not_decide_c5():
    """Of the parts that decide it one at least is beyond a constant mixture, whatever its gates."""
    from papers.x_lora.experiment import spread

    draw = torch.Generator().manual_seed(0)
    metrics = spread(torch.rand(1, 28, 4, generator=draw).mul(4).softmax(-1).expand(50, 28, 4))
    deciding = [c for c in PAPER.claim("C5").comparisons if c.role == "primary"]
    met = [c.name for c in deciding if c.offset + sum(k * metrics[c.metric] for k in c.terms.values()) > 0]
    assert {c.name for c in deciding} - set(met) == {"tokens"}


def test_an_unknown_gate(adapters):
    from types import SimpleNamespace

    from papers.x_lora.experiment import mixture_of

    with pytest.raises(ValueError, match="gate is one of"):
        mixture_of(Config(gate="median"), SimpleNamespace(model=made(), adapters=adapters), Context(seed=0))


# --- published figures ----------------------------------------------------------------------------------------


def test_published_sizes():
    from papers.x_lora.published import accounting

    found = accounting()
    assert found["head_zephyr-7b"] == (4096 + 1) * 9 * 160 == 5_899_680
    assert found["head_gemma-7b"] == 7_899_920
    assert found["base_zephyr-7b"] == 7_241_732_096
    assert found["head_mb_zephyr-7b"] == pytest.approx(11.8, abs=0.05)
    assert found["head_mb_gemma-7b"] == pytest.approx(15.8, abs=0.05)
    assert found["head_percent_zephyr-7b"] == pytest.approx(0.0815, abs=5e-5)
    assert 1.8 < found["flops_ratio_r16_zephyr-7b"] < 2.3


def test_flops_of_the_accounting_are_what_torch_counts():
    from papers.x_lora.published import adapter_parameters, flops_ratio
    from repro.models.adapters import Adapter
    from repro.profiling.architectures import Architecture
    from repro.profiling.counts import count_flops

    shape = Architecture("llama", BLOCKS, HIDDEN, 4, 2, 24, VOCAB)
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj")

    def adapter(model):
        linear = {n: m for n, m in model.named_modules() if n.rpartition(".")[2] in names}
        factors = {n: (torch.ones(3, m.in_features), torch.ones(m.out_features, 3)) for n, m in linear.items()}
        return Adapter("a", factors, 1.0)

    model = made()
    one = adapter(model)
    assert sum(a.numel() + b.numel() for a, b in one.factors.values()) == adapter_parameters(shape, 3)
    mixture = XLora(model, [one] * 4)
    both = count_flops(lambda: mixture(batch()))
    head = sum(m.weight.numel() for m in mixture.head.modules() if isinstance(m, torch.nn.Linear))
    mixture.release()
    single = XLora(model, [one])
    with single.fixed(single.bank.uniform()):
        alone = count_flops(lambda: model(batch()))
    assert both / alone == pytest.approx(flops_ratio(shape, 3, 4, head, 7), rel=0.01)


def test_generation_without_a_cache():
    from papers.x_lora.published import generation_ratio

    assert generation_ratio(7, 3) == pytest.approx((7 + 7 + 8 + 8 + 9 + 9) / 9)
