"""How experts specialise by a label of the tokens (their domain), and how evenly they are loaded.

Shapes: T tokens, K selected of N experts, L labels. A *table* ``[L, N]`` counts the selections of an expert by tokens
of a label.
"""

from __future__ import annotations

import torch
from torch import Tensor


def selection_table(indices: Tensor, labels: Tensor, experts: int, kinds: int) -> Tensor:
    """Counts ``[L, N]`` (float64) of selections ``indices [T, K]`` by ``labels [T]`` in ``range(kinds)``.

    Raises ValueError when the two do not have as many tokens.
    """
    if len(indices) != len(labels):
        raise ValueError(f"{len(indices)} routed tokens and {len(labels)} labels")
    flat = labels.cpu()[:, None] * experts + indices.cpu()
    return torch.bincount(flat.flatten(), minlength=kinds * experts).view(kinds, experts).double()


def frequencies(table: Tensor, k: int) -> Tensor:
    """Share of the tokens of a label that select an expert: ``[L, N]``, rows sum to K, K/N where all are used alike.
    Labels without tokens give zeros."""
    return table * k / table.sum(1, keepdim=True).clamp_min(1)


def mutual_information(table: Tensor) -> float:
    """Bits that the selected expert tells about the label, and the other way round; labels weigh equally.

    0 when every label uses the experts alike; at most log2 of the smaller of L and N.
    """
    rows = table[table.sum(1) > 0]
    given = rows / rows.sum(1, keepdim=True)
    overall = given.mean(0)
    ratio = torch.where(given > 0, given / overall.clamp_min(1e-300), torch.ones_like(given))
    return float((given * ratio.log2()).sum(1).mean())


def shuffled_information(
    indices: Tensor, labels: Tensor, experts: int, kinds: int, generator: torch.Generator
) -> float:
    """`mutual_information` after the labels were dealt to the tokens at random: what a finite sample shows where there
    is nothing to see."""
    dealt = labels[torch.randperm(len(labels), generator=generator)]
    return mutual_information(selection_table(indices, dealt, experts, kinds))


def peak_frequency(table: Tensor, k: int) -> float:
    """Largest `frequencies` over its value at even use, K/N: 1 to N/K."""
    return float(frequencies(table, k).max()) * table.shape[1] / k


def load_imbalance(counts: Tensor) -> Tensor:
    """Largest load over the mean load: ``counts [..., N]`` to ``[...]``; 1 when even, N when one expert takes all."""
    loads = counts.double()
    return loads.amax(-1) / loads.mean(-1)


def top_score_sum(scores: Tensor, indices: Tensor) -> float:
    """Mean over tokens of the summed scores ``[T, N]`` of the selected experts ``[T, K]``: 1 when the router spends all
    its probability on them."""
    return float(scores.gather(1, indices).sum(1).mean())
