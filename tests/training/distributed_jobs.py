"""What the processes of `test_distributed` do; importable by name."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.base import IGNORED, Batch
from repro.evaluation.loss import held_out_loss
from repro.models.moe import Experts, TopKRouter, sequence_balance_loss
from repro.training.distributed import CannotShare, Processes
from repro.training.initial import initialise
from repro.training.loop import Optimisation, train
from repro.training.resume import Checkpoints

VOCAB, LENGTH, ROWS = 17, 6, 8


def exchanged_balance(scores: Tensor, indices: Tensor) -> Tensor:
    """Balance over the batch of all processes, whose counts they exchange; the scores are a process's own."""
    counts = torch.bincount(indices.flatten(), minlength=scores.shape[1]).to(scores.dtype)
    if dist.is_initialized():
        dist.all_reduce(counts)
    return scores.shape[1] * (counts / counts.sum() * scores.mean(0)).sum()


class Block(nn.Module):
    """A residual layer of experts, balanced in each sequence; over the batch as it is with ``whole``, over that of all
    processes with ``exchanged``."""

    def __init__(self, whole: bool = False, exchanged: bool = False, dropout: float = 0.0):
        super().__init__()
        self.norm, self.router, self.experts = nn.LayerNorm(8), TopKRouter(8, 4, 2), Experts(4, 8, 8)
        self.whole, self.exchanged, self.dropout = whole, exchanged, nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.norm(x).flatten(0, 1)
        routed = self.router(tokens)
        y = self.dropout(self.experts(tokens, routed.indices, routed.weights)).view_as(x)
        if self.exchanged:
            return x + y, exchanged_balance(routed.scores, routed.indices)
        balance = sequence_balance_loss(routed.scores, routed.indices, 1 if self.whole else len(x))
        return x + y, balance


class Tiny(nn.Module):
    """Tokens to logits through two blocks, with the sum of their balance losses; ``idle`` is an unused layer."""

    def __init__(self, **options: Any):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, 8)
        self.blocks = nn.ModuleList(Block(**options) for _ in range(2))
        self.head = nn.Linear(8, VOCAB, bias=False)
        self.idle = nn.Linear(3, 3)
        self.head.weight = self.embed.weight
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        initialise(self, 0, std=0.3)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            self.seen += 1
        x, total = self.embed(inputs), torch.zeros((), device=inputs.device)
        for block in self.blocks:
            x, balance = block(x)
            total = total + balance
        return self.head(x), 0.05 * total


def batches(count: int, padded: bool = False) -> list[Batch]:
    """Rows with a rule to learn: the next token is the last one plus one or two; ``padded`` at different lengths."""
    draw = torch.Generator().manual_seed(3)
    out = []
    for _ in range(count):
        steps = torch.randint(1, 3, (ROWS, LENGTH + 1), generator=draw)
        ids = steps.cumsum(1) % VOCAB
        targets = ids[:, 1:].clone()
        if padded:
            lengths = torch.randint(1, LENGTH + 1, (ROWS, 1), generator=draw)
            targets[torch.arange(LENGTH) >= lengths] = IGNORED
        out.append(Batch(ids[:, :-1].contiguous(), targets, torch.zeros_like(targets, dtype=torch.uint8)))
    return out


def cross_entropy(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    logits, balance = model(batch.inputs)
    return F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED), balance


class Stop(Exception):
    pass


class Counted:
    """Keeps a number, as something that a step changes."""

    def __init__(self) -> None:
        self.value, self.draws = 0, torch.zeros(2)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "nested": [(self.draws, None, {"a": 1.5})]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, [(self.draws, _, _)] = state["value"], state["nested"]


def run(
    strategy: str = "ddp", steps: int = 12, accumulate: int = 1, padded: bool = False, folder: str = "",
    every: int = 0, stop: int = -1, freeze: int = -1, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """A short training; shared where there are several processes; kept in ``folder``; stopped before step ``stop``."""
    model, counted, held = Tiny(**options), Counted(), []
    held_out = batches(2)

    def before_step(step: int) -> None:
        if step == stop:
            raise Stop
        if step == freeze:
            model.head.requires_grad_(False)
        held.append(sum(getattr(p, "_local_tensor", p).numel() for p in model.parameters()))
        counted.value += step + 1
        counted.draws += torch.rand(2)

    found = train(
        model,
        batches(steps * accumulate, padded),
        lambda batch: cross_entropy(model, batch),
        lambda: held_out_loss(lambda inputs: model(inputs)[0], held_out),
        Optimisation(1e-2, steps, schedule="cosine", clip=0.5),
        evaluations=4,
        accumulate=accumulate,
        before_step=before_step,
        engine=Processes(strategy) if dist.is_initialized() else None,  # type: ignore[arg-type]
        keep=Checkpoints(folder, every) if folder else None,
        stateful={"counted": counted},
    )
    return {
        "train_loss": found.train_loss,
        "loss": [e["loss"] for e in found.evaluations],
        "weights": {name: p.detach().clone() for name, p in model.named_parameters()},
        "seen": float(model.seen),
        "counted": (counted.value, counted.draws),
        "held": held,
        "kinds": sorted({type(m).__name__ for m in model.modules()}),
        "again": held_out_loss(lambda inputs: model(inputs)[0], held_out)["loss"],
    }


def each(*cases: dict[str, Any]) -> list[Any]:
    """Several trainings in the same processes, those that are refused by their message; starting processes takes
    longer."""
    found: list[Any] = []
    for case in cases:
        try:
            found.append(run(**case))
        except (CannotShare, Stop) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found
