"""What the processes of `test_parallel` do; importable by name."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from repro.training.parallel import average_gradients


def gradients(rows: torch.Tensor) -> list[torch.Tensor]:
    """Averaged gradients of a linear layer (and of one that only the first process uses) for this process's rows."""
    layer, rare = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.5)
        rare.weight.fill_(0.5)
    mine = rows.chunk(dist.get_world_size())[dist.get_rank()]
    loss = layer(mine).square().mean()
    if dist.get_rank() == 0:
        loss = loss + rare(mine).square().mean()
    loss.backward()
    average_gradients(nn.ModuleList([layer, rare]))
    return [layer.weight.grad, rare.weight.grad]  # type: ignore[list-item]


def fail() -> None:
    raise RuntimeError(f"rank {dist.get_rank()} fails")
