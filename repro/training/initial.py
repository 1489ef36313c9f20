"""Initial weights that arms share: every tensor is drawn from a generator of its own, seeded by the run's seed and the
tensor's name, so that tensors with one name and shape are equal in all arms of a seed, whatever else an arm adds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repro.data.base import order_seed
from repro.models.packed import PackedExperts, RouterWeights


def generator(purpose: str, seed: int) -> torch.Generator:
    """A CPU generator for one purpose of a run; distinct purposes never share a stream."""
    return torch.Generator().manual_seed(order_seed(purpose, seed))


@torch.no_grad()
def initialise(model: nn.Module, seed: int, std: float = 0.02) -> nn.Module:
    """Draw all weights of a model anew, in place.

    Matrices N(0, std); router weights U(-1/sqrt(d), 1/sqrt(d)) as in the DeepSeek code; biases 0; norm weights 1.
    Packed experts are drawn expert by expert, so that a smaller pool holds the first experts of a larger one.
    """
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"initial {path}.{name}"
            if isinstance(module, PackedExperts):
                for expert in range(parameter.shape[0]):
                    parameter[expert].copy_(_normal(parameter[expert], f"{full} {expert}", seed, std))
            elif isinstance(module, RouterWeights):
                bound = parameter.shape[1] ** -0.5
                values = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator(full, seed))
                parameter.copy_(values)
            elif parameter.dim() == 1:
                parameter.fill_(0.0 if name == "bias" else 1.0)
            else:
                parameter.copy_(_normal(parameter, full, seed, std))
    return model


def _normal(like: Tensor, name: str, seed: int, std: float) -> Tensor:
    return torch.empty(like.shape).normal_(std=std, generator=generator(name, seed))
