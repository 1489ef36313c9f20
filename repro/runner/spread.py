"""One run on several processes of this machine, each of which shares its trainings with the others."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from repro.runner.outcome import Outcome
from repro.runner.plan import Run
from repro.runner.worker import Elsewhere, Progress, describe, die_with_parent, perform

#: Seconds between two looks at what the processes say.
TICK = 0.1


def spread(run: Run, progress: Progress | None = None) -> tuple[Outcome, list[int]]:
    """Carry out the experiment in ``run.processes`` processes: what the first of them found, as `perform` has it.

    Raises Elsewhere with what the first process to fail raised, Killed when one was killed; the others are ended.
    """
    from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

    from repro.training.distributed import CannotShare
    from repro.training.parallel import launch

    backend = "gloo"
    if run.device.startswith("cuda"):
        import torch

        backend, there = "nccl", torch.cuda.device_count()
        if there < run.processes:
            raise CannotShare(f"{run.processes} processes need as many accelerators; there are {there}")
    readers, writers = zip(*(multiprocessing.Pipe(duplex=False) for _ in range(run.processes)), strict=True)
    with _listening(readers, progress) as errors:
        try:
            found = launch(_take_part, run.processes, run, writers, backend=backend)
        except (ProcessRaisedException, ProcessExitedException) as error:
            failure: Exception = error
        else:
            return found[0]
        finally:
            for writer in writers:
                writer.close()
    raise Elsewhere(*errors[0]) if errors else failure


@contextmanager
def _listening(readers: Sequence[Any], progress: Progress | None) -> Iterator[list[tuple[str, dict[str, str]]]]:
    """Pass on what the processes say of their steps; gives the list of what they say of errors, in their order."""
    errors: list[tuple[str, dict[str, str]]] = []
    over = threading.Event()

    def take(reader: Any) -> None:
        with contextlib.suppress(EOFError, OSError):
            while reader.poll():
                kind, *content = reader.recv()
                if kind == "error":
                    errors.append((content[0], content[1]))
                elif progress is not None:
                    progress(*content)

    def listen() -> None:
        last = False
        while not last:
            last = over.wait(TICK)
            for reader in readers:
                take(reader)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield errors
    finally:
        over.set()
        listener.join()
        for reader in readers:
            reader.close()


def _take_part(run: Run, writers: Sequence[Any]) -> tuple[Outcome, list[int]] | None:
    """What each process does; the first one returns the outcome."""
    die_with_parent()
    import torch
    import torch.distributed as dist

    from repro.training.distributed import CannotShare, Processes

    rank = dist.get_rank()
    if run.device.startswith("cuda"):
        torch.cuda.set_device(rank)
        run = replace(run, device=f"cuda:{rank}")
    engine = Processes(run.strategy, run.device)  # type: ignore[arg-type]
    try:
        found = perform(run, (lambda *step: writers[0].send(("step", *step))) if rank == 0 else None, engine)
        if not engine.trained:
            raise CannotShare("this run trains nothing that processes could share: carry it out with one")
    except MemoryError as problem:
        writers[rank].send(("error", "memory", describe(problem)))
        raise
    except Exception as problem:
        writers[rank].send(("error", "failed", describe(problem)))
        raise
    return found if rank == 0 else None
