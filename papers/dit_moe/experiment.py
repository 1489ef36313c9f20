"""The arms of DiT-MoE: build, train, measure on held-out and on generated images, and trace the routing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from papers.dit_moe.baselines import shuffled_layer
from papers.dit_moe.method import MoEShape, balance_loss, moe_layers, placed, sparse_feed_forward
from papers.dit_moe.paper import Config, learning_rate
from repro.data.base import Batch, order_seed
from repro.data.images import ImageData, Images
from repro.data.registry import load_images
from repro.evaluation import routing
from repro.evaluation.generative import ClassScore, compare, components
from repro.evaluation.heat_maps import heat_maps
from repro.evaluation.pictures import sheet
from repro.models.diffusion import (
    GaussianDiffusion,
    Process,
    RectifiedFlow,
    as_field,
    drop_labels,
    guided,
    held_out_error,
)
from repro.models.dit import DiT, DiTConfig, initialise_dit, swiglu
from repro.runner import Context, Outcome
from repro.training.ema import EMA
from repro.training.fit import PROFILED_ROWS, profile_training
from repro.training.loop import Optimisation, train

#: Images per generated batch, and images of each class in a picture.
SAMPLE_BATCH, SHOWN = 270, 4


def run(config: Config, context: Context) -> Outcome:
    """Train one arm on one setting and measure it. Raises MissingData for real data that is not at hand."""
    data = load(config, context.seed)
    model = build(config, data).to(context.device)
    initialise_dit(model, context.seed)
    outcome, ema, shown = learn(config, context, data, model)
    if outcome.diverged:
        return outcome
    net = ema.model
    outcome.metrics["held_out_loss"], by_level = held_out(config, context, net, data.test)
    outcome.tables["error_by_time"] = {"time": rounded(process_of(config).quantiles(config.levels)), "error": by_level}
    made, traces = generate(config, context, net, data)
    real = Images(*(part[: len(made.labels)] for part in data.test))
    features = components(data.train.pixels, config.components)
    outcome.metrics |= compare(real.pixels, made.pixels, features)
    if torch.isfinite(made.pixels).all():
        known = Images(*(part[: config.classifier] for part in data.train))
        classifier = ClassScore(features(known.pixels), known.labels)
        outcome.metrics["class_accuracy"] = classifier.accuracy(features(made.pixels), made.labels)
    if traces:
        found, tables = analyse(config, context, traces, made.labels, data.classes)
        outcome.metrics |= found
        outcome.tables |= tables
    if shows(config, context):
        outcome.pictures = pictures(config, shown, traces, made, data.classes)
    return outcome


def shows(config: Config, context: Context) -> bool:
    """Whether a run leaves pictures: of the first seed, and where images can be looked at."""
    return config.pictures != "none" and context.seed % 1000 == 0 and not config.latent


def rounded(values: Any) -> list[float]:
    return [round(float(v), 5) for v in values]


# --- data and model -----------------------------------------------------------------------------------------------


def load(config: Config, seed: int) -> ImageData:
    """Images in [-1, 1] (latents as they are), the splits of the seed."""
    options = {"validation": config.validation} if config.validation else {}
    data = load_images(config.data, seed=seed, **options)
    if config.latent:
        return data

    def scaled(images: Images) -> Images:
        pixels, labels = (part[: config.limit or None] for part in images)
        return Images(2 * pixels - 1, labels)

    return dataclasses.replace(
        data, train=scaled(data.train), validation=scaled(data.validation), test=scaled(data.test)
    )  # fmt: skip


def process_of(config: Config) -> Process:
    """Raises ValueError for an unknown objective."""
    if config.objective == "flow":
        return RectifiedFlow()
    if config.objective == "ddpm":
        return GaussianDiffusion.linear(config.diffusion_steps)
    raise ValueError(f"the objective is flow or ddpm, not {config.objective!r}")


def shape_of(config: Config) -> MoEShape:
    """Experts of the arm. Where the shared one is off the routed ones are wider, so that as many units are active."""
    shape = MoEShape(config.experts, config.active, config.width, config.shared)
    if config.share:
        return shape
    return shape._replace(width=shape.active_width / shape.active, shared=0.0)


def build(config: Config, data: ImageData) -> DiT:
    """The network of an arm, not yet initialised. Raises ValueError for an unknown feed-forward layer or routing."""
    channels, size, _ = data.train.pixels.shape[1:]
    net = DiTConfig(
        size, config.patch, channels, data.classes, config.hidden, config.layers, config.heads,
        outputs=2 * channels if config.objective == "ddpm" else 0, frequencies=config.frequencies,
        qk_norm=config.qk_norm,
    )  # fmt: skip
    shape = shape_of(config)
    if config.feed_forward == "dense-active":
        return DiT(net, swiglu(net, shape.active_width))
    if config.feed_forward == "dense-total":
        return DiT(net, swiglu(net, shape.total_width))
    if config.feed_forward != "moe" or config.routing not in ("learned", "shuffled"):
        raise ValueError(f"there is no feed-forward layer {config.feed_forward!r} with routing {config.routing!r}")
    layer = shuffled_layer if config.routing == "shuffled" else None
    return DiT(net, sparse_feed_forward(net, shape, config.alpha, config.where, layer))


# --- training -----------------------------------------------------------------------------------------------------


def learn(
    config: Config, context: Context, data: ImageData, model: DiT
) -> tuple[Outcome, EMA, dict[str, Tensor]]:  # fmt: skip
    """Train, with the validation loss of the averaged weights on the way; and images drawn on the way, by step."""
    process, device = process_of(config), context.device
    ema = EMA(model, config.ema)
    none, rows = data.classes, data.train_order(max(1, config.steps), config.batch, context.seed)

    def noise_of(purpose: str) -> torch.Generator:
        return torch.Generator(device).manual_seed(order_seed(purpose, context.seed))

    # one stream for batches, times, noise and dropped labels, which all arms of a seed draw alike
    source = {"noise": noise_of("profile")}

    def loss(batch: Batch) -> tuple[Tensor, Tensor | None]:
        noise = source["noise"]
        x = batch.inputs.float()
        if config.flip:
            mirrored = torch.rand(len(x), 1, 1, 1, generator=noise, device=device) < 0.5
            x = torch.where(mirrored, x.flip(3), x)
        y = drop_labels(batch.targets, none, config.label_drop, noise)
        t = process.times(len(x), noise)
        eps = torch.randn(x.shape, generator=noise, device=device)
        return process.loss(model, x, t, y, eps).mean(), balance_loss(model)

    sample = data.rows(rows[0, :PROFILED_ROWS]).to(device)
    profile = profile_training(model, loss, sample, config.steps * config.batch)
    profile["train_samples"] = float(config.steps * config.batch)
    source["noise"] = noise_of("diffusion")
    shown: dict[str, Tensor] = {}

    def validate() -> dict[str, float]:
        ema.update()
        if shows(config, context):
            shown[str(ema.updates)] = examples(config, context, ema.model, data)
        return {"loss": held_out(config, context, ema.model, data.validation)[0]}

    def before(step: int) -> None:
        if ema.updates < step:  # else the evaluation after the last step took it in
            ema.update()

    if config.steps == 0:
        value = held_out(config, context, ema.model, data.validation)[0]
        return Outcome(metrics={"loss": value}, profile=profile, data=data.describe()), ema, shown
    order: Iterator[Batch] = (data.rows(part).to(device) for part in rows)
    optimisation = Optimisation(
        learning_rate(config), config.steps, config.warmup, config.schedule, (0.9, 0.999), config.weight_decay,
        config.clip,
    )  # fmt: skip
    trained = train(
        model, order, loss, validate, optimisation, evaluations=config.evaluations, dtype=config.dtype,
        before_step=before, progress=context.progress,
    )  # fmt: skip
    profile["train_s"] = trained.train_s
    outcome = Outcome(curves=trained.curves(), profile=profile, data=data.describe(), diverged=trained.diverged)
    outcome.metrics["loss"] = trained.evaluations[-1]["loss"]
    return outcome, ema, shown


@torch.no_grad()
def held_out(config: Config, context: Context, model: nn.Module, images: Images) -> tuple[float, list[float]]:
    """Error of what the network predicts on real images, mean over fixed times, and at each of them. The noise is the
    same for all arms of a seed."""
    batches = [part.to(context.device) for part in images.batches(config.eval_batch, config.eval_images)]
    noise = torch.Generator().manual_seed(order_seed("held-out noise", context.seed))
    pairs = [(part.pixels.float(), part.labels) for part in batches]
    by_level = held_out_error(process_of(config), as_field(model, config.dtype), pairs, config.levels, noise)
    return float(by_level.mean()), rounded(by_level)


# --- generating -----------------------------------------------------------------------------------------------------


def sampled(config: Config, context: Context, model: nn.Module, y: Tensor, purpose: str, **watch: Any) -> Tensor:
    """Images of classes y, on the CPU. Every image's noise is drawn there, so that devices agree on it."""
    net: Any = model
    shape = (len(y), net.config.channels, net.config.size, net.config.size)
    channels = config.guided_channels or None
    field = guided(as_field(model, config.dtype), net.config.classes, config.guidance, channels)
    noise = torch.Generator(context.device).manual_seed(order_seed(purpose, context.seed))
    made = process_of(config).sample(field, shape, y.to(context.device), noise, config.sample_steps, **watch)
    return made.float().cpu()


def examples(config: Config, context: Context, model: nn.Module, data: ImageData) -> Tensor:
    """One image of each of the first ten classes, from the same noise at every call."""
    return sampled(config, context, model, torch.arange(min(10, data.classes)), "examples")


def generate(
    config: Config, context: Context, model: nn.Module, data: ImageData
) -> tuple[Images, list[Tensor]]:  # fmt: skip
    """Images with the labels of the test images, and of every layer of experts its choices while they were made
    (``[steps, images, positions, K]``), of at most ``traced`` images."""
    labels = data.test.labels[: config.samples]
    made, traces = [], []
    for part, y in enumerate(labels.split(SAMPLE_BATCH)):
        purpose = f"samples {part}"
        if moe_layers(model) and part * SAMPLE_BATCH < config.traced:
            net: Any = model
            with routing.recorded(model, len(y), net.config.tokens) as recorder:
                made.append(sampled(config, context, model, y, purpose))
            traces.append(recorder.traces())
        else:
            made.append(sampled(config, context, model, y, purpose))
    layers = [routing.joined(parts) for parts in zip(*traces, strict=True)]
    return Images(torch.cat(made), labels), layers


def analyse(
    config: Config, context: Context, traces: list[Tensor], labels: Tensor, classes: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Claim C4: what the choice of an expert depends on, by layer, and how even it is, by step.

    Returns:
        metrics of `paper.METRICS`; ``dependence`` by label and layer, ``usage_entropy`` by layer and step.
    """
    deals = torch.Generator().manual_seed(order_seed("dealt labels", context.seed))
    labels = labels[: traces[0].shape[1]]
    found = [routing.dependence(t, labels, classes, config.experts, deals) for t in traces]
    by = {name: [layer[name] for layer in found] for name in ("position", "step", "class")}
    entropy = torch.stack([routing.entropy_by_step(t, config.experts) for t in traces])
    steps = entropy.shape[1]
    early, late = max(1, round(0.2 * steps)), max(1, steps // 2)
    mean = entropy.mean(0)
    out = {f"{name}_first": values[0] for name, values in by.items()}
    out |= {f"{name}_last": values[-1] for name, values in by.items()}
    out |= {f"{name}_mean": fmean(values) for name, values in by.items()}
    out |= {
        "position_over_class": by["position"][0] - 2 * by["class"][0],
        "position_over_class_mean": fmean(by["position"]) - 2 * fmean(by["class"]),
        "step_over_class": fmean(by["step"]) - fmean(by["class"]),
        "step_over_class_first": by["step"][0] - by["class"][0],
        "position_fade": 0.5 * by["position"][0] - by["position"][-1],
        "usage_early": float(mean[:early].mean()),
        "usage_late": float(mean[-late:].mean()),
        "usage_end": float(mean[-early:].mean()),
        "early_concentration": float(mean[-late:].mean() - mean[:early].mean()),
    }
    tables = {
        "dependence": {name: rounded(values) for name, values in by.items()},
        "usage_entropy": [rounded(line) for line in entropy],
    }
    return out, tables


# --- pictures -------------------------------------------------------------------------------------------------------


def pictures(
    config: Config, shown: dict[str, Tensor], traces: list[Tensor], made: Images, classes: int
) -> dict[str, Any]:
    """Images on the way and at the end, and what the experts prefer. None without Pillow."""
    out: dict[str, Any] = {}
    if not find_spec("PIL"):
        return out
    if torch.isfinite(made.pixels).all():
        if shown:
            rows = torch.cat(list(shown.values()))
            steps = ", ".join(shown)
            text = f"Generated images after {steps} steps, one row each, from the same noise; a column for each class."
            out["samples over training"] = sheet((rows + 1) / 2, text, columns=len(next(iter(shown.values()))), scale=5)
        members = [(made.labels == label).nonzero().flatten()[:SHOWN] for label in range(min(10, classes))]
        columns = [m for m in members if len(m) == SHOWN]
        if columns:
            text = "Generated images at the end of training, a column for each class."
            rows = made.pixels[torch.stack(columns).t().flatten()]
            out["samples"] = sheet((rows + 1) / 2, text, columns=len(columns), scale=5)
    for by in ("position", "step", "class") if traces and config.pictures == "all" else ():
        panels = {
            f"block {place}": routing.preference(trace, config.experts, by, made.labels[: trace.shape[1]], classes).T
            for place, trace in zip(placed(config.layers, config.where), traces, strict=True)
        }
        text = (
            f"Share of the selections that go to each expert (rows) by {by} (columns), for each block with experts. "
            + {"position": "Positions go row by row over the image.", "step": "The first step is noise.",
               "class": ""}[by]
        ).strip()  # fmt: skip
        cell = {"position": 8, "step": 6, "class": 12}[by]
        out[f"experts by {by}"] = heat_maps(panels, by, "expert", "share", text, cell=cell, top=0.5)
    return out
