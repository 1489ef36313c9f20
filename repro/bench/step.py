"""Group ``step``: one training step of a small language model whose layers are mixtures of experts in C passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.bench.contenders import agreement, all_transformers, instead, synchronised
from repro.bench.layer import FEWEST, TOLERANCE, WARMUP, report, seconds_of, way_of
from repro.bench.summary import NAIVE, OURS, ROOF
from repro.bench.timing import measure
from repro.models.decoder import Decoder, DecoderConfig
from repro.models.dispatch_cuda import accelerated
from repro.models.moe import Experts, SwiGLU, TopKRouter, sequence_balance_loss
from repro.models.norm import RMSNorm
from repro.models.ways import forced
from repro.training.initial import generator, initialise

Ways = dict[str, Callable[[], AbstractContextManager[None]]]
VOCABULARY, BATCH, LENGTH = 256, 8, 128
REPETITIONS = 30
#: Seconds that a model may take on a GPU before repetitions are saved.
BUDGET = 12.0


class Model(NamedTuple):
    """N experts, K selected per pass, C passes, shared experts; hidden size, expert width, layers."""

    experts: int
    k: int
    passes: int
    shared: int = 1
    hidden: int = 64
    width: int = 32
    layers: int = 2

    def __str__(self) -> str:
        size = f", d={self.hidden} f={self.width} L={self.layers}" if self.hidden != 64 else ""
        return f"N={self.experts} K={self.k} C={self.passes}{'' if self.shared else ', none shared'}{size}"


FULL = (Model(16, 4, 1), Model(16, 2, 2), Model(64, 4, 1), Model(64, 2, 2))
QUICK = (Model(16, 4, 1), Model(16, 2, 2))
#: On a GPU: Chain-of-Experts at its published size and batch (64 sequences of 512 tokens), one pass of K = 8 or two of
#: K = 4; but 256 tokens of vocabulary for 102,400 and plain attention, so that the experts are what a step does.
PUBLISHED = (Model(63, 8, 1, 1, 1024, 704, 4), Model(63, 4, 2, 1, 1024, 704, 4))
PUBLISHED_BATCH, PUBLISHED_LENGTH = 64, 512


class BenchConfig(DecoderConfig):
    """The laptop shape: two layers, hidden size 64, experts of width 32, one shared expert."""

    model_type = "repro_bench"

    n_routed_experts: int = 16
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 32
    passes: int = 1
    n_shared_experts: int = 1


class Passes(nn.Module):
    """The feed-forward sublayer ``x_0 = RMSNorm(h), x_t = x_{t-1} + MoE_t(x_{t-1}) + E_shared(x_{t-1})``, C passes."""

    def __init__(self, config: BenchConfig):
        super().__init__()
        hidden, width = config.hidden_size, config.moe_intermediate_size
        self.norm = RMSNorm(hidden, eps=config.rms_norm_eps)
        self.experts = Experts(config.n_routed_experts, hidden, width)
        self.shared = SwiGLU(hidden, width * config.n_shared_experts) if config.n_shared_experts else None
        self.routers = nn.ModuleList(
            TopKRouter(hidden, config.n_routed_experts, config.num_experts_per_tok) for _ in range(config.passes)
        )

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        x, terms = self.norm(h.reshape(-1, h.shape[-1])), []
        for router in self.routers:
            scores, indices, weights = router(x)
            terms.append(sequence_balance_loss(scores, indices, h.shape[0]))
            y = self.experts(x, indices, weights)
            x = x + y if self.shared is None else x + y + self.shared(x)
        return x.view_as(h), 0.001 * torch.stack(terms).sum()


class BenchModel(Decoder):
    """The decoder with `Passes`."""

    config_class = BenchConfig

    @classmethod
    def make_feed_forward(cls, config: Any) -> nn.Module:
        return Passes(config)


class DensePasses(nn.Module):
    """`Passes` with one SwiGLU as wide as the experts that a token selects in the place of router and experts."""

    def __init__(self, config: BenchConfig):
        super().__init__()
        hidden, width = config.hidden_size, config.moe_intermediate_size
        self.norm = RMSNorm(hidden, eps=config.rms_norm_eps)
        self.active = SwiGLU(hidden, width * config.num_experts_per_tok)
        self.shared = SwiGLU(hidden, width * config.n_shared_experts) if config.n_shared_experts else None
        self.passes = config.passes

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.norm(h.reshape(-1, h.shape[-1]))
        for _ in range(self.passes):
            x = x + self.active(x) if self.shared is None else x + self.active(x) + self.shared(x)
        return x.view_as(h), None


class DenseModel(Decoder):
    """The decoder with `DensePasses`: what a step takes where experts cost no more than their products."""

    config_class = BenchConfig

    @classmethod
    def make_feed_forward(cls, config: Any) -> nn.Module:
        return DensePasses(config)


def cells(device: str, quick: bool, repetitions: int | None, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the models; ``say`` hears of each. ``repetitions`` None takes `REPETITIONS`, on a GPU within `BUDGET`.

    Of the laptop's models a GPU takes those of `QUICK`: a step there is the issuing of kernels, whatever their number
    of experts, and the loop over 64 experts takes most of a minute.
    """
    out = []
    for model in QUICK if quick else (*PUBLISHED, *QUICK) if device.startswith("cuda") else FULL:
        rows = (PUBLISHED_BATCH, PUBLISHED_LENGTH) if model in PUBLISHED else (BATCH, LENGTH)
        out.append(measure_cell(model, device, repetitions, *rows))
        say(f"step {out[-1]['name']}")
    return out


def measure_cell(
    model: Model, device: str, repetitions: int | None = None, batch: int = BATCH, length: int = LENGTH
) -> dict[str, Any]:
    """One model as a document has it. Every contender trains a copy of its own, from the same weights on one batch, and
    has to agree with the loop over experts on the first `BATCH` sequences; but `ROOF`, which has `DenseModel`."""
    tokens = torch.randint(VOCABULARY, (batch, length), generator=generator("bench tokens", 0)).to(device)
    ways: Ways = {
        OURS: partial(accelerated, device),
        NAIVE: partial(forced, NAIVE),
    }
    # batched_mm takes twenty times as long at this shape: see the layer
    ways |= {name: partial(instead, way) for name, way in all_transformers().items() if "batched" not in name}
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    contenders: dict[str, dict[str, Any]] = {name: {} for name in ways}
    racing = _racing(Copy(model, tokens, device, ways[NAIVE], dtype), ways, contenders)
    contenders[ROOF] = {}
    try:
        racing[ROOF] = synchronised(Copy(model, tokens, device, dtype=dtype, kind=DenseModel).step, device)
    except Exception as found:  # as of the others: no memory for one more copy, say
        contenders[ROOF] = _left_out(found)
    count = repetitions or REPETITIONS
    expected = _tried(racing, contenders)
    if device.startswith("cuda") and not repetitions:
        count = max(FEWEST, min(REPETITIONS, int(BUDGET / max(expected, 1e-6)) - WARMUP))
    cell: dict[str, Any] = {
        "name": str(model), "shape": {**model._asdict(), "batch": batch, "length": length}, "mode": "step",
        "dtype": str(dtype).removeprefix("torch."), "repetitions": count, "contenders": contenders,
        "way": way_of(batch * length, model.experts, model.k, model.hidden * model.width, device),
    }  # fmt: skip
    if racing:
        timings = measure(racing, count, WARMUP)
        for name in racing:
            contenders[name] = report(timings, name)
        if OURS in racing:
            cell["tokens_per_s"] = round(tokens.numel() / timings.spread(OURS).median)
    return cell


def _racing(loop: Copy, ways: Ways, contenders: dict[str, dict[str, Any]]) -> dict[str, Callable[[], object]]:
    """A step of a copy for each way that computes what the loop over experts does; ``contenders`` gets why not."""
    racing: dict[str, Callable[[], object]] = {}
    reference = loop.gradients(BATCH)
    for name, way in ways.items():
        try:
            own = loop.again(way)
            error = agreement(own.gradients(BATCH), reference, 10 * TOLERANCE[loop.dtype])
        except Exception as found:  # whatever another library raises is the reason why it has no time
            contenders[name] = _left_out(found)
            continue
        if error:
            contenders[name] = {"error": error}
        else:
            racing[name] = synchronised(own.step, str(loop.tokens.device))
    return racing


def _tried(racing: dict[str, Callable[[], object]], contenders: dict[str, dict[str, Any]]) -> float:
    """Seconds of one step of each. Who raises leaves the race: all copies are there, and the first step makes the
    optimiser's state, so that what does not fit is found here."""
    expected = 0.0
    for name in tuple(racing):
        try:
            expected += min(seconds_of(racing[name]) for _ in range(2))
        except Exception as found:
            contenders[name] = _left_out(found)
            del racing[name]
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return expected


def _left_out(found: Exception) -> dict[str, Any]:
    if isinstance(found, torch.OutOfMemoryError):
        return {"skipped": f"does not fit in memory: {str(found)[:200]}"}
    return {"skipped": f"does not run: {type(found).__name__}: {str(found)[:200]}"}


class Copy:
    """A model with its optimiser, on one batch."""

    def __init__(
        self, model: Model, tokens: Tensor, device: str,
        way: Callable[[], AbstractContextManager[None]] = nullcontext, dtype: torch.dtype = torch.float32,
        kind: type[Decoder] = BenchModel,
    ):  # fmt: skip
        config = BenchConfig(
            vocab_size=VOCABULARY, hidden_size=model.hidden, moe_intermediate_size=model.width,
            num_hidden_layers=model.layers, n_routed_experts=model.experts, num_experts_per_tok=model.k,
            passes=model.passes, n_shared_experts=model.shared,
        )  # fmt: skip
        self.model = initialise(kind(config), 0).to(device).train()
        self.tokens, self.way, self.dtype = tokens, way, dtype
        self.device = torch.device(device).type
        self.optimizer = self._adamw()

    def _adamw(self) -> torch.optim.AdamW:
        return torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def again(self, way: Callable[[], AbstractContextManager[None]]) -> Copy:
        """Another with the weights of now: copied on the device, as drawing half a billion takes many seconds."""
        other = copy.copy(self)
        other.model, other.way = copy.deepcopy(self.model), way
        other.optimizer = other._adamw()
        return other

    def backward(self, batch: int | None = None) -> Tensor:
        tokens = self.tokens[:batch]
        mixed = torch.autocast(self.device, self.dtype) if self.dtype is not torch.float32 else nullcontext()
        with self.way(), mixed:
            out = self.model(input_ids=tokens, use_cache=False)
            logits = out.logits[:, :-1].flatten(0, 1).float()
            loss = F.cross_entropy(logits, tokens[:, 1:].flatten())
            if out.aux_loss is not None:
                loss = loss + out.aux_loss
        loss.backward()
        return loss

    def step(self) -> None:
        """Forward, backward, clipping, AdamW: what `repro.training.loop` does per step."""
        self.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self, batch: int | None = None) -> tuple[Tensor, ...]:
        """The loss and the gradients of the first layer's experts, on the first ``batch`` sequences or on all."""
        loss = self.backward(batch)
        found = [p.grad for n, p in self.model.named_parameters() if n.startswith("layers.0.feed_forward.experts.")]
        out = loss.detach(), *(g.clone() for g in found if g is not None)
        self.optimizer.zero_grad(set_to_none=True)
        return out
