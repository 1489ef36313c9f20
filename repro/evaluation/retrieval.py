"""Ranking by scores: mean reciprocal rank, recall, mean average precision."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(scores: Tensor, right: Tensor | None = None) -> Tensor:
    """Rank, from 1, of the right candidate of every query, LongTensor [Q]; of equal scores the right one stands last.

    Args:
        scores: [Q, C], higher is better.
        right: LongTensor [Q], index of the right candidate; by default that of the query.
    """
    right = torch.arange(len(scores), device=scores.device) if right is None else right
    own = scores.gather(1, right[:, None])
    return (scores >= own).sum(1).clamp(min=1)  # a score that is not finite is above nothing


def reciprocal_rank(found: Tensor) -> float:
    """Mean reciprocal rank of ranks from 1: 1 for a perfect ranker."""
    return float((1 / found.double()).mean())


def recall_at(found: Tensor, k: int) -> float:
    """Share of the queries whose right candidate is among the first ``k``."""
    return float((found <= k).double().mean())


def mean_average_precision(scores: Tensor, relevant: Tensor) -> float:
    """Mean over queries of the average precision: the mean, over a query's relevant candidates, of the share of
    relevant ones among all that rank as high.

    Args:
        scores: [Q, C], higher is better; minus infinity for what is no candidate of a query (itself).
        relevant: bool [Q, C]. Raises ValueError when a query has none.
    """
    if not bool(relevant.any(1).all()):
        raise ValueError("a query has no relevant candidate")
    hits = relevant.gather(1, scores.argsort(dim=1, descending=True, stable=True)).double()
    place = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return float(((hits.cumsum(1) / place * hits).sum(1) / hits.sum(1)).mean())
