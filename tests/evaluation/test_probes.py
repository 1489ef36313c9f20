"""Probes on mixtures of layers: against logistic regression, and that they look where the answer is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from repro.evaluation.probes import LayerMixture, fit_probe, read


def states(layers: int, texts: int = 200, tokens: int = 4, hidden: int = 8, seed: int = 0):
    return torch.randn(texts, layers, tokens, hidden, generator=torch.Generator().manual_seed(seed))


def test_weights_sum_to_one_and_start_even():
    probe = LayerMixture(8, 3)
    found = states(5)
    torch.testing.assert_close(probe.weights(found), torch.full((200, 5, 4), 0.2))
    torch.nn.init.normal_(probe.score.weight)
    torch.testing.assert_close(probe.weights(found).sum(1), torch.ones(200, 4))
    real = torch.ones(200, 4, dtype=torch.bool)
    assert sum(probe.layer_weights(found, real)) == pytest.approx(1)


def test_the_mixture_is_the_formula():
    probe, found = LayerMixture(8, 3), states(3, texts=2)
    torch.nn.init.normal_(probe.score.weight)
    scores = torch.stack([found[1, layer, 2] @ probe.score.weight[0] + probe.score.bias[0] for layer in range(3)])
    expected = sum(w * h for w, h in zip(scores.softmax(0), found[1, :, 2], strict=True))
    torch.testing.assert_close(probe.mix(found)[1, 2], expected)
    torch.testing.assert_close(probe(found)[1, 2], probe.linear(expected))


def test_padding_does_not_count():
    probe, found = LayerMixture(8, 3), states(2, texts=3)
    real = torch.tensor([[True, True, False, False]] * 3)
    torch.testing.assert_close(probe(found, real), probe(found[:, :, :2], real[:, :2]))


def test_of_one_layer_it_is_logistic_regression():
    found = states(1, texts=600, tokens=1)
    truth = (
        found[:, 0, 0] @ torch.linspace(-2, 2, 8) + torch.randn(600, generator=torch.Generator().manual_seed(3)) > 0.4
    ).long()
    probe = LayerMixture(8, 2)
    fit_probe(
        probe, lambda rows: F.cross_entropy(probe(found[rows])[:, 0], truth[rows]), 600, steps=1500, batch=600, lr=0.1
    )
    known = LogisticRegression(C=1e6).fit(found[:, 0, 0].numpy(), truth.numpy())
    mine = probe(found)[:, 0].softmax(-1)[:, 1].detach()
    theirs = torch.tensor(known.predict_proba(found[:, 0, 0].numpy())[:, 1])
    torch.testing.assert_close(mine.double(), theirs.double(), atol=0.02, rtol=0)


def test_it_looks_at_the_layer_that_holds_the_answer():
    draw = torch.Generator().manual_seed(1)
    truth = torch.randint(4, (400, 3), generator=draw)
    found = 0.3 * torch.randn(400, 4, 3, 16, generator=draw)
    found[:, :, :, :4] += torch.eye(4)[None, :, None]  # every layer has a mark of its own
    found[:, 2, :, 4:8] += 3 * F.one_hot(truth, 4)
    probe = LayerMixture(16, 4)
    fit_probe(
        probe,
        lambda r: F.cross_entropy(probe(found[r]).flatten(0, 1), truth[r].flatten()),
        400,
        steps=200,
        batch=64,
        lr=0.05,
    )
    weights = probe.layer_weights(found, torch.ones(400, 3, dtype=torch.bool))
    assert max(range(4), key=weights.__getitem__) == 2
    assert weights[2] > 0.5


def test_reading_in_parts():
    ids = torch.tensor([[1, 2, 0], [3, 0, 0], [1, 1, 1]])
    found = read(lambda x: [x[..., None].float(), 2 * x[..., None].float()], ids, 0, batch=2)
    assert found.states.shape == (3, 2, 3, 1)
    assert found.rows(torch.tensor([1])).real.tolist() == [[True, False, False]]
    assert found.states[2, 1, 0] == 2


def test_a_probe_repeats():
    found = states(3)
    truth = torch.randint(3, (200,), generator=torch.Generator().manual_seed(0))
    outs = []
    for _ in range(2):
        probe = LayerMixture(8, 3, seed=5)
        fit_probe(
            probe,
            lambda r, p=probe: F.cross_entropy(p(found[r]).mean(1), truth[r]),
            200,
            steps=5,
            batch=32,
            lr=0.1,
            seed=2,
        )
        outs.append(probe(found))
    assert torch.equal(*outs)
