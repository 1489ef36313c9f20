"""The network of NoProp's Fig. 6: blocks, label embeddings, classifier heads. `papers.noprop.method` trains it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from repro.models.cnn import ConvPath
from repro.models.neural_ode import time_embedding


@dataclass(frozen=True)
class BlockShape:
    """Widths of a block, by default the published ones. ``size``: of the square image; ``d``: of the label embedding;
    ``pools``: which convolutions are followed by a max-pool; ``padding``: of the convolutions, which the paper does
    not state."""

    channels: int
    size: int
    classes: int
    d: int
    convs: tuple[int, ...] = (32, 64, 128)
    pools: tuple[bool, ...] = (True, False, True)
    width: int = 256
    fused: tuple[int, ...] = (256, 128)
    dropout: float = 0.2
    padding: int = 1

    def image_path(self, norm: bool = True) -> ConvPath:
        return ConvPath(
            self.channels, self.size, self.convs, self.pools, self.width, dropout=self.dropout, padding=self.padding,
            norm=norm,
        )  # fmt: skip


class LabelPath(nn.Module):
    """z ``[B, d]`` to features ``[B, width]``: FC-BN-ReLU and a residual FC-BN-ReLU-FC-BN."""

    def __init__(self, d: int, width: int, norm: bool) -> None:
        super().__init__()

        def layer(inputs: int) -> list[nn.Module]:
            return [nn.Linear(inputs, width), *([nn.BatchNorm1d(width)] if norm else [])]

        self.first = nn.Sequential(*layer(d), nn.ReLU())
        self.residual = nn.Sequential(*layer(width), nn.ReLU(), *layer(width))

    def forward(self, z: Tensor) -> Tensor:
        h = self.first(z)
        return h + self.residual(h)


class Block(nn.Module):
    """Logits over classes from z, the image and, with ``timed``, the time in [0, 1] (then without batch norm).

    With ``prototype`` z has the image's shape and goes through convolutions of its own. `look` is what depends on the
    image alone, so that a block that is applied at many times looks once.
    """

    def __init__(self, shape: BlockShape, *, timed: bool = False, prototype: bool = False) -> None:
        super().__init__()
        self.shape, norm, width = shape, not timed, shape.width
        self.image = shape.image_path(norm)
        self.prototype = prototype
        self.label = shape.image_path(norm) if prototype else LabelPath(shape.d, width, norm)
        self.time = nn.Sequential(nn.Linear(64, width), nn.ReLU()) if timed else None
        layers: list[nn.Module] = []
        inputs = (3 if timed else 2) * width
        for out in shape.fused:
            layers += [nn.Linear(inputs, out), *([nn.BatchNorm1d(out)] if norm else []), nn.ReLU()]
            inputs = out
        self.fuse = nn.Sequential(*layers, nn.Linear(inputs, shape.classes))

    def look(self, x: Tensor) -> Tensor:
        """Features of the image, ``[B, width]``."""
        return self.image(x)

    def forward(self, z: Tensor, seen: Tensor, t: Tensor | None = None) -> Tensor:
        """``z [B, d]``, ``seen`` of `look`, ``t [B]`` for a timed block: logits ``[B, classes]``."""
        s = self.shape
        parts = [seen, self.label(z.view(-1, s.channels, s.size, s.size) if self.prototype else z)]
        if self.time is not None:
            assert t is not None, "a timed block is told the time"
            parts.append(self.time(time_embedding(t, 64)))
        return self.fuse(torch.cat(parts, 1))


class Embedding(nn.Module):
    """W_embed, ``[classes, d]``."""

    def __init__(self, weight: Tensor, learned: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=learned)

    @classmethod
    def one_hot(cls, classes: int) -> Embedding:
        """The identity, fixed; d = classes."""
        return cls(torch.eye(classes), learned=False)

    @classmethod
    def orthogonal(cls, classes: int, d: int, generator: Generator) -> Embedding:
        """Trained from a start with orthonormal rows, or columns where there are more classes than dimensions."""
        basis = torch.linalg.qr(torch.randn(max(classes, d), min(classes, d), generator=generator)).Q
        return cls((basis if classes >= d else basis.T).contiguous(), learned=True)

    @classmethod
    def prototypes(cls, pixels: Tensor, labels: Tensor, classes: int) -> Embedding:
        """Trained from a start at that image of every class which has the smallest median distance to its class; d is
        the number of pixels."""
        flat = pixels.flatten(1)
        of = [flat[labels == c] for c in range(classes)]
        central = [members[torch.cdist(members, members).median(1).values.argmin()] for members in of]
        return cls(torch.stack(central), learned=True)

    def forward(self, labels: Tensor) -> Tensor:
        """u_y, ``[B, d]``."""
        return self.weight[labels]


class Head(nn.Module):
    """``p_out(y | z_T)`` as logits ``[B, classes]``. ``linear``: ``W z_T``; ``radial``: ``-|y~ - u_y|^2 / (2 sigma^2)``
    with ``y~ = softmax(W z_T) W_embed``. Raises ValueError for another name."""

    def __init__(self, embedding: Embedding, kind: str = "linear", sigma: float = 1.0) -> None:
        super().__init__()
        if kind not in ("linear", "radial"):
            raise ValueError(f"a head is linear or radial, not {kind!r}")
        classes, d = embedding.weight.shape
        self.embedding, self.kind, self.sigma = embedding, kind, sigma
        self.linear = nn.Linear(d, classes)

    @torch.no_grad()
    def align(self, scale: float) -> None:
        """Start W where it tells the embeddings apart: class c scores ``scale`` on u_c, and others as they overlap.

        From a random start two classes may take the same embedding for theirs, which a softmax over embeddings that is
        trained through the head does not undo.
        """
        u = self.embedding.weight
        self.linear.weight.copy_(scale * u / u.square().sum(1, keepdim=True))
        self.linear.bias.zero_()

    def forward(self, z: Tensor) -> Tensor:
        logits, u = self.linear(z), self.embedding.weight
        if self.kind == "linear":
            return logits
        guess = (logits.softmax(1) @ u).unsqueeze(1)
        return -(guess - u).square().sum(2) / (2 * self.sigma**2)
