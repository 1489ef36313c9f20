"""Residual networks for small images (He et al., 2016, Section 4.2), cut into parts that can be shared or repeated.

A network is the sequence of its parts: stem, stage 1, stage 2, stage 3 with global average pooling. Shortcuts are
option A (strided identity, new channels zero), so that they have no parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.training.initial import generator


@dataclass(frozen=True, slots=True)
class ResNetConfig:
    """Shape of a `resnet_parts` network.

    Args:
        depth: 6 n + 2 layers, n basic blocks a stage: 8, 14, 20, 26, 32...
        width: channels of the first stage; the later ones have two and four times as many. 16 in the paper.
        channels: of the image.

    Raises ValueError for another depth.
    """

    depth: int = 32
    width: int = 16
    channels: int = 3

    def __post_init__(self) -> None:
        if self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth is 8, 14, 20, ..., not {self.depth}")

    @property
    def blocks(self) -> int:
        """Basic blocks of a stage."""
        return (self.depth - 2) // 6

    @property
    def features(self) -> int:
        """Length of the feature that the last part gives."""
        return 4 * self.width


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm around a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def shortcut(self, x: Tensor) -> Tensor:
        """Every ``stride``-th pixel, and zeros for the channels that are new."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.added)) if self.added else x

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class Pool(nn.Module):
    """Mean over all pixels: [N, C, H, W] to [N, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def resnet_parts(config: ResNetConfig) -> list[nn.Module]:
    """Stem, stage 1, stage 2, stage 3 with pooling; composed they map [N, channels, H, W] to [N, 4 width]."""
    width = config.width
    stem = nn.Sequential(
        nn.Conv2d(config.channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )  # fmt: skip
    parts: list[nn.Module] = [stem]
    inputs = width
    for stage in range(3):
        outputs = width << stage
        first = BasicBlock(inputs, outputs, 1 if stage == 0 else 2)
        blocks: list[nn.Module] = [first, *(BasicBlock(outputs, outputs) for _ in range(config.blocks - 1))]
        if stage == 2:
            blocks.append(Pool())
        parts.append(nn.Sequential(*blocks))
        inputs = outputs
    return parts


def convnet_parts(layers: int = 2, width: int = 64, channels: int = 3) -> list[nn.Module]:
    """A plain convolutional network, a part each layer: 3 x 3 convolution with bias, batch norm, ReLU, max pooling by
    two, and global average pooling at the end. Composed they map [N, channels, H, W] to [N, width]."""
    return [
        nn.Sequential(
            nn.Conv2d(channels if layer == 0 else width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(2), *([Pool()] if layer == layers - 1 else []),
        )
        for layer in range(layers)
    ]  # fmt: skip


@torch.no_grad()
def initialise_parts(parts: Sequence[nn.Module], seed: int, purpose: str = "initial") -> None:
    """Draw the weights of all parts anew, in place, each tensor from a generator of its own, so that networks that
    share a part have it alike whatever else they hold.

    Convolutions N(0, 2 / (kernel area * outputs)) (He et al., 2015, fan-out), norms 1, biases 0.
    """
    for place, part in enumerate(parts):
        for path, module in part.named_modules():
            if isinstance(module, nn.Conv2d):
                deviation = (2 / (module.kernel_size[0] * module.kernel_size[1] * module.out_channels)) ** 0.5
                draws = generator(f"{purpose} {place}.{path}", seed)
                module.weight.copy_(torch.empty(module.weight.shape).normal_(std=deviation, generator=draws))
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
