"""A small encoder of source code, pretrained here: transformers' RoBERTa on masked tokens of library functions, and on
telling two views of a function from those of others (as UniXcoder, arXiv 2203.03850, does with two dropouts): function
and description, function and twin, or a tree under two masks. Without it the mean states of all functions point the
same way.

checkpoint = pretrained(EncoderSpec(seed=0))  # built once, kept by content
encoder = loaded(spec, checkpoint)            # transformers.RobertaModel
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.base import order_seed
from repro.data.code import CodeData
from repro.data.stdlib_functions import SPECIAL, stdlib_functions
from repro.profiling.counts import count_step
from repro.training.checkpoints import Built, Checkpoint, Part, obtain
from repro.training.initial import generator, initialise
from repro.training.loop import Optimisation, train


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """Everything that decides a pretrained encoder.

    Args:
        layers, hidden, heads, width: of the encoder.
        length: tokens of a row in pretraining; the encoder reads rows up to twice as long.
        steps, batch, lr: of pretraining; AdamW, warm-up over a tenth, cosine decay. A batch holds two views
            of half as many functions.
        masked: share of the tokens that are predicted, of which 80 % are masked, 10 % exchanged, 10 % left.
        temperature: of the cosines by which views are told apart.
        described, trees: shares of the batches whose views are description and function, and a syntax tree under two
            masks; of the others they are a function and its last twin.
        files: of the standard library; 0: all.
        seed: of initial weights, order and masks.
    """

    layers: int = 6
    hidden: int = 64
    heads: int = 4
    width: int = 128
    length: int = 48
    steps: int = 1000
    batch: int = 32
    lr: float = 3e-3
    masked: float = 0.15
    temperature: float = 0.05
    described: float = 0.4
    trees: float = 0.2
    files: int = 0
    seed: int = 0


def fresh(spec: EncoderSpec, vocab_size: int) -> Any:
    """A `transformers.RobertaModel` without pooler, with the first weights of the seed and no dropout."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=vocab_size, hidden_size=spec.hidden, num_hidden_layers=spec.layers, num_attention_heads=spec.heads,
        intermediate_size=spec.width, max_position_embeddings=2 * spec.length + 2, type_vocab_size=1, pad_token_id=0,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = initialise(RobertaModel(config, add_pooling_layer=False), spec.seed)
    with torch.no_grad():
        model.get_parameter("embeddings.word_embeddings.weight")[config.pad_token_id] = 0
    return model


def encode(encoder: nn.Module, ids: Tensor, pad: int) -> Tensor:
    """Last hidden states [B, T, d] of token ids [B, T]; ``pad`` is not attended to."""
    return encoder(input_ids=ids, attention_mask=(ids != pad).long()).last_hidden_state


def hidden_states(encoder: nn.Module, ids: Tensor, pad: int) -> tuple[Tensor, ...]:
    """All hidden states, the embeddings' output first: L + 1 tensors [B, T, d]."""
    return encoder(input_ids=ids, attention_mask=(ids != pad).long(), output_hidden_states=True).hidden_states


def mean_pool(states: Tensor, ids: Tensor, pad: int) -> Tensor:
    """Mean [B, d] of hidden states [B, T, d] over the positions that are no padding."""
    real = (ids != pad).unsqueeze(-1).to(states.dtype)
    return (states * real).sum(1) / real.sum(1).clamp(min=1)


def masked_tokens(
    ids: Tensor, share: float, vocab_size: int, mask: int, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Inputs and the positions to predict (bool) for ids [B, T]; special tokens are never among these."""
    chosen = (torch.rand(ids.shape, generator=draw) < share) & (ids >= len(SPECIAL))
    way = torch.rand(ids.shape, generator=draw)
    other = torch.randint(len(SPECIAL), vocab_size, ids.shape, generator=draw)
    inputs = torch.where(chosen & (way < 0.8), mask, ids)
    return torch.where(chosen & (way >= 0.9), other, inputs), chosen


class MaskedModel(nn.Module):
    """An encoder with a head for masked tokens: a linear layer, GELU, norm, and the word embeddings once more."""

    def __init__(self, encoder: Any, seed: int):
        super().__init__()
        self.encoder = encoder
        hidden = encoder.config.hidden_size
        head = nn.ModuleDict({"dense": nn.Linear(hidden, hidden), "norm": nn.LayerNorm(hidden)})
        self.head = initialise(head, seed)
        self.bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))

    def forward(self, inputs: Tensor, chosen: Tensor, pad: int) -> tuple[Tensor, Tensor]:
        """Logits [chosen positions, vocabulary] and unit vectors [B, d]."""
        states = encode(self.encoder, inputs, pad)
        parts: Any = self.head
        logits = F.linear(
            parts["norm"](F.gelu(parts["dense"](states[chosen]))), self.encoder.embeddings.word_embeddings.weight,
            self.bias,
        )  # fmt: skip
        return logits, F.normalize(mean_pool(states, inputs, pad), dim=-1)


def pretraining_batches(data: CodeData, spec: EncoderSpec) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(inputs, chosen positions, ids) of every step, under the seed; the second half of a batch holds other views of
    the first. Raises ValueError for data without trees."""
    if data.analysis is None:
        raise ValueError(f"{data.name} has no syntax trees")
    draw = generator("masks", spec.seed)
    half = spec.batch // 2
    plain = data.order("train", "functions", spec.steps, half, spec.seed)
    told = data.order("train", "documented", spec.steps, half, order_seed("described", spec.seed) % 2**31)
    for step in range(spec.steps):
        kind = float(torch.rand((), generator=draw))
        if kind < spec.described:
            own = data.documented["train"][told[step]]
            ids = torch.cat([data.batch(source, own, spec.length) for source in (data.summary, data.code)])
        else:
            own = data.functions["train"][plain[step]]
            if kind < spec.described + spec.trees:
                ids = data.batch(data.analysis.tree, own, spec.length).repeat(2, 1)
            else:
                both = torch.cat([own, data.analysis.twins[own, -1]])
                ids = data.batch(data.code, both, spec.length)
        yield (*masked_tokens(ids, spec.masked, data.vocab_size, data.mask, draw), ids)


def pretrain(spec: EncoderSpec, device: str = "cpu", progress: Callable[..., None] = lambda *_: None) -> Built:
    """Weights of the encoder, and a card: ``loss`` and ``accuracy`` on masked tokens of validation functions, cost."""
    data = stdlib_functions(limit=spec.files or None)
    model = MaskedModel(fresh(spec, data.vocab_size), spec.seed).to(device)

    def loss(batch: Sequence[Tensor]) -> tuple[Tensor, None]:
        inputs, chosen, ids = (part.to(device) for part in batch)
        logits, vectors = model(inputs, chosen, data.pad)
        one, other = vectors.chunk(2)
        same = F.cross_entropy(one @ other.T / spec.temperature, torch.arange(len(one), device=device))
        return F.cross_entropy(logits, ids[chosen]) + same, None

    held_out = data.batch(data.code, data.functions["validation"][:256], spec.length)
    draw = generator("validation masks", 0)
    inputs, chosen = masked_tokens(held_out, spec.masked, data.vocab_size, data.mask, draw)

    def evaluate() -> dict[str, float]:
        logits, _ = model(inputs.to(device), chosen.to(device), data.pad)
        right = held_out[chosen].to(device)
        return {
            "loss": float(F.cross_entropy(logits, right)),
            "accuracy": float((logits.argmax(-1) == right).double().mean()),
        }

    sample = next(pretraining_batches(data, spec))
    _, step = count_step(model, lambda: loss(sample)[0])
    trained = train(
        model, pretraining_batches(data, spec), loss, evaluate, Optimisation(spec.lr, spec.steps, 0.1, "cosine"),
        evaluations=1, progress=progress,
    )  # fmt: skip
    card = {
        **trained.evaluations[-1],
        "train_tokens": spec.steps * spec.batch * spec.length,
        "train_flops": step * spec.steps,
        "train_s": trained.train_s,
        "diverged": trained.diverged,
        "vocab_size": data.vocab_size,
    }
    return Built(model.encoder.state_dict(), card)


def pretrained(
    spec: EncoderSpec,
    *,
    device: str = "cpu",
    progress: Callable[[int, int, float | None], None] = lambda *_: None,
    meanwhile: Sequence[EncoderSpec] = (),
) -> Checkpoint:
    """The encoder of a specification: from the cache folder, or trained now.

    ``meanwhile``: others that will be wanted later; trained while there is nothing to do but wait.
    """

    def part(one: EncoderSpec) -> Part:
        identity = {**asdict(one), "device": device.partition(":")[0]}
        return Part(f"code-encoder-{one.seed}", identity, lambda: pretrain(one, device, progress), __name__)

    (found,) = obtain([part(spec)], meanwhile=[part(other) for other in meanwhile])
    return found


def loaded(spec: EncoderSpec, checkpoint: Checkpoint) -> Any:
    """The encoder with the weights of a checkpoint, in evaluation mode."""
    model = fresh(spec, int(checkpoint.card["vocab_size"]))
    model.load_state_dict(checkpoint.state)
    return model.eval()
