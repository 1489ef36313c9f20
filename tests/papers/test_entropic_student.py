"""Entropic Student: shapes and losses of the released models, what each stage may move, messages, arms, figures."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from papers.entropic_student import experiment
from papers.entropic_student.baselines import EightBits, drawn_encoder, narrow_encoder, pixel_decoder
from papers.entropic_student.method import (
    UNLABELLED,
    Student,
    decoder,
    encoder,
    receive,
    send,
    stage_one_loss,
    stage_two_loss,
)
from papers.entropic_student.model import Teacher
from papers.entropic_student.paper import PAPER, Config
from repro.claims import judge
from repro.data.images import Images
from repro.models.entropy import FactorisedPrior
from repro.records import Record
from repro.runner import Context

WIDTHS, C = (4, 6, 8), 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(count=8, seed=0):
    return torch.randn(count, 1, 32, 32, generator=generator(seed))


def setting(seed=0):
    """A teacher whose batch norm has seen something, and a student of it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        teacher = Teacher(1, WIDTHS, 1, 5)
        teacher(images(32, 9))
        teacher.eval()
        student = Student(
            encoder(1, C), FactorisedPrior(C, scale=3.0), decoder(C, WIDTHS[0]), teacher.stages, teacher.head
        )
        with torch.no_grad():
            student.encoder[-1].weight.mul_(8)
    return teacher, student


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(before, module):
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def steps(student, loss, count=3, lr=1e-2):
    optimizer = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], lr)
    for _ in range(count):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


# --- the network ----------------------------------------------------------------------------------------------


def test_shapes_of_the_released_bottleneck():
    with torch.device("meta"):
        x = torch.empty(2, 3, 224, 224)
        sizes = []
        for layer in encoder(3, 24):
            x = layer(x)
            sizes.append(tuple(x.shape[1:]))
        assert sizes[::2] == [(96, 112, 112), (48, 56, 56), (24, 55, 55)]
        sizes = []
        for layer in decoder(24, 256):
            x = layer(x)
            sizes.append(tuple(x.shape[1:]))
        assert sizes[::2] == [(512, 56, 56), (256, 55, 55), (256, 56, 56)]
        assert pixel_decoder(24, 64, 3)(torch.empty(2, 24, 55, 55)).shape == (2, 3, 224, 224)
    assert not any(m.bias is not None for m in encoder(3, 24) if isinstance(m, nn.Conv2d))


def test_a_student_copies_the_teacher_s_later_stages():
    teacher, student = setting()
    assert same(state(teacher.stages), student.stages)
    assert not {id(p) for p in teacher.parameters()} & {id(p) for p in student.parameters()}
    x = images()
    features, logits = student.eval().tail(student.encoder(x))
    assert [f.shape[1] for f in features] == list(WIDTHS)
    assert logits.shape == (8, 5)


def test_a_bottleneck_that_gives_the_teacher_s_features_costs_only_its_bits():
    teacher, _ = setting()

    class Free(nn.Module):
        def forward(self, v, noise):
            return v, torch.full_like(v, 2.0)

    student = Student(teacher.first, Free(), nn.Identity(), teacher.stages, teacher.head).eval()
    x = images()
    with torch.no_grad():
        targets = teacher.features(x)
        seen = student(x, generator())
    assert float(stage_one_loss(seen.features, targets, seen.bits, 0.0)) == 0
    per_image = 2 * targets[0][0].numel()
    assert float(stage_one_loss(seen.features, targets, seen.bits, 0.5)) == pytest.approx(0.5 * 8 * per_image)
    torch.testing.assert_close(seen.logits, teacher(x))


# --- the losses -----------------------------------------------------------------------------------------------


def test_stage_one_sums_over_elements_images_and_pairs():
    features = [torch.randn(4, 3, 2, 2, generator=generator(i)) for i in range(3)]
    targets = [torch.randn(4, 3, 2, 2, generator=generator(i + 9)) for i in range(3)]
    bits = torch.rand(4, generator=generator(5))
    expected = sum(float(((h - t) ** 2).sum()) for h, t in zip(features, targets, strict=True)) + 0.3 * float(
        bits.sum()
    )
    assert float(stage_one_loss(features, targets, bits, 0.3)) == pytest.approx(expected, rel=1e-5)
    fewer = float(((features[0] - targets[0]) ** 2).sum())
    assert float(stage_one_loss(features, targets[:1], bits, 0.0)) == pytest.approx(fewer, rel=1e-5)
    twice = [torch.cat((f, f)) for f in features], [torch.cat((t, t)) for t in targets], torch.cat((bits, bits))
    assert float(stage_one_loss(*twice, 0.3)) == pytest.approx(2 * expected, rel=1e-5)


def test_stage_two_is_that_of_the_released_distillation_loss():
    logits, teacher = (torch.randn(6, 5, generator=generator(i)) for i in range(2))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    torch.testing.assert_close(stage_two_loss(logits, teacher, labels, alpha=1.0), F.cross_entropy(logits, labels))
    for tau in (1.0, 4.0):
        p = (teacher / tau).softmax(1)
        kl = (p * (p.log() - (logits / tau).log_softmax(1))).sum(1).mean()
        expected = 0.5 * F.cross_entropy(logits, labels) + 0.5 * tau**2 * kl
        torch.testing.assert_close(stage_two_loss(logits, teacher, labels, tau=tau), expected)
    assert float(stage_two_loss(teacher, teacher, labels, alpha=0.0)) == pytest.approx(0, abs=1e-6)


def test_images_without_labels_are_distilled_only():
    logits, teacher = (torch.randn(4, 5, generator=generator(i)) for i in range(2))
    some = torch.tensor([2, UNLABELLED, 1, UNLABELLED])
    known = F.cross_entropy(logits[[0, 2]], torch.tensor([2, 1]))
    torch.testing.assert_close(stage_two_loss(logits, teacher, some, alpha=1.0), known)
    none = torch.full((4,), UNLABELLED)
    assert float(stage_two_loss(logits, teacher, none, alpha=1.0)) == 0
    assert float(stage_two_loss(logits, teacher, none)) > 0


# --- the stages -----------------------------------------------------------------------------------------------


def test_stage_one_moves_the_bottleneck_and_leaves_the_stages():
    teacher, student = setting()
    x = images()
    with torch.no_grad():
        targets = teacher.features(x)
    student.train()
    student.begin_distillation()
    stages, head, rest = state(student.stages), state(student.head), state(student)

    def loss():
        seen = student(x, generator())
        return stage_one_loss(seen.features, targets, seen.bits, 1.0)

    steps(student, loss)
    assert same(stages, student.stages)  # statistics of batch norm too
    assert same(head, student.head)
    for part in ("encoder", "prior", "decoder"):
        moved = [n for n, v in student.state_dict().items() if n.startswith(part) and not torch.equal(v, rest[n])]
        assert moved, part


def test_stage_two_leaves_encoder_and_prior_to_the_bit_and_moves_the_rest():
    teacher, student = setting()
    x, y = images(), torch.arange(8) % 5
    student.train()
    student.begin_tuning()
    fixed = state(student.encoder) | state(student.prior)
    messages = send(student, student.prior.code(), x)
    before = state(student)
    steps(student, lambda: stage_two_loss(student(x).logits, teacher(x), y))
    assert all(torch.equal(v, fixed[n]) for n, v in (state(student.encoder) | state(student.prior)).items())
    for part in (student.encoder, student.prior):
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
    for part in ("decoder", "stages", "head"):
        assert any(n.startswith(part) and not torch.equal(v, before[n]) for n, v in student.state_dict().items())
    assert send(student, student.prior.code(), x) == messages


def test_dearer_bits_are_fewer():
    found = []
    for beta in (0.03, 300.0):
        teacher, student = setting()
        x = images(16)
        with torch.no_grad():
            targets = teacher.features(x)
        student.begin_distillation()
        noise = generator()

        def loss(student=student, x=x, targets=targets, noise=noise, beta=beta):
            seen = student(x, noise)
            return stage_one_loss(seen.features, targets, seen.bits, beta)

        steps(student, loss, 40)
        found.append(sum(map(len, send(student, student.prior.code(), x))))
    assert found[1] < 0.7 * found[0]


# --- messages -------------------------------------------------------------------------------------------------


def test_the_server_answers_as_the_whole_network_would():
    _, student = setting()
    student.eval()
    x = images()
    code = student.begin_tuning()
    messages = send(student, code, x)
    assert all(isinstance(m, bytes) for m in messages)
    whole = student(x)
    torch.testing.assert_close(receive(student, code, messages, (7, 7)), whole.logits, atol=1e-4, rtol=1e-4)
    assert len({len(m) for m in messages}) > 1
    bits = whole.bits.detach() / 8
    sizes = torch.tensor([len(m) for m in messages], dtype=torch.float32)
    torch.testing.assert_close(sizes, bits, rtol=0.02, atol=2.0)
    assert send(student, code, x) == messages


def test_it_takes_a_residual_network_of_transformers():
    from transformers import ResNetConfig, ResNetForImageClassification

    shape = ResNetConfig(embedding_size=8, hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1], num_labels=7)
    net = ResNetForImageClassification(shape).eval()
    first, *later = net.resnet.encoder.stages
    head = nn.Sequential(net.resnet.pooler, net.classifier)
    student = Student(encoder(3, 4), FactorisedPrior(4), decoder(4, 16), later, head).eval()
    x = torch.randn(2, 3, 64, 64, generator=generator())
    target = first(net.resnet.embedder(x))
    seen = student(x, generator())
    assert seen.features[0].shape == target.shape
    code = student.begin_tuning()
    logits = receive(student, code, send(student, code, x), (15, 15))
    assert logits.shape == (2, 7)
    torch.testing.assert_close(head(later[2](later[1](later[0](target)))), net(x).logits)


# --- baselines ------------------------------------------------------------------------------------------------


def test_eight_bits_are_a_byte_a_value_and_half_a_step_off():
    _, student = setting()
    quantiser = EightBits()
    narrow = Student(narrow_encoder(1, C, 2), quantiser, decoder(2, WIDTHS[0]), student.stages, student.head).eval()
    x = images()
    v = narrow.encoder(x).detach()
    quantiser.calibrate(v)
    code = narrow.begin_tuning()
    messages = send(narrow, code, x)
    assert {len(m) for m in messages} == {2 * 7 * 7}
    back = torch.stack([code.decode(m, 49) for m in messages]).view_as(v)
    assert (code.values(back) - v).abs().max() <= float(v.max() - v.min()) / 255 * 0.501
    torch.testing.assert_close(quantiser(v, None)[0], code.values(back))
    assert torch.equal(quantiser(v, generator())[0], v)
    torch.testing.assert_close(receive(narrow, code, messages, (7, 7)), narrow(x).logits)


def test_of_a_drawn_encoder_only_the_gain_learns():
    front = drawn_encoder(1, C)
    assert [n for n, p in front.named_parameters() if p.requires_grad] == ["1.factor"]
    torch.testing.assert_close(front(images()), front[0](images()))


# --- the experiment -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    from papers.entropic_student.experiment import run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        wanted = (("cluttered", "student"), ("cluttered", "end"), ("cluttered", "fp"), ("cluttered", "crbq"),
                  ("cluttered", "drawn"), ("cluttered", "joint"), ("cluttered", "avif"), ("cluttered", "raw"),
                  ("few-labels", "student"), ("place", "shared"), ("ground", "end-shared"))  # fmt: skip
        found = {w: run(Config(**PAPER.resolve(*w, "smoke")), Context(seed=7)) for w in wanted}
        again = run(Config(**PAPER.resolve("cluttered", "student", "smoke")), Context(seed=7))
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("empty")))
        anew = run(Config(**PAPER.resolve("cluttered", "student", "smoke")), Context(seed=7))
        yield found, again, anew


def clockless(metrics):
    return {k: v for k, v in metrics.items() if not k.endswith("_s")}


def test_arms_of_a_seed_share_images_and_are_matched_as_they_say(outcomes):
    found, *_ = outcomes
    cluttered = {arm: o for (place, arm), o in found.items() if place == "cluttered"}
    assert len({o.data["fingerprint"] for o in cluttered.values()}) == 1
    learned = {arm: o.profile for arm, o in cluttered.items() if arm not in ("avif", "raw")}
    assert len({p["point_samples"] for p in learned.values()}) == 1
    work = [p["encoder_flops"] for p in learned.values()]
    assert max(work) / min(work) < 1.15
    assert len({round(o.metrics["teacher_accuracy"], 6) for o in cluttered.values()}) == 1
    for outcome in found.values():
        assert not outcome.diverged
        assert clockless(outcome.metrics).keys() <= PAPER.metrics.keys()
        assert set(outcome.metrics) <= set(PAPER.metrics)
        endless = {name for name, value in outcome.metrics.items() if not math.isfinite(value)}
        assert all(name in ("log2_bytes", "bytes_needed") or name.startswith("latency_") for name in endless)
        assert all(outcome.metrics[name] == math.inf for name in endless), "an accuracy that no point reaches"
    raw = cluttered["raw"]
    assert raw.metrics["bytes_1"] == 1024
    assert raw.metrics["accuracy_1"] == pytest.approx(raw.metrics["teacher_accuracy"])
    assert cluttered["crbq"].metrics["bytes_1"] == 49
    gain = cluttered["student"]
    point = gain.tables["points"][0]
    assert gain.metrics["tuning_gain_1"] == pytest.approx(point["accuracy"] - point["untuned"])
    assert point["bytes"] == pytest.approx(point["ideal_bytes"], rel=0.02, abs=1.5)


def test_a_run_repeats_itself_with_and_without_what_is_kept(outcomes):
    found, again, anew = outcomes
    first = found["cluttered", "student"]
    for other in (again, anew):
        assert clockless(other.metrics) == clockless(first.metrics)
        assert other.curves == first.curves


def test_a_shared_encoder_is_the_one_of_the_classes(tmp_path, monkeypatch):
    from papers.entropic_student.experiment import Bench, borrowed, first_stage, tune

    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    small = PAPER.resolve("place", "shared", "smoke")
    bench = Bench.of(Config(**small), Context(seed=3))
    student = borrowed(bench, 4.0)
    source = Bench.of(Config(**PAPER.resolve("cluttered", "student", "smoke")), Context(seed=3))
    original = first_stage(source, 4.0, 1)
    assert same(state(original.encoder), student.encoder)
    assert same(state(bench.teacher.stages), student.stages)
    assert not same(state(source.teacher.stages), student.stages)
    assert same(state(source.teacher.first), bench.teacher.first)
    tune(bench, student, 1)
    assert same(state(original.encoder), student.encoder)
    assert same(state(original.prior), student.prior)
    assert bench.teacher(bench.train.pixels[:2]).shape == (2, 9)


def test_other_images_get_another_teacher(monkeypatch):
    config = Config(**PAPER.resolve("cluttered", "jpeg", "smoke"))
    context = Context(seed=0)
    data = experiment.load(config, 0)
    places = []

    def obtain(parts):
        places.extend(part.place() for part in parts)
        raise StopIteration

    monkeypatch.setattr(experiment, "obtain", obtain)
    brighter = Images(data.train.pixels + 0.01, data.train.labels)
    for images in (data, replace(data), replace(data, train=brighter, fingerprint="")):
        with pytest.raises(StopIteration):
            experiment.obtain_teacher(config, context, images)
    assert places[0] == places[1] != places[2]


def test_what_learners_are_not_told_is_not_used(tmp_path, monkeypatch):
    from papers.entropic_student.experiment import Bench, build, train_first_stage

    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    bench = Bench.of(Config(**PAPER.resolve("few-labels", "end", "smoke")), Context(seed=3))
    assert (bench.labels == UNLABELLED).sum() == 64 - 16
    other = copy.copy(bench)
    other.train = bench.train._replace(labels=(bench.train.labels + 1) % 4)
    other.logits = -bench.logits
    learned = []
    for each in (bench, other):
        student = build(each, 0.003)
        train_first_stage(each, student, 0.003, 1)
        learned.append(state(student))
    assert all(torch.equal(value, learned[1][name]) for name, value in learned[0].items())


def test_options_that_do_not_exist_are_errors(tmp_path, monkeypatch):
    from papers.entropic_student.experiment import Bench, build, run

    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    small = PAPER.resolve("cluttered", "student", "smoke")
    bench = Bench.of(Config(**small), Context(seed=0))
    for option, value in (("encoder", "none"), ("targets", "words")):
        bench.config = Config(**{**small, option: value})
        with pytest.raises(ValueError, match=value):
            build(bench, 1.0)
    for option, value in (("learner", "none"), ("task", "colour"), ("schedule", "wild")):
        with pytest.raises(ValueError, match=value):
            run(Config(**{**small, option: value}), Context(seed=0))


@pytest.mark.parametrize("arm", ["student", "fp"])
def test_the_published_configuration_on_small_files_of_cifar_s_layout(arm, tmp_path, monkeypatch):
    from papers.entropic_student.experiment import run

    folder = tmp_path / "cifar100"
    folder.mkdir()
    for split, count in (("train", 240), ("test", 100)):
        rows = torch.randint(0, 256, (count, 2 + 3072), generator=generator(), dtype=torch.uint8)
        rows[:, 1] = torch.arange(count) % 100
        (folder / f"{split}.bin").write_bytes(rows.numpy().tobytes())
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    config = PAPER.resolve("cifar100", arm, "published")
    assert (config["lr"], config["batch"], config["tune_batch"], config["channels"]) == (1e-3, 64, 128, 24)
    assert config["rates"].split()[4] == "0.16"
    small = {"widths": "4 6 8", "blocks": 1, "teacher_epochs": 1, "epochs": 1, "tune_epochs": 1, "rates": "0.16",
             "pixel_rates": "1", "validation": 100, "channels": 3}  # fmt: skip
    outcome = run(Config(**{**config, **small}), Context(seed=0))
    assert outcome.data["name"] == "cifar100"
    assert outcome.data["shape"] == [3, 32, 32]
    assert not outcome.diverged


def test_data_that_is_absent_is_an_error_that_says_so(monkeypatch, tmp_path):
    from papers.entropic_student.experiment import load
    from repro.data import MissingData

    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True, raising=False)
    with pytest.raises(MissingData, match="cifar100"):
        load(Config(**PAPER.resolve("cifar100", "student", "published")), 0)


# --- published figures ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted():
    from papers.entropic_student.published import accounting

    return accounting()


def test_published_sizes(counted):
    assert counted["encoder_parameters"] == 7200 + 9312 + 115_200 + 2352 + 4608 == 138_672
    assert counted["prior_parameters"] == 61 * 24
    assert counted["decoder_parameters"] == 49_152 + 262_656 + 524_288 + 65_792 + 262_144
    assert counted["codec_encoder_parameters"] == 9728 + 3 * 409_728 + 3 * 16_512
    assert counted["latent_symbols"] == 24 * 55 * 55
    assert counted["encoder_macs"] == pytest.approx(588e6, rel=1e-3)
    assert counted["encoder_convolution_macs"] == pytest.approx(465.5e6, rel=1e-3)
    parts = 1_219_584 + 7_098_368 + 14_964_736 + 2_049_000 + counted["replaced_parameters"]
    assert counted["resnet50_parameters"] == parts == 25_557_032
    for claim in PAPER.claims:
        for k in claim.comparisons:
            if hasattr(k, "quantity") and hasattr(k, "expected"):
                assert k.quantity in counted


def test_published_curves(counted):
    from papers.entropic_student.published import bytes_at

    assert 2.3 < 2 ** counted["doublings_bpg"] < 2.6
    assert bytes_at("student", 72.0) == pytest.approx(2260)
    assert counted["bytes_bpg_at_74"] / bytes_at("student", 74.0) == pytest.approx(2.47, abs=0.01)
    assert counted["latency_student_100k_s"] < min(counted["latency_bpg_100k_s"], counted["latency_local_s"])
    assert counted["wins_above_kbit_local"] < 100 < counted["wins_below_kbit_bpg"]


def test_rates_are_in_the_unit_of_the_loss_that_trains_the_encoder():
    from papers.entropic_student.experiment import rates_of

    paper = PAPER
    found = {
        (setting, arm): rates_of(paper.config(**paper.resolve(setting, arm, "laptop")))
        for setting, arm in (("cluttered", "end"), ("place", "end-shared"), ("place", "shared"), ("cluttered", "fp"))
    }
    # an encoder that was trained end to end weighs bits against nats, or it sends nothing
    assert found["place", "end-shared"] == found["cluttered", "end"]
    assert max(found["cluttered", "end"]) < 0.1 * min(found["place", "shared"])
    assert found["cluttered", "fp"] != found["place", "shared"]


# --- rules ----------------------------------------------------------------------------------------------------


def verdict_of(name, setting, arms):
    """Of one comparison on three made-up seeds; ``arms``: metrics of each, beside a good teacher."""
    records = [
        Record(
            f"{arm}-{seed}", PAPER.slug, setting, arm, "laptop", seed, "ok", {}, "",
            metrics={"teacher_accuracy": 97.0} | {k: v + 0.01 * seed for k, v in metrics.items()},
            profile={"point_samples": 1.0, "encoder_flops": 1.0},
        )
        for arm, metrics in arms.items()
        for seed in range(3)
    ]  # fmt: skip
    (found,) = (f.verdict for j in judge(PAPER, records, "laptop") for f in j.findings
                if (f.comparison, f.setting) == (name, setting))  # fmt: skip
    return found


@pytest.mark.parametrize(("sent", "verdict"), [(29.0, "inconclusive"), (70.0, "reproduced")])
@pytest.mark.parametrize("other", ["jpeg", "webp", "avif", "crbq", "crbq-tuned"])
def test_at_64_bytes_a_curve_that_ends_before_is_not_judged(other, sent, verdict):
    arms = {"student": {"accuracy_wide": 90.0, "bytes_1": sent}, other: {"accuracy_wide": 80.0, "bytes_1": 60.0}}
    assert verdict_of(other if other.startswith("crbq") else f"{other}-wide", "cluttered", arms) == verdict


@pytest.mark.parametrize(("sent", "verdict"), [(1.0, "inconclusive"), (10.0, "reproduced")])
def test_a_baseline_that_sends_nothing_is_not_beaten(sent, verdict):
    arms = {"student": {"accuracy_large": 86.0}, "end": {"accuracy_large": 12.0, "bytes_2": sent}}
    assert verdict_of("few-large", "few-labels", arms) == verdict


def test_what_measures_a_file_format_decides_nothing():
    roles = {c.name: c.role for k in PAPER.claims for c in k.comparisons}
    assert (roles["webp-large"], roles["place-large"]) == ("secondary", "secondary")
    assert roles["jpeg-large"] == roles["avif-large"] == roles["place-small"] == "primary"
