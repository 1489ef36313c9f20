"""Group ``step``: one training step of a small language model whose layers are mixtures of experts in C passes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.bench.contenders import agreement, all_transformers, instead, synchronised
from repro.bench.layer import TOLERANCE, WARMUP, report, way_of
from repro.bench.summary import NAIVE, OURS
from repro.bench.timing import measure
from repro.models.decoder import Decoder, DecoderConfig
from repro.models.dispatch import forced
from repro.models.dispatch_cuda import accelerated
from repro.models.moe import Experts, SwiGLU, TopKRouter, sequence_balance_loss
from repro.models.norm import RMSNorm
from repro.training.initial import generator, initialise

VOCABULARY, BATCH, LENGTH = 256, 8, 128
REPETITIONS = 30


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
#: On a GPU besides: Chain-of-Experts at its published size, and its rows.
PUBLISHED = (Model(63, 8, 1, 1, 1024, 704, 4), Model(63, 4, 2, 1, 1024, 704, 4))
PUBLISHED_BATCH, PUBLISHED_LENGTH = 16, 512


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


def cells(device: str, quick: bool, repetitions: int | None, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the models; ``say`` hears of each."""
    out = []
    for model in QUICK if quick else (*FULL, *(PUBLISHED if device.startswith("cuda") else ())):
        rows = (PUBLISHED_BATCH, PUBLISHED_LENGTH) if model in PUBLISHED else (BATCH, LENGTH)
        out.append(measure_cell(model, device, repetitions or REPETITIONS, *rows))
        say(f"step {out[-1]['name']}")
    return out


def measure_cell(
    model: Model, device: str, repetitions: int, batch: int = BATCH, length: int = LENGTH
) -> dict[str, Any]:
    """One model as a document has it. Every contender trains a copy of its own, from the same weights on one batch."""
    tokens = torch.randint(VOCABULARY, (batch, length), generator=generator("bench tokens", 0)).to(device)
    ways: dict[str, Callable[[], AbstractContextManager[None]]] = {
        OURS: partial(accelerated, device),
        NAIVE: partial(forced, NAIVE),
    }
    # batched_mm takes twenty times as long at this shape: see the layer
    ways |= {name: partial(instead, way) for name, way in all_transformers().items() if "batched" not in name}
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    contenders: dict[str, dict[str, Any]] = {name: {} for name in ways}
    reference = Copy(model, tokens, device, ways[NAIVE], dtype).gradients()
    racing: dict[str, Callable[[], object]] = {}
    for name, way in ways.items():
        copy = Copy(model, tokens, device, way, dtype)
        try:
            error = agreement(copy.gradients(), reference, 10 * TOLERANCE[dtype])
        except Exception as found:  # whatever another library raises is the reason why it has no time
            contenders[name] = {"skipped": f"does not run: {type(found).__name__}: {str(found)[:200]}"}
            continue
        if error:
            contenders[name] = {"error": error}
        else:
            racing[name] = synchronised(copy.step, device)
    cell: dict[str, Any] = {
        "name": str(model), "shape": {**model._asdict(), "batch": batch, "length": length}, "mode": "step",
        "dtype": str(dtype).removeprefix("torch."), "repetitions": repetitions, "contenders": contenders,
        "way": way_of(batch * length, model.experts, model.k, model.hidden * model.width, device),
    }  # fmt: skip
    if racing:
        timings = measure(racing, repetitions, WARMUP)
        for name in racing:
            contenders[name] = report(timings, name)
        if OURS in racing:
            cell["tokens_per_s"] = round(tokens.numel() / timings.spread(OURS).median)
    return cell


class Copy:
    """A model with its optimiser, on one batch."""

    def __init__(
        self, model: Model, tokens: Tensor, device: str,
        way: Callable[[], AbstractContextManager[None]] = nullcontext, dtype: torch.dtype = torch.float32,
    ):  # fmt: skip
        config = BenchConfig(
            vocab_size=VOCABULARY, hidden_size=model.hidden, moe_intermediate_size=model.width,
            num_hidden_layers=model.layers, n_routed_experts=model.experts, num_experts_per_tok=model.k,
            passes=model.passes, n_shared_experts=model.shared,
        )  # fmt: skip
        self.model = initialise(BenchModel(config), 0).to(device).train()
        self.tokens, self.way, self.dtype = tokens, way, dtype
        self.device = torch.device(device).type
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)

    def backward(self) -> Tensor:
        mixed = torch.autocast(self.device, self.dtype) if self.dtype is not torch.float32 else nullcontext()
        with self.way(), mixed:
            out = self.model(input_ids=self.tokens, use_cache=False)
            logits = out.logits[:, :-1].flatten(0, 1).float()
            loss = F.cross_entropy(logits, self.tokens[:, 1:].flatten()) + out.aux_loss
        loss.backward()
        return loss

    def step(self) -> None:
        """Forward, backward, clipping, AdamW: what `repro.training.loop` does per step."""
        self.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gradients(self) -> tuple[Tensor, ...]:
        """The loss and the gradients of the first layer's experts."""
        loss = self.backward()
        found = [p.grad for n, p in self.model.named_parameters() if n.startswith("layers.0.feed_forward.experts.")]
        out = loss.detach(), *(g.clone() for g in found if g is not None)
        self.optimizer.zero_grad(set_to_none=True)
        return out
