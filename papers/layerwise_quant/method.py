"""Layer-wise quantisation (arXiv 2406.17415): rank the blocks of a decoder by a cheap score, give the least important
ones fewer bits and the others more, with any quantiser beneath.

    LIM(i) = - cos(what enters block i, what leaves it)           mean over calibration tokens; one forward pass
    ZD(i)  = share of the weights of block i with (w - mu)/sigma > 1           no data; mu, sigma over the block

A block that turns its input much (a high LIM), or has few weights far above its average (a low ZD), is important. With
two widths b_hi > b_lo the k least important of L blocks get b_lo:

    average bits = ((L - k) b_hi + k b_lo) / L

Scores are computed once, on the model in full precision. Embeddings and output layer keep their precision. Works on any
transformers causal language model whose blocks are one list (Llama, Mistral, Qwen, GPT-2, OPT...).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from repro.models.blocks import block_similarities, decoder_blocks
from repro.models.quantise import Bank, BlockBits, Quantiser, dynamic_bits, linears, weight_of

# --- scores ---------------------------------------------------------------------------------------------------


def lim(model: Any, batches: Iterable[Tensor], flattened: bool = False) -> Tensor:
    """Layer input modification, float64 ``[L]`` in [-1, 1]; the higher, the more important.

    Args:
        batches: calibration token ids ``[B, T]``, without padding.
        flattened: one cosine over all tokens of a batch, in the place of the mean of the tokens' cosines. What was read
            of the paper leaves open which; the mean is Block Influence minus one.
    """
    found = block_similarities(model, batches)
    return -(found.flattened if flattened else found.per_token)


@torch.no_grad()
def zd(model: Any) -> Tensor:
    """Z-score distribution: share of a block's linear weights more than one standard deviation above their mean,
    float64 ``[L]``; the lower, the more important. One-sided."""
    return torch.tensor([far_above(block_weights(block)) for block in decoder_blocks(model)], dtype=torch.float64)


def block_weights(block: Any) -> Tensor:
    """All weights of the linear layers of a block, in one row; biases and norms are left out."""
    return torch.cat([weight_of(linear).reshape(-1) for linear in linears(block).values()])


def far_above(weights: Tensor) -> float:
    """``#{k: (w_k - mu) / sigma > 1} / N``."""
    values = weights.double()
    return float(((values - values.mean()) > values.std(correction=0)).double().mean())


# --- orders ---------------------------------------------------------------------------------------------------


def by_lim(scores: Tensor) -> list[int]:
    """Blocks from the least to the most important; equals by their index."""
    return sorted(range(len(scores)), key=lambda i: (float(scores[i]), i))


def by_zd(scores: Tensor) -> list[int]:
    """The same for ZD, where a high score is unimportant."""
    return by_lim(-scores)


def reverse(order: Sequence[int]) -> list[int]:
    """The most important first: the control."""
    return list(order)[::-1]


def at_random(depth: int, draw: random.Random) -> list[int]:
    """The other control."""
    return draw.sample(range(depth), depth)


# --- bits -----------------------------------------------------------------------------------------------------


def allocate(order: Sequence[int], k: int, high: int, low: int) -> tuple[int, ...]:
    """Bits of every block: ``low`` for the first k of the order, ``high`` for the others.

    Raises ValueError for a k outside 0 to L, or an order that is no permutation.
    """
    return allocate_levels(order, ((low, k), (high, len(order) - k)))


def allocate_levels(order: Sequence[int], levels: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Several widths: ``levels`` are (bits, number of blocks), for the least important blocks first.

    Raises ValueError when the numbers are not those of the blocks, or the order is no permutation.
    """
    depth = len(order)
    if sorted(order) != list(range(depth)):
        raise ValueError(f"an order is a permutation of the blocks, not {list(order)}")
    if any(count < 0 for _, count in levels) or sum(count for _, count in levels) != depth:
        raise ValueError(f"{[count for _, count in levels]} blocks are not the {depth} of the model")
    bits, rest = [0] * depth, iter(order)
    for width, count in levels:
        for _ in range(count):
            bits[next(rest)] = width
    return tuple(bits)


def average_bits(bits: Sequence[int]) -> float:
    """Mean over blocks: the average over weights when all blocks have one shape."""
    return sum(bits) / len(bits)


def lowered_for(average: float, depth: int, high: int, low: int) -> int:
    """k for an average: the least number of lowered blocks with at most that many bits.

    Raises ValueError for an average outside of the two widths.
    """
    if not low <= average <= high:
        raise ValueError(f"no mixture of {low} and {high} bits has {average} on average")
    exact = Fraction(str(high - average)) * depth / (high - low)
    return -(-exact.numerator // exact.denominator)


def dynamic(
    bank: Bank, average: float, widths: Sequence[int], order: Sequence[int] = (), k: int = 0, spread: float = 0.5
) -> list[BlockBits]:
    """A base quantiser that is itself dynamic: within a block's budget, each linear layer gets bits by its weight
    error (`repro.models.quantise.dynamic_bits`). Which such quantiser the paper used was not found.

    Without an order all blocks have the budget ``average``. With one, the k least important have ``spread`` bits less
    and the others so much more that the average stays.

    Raises ValueError when a budget lies below the lowest width.
    """
    depth = len(bank.parts)
    poor = set(order[:k])
    rise = spread * k / (depth - k) if 0 < k < depth else 0.0
    out: list[BlockBits] = []
    for block in range(depth):
        budget = average if not poor else average - spread if block in poor else average + rise
        out.append(dynamic_bits(bank, [block], budget, widths, bank.squared_error)[block])
    return out


# --- the whole method -----------------------------------------------------------------------------------------


def quantise_layerwise(
    model: Any, average: float, *, high: int = 4, low: int = 2, score: str = "lim", batches: Sequence[Tensor] = (),
    quantiser: Quantiser | None = None,
) -> tuple[Any, tuple[int, ...]]:  # fmt: skip
    """Score, allocate and quantise a model in place, to at most ``average`` bits a weight; returns it with the bits of
    its blocks. Its linear layers then hold packed bits.

    Args:
        score: ``lim``, which needs calibration ``batches`` (token ids ``[B, T]``), or ``zd``, which does not.
        quantiser: round to nearest with one grid per output channel unless given; GPTQ uses ``batches`` too.

    Raises:
        ValueError: for an unknown score, or as `lowered_for`, `lim` and `Bank`.
    """
    if score not in ("lim", "zd"):
        raise ValueError(f"a score is lim or zd, not {score!r}")
    order = by_lim(lim(model, batches)) if score == "lim" else by_zd(zd(model))
    bits = allocate(order, lowered_for(average, len(order), high, low), high, low)
    return Bank(model, (high, low), quantiser, batches).install(bits), bits
