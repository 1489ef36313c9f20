"""How alike two representations of the same inputs are.

Shapes: N inputs; features ``[N, d]``, one row an input, of any widths. Both measures are the same for a representation
and its rotations or positive multiples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Agreement(NamedTuple):
    """Correlations of the pairwise similarities of two representations, each in [-1, 1]."""

    pearson: float
    spearman: float


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of features ``x [N, d]`` and ``y [N, e]`` (Kornblith et al., 2019, section 3):
    1 where one is a rotated and scaled copy of the other, near 0 where they are unrelated and N is much larger than the
    widths; with few inputs unrelated features score high. 0 for constant features.

    Raises ValueError when the two have not the same number of inputs.
    """
    _same_inputs(x, y)
    x, y = (part.double() - part.double().mean(0) for part in (x, y))
    cross = (x.T @ y).square().sum()
    own = (x.T @ x).norm() * (y.T @ y).norm()
    return float(cross / own) if own > 0 else 0.0


def pairwise_cosines(features: Tensor, diagonal: bool = True) -> Tensor:
    """Cosines of all pairs of rows of ``features [N, d]``: float64 [N (N + 1) / 2], the upper triangle row by row,
    without its diagonal [N (N - 1) / 2]."""
    unit = F.normalize(features.double(), dim=-1)
    rows, columns = torch.triu_indices(len(unit), len(unit), 0 if diagonal else 1)
    return (unit @ unit.T)[rows, columns]


def representational_similarity(x: Tensor, y: Tensor, diagonal: bool = True) -> Agreement:
    """Representational similarity analysis (Kriegeskorte et al., 2008): how the pairwise cosines of features
    ``x [N, d]`` go with those of ``y [N, e]``.

    ``diagonal``: also the similarity of each input to itself, 1 in both, which raises the correlation for small N.

    Raises ValueError when the two have not the same number of inputs, or fewer than three.
    """
    from scipy.stats import pearsonr, spearmanr

    _same_inputs(x, y)
    if len(x) < 3:
        raise ValueError(f"{len(x)} inputs have too few pairs to correlate")
    first, second = (pairwise_cosines(part, diagonal).numpy() for part in (x, y))
    return Agreement(float(pearsonr(first, second)[0]), float(spearmanr(first, second)[0]))


def _same_inputs(x: Tensor, y: Tensor) -> None:
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y):
        raise ValueError(
            f"features of the same inputs are wanted, one row each, not {tuple(x.shape)}, {tuple(y.shape)}"
        )
