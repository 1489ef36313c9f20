"""Cross-entropy on held-out data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.base import IGNORED, Batch, LanguageData, TupleData


@torch.no_grad()
def held_out_loss(
    model: Callable[[Tensor], Any],
    data: LanguageData | TupleData | Iterable[Batch],
    batches: int = 8,
    batch_size: int = 8,
    *,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Token-weighted cross-entropy in nats, on the same held-out rows for every arm and seed.

    ``model`` maps inputs to logits ([batch, sequence, vocabulary] or [batch, classes]) or to an object with
    ``.logits``; a module is put into evaluation mode and back. ``data``: a data set, of which a fixed sample of
    ``batches`` times ``batch_size`` rows is read, or the batches themselves. Autocast is the caller's.

    Returns ``loss``, ``accuracy`` (share of targets with the highest logit, given the true text before them) and
    ``tokens``; where answers are marked also ``answer_loss``, ``answer_accuracy`` and ``answer_tokens``; and, when
    answers differ in the number of operations they need, each of these per number, as in ``answer_loss_ops2``.

    Raises ValueError when no target counts.
    """
    given = data.held_out_batches(batches, batch_size) if isinstance(data, (LanguageData, TupleData)) else data
    module = model if isinstance(model, nn.Module) else None
    training = module is not None and module.training
    if module is not None:
        module.eval()
        device = device or next((p.device for p in module.parameters()), None)
    total, hits, count = 0.0, 0, 0
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0, 0])
    try:
        for batch in given:
            inputs, targets, marks = batch.to(device) if device is not None else batch
            found = model(inputs)
            logits = getattr(found, "logits", found)
            flat = logits.reshape(-1, logits.shape[-1]).float()
            wanted, marked = targets.reshape(-1), marks.reshape(-1)
            losses = F.cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="none").double()
            counts = wanted != IGNORED
            total += losses.sum().item()
            count += int(counts.sum())
            right = flat.argmax(-1) == wanted
            hits += int(right.sum())
            for operations in marked[counts].unique().tolist():
                if operations:
                    chosen = counts & (marked == operations)
                    sums[operations][0] += losses[chosen].sum().item()
                    sums[operations][1] += int(right[chosen].sum())
                    sums[operations][2] += int(chosen.sum())
    finally:
        if module is not None:
            module.train(training)
    if not count:
        raise ValueError("no held-out target counts: no batches, or only padding")
    result = {"loss": total / count, "accuracy": hits / count, "tokens": float(count)}
    if sums:
        result |= _answers("", [sum(column) for column in zip(*sums.values(), strict=True)])
    if len(sums) > 1:
        for operations in sorted(sums):
            result |= _answers(f"_ops{operations}", sums[operations])
    return result


def _answers(suffix: str, sums: list[float]) -> dict[str, float]:
    loss, right, count = sums
    return {
        f"answer_loss{suffix}": loss / count,
        f"answer_accuracy{suffix}": right / count,
        f"answer_tokens{suffix}": float(count),
    }
