"""NoProp: the noise process, isolation of the blocks, limits that are known, and the published network."""

from __future__ import annotations

import gzip
import math
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from papers.noprop.baselines import GatedChain, NeuralODE
from papers.noprop.method import (
    LearnedSchedule,
    NoPropCT,
    NoPropDT,
    NoPropFM,
    cosine_schedule,
    diffuse,
    posterior,
    prior_divergence,
    snr,
)
from papers.noprop.model import Block, BlockShape, Embedding, Head
from papers.noprop.paper import PAPER, Config, by_data
from papers.noprop.published import BLOCKS, TASKS, accounting, memories, on_meta
from repro.models.neural_ode import euler

SHAPE = BlockShape(1, 8, 3, 3, convs=(2, 3), pools=(True, True), width=6, fused=(5,), dropout=0.0)


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(rows=12, classes=3):
    return torch.randn(rows, 1, 8, 8, generator=noise(5)), torch.arange(rows) % classes


def small(kind=NoPropDT, blocks=3, embedding=None, **options):
    torch.manual_seed(0)
    embedding = embedding or Embedding.one_hot(3)
    shape = BlockShape(**{**SHAPE.__dict__, "d": embedding.weight.shape[1]})
    head = Head(embedding)
    if kind is NoPropDT or kind is GatedChain:
        return kind([Block(shape) for _ in range(blocks)], embedding, head, **options)
    return kind(Block(shape, timed=True), embedding, head, **options)


class Oracle(nn.Module):
    """A block that knows the label: images are one-hot labels, large enough for the softmax to be exact."""

    def look(self, x):
        return x

    def forward(self, z, seen, t=None):
        return 1e3 * seen


# --- the noise ------------------------------------------------------------------------------------------------


def test_coefficients_of_a_step():
    before, after = torch.tensor(0.25, dtype=torch.float64), torch.tensor(0.64, dtype=torch.float64)
    assert float(before / after) == pytest.approx(0.390625)
    a, b, c = (float(v) for v in posterior(before, after))
    assert (a, b, c) == pytest.approx((0.65, 0.30, 0.2925))
    assert a + b * 0.5 == pytest.approx(0.8)  # the mean scales the embedding by the root of abar_t
    assert b * b * 0.75 + c == pytest.approx(0.36)
    alpha = 0.390625
    assert (
        float(snr(after) - snr(before)) == pytest.approx(0.64 * (1 - alpha) / (0.36 * 0.75)) == pytest.approx(1.444444)
    )


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_signal_grows_and_its_increments_add_up(steps):
    abar = cosine_schedule(steps)
    assert len(abar) == steps + 1
    assert (abar.min(), abar.max()) == (pytest.approx(1e-4), pytest.approx(1 - 1e-4))
    ratio = snr(abar)
    increments = ratio.diff()
    assert (increments >= 0).all()
    assert (increments > 0).sum() >= min(steps, 0.98 * steps)  # the clamp makes a few of 1000 equal
    assert float(increments.sum()) == pytest.approx(float(ratio[-1] - ratio[0]))


def test_the_middle_of_the_cosine():
    assert float(cosine_schedule(2)[1]) == pytest.approx(0.5)
    assert float(cosine_schedule(3)[1]) == pytest.approx(0.25)


def test_noising_scales_the_mean_by_the_root():
    u = torch.full((200_000, 1), 2.0)
    z = diffuse(u, torch.tensor(0.25), noise())
    assert float(z.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(z.var()) == pytest.approx(0.75, abs=0.01)


def test_divergence_from_the_prior_is_torch_s():
    u, abar = torch.randn(7, 4, generator=noise()), torch.tensor(0.3)
    q = torch.distributions.Normal(abar.sqrt() * u, (1 - abar).sqrt())
    p = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
    expected = torch.distributions.kl_divergence(q, p).sum(1).mean()
    torch.testing.assert_close(prior_divergence(u, abar), expected)


def test_a_perfect_chain_keeps_to_the_noising_process():
    embedding = Embedding(torch.tensor([[1.0, -0.5], [0.0, 2.0]]), learned=False)
    model = NoPropDT([Oracle() for _ in range(5)], embedding, Head(embedding))
    labels = torch.zeros(200_000, dtype=torch.long)
    chain = model.chain(F.one_hot(labels, 2).float(), noise())
    assert len(chain) == 6
    u = embedding.weight[0].detach()
    for z, abar in zip(chain[1:], model.abar[1:].float(), strict=True):
        torch.testing.assert_close(z.mean(0), abar.sqrt() * u, atol=0.02, rtol=0)
        torch.testing.assert_close(z.var(0), (1 - abar).expand(2), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.corrcoef(chain[3].T)[0, 1], torch.tensor(0.0), atol=0.01, rtol=0)


# --- training -------------------------------------------------------------------------------------------------


def test_a_step_reaches_one_block_only():
    model = small(embedding=Embedding.orthogonal(3, 4, noise()))
    x, y = batch()
    model.block_loss(2, x, y, noise()).backward()
    for t, block in enumerate(model.blocks, 1):
        gradients = [p.grad for p in block.parameters()]
        assert all((g is not None) == (t == 2) for g in gradients)
    assert model.embedding.weight.grad.abs().sum() > 0
    assert model.head.linear.weight.grad.abs().sum() > 0


def test_other_blocks_are_not_even_run():
    model = small()
    for t in (0, 2):
        model.blocks[t].forward = model.blocks[t].look = None
    model.block_loss(2, *batch(), noise()).backward()


def test_blocks_learn_the_same_in_any_order():
    x, y = batch()

    def gradients(order):
        model = small()
        for t in order:
            model.block_loss(t, x, y, noise(t)).backward()
        return [p.grad for p in model.blocks.parameters()]

    for one, other in zip(gradients((1, 2, 3)), gradients((3, 1, 2)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_order_of_algorithm_1():
    assert list(small().order(2)) == [1, 2, 3, 1, 2, 3]


def test_divergence_has_no_gradient_where_the_embedding_is_fixed():
    y = batch()[1]
    fixed, learned = Embedding.one_hot(3), Embedding.orthogonal(3, 4, noise())
    assert not prior_divergence(fixed(y), torch.tensor(1e-4)).requires_grad
    prior_divergence(learned(y), torch.tensor(0.5)).backward()
    assert learned.weight.grad.abs().sum() > 0


def test_discrete_guesses_are_in_the_convex_hull_and_velocities_need_not_be():
    x, _ = batch()
    model = small()
    guess = model.predict(1, torch.randn(12, 3), x, noise())
    assert (guess >= 0).all()
    torch.testing.assert_close(guess.sum(1), torch.ones(12))
    flow = small(NoPropFM)
    v = flow.velocity(torch.randn(12, 3), flow.block.look(x), torch.rand(12))
    assert (v < 0).any()


def test_one_block_is_a_classifier_with_a_squared_loss_and_a_head():
    model = small(blocks=1, eta=0.1).eval()
    x, y = batch()
    loss = model.block_loss(1, x, y, noise(3))
    generator = noise(3)
    u = F.one_hot(y, 3).float()
    z = 0.01 * u + math.sqrt(1 - 1e-4) * torch.randn(12, 3, generator=generator)  # as good as noise
    error = (model.blocks[0](z, model.blocks[0].look(x)).softmax(1) - u).square().sum(1).mean()
    last = math.sqrt(1 - 1e-4) * u + 0.01 * torch.randn(12, 3, generator=generator)
    weight = 1 / 2 * 0.1 * (9999 - 1 / 9999)
    constant = 0.5 * (1e-4 - 3e-4 - 3 * math.log1p(-1e-4))
    torch.testing.assert_close(loss, F.cross_entropy(model.head(last), y) + weight * error + constant)


def test_weights_of_the_blocks_are_increments_of_the_signal():
    model = small().eval()
    x, y = batch()
    for t in (1, 2, 3):
        model.eta = 0.0
        without = model.block_loss(t, x, y, noise(t))
        model.eta = 0.1
        z = diffuse(model.embedding(y), model.abar[t - 1], noise(t))
        error = (model.predict(t, z, x, noise()) - model.embedding(y)).square().sum(1).mean()
        expected = 3 / 2 * 0.1 * float(snr(model.abar)[t] - snr(model.abar)[t - 1]) * error
        torch.testing.assert_close(model.block_loss(t, x, y, noise(t)) - without, expected, rtol=1e-3, atol=1e-5)


def test_a_blind_block_does_not_see_z():
    x, _ = batch()
    model = small(blind=True).eval()
    a, b = (model.predict(2, 100 * torch.randn(12, 3), x, noise(7)) for _ in range(2))
    torch.testing.assert_close(a, b)
    model.blind = False
    assert not torch.equal(model.predict(2, 100 * torch.randn(12, 3), x, noise(7)), a)


# --- continuous time ------------------------------------------------------------------------------------------


def test_a_perfect_velocity_reaches_the_embedding_in_any_number_of_steps():
    start, u = torch.randn(5, 3, generator=noise()), torch.eye(3)[torch.arange(5) % 3]
    for steps in (1, 3, 50):
        torch.testing.assert_close(euler(lambda z, t: u - start, start, steps), u)


def test_the_target_of_flow_matching_is_label_minus_noise():
    model = small(NoPropFM, sigma=0.0).eval()
    model.head = None
    x, y = batch()
    generator = noise(4)
    u = F.one_hot(y, 3).float()
    z0, t = torch.randn(12, 3, generator=generator), torch.rand(12, generator=generator)
    z = t[:, None] * u + (1 - t[:, None]) * z0
    expected = (model.velocity(z, model.block.look(x), t) - (u - z0)).square().sum(1).mean()
    torch.testing.assert_close(model.loss(x, y, noise(4)), expected)


def test_the_learned_schedule_rises_and_knows_its_slope():
    schedule = LearnedSchedule().double()
    with torch.no_grad():
        for p in schedule.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=noise(), dtype=torch.float64))
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    gamma = schedule.gamma(t)
    assert (gamma.diff() < 0).all()
    torch.testing.assert_close(gamma[[0, -1]], schedule.ends.flip(0))
    torch.testing.assert_close(schedule.abar(t), 1 / (1 + gamma.exp()))
    h = 1e-6
    inner = t[1:-1]
    numeric = (torch.exp(-schedule.gamma(inner + h)) - torch.exp(-schedule.gamma(inner - h))) / (2 * h)
    torch.testing.assert_close(schedule.snr_slope(inner), numeric, rtol=1e-5, atol=1e-8)


def test_continuous_diffusion_trains_block_and_schedule_and_answers():
    model = small(NoPropCT)
    x, y = batch()
    model.loss(x, y, noise()).backward()
    for part in (model.block, model.schedule, model.head.linear):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert model.schedule.ends.grad.abs().sum() > 0
    embedding = Embedding.one_hot(3)
    oracle = NoPropCT(Oracle(), embedding, nn.Identity())
    scores = oracle.logits(F.one_hot(y, 3).float(), noise(), steps=50)
    assert (scores.argmax(1) == y).all()


def test_flow_matching_names_the_nearest_embedding():
    embedding = Embedding.orthogonal(3, 4, noise())
    model = NoPropFM(Oracle(), embedding)
    model.velocity = lambda z, seen, t: 50 * (embedding.weight[seen.argmax(1)] - z)  # type: ignore[method-assign, assignment]
    y = torch.arange(6) % 3
    scores = model.logits(F.one_hot(y, 3).float(), noise(), steps=100)
    assert (scores.argmax(1) == y).all()
    assert float(scores.max()) == pytest.approx(0.0, abs=1e-3)


# --- network and baselines ------------------------------------------------------------------------------------


def test_embeddings():
    orthogonal = Embedding.orthogonal(3, 20, noise()).weight
    torch.testing.assert_close(orthogonal @ orthogonal.T, torch.eye(3), atol=1e-5, rtol=0)
    many = Embedding.orthogonal(30, 20, noise()).weight
    torch.testing.assert_close(many.T @ many, torch.eye(20), atol=1e-5, rtol=0)
    assert not Embedding.one_hot(3).weight.requires_grad
    pixels = torch.tensor([0.0, 1.0, 1.6, 3.0, 9.0, 5.0, 5.2, 5.6, 9.0, 7.0])[:, None, None, None]
    found = Embedding.prototypes(pixels, torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1]), 2)
    assert found.weight[:, 0].tolist() == pytest.approx([1.0, 5.2])
    assert found.weight.requires_grad


def test_heads():
    embedding = Embedding(torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 1.0]]), learned=False)
    head = Head(embedding, "radial", sigma=0.5)
    z = torch.randn(4, 2)
    guess = head.linear(z).softmax(1) @ embedding.weight
    expected = torch.stack([-((guess - u) ** 2).sum(1) / 0.5 for u in embedding.weight], 1)
    torch.testing.assert_close(head(z), expected)
    torch.testing.assert_close(Head(embedding)(z).shape, torch.Size((4, 3)))
    with pytest.raises(ValueError, match="linear or radial"):
        Head(embedding, "square")


def test_an_aligned_head_tells_the_embeddings_apart():
    for embedding in (Embedding.one_hot(3), Embedding.orthogonal(3, 20, noise())):
        head = Head(embedding)
        head.align(5.0)
        torch.testing.assert_close(head(embedding.weight), 5 * torch.eye(3), atol=1e-5, rtol=0)


def test_a_prototype_block_convolves_its_label():
    pixels, labels = batch()
    embedding = Embedding.prototypes(pixels, labels, 3)
    shape = BlockShape(**{**SHAPE.__dict__, "d": 64})
    model = NoPropDT([Block(shape, prototype=True) for _ in range(2)], embedding, Head(embedding))
    model.block_loss(1, pixels, labels, noise()).backward()
    assert model.blocks[0].label.convolutions[0].weight.grad.abs().sum() > 0
    assert model.logits(pixels, noise()).shape == (12, 3)
    assert Block(shape).label(torch.randn(4, 64)).shape == (4, 6)


def test_the_gated_chain_between_its_limits():
    x, y = batch()
    closed = small(GatedChain, gate=0.0).eval()
    z = torch.randn(12, 3, generator=noise(2))
    torch.testing.assert_close(closed.logits(x, noise(2)), closed.head(z))
    wide = small(GatedChain, gate=1 - 1e-7).eval()
    for block in wide.blocks:
        z = block(z, block.look(x)).softmax(1)
    torch.testing.assert_close(wide.logits(x, noise(2)), wide.head(z), atol=1e-4, rtol=1e-4)
    wide.loss(x, y, noise()).backward()
    assert all(p.grad is not None for p in wide.blocks.parameters())


def test_the_ode_is_its_own_euler_step():
    model = small(NeuralODE, steps=1).eval()
    x, y = batch()
    z = torch.randn(12, 3, generator=noise(2))
    step = model.block(z, model.block.look(x), torch.zeros(12))
    torch.testing.assert_close(model.logits(x, noise(2)), model.head(z + step))
    model.steps = 4
    model.loss(x, y, noise()).backward()
    assert all(p.grad is not None for p in model.block.parameters())


# --- published size -------------------------------------------------------------------------------------------


def test_parameters_of_the_published_blocks():
    found = accounting()
    assert found["block_parameters_mnist"] == 2_001_290
    assert found["block_parameters_cifar10"] == 2_493_386
    assert found["parameters_mnist"] == 10 * 2_001_290 + 110
    assert found["steps_bp_mnist"] == 469
    assert found["steps_noprop_mnist"] == 4690
    assert found["state_gb_mnist"] == pytest.approx(0.320, abs=1e-3)
    assert found["state_gb_cifar10"] == pytest.approx(0.399, abs=1e-3)
    assert found["inference_flops_bp_mnist"] == found["inference_flops_noprop_mnist"]
    for claim in PAPER.claims:
        for k in claim.comparisons:
            if hasattr(k, "quantity") and hasattr(k, "expected"):
                assert k.quantity in found


def test_parts_of_the_published_block():
    with torch.device("meta"):
        block = Block(TASKS["mnist"].shape)

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(block.image.convolutions) == 92_672
    assert count(block.image.linear) == 1_605_888
    assert count(block.image.norm) == 512
    assert count(block.label) == 135_936
    assert count(block.fuse) == 166_282


def test_memory_is_that_of_one_block_against_all():
    held = memories(TASKS["mnist"])
    assert BLOCKS / 2 < held["bp"].activations / held["noprop"].activations < BLOCKS
    assert held["bp"].weights == held["noprop"].weights + 4 * BLOCKS  # its gates
    assert held["bp"].moments == held["noprop"].moments + 8 * BLOCKS
    assert held["bp"].gradients > 9.9 * held["noprop"].gradients
    noprop, chain = on_meta(TASKS["cifar100"])
    assert list(noprop.blocks) == list(chain.blocks)


# --- experiment -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes():
    from papers.noprop.experiment import run
    from repro.runner import Context

    arms = ("noprop", "bp-steps", "bp", "cnn", "ff", "noprop-ct", "noprop-fm-learned", "noprop-prototype")
    return {a: run(Config(**PAPER.resolve("digits", a, "smoke")), Context(seed=7)) for a in arms}


def test_arms_of_a_seed_share_data_and_are_matched_as_they_say(outcomes):
    assert len({o.data["fingerprint"] for o in outcomes.values()}) == 1
    profile = {name: o.profile for name, o in outcomes.items()}
    assert len({profile[a]["train_steps"] for a in ("noprop", "bp-steps", "cnn", "noprop-ct")}) == 1
    assert profile["bp"]["train_flops"] == pytest.approx(profile["noprop"]["train_flops"], rel=0.2)  # of 3 steps
    assert profile["bp-steps"]["train_flops"] > 1.9 * profile["noprop"]["train_flops"]
    assert profile["bp-steps"]["activation_bytes"] > 1.7 * profile["noprop"]["activation_bytes"]
    for outcome in outcomes.values():
        assert not outcome.diverged
        assert set(outcome.metrics) <= set(PAPER.metrics)
    table = outcomes["noprop"].tables
    assert len(table["alone_on_noise"]) == len(table["chain_cut_after"]) == 2
    assert outcomes["noprop"].metrics["first_block"] == table["alone_on_noise"][0]


@pytest.mark.parametrize(
    ("setting", "steps"),
    [("digits", {"noprop": 1360, "noprop-fm": 1360, "ode-fm": 302, "ode-dt": 332, "bp-even": 302}),
     ("worn-glyphs", {"noprop": 1880, "noprop-fm": 1880, "ode-fm": 588, "ode-dt": 627, "bp-even": 427})],
)  # fmt: skip
def test_arms_by_the_clock_are_shorter_by_the_ratio_of_their_steps(setting, steps):
    from papers.noprop.experiment import length
    from repro.data.registry import load_images
    from repro.runner import Context

    data, context = load_images(setting, seed=7), Context(seed=7)
    for arm, expected in steps.items():
        config = Config(**PAPER.resolve(setting, arm, "laptop"))
        assert length(config, data, context, None) == expected, arm  # type: ignore[arg-type]


def test_times_within_15_percent_are_asked_of_arms_that_were_set_to_them():
    even = {
        tuple(comparison.terms) for claim in PAPER.claims for comparison in claim.comparisons
        if any(m.quantity == "train_s" and m.tolerance == 0.15 for m in getattr(comparison, "matched", ()))
    }  # fmt: skip
    assert even == {("noprop-fm", "ode-fm"), ("noprop", "ode-dt"), ("noprop", "bp-even")}


def test_a_run_repeats_itself_to_the_last_digit(outcomes):
    from papers.noprop.experiment import run
    from repro.runner import Context

    again = run(Config(**PAPER.resolve("digits", "noprop", "smoke")), Context(seed=7))
    first = outcomes["noprop"].metrics
    assert {k: v for k, v in again.metrics.items() if k != "step_s"} == {
        k: v for k, v in first.items() if k != "step_s"
    }
    assert again.curves == outcomes["noprop"].curves


def test_blocks_that_are_not_trained_keep_their_start():
    from papers.noprop.experiment import ready
    from repro.data.digits import digits
    from repro.runner import Context
    from repro.training.classify import classify
    from repro.training.loop import Optimisation

    config = Config(**PAPER.resolve("digits", "noprop-last", "smoke"))
    data, context = digits(0), Context(seed=0)
    learner, cost = ready(config, data, context)
    before = [p.clone() for p in learner.model.blocks[0].parameters()]
    classify(learner, data, Optimisation(1e-2, 4), context, batch=32, cost=cost, evaluations=1)
    for was, now in zip(before, learner.model.blocks[0].parameters(), strict=True):
        assert torch.equal(was, now)
    assert any(p.requires_grad for p in learner.model.blocks[-1].parameters())


def test_options_that_do_not_exist_are_errors():
    from papers.noprop.experiment import build, length
    from repro.data.digits import digits
    from repro.runner import Context

    data = digits(0)
    for option, value in (("learner", "rf"), ("embedding", "random"), ("shape", "large"), ("head", "square")):
        with pytest.raises(ValueError, match=value):
            build(Config(**{option: value}), data, 0)
    with pytest.raises(ValueError, match="money"):
        length(Config(budget="money"), data, Context(seed=0), None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing is given for mnist"):
        by_data("digits=1", "mnist")


@pytest.mark.parametrize("arm", ["noprop", "bp", "noprop-prototype", "noprop-ct", "ode"])
def test_the_published_configuration_on_small_files_of_mnist_s_layout(arm, tmp_path, monkeypatch):
    from papers.noprop.experiment import run
    from repro.runner import Context

    generator = np.random.default_rng(0)
    (tmp_path / "mnist").mkdir()
    for split, count in (("train", 60), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array, kind in (("images", images, 3), ("labels", labels, 1)):
            header = bytes((0, 0, 8, kind)) + struct.pack(f">{kind}I", *array.shape)
            file = tmp_path / "mnist" / f"{split}-{name}-idx{kind}-ubyte.gz"
            file.write_bytes(gzip.compress(header + array.tobytes()))
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    config = PAPER.resolve("mnist", arm, "published")
    assert (config["shape"], config["blocks"], config["lr"], config["batch"]) == ("published", 10, 1e-3, 128)
    small = {
        "validation": 10, "epochs": 1, "flow_epochs": 1, "ode_epochs": 1, "batch": 25, "blocks": 2,
        "inference_steps": 3, "ode_steps": 2, "draws": 1, "evaluations": 1,
    }  # fmt: skip
    outcome = run(Config(**{**config, **small}), Context(seed=0))
    assert outcome.data["name"] == "mnist"
    assert outcome.profile["train_steps"] == (4 if arm in ("noprop", "noprop-prototype") else 2)
    if arm == "noprop":
        assert outcome.profile["params_total"] == 2 * 2_001_290 + 110 + 100  # head and one-hot embedding


def test_absent_data_is_a_plain_error(tmp_path, monkeypatch):
    from papers.noprop.experiment import run
    from repro.data.errors import MissingData
    from repro.runner import Context

    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingData, match="mnist"):
        run(Config(**PAPER.resolve("mnist", "noprop", "published")), Context(seed=0))
