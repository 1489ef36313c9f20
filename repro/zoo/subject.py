"""The pretrained model that a run studies, from the zoo or from the hub, with its text.

subject = study(config, context)  # config: repro.zoo.options.ModelOptions or a subclass
tokens = calibration(subject.data, rows=64, batch=8, context=context)
Outcome(data=subject.describe(), profile=subject.profile())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from repro.data import recall, stdlib_text  # noqa: F401  what the zoo's model read is hashed with the run
from repro.data.base import LanguageData, order_seed
from repro.data.registry import load_language
from repro.profiling.counts import count_parameters
from repro.runner.outcome import Context
from repro.zoo.build import ZooModel, obtain
from repro.zoo.hub import hub_model
from repro.zoo.llama import RECALL
from repro.zoo.options import ModelOptions, zoo_spec


@dataclass(frozen=True)
class Subject:
    """A pretrained model with its text.

    Attributes:
        model: causal language model of transformers, in evaluation mode on the run's device.
        tokenizer: its own.
        data: what the run studies or learns.
        name: ``zoo``, hub id or folder.
        zoo: what the zoo knows of it; None for a model from elsewhere.
    """

    model: Any
    tokenizer: Any
    data: LanguageData
    name: str
    zoo: ZooModel | None

    def describe(self) -> dict[str, Any]:
        """What a record keeps about data and model; flat, JSON."""
        return self.data.describe() | (self.zoo.describe() if self.zoo else {"model": self.name})

    def profile(self) -> dict[str, float]:
        """What the pretraining cost, as `ZooModel.profile`; no ``train_tokens`` of a model from elsewhere; parameters
        as the model is now."""
        cost = self.zoo.profile() if self.zoo else {"train_tokens": 0.0}
        return cost | {"params_total": count_parameters(self.model)["params_total"]}


def study(options: ModelOptions, context: Context, recipes: Mapping[str, Mapping[str, Any]] | None = None) -> Subject:
    """The model of a run: one of the zoo, pretrained under the run's seed, or a pretrained one by hub id or folder.

    Args:
        recipes: the paper's own ways to train the zoo's model: fields of `ZooSpec` by name.

    Raises:
        MissingData: when a hub model or its data cannot be had.
        ZooError: when a model of the zoo did not learn.
        ValueError: for an unknown recipe.
    """
    if options.model == "zoo":
        others = [replace(options, recipe=name) for name in options.recipes.split() if name != options.recipe]
        found = obtain(
            zoo_spec(options, context.seed, recipes), device=context.device, progress=context.progress,
            meanwhile=[zoo_spec(other, context.seed, recipes) for other in others],
        )  # fmt: skip
        return Subject(found.model(device=context.device), found.tokenizer(), text(options), "zoo", found)
    model = hub_model(options.model, dtype=options.dtype, device=context.device)
    data = text(options)
    return Subject(model, data.tokenizer, data, options.model, None)


def text(options: ModelOptions, name: str = "") -> LanguageData:
    """A data set in the subject's tokens; ``name``: another than the options'. Raises as `load_language`."""
    name = name or options.data
    if options.model != "zoo":
        return load_language(name, options.sequence, tokenizer=options.model, limit=options.limit or None)
    given: dict[str, Any] = {}
    if options.files:
        given = {"files" if name == RECALL else "limit": options.files}
    return load_language(name, options.sequence, **given)


def calibration(data: LanguageData, rows: int, batch: int, context: Context, draw: int = 0) -> list[Tensor]:
    """Calibration tokens, int64 ``[batch, T]`` each: training rows drawn under the run's seed, on its device.

    ``draw``: another sample of the same seed.
    """
    generator = torch.Generator().manual_seed(order_seed(f"calibration {draw}", context.seed))
    chosen = torch.randperm(len(data.train), generator=generator)[:rows]
    return [data.rows(part).inputs.to(context.device) for part in chosen.split(batch)]
