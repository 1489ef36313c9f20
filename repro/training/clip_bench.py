"""The merge bench with published models: CLIP vision towers fine-tuned on image classification tasks, from the hub or
from local folders of the same layout, with heads made of class names.

The fine-tuned towers are those of FusionBench (``tanganke/clip-vit-*``, transformers' ``CLIPVisionModel``). Everything
that a merge changes is the tower's state dict; the projection and the text tower stay as released.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from repro.data.base import order_seed
from repro.data.errors import MissingData
from repro.data.hub import Source, load_split
from repro.data.hub_probe import locate
from repro.models.task_vectors import State
from repro.profiling.counts import count_flops, count_parameters

if TYPE_CHECKING:
    from datasets import Dataset

#: Mean and standard deviation of the pixels that CLIP was trained on.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class ClipTask:
    """A classification task.

    Args:
        name: also the folder under ``REPRO_DATA_DIR``, and what stands for ``{task}`` in the pattern of model names.
        hub_id, config: of the data, with columns ``image`` and ``label``, splits ``train`` and ``test``.
        template: a sentence with ``{}`` for the class name.
    """

    name: str
    hub_id: str
    template: str = "a photo of a {}."
    config: str | None = None

    def source(self) -> Source:
        return Source(self.name, self.hub_id, self.config, ("image", "label"), "train-*.parquet and test-*.parquet")


#: The eight tasks of the field, in its order.
EIGHT = (
    ClipTask("sun397", "tanganke/sun397"),
    ClipTask("stanford-cars", "tanganke/stanford_cars"),
    ClipTask("resisc45", "tanganke/resisc45", "satellite imagery of {}."),
    ClipTask("eurosat", "tanganke/eurosat", "a centered satellite photo of {}."),
    ClipTask("svhn", "ufldl-stanford/svhn", 'a photo of the number: "{}".', "cropped_digits"),
    ClipTask("gtsrb", "tanganke/gtsrb", 'a zoomed in photo of a "{}" traffic sign.'),
    ClipTask("mnist", "ylecun/mnist", 'a photo of the number: "{}".'),
    ClipTask("dtd", "tanganke/dtd", "a photo of a {} texture."),
)


def decode(data: bytes, size: int) -> Tensor:
    """An encoded image as uint8 [3, size, size]: shorter side to ``size`` (bicubic), centre cut out.

    Raises MissingData without Pillow, which decodes.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingData("images of real data need Pillow: pip install pillow") from error
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    scale = size / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    cut = image.crop((left, top, left + size, top + size))
    return torch.frombuffer(bytearray(cut.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)


def normalise_pixels(pixels: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] to what CLIP reads."""
    mean, std = (torch.tensor(x, device=pixels.device).view(1, 3, 1, 1) for x in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def pretrained(kind: Any, name: str) -> Any:
    """A model or tokenizer of transformers from a folder or the hub. Raises MissingData when neither has it.

    ``name`` may end in ``@`` and a revision of the hub's repository. What is loaded is the commit that the hub names
    for it, or for its main branch: nothing that is pushed in between gets in.
    """
    place = locate(name)
    try:
        return kind.from_pretrained(place.name, revision=place.commit, local_files_only=place.local)
    except (OSError, ValueError) as error:
        raise MissingData(
            f"{name!r} is absent ({place.problem or error}). Ways to get it: let the hub serve it (network needed "
            "once; HF_HUB_OFFLINE=1 then uses the cached copy), or give a local folder that save_pretrained wrote."
        ) from error


class ClipBench:
    """Fine-tuned CLIP vision towers with the interface of `repro.training.merge_bench.MergeBench`.

    Args:
        base: hub id or folder of a whole CLIP model.
        tuned: the same of the fine-tuned towers, with ``{task}`` for the task's name.
        validation: training images per task that choose coefficients.
        test: test images per task; 0: all.

    Raises MissingData when a model or data set cannot be had, ValueError for data that do not name their classes.
    """

    def __init__(
        self, base: str, tuned: str, tasks: Sequence[ClipTask] = EIGHT, *, validation: int = 1000, test: int = 0,
        batch: int = 256, device: str = "cpu",
    ) -> None:  # fmt: skip
        from transformers import AutoTokenizer, CLIPModel, CLIPVisionModel

        self.names, self.batch, self.device = [task.name for task in tasks], batch, device
        self.source = base
        clip = pretrained(CLIPModel, base).to(device).eval()
        tokenizer = pretrained(AutoTokenizer, base)
        self.size = int(clip.config.vision_config.image_size)
        self.projection = clip.visual_projection
        tower: Any = CLIPVisionModel(clip.config.vision_config)
        self.model = tower.to(device).eval()
        self.model.load_state_dict(clip.vision_model.state_dict())
        self.base = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        towers = (pretrained(CLIPVisionModel, tuned.format(task=task.name)) for task in tasks)
        self.tuned = [{n: v.detach().to(device) for n, v in one.state_dict().items()} for one in towers]
        self.splits: list[dict[str, Any]] = []
        self.heads: list[Tensor] = []
        self._decoded: dict[tuple[int, str], list[tuple[Tensor, Tensor]]] = {}
        identities = []
        for task in tasks:
            train, first = load_split(task.source(), "train")
            held_out, second = load_split(task.source(), "test")
            identities += [first[:8], second[:8]]
            rows = cast("Dataset", train)
            generator = torch.Generator().manual_seed(order_seed(f"validation {task.name}", 0))
            chosen = torch.randperm(len(rows), generator=generator)[:validation].tolist()
            found = cast("Dataset", held_out)
            found = found.select(range(min(test or len(found), len(found))))
            self.splits.append({"validation": rows.select(chosen), "test": found})
            self.heads.append(self.head(clip, tokenizer, class_names(rows, task.name), task.template))
        self.identity = " ".join(identities)

    @torch.no_grad()
    def head(self, clip: Any, tokenizer: Any, names: Sequence[str], template: str) -> Tensor:
        """Unit text features of the class names, [classes, projection]."""
        rows = []
        for start in range(0, len(names), self.batch):
            texts = [template.format(name) for name in names[start : start + self.batch]]
            tokens = tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
            output = clip.text_model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            rows.append(clip.text_projection(output.pooler_output))
        return F.normalize(torch.cat(rows), dim=-1)

    def _batches(self, task: int, split: str, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Decoded images and labels; those that choose coefficients are read again and again, and kept."""
        if split == "validation" and (kept := self._decoded.get((task, split))) is not None and not limit:
            yield from kept
            return
        from datasets import Image

        rows = self.splits[task][split].cast_column("image", Image(decode=False))
        stop = min(limit or len(rows), len(rows))
        read = []
        for start in range(0, stop, self.batch):
            part = rows[start : min(start + self.batch, stop)]
            pixels = torch.stack([decode(image["bytes"], self.size) for image in part["image"]])
            read.append((pixels, torch.tensor(part["label"])))
            yield read[-1]
            if split == "test":
                read.clear()
        if split == "validation" and not limit:
            self._decoded[task, split] = read

    @torch.no_grad()
    def accuracy(self, state: State, task: int, split: str = "test", limit: int = 0) -> float:
        """Share of a task's images that a tower classifies rightly with the task's head."""
        right, count = 0, 0
        for pixels, labels in self._batches(task, split, limit):
            images = normalise_pixels(pixels.to(self.device))
            features = self.projection(functional_call(self.model, dict(state), (images,)).pooler_output)
            right += int(((features @ self.heads[task].T).argmax(-1).cpu() == labels).sum())
            count += len(labels)
        return right / count

    def accuracies(self, state: State, split: str = "test", limit: int = 0) -> list[float]:
        """`accuracy` on every task."""
        return [self.accuracy(state, task, split, limit) for task in range(len(self.names))]

    def profile(self) -> dict[str, float]:
        """The size of one tower. Nothing is trained."""
        image = torch.zeros(1, 3, self.size, self.size, device=self.device)
        with torch.no_grad():
            flops = count_flops(lambda: self.model(image))
        total = count_parameters(self.model)["params_total"]
        return {"train_samples": 0.0, "train_flops": 0.0, "train_s": 0.0, "forward_flops": flops, "params_total": total}

    def describe(self) -> dict[str, Any]:
        """What a record keeps about its data and models; flat, JSON."""
        return {
            "name": "clip-tasks",
            "source": "real",
            "fingerprint": self.identity,
            "tasks": len(self.names),
            "model": self.source,
            "validation_rows": len(self.splits[0]["validation"]),
            "held_out_rows": sum(len(split["test"]) for split in self.splits),
        }


def class_names(rows: Any, task: str) -> list[str]:
    """Names of the classes as the data set gives them, words apart. Raises ValueError where it gives none."""
    names = getattr(rows.features["label"], "names", None)
    if not names:
        raise ValueError(f"the labels of {task} have no class names, which its head is made of")
    return [str(name).replace("_", " ").strip() for name in names]
