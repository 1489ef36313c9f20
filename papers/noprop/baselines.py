"""What NoProp is compared with: the same blocks trained as a whole, and a neural ODE with the same timed block."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repro.models.neural_ode import euler


class GatedChain(nn.Module):
    """The paper's back-propagation baseline: ``z_t = (1 - alpha_t) z_{t-1} + alpha_t u^_t(z_{t-1}, x)`` with
    ``alpha_t = tanh(w_t)`` learned, z_0 ~ N(0, I), and the cross-entropy of the head on z_T.

    ``gate`` is alpha_t at the start, which the paper does not state.
    """

    blocks: Any
    embedding: Any

    def __init__(self, blocks: Iterable[nn.Module], embedding: nn.Module, head: nn.Module, *, gate: float = 0.5):
        super().__init__()
        self.blocks, self.embedding, self.head = nn.ModuleList(blocks), embedding, head
        self.gates = nn.Parameter(torch.full((len(self.blocks),), math.atanh(gate)))

    def logits(self, x: Tensor, generator: Generator) -> Tensor:
        weight = self.embedding.weight
        z = torch.randn(len(x), weight.shape[1], generator=generator, device=x.device)
        for block, alpha in zip(self.blocks, self.gates.tanh(), strict=True):
            guess = block(z, block.look(x)).softmax(1) @ weight
            z = (1 - alpha) * z + alpha * guess
        return self.head(z)

    def loss(self, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        return F.cross_entropy(self.logits(x, generator), y)


class NeuralODE(nn.Module):
    """dz/dt = logits of the timed block times W_embed, from z_0 ~ N(0, I) to the head on z_1, in ``steps`` steps of
    Euler's method, with the cross-entropy back-propagated through all of them: not the adjoint method.

    The features of the image do not depend on time and are computed once.
    """

    block: Any
    embedding: Any

    def __init__(self, block: nn.Module, embedding: nn.Module, head: nn.Module, *, steps: int) -> None:
        super().__init__()
        self.block, self.embedding, self.head, self.steps = block, embedding, head, steps

    def logits(self, x: Tensor, generator: Generator) -> Tensor:
        weight, seen = self.embedding.weight, self.block.look(x)
        z = torch.randn(len(x), weight.shape[1], generator=generator, device=x.device)
        return self.head(euler(lambda z, t: self.block(z, seen, t.expand(len(x))) @ weight, z, self.steps))

    def loss(self, x: Tensor, y: Tensor, generator: Generator) -> Tensor:
        return F.cross_entropy(self.logits(x, generator), y)
