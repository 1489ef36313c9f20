"""Experiments that go wrong, for the runner's tests; named by dotted path, so that workers can import them."""

from __future__ import annotations

import os
import time

from repro.runner import Outcome


def fine(config, context):
    context.progress(1, 1, 0.5)
    return Outcome(metrics={"loss": float(context.seed), "pid": float(os.getpid())}, profile={"train_tokens": 1.0})


def slow(config, context):
    time.sleep(0.3)
    return fine(config, context)


def bulky(config, context):
    """A record of about 60 kB."""
    return Outcome(metrics={"loss": 0.5}, tables={"numbers": [context.seed + i / 7 for i in range(5000)]})


def raises(config, context):
    if context.seed == 1:
        raise RuntimeError("the reason <b>why</b>")
    return fine(config, context)


def overflows(config, context):
    """An accelerator without enough memory."""
    if context.seed == 1:
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory")
    return fine(config, context)


def dies(config, context):
    if context.seed == 1:
        os._exit(3)
    return fine(config, context)


def hangs(config, context):
    if context.seed == 1:
        time.sleep(600)
    return fine(config, context)


def swells(config, context):
    if context.seed == 1:
        ballast = bytearray(2 * 2**30)
        for page in range(0, len(ballast), 4096):
            ballast[page] = 1
        time.sleep(600)
    return fine(config, context)


def garbage(config, context):
    return "not an outcome" if context.seed == 1 else fine(config, context)


def diverges(config, context):
    return Outcome(metrics={"loss": float("nan")}, diverged=True)


def where(config, context):
    """Which copy of the project carries this out, in which process."""
    import repro

    return Outcome(metrics={"pid": float(os.getpid())}, data={"file": repro.__file__})


def makes_a_base_model(config, context):
    """Something dear that every run wants, made where it is not there yet."""
    from repro.data.cache import cache_dir

    place = cache_dir() / "zoo" / "base-0123"
    built = not place.is_dir()
    if built:
        place.mkdir(parents=True)
        (place / "weights").write_bytes(b"w" * 2**20)
    return Outcome(metrics={"built": float(built)})
