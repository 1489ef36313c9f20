"""Training with the whole graph in every step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from repro.data.bibliographic import bibliographic
from repro.evaluation.nodes import cluster_agreement, f1_scores
from repro.models.message_passing import NodeInput, RelationalConv, mean_operators
from repro.runner.outcome import Context
from repro.training.full_graph import Classified, fit_nodes, xavier
from repro.training.loop import Optimisation

DATA = bibliographic(4, authors=80, papers=160)


class Net(nn.Module):
    """Two steps of R-GCN; remembers the graphs that it saw."""

    def __init__(self):
        super().__init__()
        self.input = NodeInput(DATA.graph, 8, 0.3)
        self.layers = nn.ModuleList(RelationalConv(DATA.graph.relations, DATA.graph.types, 8, 8) for _ in range(2))
        self.head = nn.Linear(8, 4)
        self.seen = []

    def forward(self, graph):
        self.seen.append((graph, self.training))
        h, operators = self.input(graph), mean_operators(graph)
        for layer in self.layers:
            h = {kind: x.relu() for kind, x in layer(h, operators).items()}
        return Classified(self.head(h["A"]))


def fitted(steps=40, lr=1e-2, **options):
    model = xavier(Net(), 1)
    return model, fit_nodes(model, DATA, Optimisation(lr, steps, 0.0), Context(seed=1), evaluations=8, **options)


def test_training_keeps_the_weights_of_the_best_validation_loss():
    model, found = fitted(80, 3e-2)
    outcome = found.outcome
    assert outcome.metrics["best_step"] < 80
    curve = outcome.curves["validation_loss"]
    assert outcome.metrics["validation_loss"] == min(curve["y"])
    assert outcome.metrics["best_step"] == curve["x"][curve["y"].index(min(curve["y"]))]
    with torch.no_grad():
        logits = model(DATA.graph).logits
    own = nn.functional.cross_entropy(logits[DATA.validation], DATA.labels[DATA.validation])
    assert float(own) == pytest.approx(outcome.metrics["validation_loss"], rel=1e-5)
    right = (logits.argmax(-1) == DATA.labels)[DATA.test].double().mean()
    assert outcome.metrics["micro_f1"] == pytest.approx(100 * float(right))
    assert outcome.metrics["error"] == pytest.approx(100 - 100 * float(right))
    assert outcome.profile["train_samples"] == 80 * len(DATA.train)


def test_it_learns_and_is_what_its_seed_says():
    first, again = fitted()[1].outcome, fitted()[1].outcome
    assert first.metrics == again.metrics
    assert first.curves["train_loss"]["y"][-1] < 0.7 * math.log(4)
    model = xavier(Net(), 1)
    torch.manual_seed(99)  # another run's use of torch's own stream changes nothing, and a run leaves it as it was
    state = torch.get_rng_state()
    found = fit_nodes(model, DATA, Optimisation(1e-2, 40, 0.0), Context(seed=1), evaluations=8)
    assert found.outcome.metrics == first.metrics
    assert torch.equal(torch.get_rng_state(), state)


def test_inductive_training_never_sees_the_edges_of_test_nodes():
    model, found = fitted(8, inductive=True)
    assert found.graph.edges.keys() == DATA.graph.edges.keys()
    for graph, training in model.seen:
        edges = graph.edges[graph.relation("AP")]
        of_test = torch.isin(edges[0], DATA.test).any()
        assert not (training and of_test)
    assert any(torch.isin(g.edges[g.relation("AP")][0], DATA.test).any() for g, _ in model.seen)


def test_a_loss_that_is_not_finite_is_told():
    model = xavier(Net(), 1)
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    found = fit_nodes(model, DATA, Optimisation(1e-2, 4, 0.0), Context(seed=1), evaluations=2)
    assert found.outcome.diverged


def test_initial_weights_belong_to_names_and_seeds():
    a, b, c = (dict(xavier(Net(), seed).named_parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])
    assert not a["head.bias"].any()
    assert float(a["input.embedding.T.weight"].detach().std()) == pytest.approx(1, rel=0.1)


def test_scores():
    truth, predicted = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 2])
    scores = f1_scores(predicted, truth)
    assert scores["micro_f1"] == pytest.approx(75.0)
    assert scores["macro_f1"] == pytest.approx(100 * (2 / 3 + 2 / 3 + 1) / 3)
    points = torch.tensor([[0.0, 0], [0.1, 0], [5, 5], [5.1, 5]])
    assert cluster_agreement(points, torch.tensor([1, 1, 0, 0]), 2) == pytest.approx(100.0)
