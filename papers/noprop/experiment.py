"""The arms of NoProp: build, train for a matched length, measure; and ask what the chain adds to one block."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from papers.noprop.baselines import GatedChain, NeuralODE
from papers.noprop.method import NoPropCT, NoPropDT, NoPropFM, normal
from papers.noprop.model import Block, BlockShape, Embedding, Head
from papers.noprop.paper import Config, by_data, learning_rate
from repro.data.base import order_seed
from repro.data.images import ImageData, Images
from repro.data.registry import load_images
from repro.models.cnn import CNN
from repro.runner import Context, Outcome
from repro.training.classify import (
    Learner,
    StepCost,
    classify,
    equal_flops,
    equal_time,
    seeded_start,
    step_cost,
    with_random_labels,
)
from repro.training.initial import generator
from repro.training.local_learning import MLP, FeedbackAlignment, ForwardForward
from repro.training.loop import Optimisation

#: Widths of a block for images of 8 to 12 pixels.
SMALL: dict[str, Any] = {"convs": (16, 32), "pools": (True, True), "width": 64, "fused": (64, 32)}


def run(config: Config, context: Context) -> Outcome:
    """Train one arm on one setting and measure it. Raises MissingData for real data that is not at hand."""
    data = load_images(
        config.data, seed=context.seed, **({"validation": config.validation} if config.validation else {})
    )
    if config.train_images:
        data = dataclasses.replace(data, train=Images(*(x[: config.train_images] for x in data.train)), fingerprint="")
    if config.labels == "random":
        data = with_random_labels(data, context.seed)
    learner, cost = ready(config, data, context)
    steps = length(config, data, context, cost)
    optimisation = Optimisation(
        learning_rate(config), steps, config.warmup, config.schedule, (0.9, 0.999), config.weight_decay, clip=0.0
    )
    outcome = classify(
        learner, data, optimisation, context, batch=config.batch, cost=cost, evaluations=config.evaluations,
        draws=config.draws, test_batch=config.test_batch,
    )  # fmt: skip
    outcome.metrics |= {
        "activation_bytes": outcome.profile["activation_bytes"],
        "training_bytes": outcome.profile["training_bytes"],
        "step_s": outcome.profile["train_s"] / steps,
    }
    if isinstance(learner.model, NoPropDT) and not outcome.diverged:
        found, outcome.tables = depth(learner.model, data, context, config.test_batch)
        outcome.metrics |= found
        outcome.metrics["depth_value"] = outcome.metrics["accuracy"] - found["first_block"]
        outcome.metrics["last_value"] = outcome.metrics["accuracy"] - found["last_block"]
    return outcome


# --- what is trained ------------------------------------------------------------------------------------------


def ready(config: Config, data: ImageData, context: Context) -> tuple[Learner, StepCost]:
    """The learner of an arm with its weights of the seed, on the device, and what one of its steps costs."""
    learner = build(config, data, context.seed)
    seeded_start(learner.model, context.seed)
    if config.head_scale and isinstance(head := getattr(learner.model, "head", None), Head):
        head.align(config.head_scale)
    learner.model.to(context.device)
    sample = Images(data.train.pixels[: config.batch], data.train.labels[: config.batch]).to(context.device)
    return learner, step_cost(learner, sample)


def passes_of(config: Config, data: ImageData) -> int:
    """Steps of one pass over the training images."""
    return -(-len(data.train.labels) // config.batch)


def length(config: Config, data: ImageData, context: Context, cost: StepCost) -> int:
    """Steps of a training.

    ``blocks``: an epoch is one of Algorithm 1, a pass over the data for every block; ``epochs``: it is one pass;
    ``flops`` and ``time``: as much as Algorithm 1 takes in all. Raises ValueError for another budget.
    """
    passes = passes_of(config, data)
    steps = config.epochs * passes * config.blocks
    if config.budget == "blocks":
        return steps
    if config.budget == "epochs":
        own = {"ct": config.flow_epochs, "fm": config.flow_epochs, "ode": config.ode_epochs}
        return own.get(config.learner, config.epochs) * passes
    if config.budget == "flops":
        reference = dataclasses.replace(config, learner="dt")
        return equal_flops(steps, ready(reference, data, context)[1], cost)
    if config.budget == "time":
        return equal_time(steps, by_data(config.slower, config.data))
    raise ValueError(f"budget is blocks, epochs, flops or time, not {config.budget!r}")


def shape_of(config: Config, data: ImageData, d: int) -> BlockShape:
    """Of a block for these images."""
    channels, size, _ = data.train.pixels.shape[1:]
    if config.shape not in ("small", "published"):
        raise ValueError(f"shape is small or published, not {config.shape!r}")
    return BlockShape(channels, size, data.classes, d, dropout=config.dropout,
                      **(SMALL if config.shape == "small" else {}))  # fmt: skip


def embedding_of(config: Config, data: ImageData, seed: int) -> Embedding:
    """W_embed. Raises ValueError for an unknown kind."""
    if config.embedding == "one-hot":
        return Embedding.one_hot(data.classes)
    if config.embedding == "learned":
        return Embedding.orthogonal(data.classes, config.dim, generator("label embedding", seed))
    if config.embedding == "prototype":
        return Embedding.prototypes(*data.train, data.classes)
    raise ValueError(f"embedding is one-hot, learned or prototype, not {config.embedding!r}")


def build(config: Config, data: ImageData, seed: int) -> Learner:
    """The model of an arm and how it is trained. Raises ValueError for an unknown learner."""
    embedding = embedding_of(config, data, seed)
    shape = shape_of(config, data, embedding.weight.shape[1])
    head = Head(embedding, config.head)
    prototype = config.embedding == "prototype"
    inputs = data.train.pixels[0].numel()
    hidden = (config.hidden, config.hidden)
    what = config.learner

    def block(timed: bool = False) -> Block:
        return Block(shape, timed=timed, prototype=prototype)

    def blocks() -> list[Block]:
        return [block() for _ in range(config.blocks)]

    if what == "dt":
        model = NoPropDT(blocks(), embedding, head, eta=config.eta, blind=config.blind)
        count = len(model.blocks)
        only = count if config.only < 0 else config.only
        for t, one in enumerate(model.blocks, 1):
            one.requires_grad_(only in (0, t))
        order = list(model.order(1))
        span = passes_of(config, data)

        def loss(x: Tensor, y: Tensor, step: int, noise: Generator) -> Tensor:
            return model.block_loss(only or order[step // span % count], x, y, noise)

        return Learner(model, loss, model.logits)
    if what == "ct":
        ct = NoPropCT(
            block(timed=True), embedding, head, eta=config.eta_ct, ends=(config.gamma_last, config.gamma_first)
        )
        return Learner(ct, lambda x, y, _, g: ct.loss(x, y, g), lambda x, g: ct.logits(x, g, config.inference_steps))
    if what == "fm":
        fm = NoPropFM(block(timed=True), embedding, head if embedding.weight.requires_grad else None)
        return Learner(fm, lambda x, y, _, g: fm.loss(x, y, g), lambda x, g: fm.logits(x, g, config.inference_steps))
    whole: Any
    if what == "chain":
        whole = GatedChain(blocks(), embedding, head, gate=config.gate)
    elif what == "ode":
        whole = NeuralODE(block(timed=True), embedding, head, steps=config.ode_steps)
    else:
        plain = plain_model(what, shape, inputs, hidden, seed)
        return Learner(plain, lambda x, y, _, g: plain.loss(x, y, g), lambda x, _: plain.logits(x))
    return Learner(whole, lambda x, y, _, g: whole.loss(x, y, g), whole.logits)


class PlainCNN(CNN):
    """The image path of a block with the layers behind it: what one block would be as an ordinary classifier."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__(shape.image_path(), shape.fused, shape.classes)

    def logits(self, x: Tensor) -> Tensor:
        return self(x)

    def loss(self, x: Tensor, y: Tensor, generator: Generator | None = None) -> Tensor:
        return F.cross_entropy(self(x), y)


def plain_model(what: str, shape: BlockShape, inputs: int, hidden: tuple[int, ...], seed: int) -> Any:
    """A classifier without label embeddings. Raises ValueError for an unknown one."""
    if what == "cnn":
        return PlainCNN(shape)
    if what == "mlp":
        return MLP(inputs, hidden, shape.classes)
    if what == "dfa":
        return FeedbackAlignment(inputs, hidden, shape.classes, generator("feedback", seed))
    if what == "ff":
        return ForwardForward(inputs, hidden, shape.classes)
    raise ValueError(f"no learner named {what!r}")


# --- what the chain adds --------------------------------------------------------------------------------------


@torch.no_grad()
def depth(model: NoPropDT, data: ImageData, context: Context, batch: int) -> tuple[dict[str, float], Any]:
    """Test accuracy in percent of single blocks that are given pure noise for z, and of the chain cut off after each.

    Returns:
        ``first_block`` and ``last_block``, alone on noise; both series by block.
    """
    model.eval()
    steps = range(1, len(model.blocks) + 1)
    alone, cut = torch.zeros(len(steps)), torch.zeros(len(steps))
    noise = torch.Generator(context.device).manual_seed(order_seed("single blocks", context.seed))
    for part in data.test.batches(batch):
        x, y = part.to(context.device)
        chain = model.chain(x, noise)
        for t in steps:
            guess = model.predict(t, normal(chain[0], noise), x, noise)
            alone[t - 1] += (model.head(guess).argmax(1) == y).sum().cpu()
            cut[t - 1] += (model.head(chain[t]).argmax(1) == y).sum().cpu()
    shares = 100 / len(data.test.labels)
    single, after = ([round(v, 3) for v in (shares * hits).tolist()] for hits in (alone, cut))
    return {"first_block": single[0], "last_block": single[-1]}, {"alone_on_noise": single, "chain_cut_after": after}
