"""The paper's baselines that are no special case of its layer (section 4.1): Hash Layer, and FFNs that are always on.

Switch (top-1) and GShard (top-2) are `DeepSeekMoE` with m = 1 and K_s = 0, widened ones with a larger expert width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repro.models.moe import Experts, SwiGLU


class HashLayer(nn.Module):
    """Hash Layer (Roller et al., 2021): one expert a token, chosen by a hash of the token's id; no gate, no router.

    Args:
        hidden: d.
        width: width of an expert.
        experts: N.

    ``token_ids [B, S]`` has to hold the ids of the tokens that come next before each call.
    """

    def __init__(self, hidden: int, width: int, experts: int):
        super().__init__()
        self.experts = Experts(experts, hidden, width)
        self.token_ids: Tensor | None = None

    def choose(self, ids: Tensor) -> Tensor:
        """Expert of each token id: multiplicative hashing, fixed for all layers and seeds."""
        return ((ids * 2654435761) % 2**32 >> 12) % self.experts.count

    def forward(self, u: Tensor) -> tuple[Tensor, None]:
        """``u [B, S, d]`` to ``([B, S, d], None)``. Raises ValueError when the ids are missing or of another shape."""
        if self.token_ids is None or self.token_ids.shape != u.shape[:-1]:
            raise ValueError("a hash layer routes by token ids: set token_ids, of the shape of the input, first")
        chosen = self.choose(self.token_ids.reshape(-1, 1))
        y = self.experts(u.reshape(-1, u.shape[-1]), chosen, torch.ones_like(chosen, dtype=u.dtype))
        return y.view_as(u), None

    def idle_parameters(self) -> int:
        """Expert parameters that one token does not touch."""
        return (self.experts.count - 1) * self.experts.parameters_each


class AlwaysOn(nn.Module):
    """Dense (one FFN) and Dense xN (the sum of N of them, fused): ``u [..., d]`` to ``([..., d], None)``."""

    def __init__(self, hidden: int, width: int, count: int = 1):
        super().__init__()
        self.ffn = SwiGLU(hidden, count * width)

    def forward(self, u: Tensor) -> tuple[Tensor, None]:
        return self.ffn(u), None
