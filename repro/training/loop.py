"""The training loop that all arms share."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Optimisation:
    """AdamW with warm-up and clipping. ``warmup`` is the share of the steps; ``schedule`` what follows it."""

    lr: float
    steps: int
    warmup: float = 0.1
    schedule: str = "constant"  # constant | linear | cosine
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float = 1.0

    def factor(self, step: int) -> float:
        """Multiplier of the learning rate at a step counted from 0. Raises ValueError for an unknown schedule."""
        ramp = max(1, round(self.warmup * self.steps))
        if step < ramp:
            return (step + 1) / ramp
        done = (step - ramp) / max(1, self.steps - ramp)
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "linear":
            return 1.0 - done
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        raise ValueError(f"unknown schedule {self.schedule!r}")


@dataclass(slots=True)
class Trained:
    """What training leaves beside the weights."""

    steps: list[int] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    diverged: bool = False
    train_s: float = 0.0

    def mean_of_last(self, name: str, count: int) -> float:
        """Mean of one measure over the last ``count`` evaluations."""
        values = [e[name] for e in self.evaluations[-count:]]
        return sum(values) / len(values)

    def curves(self, keep: int = 40) -> dict[str, dict[str, Any]]:
        """Curves for a record: every measure over steps, and the training loss, at no more than ``keep`` points."""
        stride = max(1, math.ceil(len(self.steps) / keep))
        picked = sorted({*range(len(self.steps) - 1, -1, -stride)})
        out = {
            name: {"x": [self.steps[i] for i in picked], "y": [self.evaluations[i][name] for i in picked], "of": "step"}
            for name in (self.evaluations[0] if self.evaluations else {})
        }
        if self.steps:
            out["train_loss"] = {
                "x": [self.steps[i] for i in picked], "y": [self.train_loss[i] for i in picked], "of": "step"
            }  # fmt: skip
        return out


def train(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[Any], tuple[Tensor, Tensor | None]],
    evaluate: Callable[[], dict[str, float]],
    optimisation: Optimisation,
    *,
    evaluations: int = 10,
    dtype: str = "float32",
    accumulate: int = 1,
    before_step: Callable[[int], None] = lambda _: None,
    progress: Callable[[int, int, float | None], None] = lambda *_: None,
) -> Trained:
    """Train a model for ``optimisation.steps`` steps.

    Args:
        batches: gives at least ``accumulate`` batches a step, on the model's device.
        loss: a batch to (the loss that is reported, an auxiliary loss that is added for the gradient or None).
        evaluate: measures the model, in evaluation mode and without gradient; holds ``loss``. Called ``evaluations``
            times, evenly spread, the last time after the last step.
        dtype: ``float32``, or ``bfloat16`` for autocast over float32 weights.
        accumulate: batches whose mean gradient makes a step.
        before_step: called with the step, from 0, before its first batch; may freeze or thaw parameters.

    Returns:
        What was measured. Training stops with ``diverged`` when an evaluation's loss is not finite.

    Raises:
        ValueError: when the batches run out.

    The loss is read from the device only at evaluations, so that steps do not wait for it.
    """
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=optimisation.lr, betas=optimisation.betas, weight_decay=optimisation.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )  # fmt: skip
    out = Trained()
    steps = optimisation.steps
    marks = {round(steps * (i + 1) / evaluations) for i in range(min(evaluations, steps))}
    amp = torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
    running = torch.zeros((), device=device)
    since = 0
    model.train()
    began = time.perf_counter()
    supply = iter(batches)
    for step in range(steps):
        before_step(step)
        for group in optimizer.param_groups:
            group["lr"] = optimisation.lr * optimisation.factor(step)
        accumulated = list(itertools.islice(supply, accumulate))
        if len(accumulated) < accumulate:
            raise ValueError(f"no batch left for step {step} of {steps}")
        for batch in accumulated:
            with amp:
                reported, auxiliary = loss(batch)
            total = reported if auxiliary is None else reported + auxiliary
            (total if accumulate == 1 else total / accumulate).backward()
            running += reported.detach()
            since += 1
        if optimisation.clip:
            nn.utils.clip_grad_norm_(model.parameters(), optimisation.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step + 1 in marks:
            out.train_s += time.perf_counter() - began
            out.steps.append(step + 1)
            out.train_loss.append(float(running) / since)
            running.zero_()
            since = 0
            model.eval()
            with torch.no_grad(), amp:
                out.evaluations.append(evaluate())
            model.train()
            began = time.perf_counter()
            if not math.isfinite(out.evaluations[-1]["loss"]):
                out.diverged = True
                break
        if step % 20 == 0 or step + 1 in marks:
            progress(step + 1, steps, out.evaluations[-1]["loss"] if out.evaluations else None)
    model.eval()
    return out
