"""LiNeS: the edit on real models' names, its invariants, and the published figures."""

from __future__ import annotations

import io
import itertools
import math

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaModel,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
    ViTConfig,
    ViTModel,
)

from papers.lines.method import (
    ALPHAS,
    GRIDS,
    block_of,
    choose_alpha,
    depths,
    edited_scalars,
    factors,
    lines,
    lines_merged,
    merge_alpha,
    scale_by_depth,
    tradeoff,
)
from papers.lines.paper import PAPER, Config
from repro.evaluation.merging import lead
from repro.models.task_vectors import apply, task_vector, ties, total
from repro.models.vit import ViT
from repro.models.vit import ViTConfig as OwnConfig

SMALL = {
    "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12,
}  # fmt: skip


def vector(seed=0, layers=4):
    """An update of a small ViT."""
    generator = torch.Generator().manual_seed(seed)
    model = ViT(OwnConfig(size=8, hidden=8, heads=2, width=12, layers=layers))
    return {n: torch.randn(p.shape, generator=generator) for n, p in model.state_dict().items()}


def same(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance)


def released(tau, alpha, beta, num_blocks):
    """The scaling as the released code has it: a block is found by ``.{i}.`` in the name."""
    out = {}
    for key, value in tau.items():
        found = next((i for i in range(num_blocks) if f".{i}." in key), None)
        out[key] = value * (alpha if found is None else alpha + beta * (found / (num_blocks - 1)))
    return out


# --- factors --------------------------------------------------------------------------------------------------


def test_factors_of_twelve_blocks():
    found = factors(12, 0.1, 0.9)
    assert found[:3] == pytest.approx([0.1, 0.1818, 0.2636], abs=5e-5)
    assert found[-1] == pytest.approx(1.0)
    assert [b - a for a, b in itertools.pairwise(found)] == pytest.approx([0.9 / 11] * 11)


def test_one_block_has_no_factor():
    with pytest.raises(ValueError, match="one block"):
        factors(1, 0.1, 0.9)
    with pytest.raises(ValueError, match="at least two"):
        lines(vector(layers=1), 0.1)
    with pytest.raises(ValueError, match="no parameter belongs"):
        lines({"weight": torch.ones(2)}, 0.1)
    with pytest.raises(ValueError, match="numbered from 0"):
        lines({"blocks.1.w": torch.ones(2), "blocks.3.w": torch.ones(2)}, 0.1)
    with pytest.raises(ValueError, match="no schedule"):
        factors(4, 0.1, 0.9, "cubic")  # type: ignore[arg-type]


def test_other_schedules_spend_the_same_or_less():
    linear = factors(6, 0.2, 0.6)
    assert factors(6, 0.2, 0.6, "reversed") == pytest.approx(linear[::-1])
    permuted = factors(6, 0.2, 0.6, "permuted", seed=1)
    assert sorted(permuted) == pytest.approx(linear)
    assert permuted != linear
    assert permuted != factors(6, 0.2, 0.6, "permuted", seed=2)
    assert factors(6, 0.2, 0.6, "uniform") == pytest.approx([sum(linear) / 6] * 6)
    quadratic = factors(6, 0.2, 0.6, "quadratic")
    assert (quadratic[0], quadratic[-1]) == pytest.approx((linear[0], linear[-1]))
    assert quadratic[2] == pytest.approx(0.2 + 0.6 * 0.16)


# --- the edit -------------------------------------------------------------------------------------------------


def test_it_is_the_released_code_on_names_it_was_made_for():
    tau = vector()
    same(scale_by_depth(tau, 0.3, 0.5), released(tau, 0.3, 0.5, 4))
    open_clip = {f"model.visual.transformer.resblocks.{i}.mlp.c_fc.weight": torch.randn(3, 2) for i in range(12)}
    open_clip |= {"model.visual.conv1.weight": torch.randn(2), "model.visual.ln_post.weight": torch.randn(2)}
    same(lines(open_clip, 0.1), released(open_clip, 0.1, 0.9, 12))


def test_alpha_one_returns_the_input_and_alpha_lambda_is_task_arithmetic():
    tau = vector()
    same(lines(tau, 1.0), tau)
    same(scale_by_depth(tau, 0.3, 0.0), {n: 0.3 * v for n, v in tau.items()})


def test_the_last_block_is_whole_and_the_rest_outside_is_alpha():
    tau = vector()
    edited = lines(tau, 0.2)
    for name in tau:
        place = block_of(name)
        if place is None or place == ("", 0):
            torch.testing.assert_close(edited[name], 0.2 * tau[name])
        elif place == ("", 3):
            assert torch.equal(edited[name], tau[name])
    assert block_of("norm.weight") is None  # behind the last block, and alpha all the same


def test_the_edit_is_linear_and_changes_nothing_in_place():
    a, b = vector(1), vector(2)
    kept = {n: v.clone() for n, v in a.items()}
    both = lines({n: a[n] + b[n] for n in a}, 0.4)
    same(both, total([lines(a, 0.4), lines(b, 0.4)]))
    same(a, kept, rtol=0, atol=0)


def test_it_commutes_with_the_sum_and_not_with_trimming():
    taus = [vector(s) for s in (1, 2, 3)]
    same(scale_by_depth(total(taus), 0.3, 0.5), total([scale_by_depth(t, 0.3, 0.5) for t in taus]))
    first = scale_by_depth(ties(taus), 0.3, 0.5)
    then = ties([scale_by_depth(t, 0.3, 0.5) for t in taus])
    assert any((first[n] - then[n]).abs().max() > 1e-3 for n in first)


def test_alpha_of_merges():
    taus = [vector(s) for s in (1, 2, 3)]
    assert merge_alpha(taus, total(taus)) == pytest.approx(1 / 3)
    half = {n: 0.5 * v for n, v in total(taus).items()}
    assert merge_alpha(taus, half) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="zero"):
        merge_alpha(taus, {n: 0 * v for n, v in taus[0].items()})


def test_copies_of_one_model_merge_to_its_first_block():
    tau = vector()
    edited = lines_merged([tau] * 5, total([tau] * 5), beta=0.7)
    for name in tau:
        if block_of(name) in (None, ("", 0)):
            torch.testing.assert_close(edited[name], tau[name])
    torch.testing.assert_close(edited["blocks.3.norm1.weight"], 5 * (0.2 + 0.7) * tau["blocks.3.norm1.weight"])


# --- names of models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "stacks"),
    [
        (ViTModel(ViTConfig(**SMALL, image_size=8, patch_size=4)), 1),
        (CLIPVisionModel(CLIPVisionConfig(**SMALL, image_size=8, patch_size=4, projection_dim=4)), 1),
        (BertModel(BertConfig(**SMALL, vocab_size=20)), 1),
        (RobertaModel(RobertaConfig(**SMALL, vocab_size=20)), 1),
        (LlamaModel(LlamaConfig(**SMALL, vocab_size=20)), 1),
        (T5Model(T5Config(d_model=8, d_kv=4, d_ff=12, num_layers=4, num_heads=2, vocab_size=20)), 2),
    ],
    ids=lambda x: type(x).__name__ if not isinstance(x, int) else "",
)  # fmt: skip
def test_blocks_of_transformers_models(model, stacks):
    names = [name for name, _ in model.named_parameters()]
    count = 3 if stacks == 1 else 4  # a T5 block holds lists of two or three sublayers
    assert list(depths(names).values()) == [count] * stacks
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    assert len(lists) == stacks
    tau = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    edited = lines(tau, 0.2)
    inside = set()
    for blocks in lists:
        for i, block in enumerate(blocks):
            for p in block.parameters():
                inside.add(id(p))
                name = next(n for n, q in model.named_parameters() if q is p)
                assert float(edited[name].flatten()[0]) == pytest.approx(0.2 + 0.8 * i / (count - 1))
    for name, p in model.named_parameters():
        if id(p) not in inside:
            assert float(edited[name].flatten()[0]) == pytest.approx(0.2)


def test_encoder_and_decoder_are_numbered_apart():
    assert block_of("encoder.block.3.layer.0.SelfAttention.q.weight") == ("encoder", 3)
    assert block_of("decoder.block.3.layer.1.EncDecAttention.q.weight") == ("decoder", 3)
    assert block_of("transformer.h.7.attn.c_attn.weight") == ("", 7)
    assert block_of("embeddings.position_embedding.weight") is None
    # found by ".0." anywhere, the fourth block's attention would be taken for the first block
    tau = {f"encoder.block.{i}.layer.0.w": torch.ones(1) for i in range(4)}
    assert float(lines(tau, 0.0)["encoder.block.3.layer.0.w"]) == 1.0
    assert float(released(tau, 0.0, 1.0, 4)["encoder.block.3.layer.0.w"]) == 0.0


def test_a_block_of_one_s_own():
    tau = {f"stage{i}_w": torch.ones(1) for i in range(3)} | {"stem": torch.ones(1)}
    edited = lines(tau, 0.5, where=lambda name: int(name[5]) if name.startswith("stage") else None)
    assert {n: float(v) for n, v in edited.items()} == {"stage0_w": 0.5, "stage1_w": 0.75, "stage2_w": 1, "stem": 0.5}


def test_an_edited_transformers_model_loads_and_runs():
    torch.manual_seed(0)
    base, tuned = (LlamaModel(LlamaConfig(**SMALL, vocab_size=20)).eval() for _ in range(2))
    tau = task_vector(tuned.state_dict(), base.state_dict())
    ids = torch.arange(6)[None]
    edited = LlamaModel(base.config).eval()
    edited.load_state_dict(apply(base.state_dict(), lines(tau, 1.0)))
    torch.testing.assert_close(edited(ids).last_hidden_state, tuned(ids).last_hidden_state)
    edited.load_state_dict(apply(base.state_dict(), lines(tau, 0.0)))
    assert (edited(ids).last_hidden_state - tuned(ids).last_hidden_state).abs().max() > 1e-3


# --- choosing -------------------------------------------------------------------------------------------------


def test_alpha_is_chosen_by_the_weighted_trade_off():
    assert tradeoff(0.9, 0.6) == pytest.approx(2.4)
    scores = {1.0: (100.0, 75.0), 0.5: (99.0, 90.0), 0.1: (90.0, 100.0)}
    assert choose_alpha(scores) == 0.5
    assert choose_alpha(scores, weight=0.0) == 0.1
    assert choose_alpha(scores, weight=50.0) == 1.0
    assert choose_alpha({1.0: (1.0, 1.0), 0.9: (1.0, 1.0)}) == 1.0
    with pytest.raises(ValueError, match="nothing"):
        choose_alpha({})


def test_grids_are_those_of_the_released_code():
    assert ALPHAS == (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
    assert GRIDS["other"][0] == 0.1
    assert GRIDS["other"][-1] == 1.0
    assert GRIDS["ties"][-1] == 1.5


# --- experiment -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    from papers.lines.experiment import run
    from repro.runner import Context

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        arms = ("ta", "ta-lines", "ta-fine", "consensus-lines", "ties", "single-lines", "single-uniform")
        return {a: run(Config(**PAPER.resolve("classes", a, "smoke")), Context(seed=7)) for a in arms}


def test_arms_of_a_seed_share_models_and_cost(outcomes):
    data = [o.data["fingerprint"] for o in outcomes.values()]
    assert len(set(data)) == 1
    for name in ("train_samples", "params_total", "train_flops"):
        assert len({o.profile[name] for o in outcomes.values()}) == 1
    assert [o.profile["parts_built"] > 0 for o in outcomes.values()] == [True] + [False] * 6
    assert outcomes["ta"].metrics["zero_shot"] == outcomes["ta-lines"].metrics["zero_shot"]
    assert outcomes["ta"].profile["evaluations"] == outcomes["ta-lines"].profile["evaluations"] == 10
    assert outcomes["ta-fine"].profile["evaluations"] == 40
    assert outcomes["ties"].profile["evaluations"] == 15
    assert outcomes["consensus-lines"].metrics["mask_evaluations"] == 5
    assert outcomes["ta-lines"].metrics["alpha"] == pytest.approx(0.5)
    for outcome in outcomes.values():
        assert set(outcome.metrics) <= set(PAPER.metrics)


def test_alpha_one_and_zero_are_the_models_themselves(outcomes):
    uniform, edited = (outcomes[name].curves["target_by_alpha"] for name in ("single-uniform", "single-lines"))
    assert uniform["y"][0] == edited["y"][0]  # alpha = 1 leaves the fine-tuned model
    control = outcomes["single-uniform"].curves["control_by_alpha"]
    assert control["x"][-1] == 0
    assert math.isfinite(control["y"][-1])


def test_ways_to_forget_less_are_compared_on_the_same_images_at_the_same_target_accuracy(outcomes):
    uniform, edited = outcomes["single-uniform"], outcomes["single-lines"]
    assert uniform.curves["target_by_alpha"]["y"][0] == 100  # over the fine-tuned models' on the images of the curve
    assert uniform.metrics["over_uniform"] == pytest.approx(0)
    points, alike = (
        list(zip(o.curves["target_by_alpha"]["y"], o.curves["control_by_alpha"]["y"], strict=True))
        for o in (edited, uniform)
    )
    assert points[0] == alike[0]
    expected = lead(points[1:], alike)
    measured = edited.metrics["over_uniform"]
    assert measured == pytest.approx(expected, nan_ok=True)


@pytest.fixture(scope="module")
def clip_files(tmp_path_factory):
    """Models, tokenizer and data in the layout of the hub's, tiny."""
    image_module = pytest.importorskip("PIL.Image", reason="Pillow decodes the images of real data")
    from datasets import ClassLabel, Dataset, Features, Image, Value

    from repro.data import word_tokenizer

    folder = tmp_path_factory.mktemp("clip")
    words = ["a", "photo", "of", "the", "number", ":", '"', "0", "1", "2", ".", "texture", "striped", "dotted", "plain"]
    tokenizer = word_tokenizer(sorted(words))
    shape = dict(SMALL, num_hidden_layers=2)
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **shape, "vocab_size": len(tokenizer), "max_position_embeddings": 32, "projection_dim": 6,
            "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={**shape, "image_size": 16, "patch_size": 8, "projection_dim": 6}, projection_dim=6,
    )  # fmt: skip
    base = CLIPModel(config)
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    generator = torch.Generator().manual_seed(0)
    for task, names in (("mnist", ["0", "1", "2"]), ("dtd", ["striped", "dotted", "plain"])):
        tower = CLIPVisionModel(config.vision_config)
        tower.load_state_dict(base.vision_model.state_dict())
        with torch.no_grad():
            for p in tower.parameters():
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        tower.save_pretrained(folder / f"tuned_{task}")
        for split, count in (("train", 12), ("test", 9)):
            rows = []
            for i in range(count):
                pixels = torch.randint(0, 256, (20, 24, 3), generator=generator, dtype=torch.uint8)
                file = io.BytesIO()
                image_module.fromarray(pixels.numpy()).save(file, "PNG")
                rows.append({"image": {"bytes": file.getvalue(), "path": f"{i}.png"}, "label": i % 3})
            features = Features({"image": Image(), "label": ClassLabel(names=names)})
            plain = Features({"image": {"bytes": Value("binary"), "path": Value("string")}, "label": features["label"]})
            (folder / task).mkdir(exist_ok=True)
            table = Dataset.from_list(rows, features=plain).cast_column("image", Image())
            table.to_parquet(folder / task / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("arm", ["ta-lines", "consensus-lines", "single-lines"])
def test_models_and_data_of_the_hub_s_layout(clip_files, monkeypatch, tmp_path, arm):
    """The configuration of the published scale on small local files."""
    from papers.lines.experiment import run
    from repro.runner import Context

    monkeypatch.setenv("REPRO_DATA_DIR", str(clip_files))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    local = {"model": str(clip_files / "base"), "tuned": str(clip_files / "tuned_{task}"), "only": "mnist dtd"}
    config = PAPER.resolve("clip-vit-b-32", arm, "gpu", {**local, "validation": 6, "test": 8, "batch": 4})
    outcome = run(Config(**config), Context(seed=0))
    assert outcome.data["model"] == local["model"]
    assert outcome.data["held_out_rows"] == 16
    assert outcome.profile["train_samples"] == 0
    assert set(outcome.metrics) <= set(PAPER.metrics)


def test_clip_features_and_pixels_are_those_of_transformers(clip_files, monkeypatch, tmp_path):
    from repro.training.clip_bench import EIGHT, ClipBench, normalise_pixels

    monkeypatch.setenv("REPRO_DATA_DIR", str(clip_files))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    tasks = [task for task in EIGHT if task.name == "dtd"]
    bench = ClipBench(str(clip_files / "base"), str(clip_files / "tuned_{task}"), tasks, validation=3, test=9, batch=9)
    clip = CLIPModel.from_pretrained(clip_files / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(clip_files / "base")
    ((pixels, labels),) = bench._batches(0, "test", 0)
    assert pixels.shape == (9, 3, 16, 16)
    texts = [f"a photo of a {name} texture." for name in ("striped", "dotted", "plain")]
    with torch.no_grad():
        logits = clip(**tokenizer(texts, padding=True, return_tensors="pt"), pixel_values=normalise_pixels(pixels))
    right = (logits.logits_per_image.argmax(-1) == labels).float().mean()
    assert bench.accuracy(bench.base, 0) == pytest.approx(float(right))
    tau = task_vector(bench.tuned[0], bench.base)
    assert list(depths(list(tau)).values()) == [2]


def test_a_model_that_is_not_there_is_an_error_that_says_so(monkeypatch):
    from repro.data import MissingData
    from repro.training.clip_bench import pretrained

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingData, match="absent"):
        pretrained(CLIPModel, "nobody/no-such-model")


# --- published figures ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted():
    from papers.lines.published import accounting

    return accounting()


@pytest.mark.parametrize(
    ("name", "scalars", "blocks"),
    [("vit-b-32", 87_849_216, 12), ("vit-b-16", 86_192_640, 12), ("vit-l-14", 303_966_208, 24)],
)
def test_published_sizes(counted, name, scalars, blocks):
    assert counted[f"edited_scalars_{name}"] == scalars
    assert counted[f"blocks_{name}"] == blocks
    assert counted[f"extra_parameters_{name}"] == 0


def test_published_costs(counted):
    assert counted["checkpoint_megabytes_vit-b-32"] == pytest.approx(351, abs=0.5)
    assert (counted["evaluations_ta"], counted["evaluations_ties"], counted["evaluations_single"]) == (10, 15, 11)
    # blocks weigh alike: the mean factor is near the middle, drawn down by what is outside
    assert 0.5 < counted["mean_factor_vit-b-32"] < 0.55


def test_edited_scalars_counts_every_entry():
    assert edited_scalars({"a": torch.ones(2, 3), "b": torch.ones(4)}) == 10
