"""Forward-Forward and direct feedback alignment: their updates, and that no gradient crosses a layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from repro.training.local_learning import MLP, FeedbackAlignment, ForwardForward


def batch(rows=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 1, 4, 3, generator=generator)
    return x, torch.randint(0, 4, (rows,), generator=generator)


def noise():
    return torch.Generator().manual_seed(1)


def test_feedback_by_the_transposed_weights_is_back_propagation():
    torch.manual_seed(0)
    x, y = batch()
    model = FeedbackAlignment(12, (5,), 4, noise())
    model.feedback0.copy_(model.layers[1].weight.detach())  # the error times W is what back-propagation sends down
    plain = MLP(12, (5,), 4)
    plain.layers.load_state_dict(model.layers.state_dict())
    loss, expected = model.loss(x, y), plain.loss(x, y)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for mine, theirs in zip(model.layers.parameters(), plain.layers.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_feedback_of_two_hidden_layers_written_out():
    torch.manual_seed(0)
    x, y = batch()
    model = FeedbackAlignment(12, (5, 6), 4, noise())
    model.loss(x, y).backward()
    first, second, out = model.layers
    a1 = first(x.flatten(1))
    a2 = second(a1.relu())
    error = (out(a2.relu()).softmax(1) - F.one_hot(y, 4)) / len(y)
    one = (error @ model.feedback[0]) * (a1 > 0)
    two = (error @ model.feedback[1]) * (a2 > 0)
    torch.testing.assert_close(first.weight.grad, one.T @ x.flatten(1))
    torch.testing.assert_close(second.weight.grad, two.T @ a1.relu())
    torch.testing.assert_close(out.weight.grad, error.T @ a2.relu())


def test_feedback_is_fixed_and_drawn_from_its_generator():
    a, b = (FeedbackAlignment(12, (5,), 4, noise()) for _ in range(2))
    assert torch.equal(a.feedback0, b.feedback0)
    assert not any("feedback" in name for name, _ in a.named_parameters())


def test_goodness_is_the_mean_square_of_activities_of_normalised_input():
    torch.manual_seed(0)
    model = ForwardForward(12, (5, 6), 4)
    x = batch()[0].flatten(1)
    found = model.goodness(x)
    h = model.layers[0](x / x.square().mean(1, keepdim=True).sqrt()).relu()
    torch.testing.assert_close(found[0], h.square().mean(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(model.goodness(7 * x)[1], found[1], rtol=1e-3, atol=1e-4)  # length is not handed on


def test_no_gradient_crosses_a_layer_of_forward_forward():
    torch.manual_seed(0)
    model = ForwardForward(12, (5, 6), 4)
    x = batch()[0].flatten(1)
    model.goodness(x)[1].sum().backward()
    assert model.layers[0].weight.grad is None
    assert model.layers[1].weight.grad.abs().sum() > 0


def test_the_other_label_is_never_the_right_one():
    model = ForwardForward(12, (5,), 4)
    seen = []
    model.goodness = lambda flat: seen.append(flat[:, :4].argmax(1)) or [flat.sum(1)]  # type: ignore[method-assign, func-returns-value, assignment]
    x = torch.rand(500, 12)
    y = torch.arange(500) % 4
    model.loss(x, y, noise())
    right, other = seen
    assert torch.equal(right, y)
    assert (other != y).all()
    assert ((other - y) % 4).bincount()[1:].min() > 120  # each of the others as often


def test_both_learn_a_separable_task():
    torch.manual_seed(0)
    centres = 2 * torch.randn(4, 12)
    y = torch.arange(400) % 4
    x = centres[y] + 0.3 * torch.randn(400, 12)
    for model in (ForwardForward(12, (32, 32), 4), FeedbackAlignment(12, (32, 32), 4, noise())):
        optimizer, generator = torch.optim.Adam(model.parameters(), lr=1e-2), noise()
        for _ in range(200):
            optimizer.zero_grad()
            model.loss(x, y, generator).backward()
            optimizer.step()
        assert (model.logits(x).argmax(1) == y).float().mean() > 0.95


def test_a_label_needs_room():
    with pytest.raises(ValueError, match="too few"):
        ForwardForward(3, (5,), 4)
