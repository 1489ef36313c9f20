"""Several data sets as one: rows of each in a fixed proportion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from repro.data.base import LanguageData, TokenRows, order_seed
from repro.data.text import tokenizer_fingerprint


def mix(parts: Sequence[tuple[LanguageData, float]], *, seed: int = 0, name: str = "mixture") -> LanguageData:
    """A data set whose rows are rows of its parts, as many of each as the shares say, in both splits.

    Of every part a random subset of rows is taken, as large as the shares allow; the part that is short for its share
    decides how many there are in all. Rows stay whole: none reaches from one part into another. `Batch.answers` marks
    what the parts mark. ``seed`` is that of the subsets.

    Raises ValueError for no parts, a share that is not positive, or parts that differ in sequence length or tokenizer.
    """
    if not parts or any(share <= 0 for _, share in parts):
        raise ValueError("a mixture needs parts, and each a positive share")
    first = parts[0][0]
    mark = tokenizer_fingerprint(first.tokenizer)
    for data, _ in parts:
        if data.sequence != first.sequence or tokenizer_fingerprint(data.tokenizer) != mark:
            raise ValueError(f"{data.name} and {first.name} differ in sequence length or tokenizer")
    whole = sum(share for _, share in parts)
    shares = [share / whole for _, share in parts]
    details: dict[str, Any] = {
        "parts": {data.name: share for (data, _), share in zip(parts, shares, strict=True)},
        "fingerprints": {data.name: data.fingerprint for data, _ in parts},
    }
    return LanguageData(
        name=name,
        train=_rows([data.train for data, _ in parts], shares, order_seed("mixture", seed)),
        held_out=_rows([data.held_out for data, _ in parts], shares, order_seed("held-out mixture", 0)),
        tokenizer=first.tokenizer,
        source=next(s for s in ("real", "bundled", "generated") if any(d.source == s for d, _ in parts)),
        description="Rows of " + ", ".join(f"{name} ({100 * s:.3g} %)" for name, s in details["parts"].items()),
        details=details,
    )


def _rows(parts: Sequence[TokenRows], shares: Sequence[float], seed: int) -> TokenRows:
    total = min(len(part) / share for part, share in zip(parts, shares, strict=True))
    generator = torch.Generator().manual_seed(seed)
    starts, lengths, offset = [], [], 0
    for part, share in zip(parts, shares, strict=True):
        wanted = torch.randperm(len(part), generator=generator)[: max(1, int(total * share + 1e-9))].sort().values
        if part.starts is None or part.lengths is None:
            starts.append(offset + wanted * part.sequence)
            lengths.append(torch.full_like(wanted, part.sequence + 1))
        else:
            starts.append(offset + part.starts[wanted])
            lengths.append(part.lengths[wanted])
        offset += len(part.tokens)
    answers = None
    if any(part.answers is not None for part in parts):
        marks = [torch.zeros(len(p.tokens), dtype=torch.uint8) if p.answers is None else p.answers for p in parts]
        answers = torch.cat(marks)
    tokens = torch.cat([part.tokens for part in parts])
    return TokenRows(tokens, parts[0].sequence, answers, torch.cat(starts), torch.cat(lengths), parts[0].pad)
