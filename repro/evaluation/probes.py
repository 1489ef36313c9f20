"""Linear probes on a mixture of a frozen encoder's layers.

Every token chooses its own mixture: score_l = w . h_l + b with one w for all layers, weights = softmax over layers,
h = sum_l weight_l h_l (a scalar mix, Peters et al., 2018, made to depend on the token). A linear layer reads h of a
token, or its mean over a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repro.training.initial import generator


class LayerMixture(nn.Module):
    """A mixture of hidden states and a linear layer.

    Args:
        hidden: d of the states.
        outputs: of the linear layer.
        seed: of its first weights; the mixture starts even.
    """

    def __init__(self, hidden: int, outputs: int, seed: int = 0):
        super().__init__()
        self.score = nn.Linear(hidden, 1)
        self.linear = nn.Linear(hidden, outputs)
        with torch.no_grad():
            self.score.weight.zero_()
            self.score.bias.zero_()
            self.linear.weight.normal_(std=hidden**-0.5, generator=generator("probe", seed))
            self.linear.bias.zero_()

    def weights(self, states: Tensor) -> Tensor:
        """Weights of the layers per token, [B, layers, T] for states [B, layers, T, d]; they sum to 1 over layers."""
        return self.score(states).squeeze(-1).softmax(1)

    def mix(self, states: Tensor) -> Tensor:
        """The mixture [B, T, d]."""
        return torch.einsum("blt,bltd->btd", self.weights(states), states)

    def forward(self, states: Tensor, real: Tensor | None = None) -> Tensor:
        """Outputs [B, T, outputs] per token, or with ``real`` (bool [B, T]) of the mean over a text's tokens
        [B, outputs]."""
        mixed = self.mix(states)
        if real is None:
            return self.linear(mixed)
        mask = real[..., None].to(mixed.dtype)
        return self.linear((mixed * mask).sum(1) / mask.sum(1).clamp(min=1))

    @torch.no_grad()
    def layer_weights(self, states: Tensor, real: Tensor) -> list[float]:
        """Mean weight of every layer over the real tokens; they sum to 1."""
        chosen = self.weights(states).transpose(1, 2)[real].double()
        return chosen.mean(0).tolist()


class Texts(NamedTuple):
    """A frozen encoder's reading of some texts: ``states`` [N, layers, T, d], ``real`` bool [N, T]."""

    states: Tensor
    real: Tensor

    def rows(self, indices: Tensor) -> Texts:
        return Texts(self.states[indices], self.real[indices])


@torch.no_grad()
def read(states_of: Callable[[Tensor], Sequence[Tensor]], ids: Tensor, pad: int, batch: int = 64) -> Texts:
    """Hidden states of token ids [N, T], all at once in memory."""
    found = [torch.stack(tuple(states_of(part)), 1) for part in ids.split(batch)]
    return Texts(torch.cat(found), ids != pad)


def fit_probe(
    probe: nn.Module, loss: Callable[[Tensor], Tensor], rows: int, *, steps: int, batch: int, lr: float, seed: int = 0
) -> nn.Module:
    """Train a probe, in place: Adam at rate ``lr``, linearly down to 0, on batches that are drawn without repetition.

    ``loss``: indices LongTensor [batch] of ``rows`` to the loss.
    """
    draw = generator("probe order", seed)
    order = torch.cat([torch.randperm(rows, generator=draw) for _ in range(-(-steps * batch // rows))])
    optimizer = torch.optim.Adam(probe.parameters(), lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        loss(order[step * batch : (step + 1) * batch]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return probe
