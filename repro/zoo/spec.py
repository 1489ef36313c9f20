"""What a model of the zoo is: everything that decides its weights, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ZooSpec:
    """A small language model and its pretraining. Equal specifications are one model.

    Args:
        name: for people and for the folder's name.
        mixture: names of language data sets (`repro.data.registry`) with their shares of the rows; they need one
            tokenizer, which becomes the model's.
        data_options: per data set, options of its function.
        architecture: model type of transformers with a causal language model.
        hidden, layers, heads, kv_heads, width: d, blocks, query heads, key-value heads, feed-forward width.
        context: positions that the model is configured for; it is trained on ``sequence``.
        tied: whether the output layer is the embedding.
        options: further fields of the architecture's configuration.
        sequence, batch, steps: predictions of a row, rows of a step, steps.
        lr, warmup, schedule, weight_decay, clip: as in `repro.training.loop.Optimisation`.
        init_std: of all initial matrices.
        checkpoints: shares of the steps after which the weights are kept besides the last ones.
        floor: what the model has to beat on held-out rows of every part of its mixture to be kept: ``unigram``, token
            frequencies; ``uniform``, for models that only prove the machinery.
        eval_rows: held-out rows of every part that it is measured on.
        seed: of initial weights and data order.

    Raises:
        ValueError: for a checkpoint outside (0, 1).
    """

    name: str
    mixture: tuple[tuple[str, float], ...]
    data_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    architecture: str = "llama"
    hidden: int = 64
    layers: int = 10
    heads: int = 4
    kv_heads: int = 4
    width: int = 176
    context: int = 512
    tied: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    sequence: int = 128
    batch: int = 8
    steps: int = 1000
    lr: float = 6e-3
    warmup: float = 0.05
    schedule: str = "cosine"
    weight_decay: float = 0.01
    clip: float = 1.0
    init_std: float = 0.1
    checkpoints: tuple[float, ...] = ()
    floor: Literal["unigram", "uniform"] = "unigram"
    eval_rows: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if any(not 0 < share < 1 for share in self.checkpoints):
            raise ValueError(f"checkpoints are shares between 0 and 1, not {self.checkpoints}")

    def config(self, vocab: int) -> dict[str, Any]:
        """Fields of the architecture's configuration, with transformers' names."""
        return {
            "vocab_size": vocab,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.width,
            "max_position_embeddings": self.context,
            "tie_word_embeddings": self.tied,
            **self.options,
        }
