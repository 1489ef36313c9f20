"""Generated click logs are what they say; batches carry ids and dense values without loss."""

from __future__ import annotations

import math

import pytest
import torch

from repro.data.clicks import ClickData, Clicks, clicks, clicks_even, zipf
from repro.data.registry import load_clicks
from repro.training.loop import Optimisation

ROWS = (20_000, 2000, 20_000)


def test_values_have_zipfian_frequencies_and_random_names():
    data = clicks(3, sizes=(200, 5), rows=(100_000, 10, 100), pairs=0)
    counts = data.train.ids[:, 0].bincount(minlength=200).double()
    expected = zipf(200, 0.8) * 100_000
    found = counts.sort(descending=True).values
    assert ((found[:20] - expected[:20]).abs() < 5 * expected[:20].sqrt()).all()
    assert counts.argmax() != 0 or counts[1] != found[1]  # not in order of frequency
    assert data.train.ids.max() < 200


def test_the_true_log_odds_give_the_best_score():
    """A model of the biases alone, fitted on very many rows, comes near the best score where nothing interacts."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    data = clicks(1, sizes=(6, 4), rows=ROWS, pairs=0, bias=1.0)

    def onehot(part):
        return torch.cat([torch.nn.functional.one_hot(part.ids[:, t], n) for t, n in enumerate(data.sizes)], -1).numpy()

    model = LogisticRegression(C=100.0).fit(onehot(data.train), data.train.labels.numpy())
    auc = 100 * roc_auc_score(data.test.labels.numpy(), model.predict_proba(onehot(data.test))[:, 1])
    assert auc == pytest.approx(data.details["best_auc"], abs=0.5)
    # and falls short of it where features interact
    data = clicks(1, sizes=(6, 4), rows=ROWS, pairs=1, bias=0.3, scale=1.0)
    model = LogisticRegression(C=100.0).fit(onehot(data.train), data.train.labels.numpy())
    auc = 100 * roc_auc_score(data.test.labels.numpy(), model.predict_proba(onehot(data.test))[:, 1])
    assert auc < data.details["best_auc"] - 3


def test_data_follow_the_seed_and_describe_themselves():
    small = {"rows": (200, 50, 60)}
    one, same, other = load_clicks("clicks", seed=1, **small), clicks(1, **small), clicks(2, **small)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    about = one.describe()
    assert (about["train_rows"], about["validation_rows"], about["held_out_rows"]) == (200, 50, 60)
    assert about["name"] == "clicks"
    assert sum(about["sizes"]) == one.vocab_size == 7929
    assert load_clicks("clicks-even", seed=1, **small).sizes == (1000,) * 8
    assert math.isfinite(about["best_auc"])
    with pytest.raises(ValueError, match="pairs"):
        clicks_even(features=2, pairs=2)
    with pytest.raises(ValueError, match="valid"):
        load_clicks("composition")


def test_batches_are_rows_and_orders_are_epochs():
    data = clicks(0, rows=(100, 30, 25))
    order = data.train_order(5, 40, seed=3)
    assert order[:5].flatten()[:100].sort().values.tolist() == list(range(100))
    assert torch.equal(order[:2], data.train_order(2, 40, seed=3))
    assert not torch.equal(order, data.train_order(5, 40, seed=4))
    batch = data.rows(order[0])
    assert batch.inputs.shape == (40, 7)
    assert torch.equal(batch.inputs, data.train.ids[order[0]])
    assert batch.targets.dtype == torch.long
    assert [len(b.targets) for b in data.test.batches(10)] == [10, 10, 5]
    assert [len(b.targets) for b in data.held_out_batches(2, 10)] == [10, 10]
    assert [len(b.targets) for b in data.held_out_batches(20, 10)] == [10, 10, 5]


def test_dense_features_stand_behind_ids_exactly():
    ids = torch.tensor([[2**31 - 1, 5], [7, 2**30 + 1]], dtype=torch.int32)
    part = Clicks(ids, torch.tensor([0, 1]), torch.tensor([[0.1], [2.5]]))
    batch = part.take(torch.tensor([1, 0]))
    assert batch.inputs.dtype == torch.float64
    assert batch.inputs[:, :2].long().tolist() == [[7, 2**30 + 1], [2**31 - 1, 5]]
    assert torch.equal(batch.inputs[:, 2].float(), torch.tensor([2.5, 0.1]))
    with pytest.raises(ValueError, match="sizes"):
        ClickData("x", ("a",), (1, 2), part, part, part, "generated", "")


def test_the_frames_of_training_take_them():
    """`fit`, with a model of two classes, and `fit_selected`."""
    from repro.models.dcn import DCNV2, ClickModel, initialise_clicks
    from repro.models.feature_tables import FeatureTables
    from repro.runner import Context
    from repro.training.fit import fit

    data = clicks(0, rows=(2000, 300, 300))
    model = ClickModel(FeatureTables(data.sizes, 4), DCNV2(28, 1, [8]), 7)
    initialise_clicks(model, 0)
    found = fit(model, data, Optimisation(1e-2, 20), Context(0), batch=64, eval_batches=3, evaluations=2)
    assert found.outcome.data["name"] == "clicks"
    assert found.outcome.profile["train_tokens"] == 20 * 64
    assert 0.3 < found.outcome.metrics["accuracy"] < 1
