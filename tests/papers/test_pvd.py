"""PVD: stages, losses and what is inherited, against the paper and the released code's defaults."""

from __future__ import annotations

import math

import pytest
import torch

from papers.pvd.experiment import Lesson, distil, run, speed_ups
from papers.pvd.method import (
    ALL,
    DISTANCES,
    FEATURE,
    POINTS,
    Distillation,
    Stage,
    Weights,
    inherit,
    scaled_decay,
    stages,
    terms_at,
)
from papers.pvd.paper import KINDS, PAPER, SHAPES, Config, by_kind
from papers.pvd.published import accounting
from repro.claims import Superiority
from repro.data.analytic_scenes import RADIUS
from repro.models.radiance_fields import make_field
from repro.models.volume_rendering import OccupancyGrid, random_rays
from repro.runner import Context
from repro.training.loop import Trained
from repro.training.radiance import Fitted, Tally, norm, optimizer_of, photograph

TINY = PAPER.resolve("solids", "distil", "smoke")
STEPS = 30_000


def field(kind, seed=0, **more):
    torch.manual_seed(seed)
    return make_field(kind, **SHAPES["small"][kind], **more)


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def lesson_of(teacher, student, terms=ALL, **options):
    return Distillation(teacher, student, None, (Stage(10**6, terms),), Weights(), samples=4, **options)


def batch(count=16):
    return random_rays(count, (16, 16), 20.0, RADIUS, noise()), torch.rand(count, 3, generator=noise(1))


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


# --- stages and weights ---------------------------------------------------------------------------------------


def test_the_stages_of_the_released_code():
    plan = stages("progressive", STEPS)
    assert plan == (Stage(2000, FEATURE), Stage(5000, POINTS), Stage(STEPS, ALL))
    at = {step: terms_at(plan, step, features=True) for step in (0, 1999, 2000, 4999, 5000, 29_999)}
    assert [at[s] for s in at] == [FEATURE, FEATURE, POINTS, POINTS, ALL, ALL]


def test_without_features_stage_2_begins_at_once():
    plan = stages("progressive", STEPS)
    assert terms_at(plan, 0, features=False) == {"colour", "density"}
    assert terms_at(plan, 5000, features=False) == {"colour", "density", "pixels"}


def test_other_orders():
    backward = stages("reversed", STEPS)
    assert backward == (Stage(25_000, ALL), Stage(28_000, POINTS), Stage(STEPS, FEATURE))
    assert terms_at(stages("together", STEPS), 0, True) == ALL
    assert terms_at(stages("pixels", STEPS), 0, True) == {"pixels"}
    assert terms_at(stages("points", STEPS), STEPS - 1, True) == POINTS
    with pytest.raises(ValueError, match="order"):
        stages("sideways", STEPS)


def test_the_weight_of_the_feature_shrinks():
    weights = Weights()
    assert weights.feature_after(0) == 2e-3
    assert weights.feature_after(3) == pytest.approx(2e-3 * 0.995**3)
    assert weights.feature_after(2000) == pytest.approx(2e-3 * 4.4e-5, rel=0.01)
    assert scaled_decay(STEPS) == pytest.approx(0.995)
    assert scaled_decay(600) ** 40 == pytest.approx(0.995**2000)  # as far by the end of stage 1


def test_the_norm_grows_with_the_root_of_the_batch():
    for n in (4, 100):
        assert float(norm(torch.full((n,), -0.3))) == pytest.approx(0.3 * math.sqrt(n), rel=1e-4)
    at_zero = torch.zeros(5, requires_grad=True)
    norm(at_zero).backward()
    assert at_zero.grad.tolist() == [0.0] * 5
    a, b = torch.rand(7, generator=noise()), torch.rand(7, generator=noise(1))
    assert float(DISTANCES["norm"](a, b)) == pytest.approx(float(torch.linalg.vector_norm(a - b)))


# --- losses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(kind):
    teacher, student = field(kind), field(kind)
    lesson = lesson_of(teacher, student)
    lesson.weights = Weights(sparsity=0.0)
    loss = lesson.loss(0, *batch(), noise(2))
    loss.backward()
    assert float(loss.detach()) < 1e-5
    assert gradients(student) == {}


def test_stage_1_leaves_the_colour_network_alone():
    student = field("mlp", 1)
    lesson = lesson_of(field("hash"), student, FEATURE)
    student.colour = lesson.teacher.colour = None  # block 2 is not even called
    lesson.loss(0, *batch(), noise(2)).backward()
    assert not any(name.startswith("colour_net") for name in gradients(student))
    assert any(name.startswith("network") for name in gradients(student))


def test_stage_2_composes_nothing(monkeypatch):
    def refuse(*_):
        raise AssertionError("composed")

    student = field("mlp", 1)
    lesson = lesson_of(field("hash"), student, POINTS)
    monkeypatch.setattr("papers.pvd.method.compose", refuse)
    lesson.loss(0, *batch(), noise(2)).backward()
    assert any(name.startswith("colour_net") for name in gradients(student))
    lesson.plan = (Stage(10**6, ALL),)
    with pytest.raises(AssertionError, match="composed"):
        lesson.loss(0, *batch(), noise(2))


def test_the_loss_is_that_of_the_formula():
    """Every term by hand from the two fields at the samples."""
    teacher, student = field("hash"), field("mlp", 1)
    rays, background = batch()
    lesson = lesson_of(teacher, student)
    found = float(lesson.loss(4, rays, background).detach())
    from repro.models.volume_rendering import compose_naive, sample_occupied

    samples = sample_occupied(rays, None, 4)
    x = samples.points.reshape(-1, 3)
    d = rays.directions[samples.hit].repeat_interleave(4, 0)
    with torch.no_grad():
        t, s = teacher(x, d), student(x, d)
        pixels = [
            compose_naive(
                p.log_density.clamp(-2, 7).exp().view(-1, 4), p.colour.view(-1, 4, 3), samples.delta
            ).over(background[samples.hit])
            for p in (t, s)
        ]  # fmt: skip

    def length(a, b):
        return float(torch.linalg.vector_norm(a - b))

    expected = length(*pixels) + 2e-3 * (
        0.995**5 * length(s.feature, t.feature) + length(s.colour, t.colour) + length(s.log_density, t.log_density)
    )
    assert found == pytest.approx(expected, rel=1e-4)


def test_how_densities_are_compared():
    teacher, student = field("dense"), field("dense", 1)
    with torch.no_grad():
        teacher.grid[:, 0] = 9.0
        student.grid[:, 0] = 8.0
    terms = frozenset({"density"})
    losses = {}
    for name in ("clamped", "log", "sigma"):
        lesson = lesson_of(teacher, student, terms, density=name)
        losses[name] = float(lesson.loss(0, *batch(), noise(2)).detach())
        count = lesson.tally.points / 2  # asked of both fields
    assert losses["clamped"] < 1e-5
    assert losses["log"] == pytest.approx(2e-3 * math.sqrt(count), rel=1e-4)
    assert losses["sigma"] == pytest.approx(2e-3 * (math.exp(9) - math.exp(8)) * math.sqrt(count), rel=1e-3)


def test_rays_that_meet_nothing_cost_nothing():
    grid = OccupancyGrid(4)
    grid.occupied[:] = False
    student = field("mlp", 1)
    lesson = Distillation(field("hash"), student, grid, stages("together", 10), Weights(), samples=4)
    loss = lesson.loss(0, *batch(), noise(2))
    loss.backward()
    assert float(loss.detach()) < 1e-5
    assert lesson.tally.flops == 0
    assert gradients(student) == {}


def test_costs_follow_the_stages():
    teacher, student = field("hash"), field("mlp", 1)
    flops = {}
    for terms in (FEATURE, ALL):
        lesson = lesson_of(teacher, student, terms)
        lesson.loss(0, *batch(), noise(2))
        points = lesson.tally.points / 2
        teacher_cost, student_cost = lesson.costs
        place = 1 if terms == ALL else 0
        flops[terms] = lesson.tally.flops
        assert flops[terms] == points * (teacher_cost[place] + 3 * student_cost[place])
    assert flops[FEATURE] < flops[ALL]
    macs = sum(p.numel() for n, p in student.named_parameters() if "weight" in n)
    assert lesson.costs[1].both == 2 * macs


# --- what is inherited ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("teacher", "student", "parts"), [
    ("hash", "mlp", {"sigma_net", "colour_net"}), ("mlp", "hash", {"sigma_net", "colour_net"}),
    ("hash", "vm", {"colour_net"}), ("vm", "mlp", {"colour_net"}), ("hash", "dense", set()), ("dense", "vm", set()),
])  # fmt: skip
def test_modules_of_one_name_and_shape_are_inherited(teacher, student, parts):
    source, target = field(teacher), field(student, 1)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    taken = inherit(target, source)
    assert {name.split(".")[0] for name in taken} == parts
    for name, value in target.state_dict().items():
        expected = source.state_dict()[name] if name in taken else before[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=0)


def test_networks_on_planes_learn_slowly():
    optimizer = optimizer_of(field("vm"), Lesson(Config(**TINY), Context(0)).recipe("vm").optimisation, 0.1)
    fast, slow = optimizer.param_groups
    assert (fast["factor"], slow["factor"]) == (1.0, 0.1)
    assert len(fast["params"]) == 2
    assert len(slow["params"]) == 4
    assert (fast["betas"], fast["eps"], fast["weight_decay"]) == ((0.9, 0.99), 1e-15, 0.0)


# --- runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path_factory.getbasetemp() / "pvd-cache"))


def tiny(arm, **more):
    return Config(**PAPER.resolve("solids", arm, "smoke", more))


def test_a_run_is_a_function_of_its_seed():
    first, second, third = (run(tiny("distil"), Context(seed)) for seed in (0, 0, 1))
    assert first.curves == second.curves
    once, again, other = first.metrics, second.metrics, third.metrics
    clocked = {name for name in once if {"time", "s"} & set(name.split("_"))}
    assert {k: v for k, v in once.items() if k not in clocked} == {k: v for k, v in again.items() if k not in clocked}
    assert once["psnr"] != other["psnr"]


def test_arms_see_the_same_rays():
    """Without any loss that differs, what the order of stages draws is the same: equal orders, equal students."""
    lesson = Lesson(tiny("together"), Context(0))
    (teacher,) = lesson.fitted(lesson.recipe("hash"))
    one = distil(lesson, teacher, lesson.recipe("mlp")).fitted.field.state_dict()
    other = Lesson(tiny("distil", first=0.0, second=0.0), Context(0))
    two = distil(other, teacher, other.recipe("mlp")).fitted.field.state_dict()
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=0, atol=0)


def test_a_share_of_the_original_takes_that_share_of_its_flops():
    options = {"steps": 40, "view_steps": 40, "rays": 64, "share_of_whole": 0.2}
    outcome = run(tiny("distil", **options), Context(0))
    whole = run(tiny("scratch-nerf", steps=40, view_steps=40, rays=64), Context(0))
    assert outcome.profile["train_flops"] == pytest.approx(0.2 * whole.profile["train_flops"], rel=0.25)
    assert outcome.profile["flops_over_share"] == outcome.profile["train_flops"] / 0.2


@pytest.mark.parametrize("arm", ["scratch", "scratch-nerf", "distil"])
def test_the_rate_can_be_chosen(arm):
    """The grid of tuning reaches every arm."""
    metrics = [run(tiny(arm, lr=lr), Context(0)).metrics["psnr"] for lr in (1e-3, 1e-1)]
    assert metrics[0] != metrics[1]


def test_a_teacher_of_another_scene_is_another_teacher():
    own, wrong = (run(tiny(arm), Context(0)) for arm in ("distil", "distil-wrong"))
    assert own.metrics["teacher_psnr"] != wrong.metrics["teacher_psnr"]
    assert set(own.pictures) == {"views"}
    assert sum(len(p.content) for p in own.pictures.values()) < 60_000


def curve(psnrs, steps=10, flops=1e9, seconds=1.0):
    at = range(1, len(psnrs) + 1)
    return Trained(
        [steps * i for i in at],
        [{"psnr": p, "flops": flops * i, "train_s": seconds * i} for i, p in zip(at, psnrs, strict=True)], [], False,
        seconds * len(psnrs),
    )  # fmt: skip


def test_speed_ups_are_read_at_the_reference_s_final_quality():
    def fitted(trained):
        return Fitted(None, None, trained, Tally())

    whole, scratch, teacher = curve([20, 25, 29, 30], flops=8e9, seconds=8.0), curve([20, 24, 28.95, 28]), curve([30])
    found = speed_ups(curve([25, 29.95, 31]), fitted(teacher), fitted(whole), fitted(scratch))
    assert found["speedup_flops"] == 4.0  # 32e9 over 2e9
    assert found["speedup_time"] == 4.0
    assert found["speedup_with_teacher_time"] == pytest.approx(math.log2(32 / 3))
    assert found["speedup_steps"] == pytest.approx(math.log2(30 / 20))
    assert found["reached"] == 1.0
    late = speed_ups(curve([20, 21]), fitted(teacher), fitted(whole), fitted(scratch))
    assert (late["speedup_flops"], late["reached"]) == (0.0, 0.0)


def test_all_pairs_fill_the_table():
    outcome = run(tiny("all-pairs"), Context(0))
    table = outcome.tables["psnr_by_teacher_and_student"]
    assert set(table) == set(KINDS)
    across = [outcome.metrics[f"margin_{t}_{s}"] for t in KINDS for s in KINDS if t != s]
    assert outcome.metrics["pairs_close"] == sum(m > -1.5 for m in across)
    assert outcome.metrics["margin_hash_mlp"] == pytest.approx(
        table["hash"]["mlp"] - min(table["hash"]["from pictures"], table["mlp"]["from pictures"])
    )
    assert table["hash"]["hash"] != table["hash"]["from pictures"]  # its own kind learns anew


def test_a_kept_field_shows_the_same_pictures():
    lesson = Lesson(tiny("distil"), Context(0))
    first, again = (lesson.fitted(lesson.recipe("vm"))[0] for _ in range(2))
    images = [photograph(f.field, f.grid, lesson.data.test, 8) for f in (first, again)]
    torch.testing.assert_close(*images, rtol=0, atol=0)


def test_unknown_ways_are_errors():
    for more, said in (({"learns": "by heart"}, "learns"), ({"learns": "views", "loss": "huber"}, "loss")):
        with pytest.raises(ValueError, match=said):
            run(tiny("distil", **more), Context(0))
    with pytest.raises(ValueError, match="nothing is given"):
        by_kind("hash=1", "mlp")


# --- the published size ---------------------------------------------------------------------------------------


def test_the_accounting():
    found = accounting()
    assert found["parameters_mlp"] == 434_460 + 2_816 + 6_272
    assert found["parameters_hash"] == 10_607_408 + 2_816 + 6_272
    assert (found["parameters_sigma_net"], found["parameters_colour_net"]) == (2_816, 6_272)
    assert found["parameters_vm"] == 3 * 64 * (300**2 + 300) + 144 * 15 + 6_272
    assert found["parameters_dense"] == 28 * 128**3
    assert found["point_macs_hash"] == 2_816 + 6_272
    assert found["point_reads_hash"] == 14 * 8 * 2
    assert found["point_macs_mlp"] == pytest.approx(0.44e6, rel=0.01)


# --- rules ----------------------------------------------------------------------------------------------------


def comparison(claim, name):
    return next(c for c in PAPER.claim(claim).comparisons if c.name == name)


def test_in_reverse_the_feature_has_no_weight_left():
    plan = stages("reversed", 500)
    assert plan[-1].terms == FEATURE
    weights = Weights(decay=scaled_decay(500))
    # in float32 the term is nothing: a control that cannot help
    assert float(torch.tensor(weights.feature_after(plan[-2].until + 1), dtype=torch.float32)) == 0.0
    assert weights.feature_after(stages("progressive", 500)[0].until) > 0.0


def test_both_halves_of_clamped_logarithms_decide():
    deciding = {c.name: c for c in PAPER.claim("C4").comparisons if c.role == "primary"}
    assert set(deciding) == {"sigma", "log"}
    assert {c.rule for c in deciding.values()} == {Superiority(1.0)}


def test_steps_are_shown_without_a_threshold():
    assert comparison("C1", "steps").rule == Superiority(0.0)
    assert comparison("C1", "flops").rule == Superiority(math.log2(5))
