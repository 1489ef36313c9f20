"""Click logs: rows of categorical and dense features with a label, in three splits; and generated ones.

In generated logs every feature has a vocabulary of its own whose values come at Zipfian frequencies, and the log-odds
of a click are

    sum_t b_t[x_t] + sum_(s,t) <u_st[x_s], v_st[x_t]> + constant,

a bias for each value and latent dot products of some pairs of features. The best possible score is therefore known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from repro.data.base import Batch, order_seed
from repro.data.splits import Splits


class Clicks(NamedTuple):
    """``ids`` integer tensor [N, T]; ``labels`` LongTensor [N], 0 or 1; ``dense`` float32 [N, D], D may be 0."""

    ids: Tensor
    labels: Tensor
    dense: Tensor

    def take(self, rows: Tensor | slice) -> Batch:
        """Rows as a batch: inputs LongTensor [batch, T], or with dense features float64 [batch, T + D], ids first
        (exact up to 2^53)."""
        inputs, labels = self.ids[rows].long(), self.labels[rows]
        if self.dense.shape[1]:
            inputs = torch.cat([inputs.double(), self.dense[rows].double()], -1)
        return Batch(inputs, labels, torch.zeros(labels.shape, dtype=torch.uint8))

    def batches(self, size: int, limit: int = 0) -> list[Batch]:
        """In batches of ``size`` rows, of the first ``limit`` (0: all)."""
        stop = min(limit or len(self.labels), len(self.labels))
        return [self.take(slice(at, min(at + size, stop))) for at in range(0, stop, size)]


@dataclass(frozen=True, eq=False)
class ClickData(Splits[Clicks]):
    """A task of click prediction.

    Attributes:
        features: names of the categorical features, T.
        sizes: values of each: ids of feature t are in ``range(sizes[t])``.
        train, validation, test: disjoint.
        fingerprint: hash of all rows.
    """

    name: str
    features: tuple[str, ...]
    sizes: tuple[int, ...]
    train: Clicks
    validation: Clicks
    test: Clicks
    source: str
    description: str
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if len(self.features) != len(self.sizes):
            raise ValueError(f"{len(self.features)} features have {len(self.sizes)} sizes")
        super().__post_init__()

    @property
    def dense(self) -> int:
        """Number of dense features."""
        return self.train.dense.shape[1]

    @property
    def vocab_size(self) -> int:
        """Values of all features together."""
        return sum(self.sizes)

    def rows(self, indices: Tensor) -> Batch:
        """Training rows ``indices`` (LongTensor [batch])."""
        return self.train.take(indices)

    def held_out_batches(self, batches: int, batch: int) -> list[Batch]:
        """The first test rows, the same for all arms."""
        return self.test.batches(batch, batches * batch)

    def describe(self) -> dict[str, Any]:
        """What a record keeps about its data; JSON."""
        return self.described(features=list(self.features), sizes=list(self.sizes), dense=self.dense)


def zipf(size: int, exponent: float) -> Tensor:
    """Probabilities proportional to ``rank ** -exponent``: float64 [size]."""
    weights = torch.arange(1, size + 1, dtype=torch.float64) ** -exponent
    return weights / weights.sum()


def clicks(
    seed: int = 0,
    *,
    sizes: Sequence[int] = (4000, 3000, 800, 100, 20, 7, 2),
    rows: tuple[int, int, int] = (96_000, 12_000, 24_000),
    exponent: float = 0.8,
    bias: float = 0.6,
    pairs: int = 4,
    rank: int = 4,
    scale: float = 0.6,
    name: str = "clicks",
) -> ClickData:
    """A generated click log; vocabularies of very different size by default.

    Args:
        seed: of the task: its vocabularies, its log-odds and its rows.
        rows: of training, validation and test.
        exponent: of Zipf's law; which value has which frequency is drawn at random.
        bias: standard deviation of the biases.
        pairs: how many neighbouring features (t, t + 1) interact, from the first on.
        rank, scale: length of the latent vectors and standard deviation of their entries.

    ``details`` hold the AUC (percent) and log loss (nats) on test rows of the true log-odds.

    Raises ValueError for more pairs than there are neighbours.
    """
    from repro.evaluation.clicks import click_metrics

    if not 0 <= pairs < len(sizes):
        raise ValueError(f"{len(sizes)} features have no {pairs} pairs of neighbours")
    draw = torch.Generator().manual_seed(order_seed("click log", seed))
    total = sum(rows)
    ids, logits = [], torch.zeros(total)
    for size in sizes:
        popular = torch.randperm(size, generator=draw)
        place = torch.searchsorted(
            zipf(size, exponent).cumsum(0), torch.rand(total, dtype=torch.float64, generator=draw)
        )
        ids.append(popular[place.clamp_max(size - 1)])
        logits += bias * torch.randn(size, generator=draw)[ids[-1]]
    for t in range(pairs):
        u, v = (scale * torch.randn(sizes[i], rank, generator=draw)[ids[i]] for i in (t, t + 1))
        logits += (u * v).sum(-1)
    labels = (torch.rand(total, generator=draw) < torch.sigmoid(logits)).long()
    parts = zip(torch.stack(ids, -1).split(rows), labels.split(rows), strict=True)
    train, validation, test = (Clicks(x, y, torch.empty(len(y), 0)) for x, y in parts)
    best = click_metrics(test.labels, logits[-rows[2] :])
    return ClickData(
        name=name,
        features=tuple(f"feature {t}" for t in range(len(sizes))),
        sizes=tuple(sizes),
        train=train,
        validation=validation,
        test=test,
        source="generated",
        description=f"{len(sizes)} features with {sum(sizes):,} values at Zipfian frequencies; a bias for each value "
        f"and {pairs} latent interactions make the log-odds of a click.",
        details={"task_seed": seed, "best_auc": round(best["auc"], 4), "best_loss": round(best["loss"], 6)},
    )


def clicks_even(seed: int = 0, *, features: int = 8, size: int = 1000, **options: Any) -> ClickData:
    """As `clicks`, with vocabularies of equal size: tables in proportion to vocabularies favour no feature there."""
    return clicks(seed, sizes=(size,) * features, name="clicks-even", **options)
