"""What the choice of an expert depends on while images are generated: position, step, or class.

A *trace* holds the experts that one layer selected: ``[S, N, T, K]`` for S steps (the first is noise), N images, T
positions. Of a label (position, step, class) it is asked how much the chosen expert tells about it, as normalised
mutual information, less what a finite sample shows where there is nothing to see: the same with labels dealt at random
among the units that carry them. A class belongs to a whole image, so that its labels are dealt among images; positions
and steps are dealt within every image. With tokens dealt one by one the null would be too small.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from repro.models.moe import TopKRouter

Trace = Tensor


class Recorder:
    """Experts chosen by all routers of a model while it is sampled from; see `recorded`."""

    def __init__(self, layers: int, images: int):
        self.images = images
        self._chosen: list[list[Tensor]] = [[] for _ in range(layers)]

    def put(self, layer: int, indices: Tensor, tokens: int) -> None:
        """Of one call ``[B * T, K]``; under guidance the images with their label come first and are kept."""
        chosen = indices.view(-1, tokens, indices.shape[1])[: self.images]
        self._chosen[layer].append(chosen.to(torch.uint8).cpu())

    def traces(self) -> list[Trace]:
        """One for each layer."""
        return [torch.stack(steps) for steps in self._chosen]


@contextlib.contextmanager
def recorded(model: nn.Module, images: int, tokens: int) -> Iterator[Recorder]:
    """Inside the block the choices of every router (`TopKRouter` or of its kind) are kept, in the order of the layers.

    Args:
        images: that a step makes.
        tokens: positions of an image, T.

    Raises ValueError for a model without routers.
    """
    routers = [m for m in model.modules() if isinstance(m, TopKRouter)]
    if not routers:
        raise ValueError(f"{type(model).__name__} has no router")
    recorder = Recorder(len(routers), images)

    def hook(layer: int) -> Any:
        return lambda _module, _inputs, routing: recorder.put(layer, routing.indices, tokens)

    handles = [router.register_forward_hook(hook(i)) for i, router in enumerate(routers)]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def joined(traces: Sequence[Trace]) -> Trace:
    """Traces of one layer over several batches of images."""
    return torch.cat(list(traces), dim=1)


def counts(trace: Trace, experts: int) -> Tensor:
    """Selections ``[S, N, T, E]``, float32."""
    flat = trace.long()
    return torch.zeros(*flat.shape[:3], experts).scatter_add_(3, flat, torch.ones(flat.shape))


def normalised_information(table: Tensor) -> float:
    """Mutual information of label and expert over the mean of their entropies, from counts ``[labels, E]``: 0 to 1; 0
    too where either has no entropy."""
    joint = table.double() / table.double().sum()
    rows, columns = joint.sum(1), joint.sum(0)

    def entropy(p: Tensor) -> Tensor:
        return -torch.special.xlogy(p, p).sum()

    total = entropy(rows) + entropy(columns)
    information = total - entropy(joint.flatten())
    return float((2 * information / total).clamp_min(0)) if total > 1e-12 else 0.0


def _dealt(table: Tensor, generator: torch.Generator) -> Tensor:
    """``[units, labels, E]`` with labels dealt anew within every unit."""
    order = torch.rand(table.shape[:2], generator=generator).argsort(1)
    return table.gather(1, order[..., None].expand_as(table))


def corrected(seen: float, null: float) -> float:
    """What a label tells beyond chance, as adjusted mutual information is: 0 at the null, 1 stays 1."""
    return (seen - null) / (1 - null) if null < 1 else 0.0


def dependence(
    trace: Trace, labels: Tensor, classes: int, experts: int, generator: torch.Generator, deals: int = 10
) -> dict[str, float]:
    """Corrected normalised information of the expert with ``position``, ``step`` and ``class``.

    Args:
        labels: classes of the images ``[N]``.
        deals: random deals that the null is the mean of.
    """
    all_counts = counts(trace, experts)
    by_position = all_counts.sum(0)  # [N, T, E]
    by_step = all_counts.sum(2).transpose(0, 1)  # [N, S, E]
    by_image = by_step.sum(1)
    out = {}
    for name, table in (("position", by_position), ("step", by_step)):
        null = sum(normalised_information(_dealt(table, generator).sum(0)) for _ in range(deals)) / deals
        out[name] = corrected(normalised_information(table.sum(0)), null)

    def by_class(dealt: Tensor) -> float:
        return normalised_information(torch.zeros(classes, experts).index_add_(0, dealt, by_image))

    null = sum(by_class(labels[torch.randperm(len(labels), generator=generator)]) for _ in range(deals)) / deals
    out["class"] = corrected(by_class(labels), null)
    return out


def entropy_by_step(trace: Trace, experts: int) -> Tensor:
    """Entropy of expert usage over log E at every step ``[S]``: 1 where all experts are used alike."""
    p = counts(trace, experts).double().sum((1, 2))
    p = p / p.sum(1, keepdim=True)
    return -torch.special.xlogy(p, p).sum(1) / torch.log(torch.tensor(float(experts), dtype=torch.float64))


def preference(trace: Trace, experts: int, by: str, labels: Tensor | None = None, classes: int = 0) -> Tensor:
    """Share of the selections of each value of a label that went to each expert: ``[values, E]``, rows sum to 1.

    Args:
        by: ``position``, ``step`` or ``class``, which needs ``labels [N]`` and ``classes``.

    Raises ValueError for another.
    """
    found = counts(trace, experts)
    if by == "position":
        table = found.sum((0, 1))
    elif by == "step":
        table = found.sum((1, 2))
    elif by == "class" and labels is not None:
        table = torch.zeros(classes, experts).index_add_(0, labels, found.sum((0, 2)))
    else:
        raise ValueError(f"preference is by position, step or class (with labels), not {by!r}")
    return table / table.sum(1, keepdim=True).clamp_min(1)
