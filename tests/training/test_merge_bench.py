"""The merge bench: shared models, frozen heads, and what decides them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from repro.data.glyphs import glyphs
from repro.models.task_vectors import apply, task_vector
from repro.training.merge_bench import BenchSpec, base_of, fresh, head_of, merge_bench, tasks_of

SPEC = BenchSpec(
    tasks=2, classes=4, base_classes=8, base_images=200, images=80, validation=20, test=40, layers=2, hidden=16,
    heads=2, width=24, steps=30, batch=16, tune_steps=15, tune_batch=16, tune_lr=2e-3, head_noise=1.0, seed=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield merge_bench(SPEC)


def test_it_is_built_once_and_its_pretraining_is_shared(bench):
    assert bench.built == 3
    assert merge_bench(SPEC).built == 0
    assert merge_bench(replace(SPEC, test=20, tasks=1)).built == 0
    styles = merge_bench(replace(SPEC, kind="styles", tasks=1))
    assert styles.built == 1
    assert all(torch.equal(styles.base[n], bench.base[n]) for n in bench.base)
    assert base_of(SPEC) != base_of(replace(SPEC, seed=5))


def test_fine_tuned_models_differ_from_the_base_and_fit_their_task_better(bench):
    for task, state in enumerate(bench.tuned):
        tau = task_vector(state, bench.base)
        assert all(v.abs().sum() > 0 for v in tau.values())
        torch.testing.assert_close(apply(bench.base, tau)["norm.weight"], state["norm.weight"])
        assert "head" not in state
        own = bench.accuracy(state, task, "train")
        assert own > bench.accuracy(bench.base, task, "train")
        assert own > 0.25  # chance


def test_accuracy_is_that_of_the_module(bench):
    model = fresh(SPEC)
    model.load_state_dict(bench.tuned[1])
    images, labels = bench.tasks[1].test
    with torch.no_grad():
        right = (model.eval()(images) @ torch.nn.functional.normalize(bench.heads[1], dim=-1).T).argmax(-1) == labels
    assert bench.accuracies(bench.tuned[1])[1] == pytest.approx(float(right.float().mean()))
    limited = bench.accuracy(bench.tuned[1], 1, limit=10)
    assert limited == pytest.approx(float(right[:10].float().mean()))


def test_heads_are_half_right(bench):
    """Class means and noise of equal length: about 45 degrees between a head's direction and the class mean."""
    model = fresh(SPEC)
    model.load_state_dict(bench.base)
    with torch.no_grad():
        features = model.eval()(bench.tasks[0].train.pixels)
    labels = bench.tasks[0].train.labels
    means = torch.stack([features[labels == c].mean(0) for c in range(4)])
    means = torch.nn.functional.normalize(means - means.mean(0), dim=-1)
    noise = bench.heads[0] - means
    torch.testing.assert_close(noise.norm(dim=-1), torch.ones(4), atol=1e-4, rtol=0)


def test_heads_of_styles_are_those_of_plain_images():
    plain, styles = (replace(SPEC, kind=kind, head_noise=0.0) for kind in ("classes", "styles"))
    model = fresh(SPEC)
    (new, *_), (known, *_) = tasks_of(plain), tasks_of(styles)
    same = glyphs(SPEC.seed, classes=4, train=80, validation=20, test=40)
    torch.testing.assert_close(head_of(model, known, styles, 0), head_of(model, same, plain, 0))
    assert not torch.allclose(head_of(model, new, plain, 0), head_of(model, known, styles, 0))


def test_a_record_keeps_what_it_needs(bench):
    profile = bench.profile()
    assert profile["train_samples"] == 30 * 16 + 2 * 15 * 16
    assert profile["params_total"] == sum(p.numel() for p in fresh(SPEC).parameters())
    assert profile["forward_flops"] > 2 * 17 * 2 * (4 * 16 * 16 + 2 * 16 * 24)
    described = bench.describe()
    assert described["name"] == "glyphs"
    assert described["tasks"] == 2


def test_initial_weights_depend_on_the_seed_and_keep_the_scale():
    a, b, c = fresh(SPEC), fresh(SPEC), fresh(replace(SPEC, seed=9))
    assert torch.equal(a.blocks[0].mlp.fc1.weight, b.blocks[0].mlp.fc1.weight)
    assert not torch.equal(a.blocks[0].mlp.fc1.weight, c.blocks[0].mlp.fc1.weight)
    assert float(a.blocks[0].mlp.fc2.weight.detach().std()) == pytest.approx(24**-0.5, rel=0.2)
    assert float(a.positions.detach().std()) == pytest.approx(0.02, rel=0.2)
