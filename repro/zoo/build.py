"""Building a model of the zoo, keeping it, finding it again."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from repro.data.base import IGNORED, Batch, LanguageData
from repro.data.cache import cache_dir
from repro.data.kept import Folder, keep
from repro.data.mixture import mix
from repro.data.registry import load_language, module_of
from repro.records.provenance import code_hash, run_key
from repro.runner.outcome import Context
from repro.training.fit import evaluate, fit
from repro.training.initial import initialise
from repro.training.loop import Optimisation
from repro.zoo.hub import no_bars
from repro.zoo.spec import ZooSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class ZooError(RuntimeError):
    """A model that did not learn what its specification asks for, or cannot be read."""


@dataclass(frozen=True)
class ZooModel:
    """A pretrained model on disk, in the layout of `transformers`.

    Attributes:
        folder: ``from_pretrained`` reads it, tokenizer included; checkpoints lie in sub-folders.
        card: what was measured when it was built: see `describe`, and ``curves`` of its training.
        built: whether this call built it.
    """

    folder: Path
    card: dict[str, Any]
    built: bool

    def model(self, at: float = 1.0, device: str = "cpu") -> PreTrainedModel:
        """The model after a share of its training, in evaluation mode. Raises ZooError for one that was not kept."""
        from transformers import AutoModelForCausalLM

        folder = self.folder if at == 1.0 else self.folder / _part(at)
        if not folder.is_dir():
            raise ZooError(f"{self.card['name']} keeps {self.card['checkpoints']} of its training, not {at:g}")
        with no_bars():
            found: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        return found.to(device).eval()

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Its tokenizer."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(self.folder)

    def describe(self) -> dict[str, Any]:
        """What a record keeps about the model it used: name, key, and held-out loss per part of its mixture, in nats
        (on marked answers where a part has any); flat, JSON."""
        held_out = self.card["held_out"].items()
        losses = {f"model_loss_{name}": round(found.get("answer_loss", found["loss"]), 4) for name, found in held_out}
        return {"model": self.card["name"], "model_key": self.card["key"], "model_seed": self.card["seed"], **losses}

    def profile(self) -> dict[str, float]:
        """What the pretraining cost, whoever paid it: tokens, FLOPs, seconds of the building run, parameters; and
        ``zoo_built``, 1 in the run that did build it."""
        kept = ("train_tokens", "train_flops", "params_total")
        out = {name: float(self.card["profile"][name]) for name in kept}
        return out | {"pretrain_s": float(self.card["profile"]["train_s"]), "zoo_built": float(self.built)}


def zoo_key(spec: ZooSpec, device: str = "cpu") -> str:
    """Content address: hash of the specification, of the code that trains and of the data sets' code, and of what else
    decides the weights: Python (whose library is read), torch and the kind of device."""
    sources = tuple(source for name, _ in spec.mixture if (source := module_of(name)))
    return run_key(
        {
            "spec": asdict(spec),
            "code": code_hash(__name__, also=sources),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "device": device.partition(":")[0],
        }
    )


def obtain(
    spec: ZooSpec,
    *,
    device: str = "cpu",
    progress: Callable[[int, int, float | None], None] = lambda *_: None,
    meanwhile: Sequence[ZooSpec] = (),
) -> ZooModel:
    """The model of a specification: from the cache folder, or built now and put there.

    Of several processes that ask for one model at the same time one builds and the others wait. What is built appears
    whole or not at all, and one that is damaged is built again.

    Args:
        progress: as in `repro.runner.outcome.Context`.
        meanwhile: models that will be wanted later: a process that has to wait builds one of these instead of idling.

    Raises:
        ZooError: when the model does not reach its floor; nothing is kept then.
        UnknownData, MissingData: as the data sets of its mixture.
    """

    def waiting(done: int, wanted: int) -> None:
        if done < wanted:
            progress(0, spec.steps, None)

    def folder(one: ZooSpec) -> Folder:
        place = cache_dir() / "zoo" / f"{one.name}-{zoo_key(one, device)}"
        return Folder(place, lambda work: _build(one, device, work, progress))

    (found,) = keep([folder(spec)], meanwhile=[folder(other) for other in meanwhile], progress=waiting)
    return ZooModel(found.place, found.card, found.made)


def data_of(spec: ZooSpec) -> tuple[LanguageData, list[LanguageData]]:
    """The mixture that a model is trained on, and its parts."""
    parts = [load_language(name, spec.sequence, **dict(spec.data_options.get(name, {}))) for name, _ in spec.mixture]
    shares = [share for _, share in spec.mixture]
    return mix(list(zip(parts, shares, strict=True)), name="+".join(part.name for part in parts)), parts


@torch.no_grad()
def unigram_loss(data: LanguageData, batches: list[Batch], answers_only: bool = False) -> float:
    """Cross-entropy in nats per held-out target of a model that knows only how often each token is in the training
    stream (each counted once more than it occurs, so that none is impossible). ``answers_only``: on answers."""
    counts = torch.bincount(data.train.tokens.long(), minlength=data.vocab_size).double() + 1
    logp = (counts / counts.sum()).log()
    total, number = 0.0, 0
    for batch in batches:
        chosen = batch.targets[(batch.answers > 0) if answers_only else (batch.targets != IGNORED)].cpu()
        total -= float(logp[chosen].sum())
        number += len(chosen)
    if not number:
        raise ValueError(f"the held-out batches of {data.name} have no such target")
    return total / number


def _part(at: float) -> str:
    return f"at-{round(100 * at):02d}"


@no_bars()
def _build(
    spec: ZooSpec, device: str, folder: Path, progress: Callable[[int, int, float | None], None]
) -> dict[str, Any]:
    """Train a model, write it into a folder, and return its card."""
    from transformers import AutoConfig, AutoModelForCausalLM

    data, parts = data_of(spec)
    tokenizer = data.tokenizer
    special = {
        "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }  # fmt: skip
    config = AutoConfig.for_model(spec.architecture, **spec.config(data.vocab_size), **special)
    model: Any = AutoModelForCausalLM.from_config(config)
    initialise(model, spec.seed, std=spec.init_std)
    model.to(device)
    marks = {round(share * spec.steps): share for share in spec.checkpoints}

    def keep(step: int) -> None:
        if step in marks:
            model.save_pretrained(folder / _part(marks[step]))

    outcome, _ = fit(
        model,
        data,
        Optimisation(
            spec.lr, spec.steps, spec.warmup, spec.schedule, weight_decay=spec.weight_decay, clip=spec.clip
        ),
        Context(spec.seed, device, progress=progress),
        batch=spec.batch,
        eval_batches=max(1, spec.eval_rows // spec.batch),
        evaluations=10,
        before_step=keep,
    )  # fmt: skip
    held_out = {part.name: measure(model, part, spec.eval_rows, spec.batch, device) for part in parts}
    check_floor(spec, held_out, data.vocab_size)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "name": spec.name,
        "key": zoo_key(spec, device),
        "seed": spec.seed,
        "held_out": held_out,
        "checkpoints": sorted(spec.checkpoints),
        "spec": asdict(spec),
        "data": data.describe(),
        "profile": outcome.profile,
        "curves": outcome.curves,
    }


def measure(model: Any, data: LanguageData, rows: int, batch: int, device: str) -> dict[str, float]:
    """Held-out ``loss`` and ``unigram`` loss of a part, nats; where it has answers ``answer_loss`` and ``accuracy``."""
    batches = [b.to(device) for b in data.held_out_batches(max(1, rows // batch), batch)]
    found = evaluate(model, batches)
    out = {"loss": found["loss"], "unigram": unigram_loss(data, batches)}
    if "answer_loss" in found:
        out |= {"answer_loss": found["answer_loss"], "accuracy": found["accuracy"]}
    return out


def check_floor(spec: ZooSpec, held_out: dict[str, dict[str, float]], vocab: int) -> None:
    """Raise ZooError for a model that is not better than its floor on every part of its mixture."""
    for name, found in held_out.items():
        floor = found["unigram"] if spec.floor == "unigram" else math.log(vocab)
        if not found["loss"] < floor:
            raise ZooError(
                f"{spec.name} (seed {spec.seed}) is no model to study: its held-out loss on {name} is "
                f"{found['loss']:.4g} nats, that of a {spec.floor} model {floor:.4g}. Train it longer or otherwise."
            )
