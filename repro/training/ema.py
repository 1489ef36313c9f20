"""An exponential moving average of a model's weights, for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class EMA:
    """``average = d average + (1 - d) weights`` after every step; `torch.optim.swa_utils.AveragedModel` underneath.

    With a warm-up the n-th update, from 0, has d of at most ``(1 + n) / (10 + n)``, so that the random start is soon
    forgotten.

        ema = EMA(model, 0.999)
        ...  # optimizer.step()
        ema.update()
        ema.model(x)

    Raises ValueError for a decay outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float, *, warmup: bool = True):
        if not 0 <= decay < 1:
            raise ValueError(f"a decay lies in [0, 1), not {decay}")
        self.source, self.decay, self.warmup = model, decay, warmup
        self.updates = 0
        self._average: Any = AveragedModel(model, multi_avg_fn=self._blend, use_buffers=True)
        self._average.update_parameters(model)  # the first only copies

    def _blend(self, average: Sequence[Tensor], weights: Sequence[Tensor], _count: Any) -> None:
        """In place. Integers (counters) are copied."""
        if average[0].is_floating_point():
            torch._foreach_lerp_(list(average), list(weights), 1 - self.current_decay)
        else:
            torch._foreach_copy_(list(average), list(weights))

    @property
    def current_decay(self) -> float:
        """Of the next update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of the model as they are now."""
        self._average.update_parameters(self.source)
        self.updates += 1

    @property
    def model(self) -> nn.Module:
        """The model with averaged weights, in evaluation mode."""
        return cast(nn.Module, self._average.module).eval()
