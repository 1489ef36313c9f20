"""Task vectors (Ilharco et al., 2023) as arithmetic on state dicts, and the merging methods that all of the field
compares with: average, task arithmetic, TIES (Yadav et al., 2023), TALL masks and consensus (Wang et al., 2024).

A state is a mapping from parameter names to tensors. Everything here is pure: no argument is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Vector = dict[str, Tensor]


def _same(states: Sequence[State]) -> None:
    if not states:
        raise ValueError("no state to work on")
    first = {name: tensor.shape for name, tensor in states[0].items()}
    for other in states[1:]:
        shapes = {name: tensor.shape for name, tensor in other.items()}
        if shapes != first:
            odd = sorted({*first.items()} ^ {*shapes.items()})[:3]
            raise ValueError(f"states differ in names or shapes: {odd}")


def task_vector(tuned: State, base: State) -> Vector:
    """``tuned - base`` of every floating-point tensor, in float32; integers and booleans are left out.

    Raises ValueError when names or shapes differ.
    """
    _same([base, tuned])
    return {name: tuned[name].float() - value.float() for name, value in base.items() if torch.is_floating_point(value)}


def apply(base: State, vector: State, scale: float = 1.0) -> Vector:
    """``base + scale * vector``, in the types of ``base``; what the vector does not name stays.

    Raises KeyError for a name that ``base`` does not have.
    """
    if unknown := vector.keys() - base.keys():
        raise KeyError(sorted(unknown)[0])
    return {
        name: (value.float() + scale * vector[name]).to(value.dtype) if name in vector else value.clone()
        for name, value in base.items()
    }


def total(vectors: Sequence[State]) -> Vector:
    """The sum of task vectors: task arithmetic scales it by one coefficient. Raises ValueError when they differ."""
    _same(vectors)
    return {name: torch.stack([v[name] for v in vectors]).sum(0) for name in vectors[0]}


def average(vectors: Sequence[State]) -> Vector:
    """The mean of task vectors: weight averaging. Raises ValueError when they differ."""
    return {name: value / len(vectors) for name, value in total(vectors).items()}


def l1_norm(vector: State) -> float:
    """Sum of the absolute values of all entries."""
    return float(sum(value.double().abs().sum() for value in vector.values()))


def flatten(vector: State) -> Tensor:
    """All entries in one row, tensors by name."""
    return torch.cat([vector[name].reshape(-1) for name in sorted(vector)])


def unflatten(row: Tensor, like: State) -> Vector:
    """The inverse of `flatten`. Raises ValueError for a row of another length."""
    sizes = {name: like[name].numel() for name in sorted(like)}
    if len(row) != sum(sizes.values()):
        raise ValueError(f"{len(row)} entries for {sum(sizes.values())}")
    parts = row.split(list(sizes.values()))
    return {name: part.view(like[name].shape) for name, part in zip(sizes, parts, strict=True)}


def trim(row: Tensor, keep: float) -> Tensor:
    """The entries [d] that are among the ``keep * d`` (rounded down) largest by magnitude, with the next one, as the
    authors' code has it, and ties; zero elsewhere.

    Raises ValueError for a share that keeps nothing, or is above 1.
    """
    kept = int(len(row) * keep)
    if not 0 < kept <= len(row):
        raise ValueError(f"cannot keep {keep} of {len(row)} entries")
    if kept == len(row):
        return row.clone()
    least = row.abs().kthvalue(len(row) - kept).values
    return row * (row.abs() >= least)


def elect(rows: Tensor) -> Tensor:
    """The sign [d] of each column's sum over [T, d]; columns that sum to zero take the sign that most columns have."""
    sign = rows.sum(0).sign()
    majority = sign.sum().sign()
    return torch.where(sign == 0, majority, sign)


def ties(vectors: Sequence[State], keep: float = 0.2, merge: str = "mean") -> Vector:
    """TIES: trim each vector as a whole, elect a sign per entry, merge the entries that have it (``mean`` over them, or
    ``sum``).

    The k-th smallest magnitude is kept too, as in the authors' code: one entry more than ``keep * d``.

    Raises ValueError for vectors that differ, and for another way to merge.
    """
    _same(vectors)
    if merge not in ("mean", "sum"):
        raise ValueError(f"merge is mean or sum, not {merge!r}")
    rows = torch.stack([trim(flatten(v), keep) for v in vectors])
    sign = elect(rows)
    agrees = torch.where(sign > 0, rows > 0, rows < 0)
    merged = (rows * agrees).sum(0)
    if merge == "mean":
        merged = merged / agrees.sum(0).clamp(min=1)
    return unflatten(merged, vectors[0])


def tall_mask(vector: State, merged: State, strictness: float) -> Vector:
    """Which entries of a merged vector a task needs: ``|tau_t| > strictness * |tau - tau_t|``; booleans."""
    return {name: value.abs() > strictness * (merged[name] - value).abs() for name, value in vector.items()}


def masked(vector: State, mask: State) -> Vector:
    """The vector where the mask is true, and zero elsewhere."""
    return {name: value * mask[name] for name, value in vector.items()}


def consensus_mask(masks: Sequence[State], at_least: int = 2) -> Vector:
    """Entries that at least so many tasks need. Raises ValueError for masks that differ."""
    _same(masks)
    return {name: torch.stack([m[name] for m in masks]).sum(0) >= at_least for name in masks[0]}


def choose_tall_masks(
    vectors: Sequence[State],
    merged: State,
    accuracy: Callable[[int, State], float],
    strictness: Sequence[float] = (0.2, 0.3, 0.4, 0.5, 0.6),
) -> list[Vector]:
    """Per task the TALL mask with the best ``accuracy(task, masked vector)``, the first of equals."""
    chosen = []
    for task, vector in enumerate(vectors):
        masks = [tall_mask(vector, merged, s) for s in strictness]
        scores = [accuracy(task, masked(merged, mask)) for mask in masks]
        chosen.append(masks[scores.index(max(scores))])
    return chosen
