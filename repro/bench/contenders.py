"""What is timed against what: ours, each way of dispatch, transformers' implementations, a dense layer.

All but the dense layer are functions of one signature, that of `repro.models.dispatch.naive`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers.models.deepseek_v2.configuration_deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Experts

from repro.bench.summary import TRANSFORMERS
from repro.models.dispatch import WAYS, Dispatch
from repro.models.ways import forced

#: transformers' implementations that need no kernel beyond torch's; its layers take ``experts_implementation``.
IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")


def transformers_experts(implementation: str) -> Dispatch:
    """The experts of a transformers model (DeepSeek-V2's class, which packs weights as ours are packed), called
    through transformers' own choice of implementation."""
    modules: dict[int, Any] = {}

    def run(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        count = gate_up.shape[0]
        if count not in modules:
            modules[count] = _module(implementation, count, x.shape[1], down.shape[2])
        module = modules[count]
        module._parameters["gate_up_proj"], module._parameters["down_proj"] = gate_up, down
        return module(x, indices, weights)

    return run


def _module(implementation: str, experts: int, hidden: int, width: int) -> Any:
    config: Any = DeepseekV2Config(
        hidden_size=hidden, moe_intermediate_size=width, n_routed_experts=experts, num_attention_heads=1
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        module: Any = DeepseekV2Experts(config)
    if module.num_experts != experts:
        raise RuntimeError(f"transformers made {module.num_experts} experts of {experts}")
    return module


def all_transformers() -> dict[str, Dispatch]:
    """Name of the contender to its function."""
    return {f"{TRANSFORMERS}{name}": transformers_experts(name) for name in IMPLEMENTATIONS}


def gathered_bytes(tokens: int, hidden: int, width: int, k: int, itemsize: int, backward: bool) -> int:
    """What ``batched_mm`` holds: the weights of the selected experts once per token, and as much for gradients."""
    return tokens * k * 3 * hidden * width * itemsize * (2 if backward else 1)


@contextlib.contextmanager
def instead(way: Dispatch) -> Iterator[None]:
    """Inside the block `run_experts` calls this function, whatever the shape."""
    name = "grouped"
    before, WAYS[name] = WAYS[name], way
    try:
        with forced(name):
            yield
    finally:
        WAYS[name] = before


def synchronised(call: Callable[[], object], device: str) -> Callable[[], object]:
    """The call, returning when the device is done with it."""
    if not device.startswith("cuda"):
        return call

    def run() -> object:
        out = call()
        torch.cuda.synchronize(device)
        return out

    return run


def agreement(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...], tolerance: float) -> str:
    """Empty where tensors agree up to ``tolerance``, relative to the largest entry; else by how much they do not."""
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        a, b = a.detach().float(), b.detach().float()
        scale = float(b.abs().max())
        if not torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale):
            return f"result {i} differs by {float((a - b).abs().max()) / max(scale, 1e-30):.1e} of its largest entry"
    return ""
