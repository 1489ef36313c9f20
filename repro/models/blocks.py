"""Blocks of any causal language model of transformers, found by what they are, and how much each turns its input."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def decoder_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of a decoder in order: Llama's ``model.layers``, GPT-2's ``transformer.h``, OPT's and others.

    Found as the list of modules that is as long as ``config.num_hidden_layers`` and holds modules of one class with
    weights in them; the outermost such list. Raises ValueError when there is none, or several beside each other.
    """
    depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    found = [
        (name, list(part))
        for name, part in model.named_modules()
        if isinstance(part, nn.ModuleList)
        and len(part) == depth
        and len({type(block) for block in part}) == 1
        and any(True for _ in part[0].parameters())
    ]
    outer = [(name, part) for name, part in found if not any(name.startswith(f"{other}.") for other, _ in found)]
    if len(outer) != 1:
        names = ", ".join(name for name, _ in outer) or "none"
        raise ValueError(f"{type(model).__name__} has no single list of {depth} blocks: {names}")
    return outer[0][1]


@dataclass(frozen=True)
class BlockSimilarity:
    """Cosine of what enters and what leaves each block, float64 ``[L]``.

    Attributes:
        per_token: mean over tokens of the cosine of the two hidden states of a token (1 - Block Influence of ShortGPT,
            arXiv 2403.03853).
        flattened: mean over batches, weighted by tokens, of the cosine of all hidden states of a batch as one vector.
    """

    per_token: Tensor
    flattened: Tensor


@torch.no_grad()
def block_similarities(model: nn.Module, batches: Iterable[Tensor]) -> BlockSimilarity:
    """Similarities on calibration tokens, in one forward pass over them.

    Hooks read the states: the last one of ``output_hidden_states`` has passed the final norm already.

    Args:
        batches: token ids ``[B, T]``, without padding, on the model's device.

    Raises:
        ValueError: without tokens, or for a model whose blocks are not found.
    """
    layers = decoder_blocks(model)
    per_token = torch.zeros(len(layers), dtype=torch.float64)
    flattened = torch.zeros(len(layers), dtype=torch.float64)
    count = 0

    def compare(index: int) -> Any:
        def hook(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            x, y = stream(args, kwargs).float(), first(output).float()
            tokens = x.numel() // x.shape[-1]
            per_token[index] += F.cosine_similarity(x, y, dim=-1).double().sum().item()
            flattened[index] += tokens * F.cosine_similarity(x.flatten().double(), y.flatten().double(), dim=0).item()

        return hook

    handles = [layer.register_forward_hook(compare(i), with_kwargs=True) for i, layer in enumerate(layers)]
    try:
        for ids in batches:
            model(input_ids=ids, use_cache=False)
            count += ids.numel()
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise ValueError("no calibration tokens")
    return BlockSimilarity(per_token / count, flattened / count)


@contextlib.contextmanager
def without_blocks(model: nn.Module, gone: Sequence[int]) -> Iterator[nn.Module]:
    """The model with blocks that pass on what enters them, inside the ``with``; they still compute. For measuring what
    a block is worth, not for saving. Raises ValueError for a block that is not there."""
    layers = decoder_blocks(model)
    if any(not 0 <= index < len(layers) for index in gone):
        raise ValueError(f"there are {len(layers)} blocks, not all of {list(gone)}")

    def skip(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        x = stream(args, kwargs)
        return (x, *output[1:]) if isinstance(output, tuple) else x

    handles = [layers[index].register_forward_hook(skip, with_kwargs=True) for index in gone]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def stream(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states that a block is called with."""
    return args[0] if args else kwargs["hidden_states"]


def first(output: Any) -> Tensor:
    """The hidden states that a block returns, alone or before others."""
    return output[0] if isinstance(output, tuple) else output
