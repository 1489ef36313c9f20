"""What a training step holds: weights, gradients, the optimiser's state, and what is kept for the backward pass.

*Measured* while a real optimiser trains a model (`MemoryMeter`), and *modelled* for models of any size on the meta
device (`step_memory`): shapes only, so that the published architecture itself is counted. The two agree to the byte
where the same operations run (a test holds them to it, on transformers' models); what has a leaner way on processors,
as `repro.models.norm.RMSNorm` and experts, keeps less there than on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from repro.profiling.memory import saved_bytes


class StepMemory(NamedTuple):
    """Bytes held in a training step, by part.

    ``activations``: tensors that autograd keeps at the end of the forward pass, each storage once, without weights.
    """

    weights: float
    gradients: float
    moments: float
    activations: float

    @property
    def states(self) -> float:
        """Gradients and moments: what freezing saves at least."""
        return self.gradients + self.moments

    @property
    def low(self) -> float:
        """Peak of a step from below: when the backward pass begins all activations are there, when it ends all
        gradients are."""
        return self.weights + self.moments + max(self.activations, self.gradients)

    @property
    def high(self) -> float:
        """Peak from above: all of them at once. Work space of kernels is in neither."""
        return self.weights + self.moments + self.activations + self.gradients


def weight_bytes(model: nn.Module) -> float:
    """Bytes of all parameters, frozen ones too."""
    return float(sum(p.nbytes for p in model.parameters()))


def step_memory(model: nn.Module, loss: Callable[[], Tensor], *, moment_bytes: int = 4, moments: int = 2) -> StepMemory:
    """A step's memory by its parts, from one forward pass and the parameters that are trainable now.

    Args:
        loss: gives the loss of a batch; on the meta device when the model is there.
        moment_bytes: of one value of a moment: 2 where weights and moments are in 16 bits, 4 in mixed precision.
        moments: kept per trainable parameter; 2 for Adam.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    return StepMemory(
        weight_bytes(model),
        float(sum(p.nbytes for p in trained)),
        float(moments * moment_bytes * sum(p.numel() for p in trained)),
        saved_bytes(model, loss),
    )


class MemoryMeter:
    """Largest gradients and optimiser state of a model while any optimiser of torch trains it, in bytes.

        with MemoryMeter(model) as meter:
            ...  # training
        meter.gradients, meter.moments

    Gradients are summed when `step` is called, the state when it returns; step counters (one number a parameter) are
    not counted. ``optimizer`` is what trains the model, known from its first step on; ``on_optimizer`` is called with
    it then, before that step.
    """

    def __init__(self, model: nn.Module, on_optimizer: Callable[[torch.optim.Optimizer], None] = lambda _: None):
        self.parameters = {id(p) for p in model.parameters()}
        self.on_optimizer = on_optimizer
        self.optimizer: torch.optim.Optimizer | None = None
        self.gradients = self.moments = 0.0
        self._handles: list[Any] = []

    def _mine(self, optimizer: Any) -> list[Tensor]:
        held = [p for group in optimizer.param_groups for p in group["params"]]
        return [p for p in held if id(p) in self.parameters]

    def _before(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        mine = self._mine(optimizer)
        if not mine:
            return
        if self.optimizer is None:
            self.optimizer = optimizer
            self.on_optimizer(optimizer)
        self.gradients = max(self.gradients, float(sum(p.grad.nbytes for p in mine if p.grad is not None)))

    def _after(self, optimizer: Any, _args: Any, _kwargs: Any) -> None:
        total = 0
        for parameter in self._mine(optimizer):
            state = optimizer.state.get(parameter, {})
            total += sum(v.nbytes for name, v in state.items() if torch.is_tensor(v) and name != "step")
        self.moments = max(self.moments, float(total))

    def state_dict(self) -> dict[str, float]:
        """What was found so far, for a training that is kept as it goes on."""
        return {"gradients": self.gradients, "moments": self.moments}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.gradients, self.moments = state["gradients"], state["moments"]

    def __enter__(self) -> MemoryMeter:
        self._handles = [
            register_optimizer_step_pre_hook(self._before), register_optimizer_step_post_hook(self._after)
        ]  # fmt: skip
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
