"""From a fresh model to an outcome on a graph: the frame of experiments that classify nodes with the whole graph in
every step."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro.data.base import order_seed
from repro.data.hetero import HeteroGraph, NodeData
from repro.evaluation.nodes import f1_scores
from repro.profiling.counts import count_parameters, count_step
from repro.profiling.memory import saved_bytes
from repro.runner.outcome import Context, Outcome
from repro.training.initial import generator
from repro.training.loop import Optimisation, Trained


class Classified(NamedTuple):
    """What a model says of the nodes of the target type."""

    logits: Tensor
    """[nodes, classes]"""
    auxiliary: Tensor | None = None
    """A loss that is added in training"""


class Classifier(Protocol):
    """A module that classifies the nodes of the target type of a graph."""

    def __call__(self, graph: HeteroGraph) -> Classified: ...


class FittedNodes(NamedTuple):
    """What training left: the outcome so far; the model has the weights of its best validation loss."""

    outcome: Outcome
    graph: HeteroGraph
    """What test nodes are classified on"""


@torch.no_grad()
def xavier(model: nn.Module, seed: int, gain: Callable[[str], float] = lambda _: math.sqrt(2)) -> nn.Module:
    """Draw all weights anew, in place: every matrix Xavier-normal with the gain that its name has, a stack of matrices
    one by one; embeddings N(0, 1); vectors named ``bias`` 0, others 1.

    Every tensor has a generator of its own, seeded by ``seed`` and its name, so that models that share a name and a
    shape start alike.
    """
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}"
            if isinstance(module, nn.Embedding):
                parameter.copy_(torch.empty(parameter.shape).normal_(generator=generator(full, seed)))
            elif parameter.dim() == 1:
                parameter.fill_(0.0 if name == "bias" else 1.0)
            else:
                drawn = torch.empty(parameter.shape)
                source = generator(full, seed)
                for matrix in drawn.view(-1, *parameter.shape[-2:]):
                    nn.init.xavier_normal_(matrix, gain(full), generator=source)
                parameter.copy_(drawn)
    return model


def fit_nodes(
    model: nn.Module,
    data: NodeData,
    optimisation: Optimisation,
    context: Context,
    *,
    inductive: bool = False,
    evaluations: int = 30,
    decayed: Callable[[str], bool] = lambda name: not name.endswith("bias"),
) -> FittedNodes:
    """Train a classifier of nodes, already initialised, with the whole graph in every step, and measure it.

    Adam with the weight decay added to the gradient (the usage of graph networks). After training the weights of the
    evaluation with the lowest validation loss are taken back, and test nodes are classified with them.

    Args:
        model: a `Classifier`.
        inductive: training and validation on the graph without edges of test nodes; the test on the whole graph.
        evaluations: how often the model is evaluated, evenly spread, the last time after the last step.
        decayed: which parameters, by name, have weight decay.

    Returns:
        metrics ``error`` (100 - micro-F1), ``micro_f1``, ``macro_f1`` in percent, ``loss`` (nats) on test nodes,
        ``validation_loss`` and ``best_step``; curves of ``error``, ``loss`` and ``validation_loss`` over steps.
    """
    data = data.to(context.device)
    seen = data.observed(inductive)
    model.to(context.device)

    def loss_on(graph: HeteroGraph, nodes: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        found = model(graph)
        return F.cross_entropy(found.logits[nodes], data.labels[nodes]), found.auxiliary, found.logits

    def step_loss() -> Tensor:
        own, auxiliary, _ = loss_on(seen, data.train)
        return own if auxiliary is None else own + auxiliary

    profile = profile_nodes(model, step_loss, optimisation.steps, len(data.train), context.seed)
    groups = [
        {"params": [p for n, p in model.named_parameters() if decayed(n) == wanted],
         "weight_decay": optimisation.weight_decay if wanted else 0.0}
        for wanted in (True, False)
    ]  # fmt: skip
    optimizer = torch.optim.Adam(groups, lr=optimisation.lr, betas=optimisation.betas)
    steps = optimisation.steps
    marks = {round(steps * (i + 1) / evaluations) for i in range(min(evaluations, steps))}
    out, best = Trained(), (math.inf, 0, copy.deepcopy(model.state_dict()))

    def evaluate() -> dict[str, float]:
        validation, _, logits = loss_on(seen, data.validation)
        if inductive:
            logits = model(data.graph).logits
        own, truth = logits[data.test], data.labels[data.test]
        scores = f1_scores(own.argmax(-1), truth)
        found = {"loss": float(F.cross_entropy(own, truth)), "validation_loss": float(validation)}
        return {"error": 100 - scores["micro_f1"], **scores, **found}

    with torch.random.fork_rng():
        # dropout draws from torch's own stream: a run has its own, whatever ran before
        torch.manual_seed(order_seed("sampling", context.seed))
        for step in range(steps):
            began = time.perf_counter()
            model.train()
            for group in optimizer.param_groups:
                group["lr"] = optimisation.lr * optimisation.factor(step)
            loss = step_loss()
            loss.backward()
            if optimisation.clip:
                nn.utils.clip_grad_norm_(model.parameters(), optimisation.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            out.train_s += time.perf_counter() - began
            if step + 1 not in marks:
                continue
            model.eval()
            with torch.no_grad():
                found = evaluate()
            out.steps.append(step + 1)
            out.evaluations.append(found)
            out.train_loss.append(float(loss.detach()))
            context.progress(step + 1, steps, found["error"])
            if not math.isfinite(found["validation_loss"]) or not math.isfinite(out.train_loss[-1]):
                out.diverged = True
                break
            if found["validation_loss"] < best[0]:
                best = (found["validation_loss"], len(out.steps) - 1, copy.deepcopy(model.state_dict()))
    model.load_state_dict(best[2])
    model.eval()
    chosen = out.evaluations[best[1]]
    curves = {name: curve for name, curve in out.curves().items() if not name.endswith("_f1")}
    outcome = Outcome(curves=curves, profile=profile, data=data.describe(), diverged=out.diverged)
    outcome.metrics = {**chosen, "best_step": float(out.steps[best[1]])}
    outcome.profile |= {"train_s": out.train_s, "steps_per_s": out.steps[-1] / max(out.train_s, 1e-9)}
    return FittedNodes(outcome, data.graph)


def profile_nodes(
    model: nn.Module, loss: Callable[[], Tensor], steps: int, labelled: int, seed: int
) -> dict[str, float]:  # fmt: skip
    """What fairness is audited on: parameters, ``train_samples`` (labelled nodes times steps), ``steps``,
    ``train_flops`` (of matrix products; sums over neighbours are counted where `repro.models.message_passing.attend`
    takes all pairs of nodes) and ``activation_bytes``."""
    with torch.random.fork_rng():
        torch.manual_seed(order_seed("sampling", seed))
        forward, step = count_step(model, loss)
        activations = saved_bytes(model, loss)
    return count_parameters(model) | {
        "train_samples": float(steps * labelled),
        "steps": float(steps),
        "forward_flops": forward,
        "train_flops": step * steps,
        "activation_bytes": activations,
    }
