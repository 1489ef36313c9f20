"""Mixture-of-experts parts: packed experts, routers, balance losses, and the statistics of routing.

Shapes: T tokens, d hidden size, N experts, K selected per token, f expert width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.models.dispatch import run_experts
from repro.models.packed import PackedExperts, RouterWeights


class Routing(NamedTuple):
    """What a router decided: ``scores [T, N]`` over all experts, the selected ``indices [T, K]``, their ``weights``."""

    scores: Tensor
    indices: Tensor
    weights: Tensor


class SwiGLU(nn.Module):
    """Gated feed-forward layer ``W_down(silu(W_gate x) * W_up x)``, no biases (Shazeer, 2020)."""

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.gate_up_proj = nn.Linear(hidden, 2 * width, bias=False)
        self.down_proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


def _unset(*shape: int) -> nn.Parameter:
    """Weights that nobody can take for initialised ones, and that draw no random numbers."""
    return nn.Parameter(torch.full(shape, torch.nan))


class Experts(PackedExperts):
    """N SwiGLU experts with packed weights, in the layout of transformers: ``gate_up_proj [N, 2f, d]``, ``down_proj
    [N, d, f]``.

    They are NaN until they are initialised: by what draws a whole model's weights under its seed
    (`repro.training.initial.initialise`), or by `reset_parameters`.
    """

    def __init__(self, experts: int, hidden: int, width: int):
        super().__init__()
        self.gate_up_proj = _unset(experts, 2 * width, hidden)
        self.down_proj = _unset(experts, hidden, width)

    def reset_parameters(self) -> None:
        """Every matrix as ``nn.Linear`` has it, U(-1/sqrt(inputs), 1/sqrt(inputs))."""
        for weight in (self.gate_up_proj, self.down_proj):
            nn.init.uniform_(weight, -(weight.shape[-1] ** -0.5), weight.shape[-1] ** -0.5)

    @property
    def count(self) -> int:
        return self.gate_up_proj.shape[0]

    @property
    def parameters_each(self) -> int:
        """Parameters of one expert."""
        return (self.gate_up_proj.numel() + self.down_proj.numel()) // self.count

    def forward(self, x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of the selected experts: ``x [T, d]`` to ``[T, d]``."""
        return run_experts(x, indices, weights, self.gate_up_proj, self.down_proj)


class TopKRouter(RouterWeights):
    """Softmax over all experts in float32, the K largest kept as they are (``renormalise`` rescales them to sum 1).

    Without renormalisation as in DeepSeek-V2 with ``norm_topk_prob=False``. A renormalised top-1 gate is constant and
    would give the router no gradient; it is refused. As with `Experts`, the weights are NaN until initialised.

    Raises:
        ValueError: when k is not in 1..N, or for a renormalised top-1.
    """

    def __init__(self, hidden: int, experts: int, k: int, renormalise: bool = False):
        super().__init__()
        if not 1 <= k <= experts:
            raise ValueError(f"cannot select {k} of {experts} experts")
        if renormalise and k == 1:
            raise ValueError("a renormalised top-1 gate gives the router no gradient")
        self.k, self.renormalise = k, renormalise
        self.weight = _unset(experts, hidden)

    def reset_parameters(self) -> None:
        """As ``nn.Linear``, U(-1/sqrt(d), 1/sqrt(d))."""
        nn.init.uniform_(self.weight, -(self.weight.shape[1] ** -0.5), self.weight.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Routing:
        """Route ``x [T, d]``."""
        with torch.autocast(x.device.type, enabled=False):
            scores = F.linear(x.float(), self.weight.float()).softmax(dim=-1)
        weights, indices = scores.topk(self.k, dim=-1)
        if self.renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return Routing(scores, indices, weights)


def reset_unset(model: nn.Module) -> nn.Module:
    """`reset_parameters` of every `Experts` and `TopKRouter` in a model that still has the NaN it was built with; in
    place."""
    for module in model.modules():
        if isinstance(module, (Experts, TopKRouter)) and any(p.isnan().any() for p in module.parameters(recurse=False)):
            module.reset_parameters()
    return model


def sequence_balance_loss(scores: Tensor, indices: Tensor, sequences: int) -> Tensor:
    """Sequence-wise load-balance loss without its coefficient (DeepSeek-V2, eq. 23-25; ``seq_aux`` in the code).

    Per sequence ``c_i = count_i N / (S K)``, ``p_i = mean_s scores_i``; the mean over sequences of ``sum_i c_i p_i``.
    1 at perfect balance. The counts carry no gradient.

    Args:
        scores: ``[T, N]``, tokens of one sequence adjacent.
        indices: ``[T, K]``.
        sequences: number of sequences in T.
    """
    tokens, experts = scores.shape
    length, k = tokens // sequences, indices.shape[1]
    counts = torch.zeros(sequences, experts, device=scores.device, dtype=scores.dtype)
    counts.scatter_add_(
        1, indices.reshape(sequences, -1), torch.ones_like(scores[:1, :1]).expand(sequences, length * k)
    )
    return (counts * (experts / (length * k)) * scores.view(sequences, length, experts).mean(1)).sum(1).mean()


def usage(indices: Tensor, experts: int) -> Tensor:
    """Share of the selections that went to each expert: ``[N]``, sums to 1."""
    counts = torch.bincount(indices.reshape(-1), minlength=experts).double()
    return counts / counts.sum()


def usage_entropy(indices: Tensor, experts: int) -> float:
    """Entropy of `usage` over log N: 1 when all experts are used alike, 0 when one takes all."""
    if experts == 1:
        return 1.0
    p = usage(indices, experts)
    return float(-(p * p.clamp_min(1e-30).log()).sum() / torch.tensor(float(experts)).log())


def coactivation(first: Tensor, second: Tensor, experts: int) -> Tensor:
    """Counts ``A[i, j]`` of tokens that select expert i in one pass and j in another.

    Args:
        first, second: selected experts ``[T, K]`` of the two passes.

    Returns:
        ``[N, N]`` of float64.
    """
    one = torch.zeros(first.shape[0], experts, dtype=torch.float64).scatter_(1, first.cpu(), 1.0)
    two = torch.zeros(second.shape[0], experts, dtype=torch.float64).scatter_(1, second.cpu(), 1.0)
    return one.t() @ two


def diagonal_ratio(matrix: Tensor) -> float:
    """Diagonal mass of a co-activation matrix over its expectation if the passes chose independently of each other.

    ``sum_e A_ee / total`` over ``sum_e p(e) q(e)`` with the marginals p, q. Below 1: experts are not used again.
    """
    joint = matrix / matrix.sum()
    return float(joint.diagonal().sum() / (joint.sum(1) * joint.sum(0)).sum())


def asymmetry(matrix: Tensor) -> float:
    """``|A - A'| / |A|`` in the Frobenius norm."""
    return float((matrix - matrix.t()).norm() / matrix.norm())
