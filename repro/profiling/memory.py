"""Memory, measured and counted."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any


class PeakMemory:
    """Peak memory of a block, in bytes: allocated device memory on CUDA, resident memory of the process elsewhere.

    Resident memory holds the interpreter and its libraries too, so it bounds a run's need from above;
    `training_bytes` counts what the training itself holds. It is known where the kernel keeps a high-water mark and
    lets a process reset it (Linux); elsewhere ``peak_bytes`` stays nan.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.peak_bytes = math.nan
        self._reset = False

    def __enter__(self) -> PeakMemory:
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the kernel's way to reset the high-water mark
                self._reset = True
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self.device.startswith("cuda"):
            import torch

            self.peak_bytes = float(torch.cuda.max_memory_allocated())
        elif self._reset:
            with open("/proc/self/status") as file:
                for line in file:
                    if line.startswith("VmHWM"):
                        self.peak_bytes = float(line.split()[1]) * 1024


def saved_bytes(model: Any, function: Callable[[], Any]) -> float:
    """Bytes of the distinct storages that autograd keeps for the backward pass of ``function()``.

    Parameters of ``model`` are not counted: they are there anyway. Views of one storage count once, a sparse tensor as
    its indices and values. On the meta device too: shapes alone decide.
    """
    import torch

    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    seen: dict[int, int] = {}
    held = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        for storage in (part.untyped_storage() for part in _dense_parts(tensor)):
            if storage._cdata not in weights:
                seen[storage._cdata] = storage.nbytes()
                held.append(storage)  # an address must not be used again while we count
        return tensor.detach()  # a function that keeps its own result would else keep itself, for ever

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    del result
    return float(sum(seen.values()))


def _dense_parts(tensor: Any) -> tuple[Any, ...]:
    """The tensors with a storage that a tensor consists of."""
    import torch

    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)


def training_bytes(parameters: float, *, weight: int = 4, gradient: int = 4, optimizer: int = 8) -> float:
    """Bytes of weights, gradients and Adam's two moments; 16 per parameter in float32."""
    return parameters * (weight + gradient + optimizer)
