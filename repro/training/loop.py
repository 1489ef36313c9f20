"""The training loop that all arms share."""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

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


#: A batch to (the loss that is reported, an auxiliary loss that is added for the gradient or None).
Loss = Callable[[Any], tuple[Tensor, Tensor | None]]


class Engine:
    """How the steps of a training are carried out: here by this process alone, on the whole of each batch.

    `repro.training.distributed` has one that shares them between processes; it overrides what is said here.
    """

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, batches: Iterable[Any]
    ) -> tuple[torch.optim.Optimizer, Loss, Iterator[Any]]:
        """Called once, before the first step: the optimiser to use, and what this process has to do of the rest."""
        return optimizer, loss, iter(batches)

    def passing(self, last: bool) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of a batch, the ``last`` of its step or not."""
        return nullcontext()

    def backward(self, total: Tensor) -> None:
        """Add to the gradients those of ``total``."""
        total.backward()

    def clip(self, model: nn.Module, norm: float) -> None:
        """Scale the gradients down to a norm of at most ``norm``, over all parameters."""
        nn.utils.clip_grad_norm_(model.parameters(), norm)

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over all who take part."""
        return float(value)

    def evaluate(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        """What ``evaluate`` measures, the same for all who take part."""
        return evaluate()

    def finish(self, model: nn.Module) -> None:
        """Called once, after the last step: leave an ordinary model with its whole weights."""


@dataclass(slots=True)
class Position:
    """Where a training stands: ``step`` steps are done; ``running`` is the sum of the ``since`` losses that were
    reported since the last evaluation."""

    step: int
    running: Tensor
    since: int
    trained: Trained


class Stateful(Protocol):
    """Something that keeps from step to step what the weights do not hold."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Keep(Protocol):
    """Keeps a training while it goes on, so that it can go on from there; see `repro.training.resume`."""

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, stateful: Mapping[str, Stateful] | None) -> int:
        """Called once, before the first step. ``stateful`` is None where the caller did not say what keeps a state.

        Returns:
            Steps that were kept; 0 for a training that begins.
        """
        ...

    def restore(self, position: Position) -> None:
        """Put back everything that was kept; called last, where `begin` gave a step."""
        ...

    def after(self, position: Position, mark: bool) -> None:
        """Called after every step; ``mark``: the model was just evaluated."""
        ...


def marks(steps: int, evaluations: int) -> set[int]:
    """Steps, counted from 1, after which the model is evaluated: evenly spread, the last one always among them, no more
    than there are steps. ``{0}`` where there is no step: what was given is evaluated."""
    count = min(evaluations, steps)
    return {round(steps * (i + 1) / count) for i in range(count)} or ({0} if evaluations > 0 else set())


def train(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    evaluate: Callable[[], dict[str, float]],
    optimisation: Optimisation,
    *,
    evaluations: int = 10,
    dtype: str = "float32",
    accumulate: int = 1,
    before_step: Callable[[int], None] | None = None,
    progress: Callable[[int, int, float | None], None] = lambda *_: None,
    engine: Engine | None = None,
    keep: Keep | None = None,
    stateful: Mapping[str, Stateful] | None = None,
) -> Trained:
    """Train a model for ``optimisation.steps`` steps.

    Args:
        batches: gives at least ``accumulate`` batches a step, on the model's device.
        loss: a batch to (the loss that is reported, an auxiliary loss that is added for the gradient or None).
        evaluate: measures the model, in evaluation mode and without gradient; holds ``loss``. Called ``evaluations``
            times, evenly spread, the last time after the last step; after each step where there are fewer.
        dtype: ``float32``, or ``bfloat16`` for autocast over float32 weights.
        accumulate: batches whose mean gradient makes a step.
        before_step: called with the step, from 0, before its first batch; may freeze or thaw parameters.
        engine: carries out the steps; this process alone by default.
        keep: keeps the training as it goes on, and takes up one that was kept.
        stateful: what ``before_step``, ``loss`` and ``evaluate`` keep from step to step besides the model's parameters
            and buffers, by name: ``keep`` keeps it too. Give an empty one to say that they keep nothing.

    Returns:
        What was measured. Training stops with ``diverged`` when an evaluation's loss is not finite.

    Raises:
        ValueError: when the batches run out.

    The loss is read from the device only at evaluations, so that steps do not wait for it.
    """
    device = next(model.parameters()).device
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(
        model.parameters(), lr=optimisation.lr, betas=optimisation.betas, weight_decay=optimisation.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )  # fmt: skip
    steps = optimisation.steps
    marked = marks(steps, evaluations)
    amp = torch.autocast(device.type, torch.bfloat16) if dtype == "bfloat16" else nullcontext()
    engine = engine or Engine()
    at = Position(0, torch.zeros((), device=device), 0, Trained())
    out = at.trained

    def measure(step: int) -> None:
        out.steps.append(step)
        out.train_loss.append(engine.mean(at.running) / at.since if at.since else math.nan)
        at.running.zero_()
        at.since = 0
        model.eval()
        with torch.no_grad(), amp:
            out.evaluations.append(engine.evaluate(evaluate))
        model.train()

    model.train()
    optimizer, loss, supply = engine.prepare(model, optimizer, loss, batches)
    if keep is not None:
        if stateful is None and before_step is None:
            stateful = {}
        at.step = keep.begin(model, optimizer, stateful)
        if at.step:
            deque(itertools.islice(supply, at.step * accumulate), maxlen=0)
            keep.restore(at)
            out = at.trained
    if 0 in marked:
        measure(0)
    began = time.perf_counter()
    for step in range(at.step, steps):
        if before_step is not None:
            before_step(step)
        for group in optimizer.param_groups:
            group["lr"] = optimisation.lr * optimisation.factor(step)
        accumulated = list(itertools.islice(supply, accumulate))
        if len(accumulated) < accumulate:
            raise ValueError(f"no batch left for step {step} of {steps}")
        for i, batch in enumerate(accumulated):
            with engine.passing(i + 1 == accumulate):
                with amp:
                    reported, auxiliary = loss(batch)
                total = reported if auxiliary is None else reported + auxiliary
                engine.backward(total if accumulate == 1 else total / accumulate)
            at.running += reported.detach()
            at.since += 1
        if optimisation.clip:
            engine.clip(model, optimisation.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        at.step = step + 1
        mark = at.step in marked
        if mark:
            out.train_s += time.perf_counter() - began
            measure(at.step)
            began = time.perf_counter()
            if not math.isfinite(out.evaluations[-1]["loss"]):
                out.diverged = True
                break
        if keep is not None:
            out.train_s += time.perf_counter() - began
            keep.after(at, mark)
            began = time.perf_counter()
        if step % 20 == 0 or mark:
            progress(step + 1, steps, out.evaluations[-1]["loss"] if out.evaluations else None)
    engine.finish(model)
    model.eval()
    return out
