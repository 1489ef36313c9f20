"""Tasks to fine-tune a code encoder on: search by description, detection of clones, and completion of names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.base import order_seed
from repro.data.code import CodeData
from repro.evaluation.retrieval import ranks, recall_at, reciprocal_rank
from repro.training.code_encoder import encode, mean_pool
from repro.training.initial import initialise
from repro.training.loop import Optimisation, Trained, train


class Task(Protocol):
    """A task on a model that holds its encoder as ``encoder``.

    Attributes:
        kind: which order of `CodeData.order` its batches follow: ``documented``, ``pairs`` or ``names``.
    """

    kind: str

    def batch(self, rows: Tensor, split: str) -> tuple[Tensor, ...]:
        """What the loss reads, of the rows of a split."""
        ...

    def loss(self, model: Any, batch: tuple[Tensor, ...]) -> Tensor:
        """Of a batch."""
        ...

    def evaluate(self, model: Any, split: str, limit: int) -> dict[str, float]:
        """``loss`` and ``quality`` (0 to 100, higher is better) on a fixed sample of ``limit`` rows."""
        ...


class TaskModel(nn.Module):
    """An encoder with a task's head, which may be empty."""

    def __init__(self, encoder: nn.Module, head: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.head = head


def _sample(count: int, limit: int) -> Tensor:
    if not count:
        raise ValueError("no rows to evaluate on")
    generator = torch.Generator().manual_seed(order_seed("evaluated rows", 0))
    return torch.randperm(count, generator=generator)[: limit or count]


@dataclass
class Search:
    """Code search: one encoder reads descriptions and functions, vectors are means of last hidden states, and every
    description has to find its function among those of the batch (cross-entropy of cosines over ``temperature``).

    Quality: mean reciprocal rank in percent, of all functions evaluated.
    """

    data: CodeData
    code_length: int
    query_length: int
    temperature: float = 0.05
    device: str = "cpu"
    kind: str = "documented"

    def batch(self, rows: Tensor, split: str) -> tuple[Tensor, ...]:
        """Descriptions [B, query length] and functions [B, code length]."""
        own = self.data.documented[split][rows]
        pair = (self.data.summary, self.query_length), (self.data.code, self.code_length)
        return tuple(self.data.batch(source, own, length).to(self.device) for source, length in pair)

    def vectors(self, model: Any, ids: Tensor) -> Tensor:
        """Unit vectors [B, d]."""
        pad = self.data.pad
        return F.normalize(mean_pool(encode(model.encoder, ids, pad), ids, pad), dim=-1)

    def loss(self, model: Any, batch: tuple[Tensor, ...]) -> Tensor:
        queries, codes = (self.vectors(model, ids) for ids in batch)
        return F.cross_entropy(queries @ codes.T / self.temperature, torch.arange(len(codes), device=codes.device))

    @torch.no_grad()
    def evaluate(self, model: Any, split: str, limit: int) -> dict[str, float]:
        parts = _sample(len(self.data.documented[split]), limit).split(64)
        pairs = [[self.vectors(model, ids) for ids in self.batch(part, split)] for part in parts]
        queries, codes = (torch.cat(side) for side in zip(*pairs, strict=True))
        scores = queries @ codes.T
        found = ranks(scores)
        loss = F.cross_entropy(scores / self.temperature, torch.arange(len(codes), device=codes.device))
        return {
            "loss": float(loss),
            "quality": 100 * reciprocal_rank(found),
            **{f"recall_{k}": 100 * recall_at(found, k) for k in (1, 5, 10)},
        }


@dataclass
class Clones:
    """Clone detection: a head reads the vectors u, v of two functions (means of last hidden states) as
    [u, v, |u - v|] and says whether they do the same. Quality: F1 of clones in percent."""

    data: CodeData
    code_length: int
    device: str = "cpu"
    kind: str = "pairs"

    def batch(self, rows: Tensor, split: str) -> tuple[Tensor, ...]:
        """Left and right functions [B, code length], labels [B]."""
        pairs = self.data.pairs[split]
        sides = (self.data.batch(self.data.code, side[rows], self.code_length) for side in (pairs.left, pairs.right))
        return tuple(part.to(self.device) for part in (*sides, pairs.labels[rows]))

    def logits(self, model: Any, left: Tensor, right: Tensor) -> Tensor:
        """[B, 2]."""
        ids = torch.cat([left, right])
        u, v = mean_pool(encode(model.encoder, ids, self.data.pad), ids, self.data.pad).chunk(2)
        return model.head(torch.cat([u, v, (u - v).abs()], -1))

    def loss(self, model: Any, batch: tuple[Tensor, ...]) -> Tensor:
        left, right, labels = batch
        return F.cross_entropy(self.logits(model, left, right), labels)

    @torch.no_grad()
    def evaluate(self, model: Any, split: str, limit: int) -> dict[str, float]:
        parts = _sample(len(self.data.pairs[split].labels), limit).split(64)
        batches = [self.batch(part, split) for part in parts]
        logits = torch.cat([self.logits(model, left, right) for left, right, _ in batches])
        labels = torch.cat([labels for *_, labels in batches])
        said, right = logits.argmax(-1) == 1, labels == 1
        hits = float((said & right).sum())
        return {
            "loss": float(F.cross_entropy(logits, labels)),
            "quality": 200 * hits / max(1.0, float(said.sum() + right.sum())),
            "accuracy": 100 * float((said == right).double().mean()),
        }


def clone_head(hidden: int, seed: int) -> nn.Module:
    """Two layers with tanh between: 3 d -> d -> 2; initial weights of the seed."""
    return initialise(nn.Sequential(nn.Linear(3 * hidden, hidden), nn.Tanh(), nn.Linear(hidden, 2)), seed, std=0.05)


@dataclass
class Completion:
    """Completion: which name comes next, its first token over the whole vocabulary, from the code before it. A mask
    stands for the name, and nothing of what follows is shown; the head reads the mask's last hidden state.

    Quality: exact match in percent.
    """

    data: CodeData
    code_length: int
    device: str = "cpu"
    kind: str = "names"

    def batch(self, rows: Tensor, split: str) -> tuple[Tensor, ...]:
        """Code before the names, cut from the left, then a mask [B, code length]; places of the masks [B]; names
        [B]."""
        data, (functions, places) = self.data, self.data.names[split]
        own, places = functions[rows], places[rows]
        room = self.code_length - len(data.first) - len(data.last) - 1
        if room < 1:
            raise ValueError(f"{self.code_length} tokens leave no room for text")
        shown = places.clamp(max=room)
        starts = (data.code.lengths.cumsum(0) - data.code.lengths)[own] + places
        at = starts[:, None] - shown[:, None] + torch.arange(room)
        code = data.code.values[at.clamp(max=len(data.code.values) - 1)].long()
        text = torch.where(torch.arange(room) < shown[:, None], code, data.pad)
        ids = torch.full((len(rows), self.code_length), data.pad)
        ids[:, : len(data.first)] = torch.tensor(data.first)
        ids[:, len(data.first) : len(data.first) + room] = text
        masks = len(data.first) + shown
        for step, token in enumerate((data.mask, *data.last)):
            ids[torch.arange(len(rows)), masks + step] = token
        return tuple(part.to(self.device) for part in (ids, masks, data.code.values[starts].long()))

    def logits(self, model: Any, ids: Tensor, masks: Tensor) -> Tensor:
        """[B, vocabulary]."""
        states = encode(model.encoder, ids, self.data.pad)[torch.arange(len(ids), device=ids.device), masks]
        return model.head(states, model.encoder.get_input_embeddings().weight)

    def loss(self, model: Any, batch: tuple[Tensor, ...]) -> Tensor:
        ids, masks, names = batch
        return F.cross_entropy(self.logits(model, ids, masks), names)

    @torch.no_grad()
    def evaluate(self, model: Any, split: str, limit: int) -> dict[str, float]:
        parts = _sample(len(self.data.names[split].rows), limit).split(64)
        batches = [self.batch(part, split) for part in parts]
        logits = torch.cat([self.logits(model, ids, masks) for ids, masks, _ in batches])
        names = torch.cat([names for *_, names in batches])
        best = logits.topk(5).indices == names[:, None]
        return {
            "loss": float(F.cross_entropy(logits, names)),
            "quality": 100 * float(best[:, 0].double().mean()),
            "recall_5": 100 * float(best.any(1).double().mean()),
        }


class NameHead(nn.Module):
    """A linear layer, GELU and norm, then the encoder's own token embeddings as output table, with a bias; initial
    weights of the seed. What is frozen of the embeddings is frozen in the table."""

    def __init__(self, hidden: int, vocab_size: int, seed: int):
        super().__init__()
        layers = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.LayerNorm(hidden))
        self.layers = initialise(layers, seed)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, states: Tensor, table: Tensor) -> Tensor:
        """Logits [B, vocabulary] of states [B, d]."""
        return F.linear(self.layers(states), table, self.bias)


class Tuned(NamedTuple):
    """``trained``: curves on validation; ``best``: the evaluation whose weights the model has now."""

    trained: Trained
    best: dict[str, float]


def tune(
    model: TaskModel,
    task: Task,
    order: Tensor,
    optimisation: Optimisation,
    *,
    evaluations: int,
    validation: int,
    dtype: str = "float32",
    progress: Callable[[int, int, float | None], None] = lambda *_: None,
) -> Tuned:
    """Train on the rows of ``order`` [steps, batch]; keep the weights with the best quality on validation rows.

    What is frozen stays as it is; nothing is changed in what is trainable.
    """
    kept: dict[str, Tensor] = {}
    best: dict[str, float] = {"quality": -1.0}

    def evaluate() -> dict[str, float]:
        found = task.evaluate(model, "validation", validation)
        if found["quality"] > best["quality"]:
            best.update(found)
            kept.update((n, p.detach().clone()) for n, p in model.named_parameters() if p.requires_grad)
        return found

    batches: Iterator[tuple[Tensor, ...]] = (task.batch(rows, "train") for rows in order)
    trained = train(
        model, batches, lambda batch: (task.loss(model, batch), None), evaluate, optimisation, evaluations=evaluations,
        dtype=dtype, progress=progress,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])
    return Tuned(trained, best)
