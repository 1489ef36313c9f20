"""MEMO (arXiv 2205.13218): count saved models in the memory budget, share shallow layers, add a deep block per task.

    memory = 4 bytes * parameters of all saved networks + 1 byte * pixels of all exemplars
    f(x) = [s_1(g(x)), ..., s_t(g(x))]        g: generalised, shared;  s_i: specialised, one per task
    logits = W_t f(x)                         all classes seen
    loss = CE(logits, y) + alpha CE(A_t s_t(g(x)), max(y - known + 1, 0))

A new block starts as a copy of the one before. Old blocks are frozen, batch norm's statistics included; g goes on
learning (or not). After training, the rows of the new classes in W_t are scaled to the mean norm of the old ones. What
the smaller model saves is spent on exemplars.

    net = ExpandableNet(g, s, dim=64)         # s: a prototype, g and s any modules
    for task, classes in enumerate(sizes):
        net.begin_task(classes)               # appends a block (from the second task on), grows the heads
        ...                                   # train parameters that ask for a gradient with `memo_loss`
        net.end_task()                        # weight alignment

With g the identity and s a whole network this is DER (Yan et al., 2021).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.training.incremental import align_rows, grown

# --- the memory budget ----------------------------------------------------------------------------------------

#: Bytes of a parameter (float32) and of a pixel's channel (uint8).
PARAMETER_BYTES, PIXEL_BYTES = 4, 1


def exchange_rate(parameters: int, image: Sequence[int]) -> float:
    """Exemplars that take the memory of a network: 603.5 for ResNet-32 (463,504 parameters) and 32 x 32 x 3 pixels.

    ``image``: channels, height, width.
    """
    return parameters * PARAMETER_BYTES / exemplar_bytes(image)


def exemplar_bytes(image: Sequence[int]) -> int:
    """Bytes of one exemplar of channels, height, width."""
    size = PIXEL_BYTES
    for side in image:
        size *= side
    return size


def memory_bytes(parameters: int, exemplars: int, image: Sequence[int]) -> int:
    """Bytes of saved networks and exemplars. Heads are not counted, nor are batch norm's statistics."""
    return parameters * PARAMETER_BYTES + exemplars * exemplar_bytes(image)


def affordable_exemplars(budget: int, parameters: int, image: Sequence[int]) -> int:
    """Exemplars that a budget in bytes leaves to a method that saves so many parameters.

    Raises ValueError when the network alone is over the budget.
    """
    left = budget - parameters * PARAMETER_BYTES
    if left < 0:
        raise ValueError(f"{parameters} parameters take {parameters * PARAMETER_BYTES} bytes, of a budget of {budget}")
    return left // exemplar_bytes(image)


def expanded_parameters(generalised: int, specialised: int, tasks: int) -> int:
    """Parameters after so many tasks: one generalised part and a specialised one for each."""
    return generalised + tasks * specialised


# --- the network ----------------------------------------------------------------------------------------------


class ExpandableNet(nn.Module):
    """A shared generalised part, a specialised block per task, and a linear head on all their features.

    Args:
        generalised: g, images [N, ...] to feature maps; trained in the first task, later if ``train_base``.
        specialised: prototype of s, feature maps to [N, dim]. The first block is this module itself.
        dim: features of one block.
        train_base: whether g learns after the first task.
        fresh: gives the block of a task (from 1) in place of a copy of the block before.
        expand: False keeps one block, which goes on learning: an ordinary single-backbone learner.
        rear: shared as g is, behind the blocks, ahead of the head; nothing in MEMO.
        seed: of new heads' weights.

    Attributes:
        blocks: s_1 to s_t.
        head: [classes seen, dim * t]; auxiliary: [new classes + 1, dim], None in the first task.
        known: classes seen before the running task.
    """

    head: nn.Linear
    auxiliary: nn.Linear | None

    def __init__(
        self, generalised: nn.Module, specialised: nn.Module, dim: int, *, train_base: bool = True,
        fresh: Callable[[int], nn.Module] | None = None, expand: bool = True, rear: nn.Module | None = None,
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.generalised, self.rear = generalised, rear or nn.Identity()
        self.blocks = nn.ModuleList([specialised])
        self.dim, self.train_base, self.fresh, self.expand, self.seed = dim, train_base, fresh, expand, seed
        self.tasks = self.known = 0

    @property
    def classes(self) -> int:
        """Classes seen, those of the running task included."""
        return self.head.out_features if self.tasks else 0

    @property
    def feature_dim(self) -> int:
        """Length of the joined features: dim for every block."""
        return self.dim * len(self.blocks)

    def begin_task(self, new: int) -> None:
        """Make room for a task of ``new`` classes: freeze the blocks there are, append one, grow the heads."""
        old = self.head if self.tasks else None
        self.known = self.classes
        if self.tasks and self.expand:
            # the copy is taken first, as it has to be trained and its source must not be
            block = self.fresh(self.tasks) if self.fresh else copy.deepcopy(self.blocks[-1])
            self.blocks.requires_grad_(False)
            self.blocks.append(block)
        if self.tasks:
            self.generalised.requires_grad_(self.train_base)
            self.rear.requires_grad_(self.train_base)
        purpose = f"head {self.tasks}"
        self.head = grown(old, self.feature_dim, self.known + new, self.seed, purpose)
        grows = bool(self.tasks and self.expand)
        self.auxiliary = grown(None, self.dim, new + 1, self.seed, f"auxiliary {purpose}") if grows else None
        if self.auxiliary is not None:
            self.auxiliary.to(self.head.weight.device)
        self.tasks += 1

    def end_task(self, align: bool = True, enlarge: bool = True) -> float:
        """Weight alignment of the new classes' rows; the factor, 1 where there is nothing to align. ``enlarge`` False
        only ever shrinks them."""
        if not align or not 0 < self.known < self.classes:
            return 1.0
        return align_rows(self.head, self.known, enlarge=enlarge)

    def train(self, mode: bool = True) -> ExpandableNet:
        """As torch's, but what is frozen stays in evaluation mode: batch norm must not move on."""
        super().train(mode)
        for block in self.blocks[:-1]:
            block.eval()
        if self.tasks > 1 and not self.train_base:
            self.generalised.eval()
            self.rear.eval()
        return self

    def by_block(self, x: Tensor) -> list[Tensor]:
        """Features of every block, [N, dim] each."""
        shared = self.generalised(x)
        return [self.rear(block(shared)) for block in self.blocks]

    def features(self, x: Tensor) -> Tensor:
        """Joined features [N, dim * t]."""
        return torch.cat(self.by_block(x), 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits [N, classes seen] and those of the auxiliary head [N, new classes + 1] or None."""
        parts = self.by_block(x)
        return self.head(torch.cat(parts, 1)), None if self.auxiliary is None else self.auxiliary(parts[-1])

    def saved_parameters(self) -> int:
        """Parameters that count in the memory budget: all but the heads'."""
        saved = (self.generalised, self.blocks, self.rear)
        return sum(p.numel() for module in saved for p in module.parameters())


# --- the loss -------------------------------------------------------------------------------------------------


def auxiliary_targets(labels: Tensor, known: int) -> Tensor:
    """Targets of the auxiliary head: 0 for any old class, 1, 2, ... for the new ones."""
    return (labels - known + 1).clamp(min=0)


def memo_loss(logits: Tensor, auxiliary: Tensor | None, labels: Tensor, known: int, alpha: float = 1.0) -> Tensor:
    """Cross-entropy over all classes seen, plus ``alpha`` times that of the newest block on the new classes and one
    class of all old ones; nats. ``auxiliary`` None: the first alone."""
    loss = F.cross_entropy(logits, labels)
    if auxiliary is None or not alpha:
        return loss
    return loss + alpha * F.cross_entropy(auxiliary, auxiliary_targets(labels, known))
