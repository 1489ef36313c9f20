"""DCN-V2 for click prediction (Wang et al., 2021, arXiv 2008.13535): crossed features, then an MLP (stacked).

Shapes: batch B, features T, dense features D; inputs [B, T + D], ids first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.training.initial import generator


class CrossLayer(nn.Module):
    """``x0 * (W x + b) + x`` with W of full rank (equation 1 there)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        return first * self.linear(x) + x


class DCNV2(nn.Module):
    """Cross layers on the input, a ReLU MLP on their output, and one linear output: [B, width] to logits [B]."""

    def __init__(self, width: int, cross: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.cross = nn.ModuleList(CrossLayer(width) for _ in range(cross))
        widths = [width, *hidden]
        self.mlp = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.output = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        first = x
        for layer in self.cross:
            x = layer(first, x)
        for layer in self.mlp:
            x = F.relu(layer(x))
        return self.output(x).squeeze(-1)


class ClickModel(nn.Module):
    """Embeddings of categorical features, dense features beside them, and a head that gives one logit.

    Args:
        embedding: ids LongTensor [B, T] to vectors [B, width].
        head: [B, width + D] to logits [B].
        features: T, the leading columns of the inputs.
    """

    def __init__(self, embedding: nn.Module, head: nn.Module, features: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.head = head
        self.features = features

    def logits(self, inputs: Tensor) -> Tensor:
        """Log-odds of a click, [B]."""
        x = self.embedding(inputs[:, : self.features].long())
        if inputs.shape[1] > self.features:
            x = torch.cat([x, inputs[:, self.features :].to(x.dtype)], -1)
        return self.head(x)

    def forward(self, inputs: Tensor) -> tuple[Tensor, None]:
        """Logits of the classes *no click* and *click*, [B, 2], whose cross-entropy is that of the log-odds; no
        auxiliary loss."""
        logits = self.logits(inputs)
        return torch.stack([torch.zeros_like(logits), logits], -1), None


@torch.no_grad()
def initialise_clicks(model: nn.Module, seed: int, bound: float = 0.05) -> nn.Module:
    """Draw weights anew, in place, each tensor from a generator of its own: embeddings U(-bound, bound), matrices of
    linear layers Glorot uniform, biases 0. Other parameters stay as they are."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            module.weight.uniform_(-bound, bound, generator=generator(f"initial {name}", seed))
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight, generator=generator(f"initial {name}", seed))
            module.bias.zero_()
    return model
