"""The published networks on the meta device: parameters, steps, and what a training step holds in memory.

Convolutions are padded by 1, which the paper does not state. Dropout is counted as its kernel on a GPU keeps it, a mask
of one byte a value; max-pooling keeps its input and 8-byte indices, batch norm its input.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from papers.noprop.baselines import GatedChain
from papers.noprop.method import NoPropDT
from papers.noprop.model import Block, BlockShape, Embedding, Head
from repro.profiling.counts import count_flops
from repro.profiling.training_memory import StepMemory, saved_activations, weight_bytes

BATCH, BLOCKS = 128, 10
#: Euler steps of the adjoint baseline and of inference in continuous time.
STEPS = 1000
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
    out = {}
    for name, model, loss, trained in (
        ("noprop", noprop, lambda: noprop.block_loss(1, x, y, None), [noprop.blocks[0], noprop.head.linear]),  # type: ignore[arg-type, list-item]
        ("bp", chain, lambda: chain.loss(x, y, None), [chain]),  # type: ignore[arg-type]
    ):
        moments = sum(p.numel() for p in model.parameters() if p.requires_grad)
        gradients = sum(p.numel() for part in trained for p in part.parameters() if p.requires_grad)
        out[name] = StepMemory(
            weight_bytes(model), 4.0 * gradients, 8.0 * moments, saved_activations(model, loss)
        )  # fmt: skip
    return out


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    out: dict[str, float] = {}
    for name, task in TASKS.items():
        noprop, chain = on_meta(task)
        out[f"block_parameters_{name}"] = sum(p.numel() for p in noprop.blocks[0].parameters())
        out[f"parameters_{name}"] = sum(p.numel() for p in noprop.parameters() if p.requires_grad)
        out[f"steps_bp_{name}"] = -(-task.images // BATCH)
        out[f"steps_noprop_{name}"] = BLOCKS * out[f"steps_bp_{name}"]
        held = memories(task)
        out[f"activation_ratio_{name}"] = held["bp"].activations / held["noprop"].activations
        out[f"training_ratio_{name}"] = held["bp"].low / held["noprop"].low
        for arm, memory in held.items():
            out[f"activation_gb_{arm}_{name}"] = memory.activations / GB
            out[f"training_gb_{arm}_{name}"] = memory.low / GB
        out[f"saved_gb_{name}"] = (held["bp"].low - held["noprop"].low) / GB
        out[f"state_gb_{name}"] = 16 * out[f"parameters_{name}"] / GB
        x = torch.empty(1, task.channels, task.size, task.size, device="meta")
        noprop.eval(), chain.eval()
        out[f"inference_flops_noprop_{name}"] = count_flops(lambda: noprop.logits(x, None))  # type: ignore[arg-type]  # noqa: B023
        out[f"inference_flops_bp_{name}"] = count_flops(lambda: chain.logits(x, None))  # type: ignore[arg-type]  # noqa: B023
    # evaluations of the block in a training step: one against the forward and backward solution of the ODE
    out["evaluations_per_step_ct"] = 1
    out["evaluations_per_step_adjoint"] = 2 * STEPS
    return out
