"""Data-parallel processes on one machine: start them, and average their gradients."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


class Killed(RuntimeError):
    """A process did not end by itself."""


def launch(function: Callable[..., Any], processes: int, *arguments: Any, backend: str = "gloo") -> list[Any]:
    """Call ``function(*arguments)`` in so many processes with an initialised ``torch.distributed``.

    The function has to be importable by name (processes are spawned); inside, ``torch.distributed.get_rank()`` tells
    them apart. They meet through a file, so that no port is needed.

    Returns:
        What the processes returned, by rank; tensors and what pickles.

    Raises ProcessRaisedException (of ``torch.multiprocessing``) when one fails, Killed when one was killed: the others
    are ended, whatever they made of that.
    """
    with tempfile.TemporaryDirectory() as folder:
        started: Any = torch.multiprocessing.spawn(
            _work, (function, processes, arguments, backend, folder), processes, join=False
        )
        try:
            while not started.join():
                pass
        except Exception as error:
            for rank, process in enumerate(started.processes):
                if process.exitcode == -signal.SIGKILL:
                    message = f"process {rank} of {processes} was killed, as happens where memory runs out"
                    raise Killed(message) from error
            raise
        return [torch.load(Path(folder, f"{rank}.pt"), weights_only=False) for rank in range(processes)]


def _work(
    rank: int, function: Callable[..., Any], processes: int, arguments: tuple[Any, ...], backend: str, folder: str
) -> None:
    torch.set_num_threads(1)
    # what launchers tell the processes that they start; `accelerate` reads it
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
    }  # fmt: skip
    dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    try:
        torch.save(function(*arguments), Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


def average_gradients(model: nn.Module) -> None:
    """Replace every gradient by its mean over the processes, as a data-parallel step needs it. A parameter without a
    gradient in some process counts as zero there. Does nothing without an initialised process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    processes = dist.get_world_size()
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= processes
