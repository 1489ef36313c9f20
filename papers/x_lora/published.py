"""The released models by arithmetic and on the meta device: what the head has, and what two passes cost.

Which modules are adapted and with which rank is not known of the Zephyr release; its head file tells that there are 160
modules, five per block. FLOPs are for q, k, v, o and gate, with ranks 16 and 64.
"""

from __future__ import annotations

from papers.x_lora.method import head_parameters
from repro.profiling.architectures import ARCHITECTURES, Architecture, on_meta

#: Of the releases: hidden width, adapters, modules, depth of the head.
ZEPHYR = {"hidden": 4096, "adapters": 9, "modules": 160, "depth": 1}
GEMMA = {"hidden": 3072, "adapters": 4, "modules": 196, "depth": 2}
RANKS = (16, 64)
#: Tokens of a prompt, and generated.
PROMPT, GENERATED = 512, 256
HALF = 2


def adapted(shape: Architecture) -> list[tuple[int, int]]:
    """Widths in and out of the five modules of a block that FLOPs are counted for: q, k, v, o, gate."""
    d, kv = shape.hidden, shape.hidden // shape.heads * shape.kv_heads
    return [(d, d), (d, kv), (d, kv), (d, d), (d, shape.width)]


def adapter_parameters(shape: Architecture, rank: int) -> int:
    """Parameters of one adapter."""
    return shape.layers * sum(rank * (a + b) for a, b in adapted(shape))


def forward_flops(shape: Architecture, rank: int, adapters: int, tokens: int) -> float:
    """FLOPs per token of a forward pass over ``tokens`` with so many adapters mixed in: 2 per multiplication of a
    weight, and 4 t d per layer for attention, causal masking not discounted."""
    d, kv = shape.hidden, shape.hidden // shape.heads * shape.kv_heads
    block = 2 * d * d + 2 * d * kv + 3 * d * shape.width
    weights = shape.layers * block + d * shape.vocab + adapters * adapter_parameters(shape, rank)
    return 2.0 * weights + 4.0 * tokens * d * shape.layers


def flops_ratio(shape: Architecture, rank: int, adapters: int, head: int, tokens: int) -> float:
    """X-LoRA over the model with one adapter: a pass without adapters, the head, and a pass with all of them."""
    both = forward_flops(shape, rank, 0, tokens) + 2.0 * head + forward_flops(shape, rank, adapters, tokens)
    return both / forward_flops(shape, rank, 1, tokens)


def generation_ratio(prompt: int, generated: int) -> float:
    """Tokens that are computed to generate, twice the whole prefix for each, over those with a cache, each once."""
    return 2 * sum(prompt + i for i in range(generated)) / (prompt + generated - 1)


def accounting() -> dict[str, float]:
    """Every cost figure that the claims name, recomputed, and those that put them into proportion."""
    shape = ARCHITECTURES["mistral-7b"]
    base = sum(p.numel() for p in on_meta(shape).parameters())
    out: dict[str, float] = {"base_zephyr-7b": base, f"generation_ratio_{PROMPT}_{GENERATED}": generation_ratio(
        PROMPT, GENERATED)}  # fmt: skip
    for name, release in (("zephyr-7b", ZEPHYR), ("gemma-7b", GEMMA)):
        head = head_parameters(**release)
        out |= {f"head_{name}": head, f"head_mb_{name}": HALF * head / 1e6}
    head = head_parameters(**ZEPHYR)
    out["head_percent_zephyr-7b"] = 100 * head / base
    for rank in RANKS:
        out |= {
            f"adapters_over_head_r{rank}_zephyr-7b": ZEPHYR["adapters"] * adapter_parameters(shape, rank) / head,
            f"flops_ratio_r{rank}_zephyr-7b": flops_ratio(shape, rank, ZEPHYR["adapters"], head, PROMPT),
        }
    return out
