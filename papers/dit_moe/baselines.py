"""A mixture of experts whose router's choices go to the wrong tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from papers.dit_moe.method import MoEShape, SparseMoE
from repro.data.base import order_seed
from repro.models.moe import Routing, TopKRouter


class ShuffledRouter(TopKRouter):
    """Every token gets the experts and gates that were chosen for another one, of any image and position: a fixed
    permutation for each number of tokens. Experts are used as often as they are chosen, and what they get tells them
    nothing."""

    def __init__(self, hidden: int, experts: int, k: int, block: int):
        super().__init__(hidden, experts, k)
        self.block = block
        self._orders: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Routing:
        found = super().forward(x)
        count = len(x)
        if count not in self._orders:
            draws = torch.Generator().manual_seed(order_seed(f"shuffled routing {self.block}", count))
            self._orders[count] = torch.randperm(count, generator=draws).to(x.device)
        order = self._orders[count]
        return Routing(found.scores, found.indices[order], found.weights[order])


def shuffled_layer(hidden: int, shape: MoEShape, alpha: float, block: int) -> SparseMoE:
    """The layer of the paper behind a `ShuffledRouter`."""
    layer = SparseMoE(hidden, shape, alpha)
    layer.router = ShuffledRouter(hidden, shape.experts, shape.active, block)
    return layer
