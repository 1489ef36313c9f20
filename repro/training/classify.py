"""Ways of training a classifier of images, on equal terms: one frame for gradients of any origin, and three ways to say
how long is as long.

What a step costs differs by an order of magnitude between a network that is trained as a whole and one that is trained
block by block, so "the same training" can mean the same steps, the same FLOPs (`equal_flops`) or the same time
(`equal_time`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import fmean
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from repro.data.base import Batch, order_seed
from repro.data.images import ImageData, Images
from repro.profiling.counts import count_parameters, count_step
from repro.profiling.memory import saved_bytes
from repro.runner.outcome import Context, Outcome
from repro.training.loop import Optimisation, train


class Learner(NamedTuple):
    """A model and how it is trained and asked.

    Attributes:
        loss: (images, labels, step from 0, generator) to the scalar whose gradient is the update.
        scores: (images, generator) to class scores ``[B, classes]``, the largest being the answer.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor, int, Generator], Tensor]
    scores: Callable[[Tensor, Generator], Tensor]


class StepCost(NamedTuple):
    """Of one training step on ``rows`` images. ``activation_bytes``: what autograd keeps for its backward pass;
    ``gradient_parameters``: parameters that get a gradient in it."""

    rows: int
    forward_flops: float
    flops: float
    activation_bytes: float
    gradient_parameters: float


def seeded_start(model: nn.Module, seed: int) -> None:
    """Draw the weights of every module with ``reset_parameters`` anew as that method does, from the module's name and
    the seed: modules of equal name and shape start alike, whatever else a model has."""
    with torch.random.fork_rng(devices=[]):
        for name, module in model.named_modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                torch.manual_seed(order_seed(f"initial {name}", seed))
                reset()


def step_cost(learner: Learner, sample: Images) -> StepCost:
    """What a step on ``sample`` costs, counted on a step without an update. Buffers are left as they were."""
    kept = {name: buffer.clone() for name, buffer in learner.model.named_buffers()}

    def loss() -> Tensor:
        generator = torch.Generator(sample.pixels.device).manual_seed(0)
        return learner.loss(sample.pixels, sample.labels, 0, generator)

    learner.model.train()
    with torch.random.fork_rng(devices=[]):
        activations = saved_bytes(learner.model, loss)
        loss().backward()
        touched = sum(p.numel() for p in learner.model.parameters() if p.grad is not None)
        forward, step = count_step(learner.model, loss)
    for name, buffer in learner.model.named_buffers():
        buffer.copy_(kept[name])
    return StepCost(len(sample.labels), forward, step, activations, float(touched))


def equal_flops(steps: int, of: StepCost, to: StepCost) -> int:
    """How many steps of ``to`` take the FLOPs of ``steps`` steps of ``of``; at least 1."""
    return max(1, round(steps * of.flops / to.flops))


def equal_time(steps: int, ratio: float) -> int:
    """How many steps take the time of ``steps`` steps that are ``ratio`` times as fast; at least 1. The ratio is a
    measured one that is written down, as a run reads no clock; ``train_s`` of the records tells whether it holds."""
    return max(1, round(steps / ratio))


@torch.no_grad()
def measure(
    learner: Learner, images: Images, seed: int, *, draws: int = 1, batch: int = 500, limit: int = 0
) -> dict[str, float]:
    """``accuracy`` in percent and ``loss``, the cross-entropy of the scores in nats, of the first ``limit`` images
    (0: all): means over ``draws`` stochastic inferences, the same noise for all that is measured with one seed."""
    device = next(learner.model.parameters()).device
    learner.model.eval()
    right, losses = [], []
    for draw in range(draws):
        generator = torch.Generator(device).manual_seed(order_seed(f"inference {draw}", seed))
        hits = loss = 0.0
        count = 0
        for part in images.batches(batch, limit):
            pixels, labels = part.to(device)
            scores = learner.scores(pixels, generator).float()
            hits += float((scores.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(scores, labels, reduction="sum"))
            count += len(labels)
        right.append(100 * hits / count)
        losses.append(loss / count)
    return {"accuracy": fmean(right), "loss": fmean(losses)}


def classify(
    learner: Learner,
    data: ImageData,
    optimisation: Optimisation,
    context: Context,
    *,
    batch: int,
    cost: StepCost,
    evaluations: int = 4,
    draws: int = 1,
    test_batch: int = 500,
    train_images: int = 1000,
) -> Outcome:
    """Train, and measure on the three splits.

    Args:
        learner: its model, initialised, on the context's device.
        batch: images of a step; their order is that of the seed.
        cost: of a step, for the profile (`step_cost`).
        evaluations: on validation images, evenly spread, the last after the last step.
        draws: stochastic inferences that test accuracy is the mean of.
        train_images: how many of the training images the training accuracy is measured on, in one inference.

    Returns:
        Metrics ``error`` (validation, percent: what hyper-parameters are chosen by), ``accuracy`` (test, percent),
        ``train_accuracy``, ``loss`` (validation, nats); curves over steps; the profile.
    """
    torch.manual_seed(order_seed("dropout", context.seed))
    noise = torch.Generator(context.device).manual_seed(order_seed("training noise", context.seed))
    order = data.train_order(optimisation.steps, batch, context.seed)
    batches: Iterator[Batch] = (data.rows(rows).to(context.device) for rows in order)
    now = 0

    def before_step(step: int) -> None:
        nonlocal now
        now = step

    def evaluate() -> dict[str, float]:
        found = measure(learner, data.validation, context.seed, batch=test_batch)
        return {"loss": found["loss"], "error": 100 - found["accuracy"]}

    trained = train(
        learner.model, batches, lambda b: (learner.loss(b.inputs, b.targets, now, noise), None), evaluate, optimisation,
        evaluations=evaluations, before_step=before_step, progress=context.progress,
    )  # fmt: skip
    outcome = Outcome(curves=trained.curves(), data=data.describe(), diverged=trained.diverged)
    outcome.profile = profile(learner.model, cost, optimisation.steps, batch) | {"train_s": trained.train_s}
    outcome.metrics = dict(trained.evaluations[-1])
    if not trained.diverged:
        for name, split, limit, times in (
            ("accuracy", data.test, 0, draws),
            ("train_accuracy", data.train, train_images, 1),
        ):
            found = measure(learner, split, context.seed, draws=times, batch=test_batch, limit=limit)
            outcome.metrics[name] = found["accuracy"]
    return outcome


def profile(model: nn.Module, cost: StepCost, steps: int, batch: int) -> dict[str, Any]:
    """Of a training: parameters, ``train_steps``, ``train_samples``, ``train_flops``, and of a step's memory
    ``activation_bytes``, ``gradient_bytes``, ``moment_bytes`` of Adam for all trainable parameters, and
    ``training_bytes``, their sum with the weights."""
    scale = batch / cost.rows
    counted = count_parameters(model)
    held = {
        "activation_bytes": cost.activation_bytes * scale,
        "gradient_bytes": 4 * cost.gradient_parameters,
        "moment_bytes": 8 * counted["params_trainable"],
    }
    return counted | held | {
        "training_bytes": 4 * counted["params_total"] + sum(held.values()),
        "train_steps": float(steps),
        "train_samples": float(steps * batch),
        "train_flops": cost.flops * scale * steps,
    }  # fmt: skip


def with_random_labels(data: ImageData, seed: int) -> ImageData:
    """The images with the labels of every split in random order: nothing to learn, so accuracy above chance betrays a
    leak of the label."""

    def shuffled(name: str) -> Images:
        images = data.split(name)
        generator = torch.Generator().manual_seed(order_seed(f"labels at random {name}", seed))
        return Images(images.pixels, images.labels[torch.randperm(len(images.labels), generator=generator)])

    return ImageData(
        name=f"{data.name}, labels at random",
        train=shuffled("train"),
        validation=shuffled("validation"),
        test=shuffled("test"),
        classes=data.classes,
        source=data.source,
        description=data.description,
        details={**data.details, "labels_seed": seed},
    )
