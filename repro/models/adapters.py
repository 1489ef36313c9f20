"""Several named LoRA adapters on one frozen model, mixed token by token.

    bank = AdapterBank(model, [read_adapter("./biology"), read_adapter("./maths")])
    with bank.gated(torch.tensor([0.5, 0.5])):  # or one gate per token, per module, per both
        logits = model(input_ids).logits

The adapters hang on the model's linear layers by hooks: its modules, names and weights stay what they were, so that it
saves, loads and generates as before, and with no gates it is the model itself, bit by bit. Adapters are read from the
files that peft writes, or from a peft model's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.errors import MissingData

#: What peft puts before the names of a wrapped model's modules.
PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter.

    Args:
        name: for people.
        factors: A ``[r, in]`` and B ``[out, r]`` by the path of the linear layer in the model.
        scale: alpha / r, or alpha / sqrt(r) for a rank-stabilised one.
        dropout: on the input, in training.
    """

    name: str
    factors: Mapping[str, tuple[Tensor, Tensor]]
    scale: float
    dropout: float = 0.0


def adapter_of(name: str, state: Mapping[str, Tensor], config: Any) -> Adapter:
    """An adapter from what ``peft.get_peft_model_state_dict`` gives, and its ``LoraConfig``.

    Raises ValueError for what is not a plain LoRA on linear layers: DoRA, biases, ranks that differ by layer, other
    tensors.
    """
    if config.use_dora or config.bias != "none" or config.rank_pattern or config.alpha_pattern:
        raise ValueError(f"adapter {name!r} is no plain LoRA: DoRA, biases and patterns of ranks are not supported")
    halves: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        path, _, end = key.removeprefix(PREFIX).rpartition(".lora_")
        if end not in ("A.weight", "B.weight"):
            raise ValueError(f"adapter {name!r} holds {key!r}, which is no factor of a linear layer")
        halves.setdefault(path, {})[end[0]] = value
    if any(len(pair) != 2 for pair in halves.values()):
        raise ValueError(f"adapter {name!r} lacks a factor of one of its layers")
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    return Adapter(name, {path: (p["A"], p["B"]) for path, p in halves.items()}, scale, config.lora_dropout)


def read_adapter(source: str, *, name: str = "", folder: str = "") -> Adapter:
    """An adapter that peft's ``save_pretrained`` wrote.

    Args:
        source: folder or hub id.
        name: how it is called; the last part of its place by default.
        folder: sub-folder of ``source``.

    Raises:
        MissingData: when neither place has it.
        ValueError: as `adapter_of`.
    """
    from peft import LoraConfig
    from peft.utils import load_peft_weights

    try:
        if Path(source).expanduser().is_dir():  # a folder is never looked up on the hub
            place = str(Path(source).expanduser() / folder)
            config, state = LoraConfig.from_pretrained(place), load_peft_weights(place, device="cpu")
        else:
            options: dict[str, Any] = {"subfolder": folder} if folder else {}
            config = LoraConfig.from_pretrained(source, **options)
            state = load_peft_weights(source, device="cpu", **options)
    except (OSError, ValueError) as error:
        raise MissingData(
            f"adapter {'/'.join(filter(None, (source, folder)))!r} is absent ({error}). Ways to get it: let the hub "
            "serve it (network needed once), or give a local folder that peft's save_pretrained wrote."
        ) from error
    return adapter_of(name or folder or Path(source).name, state, config)


class AdapterBank(nn.Module):
    """Adapters on a model, in the order given; layers in the order in which the model's tree is walked.

    Attributes:
        names: of the adapters.
        paths: of the adapted layers; layer l is ``paths[l]``.
        gates: what mixes the adapters in the next forward pass: None (off) or a tensor that broadcasts to
            ``[batch, tokens, layers, adapters]`` from the right. Set by `gated`.

    Raises ValueError when there is no adapter, when they do not have the same layers, or the model lacks one of these.

    The model's weights and the adapters' are frozen: what may be trained is what makes the gates.
    """

    def __init__(self, model: nn.Module, adapters: Sequence[Adapter]):
        super().__init__()
        if not adapters:
            raise ValueError("no adapter")
        wanted = set(adapters[0].factors)
        for adapter in adapters:
            if set(adapter.factors) != wanted:
                raise ValueError(f"adapters {adapters[0].name!r} and {adapter.name!r} adapt different layers")
        found = {path: module for path, module in model.named_modules() if path in wanted}
        if len(found) < len(wanted):
            raise ValueError(f"the model has no layer {sorted(wanted - set(found))[0]!r}")
        self.names = [adapter.name for adapter in adapters]
        self.paths = list(found)
        self.dropouts = [adapter.dropout for adapter in adapters]
        self.gates = None
        self.layers = nn.ModuleList(
            _Stacked([a.factors[path] for a in adapters], [a.scale for a in adapters]) for path in self.paths
        )
        first = next(model.parameters())
        self.to(first.device)
        model.requires_grad_(False)
        self._hooks = [
            module.register_forward_hook(self._hook(index)) for index, module in enumerate(found.values())
        ]  # fmt: skip

    def __len__(self) -> int:
        """Number of adapters."""
        return len(self.names)

    @contextmanager
    def gated(self, gates: Tensor | None) -> Iterator[None]:
        """Mix by these gates inside; None: no adapter at all. Whatever was set before comes back."""
        before, self.gates = self.gates, gates
        try:
            yield
        finally:
            self.gates = before

    @property
    def gates(self) -> Tensor | None:
        return self._gates

    @gates.setter
    def gates(self, gates: Tensor | None) -> None:
        self._gates = gates
        # taken apart at once: taking out one layer at a time, each would fill a gradient of the size of all
        self._parts = () if gates is None else gates.unbind(-2) if gates.dim() > 1 else (gates,)

    def one(self, index: int) -> Tensor:
        """Gates ``[adapters]`` of one adapter alone."""
        return F.one_hot(torch.tensor(index), len(self)).to(self.layers[0].A.device, torch.float32)  # type: ignore[arg-type]

    def uniform(self) -> Tensor:
        """Gates ``[adapters]`` of 1 / n each."""
        return torch.full((len(self),), 1 / len(self), device=self.layers[0].A.device)  # type: ignore[arg-type]

    def release(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _hook(self, layer: int) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not self._parts:
                return None
            stacked = self.layers[layer]
            gates = self._parts[layer if len(self._parts) > 1 else 0]
            x = inputs[0].to(stacked.A.dtype)  # type: ignore[arg-type]
            if self.training and any(self.dropouts):
                return output + naive(stacked, x, gates, self.dropouts).to(output.dtype)  # type: ignore[arg-type]
            return output + stacked(x, gates).to(output.dtype)

        return add


class _Stacked(nn.Module):
    """The factors of all adapters for one layer, one above the other: two matrix products for any number of them."""

    def __init__(self, factors: Sequence[tuple[Tensor, Tensor]], scales: Sequence[float]):
        super().__init__()
        self.A = nn.Parameter(torch.cat([a for a, _ in factors]).clone(), requires_grad=False)
        self.B = nn.Parameter(torch.cat([b for _, b in factors], 1).clone(), requires_grad=False)
        self.ranks, self.scales = [len(a) for a, _ in factors], list(scales)
        owner = torch.repeat_interleave(torch.arange(len(factors)), torch.tensor(self.ranks))
        self.register_buffer("owner", owner, persistent=False)
        self.register_buffer("scale", torch.tensor(self.scales)[owner], persistent=False)

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """sum_i gate_i scale_i B_i A_i x, the gate between the factors. ``x`` [..., in], ``gates`` [..., adapters]."""
        spread = gates.index_select(-1, self.owner) * self.scale  # type: ignore[arg-type, operator]
        return F.linear(F.linear(x, self.A) * spread.to(x.dtype), self.B)


def naive(stacked: _Stacked, x: Tensor, gates: Tensor, dropouts: Sequence[float] = ()) -> Tensor:
    """The same, adapter by adapter, the gate on the input: sum_i scale_i B_i A_i dropout_i(gate_i x)."""
    out = x.new_zeros(*x.shape[:-1], len(stacked.B))
    a, b = stacked.A.split(stacked.ranks), stacked.B.split(stacked.ranks, 1)
    for i, scale in enumerate(stacked.scales):
        gated = gates[..., i, None].to(x.dtype) * x
        if dropouts:
            gated = F.dropout(gated, dropouts[i])
        out = out + scale * F.linear(F.linear(gated, a[i]), b[i])
    return out
