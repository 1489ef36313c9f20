"""The arms of Telly: fine-tune a pretrained code encoder with some of its layers frozen; measure what it learned, what
a step costs, how its layers' geometry changed, and what probes still find in it."""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from papers.telly.method import (
    centroid,
    freeze,
    geometry_change,
    layer_geometry,
    layers_to_freeze,
    peak,
    step_fraction,
    telly,
    trained_parameters,
)
from papers.telly.paper import Config, learning_rate
from repro.data.base import order_seed
from repro.data.code import CodeData
from repro.data.registry import load_code
from repro.data.stdlib_functions import CLASSES
from repro.evaluation.probes import LayerMixture, Texts, fit_probe, read
from repro.evaluation.retrieval import mean_average_precision
from repro.profiling.counts import count_parameters, count_step
from repro.profiling.training_memory import step_memory
from repro.runner import Context, Outcome
from repro.training.code_encoder import EncoderSpec, fresh, hidden_states, loaded, pretrained
from repro.training.code_tasks import Clones, Completion, NameHead, Search, Task, TaskModel, clone_head, tune
from repro.training.initial import generator
from repro.training.loop import Optimisation

#: Cosine from which on code and tree count as a pair; classes of cyclomatic complexity: 1 to 5, and more.
THRESHOLD, COMPLEXITIES = 0.5, 6


def run(config: Config, context: Context) -> Outcome:
    """Fine-tune and measure one arm on one task."""
    data, start, cost = subject(config, context)
    outcome = Outcome(data=data.describe() | {"model": config.model, "start": config.start}, profile=cost)
    tuned = fine_tune(config, context, data, start, outcome)
    if config.geometry and config.rsa:
        change_of_geometry(config, data, start, tuned, outcome)
    if config.probes and config.probe_train:
        probe(config, context, data, tuned, outcome)
    return outcome


# --- model and data -------------------------------------------------------------------------------------------


def subject(config: Config, context: Context) -> tuple[CodeData, Any, dict[str, float]]:
    """The data, the encoder before fine-tuning, and what its pretraining cost: made here under the run's seed, or from
    the hub. Raises MissingData when model or data cannot be had."""
    if config.model != "pretrained here":
        from transformers import AutoModel

        from repro.training.clip_bench import pretrained as from_hub

        encoder = from_hub(AutoModel, config.model).to(context.device).eval()
        data = load_code(config.data, tokenizer=config.model, prefix=config.prefix, limit=config.limit or None)
        return data, encoder, {}
    spec = encoder_spec(config, context.seed)
    data = library(config.data, config.files)
    if config.start == "random":
        return data, fresh(spec, data.vocab_size).to(context.device), {}
    found = pretrained(
        spec, device=context.device, progress=context.progress, meanwhile=[encoder_spec(config, context.seed + 1)]
    )
    cost = {f"base_{name}": float(found.card[name]) for name in ("train_tokens", "train_flops", "loss", "accuracy")}
    return data, loaded(spec, found).to(context.device), cost


@functools.lru_cache(maxsize=1)
def library(name: str, files: int) -> CodeData:
    """The functions of so many files (0: all), once for all runs of a process."""
    return load_code(name, limit=files or None)


def encoder_spec(config: Config, seed: int) -> EncoderSpec:
    """The encoder that is pretrained here."""
    return EncoderSpec(
        layers=config.layers, hidden=config.hidden, heads=config.heads, width=config.width, length=config.code_length,
        steps=config.base_steps, batch=config.base_batch, lr=config.base_lr, files=config.files, seed=seed,
    )  # fmt: skip


def task_of(config: Config, data: CodeData, context: Context) -> Task:
    """What is fine-tuned for. Raises ValueError for an unknown task."""
    if config.task == "search":
        return Search(data, config.code_length, config.query_length, config.temperature, context.device)
    if config.task == "clones":
        return Clones(data, config.code_length, context.device)
    if config.task == "completion":
        return Completion(data, config.code_length, context.device)
    raise ValueError(f"task is search, clones or completion, not {config.task!r}")


def head_of(config: Config, encoder: Any, seed: int) -> Any:
    """The head of the task: none for search."""
    if config.task == "search":
        return torch.nn.Identity()
    if config.task == "completion":
        return NameHead(encoder.config.hidden_size, encoder.config.vocab_size, seed).to(encoder.device)
    return clone_head(encoder.config.hidden_size, seed).to(encoder.device)


def judged(task: Task, model: TaskModel, config: Config) -> dict[str, float]:
    """Test results."""
    found = task.evaluate(model.eval(), "test", config.test)
    return {**found, "error": 100 - found["quality"]}


# --- fine-tuning ----------------------------------------------------------------------------------------------


def fine_tune(config: Config, context: Context, data: CodeData, start: Any, outcome: Outcome) -> Any:
    """Train a copy of the encoder with the arm's layers frozen; its quality, costs and curves go to the outcome. Where
    nothing is left to train (search has no head), quality alone."""
    task = task_of(config, data, context)
    encoder = copy.deepcopy(start)
    model = TaskModel(encoder, head_of(config, encoder, context.seed)).train()
    base = copy.deepcopy(model)
    depth = encoder.config.num_hidden_layers
    if config.way != "none":
        draw = order_seed("frozen layers", context.seed) % 2**31
        freeze(encoder, layers_to_freeze(config.way, config.k, depth, draw))  # type: ignore[arg-type]
    if not any(p.requires_grad for p in model.parameters()):
        outcome.metrics = judged(task, model, config)
        outcome.profile |= count_parameters(model) | {"train_samples": 0.0}
        return encoder.eval()
    order = order_of(config, data, task.kind, context.seed)
    sample = task.batch(order[0], "train")
    forward, step = count_step(model, lambda: task.loss(model, sample))
    memory = step_memory(model, lambda: task.loss(model, sample))
    outcome.profile |= count_parameters(model) | {
        "train_samples": float(order.numel()), "train_flops": step * len(order), "forward_flops": forward,
        "weight_bytes": memory.weights, "gradient_bytes": memory.gradients, "moment_bytes": memory.moments,
        "activation_bytes": memory.activations,
    }  # fmt: skip
    if config.clock and config.timed:
        cost_of_steps(config, task, base, sample, outcome)
    found = tune(
        model, task, order,
        Optimisation(
            learning_rate(config), config.steps, config.warmup, config.schedule, (0.9, config.beta2),
            config.weight_decay,
        ),
        evaluations=config.evaluations, validation=config.validation, dtype=config.autocast, progress=context.progress,
    )  # fmt: skip
    outcome.diverged = found.trained.diverged
    outcome.curves = found.trained.curves()
    outcome.profile["train_s"] = found.trained.train_s
    outcome.metrics = judged(task, model, config) | {
        "validation": found.best["quality"],
        "trained_percent": 100 * trained_parameters(encoder) / sum(p.numel() for p in encoder.parameters()),
        "states_mb": memory.states / 1e6,
        "activations_mb": memory.activations / 1e6,
        "step_mflops": step / 1e6,
        **{name: value for name, value in outcome.metrics.items() if name.startswith("step_")},
    }
    return encoder.eval()


def order_of(config: Config, data: CodeData, kind: str, seed: int) -> Tensor:
    """Rows of every step, LongTensor [steps, batch]: of all that there are, or of so many drawn under the seed."""
    order = data.order("train", kind, config.steps, config.batch, seed)
    if not config.rows:
        return order
    drawn = data.order("train", kind, 1, config.rows, seed)[0].unique()
    draw = generator("order of the rows drawn", seed)
    epochs = [drawn[torch.randperm(len(drawn), generator=draw)] for _ in range(-(-order.numel() // len(drawn)))]
    return torch.cat(epochs)[: order.numel()].view_as(order)


def cost_of_steps(config: Config, task: Task, base: TaskModel, sample: Any, outcome: Outcome) -> None:
    """Time of a step of the base and of Telly-K, in turn on copies of one model; medians. What a step of Telly-K should
    cost less is `step_fraction`."""
    frozen = copy.deepcopy(base)
    telly(frozen.encoder, config.k)
    pair = {"base": base, "telly": frozen}
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True) for name, model in pair.items()}
    times: dict[str, list[float]] = {name: [] for name in pair}
    for _ in range(config.timed + 2):
        for name, model in pair.items():
            began = time.perf_counter()
            task.loss(model, sample).backward()
            optimizers[name].step()
            optimizers[name].zero_grad(set_to_none=True)
            if sample[0].is_cuda:
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}  # the first two warm up
    saved = 100 * (1 - medians["telly"] / medians["base"])
    encoder: Any = base.encoder
    expected = 100 * (1 - step_fraction(encoder.config.num_hidden_layers, config.k))
    outcome.profile |= {f"step_s_{name}": value for name, value in medians.items()}
    outcome.metrics |= {"step_time_saved": saved, "step_time_gap": saved - expected, "step_saved_expected": expected}


# --- geometry -------------------------------------------------------------------------------------------------


def change_of_geometry(config: Config, data: CodeData, start: Any, tuned: Any, outcome: Outcome) -> None:
    """Representational similarity per layer of the encoder before and after fine-tuning, on the first functions of the
    training split."""
    snippets = data.batch(data.code, data.functions["train"][: config.rsa], config.code_length).to(tuned.device)

    def geometry(encoder: Any, pad: int | None) -> Tensor:
        return layer_geometry(lambda ids: hidden_states(encoder, ids, data.pad), snippets.split(64), pad)

    for suffix, pad in (("", None), ("_unpadded", data.pad)):
        change = geometry_change(geometry(start.eval(), pad), geometry(tuned, pad))
        top, bottom = change.drops()
        outcome.metrics |= {
            f"rsa_top_drop{suffix}": top, f"rsa_bottom_drop{suffix}": bottom,
            f"rsa_excess{suffix}": top - 2 * bottom, f"rsa_rise{suffix}": change.largest_rise(),
        }  # fmt: skip
        outcome.tables[f"rsa{suffix}"] = change.pearson
        outcome.tables[f"rsa_spearman{suffix}"] = change.spearman
        if not suffix:
            top, bottom = change._replace(pearson=change.spearman).drops()
            outcome.metrics["rsa_excess_spearman"] = top - 2 * bottom


# --- probes ---------------------------------------------------------------------------------------------------


def probe(config: Config, context: Context, data: CodeData, encoder: Any, outcome: Outcome) -> None:
    """Train the four probes on the frozen encoder: accuracy or mean average precision in percent, and the weights of
    the layers with their centroid and peak, to the outcome. Raises ValueError for data without analysis."""
    if data.analysis is None:
        raise ValueError(f"no probes on {data.name}: its functions are not analysed")
    probes = Probes(config, data, encoder.eval(), context.seed)
    for name, run_one in probes.all().items():
        score, weights = run_one()
        outcome.metrics |= {
            f"probe_{name}": 100 * score,
            f"centroid_{name}": centroid(weights),
            f"peak_{name}": peak(weights),
        }
        outcome.tables[f"layer_weights_{name}"] = weights
    metrics = outcome.metrics
    metrics["syntactic_above_lexical"] = metrics["centroid_syntactic"] - metrics["centroid_lexical"]
    metrics["structural_above_syntactic"] = metrics["centroid_structural"] - metrics["centroid_syntactic"]


class Probes:
    """The four probes of an encoder that is not changed. Each gives its score on test functions, 0 to 1, and the mean
    weights of the layers there."""

    def __init__(self, config: Config, data: CodeData, encoder: Any, seed: int):
        assert data.analysis is not None
        self.config, self.data, self.known, self.seed = config, data, data.analysis, seed
        self.encoder, self.hidden = encoder, encoder.config.hidden_size
        pick = torch.Generator().manual_seed(order_seed("probed functions", 0))
        counts = {"train": config.probe_train, "test": config.probe_test}
        self.rows = {
            split: own[torch.randperm(len(own), generator=pick)[: counts[split]]]
            for split, own in data.functions.items()
            if split in counts
        }
        self.code = {split: self.read(data.code, rows) for split, rows in self.rows.items()}

    def all(self) -> dict[str, Callable[[], tuple[float, list[float]]]]:
        return {
            "lexical": self.lexical, "syntactic": self.syntactic, "semantic": self.semantic,
            "structural": self.structural,
        }  # fmt: skip

    def read(self, source: Any, rows: Tensor) -> Texts:
        """Hidden states of texts."""
        ids = self.data.batch(source, rows, self.config.code_length).to(self.encoder.device)
        return read(lambda part: hidden_states(self.encoder, part, self.data.pad), ids, self.data.pad)

    def fit(self, outputs: int, loss: Callable[[LayerMixture, Tensor], Tensor]) -> Any:
        found = LayerMixture(self.hidden, outputs, self.seed).to(self.encoder.device)
        fit_probe(
            found, lambda rows: loss(found, rows), len(self.rows["train"]), steps=self.config.probe_steps,
            batch=self.config.probe_batch, lr=self.config.probe_lr, seed=self.seed,
        )  # fmt: skip
        return found.requires_grad_(False)

    def lexical(self) -> tuple[float, list[float]]:
        """Class of every token that has one (`CLASSES`): accuracy."""
        device, length = self.encoder.device, self.config.code_length
        classes = {split: self.data.token_classes(rows, length).to(device) for split, rows in self.rows.items()}

        def loss(found: LayerMixture, rows: Tensor) -> Tensor:
            return F.cross_entropy(
                found(self.code["train"].states[rows]).flatten(0, 1), classes["train"][rows].flatten()
            )

        found = self.fit(len(CLASSES), loss)
        test, right = self.code["test"], classes["test"]
        counted = right >= 0
        hits = found(test.states).argmax(-1)[counted] == right[counted]
        return float(hits.double().mean()), found.layer_weights(test.states, counted)

    def syntactic(self) -> tuple[float, list[float]]:
        """Whether a function and a syntax tree without values belong together, from the cosine of their images under
        one linear layer: accuracy, half of the pairs being mismatched."""
        trees = {split: self.read(self.known.tree, rows) for split, rows in self.rows.items()}

        def cosines(found: LayerMixture, split: str, rows: Tensor, other: Tensor) -> Tensor:
            code, tree = self.code[split].rows(rows), trees[split].rows(other)
            return F.cosine_similarity(found(*code), found(*tree), dim=-1)

        def loss(found: LayerMixture, rows: Tensor) -> Tensor:
            both = torch.cat([cosines(found, "train", rows, rows), cosines(found, "train", rows, rows.roll(1))])
            truth = torch.cat([torch.ones(len(rows)), torch.zeros(len(rows))]).to(both.device)
            return F.binary_cross_entropy_with_logits((both - THRESHOLD) * 10, truth)

        found = self.fit(self.hidden, loss)
        rows = torch.arange(len(self.rows["test"]))
        hits = torch.cat([
            cosines(found, "test", rows, rows) > THRESHOLD, cosines(found, "test", rows, rows.roll(1)) <= THRESHOLD
        ])  # fmt: skip
        return float(hits.double().mean()), found.layer_weights(*self.code["test"])

    def semantic(self) -> tuple[float, list[float]]:
        """Retrieval of a function's twins among the twins of all: mean average precision."""
        twins = {
            split: [self.read(self.data.code, column) for column in self.known.twins[rows].T]
            for split, rows in self.rows.items()
        }

        def loss(found: LayerMixture, rows: Tensor) -> Tensor:
            one, other = (F.normalize(found(*texts.rows(rows)), dim=-1)
                          for texts in (self.code["train"], twins["train"][0]))  # fmt: skip
            return F.cross_entropy(one @ other.T / self.config.temperature, torch.arange(len(rows), device=one.device))

        found = self.fit(self.hidden, loss)
        queries = F.normalize(found(*self.code["test"]), dim=-1)
        candidates = torch.cat([F.normalize(found(*texts), dim=-1) for texts in twins["test"]])
        own = torch.arange(len(queries), device=queries.device)
        relevant = own[:, None] == own.repeat(len(twins["test"]))
        return mean_average_precision(queries @ candidates.T, relevant), found.layer_weights(*self.code["test"])

    def structural(self) -> tuple[float, list[float]]:
        """Cyclomatic complexity of a function, 1 to 5 or more: accuracy."""
        device = self.encoder.device
        classes = {
            s: (self.known.complexity[r] - 1).clamp(0, COMPLEXITIES - 1).to(device) for s, r in self.rows.items()
        }

        def loss(found: LayerMixture, rows: Tensor) -> Tensor:
            return F.cross_entropy(found(*self.code["train"].rows(rows)), classes["train"][rows])

        found = self.fit(COMPLEXITIES, loss)
        hits = found(*self.code["test"]).argmax(-1) == classes["test"]
        return float(hits.double().mean()), found.layer_weights(*self.code["test"])
