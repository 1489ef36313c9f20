"""What initialisation has to know of layers of experts, apart from them: to draw weights does not depend on how experts
are run."""

from __future__ import annotations

from torch import nn


class PackedExperts(nn.Module):
    """Base of modules whose every parameter holds N experts, ``[N, ...]``: they are drawn one by one, so that a smaller
    pool holds the first experts of a larger one."""


class RouterWeights(nn.Module):
    """Base of modules whose parameters score experts, ``[N, d]``: U(-1/sqrt(d), 1/sqrt(d)), as in the DeepSeek code."""
