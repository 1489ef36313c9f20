"""The weights of the best validation are those that training leaves."""

from __future__ import annotations

import math

import torch
from torch import nn

from repro.data.clicks import clicks
from repro.models.dcn import DCNV2, ClickModel, initialise_clicks
from repro.models.feature_tables import FeatureTables
from repro.runner import Context
from repro.training.fit import batch_loss
from repro.training.loop import Optimisation
from repro.training.selected import fit_selected

DATA = clicks(0, sizes=(30, 20), rows=(400, 50, 50), pairs=1)


def model():
    made = ClickModel(FeatureTables(DATA.sizes, 4), DCNV2(8, 1, [8]), 2)
    initialise_clicks(made, 0)
    return made


def test_the_best_weights_are_kept():
    kept = []
    values = iter([3.0, 1.0, 2.0, 1.0])

    def validate(m):
        kept.append({n: p.detach().clone() for n, p in m.state_dict().items()})
        return {"loss": next(values)}

    made = model()
    found = fit_selected(
        made, DATA, Optimisation(1e-2, 8), Context(0), batch=16, evaluations=4, validate=validate
    )  # fmt: skip
    assert (found.step, found.validation["loss"]) == (4, 1.0)
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, kept[1][name])
    assert any(not torch.equal(kept[1][name], kept[3][name]) for name in kept[1])
    assert found.outcome.curves["loss"]["y"] == [3.0, 1.0, 2.0, 1.0]
    assert found.outcome.profile["train_tokens"] == 8 * 16
    assert not made.training


def test_the_measure_of_worth_can_be_chosen():
    values = iter([0.5, 0.9, 0.7])
    found = fit_selected(
        model(), DATA, Optimisation(1e-2, 6), Context(0), batch=16, evaluations=3,
        validate=lambda _: {"loss": 1.0, "auc": next(values)}, worth=lambda f: f["auc"],
    )  # fmt: skip
    assert found.validation["auc"] == 0.9


def test_it_trains_as_the_loop_does_and_gives_way_to_numbers():
    one, two = model(), model()
    fit_selected(
        one, DATA, Optimisation(1e-2, 5), Context(3), batch=16, evaluations=1, validate=lambda _: {"loss": 1.0}
    )
    from repro.training.loop import train

    order = DATA.train_order(5, 16, 3)
    train(two, map(DATA.rows, order), lambda b: batch_loss(two, b), lambda: {"loss": 1.0}, Optimisation(1e-2, 5))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    values = iter([math.nan, 1.0])
    made: nn.Module = model()
    found = fit_selected(
        made,
        DATA,
        Optimisation(1e-2, 6),
        Context(0),
        batch=16,
        evaluations=2,
        validate=lambda _: {"loss": next(values)},
    )
    assert found.outcome.diverged
    assert math.isnan(found.validation["loss"])
