"""A Vision Transformer (Dosovitskiy et al., 2021): pre-norm blocks, class token, learned positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ViTConfig:
    """Shape of a `ViT`.

    Args:
        size, patch, channels: side of the square image and of a patch, in pixels; channels of the image.
        hidden, layers, heads, width: d, blocks, heads, width of the MLP.
        eps: of the layer norms.

    Raises ValueError when patches do not fill the image or heads do not divide ``hidden``.
    """

    size: int = 16
    patch: int = 4
    channels: int = 1
    hidden: int = 48
    layers: int = 6
    heads: int = 4
    width: int = 96
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"patches of {self.patch} do not fill an image of {self.size}")
        if self.hidden % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {self.hidden}")


class Attention(nn.Module):
    """Multi-head self-attention, [B, S, d] to [B, S, d]; queries, keys and values in one matrix."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        batch, positions, hidden = x.shape
        q, k, v = self.qkv(x).view(batch, positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, positions, hidden))


class MLP(nn.Module):
    """Two layers with GELU between them, [..., d] to [..., d]."""

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden, width)
        self.fc2 = nn.Linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """``x + Attention(Norm(x))``, then ``x + MLP(Norm(x))``."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden, eps=config.eps)
        self.attention = Attention(config.hidden, config.heads)
        self.norm2 = nn.LayerNorm(config.hidden, eps=config.eps)
        self.mlp = MLP(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """An image encoder. Parameters of block i (from 0) are named ``blocks.{i}.``."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(config.channels, config.hidden, config.patch, config.patch)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, config.hidden))
        count = (config.size // config.patch) ** 2
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + count, config.hidden))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.hidden, eps=config.eps)

    def tokens(self, images: Tensor) -> Tensor:
        """[B, channels, size, size] to [B, 1 + patches, d], the class token first, after the last norm."""
        patches = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(len(images), -1, -1), patches), 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, images: Tensor) -> Tensor:
        """[B, channels, size, size] to the class token's output, [B, d]."""
        return self.tokens(images)[:, 0]


def cosine_logits(features: Tensor, directions: Tensor, scale: float) -> Tensor:
    """``scale`` times the cosine of every feature [B, d] with every class direction [C, d]: [B, C], as in CLIP."""
    return scale * F.normalize(features, dim=-1) @ F.normalize(directions, dim=-1).T
