"""A bench for model merging and forgetting: one pretrained image encoder, and a fine-tuned model per task.

A small ViT is pretrained on glyphs (`repro.data.glyphs`). Every task has classes of its own and a *frozen* head, which
is right in outline only: the mean feature of each class under the pretrained encoder, plus a random direction. It plays
the part that text-derived heads play for CLIP. Fine-tuning trains the whole encoder, so that the models of all tasks
have one shape and one origin and differ by a task vector each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from repro.data.glyphs import glyph_tasks, glyphs
from repro.data.images import ImageData, Images
from repro.models.task_vectors import State
from repro.models.vit import ViT, ViTConfig, cosine_logits
from repro.profiling.counts import count_flops, count_parameters, count_step
from repro.training.checkpoints import Built, Checkpoint, Part, obtain
from repro.training.initial import generator
from repro.training.loop import Optimisation, train


@dataclass(frozen=True, slots=True)
class BenchSpec:
    """Everything that decides a bench. Equal specifications are one bench.

    Args:
        kind: of the tasks, ``classes`` or ``styles``: see `repro.data.glyphs.glyph_tasks`.
        tasks, classes, base_classes: tasks; classes of each; classes of pretraining.
        base_images, images, validation, test: images of pretraining; per task for training, for choosing
            coefficients, and for results.
        layers, hidden, heads, width, patch: of the ViT.
        scale: of the cosine logits.
        steps, batch, lr: of pretraining.
        tune_steps, tune_batch, tune_lr: of fine-tuning.
        warmup, weight_decay, clip: of both; AdamW, linear warm-up, cosine decay.
        head_noise: length of the random part of a head's directions over that of the class means.
        seed: of glyphs, initial weights, heads and order.
    """

    kind: str = "classes"
    tasks: int = 8
    classes: int = 10
    base_classes: int = 120
    base_images: int = 20000
    images: int = 2000
    validation: int = 200
    test: int = 500
    layers: int = 6
    hidden: int = 48
    heads: int = 4
    width: int = 96
    patch: int = 4
    scale: float = 10.0
    steps: int = 1500
    batch: int = 64
    lr: float = 3e-3
    tune_steps: int = 200
    tune_batch: int = 48
    tune_lr: float = 1.2e-3
    warmup: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    head_noise: float = 2.0
    seed: int = 0

    def shape(self) -> ViTConfig:
        return ViTConfig(16, self.patch, 1, self.hidden, self.layers, self.heads, self.width)


#: Fields that pretraining does not depend on.
TASK_FIELDS = (
    "kind", "tasks", "classes", "images", "validation", "test", "tune_steps", "tune_batch", "tune_lr", "head_noise",
)  # fmt: skip
#: Fields that one task's fine-tuning does not depend on.
UNTUNED_FIELDS = ("tasks", "validation", "test")


class MergeBench:
    """The models and tasks of a bench.

    Attributes:
        base: the pretrained encoder's state.
        tuned: the fine-tuned states, one per task.
        tasks: their data.
        heads: class directions [classes, d] per task; the same for every model.
        model: the module that states are run in.
        built: how many parts were trained by this call.
    """

    def __init__(
        self, spec: BenchSpec, base: Checkpoint, tuned: Sequence[Checkpoint], tasks: list[ImageData], device: str
    ) -> None:
        self.spec, self.tasks, self.device = spec, tasks, device
        self.model = ViT(spec.shape()).to(device).eval()
        self.base = _encoder(base.state, device)
        self.tuned = [_encoder(part.state, device) for part in tuned]
        self.heads = [part.state["head"].to(device) for part in tuned]
        self.cards = [base.card, *(part.card for part in tuned)]
        self.built = sum(part.built for part in (base, *tuned))

    @torch.no_grad()
    def accuracy(self, state: State, task: int, split: str = "test", limit: int = 0) -> float:
        """Share of a task's images that a state classifies rightly with the task's head."""
        right, count = 0, 0
        for images in self.tasks[task].split(split).batches(500, limit):
            pixels, labels = images.to(self.device)
            features = functional_call(self.model, dict(state), (pixels,))
            right += int((cosine_logits(features, self.heads[task], 1.0).argmax(-1) == labels).sum())
            count += len(labels)
        return right / count

    def accuracies(self, state: State, split: str = "test", limit: int = 0) -> list[float]:
        """`accuracy` on every task."""
        return [self.accuracy(state, task, split, limit) for task in range(len(self.tasks))]

    def profile(self) -> dict[str, float]:
        """What training all the models cost, whoever paid it, and the size of one of them."""
        names = ("train_samples", "train_flops", "train_s")
        out = {name: float(sum(card[name] for card in self.cards)) for name in names}
        images = self.tasks[0].test.pixels[:1].to(self.device)
        with torch.no_grad():
            out["forward_flops"] = count_flops(lambda: self.model(images))
        return out | {"params_total": count_parameters(self.model)["params_total"], "parts_built": float(self.built)}

    def describe(self) -> dict[str, Any]:
        """What a record keeps about its data and models; flat, JSON."""
        first = self.tasks[0].describe()
        return {
            "name": "glyphs",
            "source": "generated",
            "fingerprint": " ".join(task.fingerprint for task in self.tasks),
            "tasks": len(self.tasks),
            "task_kind": self.spec.kind,
            "train_rows": first["train_rows"],
            "validation_rows": first["validation_rows"],
            "held_out_rows": first["held_out_rows"],
            "base_accuracy": round(self.cards[0]["accuracy"], 4),
            "base_chance": round(1 / self.spec.base_classes, 4),
        }


def merge_bench(
    spec: BenchSpec,
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda *_: None,
    meanwhile: Sequence[BenchSpec] = (),
) -> MergeBench:
    """The bench of a specification: from the cache folder, or trained now.

    Args:
        progress: called with (models that are there, models).
        meanwhile: benches that will be wanted later; pretrained while there is nothing to do but wait.
    """
    later = [base_part(other, device) for other in meanwhile if base_of(other) != base_of(spec)]
    pretrained = base_part(spec, device)
    (base,) = obtain([pretrained], meanwhile=later, progress=lambda *_: progress(0, spec.tasks + 1))
    tasks = tasks_of(spec)
    parts = [tuned_part(spec, t, task, base, device) for t, task in enumerate(tasks)]
    tuned = obtain(parts, progress=lambda done, all_: progress(done + 1, all_ + 1))
    return MergeBench(spec, base, tuned, tasks, device)


def tasks_of(spec: BenchSpec) -> list[ImageData]:
    """The data of all tasks."""
    return glyph_tasks(
        spec.seed, tasks=spec.tasks, classes=spec.classes, base=spec.base_classes, kind=spec.kind, train=spec.images,
        validation=spec.validation, test=spec.test,
    )  # fmt: skip


def base_of(spec: BenchSpec) -> dict[str, Any]:
    """What pretraining depends on."""
    return {name: value for name, value in asdict(spec).items() if name not in TASK_FIELDS}


def base_part(spec: BenchSpec, device: str) -> Part:
    """The pretrained encoder."""

    def build() -> Built:
        data = glyphs(spec.seed, classes=spec.base_classes, train=spec.base_images, validation=600, test=1200)
        model = fresh(spec).to(device)
        head = torch.randn(spec.base_classes, spec.hidden, generator=generator("pretraining head", spec.seed))
        directions = torch.nn.Parameter(head.to(device))
        model.register_parameter("head", directions)  # trained with the encoder, and not part of it
        card = fit_encoder(
            model, directions, data, data.test, Optimisation(
                spec.lr, spec.steps, spec.warmup, "cosine", weight_decay=spec.weight_decay, clip=spec.clip
            ), spec.batch, spec.scale, spec.seed, device,
        )  # fmt: skip
        return Built(model.state_dict(), card)

    return Part("glyph-vit", {**base_of(spec), "device": device.partition(":")[0]}, build, __name__)


def tuned_part(spec: BenchSpec, task: int, data: ImageData, base: Checkpoint, device: str) -> Part:
    """The encoder fine-tuned on one task, with the task's head."""

    def build() -> Built:
        model = ViT(spec.shape()).to(device)
        model.load_state_dict(_encoder(base.state, device))
        head = head_of(model, data, spec, task)
        card = fit_encoder(
            model, head, data, data.validation, Optimisation(
                spec.tune_lr, spec.tune_steps, spec.warmup, "cosine", weight_decay=spec.weight_decay, clip=spec.clip
            ), spec.tune_batch, spec.scale, spec.seed, device,
        )  # fmt: skip
        return Built({**model.state_dict(), "head": head}, card)

    identity = {name: value for name, value in asdict(spec).items() if name not in UNTUNED_FIELDS}
    return Part(f"glyph-task-{task}", {**identity, "task": task, "device": device.partition(":")[0]}, build, __name__)


def fresh(spec: BenchSpec) -> ViT:
    """A new encoder: matrices with variance 1 / fan-in, everything else as in `ViT`; from the seed's generators."""
    model = ViT(spec.shape())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                fan = parameter[0].numel() if "token" not in name and "positions" not in name else 2500
                parameter.normal_(std=fan**-0.5, generator=generator(f"initial {name}", spec.seed))
            elif name.endswith("bias"):
                parameter.zero_()
    return model


@torch.no_grad()
def head_of(model: ViT, data: ImageData, spec: BenchSpec, task: int) -> Tensor:
    """Class directions [classes, d] of unit length before the noise: the mean feature of each class's images under the
    pretrained encoder, less the mean of all, plus a random direction ``head_noise`` times as long. Of known glyphs in a
    new style the means are those of plain images."""
    model.eval()
    device = next(model.parameters()).device
    if spec.kind == "styles":
        data = glyphs(spec.seed, classes=spec.classes, first=data.details["first_class"], train=spec.images)
    features = torch.cat([model(part.pixels.to(device)) for part in data.train.batches(500)])
    labels = data.train.labels.to(device)
    means = torch.stack([features[labels == c].mean(0) for c in range(data.classes)])
    means = F.normalize(means - means.mean(0), dim=-1)
    noise = torch.randn(means.shape, generator=generator(f"head {spec.kind} {task}", spec.seed))
    return means + spec.head_noise * F.normalize(noise.to(device), dim=-1)


def fit_encoder(
    model: ViT, directions: Tensor, data: ImageData, judged: Images, optimisation: Optimisation, batch: int,
    scale: float, seed: int, device: str,
) -> dict[str, Any]:  # fmt: skip
    """Train an encoder, in place, for a head of class directions. What it cost, and its accuracy on ``judged``."""

    def loss(images: Any) -> tuple[Tensor, None]:
        return F.cross_entropy(cosine_logits(model(images.inputs), directions, scale), images.targets), None

    def evaluate() -> dict[str, float]:
        rights, losses = 0, 0.0
        for part in judged.batches(500):
            pixels, labels = part.to(device)
            logits = cosine_logits(model(pixels), directions, scale)
            losses += float(F.cross_entropy(logits, labels, reduction="sum"))
            rights += int((logits.argmax(-1) == labels).sum())
        return {"loss": losses / len(judged.labels), "accuracy": rights / len(judged.labels)}

    order = data.train_order(optimisation.steps, batch, seed)
    sample = data.rows(order[0]).to(device)
    _, step = count_step(model, lambda: loss(sample)[0])
    trained = train(
        model, (data.rows(rows).to(device) for rows in order), loss, evaluate, optimisation, evaluations=1
    )  # fmt: skip
    return {
        **trained.evaluations[-1],
        "train_samples": order.numel(),
        "train_flops": step * len(order),
        "train_s": trained.train_s,
        "diverged": trained.diverged,
    }


def _encoder(state: State, device: str) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in state.items() if name != "head"}
