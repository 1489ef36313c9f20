"""Ways to train a multilayer perceptron without back-propagation: Forward-Forward and direct feedback alignment.

Both are modules with ``loss(x, y, generator)``, whose gradient is the method's update, so that any optimiser of torch
serves, and ``logits(x)``, class scores. Images of any shape are flattened. `MLP` is the same network for
back-propagation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn


def linear_layers(sizes: Sequence[int]) -> nn.ModuleList:
    """Linear layers between neighbouring ``sizes``."""
    return nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))


class MLP(nn.Module):
    """ReLU layers and logits, trained by back-propagation."""

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        self.layers = linear_layers((inputs, *hidden, classes))

    def logits(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        for layer in self.layers[:-1]:
            h = F.relu(layer(h))
        return self.layers[-1](h)

    def loss(self, x: Tensor, y: Tensor, generator: Generator | None = None) -> Tensor:
        """Cross-entropy in nats."""
        return F.cross_entropy(self.logits(x), y)


class FeedbackAlignment(MLP):
    """Direct feedback alignment (Nøkland, 2016): the output's error reaches every hidden layer through a fixed random
    matrix of its own, ``feedback[l] [classes, hidden_l]``, instead of the transposed weights above it."""

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int, generator: Generator) -> None:
        super().__init__(inputs, hidden, classes)
        for i, width in enumerate(hidden):
            matrix = torch.randn(classes, width, generator=generator) / classes**0.5
            self.register_buffer(f"feedback{i}", matrix)

    @property
    def feedback(self) -> list[Tensor]:
        return [getattr(self, f"feedback{i}") for i in range(len(self.layers) - 1)]

    def loss(self, x: Tensor, y: Tensor, generator: Generator | None = None) -> Tensor:
        """Cross-entropy in nats, with the gradients of direct feedback alignment: no gradient crosses a layer."""
        h, before = x.flatten(1), []
        for layer in self.layers[:-1]:
            before.append(layer(h))
            h = F.relu(before[-1]).detach()
        logits = self.layers[-1](h)
        loss = F.cross_entropy(logits, y)
        error = (logits.detach().softmax(1) - F.one_hot(y, logits.shape[1])) / len(y)
        for a, matrix in zip(before, self.feedback, strict=True):
            local = (a * ((error @ matrix) * (a > 0)).detach()).sum()
            loss = loss + local - local.detach()  # adds a gradient and no value
        return loss


class ForwardForward(nn.Module):
    """Forward-Forward (Hinton, 2022): every layer learns to have a large goodness, the mean of its squared activities,
    on images with their own label and a small one on images with another.

    A label is written over the first ``classes`` values of the flattened image, one-hot with the batch's largest value.
    What enters a layer is brought to a mean square of 1, so that goodness is not handed on. The class with the largest
    goodness, summed over layers, is the answer: inference runs the network once for every class.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], classes: int, *, threshold: float = 1.0) -> None:
        super().__init__()
        if inputs < classes:
            raise ValueError(f"{inputs} values are too few for a label of {classes} classes")
        self.layers, self.classes, self.threshold = linear_layers((inputs, *hidden)), classes, threshold

    def labelled(self, x: Tensor, y: Tensor) -> Tensor:
        """``[B, ...]`` and labels ``[B]`` to ``[B, inputs]``."""
        flat = x.flatten(1)
        return torch.cat((F.one_hot(y, self.classes) * flat.max(), flat[:, self.classes :]), 1)

    def goodness(self, x: Tensor) -> list[Tensor]:
        """Of every layer, ``[B]`` each; no gradient crosses a layer."""
        out = []
        for layer in self.layers:
            x = F.relu(layer(x / (x.square().mean(1, keepdim=True).sqrt() + 1e-4)))
            out.append(x.square().mean(1))
            x = x.detach()
        return out

    def loss(self, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        """Sum over layers of ``softplus(threshold - goodness)`` with the right label and of
        ``softplus(goodness - threshold)`` with one of the others, drawn from ``generator``."""
        other = (y + torch.randint(1, self.classes, y.shape, generator=generator, device=y.device)) % self.classes
        good, bad = self.goodness(self.labelled(x, y)), self.goodness(self.labelled(x, other))
        parts = [
            F.softplus(self.threshold - g).mean() + F.softplus(b - self.threshold).mean()
            for g, b in zip(good, bad, strict=True)
        ]
        return torch.stack(parts).sum()

    def logits(self, x: Tensor) -> Tensor:
        """Goodness with every label, ``[B, classes]``."""
        labels = torch.arange(self.classes, device=x.device)
        found = [sum(self.goodness(self.labelled(x, label.expand(len(x))))) for label in labels]
        return torch.stack(found, 1)  # type: ignore[arg-type]
