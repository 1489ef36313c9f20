"""Moirai-MoE (arXiv 2410.10469): one projection of patches for all frequencies, and experts that a token gets by the
cluster it is near.

    z        (x - mean) / sqrt(var + 1e-5), of the first 30 % of a series in training, of the past in forecasting
    h_0      W2 silu(W1 z + b1) + b2 + (Wr z + br), a patch of z a token
    layer    h += Attention(RMSNorm(h));   h += MoE(RMSNorm(h))
    MoE      d_i = |x - C_i|, the K chosen of d or -d, w = softmax over the K chosen, y = sum_j w_j E_j(x)
    E        W_down (silu(W_gate x) * W_up x)
    C        k-means centroids, layer by layer, of what enters the feed-forward layers of a dense model; frozen
    p        at every token, of each step of the next patch: Student's t, or the published mixture of four
    loss     mean negative log-likelihood of the next patch, after the first 30 %

The formulas are those of the released code. It chooses the largest distances: a token goes to the experts whose
centroids are *farthest*, and the farther one weighs more (``affinity="distance"``). The paper's text reads as the
nearest ones (``"-distance"``). Either way the centroids divide the space of tokens, which is what a router is for.

Everything around the experts is `repro.models.forecasting.PatchDecoder`: scaling, projections, attention over time with
normed queries and keys and half-rotary embedding, distributions, and sampling patch by patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repro.models.forecasting import HEADS, PatchDecoder, standardise
from repro.models.moe import Experts, Routing, SwiGLU, TopKRouter, sequence_balance_loss

AFFINITIES = ("-distance", "distance")

# --- gating by token clusters ---------------------------------------------------------------------------------


class CentroidRouter(nn.Module):
    """Routes a token by its Euclidean distances to fixed centroids, one for each expert.

    The centroids are a buffer of float64: they have no gradient and no optimizer, and are saved with the model.

    Args:
        centroids: [M, d].
        k: experts for a token.
        affinity: what the K largest are taken of: ``-distance``, the nearest centroids, or ``distance``, the farthest
            (released code).

    Raises ValueError for another affinity, or k not in 1..M.
    """

    centroids: Tensor

    def __init__(self, centroids: Tensor, k: int, affinity: str = "-distance"):
        super().__init__()
        if affinity not in AFFINITIES:
            raise ValueError(f"affinity is one of {', '.join(AFFINITIES)}, not {affinity!r}")
        if not 1 <= k <= len(centroids):
            raise ValueError(f"cannot select {k} of {len(centroids)} experts")
        self.k, self.sign = k, -1.0 if affinity == "-distance" else 1.0
        self.register_buffer("centroids", centroids.double())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Routing:
        """``x`` [T, d]; scores are the affinities [T, M], weights a softmax over the K chosen."""
        with torch.autocast(x.device.type, enabled=False):
            scores = self.sign * torch.cdist(x.float(), self.centroids.float())
            chosen, indices = scores.topk(self.k, dim=-1)
            return Routing(scores, indices, chosen.softmax(-1).to(x.dtype))


class MoEFeedForward(nn.Module):
    """Experts behind a router. With a `repro.models.moe.TopKRouter` (linear gating) the load-balance loss, times
    ``balance``, comes with the output; centroids need none."""

    def __init__(self, router: nn.Module, experts: Experts, balance: float = 0.0):
        super().__init__()
        self.router, self.experts, self.balance = router, experts, balance

    def idle_parameters(self) -> int:
        """Parameters that one token does not touch."""
        k: Any = self.router.k
        return (self.experts.count - k) * self.experts.parameters_each

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """``x`` [..., d]."""
        tokens = x.reshape(-1, x.shape[-1])
        scores, indices, weights = self.router(tokens)
        loss = self.balance * sequence_balance_loss(scores, indices, 1) if self.balance and self.training else None
        return self.experts(tokens, indices, weights).view_as(x), loss


class DenseFeedForward(nn.Module):
    """One SwiGLU for all tokens: the layer of the dense models."""

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.ffn = SwiGLU(hidden, width)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.ffn(x), None


# --- the models -----------------------------------------------------------------------------------------------


def dense(
    patch: int, hidden: int, heads: int, width: int, layers: int, *, labels: int = 0, head: str = "student"
) -> PatchDecoder:
    """A decoder with dense layers of ``width``: the model that centroids come from, and with ``labels`` frequencies the
    one that has a projection in and out for each."""
    layers_ = [DenseFeedForward(hidden, width) for _ in range(layers)]
    return PatchDecoder(patch, hidden, heads, layers_, HEADS[head](), labels)


def moirai_moe(
    patch: int, hidden: int, heads: int, width: int, centroids: Sequence[Tensor], *, k: int = 2,
    affinity: str = "-distance", head: str = "mixture",
) -> PatchDecoder:  # fmt: skip
    """Moirai-MoE: one projection, an expert of ``width`` for every centroid.

    Args:
        centroids: [M, d] of every layer.
    """
    layers = [
        MoEFeedForward(CentroidRouter(c, k, affinity), Experts(len(c), hidden, width)) for c in centroids
    ]  # fmt: skip
    return PatchDecoder(patch, hidden, heads, layers, HEADS[head]())


def moe_layers(model: PatchDecoder) -> list[MoEFeedForward]:
    """The feed-forward layers of a model with experts. Raises TypeError for a dense one."""
    found = []
    for layer in model.stack:
        if not isinstance(layer.feed_forward, MoEFeedForward):
            raise TypeError(f"{type(layer.feed_forward).__name__} has no experts")
        found.append(layer.feed_forward)
    return found


def linear_moe(
    patch: int, hidden: int, heads: int, width: int, layers: int, experts: int, *, k: int = 2, balance: float = 0.01,
    head: str = "mixture",
) -> PatchDecoder:  # fmt: skip
    """The same with the usual gate: learned from a random start, a softmax over the K largest, and a balance loss."""
    feed_forwards = [
        MoEFeedForward(TopKRouter(hidden, experts, k, renormalise=True), Experts(experts, hidden, width), balance)
        for _ in range(layers)
    ]
    return PatchDecoder(patch, hidden, heads, feed_forwards, HEADS[head]())


# --- training: the next patch, scaled by the beginning --------------------------------------------------------


def next_patch_loss(
    model: PatchDecoder, values: Tensor, labels: Tensor | None = None, known: float = 0.3
) -> tuple[Tensor, Tensor | None]:
    """Mean negative log-likelihood (nats a step) of all patches after the first ``known`` part of the series, each
    given what stands before it; and the layers' own losses.

    The first part alone gives mean and scale, so that the model never knows those of what it has to predict.

    Args:
        values: [B, T], T a multiple of the patch. labels: LongTensor [B], for projections by frequency.
    """
    patches = values.shape[1] // model.patch
    first = max(1, round(known * patches))
    return scaled_loss(model, values, first, labels)


def scaled_loss(
    model: PatchDecoder, values: Tensor, first: int, labels: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The same from the patch ``first`` on, scaled by the patches before it."""
    beginning = values[:, : first * model.patch]
    loc, scale = standardise(beginning, torch.ones_like(beginning, dtype=torch.bool))
    z = ((values - loc) / scale).unflatten(1, (-1, model.patch))
    return model.nll(z, first, labels)


# --- where the centroids come from ----------------------------------------------------------------------------


@torch.no_grad()
def token_representations(model: PatchDecoder, z: Tensor, labels: Tensor | None = None) -> list[Tensor]:
    """What enters the feed-forward layer of every layer: [B * N, d] each, for scaled patches ``z`` [B, N, P]."""
    found: list[Tensor] = []
    with ExitStack() as hooks:
        for layer in model.stack:
            keep = layer.feed_forward.register_forward_pre_hook(lambda _, args: found.append(args[0].flatten(0, 1)))
            hooks.enter_context(keep)
        model(z, labels)
    return found


def cluster_centroids(tokens: Tensor, clusters: int, seed: int) -> Tensor:
    """Centroids [M, d] (float64) of mini-batch k-means on tokens [T, d]. Raises ValueError for fewer tokens than
    clusters."""
    from sklearn.cluster import MiniBatchKMeans

    found = MiniBatchKMeans(clusters, random_state=seed % 2**32, n_init=3).fit(tokens.double().numpy())
    return torch.from_numpy(np.asarray(found.cluster_centers_, dtype=np.float64))


def random_centroids(tokens: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Centroids that know mean and spread of the tokens' dimensions, and no cluster: [M, d] (float64)."""
    drawn = torch.randn(clusters, tokens.shape[1], dtype=torch.float64, generator=generator)
    return tokens.double().mean(0) + tokens.double().std(0) * drawn
