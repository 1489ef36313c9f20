"""Telly (arXiv 2304.05216): fine-tune a code encoder with its bottom layers frozen, and why that may be done.

**Telly-K.** Of an encoder with embeddings E and layers 0..L-1, Telly-K (K in 0..L-1) freezes all of E (token, position
and type embeddings and their norm) and the layers 0..K-1:

    requires_grad = False   E, layers 0..K-1
    requires_grad = True    layers K..L-1, head of the task

Telly-0 freezes the embeddings alone; the *base* trains everything. What is frozen keeps no gradient and no moments, and
the backward pass ends at layer K: with a backward pass twice as dear as a forward pass, a step costs
(1 + 2 (L - K) / L) / 3 of the base's (`step_fraction`; embeddings and head left out).

    encoder = AutoModel.from_pretrained("microsoft/unixcoder-base")
    telly(encoder, 5)  # before or after the optimiser is built: what has no gradient is not updated

**What justifies it.** Two studies of the pretrained encoder against the fine-tuned one:

- *Representational similarity* (RQ2): per layer, snippets are mean hidden states; their cosine matrix is compared with
  that of the other encoder, as the correlation of the two upper triangles (`layer_geometry`, `geometry_change`).
- *Probes* (RQ1): on the frozen encoder, a mixture of its L + 1 hidden states feeds one linear layer. The weights of the
  mixture, softmax_l(w . h_l + b) for every token, say which layers hold what is asked for (`repro.evaluation.probes`).
  `centroid` and `peak` read them.

Works on any encoder or decoder of transformers whose layers are one list of modules.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.evaluation.similarity import representational_similarity
from repro.models.blocks import decoder_blocks

Way = Literal["none", "bottom", "top", "random", "all"]
WAYS = ("none", "bottom", "top", "random", "all")

# --- Telly-K --------------------------------------------------------------------------------------------------


def embeddings(model: nn.Module) -> list[nn.Module]:
    """What turns tokens into the first layer's input: the module ``embeddings`` of BERT's kin, with its norm; else all
    tables outside the layers (token and position embeddings). Raises ValueError as `decoder_blocks`."""
    whole = [m for name, m in model.named_modules() if name.rpartition(".")[2] == "embeddings"]
    if whole:
        return whole[:1]
    inside = {id(m) for layer in decoder_blocks(model) for m in layer.modules()}
    return [m for m in model.modules() if isinstance(m, nn.Embedding) and id(m) not in inside]


def layers_to_freeze(way: Way, k: int, layers: int, seed: int = 0) -> tuple[int, ...]:
    """Indices of ``k`` of the layers: Telly's at the bottom, or the ablations', at the top or drawn under ``seed``.

    ``none`` and ``all`` do not look at ``k``. Raises ValueError for an unknown way, and for k outside 0..L-1: a model
    with all layers frozen is not fine-tuned.
    """
    if way not in WAYS:
        raise ValueError(f"freeze {', '.join(WAYS)}, not {way!r}")
    if way in ("none", "all"):
        return tuple(range(layers)) if way == "all" else ()
    if not 0 <= k < layers:
        raise ValueError(f"K is in 0..{layers - 1}, not {k}")
    if way == "random":
        return tuple(sorted(random.Random(seed).sample(range(layers), k)))
    return tuple(range(k)) if way == "bottom" else tuple(range(layers - k, layers))


def freeze(model: nn.Module, layers: Iterable[int]) -> nn.Module:
    """Freeze the embeddings and the layers named, in place; everything else stays as it is."""
    blocks = decoder_blocks(model)
    for part in [*embeddings(model), *(blocks[i] for i in layers)]:
        part.requires_grad_(False)
    return model


def telly(model: nn.Module, k: int) -> nn.Module:
    """Telly-K, in place: the embeddings and the bottom ``k`` layers are frozen. Modes (dropout) are left alone.

    Raises ValueError for ``k`` outside 0..L-1 and a model without a single list of layers.
    """
    return freeze(model, layers_to_freeze("bottom", k, len(decoder_blocks(model))))


def trained_parameters(model: nn.Module) -> int:
    """Number of parameters that fine-tuning moves; a pooler that no task uses is no part of them, as in the paper's
    counts of Telly-K (that of the base has it)."""
    unused = {id(p) for name, m in model.named_modules() if name.rpartition(".")[2] == "pooler" for p in m.parameters()}
    return sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in unused)


def step_fraction(layers: int, k: int) -> float:
    """Cost of a step of Telly-K over that of the base, with a backward pass of twice the forward pass's cost that ends
    at layer K; embeddings, head and update left out."""
    return (1 + 2 * (layers - k) / layers) / 3


# --- representational similarity (RQ2) ------------------------------------------------------------------------


@torch.no_grad()
def layer_geometry(
    states_of: Callable[[Tensor], Sequence[Tensor]], batches: Iterable[Tensor], pad: int | None = None
) -> Tensor:
    """Every snippet as one vector per layer: the mean of its hidden states, of length 1; [L + 1, N, d].

    Args:
        states_of: token ids [B, T] to the L + 1 hidden states [B, T, d].
        batches: token ids.
        pad: id of padding to leave out of the means; None: padding counts, as in the released code.
    """
    found = []
    for ids in batches:
        states = torch.stack(tuple(states_of(ids))).float()
        if pad is None:
            means = states.mean(2)
        else:
            real = (ids != pad)[None, :, :, None].to(states.dtype)
            means = (states * real).sum(2) / real.sum(2).clamp(min=1)
        found.append(F.normalize(means, dim=-1).cpu())
    return torch.cat(found, 1)


class GeometryChange(NamedTuple):
    """Correlation of two encoders' cosine matrices per layer, embeddings first; 1 where nothing changed."""

    pearson: list[float]
    spearman: list[float]

    def drops(self, third: float = 1 / 3) -> tuple[float, float]:
        """Fall of Pearson's correlation over the top ``third`` of the layers, and from the first layer's input to
        there."""
        border = round((len(self.pearson) - 1) * (1 - third))
        return self.pearson[border] - self.pearson[-1], self.pearson[0] - self.pearson[border]

    def largest_rise(self) -> float:
        """Largest rise from one layer to the next; 0 where the scores only fall."""
        return max(0.0, *(b - a for a, b in zip(self.pearson, self.pearson[1:], strict=False)))


def geometry_change(before: Tensor, after: Tensor) -> GeometryChange:
    """Representational similarity of two encoders on the same snippets, each [L + 1, N, d] of `layer_geometry`."""
    found = [representational_similarity(one, other) for one, other in zip(before, after, strict=True)]
    return GeometryChange([f.pearson for f in found], [f.spearman for f in found])


# --- where a probe looks (RQ1) --------------------------------------------------------------------------------


def centroid(weights: Sequence[float]) -> float:
    """Mean layer under the weights of a mixture, sum_l l w_l; 0 is the embeddings' output."""
    return sum(layer * weight for layer, weight in enumerate(weights)) / sum(weights)


def peak(weights: Sequence[float]) -> float:
    """Largest weight over the mean one: 1 where all layers count alike."""
    return max(weights) / (sum(weights) / len(weights))
