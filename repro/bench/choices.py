"""Group ``choices``: what was tried to make training faster, as ratios of times; below 1 it would pay.

Every cell compares a choice with what the library does, in turn within each repetition: two passes of half the experts
with one pass, seeds trained together in one batch with one after the other, a compiled model with an eager one, and
several processes and threads with one of each.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.bench.contenders import synchronised
from repro.bench.layer import WARMUP
from repro.bench.step import BATCH, LENGTH, VOCABULARY, Copy, Model
from repro.bench.timing import Quartiles, measure
from repro.models.decoder import Decoder, DecoderConfig
from repro.models.norm import RMSNorm
from repro.papers import ROOT
from repro.runner.worker import ONE_THREAD
from repro.training.initial import generator, initialise

REPETITIONS = 30
#: One pass of K experts, and two of K/2: the same routed compute, and no shared expert to run twice.
PAIRS = (
    (Model(16, 4, 1, 0), Model(16, 2, 2, 0)),
    (Model(64, 8, 1, 0), Model(64, 4, 2, 0)),
)
SEEDS = 3
#: Processes and threads of each.
LAYOUTS = ((1, 1), (1, 2), (2, 1), (2, 2))
LAYOUT_SECONDS = 6.0


def cells(device: str, quick: bool, repetitions: int | None, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure all; ``say`` hears of each. What does not run becomes a cell with ``error``."""
    count = repetitions or (3 if quick else REPETITIONS)
    parts: list[Callable[[], Iterator[dict[str, Any]]]] = [
        *(partial(two_passes, one, two, device, count) for one, two in PAIRS[: 1 if quick else None]),
        partial(stacked_seeds, device, count),
        partial(compiled, device, count),
    ]
    if device == "cpu":
        parts.append(partial(layouts, 1 if quick else 3, 0.5 if quick else LAYOUT_SECONDS))
    out: list[dict[str, Any]] = []
    for part in parts:
        for cell in part():
            out.append(cell)
            say(f"choices {cell['name']}")
    return out


def two_passes(one: Model, two: Model, device: str, repetitions: int) -> Iterator[dict[str, Any]]:
    """A training step with two passes of K/2 over one with a single pass of K."""
    tokens = example(device)
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    steps = {m: synchronised(Copy(m, tokens, device, dtype=dtype).step, device) for m in (one, two)}
    timings = measure({str(m): step for m, step in steps.items()}, repetitions, WARMUP)
    yield ratio_cell(
        f"two passes of K={two.k} over one of K={one.k}, {one.experts} experts",
        timings.ratio(str(two), str(one)),
        repetitions,
        "training step, no shared expert: equal routed compute",
    )


def stacked_seeds(device: str, repetitions: int) -> Iterator[dict[str, Any]]:
    """Forward and backward of several dense models together (torch.func.vmap over stacked weights) over one by one.

    Dense: routed tokens differ in number from seed to seed, so that layers of experts cannot be stacked this way.
    """
    name = f"{SEEDS} dense models stacked over one after the other"
    tokens = example(device)
    models: list[Any] = [dense_model(seed).to(device) for seed in range(SEEDS)]
    skeleton = copy.deepcopy(models[0]).to("meta")
    parameters, buffers = torch.func.stack_module_state(models)
    # the rotary tables are no state of a module that can be stacked when they are not persistent
    skeleton.rotary_emb = models[0].rotary_emb

    def loss(state: dict[str, Tensor], fixed: dict[str, Tensor]) -> Tensor:
        kept = {n: b for n, b in fixed.items() if not n.startswith("rotary_emb.")}
        found = torch.func.functional_call(skeleton, (state, kept), kwargs={"input_ids": tokens, "use_cache": False})
        return next_token_loss(found.logits, tokens)

    together = torch.func.vmap(torch.func.grad(loss))

    def one_by_one() -> list[dict[str, Tensor]]:
        found = []
        for model in models:
            next_token_loss(model(input_ids=tokens, use_cache=False).logits, tokens).backward()
            found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
            model.zero_grad(set_to_none=True)
        return found

    try:
        stacked = together(parameters, buffers)
    except RuntimeError as problem:
        yield {"name": name, "error": str(problem)[:200]}
        return
    for seed, gradients in enumerate(one_by_one()):
        for key, gradient in gradients.items():
            torch.testing.assert_close(stacked[key][seed], gradient, rtol=1e-3, atol=1e-4)
    racing = {"together": synchronised(lambda: together(parameters, buffers), device),
              "one by one": synchronised(one_by_one, device)}  # fmt: skip
    timings = measure(racing, repetitions, WARMUP)
    yield ratio_cell(name, timings.ratio("together", "one by one"), repetitions, "forward and backward")


def compiled(device: str, repetitions: int) -> Iterator[dict[str, Any]]:
    """Forward and backward of a compiled dense model over the eager one, and how long compiling took."""
    name = "compiled dense model over the eager one"
    tokens = example(device)
    eager = dense_model(0).to(device)
    fast: Any = torch.compile(dense_model(0).to(device))

    def run(model: Any) -> None:
        next_token_loss(model(input_ids=tokens, use_cache=False).logits, tokens).backward()
        model.zero_grad(set_to_none=True)

    began = time.perf_counter()
    try:
        run(fast)
    except Exception as problem:  # a missing compiler shows as one of many kinds
        yield {"name": name, "error": f"{type(problem).__name__}: {str(problem)[:160]}"}
        return
    took = time.perf_counter() - began
    timings = measure(
        {"compiled": synchronised(lambda: run(fast), device), "eager": synchronised(lambda: run(eager), device)},
        repetitions,
        WARMUP,
    )
    detail = f"forward and backward; the first step took {took:.0f} s, compiling included"
    yield ratio_cell(name, timings.ratio("compiled", "eager"), repetitions, detail)


def layouts(repetitions: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Training steps per second of several processes and threads, over those of one process with one thread; inverted,
    so that below 1 is faster, as everywhere."""
    rates: dict[tuple[int, int], list[float]] = {layout: [] for layout in LAYOUTS}
    for _ in range(repetitions):
        for layout in LAYOUTS:
            rates[layout].append(_steps_per_second(*layout, seconds))
    base = rates[1, 1]
    for layout in LAYOUTS[1:]:
        processes, threads = layout
        spread = Quartiles.of(tuple(b / r for b, r in zip(base, rates[layout], strict=True)))
        yield ratio_cell(
            f"{processes} process{'es' if processes > 1 else ''} of {threads} thread{'s' if threads > 1 else ''}, "
            "time per step over 1 process of 1 thread",
            spread,
            repetitions,
            f"{PAIRS[0][1]}, {os.cpu_count()} cores",
        )


_WORKER = """
import json, sys
from repro.bench.choices import work
print(json.dumps(work(int(sys.argv[1]), float(sys.argv[2]))))
"""


def _steps_per_second(processes: int, threads: int, seconds: float) -> float:
    environment = {**os.environ, **{k: str(threads) for k in ONE_THREAD if k.endswith("THREADS")}}
    command = [sys.executable, "-W", "ignore", "-c", _WORKER, str(threads), str(seconds)]
    running = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()  # ready
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    total = 0
    for process in running:
        total += json.loads(process.communicate()[0])
    return total / seconds


def work(threads: int, seconds: float) -> int:
    """Train in this process for so long, once a line comes in; returns the number of steps."""
    torch.set_num_threads(threads)
    step = Copy(PAIRS[0][1], example("cpu"), "cpu").step
    for _ in range(WARMUP + 1):
        step()
    print("ready", flush=True)
    sys.stdin.readline()
    done, end = 0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        step()
        done += 1
    return done


def example(device: str) -> Tensor:
    """The batch that every choice is tried on."""
    return torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator("bench tokens", 0)).to(device)


def dense_model(seed: int) -> Any:
    """A dense decoder of the laptop shape, with torch's own norm: stacking and compiling look into every operation."""
    model = Decoder(DecoderConfig(vocab_size=VOCABULARY))
    for name, module in list(model.named_modules()):
        if isinstance(module, RMSNorm):
            model.set_submodule(name, nn.RMSNorm(module.normalized_shape, eps=module.eps))
    return initialise(model, seed).train()


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy of the token that follows."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def ratio_cell(name: str, ratio: Quartiles, repetitions: int, detail: str) -> dict[str, Any]:
    """A cell as a document has it."""
    return {"name": name, "detail": detail, "repetitions": repetitions, "ratio": ratio.plain()}
