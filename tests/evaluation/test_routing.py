"""Traces of routing: what is told about labels by construction, and the null."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from repro.evaluation import routing
from repro.models.moe import TopKRouter

STEPS, IMAGES, TOKENS, EXPERTS = 6, 40, 4, 4


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


def made(by):
    """A trace whose expert is given by one label alone, and classes of the images."""
    classes = torch.arange(IMAGES) % EXPERTS
    step, image, token = torch.meshgrid(*(torch.arange(n) for n in (STEPS, IMAGES, TOKENS)), indexing="ij")
    expert = {
        "position": token,
        "step": step % EXPERTS,
        "class": classes[image],
        "chance": torch.randint(EXPERTS, step.shape, generator=noise(1)),
        "image": torch.randint(EXPERTS, (1, IMAGES, 1), generator=noise(2)).expand(step.shape),
    }[by]
    return expert[..., None].to(torch.uint8), classes


@pytest.mark.parametrize("by", ["position", "class"])
def test_a_choice_by_one_label_is_told_by_that_label_alone(by):
    trace, classes = made(by)
    found = routing.dependence(trace, classes, EXPERTS, EXPERTS, noise())
    assert found[by] == pytest.approx(1)
    for other in {"position", "step", "class"} - {by}:
        assert abs(found[other]) < 0.01


def test_a_choice_by_step_is_told_by_the_step_as_far_as_steps_share_experts():
    trace, classes = made("step")
    found = routing.dependence(trace, classes, EXPERTS, EXPERTS, noise())
    steps, joint = torch.arange(STEPS), torch.zeros(STEPS, EXPERTS)
    joint[steps, steps % EXPERTS] = 1
    assert found["step"] == pytest.approx(routing.normalised_information(joint), abs=0.03)
    assert abs(found["position"]) < 0.01


@pytest.mark.parametrize("by", ["chance", "image"])
def test_a_choice_by_nothing_is_told_by_nothing(by):
    """By image: whole images have one expert, so that a class of ten seems to tell much; the null is as large."""
    means = dict.fromkeys(("position", "step", "class"), 0.0)
    for seed in range(8):
        trace, _ = made(by)
        classes = (torch.arange(IMAGES) % EXPERTS)[torch.randperm(IMAGES, generator=noise(10 + seed))]
        found = routing.dependence(trace, classes, EXPERTS, EXPERTS, noise(seed), deals=20)
        for name in means:
            means[name] += found[name] / 8
    assert max(abs(v) for v in means.values()) < 0.02
    if by == "image":
        raw = torch.zeros(EXPERTS, EXPERTS).index_add_(0, classes, routing.counts(trace, EXPERTS).sum((0, 2)))
        assert routing.normalised_information(raw) > 0.03


def test_normalised_information_in_numbers():
    assert routing.normalised_information(torch.eye(3)) == pytest.approx(1)
    assert routing.normalised_information(torch.ones(3, 5)) == pytest.approx(0, abs=1e-12)
    assert routing.normalised_information(torch.ones(1, 1)) == 0
    from sklearn.metrics import normalized_mutual_info_score

    labels, experts = torch.randint(3, (200,), generator=noise()), torch.randint(5, (200,), generator=noise(1))
    table = torch.zeros(3, 5)
    for label, expert in zip(labels, experts, strict=True):
        table[label, expert] += 1
    expected = normalized_mutual_info_score(labels.numpy(), experts.numpy())
    assert routing.normalised_information(table) == pytest.approx(expected)


def test_counts_hold_every_selection_of_top_k():
    trace = torch.tensor([[[[0, 2], [1, 2]]]], dtype=torch.uint8)
    assert routing.counts(trace, 4).tolist() == [[[[1, 0, 1, 0], [0, 1, 1, 0]]]]


def test_entropy_by_step():
    trace = torch.stack([torch.zeros(8, 2, 1), torch.arange(16).view(8, 2, 1) % 4, torch.arange(16).view(8, 2, 1) % 2])
    found = routing.entropy_by_step(trace.to(torch.uint8), 4)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64))


def test_preferences_are_shares():
    trace, classes = made("position")
    assert torch.equal(routing.preference(trace, EXPERTS, "position"), torch.eye(4))
    torch.testing.assert_close(routing.preference(trace, EXPERTS, "step"), torch.full((STEPS, 4), 0.25))
    torch.testing.assert_close(
        routing.preference(trace, EXPERTS, "class", classes, 5)[:4], torch.full((4, EXPERTS), 0.25)
    )
    with pytest.raises(ValueError, match="position, step or class"):
        routing.preference(trace, EXPERTS, "class")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.routers = nn.ModuleList(TopKRouter(3, EXPERTS, 2) for _ in range(2))
        for router in self.routers:
            nn.init.normal_(router.weight)

    def forward(self, x):
        return [router(x.reshape(-1, 3)).indices for router in self.routers]


def test_recorded_keeps_the_images_with_their_label_of_every_step():
    net, x = Net(), torch.randn(STEPS, 10, TOKENS, 3, generator=noise())
    with routing.recorded(net, images=5, tokens=TOKENS) as recorder:
        seen = [net(step) for step in x]
    net(x[0])  # outside the block nothing is kept
    traces = recorder.traces()
    assert [t.shape for t in traces] == [(STEPS, 5, TOKENS, 2)] * 2
    for layer, trace in enumerate(traces):
        expected = torch.stack([step[layer].view(10, TOKENS, 2)[:5] for step in seen])
        assert torch.equal(trace.long(), expected)
    assert routing.joined([traces[0], traces[0]]).shape[1] == 10
    with pytest.raises(ValueError, match="no router"), routing.recorded(nn.Linear(1, 1), 1, 1):
        pass
