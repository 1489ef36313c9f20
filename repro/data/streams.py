"""Streams of tasks for continual learning, made of any labelled set of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from repro.data.base import order_seed
from repro.data.images import ImageData, Images


@dataclass(frozen=True, eq=False)
class ClassStream:
    """Tasks that come one after another.

    Labels are renumbered by arrival: the classes of the first task are 0, 1, ..., so that after a task the classes seen
    are ``range(seen(task))``.

    Attributes:
        data: images, with the labels that the set gives them.
        order: the set's label of every class, by arrival.
        sizes: new classes of every task; 0 for a task that brings none.
        rows: training rows of every task, LongTensor each, disjoint.
    """

    data: ImageData
    order: Tensor
    sizes: tuple[int, ...]
    rows: tuple[Tensor, ...]
    kind: str = "incremental"

    def __len__(self) -> int:
        return len(self.sizes)

    def seen(self, task: int) -> int:
        """Classes seen once ``task`` (from 0) is learned."""
        return sum(self.sizes[: task + 1])

    def known(self, task: int) -> int:
        """Classes seen before ``task``."""
        return sum(self.sizes[:task])

    def arrival(self, labels: Tensor) -> Tensor:
        """The set's labels, renumbered by arrival."""
        places = torch.empty(len(self.order), dtype=torch.long)
        places[self.order] = torch.arange(len(self.order))
        return places[labels]

    def train(self, rows: Tensor) -> Images:
        """Training images of rows (LongTensor), labels by arrival."""
        return Images(self.data.train.pixels[rows], self.arrival(self.data.train.labels[rows]))

    def test(self, task: int) -> Images:
        """Test images of all classes seen once ``task`` is learned, labels by arrival."""
        labels = self.arrival(self.data.test.labels)
        kept = labels < self.seen(task)
        return Images(self.data.test.pixels[kept], labels[kept])

    def task_of(self, labels: Tensor) -> Tensor:
        """The task that brought each class, from labels by arrival."""
        bounds = torch.tensor(self.sizes).cumsum(0)
        return torch.bucketize(labels, bounds, right=True)

    def describe(self) -> dict[str, Any]:
        """What a record keeps; JSON."""
        return self.data.describe() | {
            "stream": self.kind, "tasks": len(self), "task_sizes": list(self.sizes), "class_order": self.order.tolist(),
        }  # fmt: skip


def class_order(classes: int, seed: int) -> Tensor:
    """The set's labels in the order in which they arrive, drawn from ``seed``."""
    return torch.randperm(classes, generator=torch.Generator().manual_seed(order_seed("class order", seed)))


def class_incremental(data: ImageData, sizes: Sequence[int], seed: int) -> ClassStream:
    """Tasks of disjoint classes, in an order drawn from ``seed``; "B50 Inc10" is ``[50, 10, 10, ...]``.

    Raises ValueError when the sizes do not add up to the classes of the set.
    """
    if sum(sizes) != data.classes or min(sizes) < 1:
        raise ValueError(f"tasks of {list(sizes)} classes do not fill {data.classes}")
    order = class_order(data.classes, seed)
    rows = tuple(
        torch.isin(data.train.labels, part).nonzero().flatten() for part in order.split(list(sizes))
    )  # fmt: skip
    return ClassStream(data, order, tuple(sizes), rows)


def stationary(data: ImageData, tasks: int, seed: int) -> ClassStream:
    """The same number of tasks without any change between them: the training images of all classes, dealt at random.

    A control for what continual learning does to a network: the first task brings all classes, later ones none.
    """
    draws = torch.Generator().manual_seed(order_seed("stationary stream", seed))
    rows = torch.randperm(len(data.train.labels), generator=draws)
    parts = tuple(part.sort().values for part in rows.tensor_split(tasks))
    sizes = (data.classes, *[0] * (tasks - 1))
    return ClassStream(data, class_order(data.classes, seed), sizes, parts, "stationary")
