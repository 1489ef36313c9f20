"""LLM-Drop (arXiv 2406.15786): rank the sublayers of a pre-norm decoder by how little they turn the residual stream,
and delete those that turn it least.

    y = x + F(Norm(x))                                  F one sublayer: attention or MLP, with its own norm
    S = 1 - mean over tokens of cos(x, y)               importance, on calibration text, in float32

A low S says that the sublayer hardly changes the direction of what passes it. All scores are measured once, on the
intact model (one-shot); the n sublayers with the highest similarity 1 - S are then dropped together: Attention Drop,
MLP Drop, Block Drop (both sublayers of a block, scored from the block's input to its output), Joint Layer Drop
(attentions and MLPs in one list). A dropped sublayer is the identity on the residual stream: no norm, no weights, no
slot in the KV cache.

Works on any transformers causal language model whose blocks have Llama's four parts (``input_layernorm``,
``self_attn``, ``post_attention_layernorm``, ``mlp``) in Llama's order: Llama, Mistral, Qwen2, Qwen3 and the like.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["attention", "mlp", "block", "joint", "run"]
KINDS = ("attention", "mlp", "block", "joint", "run")
PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")


def blocks(model: Any) -> list[Any]:
    """The blocks of a model, in order. Raises ValueError for a model that is not built like Llama."""
    found = getattr(getattr(model, "model", model), "layers", None)
    layers = [] if found is None else list(found)
    names = [sorted(name for name, _ in layer.named_children() if "norm" in name) for layer in layers]
    if not layers or any(not hasattr(layer, part) for layer in layers for part in PARTS):
        raise ValueError(f"{type(model).__name__} has no blocks with {', '.join(PARTS)}")
    if any(name != ["input_layernorm", "post_attention_layernorm"] for name in names):
        raise ValueError(f"the blocks of {type(model).__name__} have further norms: the scores are for pre-norm ones")
    return layers


# --- scores ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Similarity:
    """Mean cosine of what enters and what leaves: per attention, MLP and block, each ``[L]``; S is 1 minus it.

    ``run[g]``, ``[L - g + 1]``: of what enters block i and what leaves block i + g - 1.
    """

    attention: Tensor
    mlp: Tensor
    block: Tensor
    run: dict[int, Tensor] = field(default_factory=dict)


@torch.no_grad()
def similarities(model: Any, batches: Iterable[Tensor], runs: Sequence[int] = ()) -> Similarity:
    """Similarities of every sublayer and block on calibration tokens.

    Args:
        batches: token ids ``[B, T]``, without padding, on the model's device.
        runs: lengths g of consecutive blocks to score as one.

    Returns:
        Means over all tokens; float64, from cosines in float32. Of a sublayer that is dropped already: 1.
    """
    layers = blocks(model)
    count, depth = 0, len(layers)
    total = {name: torch.zeros(depth, dtype=torch.float64) for name in ("attention", "mlp", "block")}
    of_runs = {g: torch.zeros(max(0, depth - g + 1), dtype=torch.float64) for g in runs}
    recent: deque[Tensor] = deque(maxlen=max(runs, default=0) + 1)  # what entered the last blocks, newest last
    entered: dict[str, Tensor] = {}

    def cosine(x: Tensor, y: Tensor) -> float:
        return F.cosine_similarity(x, y, dim=-1).double().sum().item()

    def remember(name: str) -> Any:
        def hook(_module: Any, args: tuple[Any, ...]) -> None:
            entered[name] = args[0].float()

        return hook

    def compare(name: str, index: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            update = output[0] if isinstance(output, tuple) else output
            x = entered[name]
            total[name][index] += cosine(x, x + update.float())  # the residual belongs to the output

        return hook

    def block_done(index: int) -> Any:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            x, y = entered["attention"], (output[0] if isinstance(output, tuple) else output).float()
            total["block"][index] += cosine(x, y)
            if runs:
                recent.append(x)
                for g in runs:
                    if index + 1 >= g:
                        of_runs[g][index + 1 - g] += cosine(recent[-g], y)

        return hook

    handles = []
    for index, layer in enumerate(layers):
        handles += [
            layer.input_layernorm.register_forward_pre_hook(remember("attention")),
            layer.self_attn.register_forward_hook(compare("attention", index)),
            layer.post_attention_layernorm.register_forward_pre_hook(remember("mlp")),
            layer.mlp.register_forward_hook(compare("mlp", index)),
            layer.register_forward_hook(block_done(index)),
        ]
    try:
        for ids in batches:
            model(input_ids=ids, use_cache=False)
            count += ids.numel()
            recent.clear()
    finally:
        for handle in handles:
            handle.remove()
    if not count:
        raise ValueError("no calibration tokens")
    means = {name: sums / count for name, sums in total.items()}
    return Similarity(means["attention"], means["mlp"], means["block"], {g: s / count for g, s in of_runs.items()})


# --- selection ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dropped:
    """Which sublayers are gone: indices of blocks, in rising order."""

    attention: tuple[int, ...] = ()
    mlp: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("attention", "mlp"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))

    def __len__(self) -> int:
        return len(self.attention) + len(self.mlp)

    def __or__(self, other: Dropped) -> Dropped:
        return Dropped(self.attention + other.attention, self.mlp + other.mlp)


def _top(scores: Tensor, n: int) -> list[int]:
    """Indices of the n highest, ties to the lower index."""
    if not 0 <= n <= len(scores):
        raise ValueError(f"cannot drop {n} of {len(scores)}")
    return scores.argsort(descending=True, stable=True)[:n].tolist()


def choose(similarity: Similarity, n: int, kind: Kind = "attention") -> Dropped:
    """One-shot selection of the n most similar: attentions, MLPs, blocks, sublayers of either type (``joint``), or one
    run of n consecutive blocks (``run``; `similarities` must have scored that length).

    Raises ValueError when there are not n of them, or for an unknown kind.
    """
    depth = len(similarity.attention)
    if kind == "attention":
        return Dropped(attention=tuple(_top(similarity.attention, n)))
    if kind == "mlp":
        return Dropped(mlp=tuple(_top(similarity.mlp, n)))
    if kind == "block":
        found = tuple(_top(similarity.block, n))
        return Dropped(found, found)
    if kind == "joint":
        return _split(_top(torch.cat([similarity.attention, similarity.mlp]), n), depth)
    if kind == "run":
        if n and n not in similarity.run:
            raise ValueError(f"runs of {n} blocks were not scored")
        start = int(similarity.run[n].argmax()) if n else 0
        return Dropped(tuple(range(start, start + n)), tuple(range(start, start + n)))
    raise ValueError(f"kind is one of {', '.join(KINDS)}, not {kind!r}")


def choose_random(depth: int, n: int, kind: Kind, draw: random.Random) -> Dropped:
    """The control that the paper lacks: n of them at random. Raises ValueError when there are not n."""
    pool = 2 * depth if kind == "joint" else depth
    if not 0 <= n <= pool:
        raise ValueError(f"cannot drop {n} of {pool}")
    if kind == "run":
        start = draw.randint(0, depth - n)
        found = tuple(range(start, start + n))
        return Dropped(found, found)
    picked = draw.sample(range(pool), n)
    if kind == "joint":
        return _split(picked, depth)
    found = tuple(picked)
    return Dropped(found if kind != "mlp" else (), found if kind != "attention" else ())


def _split(places: Sequence[int], depth: int) -> Dropped:
    """Places in the list of all attentions, then all MLPs."""
    return Dropped(tuple(i for i in places if i < depth), tuple(i - depth for i in places if i >= depth))


def iterative(model: Any, batches: Sequence[Tensor], n: int, kind: Kind = "attention") -> Iterator[Dropped]:
    """The released code's other variant: drop the most similar one, measure again on what is left, n times over.

    Gives what is dropped after each round. Kinds ``attention``, ``mlp``, ``block`` and ``joint``.
    """
    gone = Dropped()
    for _ in range(n):
        with without(model, gone):
            found = similarities(model, batches)
        for index in gone.attention:
            found.attention[index] = -math.inf
        for index in gone.mlp:
            found.mlp[index] = -math.inf
        for index in set(gone.attention) & set(gone.mlp):
            found.block[index] = -math.inf
        gone |= choose(found, 1, kind)
        yield gone


# --- the dropped model ----------------------------------------------------------------------------------------


class NoSublayer(nn.Module):
    """Stands where a sublayer was: adds nothing to the residual stream, holds nothing."""

    def __init__(self, attention: bool):
        super().__init__()
        self.attention = attention

    def forward(self, hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
        """A zero that broadcasts; for an attention with no attention weights beside it."""
        nothing = hidden_states.new_zeros(())
        return (nothing, None) if self.attention else nothing


def drop(model: Any, dropped: Dropped) -> Any:
    """Drop sublayers in place, keep the list in ``model.config``, give every surviving attention the next KV slot.

    Raises:
        ValueError: for an index that is not there, a model that is not built like Llama, or one that mixes kinds of
            attention (sliding and full): its cache slots are of different kinds and cannot be moved.
    """
    layers = blocks(model)
    for index in (*dropped.attention, *dropped.mlp):
        if not 0 <= index < len(layers):
            raise ValueError(f"there is no block {index}: the model has {len(layers)}")
    kinds = getattr(model.config, "layer_types", None)
    if dropped.attention and kinds and len(set(kinds)) > 1:
        raise ValueError(f"the attentions of this model are of several kinds: {', '.join(sorted(set(kinds)))}")
    for index in dropped.attention:
        layers[index].input_layernorm = nn.Identity()
        layers[index].self_attn = NoSublayer(attention=True)
    for index in dropped.mlp:
        layers[index].post_attention_layernorm = nn.Identity()
        layers[index].mlp = NoSublayer(attention=False)
    _number_slots(layers)
    gone = dropped_of(model)
    model.config.drop_attn_list = list(gone.attention)  # names as in the released checkpoints
    model.config.drop_mlp_list = list(gone.mlp)
    return model


def dropped_of(model: Any) -> Dropped:
    """What a model has dropped."""
    layers = blocks(model)
    return Dropped(
        tuple(i for i, layer in enumerate(layers) if isinstance(layer.self_attn, NoSublayer)),
        tuple(i for i, layer in enumerate(layers) if isinstance(layer.mlp, NoSublayer)),
    )


def _number_slots(layers: list[Any]) -> None:
    attentions = [layer.self_attn for layer in layers if not isinstance(layer.self_attn, NoSublayer)]
    for slot, attention in enumerate(attentions):
        attention.layer_idx = slot


@contextlib.contextmanager
def without(model: Any, dropped: Dropped) -> Iterator[Any]:
    """The model with sublayers dropped, inside the block; afterwards as it was."""
    layers = blocks(model)
    kept = [{part: getattr(layer, part) for part in PARTS} for layer in layers]
    lists = {name: getattr(model.config, name, None) for name in ("drop_attn_list", "drop_mlp_list")}
    try:
        yield drop(model, dropped)
    finally:
        for layer, parts in zip(layers, kept, strict=True):
            for part, module in parts.items():
                setattr(layer, part, module)
        _number_slots(layers)
        for name, value in lists.items():
            if value is None and hasattr(model.config, name):
                delattr(model.config, name)
            elif value is not None:
                setattr(model.config, name, value)


def kv_cache(model: Any) -> Any:
    """An empty KV cache with as many slots as attentions survive, for ``past_key_values=``.

    Without it transformers makes one slot a block; the last ones then stay empty and hold no memory either.
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    del cache.layers[len(blocks(model)) - len(dropped_of(model).attention) :]
    return cache


def load_dropped(folder: str | Path, **options: Any) -> Any:
    """A model that was saved with sublayers dropped (``save_pretrained``), or a checkpoint that the authors released.

    ``folder``: a local folder or hub id; ``options``: as of ``from_pretrained``. The weights that are missing must be
    those of the dropped sublayers. Raises ValueError when others are missing.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    options.setdefault("trust_remote_code", False)
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it would warn of every dropped weight
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    finally:
        logging.set_verbosity(level)
    model, found = loaded
    # the released configurations hold one truth value a block, or indices
    lists = [_indices(getattr(model.config, name, None)) for name in ("drop_attn_list", "drop_mlp_list")]
    drop(model, Dropped(*lists))
    absent = set(found["missing_keys"]) & set(model.state_dict())
    if absent:
        raise ValueError(f"{folder} lacks weights that are not dropped: {', '.join(sorted(absent)[:3])}")
    return model.eval()


def _indices(listed: Sequence[int | bool] | None) -> tuple[int, ...]:
    if not listed:
        return ()
    return tuple(i for i, gone in enumerate(listed) if gone) if isinstance(listed[0], bool) else tuple(map(int, listed))


def degradation_ratio(score_lost: float, speedup: float) -> float:
    """gamma, the paper's speed-up degradation ratio: points of average score lost per percent of speed gained.

    ``speedup`` is a factor, 1.48 for 48 %. Infinite when nothing is gained.
    """
    return score_lost / (100 * (speedup - 1)) if speedup != 1 else math.inf
