"""Quality without a judge: bits per byte, and whether a whole response is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from repro.data.base import IGNORED, Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def target_bytes(batches: Iterable[Batch], tokenizer: PreTrainedTokenizerFast) -> int:
    """Bytes of UTF-8 text behind the targets that count; special tokens stand for none."""
    total = 0
    for batch in batches:
        for targets in batch.targets:
            text = tokenizer.decode(targets[targets != IGNORED], skip_special_tokens=True)
            assert isinstance(text, str)
            total += len(text.encode())
    return total


def bits_per_byte(loss: float, batches: list[Batch], tokenizer: PreTrainedTokenizerFast) -> float:
    """A mean cross-entropy over the targets of ``batches``, nats a token, in bits per byte of their text: comparable
    over tokenizers. Raises ValueError when no target is text."""
    size = target_bytes(batches, tokenizer)
    if not size:
        raise ValueError("the targets stand for no text")
    return loss * sum(batch.tokens for batch in batches) / size / math.log(2)


@torch.no_grad()
def exact_match(model: Callable[[Tensor], Any], batches: Iterable[Batch], mark: int = 0) -> float:
    """Share of rows whose every counted target has the highest logit, given the true text before it.

    That is the share of responses that greedy decoding would give word for word: as long as all tokens so far are
    right, it has read the true text. ``mark``: only rows whose responses are marked by this number in
    `Batch.answers`; 0: all. ``model`` maps inputs [batch, sequence] to logits or to an object with ``.logits``.

    Raises ValueError when there is no such row.
    """
    right = count = 0
    for batch in batches:
        found = model(batch.inputs)
        best = getattr(found, "logits", found).argmax(-1)
        counts = batch.targets != IGNORED
        rows = counts.any(-1)
        if mark:
            rows &= (batch.answers == mark).any(-1)
        right += int((((best == batch.targets) | ~counts).all(-1) & rows).sum())
        count += int(rows.sum())
    if not count:
        raise ValueError("no row has such a response")
    return right / count
