"""The published networks on the meta device: parameters, steps, and what a training step holds in memory.

Convolutions are padded by 1, which the paper does not state. Dropout is counted as its kernel on a GPU keeps it, a mask
of one byte a value; max-pooling keeps its input and 8-byte indices, batch norm its input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from papers.noprop.baselines import GatedChain
from papers.noprop.method import NoPropDT
from papers.noprop.model import Block, BlockShape, Embedding, Head
from repro.profiling.counts import count_flops
from repro.profiling.memory import saved_bytes
from repro.profiling.training_memory import StepMemory, weight_bytes

BATCH, BLOCKS = 128, 10
GB = 1e9


class Task(NamedTuple):
    """Images and training set of a published result."""

    channels: int
    size: int
    classes: int
    images: int

    @property
    def shape(self) -> BlockShape:
        """Of a block with one-hot embeddings."""
        return BlockShape(self.channels, self.size, self.classes, self.classes)


TASKS = {"mnist": Task(1, 28, 10, 60000), "cifar10": Task(3, 32, 10, 50000), "cifar100": Task(3, 32, 100, 50000)}


class MaskedDropout(nn.Module):
    """Dropout that keeps its mask as booleans for the backward pass."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, self.p, self.training)[0]


def on_meta(task: Task) -> tuple[NoPropDT, GatedChain]:
    """NoProp-DT and the back-propagation baseline around the same blocks, without storage."""
    with torch.device("meta"):
        embedding = Embedding.one_hot(task.classes)
        head = Head(embedding)
        noprop = NoPropDT([Block(task.shape) for _ in range(BLOCKS)], embedding, head)
        for module in list(noprop.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.Dropout):
                    setattr(module, name, MaskedDropout(child.p))
        return noprop, GatedChain(noprop.blocks, embedding, head)


def memories(task: Task) -> dict[str, StepMemory]:
    """What a step on a batch holds, of ``noprop`` (one block) and ``bp`` (all). Adam's moments of all blocks are
    resident in both; NoProp has gradients of one block at a time."""
    noprop, chain = on_meta(task)
    x = torch.empty(BATCH, task.channels, task.size, task.size, device="meta")
    y = torch.empty(BATCH, dtype=torch.long, device="meta")
    none: Any = None  # noise on the meta device needs no generator

    def trainable(*parts: nn.Module) -> int:
        return sum(p.numel() for part in parts for p in part.parameters() if p.requires_grad)

    def held(model: nn.Module, loss: Callable[[], Tensor], gradients: int) -> StepMemory:
        activations = saved_bytes(model, loss)
        return StepMemory(weight_bytes(model), 4.0 * gradients, 8.0 * trainable(model), activations)

    return {
        "noprop": held(noprop, lambda: noprop.block_loss(1, x, y, none), trainable(noprop.blocks[0], noprop.head)),
        "bp": held(chain, lambda: chain.loss(x, y, none), trainable(chain)),
    }


def inference_flops(task: Task) -> dict[str, float]:
    """Of one image through ``noprop`` and ``bp``."""
    x, none = torch.empty(1, task.channels, task.size, task.size, device="meta"), None
    out = {}
    for name, model in zip(("noprop", "bp"), on_meta(task), strict=True):
        ask: Any = model.eval().logits
        out[name] = count_flops(lambda: ask(x, none))  # noqa: B023 - called at once
    return out


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {}
    for name, task in TASKS.items():
        noprop, _ = on_meta(task)
        out[f"block_parameters_{name}"] = sum(p.numel() for p in noprop.blocks[0].parameters())
        out[f"parameters_{name}"] = sum(p.numel() for p in noprop.parameters() if p.requires_grad)
        out[f"state_gb_{name}"] = 16 * out[f"parameters_{name}"] / GB
        out[f"steps_bp_{name}"] = -(-task.images // BATCH)
        out[f"steps_noprop_{name}"] = BLOCKS * out[f"steps_bp_{name}"]
        held = memories(task)
        out[f"activation_ratio_{name}"] = held["bp"].activations / held["noprop"].activations
        out[f"training_ratio_{name}"] = held["bp"].low / held["noprop"].low
        out[f"saved_gb_{name}"] = (held["bp"].low - held["noprop"].low) / GB
        for arm, memory in held.items():
            out[f"activation_gb_{arm}_{name}"] = memory.activations / GB
            out[f"training_gb_{arm}_{name}"] = memory.low / GB
        for arm, flops in inference_flops(task).items():
            out[f"inference_flops_{arm}_{name}"] = flops
    return out
