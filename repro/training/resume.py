"""A training that is kept while it goes on, and goes on from there when its process is gone.

Weights, the optimiser's state and the random generators go to safetensors, everything else to JSON; nothing is pickled.
On one device a training that was taken up ends with the bits of one that was not interrupted. One that several
processes share (`repro.training.distributed`) is kept whole, by the first of them.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from repro.data.base import order_seed
from repro.training.loop import Position, Stateful, Trained

log = logging.getLogger(__name__)
STATE, FACTS = "state.safetensors", "facts.json"


class CannotKeep(ValueError):
    """This training cannot be kept; the message says why."""


class Checkpoints:
    """Keeps the trainings of one run below a folder; the n-th training of the run is the n-th when it is done again.

    Args:
        folder: for this run alone.
        every: steps from one checkpoint to the next; 0: with every evaluation.

    The last two are there, and one that is damaged is passed over. `begin` raises CannotKeep for a training that has a
    ``before_step`` of which it is not said what it keeps.
    """

    def __init__(self, folder: Path | str, every: int = 0):
        self.folder, self.every = Path(folder), every
        self.trainings = 0
        #: steps that were taken up, training by training
        self.taken_up: list[int] = []
        self.rank = dist.get_rank() if dist.is_initialized() else 0

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, stateful: Mapping[str, Stateful] | None) -> int:
        if stateful is None:
            raise CannotKeep(
                "this training keeps something from step to step (its before_step) that a checkpoint would not hold; "
                "fit and train take it as `stateful`"
            )
        self.place = self.folder / f"training-{self.trainings}"
        self.trainings += 1
        self.model, self.optimizer, self.stateful = model, optimizer, stateful
        self.found = self._newest() if self.rank == 0 else None
        step = int(self.found.name) if self.found else 0
        if dist.is_initialized():
            agreed = torch.tensor(step, device=next(model.parameters()).device)
            dist.broadcast(agreed, 0)
            step = int(agreed)
            self.found = self.place / f"{step:09d}" if step else None
        self.taken_up.append(step)
        return step

    def after(self, position: Position, mark: bool) -> None:
        if position.step % self.every == 0 if self.every else mark:
            self._save(position)

    def _newest(self) -> Path | None:
        for place in sorted(self.place.glob("[0-9]*"), reverse=True):
            try:
                with safe_open(place / STATE, "pt") as file:
                    names = set(file.keys())
                facts = json.loads((place / FACTS).read_text())
                if facts["torch"] != torch.__version__:
                    log.warning("checkpoint %s is of torch %s: training from the beginning", place, facts["torch"])
                    return None
                if names == set(facts["tensors"]):
                    return place
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                log.warning("checkpoint %s is damaged (%s): taking the one before", place, error)
        return None

    def _save(self, position: Position) -> None:
        tensors = {f"model/{name}": _whole(tensor) for name, tensor in _weights(self.model)}
        for name, key, value in _moments(self.model, self.optimizer):
            tensors[f"optimizer/{name}/{key}"] = _whole(value)
        others: dict[str, Any] = {}
        for name, kept in self.stateful.items():
            others[name] = _split(kept.state_dict(), f"other/{name}", tensors)
        running = position.running.clone()
        for rank, generators in enumerate(_everywhere(_generators(running.device))):
            tensors[f"generators/{rank}"] = generators
        if dist.is_initialized():
            dist.all_reduce(running)
            running /= dist.get_world_size()
        tensors["running"] = running
        if self.rank == 0:
            facts = {
                "step": position.step, "since": position.since, "trained": asdict(position.trained),
                "frozen": [name for name, p in self.model.named_parameters() if not p.requires_grad],
                "others": others, "torch": torch.__version__, "tensors": sorted(tensors),
            }  # fmt: skip
            self._write(position.step, tensors, facts)

    def _write(self, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".", dir=self.place))
        try:
            save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, work / STATE)
            (work / FACTS).write_text(json.dumps(facts))
            target = self.place / f"{step:09d}"
            shutil.rmtree(target, ignore_errors=True)
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        for old in sorted(self.place.glob("[0-9]*"))[:-2]:
            shutil.rmtree(old, ignore_errors=True)

    @torch.no_grad()
    def restore(self, position: Position) -> None:
        assert self.found is not None
        facts = json.loads((self.found / FACTS).read_text())
        with safe_open(self.found / STATE, "pt") as file:
            for name, tensor in _weights(self.model):
                _local(tensor).copy_(_local(_like(file.get_tensor(f"model/{name}"), tensor)))
            frozen = set(facts["frozen"])
            parameters = dict(self.model.named_parameters())
            for name, parameter in parameters.items():
                parameter.requires_grad_(name not in frozen)
            for entry in facts["tensors"]:
                kind, _, rest = entry.partition("/")
                if kind == "optimizer":
                    name, _, key = rest.rpartition("/")
                    value = _like(file.get_tensor(entry), parameters[name])
                    self.optimizer.state[parameters[name]][key] = value
            for name, kept in self.stateful.items():
                kept.load_state_dict(_joined(facts["others"][name], file))
            position.step, position.since = facts["step"], facts["since"]
            position.running.copy_(file.get_tensor("running"))
            position.trained = Trained(**facts["trained"])
            mine = f"generators/{self.rank}"
            if mine in facts["tensors"]:
                _set_generators(file.get_tensor(mine), position.running.device)
            else:
                torch.manual_seed(order_seed(f"process {self.rank}", position.step))


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers, those too that a state dict leaves out; shared ones once."""
    yield from model.named_parameters()
    for name, buffer in model.named_buffers():
        yield f"buffer/{name}", buffer


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, str, Tensor]]:
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                raise CannotKeep(f"the optimiser keeps {key!r}, which is no tensor")
            yield name, key, value


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process has a part."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[operator]


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def _like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor on the other's device, spread over the processes as the other is where they have one shape."""
    tensor = tensor.to(other.device)
    if hasattr(other, "device_mesh") and tensor.shape == other.shape:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, other.device_mesh, other.placements)  # type: ignore[attr-defined]
    return tensor


def _generators(device: torch.device) -> Tensor:
    """States of torch's generators, of the CPU and of an accelerator, one after the other."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _set_generators(states: Tensor, device: torch.device) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(states[:size])
    if device.type == "cuda" and len(states) > size:
        torch.cuda.set_rng_state(states[size:], device)


def _everywhere(mine: Tensor) -> list[Tensor]:
    """The processes' tensors, by rank."""
    if not dist.is_initialized():
        return [mine]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine.tolist())
    return [torch.tensor(state, dtype=torch.uint8) for state in found]


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A state as JSON, its tensors under their paths in ``tensors``. Raises CannotKeep for what is neither."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping) and all(isinstance(key, (str, int)) for key in value):
        return {"map": [[key, _split(v, f"{path}/{i}", tensors)] for i, (key, v) in enumerate(value.items())]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_split(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise CannotKeep(f"a state holds a {type(value).__name__}, which is neither a tensor nor JSON")


def _joined(value: dict[str, Any], file: Any) -> Any:
    kind, content = next(iter(value.items()))
    if kind == "tensor":
        return file.get_tensor(content)
    if kind == "map":
        return {key: _joined(v, file) for key, v in content}
    if kind in ("list", "tuple"):
        found = [_joined(v, file) for v in content]
        return found if kind == "list" else tuple(found)
    return content
