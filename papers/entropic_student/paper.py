"""Entropic Student (arXiv 2108.11898): facts, arms, settings, claims. Data only; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from repro.claims import (
    Arm,
    Claim,
    Computed,
    Contrast,
    Match,
    Paper,
    Precondition,
    Preset,
    Published,
    Setting,
    Superiority,
)

#: Bytes an image at which arms are compared.
BUDGETS = {"small": 16.0, "large": 32.0, "wide": 64.0}
#: Accuracies, percent, over which the bytes that they need are averaged.
RANGE = (60.0, 85.0)
#: Links of the latency comparisons, bit/s.
LINKS = {"slow": 1e4, "middle": 1e5, "fast": 1e6}


@dataclass(frozen=True)
class Config:
    """Configuration of a run."""

    data: str = "cluttered"  # cluttered | cifar100
    task: str = "class"  # class | place | ground: the question that is asked of cluttered pages
    classes: int = 20
    train: int = 4000
    validation: int = 500
    test: int = 1500
    limit: int = 0  # images read of each split of real data; 0: all
    labelled: int = 0  # training images of which learners know the label; 0: all. The teacher knows all
    # the teacher
    widths: str = "12 24 32"
    blocks: int = 1
    teacher_epochs: int = 8
    teacher_lr: float = 4e-3
    # the arm
    learner: str = "student"  # student | codec | channels (CR+BQ) | end-to-end | joint: one stage, from the teacher
    encoder: str = "learned"  # learned | drawn: stays as it was drawn | shared, shared-end: of the class task
    targets: str = "features"  # features of the teacher | pixels
    tune: bool = True  # stage 2; without it stage 1 has its epochs
    codec: str = "jpeg"
    channels: int = 4  # that the encoder sends
    start: float = 4.0  # scale of the encoder's output at the start
    # rates: bits are weighed with squared error of features or pixels, or with nats an image
    rates: str = "1.5 4 10"
    pixel_rates: str = "0.3 0.8 2"
    task_rates: str = "0.0005 0.0015 0.004"
    sent: str = "1 2"  # channels of CR+BQ
    qualities: str = "1 5 10 20"
    # training
    batch: int = 32
    epochs: int = 6
    lr: float = 4e-2
    end_lr: float = 2e-2  # of end-to-end training; 0: lr
    schedule: str = "cosine"  # cosine | steps
    milestones: str = ""  # shares of stage 1
    tune_epochs: int = 2
    tune_lr: float = 8e-3
    tune_batch: int = 32
    tune_optimiser: str = "adam"  # adam | sgd
    tune_milestones: str = ""
    alpha: float = 0.5  # weight of labels against the teacher
    tau: float = 1.0


CODEC: dict[str, Any] = {"learner": "codec", "tune": False}
PIXELS: dict[str, Any] = {"targets": "pixels"}
END: dict[str, Any] = {"learner": "end-to-end", "tune": False}
#: Learning rates of arms whose best of the grid is not the student's.
SLOWER: dict[str, dict[str, Any]] = {"laptop": {"lr": 2e-2}}
FASTER: dict[str, dict[str, Any]] = {"laptop": {"lr": 8e-2}}
ARMS = (
    Arm("raw", "pixels as they are, and the teacher", "baseline", {**CODEC, "codec": "raw", "qualities": "100"}),
    Arm("jpeg", "JPEG and the teacher", "baseline", {**CODEC, "codec": "jpeg", "qualities": "1 4 7 10 20"}),
    Arm("webp", "WebP and the teacher", "baseline", {**CODEC, "codec": "webp", "qualities": "0 1 5 15"}),
    Arm("avif", "AVIF and the teacher", "baseline", {**CODEC, "codec": "avif", "qualities": "0 12 20 27 35"}),
    Arm("fp", "learned codec for pixels (factorised prior) and the teacher", "baseline", {**PIXELS, "tune": False},
        SLOWER),
    Arm("crbq", "CR+BQ: few channels in eight bits", "baseline", {"learner": "channels", "tune": False}),
    Arm("end", "end-to-end: the same network, labels and rate, from scratch", "baseline", END),
    Arm("student", "Entropic Student", "method"),
    Arm("shared", "Entropic Student with the encoder of the class task", "method", {"encoder": "shared"}),
    Arm("fp-tuned", "learned codec for pixels, and a teacher tuned to it", "ablation", PIXELS, SLOWER),
    Arm("crbq-tuned", "CR+BQ with stage 2", "ablation", {"learner": "channels"}),
    Arm("joint", "one stage: distilled logits, labels and rate, from the teacher", "ablation",
        {"learner": "joint", "tune": False}, FASTER),
    Arm("stage-one", "stage 1 only, as long as both", "ablation", {"tune": False}),
    Arm("drawn", "Entropic Student whose encoder stays as it was drawn, but for a gain", "control",
        {"encoder": "drawn"}),
    Arm("end-shared", "the end-to-end encoder of the class task, and a tail of this one", "control",
        {"encoder": "shared-end"}),
)  # fmt: skip

SETTINGS = (
    Setting(
        "cluttered",
        "Which of 20 glyphs, somewhere on a textured ground",
        "cluttered",
        "generated",
        note="Most of an image is beside the question; stands in for ImageNet.",
    ),
    Setting(
        "few-labels",
        "The same with 200 labels",
        "cluttered",
        "generated",
        {"labelled": 200},
        note="The teacher knows all labels, learners 200 of 4,000; what the teacher says is there for all images.",
    ),
    Setting(
        "place",
        "Where the glyph stands",
        "cluttered",
        "generated",
        {"task": "place"},
        note="A second question about the same images, one of nine places; stands in for detection.",
    ),
    Setting(
        "ground",
        "On which texture it stands",
        "cluttered",
        "generated",
        {"task": "ground"},
        note="A question about what the first one does not need, one of four textures; stands in for segmentation.",
    ),
    Setting(
        "cifar100",
        "CIFAR-100",
        "cifar100",
        "real",
        {"data": "cifar100"},
        default=False,
        note="Real images of 32 x 32 pixels in colour.",
    ),
)
MAIN = ("cluttered", "cifar100")
OTHER = ("place", "ground")

POINT = " points"
FIGURE = "figure of the benchmark of the same group, read to about 3 %"
CONFIGURATIONS = "released configurations and models"
ABSTRACT = "abstract"
TAUGHT = Precondition("the teacher is right more often than four times in five", {"student": 1.0}, "teacher_accuracy",
                      -80.0)  # fmt: skip
ANSWERED = Precondition("the teacher is right more often than three times in five", {"student": 1.0},
                        "teacher_accuracy", -60.0)  # fmt: skip
SENDS = Precondition("end-to-end training sends two bytes or more at its middle rate", {"end": 1.0}, "bytes_2", -2.0)
#: The same images seen for each point, those of the teacher included, and the same work on the device.
SAMPLES, DEVICE = Match("point_samples", 0.01), Match("encoder_flops", 0.15)


def ahead(
    name: str, title: str, better: str, worse: str, budget: str, *, settings: tuple[str, ...] = MAIN,
    matched: tuple[Match, ...] = (), role: Any = "primary", published: Any = None, share: float = 1.0,
    also: tuple[Precondition, ...] = (),
) -> Contrast:  # fmt: skip
    """Points of accuracy at a budget of bytes: those of ``better`` minus those (a ``share``) of ``worse``, if the
    teacher is good enough and ``also`` holds."""
    return Contrast(
        name, title, {better: 1.0, worse: -share}, f"accuracy_{budget}", Superiority(), settings, matched=matched,
        preconditions=(ANSWERED if settings[0] in OTHER else TAUGHT, *also), role=role, unit=POINT, published=published,
    )  # fmt: skip


def reaching(arm: str, budget: str) -> tuple[Precondition, ...]:
    """At the widest budget: that the curve of an arm, whose first rate is its dearest, goes that far. Where it ends
    before, it is held constant, and that it is caught up with says nothing."""
    if budget != "wide":
        return ()
    size = BUDGETS[budget]
    return (Precondition(f"{arm} sends {size:g} bytes at its dearest rate", {arm: 1.0}, "bytes_1", -size),)


def saving(name: str, other: str, title: str, published: float, text: str) -> Contrast:
    """Doublings of bytes that the student saves, mean over accuracies of `RANGE`."""
    return Contrast(
        name, f"bytes saved, student against {title}, mean over accuracies of {RANGE[0]:g} to {RANGE[1]:g} %",
        {other: 1.0, "student": -1.0}, "log2_bytes", Superiority(), MAIN, preconditions=(TAUGHT,), role="secondary",
        unit=" doublings", published=Published(text, FIGURE, published),
    )  # fmt: skip


def sooner(name: str, other: str, title: str, link: str, role: Any = "primary") -> Contrast:
    """Seconds to an answer with at least 85 % accuracy that the student saves, in percent of the other's."""
    return Contrast(
        name, f"latency at {LINKS[link] / 1e3:g} kbit/s, {title} minus student", {other: 1.0, "student": -1.0},
        f"latency_{link}_s", Superiority(), MAIN, relative_to=other, preconditions=(TAUGHT,), role=role,
    )  # fmt: skip


BOTH = (("large", "32 bytes"), ("small", "16 bytes"))
FILES = (("jpeg", "JPEG"), ("webp", "WebP"), ("avif", "AVIF"))
WIDE = (("wide", "64 bytes"), ("large", "32 bytes"))

CLAIMS = (
    Claim(
        "C1",
        "At equal bytes the student is more accurate than the teacher behind any codec for images, learned ones "
        "included.",
        "quality",
        Published("ImageNet, KB / top-1: student 1.32 / 68.0, 2.26 / 72.0, 3.7 / 74.0; BPG 3.3 / 67.8, 5.9 / 72.4, "
                  "14.5 / 75.7; JPEG 5.1 / 67.8, 9.0 / 72.8", FIGURE),
        (
            *(
                ahead(f"{codec}-{budget}", f"accuracy at {text}, student minus {title}", "student", codec, budget,
                      also=reaching("student", budget),
                      role="secondary" if (codec, budget) == ("webp", "large") else "primary")
                for budget, text in WIDE for codec, title in FILES
            ),
            *(
                ahead(f"fp-{budget}", f"accuracy at {text}, student minus learned codec", "student", "fp", budget,
                      matched=(SAMPLES, DEVICE))
                for budget, text in BOTH
            ),
            saving("saved-avif", "avif", "AVIF", 1.29, "2.4 times fewer bytes than BPG"),
            saving("saved-jpeg", "jpeg", "JPEG", 2.09, "4.3 times fewer bytes than JPEG"),
            *(
                ahead(f"fp-tuned-{budget}", f"accuracy at {text}, student minus learned codec with a tuned teacher",
                      "student", "fp-tuned", budget, matched=(SAMPLES, DEVICE), role="secondary")
                for budget, text in BOTH
            ),
            ahead("tuned-codec", "what tuning brings the learned codec at 32 bytes", "fp-tuned", "fp", "large",
                  matched=(SAMPLES, DEVICE), role="secondary"),
            *(
                ahead(f"drawn-{budget}", f"negative control: encoder not learned, minus AVIF, at {text}", "drawn",
                      "avif", budget, settings=("cluttered",), role="control",
                      also=reaching("drawn", budget))
                for budget, text in WIDE
            ),
            ahead("learned", "student minus a student whose encoder is not learned, at 32 bytes", "student", "drawn",
                  "large", settings=("cluttered",), matched=(SAMPLES,), role="secondary"),
        ),
        untested="BPG and codecs with a hyperprior are not run: AVIF stands for them.",
        headline=True,
    ),
    Claim(
        "C2",
        "At equal bytes the student is more accurate than the same network with few channels in eight bits, and than "
        "the same network trained end to end.",
        "quality",
        Published("ImageNet, KB / top-1: CR+BQ 4.2 / 60.9, 7.8 / 72.1, 11.4 / 74.1; end-to-end 3.3 / 62.9, 16 / 66.1",
                  FIGURE),
        (
            ahead("crbq", "accuracy at 64 bytes, student minus CR+BQ", "student", "crbq", "wide",
                  matched=(SAMPLES, DEVICE), also=reaching("student", "wide"),
                  published=Published("75.3 and 72.1 at 7.8 KB", FIGURE, 3.1)),
            ahead("end-large", "accuracy at 32 bytes, student minus end-to-end", "student", "end", "large",
                  matched=(SAMPLES, DEVICE), published=Published("73.6 and 62.9 at 3.3 KB", FIGURE, 10.7)),
            ahead("end-small", "accuracy at 16 bytes, student minus end-to-end", "student", "end", "small",
                  matched=(SAMPLES, DEVICE)),
            ahead("crbq-tuned", "accuracy at 64 bytes, student minus CR+BQ with stage 2", "student", "crbq-tuned",
                  "wide", matched=(SAMPLES, DEVICE), also=reaching("student", "wide"),
                  role="secondary"),
            *(
                ahead(f"few-{budget}", f"with 200 labels, accuracy at {text}, student minus end-to-end", "student",
                      "end", budget, settings=("few-labels",), matched=(SAMPLES, DEVICE), role="secondary",
                      also=(SENDS,))
                for budget, text in BOTH
            ),
        ),
    ),
    Claim(
        "C3",
        "The encoder is small: 0.14 M parameters, a ninth of a learned image codec's, and a seventh of ResNet-50's "
        "work.",
        "cost",
        Published("138,672 parameters, 547 KiB with the prior; 588 M of 4.09 G MACs", CONFIGURATIONS),
        (
            Computed("encoder", "parameters of the encoder", "encoder_parameters", 138_672.0, 0.0),
            Computed("macs", "MACs of the encoder, 224 x 224 pixels", "encoder_macs", 588.4e6, 1e-3),
            Computed("teacher", "MACs of ResNet-50", "resnet50_macs", 4.09e9, 1e-3),
            Computed("codec", "parameters of the learned image codec's encoder", "codec_encoder_parameters",
                     1_288_448.0, 0.0),
            Computed("size", "encoder and prior in 32 bits", "encoder_kib", 547.0, 1e-3, unit=" KiB", role="secondary"),
            Computed("symbols", "symbols of an image", "latent_symbols", 72_600.0, 0.0, role="secondary"),
            Computed("decoder", "parameters of the decoder", "decoder_parameters", 1_164_032.0, 0.0, role="secondary"),
            Computed("resnet", "parameters of ResNet-50", "resnet50_parameters", 25_557_032.0, 0.0, role="secondary"),
            Computed("replaced", "parameters that the bottleneck replaces", "replaced_parameters", 225_344.0, 0.0,
                     role="secondary"),
        ),
    ),
    Claim(
        "C4",
        "Over a slow link the split gives its answer sooner than sending the image, as it is or through a codec.",
        "cost",
        Published("no figure in what was read", ABSTRACT, verified=False),
        (
            sooner("raw-slow", "raw", "pixels as they are", "slow"),
            sooner("jpeg-slow", "jpeg", "JPEG", "slow"),
            sooner("avif-slow", "avif", "AVIF", "slow"),
            *(
                sooner(f"{other}-{link}", other, title, link, "secondary")
                for link in ("middle", "fast") for other, title in (("raw", "pixels as they are"), ("jpeg", "JPEG"))
            ),
        ),
        untested="Times are of one thread of this machine for device and server alike, on images of 32 x 32 pixels; "
        "embedded boards are not at hand. Running the whole model on the device is compared by arithmetic only.",
    ),
    Claim(
        "C5",
        "One frozen encoder serves other tasks nearly as well as an encoder of their own.",
        "quality",
        Published("classification, detection and segmentation from one encoder", ABSTRACT),
        (
            *(  # the own encoder of place sends 13 to 20 bytes at most, the shared one 21 to 29
                ahead(f"{task}-{budget}", f"{task}, {text}: shared encoder minus nine tenths of its own encoder's "
                      "accuracy", "shared", "student", budget, settings=(task,), share=0.9, matched=(DEVICE,),
                      role="secondary" if (task, budget) == ("place", "large") else "primary")
                for task in OTHER for budget, text in BOTH
            ),
            *(
                ahead(f"{task}-gap", f"{task}, 32 bytes: shared encoder minus its own", "shared", "student", "large",
                      settings=(task,), role="secondary")
                for task in OTHER
            ),
            *(
                ahead(f"{task}-end", f"negative control: {task}, 32 bytes: end-to-end encoder of the classes minus "
                      "nine tenths of its own encoder's accuracy", "end-shared", "student", "large", settings=(task,),
                      share=0.9, role="control")
                for task in OTHER
            ),
            *(
                ahead(f"{task}-against-end", f"{task}, 32 bytes: shared encoder minus the end-to-end one", "shared",
                      "end-shared", "large", settings=(task,), role="secondary")
                for task in OTHER
            ),
        ),
        untested="Detection and segmentation networks on COCO are not run.",
    ),
    Claim(
        "C6",
        "Both stages are needed: after stage 1 alone the same bytes give less accuracy, at every rate.",
        "quality",
        Published("no figure in what was read", "released configurations without stage 2", verified=False),
        (
            *(
                Contrast(f"rate-{place}", f"accuracy after stage 2 minus before, rate {place}", {"student": 1.0},
                         f"tuning_gain_{place}", Superiority(), MAIN, preconditions=(TAUGHT,), unit=POINT)
                for place in (1, 2, 3)
            ),
            *(
                ahead(f"longer-{budget}", f"accuracy at {text}, both stages minus a stage 1 as long as both", "student",
                      "stage-one", budget, matched=(SAMPLES, DEVICE), role="secondary")
                for budget, text in BOTH
            ),
            *(
                ahead(f"joint-{budget}", f"accuracy at {text}, both stages minus one stage with distilled logits",
                      "student", "joint", budget, matched=(SAMPLES, DEVICE), role="secondary")
                for budget, text in BOTH
            ),
        ),
    ),
)  # fmt: skip

METRICS = {
    "error": "100 minus accuracy on validation images, mean over the budgets, percent",
    **{f"accuracy_{name}": f"best test accuracy at {size:g} bytes an image, time sharing, percent"
       for name, size in BUDGETS.items()},
    "log2_bytes": f"log2 of the bytes needed for an accuracy, mean over {RANGE[0]:g} to {RANGE[1]:g} %",
    "best_accuracy": "the best test accuracy of the points, percent",
    "teacher_accuracy": "test accuracy of the teacher on images as they are, percent",
    **{f"bytes_{place}": f"bytes an image at rate {place}" for place in range(1, 10)},
    **{f"accuracy_{place}": f"test accuracy at rate {place}, percent" for place in range(1, 10)},
    **{f"tuning_gain_{place}": f"accuracy after stage 2 minus before, rate {place}, points" for place in range(1, 10)},
    "bytes_needed": f"bytes an image for {RANGE[1]:g} % accuracy",
    "device_s": "seconds of the device for an image",
    "server_s": "seconds of the server for an image",
    **{f"latency_{name}_s": f"seconds to an answer over {speed / 1e3:g} kbit/s, at {RANGE[1]:g} % accuracy"
       for name, speed in LINKS.items()},
}  # fmt: skip

PAPER = Paper(
    slug="entropic_student",
    title="Supervised Compression for Resource-Constrained Edge Computing Systems",
    short="Entropic Student",
    area="Split computing",
    arxiv="2108.11898",
    year=2021,
    venue="WACV 2022",
    code="yoshitomo-matsubara/supervised-compression",
    idea="A device sends not the image but what a network on the server needs of it. A tiny encoder, an entropy model "
    "and a decoder replace the first part of a teacher; they learn to give the teacher's features for as few bits as "
    "possible, then the encoder is fixed and the rest is tuned to the task.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {
                "classes": 4, "train": 64, "validation": 16, "test": 16, "widths": "4 6 8", "channels": 2,
                "teacher_epochs": 1, "epochs": 1, "tune_epochs": 1, "rates": "2 4 8", "pixel_rates": "3",
                "task_rates": "0.003", "sent": "1", "labelled": 0,
            },
            per_setting={"few-labels": {"labelled": 16}},
            seeds=1,
            time_limit=300,
        ),
        "laptop": Preset(
            per_setting={
                "few-labels": {"tune_lr": 2e-3, "end_lr": 2.5e-3},
                **{task: {"rates": "1.5 4"} for task in OTHER},
            },
            time_limit=900,
        ),
        "gpu": Preset(
            {
                "widths": "64 128 256", "blocks": 3, "channels": 12, "teacher_epochs": 60, "epochs": 20,
                "tune_epochs": 10, "lr": 2e-3, "tune_lr": 2e-3, "end_lr": 0.0, "batch": 128, "tune_batch": 128,
                "rates": "0.5 1.5 5 15", "pixel_rates": "0.3 1 3 10", "task_rates": "0.0003 0.001 0.003 0.01",
                "sent": "1 2 4",
            },
            settings=("cifar100",),
            arms={"cifar100": ("jpeg", "webp", "avif", "fp", "crbq", "end", "student", "joint")},
            time_limit=3600,
            memory_limit=64 * 2**30,
            needs="one GPU with 16 GiB; CIFAR-100 from the hub or REPRO_DATA_DIR",
        ),
        "published": Preset(
            {
                "widths": "256 512 1024", "blocks": 3, "channels": 24, "teacher_epochs": 90, "epochs": 10,
                "tune_epochs": 10, "lr": 1e-3, "tune_lr": 1e-3, "end_lr": 0.0, "batch": 64, "tune_batch": 128,
                "schedule": "steps", "milestones": "0.5 0.8", "tune_optimiser": "sgd", "tune_milestones": "0.5",
                "start": 1.0, "rates": "0.01 0.02 0.04 0.08 0.16 0.32 0.64 1.28 2.56",
                "task_rates": "1.28e-8 5.12e-8 2.048e-7", "sent": "2 3 6 9 12",
            },
            settings=("cifar100",),
            time_limit=7 * 24 * 3600,
            memory_limit=64 * 2**30,
            needs="one GPU with 24 GiB, days; CIFAR-100 from the hub or REPRO_DATA_DIR",
        ),
    },
    experiment="papers.entropic_student.experiment.run",
    accounting="papers.entropic_student.published.accounting",
    departures=(
        "Glyphs on textured grounds of 32 x 32 pixels and a small residual network stand in for ImageNet and "
        "ResNet-50; where a glyph stands, and on what, for detection and segmentation.",
        "Adam and cosine decay in both stages, where stage 2 has SGD and both have steps.",
        "Medians are searched and not learned; frozen stages keep the teacher's statistics of batch norm.",
        "JPEG, WebP and AVIF stand for BPG and for a DCT codec with an ideal entropy code; they are counted without "
        "the headers of their files, WebP and AVIF with those of the frame.",
    ),
    primary_metric="error",
    metrics=METRICS,
)  # fmt: skip
