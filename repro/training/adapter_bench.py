"""A bench for mixing adapters: one pretrained language model, and a LoRA adapter for each of several domains.

Generated: a small Llama is pretrained on Markov sources (`repro.data.markov`), most of them none of the domains, and
each adapter is trained, by peft, on one domain's source alone; base and adapters are made once per seed and shared.
Published: a model and adapters from the hub, with a data set of text for each domain.

What there is to mix is the same either way: a frozen model, its adapters, training rows of all domains, and test rows,
pure and spliced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.base import IGNORED, LanguageData, fingerprint, order_seed
from repro.data.markov import FIRST_ID, DomainRows, MarkovSources, joined, markov_sources, pieces
from repro.evaluation.domain_losses import excess
from repro.models.adapters import Adapter, AdapterBank, adapter_of, read_adapter
from repro.profiling.counts import count_step
from repro.training.checkpoints import Built, Checkpoint, Part, obtain
from repro.training.finetune import with_lora
from repro.training.fit import batch_loss
from repro.training.initial import initialise
from repro.training.loop import Optimisation, train


@dataclass(frozen=True)
class AdapterBench:
    """A model and its adapters, with the rows that mix and test them.

    Attributes:
        model: causal language model of transformers, on the run's device.
        adapters: one per domain, or any number.
        own: index of each domain's own adapter.
        mixed: training rows, as many as were asked for, half pure and half spliced in every batch.
        tests: ``pure`` and ``spliced`` rows.
        domains: names.
        cards: what training base and adapters cost; empty for published ones.
        about: what a record keeps; flat, JSON.
        built: how many parts were trained by this call.
    """

    model: Any
    adapters: list[Adapter]
    own: list[int]
    mixed: DomainRows
    tests: dict[str, DomainRows]
    domains: list[str]
    cards: list[dict[str, Any]]
    about: dict[str, Any]
    built: int = 0

    def profile(self) -> dict[str, float]:
        """What training base and adapters cost, whoever paid it."""
        names = ("train_tokens", "train_flops", "train_s")
        return {f"bench_{name}": float(sum(card[name] for card in self.cards)) for name in names} | {
            "parts_built": float(self.built)
        }

    def describe(self) -> dict[str, Any]:
        """What a record keeps about data and models."""
        parts = [
            part for rows in (self.mixed, *self.tests.values()) for part in (rows.inputs.cpu(), rows.domains.cpu())
        ]
        return self.about | {
            "fingerprint": fingerprint(*parts),
            "train_rows": len(self.mixed.inputs),
            "held_out_rows": sum(len(rows.inputs) for rows in self.tests.values()),
            "sequence": self.mixed.inputs.shape[1],
            "domains": self.domains,
        }


# --- generated ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BenchSpec:
    """Everything that decides a generated bench. Equal specifications are one bench.

    Args:
        symbols: of the alphabet.
        domains, others: sources that have an adapter; sources that only pretraining reads.
        same: the adapters, and all rows, are of the first domain: there is nothing to tell apart.
        concentration, tilt: of the sources.
        share: of pretraining's rows that come from the domains, all of them together.
        sequence, piece: targets of a row; of a piece in spliced rows.
        layers, hidden, heads, width: of the model.
        steps, batch, lr: of pretraining, half of its rows spliced.
        rank, alpha, adapter_steps, adapter_batch, adapter_lr: of the adapters, on all linear layers of the blocks.
        test: rows of each kind for results.
        init_std: of the model's first matrices.
        seed: of sources, first weights and rows.
    """

    domains: int = 4
    symbols: int = 12
    others: int = 12
    same: bool = False
    concentration: float = 0.1
    tilt: float = 1.0
    share: float = 0.1
    sequence: int = 64
    piece: int = 16
    layers: int = 4
    hidden: int = 64
    heads: int = 4
    width: int = 176
    steps: int = 1000
    batch: int = 32
    lr: float = 8e-3
    rank: int = 4
    alpha: float = 8.0
    adapter_steps: int = 300
    adapter_batch: int = 16
    adapter_lr: float = 2e-2
    test: int = 512
    init_std: float = 0.1
    seed: int = 0


#: Fields that pretraining does not depend on.
LATER = ("same", "rank", "alpha", "adapter_steps", "adapter_batch", "adapter_lr", "test")


def sources_of(spec: BenchSpec) -> MarkovSources:
    """All sources, the domains first."""
    return markov_sources(
        spec.domains + spec.others, spec.seed, symbols=spec.symbols, concentration=spec.concentration, tilt=spec.tilt
    )


def blank(spec: BenchSpec) -> Any:
    """The model before any training."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=FIRST_ID + sources_of(spec).symbols, hidden_size=spec.hidden, num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads, num_key_value_heads=spec.heads, intermediate_size=spec.width,
        max_position_embeddings=2 * spec.sequence, pad_token_id=0, bos_token_id=1, eos_token_id=1, use_cache=False,
    )  # fmt: skip
    return initialise(LlamaForCausalLM(config), spec.seed, spec.init_std)


def mixed_rows(spec: BenchSpec, choices: Sequence[int], rows: int, purpose: str) -> DomainRows:
    """Rows of ``choices``, pure and spliced by turns, so that every batch holds both."""
    sources = sources_of(spec)
    generator = torch.Generator().manual_seed(order_seed(f"{purpose}, sources", spec.seed))
    chosen = torch.tensor(choices)[torch.randint(len(choices), (rows - rows // 2,), generator=generator)]
    pure = sources.pure(chosen, spec.sequence, spec.seed, f"{purpose}, pure")
    spliced = sources.spliced(choices, rows // 2, spec.sequence, spec.piece, spec.seed, f"{purpose}, spliced")
    turns = torch.arange(rows) // 2 + (torch.arange(rows) % 2) * len(pure.inputs)
    return joined([pure, spliced]).take(turns)


def adapter_bench(
    spec: BenchSpec, rows: int, *, device: str = "cpu", progress: Callable[[int, int], None] = lambda *_: None,
    meanwhile: Sequence[BenchSpec] = (),
) -> AdapterBench:  # fmt: skip
    """The bench of a specification: base and adapters from the cache folder, or trained now.

    Args:
        rows: training rows of `AdapterBench.mixed`; another number gives other rows.
        progress: called with (models that are there, models).
        meanwhile: benches that will be wanted later; pretrained while there is nothing to do but wait.
    """
    others = [base_part(other, device) for other in meanwhile]
    (base,) = obtain([base_part(spec, device)], meanwhile=others, progress=lambda *_: progress(0, spec.domains + 1))
    parts = [adapter_part(spec, d, base, device) for d in range(spec.domains)]
    trained = obtain(parts, progress=lambda done, all_: progress(done + 1, all_ + 1))
    model = loaded(spec, base, device)
    config = lora_config(spec)
    domains = [0] if spec.same else list(range(spec.domains))
    sources = sources_of(spec)
    each = torch.tensor(domains).repeat_interleave(spec.test // len(domains))
    return AdapterBench(
        model=model,
        adapters=[adapter_of(f"adapter-{d}", part.state, config) for d, part in enumerate(trained)],
        own=domains,
        mixed=mixed_rows(spec, domains, rows, "mixing").to(device),
        tests={
            "pure": sources.pure(each, spec.sequence, spec.seed, "test, pure").to(device),
            "spliced": sources.spliced(
                domains, spec.test, spec.sequence, spec.piece, spec.seed, "test, spliced"
            ).to(device),
        },
        domains=[f"source-{d}" for d in domains],
        cards=[base.card, *(part.card for part in trained)],
        about={
            "name": "markov",
            "source": "generated",
            "model": "llama",
            "adapters_of": "one source" if spec.same else "one source each",
            "base_loss": round(base.card["loss"], 4),
            "adapter_losses": " ".join(f"{part.card['loss']:.4f}" for part in trained),
        },
        built=sum(part.built for part in (base, *trained)),
    )  # fmt: skip


def base_part(spec: BenchSpec, device: str) -> Part:
    """The pretrained model."""
    identity = {name: value for name, value in asdict(spec).items() if name not in LATER}

    def build() -> Built:
        model = blank(spec).to(device)
        rows = spec.steps * spec.batch
        domains, others = range(spec.domains), range(spec.domains, spec.domains + spec.others)
        generator = torch.Generator().manual_seed(order_seed("pretraining, shares", spec.seed))
        inside = torch.rand(rows, generator=generator) < spec.share
        drawn = mixed_rows(spec, list(others), rows, "pretraining, others")
        known = mixed_rows(spec, list(domains), rows, "pretraining, domains")
        taken = DomainRows(
            *(torch.where(inside[:, None], a, b) for a, b in zip(known, drawn, strict=True))
        )  # fmt: skip
        card = fit_rows(model, taken, Optimisation(spec.lr, spec.steps, 0.05, "cosine"), spec.batch, device)
        return Built(model.state_dict(), card)

    return Part("markov-llama", {**identity, "device": device.partition(":")[0]}, build, __name__)


def adapter_part(spec: BenchSpec, index: int, base: Checkpoint, device: str) -> Part:
    """The adapter of one domain; with ``same`` another one, from other first weights and rows, of the first domain."""
    domain = 0 if spec.same else index
    identity = {name: value for name, value in asdict(spec).items() if name not in ("same", "test")}

    def build() -> Built:
        from peft import get_peft_model_state_dict

        model = loaded(spec, base, device)
        adapted = with_lora(
            model, spec.rank, alpha=spec.alpha, seed=order_seed(f"adapter {index}", spec.seed) % 2**31
        )  # fmt: skip
        rows = sources_of(spec).pure(
            torch.full((spec.adapter_steps * spec.adapter_batch,), domain), spec.sequence, spec.seed, f"adapter {index}"
        )
        optimisation = Optimisation(spec.adapter_lr, spec.adapter_steps, 0.05, "cosine", weight_decay=0.0)
        card = fit_rows(adapted, rows, optimisation, spec.adapter_batch, device)
        return Built(get_peft_model_state_dict(adapted), card)

    return Part(
        f"markov-adapter-{index}", {**identity, "domain": domain, "index": index, "device": device.partition(":")[0]},
        build, __name__,
    )  # fmt: skip


def lora_config(spec: BenchSpec) -> Any:
    """peft's configuration of the adapters, as far as reading them needs it."""
    from peft import LoraConfig

    return LoraConfig(r=spec.rank, lora_alpha=spec.alpha)  # type: ignore[arg-type]


def loaded(spec: BenchSpec, base: Checkpoint, device: str) -> Any:
    """The pretrained model in evaluation mode."""
    model = blank(spec)
    model.load_state_dict(base.state)
    return model.to(device).eval()


def fit_rows(model: nn.Module, rows: DomainRows, optimisation: Optimisation, batch: int, device: str) -> dict[str, Any]:
    """Train on the rows in their order; what it cost, and the mean loss of the last tenth."""
    batches = [rows.take(slice(i, i + batch)).batch().to(device) for i in range(0, len(rows.inputs), batch)]
    _, step = count_step(model, lambda: batch_loss(model, batches[0])[0])
    last = batches[-max(1, len(batches) // 10) :]

    def evaluate() -> dict[str, float]:
        return {"loss": sum(float(batch_loss(model, b)[0]) for b in last) / len(last)}

    trained = train(model, batches, lambda b: batch_loss(model, b), evaluate, optimisation, evaluations=1)
    return {
        **trained.evaluations[-1],
        "train_tokens": rows.targets.numel(),
        "train_flops": step * len(batches),
        "train_s": trained.train_s,
        "diverged": trained.diverged,
    }


# --- published ---------------------------------------------------------------------------------------------------


def published_bench(
    model: str, adapters: str, folders: Sequence[str], texts: Sequence[str], rows: int, *, sequence: int, piece: int,
    test: int, seed: int, dtype: str, limit: int = 0, device: str = "cpu", choose: int = 32,
) -> AdapterBench:  # fmt: skip
    """A model and adapters from the hub or from folders of the same layout, with one data set per domain.

    Args:
        adapters, folders: where the adapters lie, and their sub-folders.
        texts: names of language data sets (`repro.data.registry`), each a domain, in the model's tokens.
        rows: of training; half spliced, every other one.
        test: rows of each kind.
        limit: items of every data set that are read; 0: all.
        choose: training rows of a domain that tell which adapter is its own: the one with the lowest loss.

    The loss of the source is not known: an excess is the loss itself.

    Raises:
        MissingData: when the model, an adapter or the text is absent.
        ValueError: for adapters that do not fit together, or an unknown data set.
    """
    from repro.data.registry import load_language
    from repro.zoo.hub import hub_model

    base = hub_model(model, dtype=dtype, device=device)
    base.config.use_cache = False
    found = [read_adapter(adapters, folder=folder) for folder in folders]
    data = [load_language(name, sequence, tokenizer=model, limit=limit or None) for name in texts]
    which = range(len(texts))
    drawn = torch.Generator().manual_seed(order_seed("mixing", seed))
    pure = text_rows(data, torch.randint(len(texts), (rows - rows // 2, 1), generator=drawn).expand(-1, sequence), seed)
    spliced = text_rows(data, pieces(list(which), rows // 2, sequence, piece, seed, "mixing"), seed + 1)
    turns = torch.arange(rows) // 2 + (torch.arange(rows) % 2) * len(pure.inputs)
    each = torch.tensor(list(which)).repeat_interleave(test // len(texts))[:, None].expand(-1, sequence)
    tests = {
        "pure": text_rows(data, each, 0, held_out=True),
        "spliced": text_rows(data, pieces(list(which), test, sequence, piece, 0, "test"), 1, held_out=True),
    }
    bank = AdapterBank(base, found)
    own = []
    for domain in which:
        sample = text_rows(data, torch.full((choose, sequence), domain), seed + 2).to(device)
        losses = []
        for index in range(len(found)):
            with bank.gated(bank.one(index)):
                losses.append(excess(lambda part: base(input_ids=part.inputs).logits, sample, 4).mean)
        own.append(losses.index(min(losses)))
    bank.release()
    return AdapterBench(
        model=base, adapters=found, own=own, mixed=joined([pure, spliced]).take(turns).to(device),
        tests={name: part.to(device) for name, part in tests.items()}, domains=list(texts), cards=[],
        about={
            "name": " ".join(texts), "source": "real", "model": model, "adapters": adapters,
            "own": " ".join(found[index].name for index in own),
        },
    )  # fmt: skip


def text_rows(data: Sequence[LanguageData], domains: Tensor, seed: int, held_out: bool = False) -> DomainRows:
    """Rows of text, the target at [row, t] and the token before it from the data set ``domains[row, t]``.

    A spliced row takes each of its pieces from the same place of a row of another data set. Behind the end of a text
    nothing counts.
    """
    generator = torch.Generator().manual_seed(order_seed(f"text rows {held_out}", seed))
    rows, length = domains.shape
    inputs, targets = torch.zeros_like(domains), torch.full_like(domains, IGNORED)
    read = torch.zeros_like(domains, dtype=torch.bool)
    for domain, text in enumerate(data):
        split = text.held_out if held_out else text.train
        taken = split.take(torch.randint(len(split), (rows,), generator=generator))
        missing = length - taken.inputs.shape[1]
        mine = domains == domain
        # a place whose target is masked and all later ones too is behind the end of the text
        inside = (F.pad(taken.targets, (0, missing), value=IGNORED) != IGNORED).flip(1).cummax(1).values.flip(1)
        read = torch.where(mine, inside, read)
        inputs = torch.where(mine, F.pad(taken.inputs, (0, missing)), inputs)
        targets = torch.where(mine, F.pad(taken.targets, (0, missing), value=IGNORED), targets)
    changed = domains[:, 1:] != domains[:, :-1]
    # what follows is from another text than the target before it: that target must be what the row shows next
    told = torch.where(read[:, 1:], inputs[:, 1:], IGNORED)
    targets[:, :-1] = torch.where(changed & (targets[:, :-1] != IGNORED), told, targets[:, :-1])
    targets[:, 0] = IGNORED
    return DomainRows(inputs, targets, domains.contiguous(), torch.zeros(domains.shape))
