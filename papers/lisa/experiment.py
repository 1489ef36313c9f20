"""The arms of LISA: fine-tune a pretrained model in full, layer by layer, or with LoRA, and measure quality, memory,
and how far every layer moves."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from papers.lisa.method import LISA, decoder_layers
from papers.lisa.paper import Config, learning_rate
from repro.data.base import order_seed
from repro.runner import Context, Outcome
from repro.training.finetune import Finetuned, Policy, finetune, linear_names, with_lora
from repro.training.loop import Optimisation
from repro.zoo.subject import study


def run(config: Config, context: Context) -> Outcome:
    """Fine-tune one arm on one setting."""
    subject = study(config, context)
    model: nn.Module = subject.model
    depth = len(decoder_layers(model))
    base = sum(p.nbytes for p in model.parameters())
    tuned, policy = treated(config, model, context)
    norms = Norms(tuned, config.norm_every if config.norms else 0)
    found = finetune(
        tuned, subject.data,
        Optimisation(
            learning_rate(config), config.steps, config.warmup, config.schedule, betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay, clip=config.clip,
        ),
        context, batch=config.batch, eval_batches=config.eval_batches, evaluations=config.evaluations, policy=policy,
        watch=norms, stateful={"norms": norms}, dtype=config.autocast,
        exact=config.exact if config.exact >= 0 else None,
    )  # fmt: skip
    outcome = found.outcome
    outcome.data |= subject.describe()
    if subject.zoo:
        outcome.profile |= {f"base_{name}": value for name, value in subject.zoo.profile().items()}
    outcome.metrics |= costs(found, base)
    if isinstance(policy, LISA):
        outcome.metrics["never_trained"] = 100 * float((policy.visits == 0).double().mean())
        outcome.tables["visits"] = policy.visits.tolist()
    if config.norms:
        more, outcome.tables["norms"] = norms.summary(depth)
        outcome.metrics |= more
    return outcome


def treated(config: Config, model: nn.Module, context: Context) -> tuple[nn.Module, Policy | None]:
    """The model of an arm and what decides which parameters a step trains. Raises ValueError for an unknown way."""
    if config.way == "full":
        return model, None
    if config.way == "lisa":
        return model, LISA(
            model, config.gamma, config.period or config.steps, state=config.state,  # type: ignore[arg-type]
            seed=order_seed(f"layers {config.draw}", context.seed) % 2**62, always=config.always,
        )  # fmt: skip
    if config.way == "lora":
        found: Any = model
        outer = [_name_of(model, found.get_input_embeddings()), _name_of(model, found.get_output_embeddings())]
        targets = linear_names(model) + (outer if config.ends == "adapted" else [])
        whole = outer if config.ends == "trained" else []
        return with_lora(
            model, config.rank, alpha=config.alpha, targets=targets, whole=whole, seed=context.seed
        ), None  # fmt: skip
    raise ValueError(f"way is full, lisa or lora, not {config.way!r}")


def _name_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(path.rpartition(".")[2] for path, module in model.named_modules() if module is wanted)


def costs(found: Finetuned, base: float) -> dict[str, float]:
    """Memory and work of a step as metrics, so that claims can read them. ``base``: bytes of the model without
    adapters."""
    profile, memory = found.outcome.profile, found.memory
    return {
        "states_percent": 100 * memory.states / (3 * base),
        "states_mb": memory.states / 1e6,
        "activations_mb": memory.activations / 1e6,
        "memory_mb": memory.high / 1e6,
        "step_mflops_per_token": profile["train_flops"] / profile["train_tokens"] / 1e6,
    }


class Norms:
    """Norms of weights and updates per layer while a model is fine-tuned; call it with every step.

    ``every``: steps between two measurements; 0: never. An adapter counts as what it adds to the weight: its update is
    alpha / r B A, its weight is W + alpha / r B A.
    """

    def __init__(self, model: nn.Module, every: int):
        self.every = every
        self.weights: list[Tensor] = []
        self.updates: list[Tensor] = []
        if not every:
            return
        inner: Any = model
        if hasattr(model, "get_base_model"):
            inner = inner.get_base_model()
        parts = [inner.get_input_embeddings(), *decoder_layers(inner), inner.get_output_embeddings()]
        self.parts: list[list[Callable[[], tuple[Tensor, Tensor]]]] = [_reader(part) for part in parts]

    @torch.no_grad()
    def __call__(self, step: int) -> None:
        """Measure at every so-manieth step; step 0 is left out: nothing has moved yet."""
        if not self.every or not step or step % self.every:
            return
        weights, updates = [], []
        for part in self.parts:
            pairs = [read() for read in part]
            weights.append(torch.stack([w.float().square().sum() for w, _ in pairs]).sum().sqrt())
            updates.append(torch.stack([u.float().square().sum() for _, u in pairs]).sum().sqrt())
        self.weights.append(torch.stack(weights).cpu())
        self.updates.append(torch.stack(updates).cpu())

    def state_dict(self) -> dict[str, list[Tensor]]:
        """What was measured so far, for a training that is kept as it goes on."""
        return {"weights": self.weights, "updates": self.updates}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        self.weights, self.updates = state["weights"], state["updates"]

    def summary(self, depth: int) -> tuple[dict[str, float], dict[str, list[float]]]:
        """Skew, the larger mean norm of embedding and head over the median of the layers', of weights and of updates;
        and the means themselves: embedding, layers, head. Means over time, w_l = 1/T sum_t |theta_l^t|."""
        metrics, table = {}, {}
        for name, series in (("weight", self.weights), ("update", self.updates)):
            mean = torch.stack(series).double().mean(0).tolist()
            assert len(mean) == depth + 2
            middle = statistics.median(mean[1:-1])
            if middle:  # without it nothing was trained there, and there is no ratio
                metrics[f"{name}_skew"] = max(mean[0], mean[-1]) / middle
            table[name] = mean
        return metrics, table


def _reader(module: nn.Module) -> list[Callable[[], tuple[Tensor, Tensor]]]:
    """Functions that give the present weight and its change since now, one for each weight of a module."""
    out: list[Callable[[], tuple[Tensor, Tensor]]] = []
    adapted = set()
    for part in module.modules():
        if hasattr(part, "get_delta_weight"):
            layer: Any = part
            adapted |= {id(p) for p in part.parameters()}
            out.append(lambda layer=layer: _with_adapter(layer))  # type: ignore[misc]
    for parameter in module.parameters():
        if id(parameter) not in adapted:
            start = parameter.detach().clone()
            out.append(lambda p=parameter, start=start: (p.detach(), p.detach() - start))  # type: ignore[misc]
    return out


def _with_adapter(layer: Any) -> tuple[Tensor, Tensor]:
    update = layer.get_delta_weight("default").detach()
    return layer.get_base_layer().weight.detach() + update, update
