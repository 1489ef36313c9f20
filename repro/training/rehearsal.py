"""Exemplars: which training images a continual learner keeps, and classifying by their means (iCaRL, Rebuffi 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def herding(features: Tensor, count: int) -> Tensor:
    """Indices of ``count`` rows, greedily: each brings the mean of those chosen nearest to the mean of all (iCaRL,
    Algorithm 4). The first m of a longer list are the list of m.

    Args:
        features: [N, d]; normalised here to length one.

    Returns:
        LongTensor [min(count, N)], no row twice.
    """
    features = F.normalize(features.double(), dim=1)
    mean = features.mean(0)
    total = torch.zeros_like(mean)
    free = torch.ones(len(features), dtype=torch.bool)
    chosen: list[int] = []
    for k in range(min(count, len(features))):
        distance = (mean - (features + total) / (k + 1)).square().sum(1)
        best = int(distance.masked_fill(~free, torch.inf).argmin())
        chosen.append(best)
        free[best] = False
        total += features[best]
    return torch.tensor(chosen, dtype=torch.long)


def quotas(capacity: int, classes: int, *, fill: bool = False) -> list[int]:
    """Exemplars of each class: ``floor(capacity / classes)``; with ``fill`` what is left goes to the first classes, one
    each, so that the memory is used to the last image. Raises ValueError without a class."""
    if classes < 1:
        raise ValueError("no class to keep exemplars of")
    share, left = divmod(capacity, classes)
    return [share + (fill and c < left) for c in range(classes)]


class Rehearsal:
    """Exemplars of all classes seen, ``capacity`` in all, as rows of a training set.

    The memory is fixed, so that the share of every class shrinks as classes come (``fixed_memory: false`` in PyCIL).
    """

    def __init__(self, capacity: int, *, fill: bool = False):
        self.capacity, self.fill = capacity, fill
        self.kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.kept.values())

    @property
    def rows(self) -> Tensor:
        """Rows of all exemplars, LongTensor."""
        return torch.cat([torch.empty(0, dtype=torch.long), *self.kept.values()])

    def update(self, features: Tensor, labels: Tensor, rows: Tensor) -> None:
        """Take in new classes, cutting the lists of those that are there.

        Args:
            features: [N, d] of the new classes' training images; labels, rows: LongTensor [N] of the same. Images of
                classes that are kept already are passed over.
        """
        new = [c for c in sorted(set(labels.tolist())) if c not in self.kept]
        shares = quotas(self.capacity, len(self.kept) + len(new), fill=self.fill)
        for place, label in enumerate(self.kept):
            self.kept[label] = self.kept[label][: shares[place]]
        for place, label in enumerate(new, len(self.kept)):
            of_class = labels == label
            self.kept[label] = rows[of_class][herding(features[of_class], shares[place])]


def nearest_mean(features: Tensor, exemplars: Tensor, labels: Tensor) -> Tensor:
    """Classes of ``features`` [N, d] by the nearest mean of the exemplars' features (iCaRL, Algorithm 1).

    Args:
        exemplars: [M, d]; labels: LongTensor [M], every class of ``range(max + 1)`` at least once.

    Returns:
        LongTensor [N]. Features are normalised first, means again.
    """
    exemplars, classes = F.normalize(exemplars, dim=1), int(labels.max()) + 1
    sums = torch.zeros(classes, exemplars.shape[1], dtype=exemplars.dtype, device=exemplars.device)
    means = F.normalize(sums.index_add_(0, labels, exemplars), dim=1)
    return (F.normalize(features, dim=1) @ means.T).argmax(1)
