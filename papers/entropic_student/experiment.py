"""The arms of Entropic Student: each draws a curve of accuracy over the bytes of real messages, one point per rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from papers.entropic_student.baselines import EightBits, drawn_encoder, narrow_encoder, pixel_decoder
from papers.entropic_student.method import (
    UNLABELLED,
    Student,
    decoder,
    encoder,
    receive,
    send,
    stage_one_loss,
    stage_two_loss,
)
from papers.entropic_student.model import Teacher
from papers.entropic_student.paper import BUDGETS, LINKS, RANGE, Config
from repro.data.base import order_seed
from repro.data.images import ImageData, Images
from repro.data.registry import load_images
from repro.evaluation.image_codecs import Coded, code_images, decode_image, encode_image
from repro.evaluation.pictures import chart, sheet
from repro.evaluation.rate_distortion import mean_log2_rate, quality_at, rate_at
from repro.models.entropy import FactorisedPrior
from repro.profiling.counts import count_flops, count_parameters
from repro.profiling.split_latency import Split, time_calls
from repro.runner import Context, Outcome
from repro.training.checkpoints import Built, Part, obtain
from repro.training.classify import seeded_start
from repro.training.incremental import Sgd, train_task
from repro.training.initial import generator
from repro.training.loop import Optimisation, train

#: Options that decide a teacher, and those that decide a first stage beside them.
TEACHER = (
    "data", "classes", "train", "validation", "test", "limit", "widths", "blocks", "teacher_epochs", "teacher_lr",
    "batch",
)  # fmt: skip
STAGE = (*TEACHER, "channels", "start", "epochs", "lr", "schedule", "milestones")
#: How pixels in 0..1 are brought to about zero mean and unit variance.
MEAN, DEVIATION = 0.4, 0.2
#: Images of the codecs' curves in a picture.
PICTURED = 200
LEARNERS = ("codec", "student", "channels", "end-to-end", "joint")


def run(config: Config, context: Context) -> Outcome:
    """Measure one arm at all of its rates. Raises ValueError for an option that does not exist."""
    clock = time.perf_counter()
    if config.learner not in LEARNERS:
        raise ValueError(f"learner is one of {', '.join(LEARNERS)}, not {config.learner!r}")
    bench = Bench.of(config, context)
    if config.learner == "codec":
        points = codec_points(bench, config.codec, tuple(map(int, config.qualities.split())))
    else:
        points = learned_points(bench)
    outcome = Outcome(data=bench.data.describe())
    summarise(outcome, bench, points)
    outcome.profile["train_s"] = time.perf_counter() - clock
    return outcome


# --- what arms share ------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """The images of a task, standardised and on the device, and its teacher with what it says of those for training."""

    config: Config
    context: Context
    data: ImageData
    teacher: Teacher
    train: Images
    labels: Tensor
    """of training images, `UNLABELLED` where the learner is not told"""
    features: list[Tensor] = field(default_factory=list)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    @classmethod
    def of(cls, config: Config, context: Context) -> Bench:
        data = load(config, context.seed)
        teacher = obtain_teacher(config, context, data).to(context.device)
        images = standardised(data.train).to(context.device)
        labels = images.labels.clone()
        if config.labelled:
            labels[config.labelled :] = UNLABELLED
        bench = cls(config, context, data, teacher, images, labels)
        with torch.no_grad():
            found = [teacher.features(part.pixels) for part in images.batches(500)]
            bench.features = [torch.cat(parts) for parts in zip(*found, strict=True)]
            bench.logits = torch.cat([teacher.head(f) for f in bench.features[-1].split(500)])
        return bench

    @property
    def channels(self) -> int:
        return self.train.pixels.shape[1]

    def split(self, name: str) -> Images:
        """A split as the networks take it, on the device."""
        return standardised(self.data.split(name)).to(self.context.device)


def load(config: Config, seed: int, task: str = "") -> ImageData:
    """The images of a run with the answers to its question. Raises MissingData where real data cannot be had."""
    if config.data == "cluttered":
        sizes = {"classes": config.classes, "train": config.train, "validation": config.validation, "test": config.test}
        return load_images("cluttered", seed=seed, task=task or config.task, **sizes)
    return load_images(config.data, seed=seed, validation=config.validation, limit=config.limit or None)


def standardised(images: Images) -> Images:
    return Images((images.pixels - MEAN) / DEVIATION, images.labels)


def identity_of(config: Config, names: Sequence[str], seed: int, **more: Any) -> dict[str, Any]:
    """What decides weights that runs share, as JSON."""
    values = asdict(config)
    return {name: values[name] for name in names} | {"seed": seed} | more


def order_of(count: int, epochs: int, batch: int, seed: int, purpose: str) -> Tensor:
    """Rows of each step, LongTensor [steps, batch]: every epoch a fresh shuffle, the same for all arms of a seed."""
    draws = generator(f"order of {purpose}", seed)
    steps = max(1, epochs * count // batch)
    rows = [torch.randperm(count, generator=draws) for _ in range(-(-steps * batch // count))]
    return torch.cat(rows)[: steps * batch].view(steps, batch)


@dataclass(frozen=True, slots=True)
class Steps(Optimisation):
    """The learning rate times 0.1 at each of ``milestones``, given as shares of the steps."""

    milestones: tuple[float, ...] = ()

    def factor(self, step: int) -> float:
        return 0.1 ** sum(step >= share * self.steps for share in self.milestones)


def recipe(config: Config, lr: float, steps: int, milestones: str) -> Optimisation:
    """Adam, without weight decay or clipping. Raises ValueError for an unknown schedule."""
    if config.schedule == "steps":
        marks = tuple(map(float, milestones.split()))
        return Steps(lr, steps, 0.0, "constant", (0.9, 0.999), 0.0, 0.0, marks)
    return Optimisation(lr, steps, 0.05, config.schedule, (0.9, 0.999), 0.0, 0.0)


def fit(
    model: nn.Module, order: Tensor, loss: Callable[[Tensor], Tensor], optimisation: Optimisation,
    evaluate: Callable[[], float], progress: Callable[[int, int, float | None], None],
) -> bool:  # fmt: skip
    """Train on rows; ``evaluate`` is called once, at the end. Returns whether the loss stayed finite."""
    trained = train(
        model, iter(order), lambda rows: (loss(rows), None), lambda: {"loss": evaluate()}, optimisation, evaluations=1,
        progress=progress,
    )  # fmt: skip
    return not trained.diverged


@torch.no_grad()
def cross_entropy(model: Callable[[Tensor], Tensor], images: Images) -> float:
    """Of images on the device, nats."""
    losses = [F.cross_entropy(model(part.pixels), part.labels, reduction="sum") for part in images.batches(500)]
    return float(torch.stack(losses).sum()) / len(images.labels)


# --- the teacher ----------------------------------------------------------------------------------------------


def fresh_teacher(config: Config, data: ImageData, seed: int, task: str) -> Teacher:
    """A teacher of the task with its initial weights. Where glyphs stand is asked of a grid and not of its mean."""
    widths = tuple(map(int, config.widths.split()))
    teacher = Teacher(data.train.pixels.shape[1], widths, config.blocks, data.classes)
    if task != "class":
        cells = widths[-1] * (data.train.pixels.shape[-1] // 2 ** (len(widths))) ** 2
        teacher.head = nn.Sequential(nn.Flatten(), nn.Linear(cells, data.classes))
    seeded_start(teacher, seed)
    return teacher


def obtain_teacher(config: Config, context: Context, data: ImageData) -> Teacher:
    """The teacher of a task, trained on all labels. That of another question than ``class`` has the first part of the
    classifier, as it is, and learns the rest from its weights."""
    task = config.task if config.data == "cluttered" else "class"
    seed = context.seed

    def build() -> Built:
        teacher = fresh_teacher(config, data, seed, task)
        if task != "class":
            classifier = obtain_teacher(
                Config(**{**asdict(config), "task": "class"}), context, load(config, seed, "class")
            )
            teacher.first.load_state_dict(classifier.first.state_dict())
            teacher.stages.load_state_dict(classifier.stages.state_dict())
            teacher.first.requires_grad_(False)
        teacher.to(context.device)
        images = standardised(data.train).to(context.device)
        held = standardised(data.validation).to(context.device)
        order = order_of(len(images.labels), config.teacher_epochs, config.batch, seed, "teacher")
        first = teacher.first

        def loss(rows: Tensor) -> Tensor:
            if task != "class":
                first.eval()
            return F.cross_entropy(teacher(images.pixels[rows]), images.labels[rows])

        optimisation = Optimisation(config.teacher_lr, len(order), 0.05, "cosine", (0.9, 0.999), 1e-2, 0.0)
        fit(teacher, order, loss, optimisation, lambda: cross_entropy(teacher, held), context.progress)
        return Built(teacher.state_dict(), {})

    identity = identity_of(config, TEACHER, seed, task=task, images=data.fingerprint)
    part = Part(f"teacher-{task}", identity, build, __name__)
    teacher = fresh_teacher(config, data, seed, task)
    teacher.load_state_dict(obtain([part])[0].state)
    return teacher.eval().requires_grad_(False)


# --- learned arms ---------------------------------------------------------------------------------------------


@dataclass
class Point:
    """An operating point: ``rate`` as it was asked for, bytes an image and accuracy in percent on test images and, for
    choosing options, on validation images."""

    rate: float
    bytes: float
    accuracy: float
    held_bytes: float
    held_accuracy: float
    more: dict[str, float] = field(default_factory=dict)
    split: Split | None = None
    diverged: bool = False
    seen: Tensor | None = None
    student: Student | None = None


def build(bench: Bench, rate: float) -> Student:
    """An arm's student for a rate, with its initial weights. Raises ValueError for an unknown encoder."""
    config, channels, c = bench.config, bench.channels, bench.config.channels
    widths = tuple(map(int, config.widths.split()))
    teacher = bench.teacher
    prior: Any = FactorisedPrior(c)
    if config.encoder == "drawn":
        front: nn.Module = drawn_encoder(channels, c)
    elif config.encoder in ("learned", "shared", "shared-end"):
        front = encoder(channels, c)
    else:
        raise ValueError(f"encoder is learned, drawn, shared or shared-end, not {config.encoder!r}")
    stages: list[nn.Module] = list(teacher.stages)
    back = decoder(c, widths[0])
    if config.targets == "pixels":
        stages, back = [teacher.first, *stages], pixel_decoder(c, widths[0], channels)
    elif config.targets != "features":
        raise ValueError(f"targets are features or pixels, not {config.targets!r}")
    if config.learner == "channels":
        sent = int(rate)
        front, prior, back = narrow_encoder(channels, c, sent), EightBits(), decoder(sent, widths[0])
    student = Student(front, prior, back, stages, teacher.head)
    parts: list[nn.Module] = [student.encoder, student.prior, student.decoder]
    if config.learner == "end-to-end":
        parts += [student.stages, student.head]
    for place, part in enumerate(parts):
        seeded_start(part, order_seed(f"part {place}", bench.context.seed) % 2**31)
    with torch.no_grad():
        last = student.encoder[0][-1] if config.encoder == "drawn" else student.encoder[-1]  # type: ignore[index, union-attr]
        last.weight *= config.start  # else everything rounds to nothing
    return student.to(bench.context.device)


def first_stage(bench: Bench, rate: float, epochs: int) -> Student:
    """A student whose encoder has learned: by distillation, or with the task where the arm is trained as a whole.

    Built once for a seed, whatever the task that later stages are for, as arms share it.
    """
    config, context = bench.config, bench.context
    student = build(bench, rate)

    def make() -> Built:
        ok = train_first_stage(bench, student, rate, epochs)
        if isinstance(student.prior, EightBits):
            student.prior.calibrate(latents(student, bench.train.pixels))
        return Built(student.state_dict(), {"finite": ok})

    labels = {"labelled": config.labelled} if config.learner in ("end-to-end", "joint") else {}
    part = Part(
        f"first-{config.learner}",
        identity_of(
            config, STAGE, context.seed, task=config.task, learner=config.learner, targets=config.targets,
            encoder=config.encoder, rate=rate, own_epochs=epochs, images=bench.data.fingerprint, **labels,
        ),
        make,
        __name__,
    )  # fmt: skip
    student.load_state_dict(obtain([part])[0].state)
    return student


def train_first_stage(bench: Bench, student: Student, rate: float, epochs: int) -> bool:
    """Stage 1 of an arm, or its only one. Returns whether the loss stayed finite."""
    config, context, x = bench.config, bench.context, bench.train.pixels
    noise = Generator(context.device).manual_seed(order_seed("rounding", context.seed))
    order = order_of(len(x), epochs, config.batch, context.seed, "first stage")
    targets = [x] if config.targets == "pixels" else bench.features
    beta = 0.0 if config.learner == "channels" else rate
    if config.learner in ("end-to-end", "joint"):
        student.freeze()
    else:
        student.begin_distillation()
    if config.encoder == "drawn":
        student.encoder[0].requires_grad_(False)  # type: ignore[index]

    def loss(rows: Tensor) -> Tensor:
        seen = student(x[rows], noise)
        if config.learner == "end-to-end":
            alpha = 1.0
        elif config.learner == "joint":
            alpha = 0.5
        else:
            return stage_one_loss(seen.features, [t[rows] for t in targets], seen.bits, beta) / len(rows)
        task = stage_two_loss(seen.logits, bench.logits[rows], bench.labels[rows], alpha=alpha)
        return task + beta * seen.bits.mean()

    held = bench.split("validation")
    rate = (config.end_lr if config.learner == "end-to-end" else 0.0) or config.lr
    optimisation = recipe(config, rate, len(order), config.milestones)
    return fit(student, order, loss, optimisation, lambda: cross_entropy(lambda v: student(v).logits, held),
               context.progress)  # fmt: skip


@torch.no_grad()
def latents(student: Student, x: Tensor) -> Tensor:
    """What the encoder gives for images [N, C, H, W], before rounding."""
    return torch.cat([student.encoder(part) for part in x.split(500)])


def tune(bench: Bench, student: Student, epochs: int) -> bool:
    """Stage 2: decoder and tail learn from what the fixed encoder sends. Returns whether the loss stayed finite."""
    config, context = bench.config, bench.context
    code = student.begin_tuning()
    v = code.values(code.symbols(latents(student, bench.train.pixels))).to(context.device)
    held = Images(latents(student, bench.split("validation").pixels), bench.split("validation").labels)
    held = Images(code.values(code.symbols(held.pixels)).to(context.device), held.labels)

    def loss_of(values: Tensor, rows: Tensor) -> Tensor:
        return stage_two_loss(student.tail(values)[1], bench.logits[rows], bench.labels[rows], alpha=config.alpha,
                              tau=config.tau)  # fmt: skip

    if config.tune_optimiser == "sgd":
        sgd = Sgd(config.tune_lr, epochs, config.tune_batch, schedule=config.schedule,
                  milestones=tuple(map(float, config.tune_milestones.split())))  # fmt: skip
        images = Images(v, torch.arange(len(v), device=v.device))
        losses = train_task(student, images, loss_of, sgd, generator("order of tuning", context.seed),
                            augment=lambda values, _: values)  # fmt: skip
        return all(map(torch.isfinite, torch.tensor(losses)))
    order = order_of(len(v), epochs, config.tune_batch, context.seed, "tuning")
    optimisation = recipe(config, config.tune_lr, len(order), config.tune_milestones)
    return fit(student, order, lambda rows: loss_of(v[rows], rows), optimisation,
               lambda: cross_entropy(lambda values: student.tail(values)[1], held), context.progress)  # fmt: skip


def rates_of(config: Config) -> list[float]:
    """The rates of an arm in the unit of the loss that its encoder is trained with."""
    if config.learner == "channels":
        return list(map(float, config.sent.split()))
    if config.learner in ("end-to-end", "joint") or config.encoder == "shared-end":
        return list(map(float, config.task_rates.split()))
    return list(map(float, (config.pixel_rates if config.targets == "pixels" else config.rates).split()))


def learned_points(bench: Bench) -> list[Point]:
    """Every rate of an arm: train, tune where the arm does, and send the test images."""
    config, context = bench.config, bench.context
    rates = rates_of(config)
    out = []
    for place, rate in enumerate(rates):
        whole = config.learner in ("end-to-end", "joint")
        epochs = config.epochs + (0 if config.tune else config.tune_epochs)
        if config.learner == "end-to-end":
            epochs += config.teacher_epochs
        more: dict[str, float] = {}
        if config.encoder in ("shared", "shared-end"):
            student = borrowed(bench, rate)
            extra = config.epochs if config.encoder == "shared-end" else 0
            ok = tune(bench, student, config.tune_epochs + extra)
        else:
            student = first_stage(bench, rate, epochs)
            ok = True
            if config.tune and not whole:
                more["untuned"] = sent(student, bench.split("test"))[1]
                ok = tune(bench, student, config.tune_epochs)
        student.eval()
        point = measure(bench, student, rate, place)
        point.more |= more
        point.diverged = not ok
        out.append(point)
        context.progress(place + 1, len(rates), 100 - point.accuracy)
    return out


def borrowed(bench: Bench, rate: float) -> Student:
    """A student for this task with the encoder and prior of the ``class`` task, which stay as they are.

    ``shared``: of distillation, with its decoder, and the stages of this task's teacher. ``shared-end``: of a network
    trained as a whole for the classes, with its decoder and stages. The head is this task's.
    """
    config = bench.config
    end = config.encoder == "shared-end"
    other = Config(**{
        **asdict(config), "task": "class", "encoder": "learned", "labelled": 0,
        "learner": "end-to-end" if end else "student",
    })  # fmt: skip
    source = Bench.of(other, bench.context)
    epochs = config.epochs + (config.tune_epochs + config.teacher_epochs if end else 0)
    found = first_stage(source, rate, epochs)
    student = build(bench, rate)
    for name in ("encoder", "prior", "decoder", *(("stages",) if end else ())):
        getattr(student, name).load_state_dict(getattr(found, name).state_dict())
    return student


# --- measuring ------------------------------------------------------------------------------------------------


@torch.no_grad()
def sent(student: Student, images: Images) -> tuple[float, float, float]:
    """Bytes of the messages of images on the device (mean), accuracy in percent of what the other side makes of them,
    and bytes of an ideal code."""
    student.eval()
    code = student.prior.code()
    total, right, ideal = 0, 0.0, 0.0
    for part in images.batches(500):
        messages = send(student, code, part.pixels)
        size = tuple(student.encoder(part.pixels[:1]).shape[-2:])
        logits = receive(student, code, messages, (size[0], size[1]))
        total += sum(map(len, messages))
        right += float((logits.argmax(1) == part.labels).sum())
        ideal += sum(code.ideal_bits(s) for s in code.symbols(student.encoder(part.pixels))) / 8
    count = len(images.labels)
    return total / count, 100 * right / count, ideal / count


def measure(bench: Bench, student: Student, rate: float, place: int) -> Point:
    """An operating point of a trained student."""
    size, accuracy, ideal = sent(student, bench.split("test"))
    held_size, held_accuracy, _ = sent(student, bench.split("validation"))
    point = Point(rate, size, accuracy, held_size, held_accuracy, {"ideal_bytes": ideal})
    one = bench.split("test").pixels[:1]
    code = student.prior.code()
    message = send(student, code, one)
    shape = student.encoder(one).shape[-2:]
    point.split = Split(
        time_calls(lambda: send(student, code, one)), size,
        time_calls(lambda: receive(student, code, message, (shape[0], shape[1]))),
    )  # fmt: skip
    if bench.config.targets == "pixels" and bench.context.seed % 1000 == 0:
        with torch.no_grad():
            v = code.values(code.symbols(student.encoder(bench.split("test").pixels[:8]))).to(one.device)
            point.seen = student.decoder(v).cpu() * DEVIATION + MEAN
    point.student = student
    return point


def codec_points(bench: Bench, codec: str, qualities: Sequence[int], limit: int = 0) -> list[Point]:
    """Every quality of a codec, with the teacher as it is behind it; ``raw`` sends a byte a value."""
    out, device, teacher = [], bench.context.device, bench.teacher

    def answer(pixels: Tensor) -> Tensor:
        return teacher(((pixels - MEAN) / DEVIATION).to(device)).argmax(1).cpu()

    for place, quality in enumerate(qualities):
        found: list[float] = []
        for name in ("validation", "test"):
            pixels, labels = (x[:limit] if limit else x for x in bench.data.split(name))
            if codec == "raw":
                coded = Coded(pixels, torch.full((len(pixels),), pixels[0].numel()), torch.zeros(len(pixels)))
            else:
                coded = code_images(pixels, codec, quality)
            with torch.no_grad():
                guess = torch.cat([answer(part) for part in coded.pixels.split(500)])
            found += [float(coded.payload.double().mean()), 100 * float((guess == labels).double().mean())]
        point = Point(quality, found[2], found[3], found[0], found[1])
        point.more["file_bytes"] = float(coded.file.double().mean())
        point.seen = coded.pixels[:8]
        coding, answering = codec_times(bench.data.test.pixels[0], codec, quality, answer)
        point.split = Split(coding, point.bytes, answering)
        out.append(point)
        bench.context.progress(place + 1, len(qualities), 100 - point.accuracy)
    return out


def codec_times(
    image: Tensor, codec: str, quality: int, answer: Callable[[Tensor], Tensor]
) -> tuple[float, float]:  # fmt: skip
    """Seconds of coding one image [C, H, W], and of decoding and answering it."""
    if codec == "raw":
        return 0.0, time_calls(lambda: answer(image[None]))
    file = encode_image(image, codec, quality)
    coding = time_calls(lambda: encode_image(image, codec, quality))
    return coding, time_calls(lambda: answer(decode_image(file, len(image) == 1)[None]))


def summarise(outcome: Outcome, bench: Bench, points: Sequence[Point]) -> None:
    """Metrics, curves, tables, profile and pictures of a run."""
    chance = 100 / bench.data.classes
    test = [(p.bytes, p.accuracy) for p in points]
    held = [(p.held_bytes, p.held_accuracy) for p in points]
    with torch.no_grad():
        images = bench.split("test")
        right = [float((bench.teacher(p.pixels).argmax(1) == p.labels).sum()) for p in images.batches(500)]
    reference = 100 * sum(right) / len(images.labels)
    metrics = outcome.metrics
    metrics["teacher_accuracy"] = reference
    for name, budget in BUDGETS.items():
        metrics[f"accuracy_{name}"] = quality_at(test, budget, nothing=chance)
    found = [quality_at(held, budget, nothing=chance) for budget in BUDGETS.values()]
    metrics["error"] = 100 - sum(found) / len(found)
    metrics["best_accuracy"] = max(p.accuracy for p in points)
    metrics["log2_bytes"] = mean_log2_rate(test, *RANGE, nothing=chance)
    for place, point in enumerate(points, 1):
        metrics[f"bytes_{place}"], metrics[f"accuracy_{place}"] = point.bytes, point.accuracy
        if "untuned" in point.more:
            metrics[f"tuning_gain_{place}"] = point.accuracy - point.more["untuned"]
    needed = rate_at(test, RANGE[1], nothing=chance)
    enough = [p for p in points if p.bytes >= needed]
    if enough and (split := enough[0].split if points[0].bytes < points[-1].bytes else enough[-1].split):
        metrics["device_s"], metrics["server_s"] = split.device_s, split.server_s
        at = Split(split.device_s, needed, split.server_s)
        latencies = {name: at.latency_s(bandwidth) for name, bandwidth in LINKS.items()}
    else:  # never, where no point is accurate enough
        latencies = dict.fromkeys(LINKS, math.inf) if any(p.split for p in points) else {}
    if latencies:
        metrics["bytes_needed"] = needed
        metrics |= {f"latency_{name}_s": seconds for name, seconds in latencies.items()}
    order = sorted(points, key=lambda p: p.bytes)
    outcome.curves["accuracy_by_bytes"] = {
        "x": [p.bytes for p in order], "y": [p.accuracy for p in order], "of": "bytes an image"
    }  # fmt: skip
    outcome.tables["points"] = [{"rate": p.rate, "bytes": p.bytes, "accuracy": p.accuracy, **p.more} for p in points]
    outcome.diverged = any(p.diverged for p in points)
    outcome.profile = profile(bench, points)
    if bench.context.seed % 1000 == 0:
        draw(outcome, bench, points)


def profile(bench: Bench, points: Sequence[Point]) -> dict[str, float]:
    """What arms are matched on: ``point_samples``, training images that a point has cost, those of the teacher
    included, and the work of the device."""
    config = bench.config
    rows = len(bench.train.labels)
    out = {"teacher_samples": float(rows * config.teacher_epochs)}
    student = points[-1].student
    if student is None:
        whole = count_parameters(bench.teacher)["params_total"]
        return out | {"point_samples": out["teacher_samples"], "params_total": whole}
    one = bench.train.pixels[:1]
    with torch.no_grad():
        work, all_of_it = count_flops(lambda: student.encoder(one)), count_flops(lambda: student(one))
        local = count_flops(lambda: bench.teacher(one))
    sent_by = sum(p.numel() for p in student.encoder.parameters())
    return out | {
        "point_samples": float(rows * (config.teacher_epochs + config.epochs + config.tune_epochs)),
        "encoder_params": float(sent_by),
        "encoder_flops": work,
        "forward_flops": all_of_it,
        "teacher_flops": local,
        "params_total": count_parameters(student)["params_total"],
    }


def draw(outcome: Outcome, bench: Bench, points: Sequence[Point]) -> None:
    """Pictures: the student's curve among those of codecs, and what a codec for pixels leaves of the images."""
    config = bench.config

    def line(rows: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
        ordered = sorted(rows)
        return {"x": [round(x, 2) for x, _ in ordered], "y": [round(y, 2) for _, y in ordered]}

    if all("untuned" in p.more for p in points) and config.targets == "features" and config.learner == "student" and (
        config.encoder == "learned" and config.task == "class" and not config.labelled
    ):  # fmt: skip
        series = {
            "student": line([(p.bytes, p.accuracy) for p in points]),
            "stage 1 only": line([(p.bytes, p.more["untuned"]) for p in points]),
        }
        for title, qualities in (("JPEG", (1, 5, 10, 20)), ("WebP", (0, 1, 10)), ("AVIF", (0, 15, 25, 35))):
            found = codec_points(bench, title.lower(), qualities, PICTURED)
            series[title] = line([(p.bytes, p.accuracy) for p in found])
        outcome.pictures["rate_distortion"] = chart(
            series, "bytes an image", "accuracy, percent",
            "Accuracy over bytes: the student before and after stage 2, and the "
            f"teacher behind codecs ({PICTURED} images).",
            points=True,
        )  # fmt: skip
    shown = [p for p in points if p.seen is not None]
    if shown:
        rows = [bench.data.test.pixels[:8], *(p.seen for p in shown if p.seen is not None)]
        sizes = ", ".join(f"{p.bytes:.0f}" for p in shown)
        outcome.pictures["images"] = sheet(
            torch.cat(rows), f"Test images, and what is left of them at {sizes} bytes an image.", 8, scale=2
        )
