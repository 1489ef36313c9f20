"""DiT-MoE (arXiv 2407.11633): the MLP of every block of a diffusion transformer becomes a sparse mixture of experts.

    p = softmax(W_g u)                                            router, no bias, no noise
    y = sum_{k in top-K(p)} p_k E_k(u) + S(u)                     K of E experts, and a shared one that is always on
    E_k(u) = W_down (silu(W_gate u) * W_up u)                     SwiGLU of 4 D units; S has n_s D units
    L_balance = alpha sum_i f_i P_i                               eq. 5, in every layer
    f_i = E / (K T) #{selections of expert i},  P_i = mean over tokens of p_i

u are the tokens of a whole batch, ``[T, D]``. The gates p_k are taken as they are, not scaled to sum 1 (released code),
and no expert has a capacity: no token is dropped. Perfect balance gives L_balance = alpha, and its gradient flows
through P alone.

    model = dit_moe(DiTConfig(size=32, channels=4, classes=1000, hidden=384, layers=12, heads=6), MoEShape())
    loss = flow.loss(model, x, t, y, noise).mean() + balance_loss(model)
    loss.backward()

Around it stands the DiT of `repro.models.dit`, unchanged: positions, adaLN-Zero, attention.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from repro.models.dit import DiT, DiTConfig, FeedForward
from repro.models.moe import Experts, Routing, SwiGLU, TopKRouter, reset_unset, sequence_balance_loss


class MoEShape(NamedTuple):
    """Experts of a layer: E routed ones of which K are active, their width and that of the shared one, in units of D.

    ``shared`` is n_s, "the number of shared experts": the released code makes them one MLP of n_s D units, so that
    two are half as wide as one routed expert. 0: none.
    """

    experts: int = 8
    active: int = 2
    width: float = 4.0
    shared: float = 2.0

    @property
    def active_width(self) -> float:
        """Units that one token meets, over D: a dense SwiGLU of that width costs as much."""
        return self.active * self.width + self.shared

    @property
    def total_width(self) -> float:
        """Units that a layer has, over D."""
        return self.experts * self.width + self.shared


class SparseMoE(nn.Module):
    """The layer, ``[B, T, D]`` to the same shape.

    Args:
        hidden: D.
        alpha: of the balance loss: 0.005 in the paper, 0.01 in the released code.

    ``balance`` holds the balance loss of the last call while training, else None.
    """

    def __init__(self, hidden: int, shape: MoEShape, alpha: float = 0.005):
        super().__init__()
        self.shape, self.alpha = shape, alpha
        self.router = TopKRouter(hidden, shape.experts, shape.active)
        self.experts = Experts(shape.experts, hidden, round(shape.width * hidden))
        self.shared = SwiGLU(hidden, round(shape.shared * hidden)) if shape.shared else None
        self.balance: Tensor | None = None

    def forward(self, u: Tensor) -> Tensor:
        tokens = u.reshape(-1, u.shape[-1])
        routing: Routing = self.router(tokens)
        y = self.experts(tokens, routing.indices, routing.weights)
        if self.shared is not None:
            y = y + self.shared(tokens)
        self.balance = self.alpha * expert_balance_loss(routing) if self.training and self.alpha else None
        return y.view_as(u)

    def idle_parameters(self) -> int:
        """Expert parameters that one token does not touch."""
        return (self.shape.experts - self.shape.active) * self.experts.parameters_each


def expert_balance_loss(routing: Routing) -> Tensor:
    """Eq. 5 without alpha, over all tokens of the batch; 1 at perfect balance."""
    return sequence_balance_loss(routing.scores, routing.indices, 1)


def moe_layers(model: nn.Module) -> list[SparseMoE]:
    """In the order of the blocks."""
    return [m for m in model.modules() if isinstance(m, SparseMoE)]


def balance_loss(model: nn.Module) -> Tensor | None:
    """Sum over the layers of the balance losses of the last forward pass; None without any.

    The released code adds nothing to the loss and injects the same gradient in the backward pass, with a weight of 1
    whatever the loss is scaled by: in fp16 with loss scaling its effective alpha is alpha over the scale.
    """
    terms = [layer.balance for layer in moe_layers(model) if layer.balance is not None]
    return torch.stack(terms).sum() if terms else None


# --- where the experts are ----------------------------------------------------------------------------------------


def placed(layers: int, where: str) -> range:
    """Blocks with experts: ``all``, the ``deep`` or the ``shallow`` half. Raises ValueError for another place."""
    half = layers // 2
    found = {"all": range(layers), "deep": range(half, layers), "shallow": range(half)}
    if where not in found:
        raise ValueError(f"experts are in all, deep or shallow blocks, not {where!r}")
    return found[where]


def sparse_feed_forward(
    config: DiTConfig, shape: MoEShape, alpha: float = 0.005, where: str = "all",
    layer: Callable[..., nn.Module] | None = None,
) -> FeedForward:  # fmt: skip
    """Experts in some blocks, and in the others a dense SwiGLU that costs a token as much.

    Args:
        layer: makes what stands for `SparseMoE`, from its arguments and the number of the block.
    """
    chosen = placed(config.layers, where)

    def make(block: int) -> nn.Module:
        if block in chosen:
            sparse = (config.hidden, shape, alpha)
            return SparseMoE(*sparse) if layer is None else layer(*sparse, block)
        return SwiGLU(config.hidden, round(shape.active_width * config.hidden))

    return make


def dit_moe(config: DiTConfig, shape: MoEShape, alpha: float = 0.005, where: str = "all") -> DiT:
    """The network of the paper. Raises ValueError for an unknown ``where``."""
    return DiT(config, sparse_feed_forward(config, shape, alpha, where))


# --- other people's models ------------------------------------------------------------------------------------------


def upcycled(dense: SwiGLU, experts: int, k: int, generator: torch.Generator, alpha: float = 0.005) -> SparseMoE:
    """Experts that all start as copies of a trained SwiGLU, behind a router N(0, 0.02), without a shared one (released
    script). What it computes at first is the dense layer's output times the sum of the K gates."""
    width, hidden = dense.down_proj.in_features, dense.down_proj.out_features
    layer = SparseMoE(hidden, MoEShape(experts, k, width / hidden, 0.0), alpha).to(dense.down_proj.weight)
    with torch.no_grad():
        layer.experts.gate_up_proj.copy_(dense.gate_up_proj.weight.expand(experts, -1, -1))
        layer.experts.down_proj.copy_(dense.down_proj.weight.expand(experts, -1, -1))
        layer.router.weight.copy_(torch.empty(experts, hidden).normal_(std=0.02, generator=generator))
    return layer


def with_experts(model: nn.Module, names: Collection[str], make: Callable[[str, Any], nn.Module]) -> nn.Module:
    """A copy of a model in which the modules ``names`` are replaced by what ``make`` gives for their name and
    themselves: layers of this file in place of the MLPs of any transformer whose MLP maps ``[B, T, D]`` to itself.
    Experts and routers without weights get those of ``nn.Linear``.

    Raises AttributeError for a name that the model does not have.
    """
    model = copy.deepcopy(model)
    for name in names:
        model.set_submodule(name, reset_unset(make(name, model.get_submodule(name))), strict=True)
    return model
