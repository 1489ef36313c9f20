"""A small convolutional network for images of any size: a path to features, and a classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class ConvPath(nn.Module):
    """Images ``[B, channels, size, size]`` to features ``[B, out]``: 3 x 3 convolution, ReLU, max-pool of 2 where
    ``pools`` says so, dropout; as often as there are ``widths``; then a linear layer and, with ``norm``, batch norm.

    Raises ValueError where nothing is left of the image.
    """

    def __init__(
        self, channels: int, size: int, widths: Sequence[int], pools: Sequence[bool], out: int, *, dropout: float = 0.0,
        padding: int = 1, norm: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        layers: list[nn.Module] = []
        for width, pool in zip(widths, pools, strict=True):
            layers += [nn.Conv2d(channels, width, 3, padding=padding), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if pool else []
            layers += [nn.Dropout(dropout)] if dropout else []
            channels, size = width, (size + 2 * padding - 2) // (2 if pool else 1)
            if size < 1:
                raise ValueError(f"the image is too small for {len(widths)} convolutions with pools {tuple(pools)}")
        self.convolutions = nn.Sequential(*layers)
        self.linear = nn.Linear(channels * size * size, out)
        self.norm = nn.BatchNorm1d(out) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(self.convolutions(x).flatten(1)))


class CNN(nn.Module):
    """`ConvPath`, ReLU, hidden layers with batch norm and ReLU, and logits ``[B, classes]``."""

    def __init__(self, path: ConvPath, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        self.path = path
        inputs = path.linear.out_features
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
            inputs = width
        self.classifier = nn.Sequential(*layers, nn.Linear(inputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu(self.path(x)))
