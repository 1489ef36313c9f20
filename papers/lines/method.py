"""LiNeS (arXiv 2410.17146): scale an update of a pretrained model by a factor that grows linearly with depth.

    tau = theta_tuned - theta_0                          the update, or a merge of several
    lambda_l = alpha + beta * (l - 1) / (L - 1)          of block l = 1..L
    theta = theta_0 + (lambda_1 tau^(1), ..., lambda_L tau^(L))

All parameters of a block share its factor; all parameters outside the blocks (embeddings, positions, first and last
norms, projections) have alpha, also those behind the last block [released code]. Nothing here needs data, a gradient or
a particular model: updates are mappings from parameter names to tensors, as in ``state_dict()``.

    vector = lines(task_vector(tuned.state_dict(), base.state_dict()), alpha=0.3)          # one fine-tuned model
    merged = lines_merged(vectors, total(vectors), beta=0.5)                               # several, by task arithmetic
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from repro.models.task_vectors import State, Vector, l1_norm, total

#: Stack and number from 0 of the block that a parameter belongs to; None outside the blocks. A model with one stack of
#: blocks may give the number alone.
Place = tuple[str, int] | int | None
BlockOf = Callable[[str], Place]
Schedule = Literal["linear", "uniform", "reversed", "quadratic", "permuted"]


# --- depth ----------------------------------------------------------------------------------------------------

#: What transformers, open_clip and timm call the list of residual blocks.
_BLOCKS = re.compile(r"(?:^|\.)(?:layers?|blocks?|resblocks|h)\.(\d+)\.")
_STACK = re.compile(r"(?:^|\.)(encoder|decoder|text_model|vision_model|visual)\.")


def block_of(name: str) -> Place:
    """The block of a parameter of ViT, CLIP, BERT, RoBERTa, GPT-2, Llama, Mistral, T5 and others that name their list
    of blocks ``layers``, ``layer``, ``blocks``, ``block``, ``resblocks`` or ``h``.

    Encoder and decoder are stacks of their own, each numbered from its first block. The first number counts, so that
    ``encoder.block.3.layer.0.`` (T5) is block 3; the released code looks for ``.{i}.`` anywhere, which would make it
    block 0.
    """
    found = _BLOCKS.search(name)
    if found is None:
        return None
    stacks = _STACK.findall(name[: found.start() + 1])
    return (stacks[-1] if stacks else ""), int(found[1])


def depths(names: Sequence[str], where: BlockOf = block_of) -> dict[str, int]:
    """L of every stack. Raises ValueError without blocks, or for a stack of one, whose factor is undefined."""
    found: dict[str, set[int]] = {}
    for name in names:
        if (place := _place(where(name))) is not None:
            found.setdefault(place[0], set()).add(place[1])
    if not found:
        raise ValueError("no parameter belongs to a block; give a block_of that knows the model's names")
    for stack, numbers in found.items():
        if len(numbers) < 2 or numbers != set(range(len(numbers))):
            raise ValueError(f"blocks {sorted(numbers)} of stack {stack!r}: at least two are needed, numbered from 0")
    return {stack: len(numbers) for stack, numbers in found.items()}


def _place(place: Place) -> tuple[str, int] | None:
    return ("", place) if isinstance(place, int) else place


# --- the factors ----------------------------------------------------------------------------------------------


def factors(blocks: int, alpha: float, beta: float, schedule: Schedule = "linear", seed: int = 0) -> list[float]:
    """lambda_1 to lambda_L (Eq. of the method): ``alpha + beta * (l - 1) / (L - 1)``.

    Besides the paper's schedule those that tell what matters about it. ``reversed``: the largest factor first;
    ``permuted``: the same factors in an order drawn from ``seed``; ``quadratic``: growing with the square of depth;
    ``uniform``: their mean everywhere.

    Raises ValueError for fewer than two blocks or another schedule.
    """
    if blocks < 2:
        raise ValueError("the factor of a model of one block is undefined: L - 1 = 0")
    share = [block / (blocks - 1) for block in range(blocks)]
    if schedule == "reversed":
        share.reverse()
    elif schedule == "permuted":
        random.Random(f"permuted blocks/{blocks}/{seed}").shuffle(share)
    elif schedule == "quadratic":
        share = [s * s for s in share]
    elif schedule == "uniform":
        share = [0.5] * blocks
    elif schedule != "linear":
        raise ValueError(f"no schedule named {schedule!r}")
    return [alpha + beta * s for s in share]


def scale_by_depth(
    vector: State, alpha: float, beta: float, where: BlockOf = block_of, *, schedule: Schedule = "linear", seed: int = 0
) -> Vector:
    """The update with every block's part multiplied by its factor, and what is outside the blocks by alpha.

    Raises ValueError as `depths` and `factors`.
    """
    by_stack = {
        stack: factors(count, alpha, beta, schedule, seed) for stack, count in depths(list(vector), where).items()
    }

    def factor(name: str) -> float:
        place = _place(where(name))
        return alpha if place is None else by_stack[place[0]][place[1]]

    return {name: value * factor(name) for name, value in vector.items()}


def lines(vector: State, alpha: float, where: BlockOf = block_of, **options: Any) -> Vector:
    """One fine-tuned model: beta = 1 - alpha, so that the last block's update is kept whole and the first one's, with
    everything outside the blocks, shrinks to alpha."""
    return scale_by_depth(vector, alpha, 1 - alpha, where, **options)


def merge_alpha(vectors: Sequence[State], merged: State) -> float:
    """alpha of a merge: ``(1 / N) * |sum_i tau_i|_1 / |tau_merged|_1`` over all parameters.

    For task arithmetic, whose merge is the sum, it is 1 / N: the first block is the plain average. For others the ratio
    brings the merge to the size of the sum first. Raises ValueError for a merge of zero.
    """
    norm = l1_norm(merged)
    if not norm:
        raise ValueError("the merged update is zero")
    return l1_norm(total(vectors)) / norm / len(vectors)


def lines_merged(
    vectors: Sequence[State], merged: State, beta: float, where: BlockOf = block_of, **options: Any
) -> Vector:
    """A merge of several models' updates, scaled: merge first, then scale (trimming does not commute with it). beta
    takes the place of the merge's own coefficient and is searched over the same values."""
    return scale_by_depth(merged, merge_alpha(vectors, merged), beta, where, **options)


# --- choosing alpha -------------------------------------------------------------------------------------------

#: Tried for one fine-tuned model, the largest first [released code].
ALPHAS = tuple(round(1 - i / 10, 1) for i in range(11))
#: Tried for merges: lambda of the plain merge, beta with LiNeS [released code].
GRIDS = {
    "ties": tuple(round(i / 10, 1) for i in range(1, 16)),
    "other": tuple(round(i / 10, 1) for i in range(1, 11)),
}


def tradeoff(target: float, control: float, weight: float = 2.0) -> float:
    """What alpha is chosen by: ``weight * target / fine-tuned + control / zero-shot``, both shares given normalised."""
    return weight * target + control


def choose_alpha(scores: Mapping[float, tuple[float, float]], weight: float = 2.0) -> float:
    """The alpha with the best trade-off of its (target, control) pair on validation data, the first of equals.

    Raises ValueError when there is none.
    """
    if not scores:
        raise ValueError("nothing to choose from")
    return max(scores, key=lambda alpha: tradeoff(*scores[alpha], weight))


def edited_scalars(vector: State) -> int:
    """Multiplications that the whole edit takes: one for every parameter."""
    return sum(_size(value) for value in vector.values())


def _size(tensor: Tensor) -> int:
    return tensor.numel()
