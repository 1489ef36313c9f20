"""From a pretrained model to an outcome: the frame of every experiment that fine-tunes a language model.

What is trained is a *policy*: everything, adapters (`with_lora`), or anything that freezes and thaws parameters from
step to step. The frame goes through `repro.training.fit.fit`, so that data order, loop, profile and evaluation are
those of training from scratch; it adds the memory that was measured, bits per byte, and exact match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import nn

from repro.data.base import Batch, LanguageData, order_seed
from repro.evaluation.responses import bits_per_byte, exact_match
from repro.profiling.training_memory import MemoryMeter, StepMemory, weight_bytes
from repro.runner.outcome import Context, Outcome
from repro.training.fit import evaluate, fit, predict
from repro.training.loop import Optimisation, Stateful

if TYPE_CHECKING:
    from peft import PeftModel


class Policy(Stateful, Protocol):
    """Which parameters a step trains, and the state by which it goes on where a training is taken up."""

    def before_step(self, step: int) -> None:
        """Freeze and thaw for ``step``, counted from 0. Called twice for step 0: the model is profiled as the first
        step finds it."""
        ...

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Learn the optimiser; called once, before its first step."""
        ...


class Fixed:
    """What is trainable at the start is trained throughout."""

    def before_step(self, step: int) -> None:
        return None

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        return None

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return None


class Finetuned(NamedTuple):
    """What fine-tuning left: the outcome so far, held-out batches for further analysis, the memory of a step."""

    outcome: Outcome
    held_out: list[Batch]
    memory: StepMemory


def linear_names(model: nn.Module) -> list[str]:
    """Last names of the linear layers of the decoder, the head not among them: what adapters usually go into."""
    found: Any = model
    head = found.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = {
        path.rpartition(".")[2]
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    return sorted(names)


def with_lora(
    model: nn.Module,
    rank: int,
    *,
    alpha: float = 0.0,
    targets: Iterable[str] = (),
    whole: Iterable[str] = (),
    dropout: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype | None = None,
) -> PeftModel:
    """The model with LoRA adapters (peft), everything else frozen.

    Args:
        alpha: numerator of the scale alpha / rank; 0: twice the rank, a scale of 2.
        targets: last names of the modules to adapt, linear or embedding; empty: all linears but the head.
        whole: last names of modules that are trained in full beside them.
        seed: of the adapters' first weights; the global generator is left as it was.
        dtype: of the adapters; that of the model by default. (peft's own default is float32 beside a model in 16 bits:
            every adapted layer then keeps its input a second time, in float32.)
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM", r=rank, lora_alpha=alpha or 2 * rank,  # type: ignore[arg-type]
        target_modules=list(targets) or linear_names(model), lora_dropout=dropout,
    )  # fmt: skip
    kept = set(whole)
    first = next(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(order_seed("adapters", seed))
        found: Any = model
        adapted: Any = get_peft_model(
            found, config, autocast_adapter_dtype=False, low_cpu_mem_usage=first.device.type == "meta"
        )
    for name, parameter in adapted.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(dtype or first.dtype)
    for path, module in adapted.named_modules():
        if path.rpartition(".")[2] in kept:
            module.requires_grad_(True)
    return adapted


def finetune(
    model: nn.Module,
    data: LanguageData,
    optimisation: Optimisation,
    context: Context,
    *,
    batch: int,
    eval_batches: int,
    evaluations: int = 5,
    policy: Policy | None = None,
    watch: Callable[[int], None] | None = None,
    stateful: Mapping[str, Stateful] | None = None,
    dtype: str = "float32",
    exact: int | None = None,
) -> Finetuned:
    """Fine-tune a pretrained model in the order that the run's seed gives; measure it before and after.

    Args:
        policy: what is trained; `Fixed` by default.
        watch: called with every step from 0 after the policy, and with the number of steps at the end.
        stateful: what ``watch`` keeps from step to step; a training with a watch of which it is not said cannot be kept
            as it goes on.
        exact: also measure exact match on rows whose response has this mark (0: on all); None: not.
        batch, eval_batches, evaluations, dtype: as in `repro.training.fit.fit`.

    Returns:
        An outcome with the metrics of `fit`, ``bits_per_byte`` of the targets that count, ``bits_before`` fine-tuning
        and ``bits_gained``, their difference, and ``exact_match``; in its profile the bytes of `StepMemory`:
        ``weight_bytes``, ``gradient_bytes`` and ``moment_bytes`` as measured at the optimiser (the largest of all
        steps), ``activation_bytes`` of a batch at the first step.
    """
    policy = policy or Fixed()
    held_out = [b.to(context.device) for b in data.held_out_batches(eval_batches, batch)]
    before = evaluate(model.eval(), held_out)["loss"]
    policy.before_step(0)

    def before_step(step: int) -> None:
        policy.before_step(step)
        if watch is not None:
            watch(step)

    with MemoryMeter(model, policy.attach) as meter:
        kept: Any = {"policy": policy, "memory": meter, **(stateful or {})}
        outcome, held_out = fit(
            model, data, optimisation, context, batch=batch, eval_batches=eval_batches, evaluations=evaluations,
            dtype=dtype, before_step=before_step, stateful=None if watch is not None and stateful is None else kept,
        )  # fmt: skip
    if watch is not None:
        watch(optimisation.steps)
    activations = outcome.profile["activation_bytes_per_token"] * batch * data.sequence
    memory = StepMemory(weight_bytes(model), meter.gradients, meter.moments, activations)
    outcome.profile |= {
        "weight_bytes": memory.weights, "gradient_bytes": memory.gradients, "moment_bytes": memory.moments,
        "activation_bytes": memory.activations, "eval_tokens": float(sum(b.tokens for b in held_out)),
    }  # fmt: skip
    unit = bits_per_byte(1.0, held_out, data.tokenizer)
    outcome.metrics["bits_per_byte"] = unit * outcome.metrics["loss"]
    outcome.metrics["bits_before"] = unit * before
    outcome.metrics["bits_gained"] = outcome.metrics["bits_before"] - outcome.metrics["bits_per_byte"]
    if exact is not None:
        outcome.metrics["exact_match"] = exact_match(lambda inputs: predict(model, inputs)[0], held_out, exact)
    return Finetuned(outcome, held_out, memory)
