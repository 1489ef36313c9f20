"""X-LoRA (arXiv 2402.07148): a small head reads the base model and mixes frozen LoRA adapters per token and per module.

Two passes through one frozen model with n frozen adapters on n_L linear layers ("modules"):

    scaling pass   adapters off, no gradient:                H = last hidden state, after the final norm  [B, T, d]
    scaling head   logits = MLP(H) [B, T, n_L, n];      lambda = softmax over the n adapters of logits / temperature
    forward pass   y_l = W_l x + g sum_i alpha_i / r_i B_li A_li dropout_i(lambda_li x)         for every module l

Only the head is trained, with the ordinary loss of a causal language model and no balance loss. Of lambda the k largest
may be kept per token and module. Both passes read the whole prefix, so that generation has no use for a cache.

Works on any causal language model of transformers and on adapters that peft wrote:

    mixture = XLora(model, [read_adapter("./biology"), read_adapter("./maths")], depth=1)
    optimizer = torch.optim.AdamW(mixture.head.parameters(), lr=1e-3)
    for batch in batches:  # of all domains
        mixture(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    mixture.generate(**tokenizer("Which amino acids ...", return_tensors="pt"))
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from repro.models.adapters import Adapter, AdapterBank

Reads = Callable[[Tensor, Any], Tensor]


def last_hidden(input_ids: Tensor, output: Any) -> Tensor:
    """What the head reads: the last hidden state of the scaling pass, [B, T, d]."""
    return output.hidden_states[-1]


def softmax_scalings(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """lambda = softmax(logits / temperature) over the adapters, the last axis."""
    return (logits / temperature).softmax(-1)


def keep_largest(scalings: Tensor, k: int, again: bool = False) -> Tensor:
    """The k largest of the last axis, the rest 0, per token and module.

    Args:
        again: softmax of what is kept, meant for scalings that are logits still. Normalised per token and module; the
            original code normalised over all tokens of a batch together, which its successor in peft corrected.

    Raises ValueError for k outside 1..n.
    """
    if not 1 <= k <= scalings.shape[-1]:
        raise ValueError(f"cannot keep {k} of {scalings.shape[-1]} adapters")
    kept = torch.zeros_like(scalings, dtype=torch.bool).scatter(-1, scalings.topk(k, -1).indices, True)
    if again:
        return scalings.masked_fill(~kept, -torch.inf).softmax(-1)
    return scalings.masked_fill(~kept, 0.0)


class ScalingHead(nn.Module):
    """From hidden states to logits: Linear(d, n n_L), or with ``depth`` k > 1 an MLP of k linear layers.

    Args:
        hidden: d of the model.
        adapters, modules: n and n_L, the number of adapted linear layers (not of blocks).
        depth, size, dropout: linear layers; width between them; dropout after each ReLU.
        layerwise: whether every module has gates of its own; else all share those of a token.
        seed: of the initial weights, PyTorch's default for linear layers; the global generator is left as it was.

    Raises ValueError for a depth below 1.
    """

    def __init__(
        self, hidden: int, adapters: int, modules: int, *, depth: int = 1, size: int = 2048, dropout: float = 0.2,
        layerwise: bool = True, seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        if depth < 1:
            raise ValueError(f"a head has at least one layer, not {depth}")
        self.adapters, self.modules_gated = adapters, modules if layerwise else 1
        widths = [hidden, *[size] * (depth - 1), adapters * self.modules_gated]
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for i, (width, out) in enumerate(itertools.pairwise(widths)):
                layers += [nn.ReLU(), nn.Dropout(dropout)] if i else []
                layers.append(nn.Linear(width, out))
        self.layers = nn.Sequential(*layers)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, d] to logits [B, T, n_L, n]; n_L is 1 without gates per module."""
        return self.layers(hidden).unflatten(-1, (self.modules_gated, self.adapters))


def head_parameters(hidden: int, adapters: int, modules: int, depth: int = 1, size: int = 2048) -> int:
    """Parameters of a head with gates per module, biases included."""
    widths = [hidden, *[size] * (depth - 1), adapters * modules]
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


class XLora(nn.Module):
    """A model whose every forward pass is the two passes of X-LoRA; the model itself is called as before.

    Args:
        model: causal language model of transformers; it is frozen.
        adapters: with the same modules each; frozen.
        depth, size, dropout, layerwise, seed: of the head, see `ScalingHead`.
        temperature: of the softmax. ``softmax=False``: scalings are the logits (for top-k with ``softmax_top_k``).
        top_k: keep so many scalings per token and module; 0: all.
        softmax_top_k: softmax of those that are kept.
        weight: g, on every adapter's output.
        scaling_pass: scaling of all adapters in the scaling pass; 0: off.
        reads: (input ids, output of the scaling pass) to what the head reads; the last hidden state.

    Attributes:
        bank: the adapters on the model.
        head: what is trained.
        latest: scalings of the last forward pass as they mixed, top-k included and g not, [B, T, n_L or 1, n].
    """

    latest: Tensor | None

    def __init__(
        self, model: nn.Module, adapters: Sequence[Adapter], *, depth: int = 1, size: int = 2048, dropout: float = 0.2,
        layerwise: bool = True, softmax: bool = True, temperature: float = 1.0, top_k: int = 0,
        softmax_top_k: bool = False, weight: float = 1.0, scaling_pass: float = 0.0, reads: Reads = last_hidden,
        seed: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.model, self.bank = model, AdapterBank(model, adapters)
        config: Any = model.config
        self.head = ScalingHead(
            config.get_text_config().hidden_size, len(adapters), len(self.bank.paths), depth=depth, size=size,
            dropout=dropout, layerwise=layerwise, seed=seed,
        )  # fmt: skip
        first = next(model.parameters())
        self.head.to(first.device, first.dtype)
        self.softmax, self.temperature, self.top_k, self.softmax_top_k = softmax, temperature, top_k, softmax_top_k
        self.weight, self.scaling_pass, self.reads = weight, scaling_pass, reads
        self.latest = None
        self._first_pass = False
        self._hooks = [
            model.register_forward_pre_hook(self._mix, with_kwargs=True),
            model.register_forward_hook(self._done, always_call=True),
        ]

    def scalings(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        """Scaling pass and head: lambda [B, T, n_L or 1, n]. Gradients reach the head and nothing behind it."""
        options = {name: value for name, value in inputs.items() if name not in ("labels", "use_cache")}
        options |= {"use_cache": False, "output_hidden_states": True, "return_dict": True}
        self._first_pass = True
        try:
            constant = self.scaling_pass * torch.ones_like(self.bank.uniform()) if self.scaling_pass else None
            with torch.no_grad(), self.bank.gated(constant):
                found = self.reads(input_ids, self.model(input_ids=input_ids, **options))
        finally:
            self._first_pass = False
        scalings = self.head(found)
        if self.softmax:
            scalings = softmax_scalings(scalings, self.temperature)
        return keep_largest(scalings, self.top_k, self.softmax_top_k) if self.top_k else scalings

    def forward(self, input_ids: Tensor, **inputs: Any) -> Any:
        """As the model's own; what it returns holds ``logits`` [B, T, vocabulary], and ``loss`` where there are
        ``labels``."""
        return self.model(input_ids=input_ids, **{"use_cache": False, **inputs})

    def generate(self, *arguments: Any, **options: Any) -> Any:
        """As the model's own, without a cache: each token reads the whole prefix twice."""
        model: Any = self.model
        return model.generate(*arguments, **{**options, "use_cache": False})

    @contextmanager
    def fixed(self, gates: Tensor | None) -> Iterator[None]:
        """Inside, one pass with these gates instead of two (`AdapterBank.gated`); None: the base model."""
        before, self._first_pass = self._first_pass, True
        try:
            with self.bank.gated(gates):
                yield
        finally:
            self._first_pass = before

    def release(self) -> None:
        """Give the model back as it was, frozen still."""
        self.bank.release()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _mix(self, model: nn.Module, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
        if self._first_pass:
            return None
        if options.get("past_key_values") is not None or options.get("use_cache"):
            raise ValueError("X-LoRA reads the whole prefix at every step: use_cache=False")
        options = {**options, "use_cache": False}
        if arguments:
            options["input_ids"], *arguments = arguments
        ids = options.pop("input_ids", None)
        if ids is None or arguments:
            raise ValueError("X-LoRA reads input_ids, and everything else by name")
        self.latest = self.scalings(ids, **options)
        self.bank.gates = self.weight * self.latest
        return (), {"input_ids": ids, **options}

    def _done(self, *_: Any) -> None:
        if not self._first_pass:
            self.bank.gates = None
