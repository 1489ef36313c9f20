"""Group ``layer``: one layer of routed experts, forward alone and forward with backward."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from repro.bench.contenders import agreement, all_transformers, gathered_bytes, synchronised
from repro.bench.summary import NAIVE, OURS, ROOF, TRANSFORMERS
from repro.bench.timing import Quartiles, Timings, measure
from repro.models import dispatch_cuda, fused_cuda
from repro.models.dispatch import WAYS, choose, run_experts
from repro.models.moe import SwiGLU
from repro.training.initial import generator


class Shape(NamedTuple):
    """T tokens, hidden size d, expert width f, N experts, K selected per token."""

    tokens: int
    hidden: int
    width: int
    experts: int
    k: int

    def __str__(self) -> str:
        return f"T={self.tokens} d={self.hidden} f={self.width} N={self.experts} K={self.k}"


FULL = tuple(
    Shape(*numbers)
    for numbers in (
        (512, 64, 32, 16, 4), (512, 64, 32, 16, 2), (1024, 64, 32, 16, 4), (1024, 64, 32, 16, 2),
        (1024, 64, 32, 64, 4), (1024, 64, 32, 16, 1), (2048, 64, 44, 16, 4), (2048, 128, 64, 8, 2),
        (4096, 128, 64, 64, 8), (4096, 256, 128, 16, 4), (8192, 256, 128, 32, 2), (16384, 128, 64, 8, 1),
        (4096, 512, 352, 32, 4), (2048, 1024, 704, 8, 2),
    )
)  # fmt: skip
#: On a GPU besides: the layer of Chain-of-Experts at its published size, in one pass of K = 8 or one of two of K = 4.
PUBLISHED = (Shape(32768, 1024, 704, 63, 8), Shape(32768, 1024, 704, 63, 4))
QUICK = (Shape(512, 64, 32, 16, 4), Shape(1024, 64, 32, 16, 2))
MODES = ("forward", "forward+backward")
REPETITIONS = 40
FEWEST = 5
WARMUP = 2
#: Seconds that one cell and mode may take before repetitions are saved.
BUDGET = 8.0
#: Seconds per repetition above which a contender is left out; ours and the roof never are.
SLOWEST = 2.0
MEMORY = 2 * 2**30
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}


def cells(device: str, quick: bool, repetitions: int | None, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the grid; ``say`` hears of each cell. ``repetitions`` None takes up to `REPETITIONS` within `BUDGET`."""
    out = []
    on_gpu = device.startswith("cuda")
    for shape in QUICK if quick else (*FULL, *(PUBLISHED if on_gpu else ())):
        if on_gpu:
            # grouped matmuls ask for rows of whole 16 bytes
            shape = shape._replace(width=shape.width + -shape.width % 8)
        for cell in measure_cell(shape, device, repetitions):
            say(f"layer {cell['name']} {cell['mode']}")
            out.append(cell)
    return out


def way_of(tokens: int, experts: int, k: int, size: int, device: str) -> str:
    """The automatic choice; ``size`` is hidden size times width of an expert."""
    if device.startswith("cuda"):
        return dispatch_cuda.choose(tokens, experts, k, size)
    return choose(tokens, experts, k, torch.device(device).type)


def measure_cell(shape: Shape, device: str, repetitions: int | None = None) -> Iterator[dict[str, Any]]:
    """Both modes of one shape, as a document has them (`repro.bench.document`)."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    problem = _Problem(shape, device, dtype)
    out_of_race = _check(problem, TOLERANCE[dtype])
    for mode in MODES:
        backward = mode == MODES[1]
        contenders: dict[str, dict[str, Any]] = {}
        racing: dict[str, Callable[[], object]] = {}
        expected = 0.0
        for name in problem.names:
            call = problem.call(name, backward)
            reason = out_of_race.get(name) or _too_large(problem, name, backward)
            took = 0.0
            if not reason:
                took = min(seconds_of(call) for _ in range(2))
                if took > SLOWEST and name not in (OURS, ROOF):
                    reason = {"skipped": f"takes {took:.1f} s"}
            contenders[name] = reason
            if not reason:
                racing[name] = call
                expected += took
        count = repetitions or max(FEWEST, min(REPETITIONS, int(BUDGET / max(expected, 1e-6)) - WARMUP))
        timings = measure(racing, count, WARMUP)
        for name in racing:
            contenders[name] = report(timings, name)
        cell = {
            "name": str(shape), "shape": shape._asdict(), "dtype": str(dtype).removeprefix("torch."), "mode": mode,
            "way": way_of(shape.tokens, shape.experts, shape.k, shape.hidden * shape.width, device),
            "repetitions": count, "contenders": contenders,
        }  # fmt: skip
        if device.startswith("cuda") and OURS in racing:
            cell["kernels"] = shares(racing[OURS])
        yield cell


#: What the name of a kernel says it does; the first that fits.
KERNELS = (
    ("products", ("gemm", "cutlass", "nvjet", "grouped", "sm90", "xmma", "cublas", "splitk")),
    ("sorting", ("sort", "scan", "histogram", "searchsorted", "onesweep")),
    ("moving rows", ("index", "gather", "scatter", "embedding", "cat", "copy", "memcpy", "memset", "fill")),
)


def kind_of(kernel: str) -> str:
    """What a kernel of the device does, by its name: one of `KERNELS`, or ``elementwise``."""
    name = kernel.lower()
    return next((kind for kind, words in KERNELS if any(word in name for word in words)), "elementwise")


def shares(call: Callable[[], object], repetitions: int = 3) -> dict[str, float]:
    """Share of each kind of kernel in the time that a GPU is busy with ``call``, and ``busy``: how much of the wall
    time that is, at most 1. Below 1 the processor cannot issue work as fast as it is done."""
    wall = seconds_of(lambda: [call() for _ in range(repetitions)])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        for _ in range(repetitions):
            call()
    spent: dict[str, float] = {}
    for event in found.key_averages():
        took = float(event.self_device_time_total)
        if took > 0 and event.device_type == torch.autograd.DeviceType.CUDA:
            spent[kind_of(event.key)] = spent.get(kind_of(event.key), 0.0) + took
    total = sum(spent.values())
    out = {kind: round(took / total, 3) for kind, took in sorted(spent.items(), key=lambda pair: -pair[1])}
    return {**out, "busy": round(min(1.0, total / 1e6 / wall), 3)}


def report(timings: Timings, name: str) -> dict[str, Any]:
    """Quartiles of a contender's milliseconds, and of the time of ours over its time."""
    out = {"ms": Quartiles.of(tuple(1e3 * s for s in timings.seconds[name])).plain()}
    if name != OURS and OURS in timings.seconds:
        out["ours_over"] = timings.ratio(OURS, name).plain()
    return out


def _check(problem: _Problem, tolerance: float) -> dict[str, dict[str, str]]:
    """Contenders that do not run, or that disagree with `naive` in the output or a gradient, each with the reason."""
    out: dict[str, dict[str, str]] = {}
    reference = problem.results(NAIVE)
    for name in problem.names:
        if name in (NAIVE, ROOF) or _too_large(problem, name, True):
            continue
        try:
            error = agreement(problem.results(name), reference, tolerance)
        except Exception as found:  # whatever another library raises is the reason why it has no time
            said = f"{type(found).__name__}: {str(found).partition(chr(10))[0][:200]}"
            out[name] = {"error" if name == OURS else "skipped": f"does not run: {said}"}
        else:
            if error:
                out[name] = {"error": error}
    return out


def _too_large(problem: _Problem, name: str, backward: bool) -> dict[str, str]:
    if name != f"{TRANSFORMERS}batched_mm":
        return {}
    tokens, hidden, width, _, k = problem.shape
    size = gathered_bytes(tokens, hidden, width, k, problem.x.element_size(), backward)
    return {"skipped": f"would need {size / 2**30:.1f} GiB"} if size > MEMORY else {}


def seconds_of(call: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _unfused(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    # a backward pass is by the way of its forward pass
    with fused_cuda.plain():
        return dispatch_cuda.lean(x, indices, weights, gate_up, down)


class _Problem:
    """Tokens, a routing, weights, a gradient from above, and the contenders on them.

    The dense layer (`ROOF`) is one SwiGLU of width K f: as many FLOPs as K experts of width f, without routing.
    """

    def __init__(self, shape: Shape, device: str, dtype: torch.dtype):
        self.shape, self.device = shape, device
        tokens, hidden, width, experts, k = shape
        draw = generator(f"bench {shape}", 0)

        def normal(*size: int, std: float = 1.0) -> Tensor:
            return (std * torch.randn(size, generator=draw)).to(device, dtype)

        self.x = normal(tokens, hidden).requires_grad_()
        self.dy = normal(tokens, hidden)
        # a standard deviation that keeps the scale of the stream, so that tolerances mean the same for all shapes
        self.gate_up = normal(experts, 2 * width, hidden, std=hidden**-0.5).requires_grad_()
        self.down = normal(experts, hidden, width, std=width**-0.5).requires_grad_()
        scores = torch.randn(tokens, experts, generator=draw).softmax(-1)
        weights, self.indices = (t.to(device) for t in scores.topk(k, dim=-1))
        self.weights = weights.requires_grad_()
        self.dense = SwiGLU(hidden, k * width).to(device, dtype)
        ways = {name: way for name, way in WAYS.items() if name != dispatch_cuda.NAME}
        if device.startswith("cuda"):
            ways |= {"lean": dispatch_cuda.lean, "lean unfused": _unfused}
        self.functions = {OURS: run_experts, **ways, **all_transformers()}
        self.names = [*self.functions, ROOF]

    def forward(self, name: str) -> Tensor:
        if name == ROOF:
            return self.dense(self.x)
        with dispatch_cuda.accelerated(self.device) if name == OURS else nullcontext():
            return self.functions[name](self.x, self.indices, self.weights, self.gate_up, self.down)

    def leaves(self, name: str) -> list[Tensor]:
        if name == ROOF:
            return [self.x, *self.dense.parameters()]
        return [self.x, self.weights, self.gate_up, self.down]

    def results(self, name: str) -> tuple[Tensor, ...]:
        """Output ``[T, d]`` and the gradients of tokens, gate weights and expert weights."""
        y = self.forward(name)
        return y.detach(), *torch.autograd.grad(y, self.leaves(name), self.dy)

    def call(self, name: str, backward: bool) -> Callable[[], object]:
        if backward:
            return synchronised(lambda: self.results(name), self.device)

        @torch.no_grad()
        def run() -> object:
            return self.forward(name)

        return synchronised(run, self.device)
