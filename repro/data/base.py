"""Batches, and the two kinds of data that give them: rows of tokens, and tuples of symbols."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

#: Label of positions that count in no loss (the default of ``torch.nn.functional.cross_entropy``).
IGNORED = -100


class Batch(NamedTuple):
    """What one training or evaluation step reads.

    ``targets[b, s]`` is the token that follows ``inputs[b, s]``: already shifted, so compare it with the logits at the
    same position.
    """

    inputs: Tensor
    """Language: LongTensor [batch, sequence]. Tuples: LongTensor [batch, slots]."""
    targets: Tensor
    """Language: LongTensor [batch, sequence], -100 on padding. Tuples: LongTensor [batch]."""
    answers: Tensor
    """Uint8, shape of ``targets``: 0 for an ordinary token, else the number of operations that this answer token needs
    (1 where the data set does not count them)."""

    @property
    def tokens(self) -> int:
        """Number of targets that count in the loss."""
        return int((self.targets != IGNORED).sum())

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(part.to(device, non_blocking=True) for part in self))


def order_seed(purpose: str, seed: int) -> int:
    """Seed of a generator of its own for ``purpose``, so that data order, initialisation and sampling do not share a
    stream of random numbers."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:7], "big")


def epochs(rows: int, steps: int, batch: int, seed: int, purpose: str = "data order") -> Tensor:
    """Indices into ``rows`` rows, LongTensor [steps, batch]: each epoch a fresh shuffle, drawn under the seed and the
    purpose. A longer order starts with the shorter one."""
    generator = torch.Generator().manual_seed(order_seed(purpose, seed))
    needed = steps * batch
    shuffles = [torch.randperm(rows, generator=generator) for _ in range(-(-needed // rows))]
    return torch.cat(shuffles)[:needed].view(steps, batch) if needed else torch.empty(steps, batch, dtype=torch.long)


def _fixed_sample(rows: int, wanted: int) -> Tensor:
    generator = torch.Generator().manual_seed(order_seed("held-out", 0))
    return torch.randperm(rows, generator=generator)[:wanted]


def fingerprint(*parts: Tensor | np.ndarray | str | None) -> str:
    """First 16 hex digits of the SHA-256 of the content of tensors and strings, with their types and shapes."""
    digest = hashlib.sha256()
    for part in parts:
        if part is None or isinstance(part, str):
            digest.update(repr(part).encode() + b"\0")
            continue
        array = part.numpy() if isinstance(part, Tensor) else part
        digest.update(f"{array.dtype}{array.shape}".encode() + b"\0")
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Rows of ``sequence + 1`` tokens, each giving ``sequence`` predictions, cut from one stream of tokens.

    Packed (no ``starts``): row i begins at token ``i * sequence`` and shares its last token with the next row, so that
    an epoch predicts every token once. By document (``starts`` and ``lengths``, LongTensor [rows]): a row is one
    document, cut at ``sequence + 1`` tokens or filled up with ``pad``, which counts in no loss.

    ``tokens`` is an integer tensor [tokens]; ``answers``, uint8 of the same shape, is what `Batch.answers` shows.
    """

    tokens: Tensor
    sequence: int
    answers: Tensor | None = None
    starts: Tensor | None = None
    lengths: Tensor | None = None
    pad: int = 0

    def __post_init__(self) -> None:
        if self.sequence < 1:
            raise ValueError(f"sequence must be at least 1, not {self.sequence}")
        if (self.starts is None) != (self.lengths is None):
            raise ValueError("rows by document need both starts and lengths")
        if self.answers is not None and self.answers.shape != self.tokens.shape:
            raise ValueError("answers and tokens differ in shape")
        if len(self) < 1:
            raise ValueError(f"{self.tokens.numel()} tokens give no row of {self.sequence + 1}")

    def __len__(self) -> int:
        return len(self.starts) if self.starts is not None else max(0, len(self.tokens) - 1) // self.sequence

    def take(self, indices: Tensor) -> Batch:
        """The rows ``indices`` (LongTensor [batch]) as a batch."""
        place = torch.arange(self.sequence + 1)
        if self.starts is None or self.lengths is None:
            at = indices[:, None] * self.sequence + place
            real = None
        else:
            last = self.lengths[indices][:, None] - 1
            at = self.starts[indices][:, None] + torch.minimum(place, last)
            real = place <= last
        tokens = self.tokens[at].long()
        answers = torch.zeros_like(at, dtype=torch.uint8) if self.answers is None else self.answers[at]
        inputs, targets, answers = tokens[:, :-1], tokens[:, 1:], answers[:, 1:]
        if real is not None:
            inputs = inputs.masked_fill(~real[:, :-1], self.pad)
            targets = targets.masked_fill(~real[:, 1:], IGNORED)
            answers = answers.masked_fill(~real[:, 1:], 0)
        return Batch(inputs.contiguous(), targets.contiguous(), answers.contiguous())

    def parts(self) -> tuple[Tensor | None, ...]:
        """The tensors that make up the content, for a fingerprint."""
        return self.tokens, self.answers, self.starts, self.lengths


@dataclass(frozen=True, eq=False)
class LanguageData:
    """A language-modelling data set, tokenised and split.

    Attributes:
        name: as the registry knows it.
        train, held_out: rows of tokens.
        tokenizer: a transformers fast tokenizer; ``len(tokenizer) == vocab_size``.
        sequence: predictions per row. For rows by document not longer than the longest document.
        source: ``generated``, ``bundled`` or ``real``.
        description: one or two sentences for people.
        details: what a record should keep beside the fingerprint (sizes, revision, Python version...).
        held_out_items: the held-out documents before tokenisation, as mappings, where documents are questions; read by
            the lm-eval bridge. Fields: ``query``, ``response``, ``answer`` and what the data set adds.
        fingerprint: hash of all tokens of both splits.
    """

    name: str
    train: TokenRows
    held_out: TokenRows
    tokenizer: PreTrainedTokenizerFast
    source: str
    description: str
    details: Mapping[str, Any] = field(default_factory=dict)
    held_out_items: Sequence[Mapping[str, Any]] = ()
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            mark = fingerprint(*self.train.parts(), *self.held_out.parts())
            object.__setattr__(self, "fingerprint", mark)

    @property
    def sequence(self) -> int:
        return self.train.sequence

    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)

    @property
    def train_rows(self) -> int:
        return len(self.train)

    @property
    def held_out_rows(self) -> int:
        return len(self.held_out)

    def train_order(self, steps: int, batch: int, seed: int) -> Tensor:
        """Indices of training rows, LongTensor [steps, batch]: each epoch a fresh shuffle.

        The same for every arm of a seed; a longer order starts with the shorter one.
        """
        return epochs(len(self.train), steps, batch, seed)

    def rows(self, indices: Tensor) -> Batch:
        """Training rows ``indices`` (LongTensor [batch])."""
        return self.train.take(indices)

    def held_out_batches(self, batches: int, batch: int) -> list[Batch]:
        """A fixed random sample of the held-out rows, the same for all arms and seeds, without repetition: fewer or
        smaller batches than asked for when there are not enough rows."""
        return [self.held_out.take(part) for part in _fixed_sample(len(self.held_out), batches * batch).split(batch)]

    def describe(self) -> dict[str, Any]:
        """What a record keeps about its data; JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "train_rows": len(self.train),
            "held_out_rows": len(self.held_out),
            "sequence": self.sequence,
            "vocab_size": self.vocab_size,
            **self.details,
        }


@dataclass(frozen=True, eq=False)
class TupleData:
    """A task on tuples of symbols: ``slots`` input symbols in, one of ``classes`` out. No order, no attention.

    Attributes:
        sizes: number of values of every input slot.
        train_inputs, held_out_inputs: LongTensor [rows, slots]. Slots have disjoint ids (``offsets`` added), so that
            one embedding table of ``vocab_size`` rows serves all slots: ``embedding(inputs).sum(1)``.
        train_targets, held_out_targets: LongTensor [rows], in ``range(classes)``.
        operations: chained operations that an answer needs; what `Batch.answers` holds.
    """

    name: str
    sizes: tuple[int, ...]
    classes: int
    train_inputs: Tensor
    train_targets: Tensor
    held_out_inputs: Tensor
    held_out_targets: Tensor
    operations: int
    description: str
    source: str = "generated"
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if not self.fingerprint:
            parts = (self.train_inputs, self.train_targets, self.held_out_inputs, self.held_out_targets)
            object.__setattr__(self, "fingerprint", fingerprint(*parts))

    @property
    def slots(self) -> int:
        return len(self.sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        return tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))

    @property
    def vocab_size(self) -> int:
        return sum(self.sizes)

    @property
    def sequence(self) -> int:
        return 1

    @property
    def train_rows(self) -> int:
        return len(self.train_targets)

    @property
    def held_out_rows(self) -> int:
        return len(self.held_out_targets)

    def train_order(self, steps: int, batch: int, seed: int) -> Tensor:
        """Indices of training rows, LongTensor [steps, batch], drawn independently with repetition.

        The same for every arm of a seed; a longer order starts with the shorter one.
        """
        generator = torch.Generator().manual_seed(order_seed("data order", seed))
        return torch.randint(self.train_rows, (steps, batch), generator=generator)

    def rows(self, indices: Tensor) -> Batch:
        """Training rows ``indices`` (LongTensor [batch])."""
        return self._batch(self.train_inputs[indices], self.train_targets[indices])

    def held_out_batches(self, batches: int, batch: int) -> list[Batch]:
        """A fixed random sample of the held-out rows, the same for all arms and seeds, without repetition."""
        parts = _fixed_sample(self.held_out_rows, batches * batch).split(batch)
        return [self._batch(self.held_out_inputs[part], self.held_out_targets[part]) for part in parts]

    def _batch(self, inputs: Tensor, targets: Tensor) -> Batch:
        return Batch(inputs, targets, torch.full(targets.shape, self.operations, dtype=torch.uint8))

    def describe(self) -> dict[str, Any]:
        """What a record keeps about its data; JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "train_rows": self.train_rows,
            "held_out_rows": self.held_out_rows,
            "classes": self.classes,
            "sizes": list(self.sizes),
            **self.details,
        }
