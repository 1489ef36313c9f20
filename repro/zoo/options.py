"""Which pretrained model a paper studies, on which text: fields that their configurations share. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repro.zoo.llama import stdlib_llama
from repro.zoo.spec import ZooSpec


@dataclass(frozen=True)
class ModelOptions:
    """Base of a paper's configuration. Of the zoo's model, what is 0 or empty is as the zoo has it.

    Args:
        data: language data set that is studied or learned.
        model: ``zoo``, a hub id with or without ``@`` and a revision, or a folder that ``save_pretrained`` wrote.
        sequence: predictions of a row.
        recipe: how the zoo's model is trained, one of the paper's own; empty: as the zoo has it.
        recipes: all that the runs of a seed need, separated by spaces; a run that has to wait for one builds another.
        layers, hidden, heads, kv_heads, width: of the zoo's model.
        base_steps, base_lr, base_init_std, base_sequence: of its pretraining.
        files: of the standard library that are read; 0: all.
        floor: what the zoo's model must beat: ``unigram`` or ``uniform``.
        dtype: of a model from the hub.
        limit: items of the hub's data that are read; 0: all.
    """

    data: str = "stdlib-bpe"
    model: str = "zoo"
    sequence: int = 128
    recipe: str = ""
    recipes: str = ""
    layers: int = 0
    hidden: int = 0
    heads: int = 0
    kv_heads: int = 0
    width: int = 0
    base_steps: int = 0
    base_lr: float = 0.0
    base_init_std: float = 0.0
    base_sequence: int = 0
    files: int = 0
    floor: str = "unigram"
    dtype: str = "float32"
    limit: int = 0


#: The zoo's model in seconds, for runs that only prove the machinery.
SMALLEST: dict[str, Any] = {
    "hidden": 16, "heads": 2, "kv_heads": 2, "width": 32, "base_steps": 60, "base_lr": 1e-2, "base_sequence": 64,
    "sequence": 64, "files": 40, "floor": "uniform",
}  # fmt: skip
_SHAPE = ("layers", "hidden", "heads", "kv_heads", "width")
_TRAINING = ("steps", "lr", "init_std", "sequence")


def zoo_spec(options: ModelOptions, seed: int, recipes: Mapping[str, Mapping[str, Any]] | None = None) -> ZooSpec:
    """The specification of the zoo's model that the options ask for; a recipe's fields yield to the options' own.

    Args:
        recipes: fields of `ZooSpec` by recipe.

    Raises ValueError for a recipe that is not among them.
    """
    known = {"": {}, **(recipes or {})}
    if options.recipe not in known:
        raise ValueError(f"recipe is one of {', '.join(filter(None, known))}, not {options.recipe!r}")
    changes = dict(known[options.recipe])
    changes |= {name: value for name in _SHAPE if (value := getattr(options, name))}
    changes |= {name: value for name in _TRAINING if (value := getattr(options, f"base_{name}"))}
    if options.floor != "unigram":
        changes["floor"] = options.floor
    return stdlib_llama(seed, files=options.files, **changes)
