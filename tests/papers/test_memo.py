"""MEMO: the network and its budget, the invariants of a task, the experiment, and the published figures."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from papers.memo.method import (
    ExpandableNet,
    affordable_exemplars,
    auxiliary_targets,
    exchange_rate,
    expanded_parameters,
    memo_loss,
    memory_bytes,
)
from papers.memo.paper import PAPER, Config
from repro.data.images import Images
from repro.models.resnet import ResNetConfig, initialise_parts, resnet_parts
from repro.training.incremental import Sgd, train_task

CIFAR = (3, 32, 32)


def network(shared=3, seed=0, **options):
    parts = resnet_parts(ResNetConfig(8, 4))
    initialise_parts(parts, seed)
    return ExpandableNet(nn.Sequential(*parts[:shared]), nn.Sequential(*parts[shared:]), 16, seed=seed, **options)


def pixels(count=12, seed=0):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def learn(net, labels, seed=0):
    """A few steps on images of the given labels."""
    images = Images(pixels(len(labels), seed), torch.tensor(labels))

    def loss(x, y):
        return memo_loss(*net(x), y, net.known)

    train_task(net, images, loss, Sgd(0.05, 3, batch=6), torch.Generator().manual_seed(seed))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def frozen(module):
    """All that a module holds, batch norm's statistics too."""
    return {name: value.clone() for name, value in module.state_dict().items()}


# --- the memory budget ----------------------------------------------------------------------------------------


def test_a_model_is_603_exemplars():
    assert exchange_rate(463_504, CIFAR) == pytest.approx(603.5208, abs=1e-4)
    assert exchange_rate(18_888, (3, 16, 16)) == pytest.approx(98.375)


def test_der_s_memory_buys_memo_3312_exemplars():
    budget = memory_bytes(10 * 463_504, 2000, CIFAR)
    assert budget / 2**20 == pytest.approx(23.54, abs=0.005)
    assert affordable_exemplars(budget, expanded_parameters(112_016, 351_488, 10), CIFAR) == 3312
    assert affordable_exemplars(budget, 463_504, CIFAR) == 7431
    assert affordable_exemplars(memory_bytes(7, 3, CIFAR), 7, CIFAR) == 3
    with pytest.raises(ValueError, match="budget"):
        affordable_exemplars(1000, 463_504, CIFAR)


# --- the network ----------------------------------------------------------------------------------------------


def test_a_task_adds_a_specialised_block_and_nothing_else():
    net = network()
    net.begin_task(4)
    start, block = net.saved_parameters(), parameters(net.blocks[0])
    assert net.auxiliary is None
    for task in range(1, 4):
        net.begin_task(3)
        assert net.saved_parameters() == start + task * block
        assert net.saved_parameters() == expanded_parameters(start - block, block, task + 1)
        assert net.feature_dim == 16 * (task + 1)
        assert net.features(pixels(2)).shape == (2, net.feature_dim)
        assert net.auxiliary.out_features == 4
        assert (net.known, net.classes) == (4 + 3 * (task - 1), 4 + 3 * task)
        assert parameters(net) == net.saved_parameters() + parameters(net.head) + parameters(net.auxiliary)


@pytest.mark.parametrize("train_base", [True, False])
def test_old_blocks_do_not_move_and_the_shared_part_does_if_it_may(train_base):
    net = network(train_base=train_base)
    net.begin_task(4)
    learn(net, [0, 1, 2, 3] * 3)
    net.begin_task(4)
    assert all(p.requires_grad for p in net.blocks[1].parameters())
    old, shared, new = frozen(net.blocks[0]), frozen(net.generalised), frozen(net.blocks[1])
    learn(net, [0, 4, 5, 6, 7, 1] * 2, seed=1)
    assert all(torch.equal(v, old[n]) for n, v in net.blocks[0].state_dict().items())
    assert all(torch.equal(v, shared[n]) for n, v in net.generalised.state_dict().items()) is not train_base
    assert not all(torch.equal(v, new[n]) for n, v in net.blocks[1].state_dict().items())


def test_a_new_block_starts_as_a_copy_and_old_logits_stay():
    net = network()
    net.begin_task(4)
    learn(net, [0, 1, 2, 3] * 3)
    x = pixels(5, 3)
    before = net(x)[0]
    net.begin_task(4)
    net.eval()
    first, second = net.by_block(x)
    assert torch.equal(first, second)
    assert not any(a is b for a in net.blocks[0].parameters() for b in net.blocks[1].parameters())
    net.head.weight.data[:, 16:] = 0  # what the new block adds is drawn at random
    torch.testing.assert_close(net(x)[0][:, :4], before)


def test_a_fresh_block_is_used_where_one_is_given():
    net = network(fresh=lambda task: network(seed=task).blocks[0])
    net.begin_task(2)
    net.begin_task(2)
    net.eval()
    assert not torch.equal(*net.by_block(pixels(2)))
    assert torch.equal(net.blocks[1][0][0].conv1.weight, network(seed=1).blocks[0][0][0].conv1.weight)


def test_a_single_backbone_only_gets_a_wider_head():
    net = network(expand=False)
    for _ in range(3):
        net.begin_task(4)
    assert (len(net.blocks), net.feature_dim, net.classes) == (1, 16, 12)
    assert net.auxiliary is None
    assert all(p.requires_grad for p in net.parameters())


def test_alignment_is_for_tasks_with_old_and_new_classes():
    net = network()
    net.begin_task(4)
    assert net.end_task() == 1
    net.begin_task(4)
    net.head.weight.data[4:] *= 5
    assert net.end_task(align=False) == 1
    assert net.end_task() < 1
    norms = net.head.weight.detach().norm(dim=1)
    assert float(norms[:4].mean()) == pytest.approx(float(norms[4:].mean()), rel=1e-5)
    net.begin_task(0)
    assert net.end_task() == 1


# --- parity ---------------------------------------------------------------------------------------------------


class PlainDER(nn.Module):
    """DER written down for itself: whole networks side by side, the newest one learns."""

    def __init__(self, first):
        super().__init__()
        self.networks = nn.ModuleList([first])

    def grow(self):
        self.networks.append(copy.deepcopy(self.networks[-1]))
        for network in self.networks[:-1]:
            network.eval().requires_grad_(False)

    def forward(self, x):
        return torch.cat([network(x) for network in self.networks], 1)


def test_with_nothing_shared_it_is_der():
    net = network(shared=0)
    plain = PlainDER(copy.deepcopy(net.blocks[0]))
    net.begin_task(4)
    learn(net, [0, 1, 2, 3] * 3)
    plain.networks[0].load_state_dict(net.blocks[0].state_dict())
    net.begin_task(4)
    plain.grow()
    head, aux = copy.deepcopy(net.head), copy.deepcopy(net.auxiliary)
    x, y = pixels(8, 2), torch.tensor([0, 1, 4, 5, 6, 7, 4, 2])
    net.train()
    trained = [*plain.networks[-1].parameters(), *head.parameters(), *aux.parameters()]
    ours = [p for p in net.parameters() if p.requires_grad]
    optimisers = [torch.optim.SGD(p, lr=0.1, momentum=0.9) for p in (ours, trained)]
    targets = torch.where(y < 4, torch.zeros_like(y), y - 3)
    for _ in range(3):
        theirs = F.cross_entropy(head(plain(x)), y) + F.cross_entropy(aux(plain.networks[-1](x)), targets)
        for loss, optimiser in zip((memo_loss(*net(x), y, net.known), theirs), optimisers, strict=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    for a, b in zip(net.blocks.parameters(), plain.networks.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(net.head.weight, head.weight)


def test_the_first_task_is_ordinary_training():
    net = network()
    net.begin_task(4)
    plain = nn.Sequential(*copy.deepcopy([*net.generalised, *net.blocks[0]]), copy.deepcopy(net.head))
    learn(net, [0, 1, 2, 3] * 3)
    images = Images(pixels(12), torch.tensor([0, 1, 2, 3] * 3))
    train_task(
        plain, images, lambda x, y: F.cross_entropy(plain(x), y), Sgd(0.05, 3, batch=6),
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    torch.testing.assert_close(net(pixels(3, 9))[0], plain(pixels(3, 9)))


def test_the_auxiliary_loss_tells_new_classes_apart_and_from_all_old_ones():
    labels = torch.tensor([0, 7, 8, 9, 11])
    assert auxiliary_targets(labels, 8).tolist() == [0, 0, 1, 2, 4]
    torch.manual_seed(0)
    logits, auxiliary = torch.randn(5, 12), torch.randn(5, 5)
    plain = F.cross_entropy(logits, labels)
    both = plain + 0.5 * F.cross_entropy(auxiliary, torch.tensor([0, 0, 1, 2, 4]))
    torch.testing.assert_close(memo_loss(logits, auxiliary, labels, 8, 0.5), both)
    assert torch.equal(memo_loss(logits, None, labels, 8), plain)
    assert torch.equal(memo_loss(logits, auxiliary, labels, 8, 0.0), plain)


def test_shapes_of_another_model_are_no_matter():
    """Any pair of modules: here a small transformers network, cut before its last stage."""
    from transformers import ResNetConfig as HubConfig
    from transformers import ResNetModel

    shape = HubConfig(depths=[1, 1], hidden_sizes=[4, 8], layer_type="basic", embedding_size=4)
    model = ResNetModel(shape)
    net = ExpandableNet(
        nn.Sequential(model.embedder, model.encoder.stages[0]),
        nn.Sequential(model.encoder.stages[1], nn.AdaptiveAvgPool2d(1), nn.Flatten()), 8,
    )  # fmt: skip
    for _ in range(2):
        net.begin_task(3)
    assert net(torch.randn(2, 3, 32, 32))[0].shape == (2, 6)


# --- experiment -----------------------------------------------------------------------------------------------

ARMS = tuple(arm.name for arm in PAPER.arms)


@pytest.fixture(scope="module")
def outcomes():
    from papers.memo.experiment import run
    from repro.runner import Context

    return {a: run(Config(**PAPER.resolve("textures", a, "smoke")), Context(seed=7)) for a in ARMS}


def test_every_arm_has_the_memory_it_is_given(outcomes):
    for point in ("small", "middle", "large"):
        used = {a: o.profile[f"memory_bytes_{point}"] for a, o in outcomes.items()
                if f"memory_bytes_{point}" in o.profile and PAPER.arm(a).options.get("memory") != "same"}  # fmt: skip
        assert len(used) >= 5
        assert max(used.values()) - min(used.values()) < 768  # less than one exemplar
    assert outcomes["der"].metrics["exemplars_large"] == 40
    assert outcomes["memo-equal"].metrics["exemplars_large"] == 40
    assert outcomes["wa"].metrics["exemplars_small"] == 40
    assert outcomes["wa"].metrics["exemplars_large"] > outcomes["memo"].metrics["exemplars_large"] > 40
    for name in ("der", "wa", "memo-equal", "idle"):
        assert outcomes[name].profile["exemplars_equal"] == 40


def test_arms_of_a_seed_share_data_and_start(outcomes):
    assert len({o.data["fingerprint"] for o in outcomes.values()}) == 1
    assert len({tuple(o.data["class_order"]) for o in outcomes.values()}) == 1
    # the first task knows no method: networks of one size are equal after it
    first = {a: o.curves["accuracy_large"]["y"][0] for a, o in outcomes.items() if a not in ("icarl",)}
    assert len(set(first.values())) == 1
    for outcome in outcomes.values():
        assert set(outcome.metrics) <= set(PAPER.metrics)
        assert all(map(math.isfinite, outcome.metrics.values()))


def test_parameters_are_those_of_the_cut(outcomes):
    saved = {a: o.metrics["parameters"] for a, o in outcomes.items()}
    assert saved["der"] == 2 * saved["wa"]
    assert saved["wa"] < saved["front"] < saved["memo"] < saved["memo-two"] < saved["der"]
    assert saved["memo-drawn"] == saved["memo-frozen"] == saved["idle"] == saved["memo"]


def trained(arm, monkeypatch, **options):
    """The network that an arm's experiment leaves after two tiny tasks, and its state when the last one began."""
    from papers.memo import experiment
    from repro.runner import Context

    config = Config(**PAPER.resolve("textures", arm, "smoke", {"points": "large", **options}))
    start = []

    class Seen(ExpandableNet):
        def begin_task(self, new):
            super().begin_task(new)
            start.append((self, frozen(self)))

    monkeypatch.setattr(experiment, "ExpandableNet", Seen)
    stream = experiment.load(config, 0)
    (plan,) = experiment.budget_plans(config, len(stream), (3, 16, 16), 0)
    start.clear()  # planning builds networks too
    experiment.learn(config, Context(seed=0), stream, plan, lambda *_: None)
    return start[-1]


def test_idle_blocks_do_not_learn(monkeypatch):
    """Weights are drawn and stay, bit by bit, through a task; those of the shared part move."""
    net, start = trained("idle", monkeypatch)
    block = net.blocks[-1]
    assert len(net.blocks) == 2
    assert not torch.equal(block[0][0].conv1.weight, net.blocks[0][0][0].conv1.weight)
    assert all(torch.equal(p, start[f"blocks.1.{name}"]) for name, p in block.named_parameters())
    assert not all(torch.equal(p, start[f"generalised.{name}"]) for name, p in net.generalised.named_parameters())
    net, start = trained("memo-drawn", monkeypatch)
    assert not any(torch.equal(p, start[f"blocks.1.{name}"]) for name, p in net.blocks[-1].named_parameters())


@pytest.mark.parametrize(
    ("arm", "align", "enlarge"),
    [("memo", True, False), ("wa", True, False), ("der", True, False), ("memo-enlarged", True, True),
     ("memo-no-align", False, False), ("wa-no-align", False, False), ("replay", False, False)],
)  # fmt: skip
def test_weight_alignment_is_done_where_an_arm_says_so(arm, align, enlarge, monkeypatch):
    """A head whose new rows are too large is scaled after the last task of an arm with alignment, and only there."""
    from papers.memo import method

    asked = []
    monkeypatch.setattr(method, "align_rows", lambda head, known, *, enlarge: asked.append((known, enlarge)) or 1.0)
    net, _ = trained(arm, monkeypatch)
    assert asked == ([(net.known, enlarge)] if align else [])


def test_distillation_weighs_as_stated():
    from papers.memo.experiment import objective
    from repro.training.incremental import distillation

    net = network(expand=False)
    net.begin_task(4)
    learn(net, [0, 1, 2, 3] * 3)
    old = copy.deepcopy(net).eval()
    net.begin_task(2)
    net.eval()
    x, y = pixels(6), torch.tensor([0, 1, 2, 3, 4, 5])
    plain, kept = F.cross_entropy(net(x)[0], y), distillation(net(x)[0][:, :4], old(x)[0])

    def value(distil):
        return objective(Config(distil=distil), net, None if distil == "none" else old)(x, y)

    torch.testing.assert_close(value("none"), plain)
    torch.testing.assert_close(value("icarl"), plain + kept)
    torch.testing.assert_close(value("wa"), plain / 3 + 2 * kept / 3)


def test_changes_are_measured_from_one_task_to_the_next():
    from papers.memo.experiment import Watch, changes

    net = network(expand=False)
    watch = Watch()
    for task in range(2):
        net.begin_task(2)
        net.eval()
        watch.before(net)
        with torch.no_grad():
            net.blocks[0][0][0].conv1.weight += 0.5 * task  # half of the last stage's weights move
            net.generalised[1][0].conv1.weight += 0.25 * task
        for part in watch.weights:
            for weight in part:
                weight.grad = torch.ones_like(weight)
        if task:
            watch.step(0)
        watch.after(net, pixels(20))
    found = watch.by_stage(net)
    share = 8 * 16 / (8 * 16 + 16 * 16)
    assert found["shift"] == pytest.approx([0, 0.25**2 / 2, 0, 0.5**2 * share])
    assert found["gradient_rms"] == pytest.approx([1.0] * 4)
    assert found["gradient"][3] == pytest.approx((9 * (8 * 16 + 16 * 16)) ** 0.5)
    assert found["cka"][0] == pytest.approx(1.0)
    assert max(found["cka"][1:]) < 1
    numbers = changes(found)
    assert numbers["shift_log2"] == pytest.approx(math.log2(8 * share))
    assert numbers["cka_gap"] == pytest.approx(found["cka"][1] - found["cka"][3])


def test_a_run_that_diverges_says_so():
    from papers.memo.experiment import run
    from repro.runner import Context

    config = PAPER.resolve("textures", "memo-equal", "smoke", {"lr": 1e30})
    outcome = run(Config(**config), Context(seed=0))
    assert outcome.diverged
    assert math.isnan(outcome.metrics["error"])


def test_options_that_do_not_exist_are_refused():
    from papers.memo.experiment import run
    from repro.runner import Context

    for option in ({"specialised": "middle"}, {"block": "new"}, {"memory": "more"}, {"stream": "none"},
                   {"nets": "8:2 8:2 8:2 8:2"}, {"nets": "x"}, {"predict": "x"}):  # fmt: skip
        with pytest.raises(ValueError, match=r"is one of|block is|memory is|stream is|can be|a network is|predict is"):
            run(Config(**PAPER.resolve("textures", "memo", "smoke", option)), Context(seed=0))


def test_the_published_configuration_on_files_of_the_original_layout(monkeypatch, tmp_path):
    from papers.memo.experiment import run
    from repro.runner import Context

    folder = tmp_path / "cifar100"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 400), ("test", 200)):
        rows = torch.randint(0, 256, (count, 2 + 3072), generator=generator, dtype=torch.uint8)
        rows[:, 1] = torch.arange(count) % 100
        (folder / f"{split}.bin").write_bytes(rows.numpy().tobytes())
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    small = {"first_epochs": 1, "epochs": 1, "nets": "conv2:8 14:2", "exemplars": 100}
    config = PAPER.resolve("cifar100", "memo", "published", small)
    outcome = run(Config(**config), Context(seed=0))
    assert outcome.data["name"] == "cifar100"
    assert outcome.data["task_sizes"] == [10] * 10
    assert len(outcome.curves["accuracy_large"]["y"]) == 10
    assert set(outcome.metrics) <= set(PAPER.metrics)


def test_the_published_budgets():
    from papers.memo.experiment import budget_plans

    def plans(arm):
        return budget_plans(Config(**PAPER.resolve("cifar100", arm, "published")), 10, CIFAR, 0)

    exemplars = {arm: [plan.exemplars for plan in plans(arm)] for arm in ("wa", "der", "memo")}
    assert (exemplars["wa"][0], exemplars["wa"][-1]) == (2000, 7431)
    assert exemplars["der"] == [2096, 2000, 2000, 2000, 2000]
    assert exemplars["memo"] == [2118, 2495, 2768, 3040, 3312]
    assert [round(plan.budget / 2**20, 2) for plan in plans("memo")] == [7.63, 12.42, 16.12, 19.83, 23.54]


def test_data_that_is_absent_is_an_error_that_says_so(monkeypatch, tmp_path):
    from papers.memo.experiment import load
    from repro.data import MissingData

    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True, raising=False)
    with pytest.raises(MissingData, match="cifar100"):
        load(Config(**PAPER.resolve("cifar100", "memo", "published")), 0)


# --- published figures ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counted():
    from papers.memo.published import accounting

    return accounting()


@pytest.mark.parametrize(
    ("depth", "shared", "own", "rate", "memo", "single"),
    [
        (14, 42_320, 129_536, 223.8, 495, 2013),
        (20, 65_552, 203_520, 350.4, 768, 3153),
        (26, 88_784, 277_504, 476.9, 1040, 4292),
        (32, 112_016, 351_488, 603.5, 1312, 5431),
    ],
)
def test_published_sizes_and_exemplars(counted, depth, shared, own, rate, memo, single):
    assert (counted[f"generalised_{depth}"], counted[f"specialised_{depth}"]) == (shared, own)
    assert counted[f"exemplars_per_copy_{depth}"] == pytest.approx(rate, abs=0.05)
    assert (counted[f"extra_memo_{depth}"], counted[f"extra_single_{depth}"]) == (memo, single)


def test_published_memory(counted):
    assert (counted["extra_memo_32_20_tasks"], counted["extra_single_32_20_tasks"]) == (2771, 11_466)
    assert (counted["extra_memo_32_6_tasks"], counted["extra_single_32_6_tasks"]) == (729, 3017)
    assert (counted["expanded_memo_32"], counted["expanded_der_32"]) == (3_626_896, 4_635_040)
    assert counted["memory_mib_memo_2000_exemplars"] == pytest.approx(19.69, abs=0.005)
    assert counted["budget_mib_small"] == pytest.approx(7.63, abs=0.005)
    assert (counted["parameters_conv2"], counted["specialised_conv2"]) == (38_976, 37_056)
    assert (counted["parameters_resnet18"], counted["specialised_resnet18"]) == (11_176_512, 8_393_728)
    assert counted["exemplars_per_copy_resnet18"] == pytest.approx(297, abs=0.5)
    assert counted["expanded_memo_resnet18"] == pytest.approx(86.7e6, rel=1e-3)
    assert counted["expanded_der_resnet18"] == pytest.approx(111.8e6, rel=1e-3)
