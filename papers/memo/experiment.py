"""The arms of MEMO: learn a stream of classes under one memory budget after the other, and measure what is left."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from papers.memo.method import (
    ExpandableNet,
    affordable_exemplars,
    expanded_parameters,
    memo_loss,
    memory_bytes,
)
from papers.memo.paper import POINTS, Config
from repro.data.images import Images
from repro.data.registry import load_images
from repro.data.streams import ClassStream, class_incremental, stationary
from repro.evaluation.continual import area_under, average_accuracy, forgetting
from repro.evaluation.similarity import linear_cka
from repro.models.resnet import Pool, ResNetConfig, convnet_parts, initialise_parts, resnet_parts
from repro.profiling.counts import count_flops
from repro.runner import Context, Outcome
from repro.training.incremental import Sgd, augmented, distillation, train_task
from repro.training.initial import generator
from repro.training.rehearsal import Rehearsal, nearest_mean

#: Images that representations are compared on, and the side of the grid that feature maps are averaged to for it.
COMPARED_IMAGES, GRID = 1000, 4


def run(config: Config, context: Context) -> Outcome:
    """Measure one arm at every memory budget it is asked for."""
    clock = time.perf_counter()
    stream = load(config, context.seed)
    image = tuple(stream.data.train.pixels.shape[1:])
    plans = budget_plans(config, len(stream), image, context.seed)
    outcome = Outcome(data=stream.describe())
    found: dict[str, Learned] = {}
    for place, plan in enumerate(plans):

        def report(task: int, error: float, place: int = place) -> None:
            context.progress(place * len(stream) + task + 1, len(plans) * len(stream), error)

        found[plan.name] = learned = learn(config, context, stream, plan, report)
        add_measures(outcome, plan, learned, image)
    outcome.diverged = any(learned.diverged for learned in found.values())
    averages = {plan.name: outcome.metrics[f"average_{plan.name}"] for plan in plans}
    outcome.metrics["error"] = 100 - fmean(averages.values())
    if len(plans) > 1:
        outcome.metrics["gain_of_memory"] = averages["large"] - averages["small"]
        low, high = plans[0].budget, plans[-1].budget
        for name in ("average", "last"):
            curve = {float(plan.budget): outcome.metrics[f"{name}_{plan.name}"] for plan in plans}
            outcome.metrics[f"auc_{name}"] = area_under(curve) / (high - low)
            outcome.curves[f"{name}_by_memory"] = {
                "x": [budget / 2**20 for budget in curve], "y": list(curve.values()), "of": "memory, MiB"
            }  # fmt: skip
    large = found[plans[-1].name]
    outcome.metrics |= large.changes
    outcome.profile |= {
        "params_total": float(large.parameters),
        "forward_flops": large.forward_flops,
        "train_samples": float(sum(learned.samples for learned in found.values())),
        "train_s": time.perf_counter() - clock,
    }
    return outcome


def load(config: Config, seed: int) -> ClassStream:
    """The stream of a run. Raises MissingData where real data cannot be had, and ValueError for an unknown stream."""
    if config.data == "textures":
        data = load_images("textures", seed=seed, train=config.train, test=config.test)
    else:
        data = load_images(config.data, seed=seed, validation=0, limit=config.limit or None)
    later = data.classes - config.first
    sizes = [config.first, *[config.step] * (later // config.step)]
    if config.stream == "classes":
        return class_incremental(data, sizes, seed)
    if config.stream == "stationary":
        return stationary(data, len(sizes), seed)
    raise ValueError(f"stream is classes or stationary, not {config.stream!r}")


# --- memory ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a method does with one memory budget: the network that it takes, and how many exemplars it affords.

    ``alike``: with the network and the exemplars of the base configuration, on which methods are compared at equal
    exemplars (C5).
    """

    name: str
    budget: int
    net: str
    exemplars: int
    alike: bool


def net_parts(spec: str, channels: int, seed: int) -> tuple[list[nn.Module], int]:
    """The initialised parts of a network and the length of its features.

    ``spec``: depth and width of a ResNet, ``32:16``, or ``conv2:64``, two plain convolutional layers. Raises ValueError
    for another.
    """
    kind, _, width = spec.partition(":")
    if not width.isdigit():
        raise ValueError(f"a network is depth:width or conv2:width, not {spec!r}")
    if kind == "conv2":
        parts, dim = convnet_parts(2, int(width), channels), int(width)
    else:
        shape = ResNetConfig(int(kind), int(width), channels)
        parts, dim = resnet_parts(shape), shape.features
    initialise_parts(parts, seed)
    return parts, dim


def shared_parts(specialised: str, parts: int) -> int:
    """How many of a network's first parts are generalised. Raises ValueError for an unknown cut."""
    cuts = {"last": parts - 1, "last-two": parts - 2, "all": 0, "none": parts - 1, "first": 0}
    if specialised not in cuts:
        raise ValueError(f"specialised is one of {', '.join(cuts)}, not {specialised!r}")
    return cuts[specialised]


def build(config: Config, spec: str, channels: int, seed: int) -> ExpandableNet:
    """The network of an arm before its first task."""
    parts, dim = net_parts(spec, channels, seed)
    cut = shared_parts(config.specialised, len(parts))
    repeated = parts[cut:-2] if config.specialised == "first" else parts[cut:]
    rear = nn.Sequential(*parts[-2:]) if config.specialised == "first" else None

    def drawn(task: int) -> nn.Module:
        block = copy.deepcopy(repeated)
        initialise_parts(block, seed, f"block {task}")
        return nn.Sequential(*block).to(next(net.parameters()).device)

    if config.block not in ("copied", "drawn", "idle"):
        raise ValueError(f"block is copied, drawn or idle, not {config.block!r}")
    net = ExpandableNet(
        nn.Sequential(*parts[:cut]), nn.Sequential(*repeated), dim, train_base=config.train_base,
        fresh=None if config.block == "copied" else drawn, expand=config.specialised != "none", rear=rear, seed=seed,
    )  # fmt: skip
    return net


def saved_parameters(net: ExpandableNet, tasks: int) -> int:
    """Parameters that a method will have saved after so many tasks, from its network before the first."""
    block = sum(p.numel() for p in net.blocks[0].parameters())
    return expanded_parameters(net.saved_parameters() - block, block, tasks if net.expand else 1)


def budget_plans(config: Config, tasks: int, image: tuple[int, ...], seed: int) -> list[Plan]:
    """How the arm uses each budget, the smallest first.

    The smallest budget is that of one network of the last size and ``config.exemplars`` exemplars; the others are those
    of a method that saves a network of their size for every task, with as many exemplars. Methods that expand take the
    budget's own size of network, the others always the last, and what is left goes to exemplars.

    Raises ValueError for another number of sizes than `POINTS` knows, or a budget that a network alone exceeds.
    """
    nets = config.nets.split()
    if len(nets) not in POINTS:
        raise ValueError(f"nets names {len(nets)} networks; {', '.join(map(str, POINTS))} can be")
    if config.memory not in ("aligned", "same"):
        raise ValueError(f"memory is aligned or same, not {config.memory!r}")

    def whole(spec: str) -> int:
        return sum(p.numel() for part in net_parts(spec, image[0], seed)[0] for p in part.parameters())

    plans = []
    for name, spec in zip(POINTS[len(nets)], nets, strict=True):
        copies = whole(nets[-1]) if name == "small" else tasks * whole(spec)
        budget = memory_bytes(copies, config.exemplars, image)
        own = nets[-1] if config.specialised == "none" else spec
        saved = saved_parameters(build(config, own, image[0], seed), tasks)
        exemplars = config.exemplars if config.memory == "same" else affordable_exemplars(budget, saved, image)
        plans.append(Plan(name, budget, own, exemplars, own == nets[-1] and exemplars == config.exemplars))
    return plans[-1:] if config.points == "large" else plans


# --- learning -------------------------------------------------------------------------------------------------


@dataclass
class Learned:
    """What one pass through the stream left: accuracies in percent."""

    stages: list[float] = field(default_factory=list)
    table: list[list[float]] = field(default_factory=list)
    new: list[float] = field(default_factory=list)
    changes: dict[str, float] = field(default_factory=dict)
    by_stage: dict[str, list[float]] = field(default_factory=dict)
    parameters: int = 0
    exemplars: int = 0
    samples: int = 0
    forward_flops: float = 0.0
    diverged: bool = False


def normalised(pixels: Tensor) -> Tensor:
    """Shares of full scale, brought to about zero mean and unit variance."""
    return (pixels - 0.5) / 0.25


def learn(
    config: Config, context: Context, stream: ClassStream, plan: Plan, report: Callable[[int, float], None]
) -> Learned:
    """Learn the tasks of a stream one after the other."""
    channels = stream.data.train.pixels.shape[1]
    net = build(config, plan.net, channels, context.seed).to(context.device)
    memory = Rehearsal(plan.exemplars, fill=config.fill)
    out = Learned()
    watch = Watch() if plan.name == "large" and config.specialised in ("none", "all") else None
    for task in range(len(stream)):
        old = copy.deepcopy(net).eval().requires_grad_(False) if config.distil != "none" and task else None
        net.begin_task(stream.sizes[task])
        net.to(context.device)
        if config.block == "idle" and task:
            net.blocks[-1].requires_grad_(False)
        images = stream.train(torch.cat((stream.rows[task], memory.rows))).to(context.device)
        recipe = Sgd(
            config.lr, config.epochs if task else config.first_epochs, config.batch,
            weight_decay=config.weight_decay if task else config.first_weight_decay, schedule=config.schedule,
            milestones=tuple(map(float, (config.milestones if task else config.first_milestones).split())),
        )  # fmt: skip
        if watch:
            watch.before(net)
        losses = train_task(
            net, images, objective(config, net, old), recipe, generator(f"order of task {task}", context.seed),
            augment=lambda x, g: normalised(augmented(x, g, config.crop, config.brightness)),
            observe=watch.step if watch and task else lambda _: None,
        )  # fmt: skip
        out.samples += len(images.labels) * len(losses)
        out.diverged |= not math.isfinite(losses[-1])
        if out.diverged:
            return unfinished(out, stream)
        net.end_task(config.align, config.enlarge)
        if watch:
            watch.after(net, images_of(stream.data.test, context.device))
        rows = stream.rows[task]
        new = stream.train(rows).to(context.device)
        memory.update(features(net, new).cpu(), new.labels.cpu(), rows)
        add_stage(out, stream, task, *predictions(config, net, stream, task, memory, context.device))
        report(task, 100 - out.stages[-1])
    out.parameters, out.exemplars = net.saved_parameters(), len(memory)
    one = normalised(stream.data.test.pixels[:1]).to(context.device)
    with torch.no_grad():
        out.forward_flops = count_flops(lambda: net(one))
    if watch:
        out.by_stage = watch.by_stage(net)
        out.changes = changes(out.by_stage)
    return out


def unfinished(out: Learned, stream: ClassStream) -> Learned:
    """A pass whose loss is not finite: no accuracy for what it has not learned."""
    left = len(stream) - len(out.stages)
    out.stages += [math.nan] * left
    out.new += [math.nan] * left
    out.table.append([math.nan])
    return out


def objective(config: Config, net: ExpandableNet, old: ExpandableNet | None) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of an arm in the running task; ``old``: the network before it, where it is distilled from.

    iCaRL adds the distillation to the cross-entropy; WA weighs the two by the shares of old and new classes. Both as in
    PyCIL.
    """
    if config.distil not in ("none", "icarl", "wa"):
        raise ValueError(f"distil is none, icarl or wa, not {config.distil!r}")

    def loss(pixels: Tensor, labels: Tensor) -> Tensor:
        logits, auxiliary = net(pixels)
        plain = memo_loss(logits, auxiliary, labels, net.known, config.alpha_aux)
        if old is None:
            return plain
        with torch.no_grad():
            target = old(pixels)[0]
        kept = distillation(logits[:, : target.shape[1]], target)
        if config.distil == "icarl":
            return plain + kept
        share = net.known / net.classes
        return (1 - share) * plain + share * kept

    return loss


# --- measuring ------------------------------------------------------------------------------------------------


def images_of(images: Images, device: str) -> Tensor:
    """The pixels that representations are compared on."""
    stride = max(1, len(images.labels) // COMPARED_IMAGES)
    return normalised(images.pixels[::stride][:COMPARED_IMAGES]).to(device)


@torch.no_grad()
def features(net: ExpandableNet, images: Images) -> Tensor:
    """Joined features of images, without augmentation."""
    return torch.cat([net.features(normalised(part.pixels)) for part in images.batches(500)])


@torch.no_grad()
def predictions(
    config: Config, net: ExpandableNet, stream: ClassStream, task: int, memory: Rehearsal, device: str
) -> tuple[Tensor, Tensor]:
    """Predicted and true classes of the test images of all classes seen."""
    test = stream.test(task).to(device)
    found = features(net, test)
    if config.predict == "head":
        return net.head(found).argmax(1).cpu(), test.labels.cpu()
    if config.predict != "mean":
        raise ValueError(f"predict is head or mean, not {config.predict!r}")
    kept = stream.train(memory.rows).to(device)
    return nearest_mean(found, features(net, kept), kept.labels).cpu(), test.labels.cpu()


def add_stage(out: Learned, stream: ClassStream, task: int, predicted: Tensor, labels: Tensor) -> None:
    """Accuracies after a task: on all classes seen, and on those of each task."""
    right, origin = (predicted == labels).float(), stream.task_of(labels)
    out.stages.append(100 * float(right.mean()))
    tasks = [t for t in range(task + 1) if stream.sizes[t]]
    out.table.append([100 * float(right[origin == t].mean()) for t in tasks])
    out.new.append(out.table[-1][-1])


def add_measures(outcome: Outcome, plan: Plan, learned: Learned, image: tuple[int, ...]) -> None:
    """What a pass through the stream adds to a run's record."""
    point = {"average": average_accuracy(learned.stages), "last": learned.stages[-1]}
    outcome.metrics |= {f"{name}_{plan.name}": value for name, value in point.items()}
    outcome.metrics[f"exemplars_{plan.name}"] = float(plan.exemplars)
    outcome.profile[f"memory_bytes_{plan.name}"] = float(memory_bytes(learned.parameters, learned.exemplars, image))
    if plan.name == "large":
        outcome.metrics["forgetting"] = forgetting(learned.table)
        outcome.metrics["new_accuracy"] = fmean(learned.new)
        outcome.metrics["parameters"] = float(learned.parameters)
    if plan.alike:
        outcome.metrics |= {f"{name}_equal": value for name, value in point.items()}
        outcome.profile["exemplars_equal"] = float(learned.exemplars)
    outcome.curves[f"accuracy_{plan.name}"] = {
        "x": list(range(1, len(learned.stages) + 1)), "y": learned.stages, "of": "task"
    }  # fmt: skip
    outcome.tables[f"accuracy_{plan.name}"] = learned.table
    if learned.by_stage:
        outcome.tables["changes_by_stage"] = learned.by_stage


class Watch:
    """How much each part of the newest whole backbone changes from task to task (C4).

    Parts are those of the network, stem first. Convolution weights are watched, without those of batch norm.
    """

    def __init__(self) -> None:
        self.maps: list[list[Tensor]] = []
        self.shifts: list[list[float]] = []
        self.relative: list[list[float]] = []
        self.norms: list[list[Tensor]] = []
        self.start: list[list[Tensor]] = []
        self.weights: list[list[Tensor]] = []

    @staticmethod
    def parts(net: ExpandableNet) -> list[nn.Sequential]:
        """Parts of the newest backbone."""
        return [*net.generalised.children(), *net.blocks[-1].children()]  # type: ignore[list-item]

    @staticmethod
    def convolutions(part: nn.Module) -> list[Tensor]:
        return [m.weight for m in part.modules() if isinstance(m, nn.Conv2d)]

    def before(self, net: ExpandableNet) -> None:
        self.weights = [self.convolutions(part) for part in self.parts(net)]
        self.start = [[w.detach().clone() for w in part] for part in self.weights]

    def step(self, _: int) -> None:
        self.norms.append(
            [torch.stack([w.grad.square().sum() for w in part if w.grad is not None]).sum() for part in self.weights]
        )

    @torch.no_grad()
    def after(self, net: ExpandableNet, pixels: Tensor) -> None:
        counts = [sum(w.numel() for w in part) for part in self.weights]
        pairs = list(zip(self.weights, self.start, strict=True))
        moved = [float(sum((w - s).square().sum() for w, s in zip(*pair, strict=True))) for pair in pairs]
        size = [float(sum(s.square().sum() for s in start)) for start in self.start]
        self.shifts.append([m / n for m, n in zip(moved, counts, strict=True)])
        self.relative.append([m / s for m, s in zip(moved, size, strict=True)])
        maps, x = [], pixels
        for part in self.parts(net):
            for module in part.children():
                x = x if isinstance(module, Pool) else module(x)
            maps.append(F.adaptive_avg_pool2d(x, GRID).flatten(1).cpu())
        self.maps.append(maps)

    def by_stage(self, net: ExpandableNet) -> dict[str, list[float]]:
        """Per part: mean squared shift of a weight over a task, its sum over the weights, the mean over the mean
        squared weight, norm of the gradient and its root mean square, and CKA of the features after the first task with
        those after the last. Shifts and gradients are means over all tasks but the first."""
        counts = [sum(w.numel() for w in part) for part in self.weights]
        squared = torch.tensor([[float(n) for n in row] for row in self.norms]).T
        shift = [fmean(s) for s in zip(*self.shifts[1:], strict=True)]
        return {
            "shift": shift,
            "total_shift": [s * n for s, n in zip(shift, counts, strict=True)],
            "relative_shift": [fmean(s) for s in zip(*self.relative[1:], strict=True)],
            "gradient": squared.sqrt().mean(1).tolist(),
            "gradient_rms": [float((row / n).sqrt().mean()) for row, n in zip(squared, counts, strict=True)],
            "cka": [linear_cka(first, last) for first, last in zip(self.maps[0], self.maps[-1], strict=True)],
        }


def changes(by_stage: dict[str, list[float]]) -> dict[str, float]:
    """Last stage against first: logarithms to base 2 of ratios, and the difference of the CKA. The stem is left out
    where there are stages behind it."""
    first = 1 if len(by_stage["cka"]) > 2 else 0
    out = {
        f"{name}_log2": math.log2(by_stage[name][-1] / by_stage[name][first])
        for name in ("shift", "total_shift", "relative_shift", "gradient", "gradient_rms")
    }
    return out | {"cka_gap": by_stage["cka"][first] - by_stage["cka"][-1]}
