"""One training on many devices: the engine of `repro.training.loop.train` over `accelerate`.

Every process draws the same batches and takes an equal share of the rows, in order, so that together they take the
steps that one process would take, to rounding:

- The mean of the shares' gradients is the gradient of the batch where its loss is a mean over rows, or reads statistics
  of the whole batch that the processes have exchanged. Where the loss is a mean over targets that count, shares are
  weighted by their number. Nobody has to believe this: before the first step the loss of a whole batch is compared with
  what the shares give, and a loss that cannot be shared is refused.
- ``ddp`` keeps the whole model in each process and averages gradients; ``fsdp`` (FSDP2) keeps a share of each weight,
  gradient and moment, and gathers a block's weights while it computes.
- Held-out data are measured by every process, on all rows; the first one's figures count.

To be used inside processes that `repro.training.parallel.launch` started; ``repro run --processes`` does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from repro.data.base import IGNORED, Batch, order_seed
from repro.training.loop import Engine, Loss

Strategy = Literal["ddp", "fsdp"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)
#: Relative difference up to which the loss of a batch and that of its shares are the same but for rounding.
ROUNDING = 2e-5


class CannotShare(ValueError):
    """This training would not be the same on several processes; the message says why."""


class Share(NamedTuple):
    """A process's rows of a batch; ``weight`` of their loss in the mean over the processes."""

    batch: Any
    weight: float


def share(batch: Any, rank: int, processes: int) -> Share:
    """The rows of process ``rank``: a tensor, or a (named) tuple of tensors with one row for each example.

    Targets of a `Batch` that do not count leave shares with different numbers of them: ``weight`` is the share's number
    over the mean number.

    Raises CannotShare when there are no such rows, they do not divide, or a share has no target that counts.
    """
    parts = batch if isinstance(batch, tuple) else (batch,)
    if not parts or not all(isinstance(part, Tensor) and part.dim() for part in parts):
        raise CannotShare(f"a batch that is a {type(batch).__name__} has no rows to share")
    rows = len(parts[0])
    if any(len(part) != rows for part in parts):
        raise CannotShare("the parts of a batch have different numbers of rows")
    if rows % processes:
        raise CannotShare(f"{rows} rows of a batch do not divide between {processes} processes")
    mine = [part[rows // processes * rank : rows // processes * (rank + 1)] for part in parts]
    if not isinstance(batch, tuple):
        return Share(mine[0], 1.0)
    weight = 1.0
    if isinstance(batch, Batch):
        counts = (batch.targets.reshape(processes, -1) != IGNORED).sum(1)
        if not bool(counts.all()):
            raise CannotShare("a process's share of a batch has no target that counts")
        weight = float(counts[rank] * processes / counts.sum())
    return Share(type(batch)(*mine) if hasattr(batch, "_fields") else tuple(mine), weight)


class _Step(nn.Module):
    """The loss of a batch as a module around the model, so that a wrapper sees each forward pass whatever it calls."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> tuple[Tensor, Tensor | None]:
        return self.loss(batch)


class Processes(Engine):
    """Shares each step between the processes of ``torch.distributed``'s default group.

    Args:
        strategy: ``ddp`` or ``fsdp``.
        device: kind of the model's device, ``cpu`` or ``cuda``.

    `prepare` raises CannotShare for a training that cannot be shared.
    """

    def __init__(self, strategy: Strategy = "ddp", device: str = "cpu"):
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r}; choose from {', '.join(STRATEGIES)}")
        self.strategy, self.kind = strategy, device.partition(":")[0]
        self.rank, self.processes = dist.get_rank(), dist.get_world_size()
        self.trained = 0
        self.accelerator: Any = None

    def prepare(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss: Loss, batches: Iterable[Any]
    ) -> tuple[torch.optim.Optimizer, Loss, Iterator[Any]]:
        supply = iter(batches)
        first = list(itertools.islice(supply, 1))
        self.weights_seen = False
        for batch in first:
            self._check(model, loss, batch)
        if self.accelerator is None:
            self.accelerator = _accelerator(self.strategy, self.kind)
        self.trained += 1
        self.model, self.flags = model, _flags(model)
        if self.rank:  # dropout of other rows is another draw
            torch.manual_seed(order_seed(f"process {self.rank}", torch.initial_seed()))
        self.ordinary = _Ordinary(model)
        if self.strategy == "fsdp":
            self.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = blocks(model)
        self.step, prepared = self.accelerator.prepare(_Step(model, loss), optimizer)
        return prepared, self._loss(self.step), itertools.chain(first, supply)

    def _loss(self, step: Callable[[Any], tuple[Tensor, Tensor | None]]) -> Loss:
        def shared(batch: Any) -> tuple[Tensor, Tensor | None]:
            mine, weight = share(batch, self.rank, self.processes)
            reported, auxiliary = step(mine)
            if weight != 1.0:
                if not self.weights_seen:
                    raise CannotShare(
                        "the shares of this batch have different numbers of targets that count, those of the first had "
                        "not: it is not known whether the loss is a mean over targets"
                    )
                reported = reported * weight
            return reported, auxiliary

        return shared

    @torch.no_grad()
    def _check(self, model: nn.Module, loss: Loss, batch: Any) -> None:
        """Compare the loss of a batch with the mean of the shares' losses, in training mode but without dropout.

        Comes before the first ``before_step``, as the profile's passes do: what passes leave behind is to be dropped
        there.
        """
        mine, weight = share(batch, self.rank, self.processes)
        weights = torch.tensor([weight != 1.0], device=_device(model), dtype=torch.float32)
        dist.all_reduce(weights)
        self.weights_seen = bool(weights)
        with _undisturbed(model):
            whole, part = loss(batch), loss(mine)
        names = ("loss", "auxiliary loss")
        for name, expected, found, scale in zip(names, whole, part, (weight, 1.0), strict=True):
            if expected is None or found is None:
                continue
            mean = self.mean(found * scale)
            if not abs(mean - float(expected)) <= ROUNDING * max(abs(float(expected)), 1e-6):
                raise CannotShare(
                    f"the {name} of a batch, {float(expected):.7g}, is not the mean over the shares of "
                    f"{self.processes} processes, {mean:.7g}: it reads the batch as a whole"
                )

    def passing(self, last: bool) -> AbstractContextManager[Any]:
        if _flags(self.model) != self.flags:
            raise CannotShare("parameters are frozen or thawed between steps, and the processes share what was trained")
        return nullcontext() if last else self.accelerator.no_sync(self.step)

    def backward(self, total: Tensor) -> None:
        self.accelerator.backward(total)

    def clip(self, model: nn.Module, norm: float) -> None:
        self.accelerator.clip_grad_norm_(self.step.parameters(), norm)

    def mean(self, value: Tensor) -> float:
        total = value.detach().clone()
        dist.all_reduce(total)
        return float(total) / self.processes

    def evaluate(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        with self._whole():
            found = evaluate()
        values = torch.tensor(list(found.values()), dtype=torch.float64, device=_device(self.model))
        dist.broadcast(values, 0)
        return dict(zip(found, values.tolist(), strict=True))

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """All weights gathered."""
        sharded: list[Any] = [m for m in self.step.modules() if hasattr(m, "unshard")]
        for module in sharded:
            module.unshard()
        try:
            yield
        finally:
            for module in sharded:
                module.reshard()

    def finish(self, model: nn.Module) -> None:
        self.ordinary.restore()
        self.accelerator.free_memory()
        del self.step, self.ordinary


def _flags(model: nn.Module) -> tuple[bool, ...]:
    return tuple(p.requires_grad for p in model.parameters())


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Passes without dropout that leave buffers, modes and the generators as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    devices = [_device(model)] if _device(model).type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)
        for module, mode in modes:
            module.training = mode


def _accelerator(strategy: str, kind: str) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, DistributedType, FullyShardedDataParallelPlugin

    if strategy == "ddp":
        # an expert that no token of a step selects has no gradient
        options = [DistributedDataParallelKwargs(find_unused_parameters=True)]
        return Accelerator(cpu=kind == "cpu", mixed_precision="no", kwargs_handlers=options)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, reshard_after_forward=True, auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
    )  # fmt: skip
    accelerator = Accelerator(cpu=kind == "cpu", mixed_precision="no", fsdp_plugin=plugin)
    if kind == "cpu":  # accelerate offers it for accelerators only; what it does there works here
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator


def blocks(model: nn.Module) -> list[str]:
    """Names of the classes of a model's blocks, whose weights are gathered together: the members of its outermost lists
    of modules, unless they are single layers."""
    found: dict[str, None] = {}
    queue = [model]
    while queue:
        module = queue.pop(0)
        if isinstance(module, nn.ModuleList):
            found |= {type(child).__name__: None for child in module if next(child.children(), None) is not None}
        else:
            queue += module.children()
    return list(found)


class _Ordinary:
    """A model as it was, to be made so again: FSDP changes the classes, hooks and parameters of its modules."""

    HOOKS = (
        "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
        "_forward_hooks_always_called",
    )  # fmt: skip

    def __init__(self, model: nn.Module):
        self.modules = [
            (module, module.__class__, set(vars(module)), {name: dict(getattr(module, name)) for name in self.HOOKS})
            for module in model.modules()
        ]

    def restore(self) -> None:
        """Undo it, with the weights that there are now."""
        whole: dict[Tensor, nn.Parameter] = {}
        for module, kind, names, hooks in self.modules:
            module.__class__ = kind
            for name in set(vars(module)) - names:
                delattr(module, name)
            for name, before in hooks.items():
                now = getattr(module, name)
                now.clear()
                now.update(before)
            for name, parameter in module._parameters.items():
                if parameter is not None and hasattr(parameter, "full_tensor"):
                    if parameter not in whole:
                        whole[parameter] = nn.Parameter(parameter.full_tensor().detach(), parameter.requires_grad)
                    module._parameters[name] = whole[parameter]
