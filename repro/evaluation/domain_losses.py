"""Losses on rows of several domains: above what the source itself loses, by domain and by place in the row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from repro.data.base import IGNORED
from repro.data.markov import DomainRows


class Excess(NamedTuple):
    """Nats per token above the source.

    Attributes:
        mean: over all targets that count.
        settled: over those of the second half of the rows, where what came before tells the domain.
        domains: ``mean`` by domain.
        settled_domains: ``settled`` by domain.
        after: mean by number of targets since the domain changed, in the rows where it did; empty in pure rows.
    """

    mean: float
    settled: float
    domains: list[float]
    settled_domains: list[float]
    after: list[float]


@torch.no_grad()
def excess(predict: Callable[[DomainRows], Tensor], rows: DomainRows, batch: int = 64) -> Excess:
    """Loss of a model above the sources.

    Args:
        predict: rows to logits [rows, T, vocabulary]; it may read all that the rows hold.
        batch: rows at a time.

    Raises ValueError when no target counts.
    """
    losses = torch.cat([_losses(predict(part), part) for part in _parts(rows, batch)])
    counts = rows.targets.cpu() != IGNORED
    if not counts.any():
        raise ValueError("no target counts")
    late = counts & (torch.arange(rows.targets.shape[1]) >= rows.targets.shape[1] // 2)
    domains = rows.domains.cpu()
    names = domains.unique().tolist()
    return Excess(
        _mean(losses, counts), _mean(losses, late),
        [_mean(losses, counts & (domains == d)) for d in names],
        [_mean(losses, late & (domains == d)) for d in names],
        _after(losses, domains),
    )  # fmt: skip


def _parts(rows: DomainRows, batch: int) -> list[DomainRows]:
    return [rows.take(slice(start, start + batch)) for start in range(0, len(rows.inputs), batch)]


def _losses(logits: Tensor, rows: DomainRows) -> Tensor:
    """[rows, T] on the CPU; 0 where no target counts."""
    found = F.cross_entropy(
        logits.flatten(0, 1).float(), rows.targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    counts = rows.targets != IGNORED
    return (found.view(rows.targets.shape) - rows.floor).masked_fill(~counts, 0.0).double().cpu()


def _mean(losses: Tensor, chosen: Tensor) -> float:
    """nan where nothing is chosen."""
    return float(losses[chosen].mean())


def _after(losses: Tensor, domains: Tensor) -> list[float]:
    """Mean loss 0, 1, 2... targets after a change of the domain."""
    since = torch.full(domains.shape, -1)
    for t in range(1, domains.shape[1]):
        changed = domains[:, t] != domains[:, t - 1]
        since[:, t] = torch.where(changed, 0, torch.where(since[:, t - 1] >= 0, since[:, t - 1] + 1, -1))
    return [_mean(losses, since == k) for k in range(int(since.max()) + 1)]
