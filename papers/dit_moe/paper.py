"""DiT-MoE (arXiv 2407.11633): facts, arms, settings, claims. Data only; imports no torch."""

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


@dataclass(frozen=True)
class Config:
    """Configuration of a run. Widths are in units of the hidden size."""

    data: str = "digits"
    limit: int = 0  # images of each split; 0: all
    validation: int = 0  # images of real data that are held out to choose by; 0: the data set's own number
    latent: bool = False  # latents: not scaled to [-1, 1], not shown
    objective: str = "flow"  # flow | ddpm
    diffusion_steps: int = 1000  # T of ddpm
    # the network
    patch: int = 2
    hidden: int = 32
    layers: int = 8
    heads: int = 4
    frequencies: int = 64  # width of the sinusoidal embedding of the time
    qk_norm: bool = False
    feed_forward: str = "moe"  # moe | dense-active | dense-total: a SwiGLU as wide as the active or as all experts
    # the experts
    experts: int = 8
    active: int = 2
    width: float = 2.0
    shared: float = 1.0
    share: bool = True  # False: no shared expert, and routed ones so wide that as many units are active
    alpha: float = 0.005
    where: str = "all"  # all | deep | shallow half of the blocks
    routing: str = "learned"  # learned | shuffled
    # training
    steps: int = 600
    batch: int = 64
    lr: float = 0.0  # 0: that of `rates` for the data and objective
    rates: str = "digits=1.6e-2 waves=1.6e-2 digits-ddpm=1.6e-2"  # best of one grid on tuning seeds
    warmup: float = 0.05
    schedule: str = "linear"
    weight_decay: float = 0.0
    clip: float = 1.0
    ema: float = 0.99
    label_drop: float = 0.1
    flip: bool = False
    dtype: str = "float32"
    # measuring
    evaluations: int = 5
    levels: int = 10  # fixed times of the held-out error
    eval_batch: int = 180
    eval_images: int = 0  # 0: all of the split
    samples: int = 540  # at most as many as there are test images
    traced: int = 540  # images whose routing is kept
    sample_steps: int = 20
    guidance: float = 1.5
    guided_channels: int = 0  # 0: all
    components: int = 32  # principal components that generated images are compared in
    classifier: int = 2000  # training images of the classifier of generated ones
    pictures: str = "none"  # none | samples | all: what the first seed leaves to look at


def learning_rate(config: Config) -> float:
    """The learning rate of a run. Raises ValueError when neither ``lr`` nor ``rates`` gives one."""
    if config.lr:
        return config.lr
    rates = dict(pair.split("=") for pair in config.rates.split())
    name = config.data if config.objective == "flow" else f"{config.data}-{config.objective}"
    if name not in rates:
        raise ValueError(f"no learning rate is given for {name} in {config.rates!r}")
    return float(rates[name])


ARMS = (
    Arm("moe", "DiT-MoE, 8 experts, 2 active, shared expert", "method", {"pictures": "all"}),
    Arm("dense", "dense DiT of the same active size", "baseline",
        {"feed_forward": "dense-active", "pictures": "samples"}),
    Arm("dense-total", "dense DiT of the same total size", "baseline", {"feed_forward": "dense-total"}),
    Arm("unshared", "no shared expert, wider routed ones", "ablation", {"share": False}),
    Arm("sixteen", "16 experts, 2 active, shared expert", "ablation", {"experts": 16}),
    Arm("deep", "experts in the deep half only", "ablation", {"where": "deep"}),
    Arm("shallow", "experts in the shallow half only", "ablation", {"where": "shallow"}),
    Arm("shuffled", "DiT-MoE whose routing goes to the wrong tokens", "control", {"routing": "shuffled"}),
    Arm("untrained", "DiT-MoE before training", "control", {"steps": 0, "pictures": "all"},
        {"smoke": {"pictures": "none"}}),
)  # fmt: skip

#: Published S/2: DDPM on latents.
PUBLISHED: dict[str, Any] = {
    "objective": "ddpm", "patch": 2, "hidden": 384, "layers": 12, "heads": 6, "frequencies": 256, "width": 4.0,
    "shared": 2.0, "steps": 500_000, "batch": 1024, "lr": 1e-4, "warmup": 0.0, "schedule": "constant", "clip": 0.0,
    "ema": 0.9999, "dtype": "bfloat16", "evaluations": 50, "eval_batch": 500, "eval_images": 5000, "samples": 50_000,
    "traced": 2000, "sample_steps": 250, "guided_channels": 3, "components": 256, "classifier": 20_000,
}  # fmt: skip
SETTINGS = (
    Setting(
        "digits", "Digits, rectified flow", "digits", "bundled", {"data": "digits"},
        note="Scikit-learn's handwritten digits, 8 x 8 pixels in 16 patches, split anew for every seed; stands in for "
        "ImageNet.",
    ),
    Setting(
        "digits-ddpm", "Digits, DDPM with learned variance", "digits", "bundled",
        {"data": "digits", "objective": "ddpm", "guided_channels": 1},
        note="The same under the paper's other objective; the noise is guided and the variance is not, as in DiT's "
        "code.",
    ),
    Setting(
        "waves", "Plane waves, rectified flow (position tells nothing)", "waves", "generated", {"data": "waves"},
        note="Ten wave vectors on a torus with random phase: the distribution is the same at every position, so that "
        "experts have no reason to part by position.",
    ),
    Setting(
        "cifar10", "CIFAR-10, rectified flow in pixels", "cifar10", "real",
        {"data": "cifar10", "patch": 4, "hidden": 256, "heads": 8, "frequencies": 256, "flip": True, "batch": 256,
         "lr": 3e-4, "ema": 0.999, "eval_batch": 500, "eval_images": 2000, "samples": 2000, "traced": 500,
         "sample_steps": 50, "components": 64, "dtype": "bfloat16"},
        default=False,
        note="5,000 of the 50,000 training images are held out to choose by.",
    ),
    Setting(
        "imagenet-latents", "ImageNet 256 x 256, latents", "imagenet-latents", "real",
        {**PUBLISHED, "data": "imagenet-latents", "latent": True}, default=False,
        note="Latents of a published autoencoder, encoded beforehand.",
    ),
)  # fmt: skip
FLOW, BOTH = ("digits", "cifar10"), ("digits", "digits-ddpm", "cifar10", "imagenet-latents")
EVERY = ("digits", "digits-ddpm", "waves", "cifar10", "imagenet-latents")

PAPER_TABLES = "Tables 2 and 3"
CURVES = "curves without numbers"
ACTIVE = (Match("params_active", 0.02), Match("train_flops", 0.02), Match("train_samples"))
TOTAL = (Match("params_total", 0.02), Match("train_samples"))
LEARNED = Precondition(
    "generated images of DiT-MoE are recognised as their class in more than half of the cases", {"moe": 1.0},
    "class_accuracy", -50.0,
)  # fmt: skip


def gain(
    name: str, title: str, better: str, worse: str, settings: tuple[str, ...], *, metric: str = "held_out_loss",
    matched: tuple[Match, ...] = ACTIVE, role: Any = "primary", published: Any = None,
    conditions: tuple[Precondition, ...] = (),
) -> Contrast:  # fmt: skip
    """By how much the loss (or distance) of ``better`` is lower: in percent of the other's for the held-out loss."""
    relative = metric == "held_out_loss"
    return Contrast(
        name, title, {worse: 1.0, better: -1.0}, metric, Superiority(), settings, worse if relative else None,
        matched=matched, preconditions=conditions, role=role, published=published,
    )  # fmt: skip


def found(
    name: str, title: str, metric: str, settings: tuple[str, ...] = ("digits", "digits-ddpm"), *, arm: str = "moe",
    role: Any = "primary", offset: float = 0.0, published: Any = None,
) -> Contrast:  # fmt: skip
    """That a measure of the routing lies above zero."""
    return Contrast(
        name, title, {arm: 1.0}, metric, Superiority(), settings, offset=offset, role=role, published=published
    )  # fmt: skip


#: Table 1 of the paper: model, total and active parameters as recomputed from the released code, and its "Gflops".
SIZES = (
    ("s8", "S/2-8E2A", 199_307_552, 71_905_568, 15.43, "199M, 71M"),
    ("s16", "S/2-16E2A", 369_213_728, 71_942_432, 15.44, "369M, 71M"),
    ("b8", "B/2-8E2A", 795_861_536, 286_253_600, 61.68, "795M, 286M"),
    ("l8", "L/2-8E2A", 2_823_764_000, 1_011_824_672, 219.26, "2.8B, 1.0B"),
    ("xl8", "XL/2-8E2A", 4_168_164_128, 1_492_722_464, 323.74, "4.1B, 1.5B"),
    ("g16", "G/2-16E2A", 16_503_717_152, 3_181_559_072, 690.94, "16.5B, 3.1B"),
)
TABLE_1 = "Table 1"

CLAIMS = (
    Claim(
        "C1",
        "A sparse DiT-MoE generates better images than a dense DiT of equal or larger active size.",
        "quality",
        Published(
            "ImageNet 256: XL/2-8E2A (4.1B parameters, 1.5B active) FID 1.72, IS 315.7; DiT-XL/2 2.27, SiT-XL/2 2.06, "
            "Large-DiT-3B 2.10, Large-DiT-7B 2.28. ImageNet 512: 2.30 against 3.04 (DiT-XL/2), 2.52 (Large-DiT-3B)",
            PAPER_TABLES,
        ),
        (
            gain("active", "held-out loss, equal active size: dense minus DiT-MoE", "moe", "dense", EVERY,
                 conditions=(LEARNED,)),
            gain("total", "held-out loss, equal total size, which has more active: dense minus DiT-MoE", "moe",
                 "dense-total", FLOW, matched=TOTAL, role="secondary"),
            gain("kernel", "kernel distance of generated images, equal active size: dense minus DiT-MoE", "moe",
                 "dense", EVERY, metric="kernel_distance", role="secondary", conditions=(LEARNED,)),
            gain("frechet", "Frechet distance of generated images, equal active size: dense minus DiT-MoE", "moe",
                 "dense", EVERY, metric="frechet_distance", role="secondary", conditions=(LEARNED,),
                 published=Published("FID 2.27 - 1.72, at 2.7 times the compute of DiT-XL/2", PAPER_TABLES)),
            gain("shuffled", "negative control: dense minus DiT-MoE whose routing goes to the wrong tokens", "shuffled",
                 "dense", ("digits",), role="control"),
            gain("routing", "what the routing is worth: wrong tokens minus DiT-MoE", "moe", "shuffled", ("digits",),
                 role="secondary", published=Published("none", "the paper has no such control")),
            gain("size", "whether size pays at all: dense of the active size minus dense of the total size",
                 "dense-total", "dense", FLOW, matched=(Match("train_samples"),), role="secondary",
                 published=Published("none", "the paper has no such comparison")),
        ),
        untested="FID of 50,000 images on ImageNet with the published checkpoints needs a GPU and the data set.",
        headline=True,
    ),
    Claim(
        "C2",
        "A shared expert helps at the same number of activated parameters.",
        "quality",
        Published("better at most steps", CURVES),
        (
            gain("loss", "held-out loss: wider routed experts alone minus with a shared one", "moe", "unshared", FLOW),
            gain("kernel", "kernel distance: wider routed experts alone minus with a shared one", "moe", "unshared",
                 FLOW, metric="kernel_distance", role="secondary"),
        ),
    ),
    Claim(
        "C3",
        "More experts at the same active size generate better images.",
        "quality",
        Published("16 experts better than 8", CURVES),
        (
            gain("loss", "held-out loss: 8 experts minus 16", "sixteen", "moe", FLOW),
            gain("kernel", "kernel distance: 8 experts minus 16", "sixteen", "moe", FLOW, metric="kernel_distance",
                 role="secondary"),
        ),
    ),
    Claim(
        "C4",
        "Which experts are chosen depends on the position and the denoising step and hardly on the class; the "
        "preference by position fades with depth; the choice is concentrated in early, noisy steps and uniform later.",
        "behaviour",
        Published("heat maps: concentrated below step 50 of 250, uniform above 100", "abstract and heat maps"),
        (
            found("position", "first block: information with position minus twice that with class",
                  "position_over_class"),
            found("step", "all blocks: information with step minus that with class", "step_over_class"),
            found("fade", "half the first block's information with position minus the last block's", "position_fade"),
            found("early", "entropy of expert usage: last half of the steps minus the noisiest fifth",
                  "early_concentration"),
            found("position-all", "all blocks: information with position minus twice that with class",
                  "position_over_class_mean", role="secondary"),
            found("step-first", "first block: information with step minus that with class", "step_over_class_first",
                  role="secondary"),
            found("step-waves", "plane waves, all blocks: information with step minus that with class",
                  "step_over_class", ("waves",), role="secondary"),
            Contrast("learned", "first block: information with position beyond that before training",
                     {"moe": 1.0, "untrained": -1.0}, "position_first", Superiority(), ("digits",), role="secondary"),
            found("uniform", "entropy of expert usage over the last half of the steps, beyond 0.95 of its most",
                  "usage_late", role="secondary", offset=-0.95),
            found("uniform-end", "the same over the last fifth, the cleanest steps", "usage_end", role="secondary",
                  offset=-0.95),
            found("uniform-early", "negative control, the noisiest fifth, where the claim has the choice concentrated: "
                  "entropy of usage beyond 0.95 of its most", "usage_early", role="control", offset=-0.95),
            found("position-untrained", "negative control, before training: position minus twice class",
                  "position_over_class", ("digits",), arm="untrained", role="control"),
            found("position-waves", "negative control, position tells nothing in the data: information with position",
                  "position_first", ("waves",), role="control"),
            found("step-shuffled", "negative control, routing to the wrong tokens: step minus class, all blocks",
                  "step_over_class", ("digits",), arm="shuffled", role="control"),
        ),
    ),
    Claim(
        "C5",
        "Experts in the deep half of the blocks help more than in the shallow half.",
        "quality",
        Published("loss curve of the deep half is lower", CURVES),
        (
            gain("loss", "held-out loss: experts in the shallow half minus in the deep half", "deep", "shallow", FLOW,
                 matched=(*ACTIVE, Match("params_total", 0.001))),
            gain("kernel", "kernel distance: experts in the shallow half minus in the deep half", "deep", "shallow",
                 FLOW, metric="kernel_distance", role="secondary"),
        ),
    ),
    Claim(
        "C6",
        "DiT-MoE has 199M parameters, 71M of them active, and 15.43 GFLOPs in the smallest size and 16.5B, 3.1B and "
        "690.94 in the largest.",
        "cost",
        Published("199M / 71M / 15.43G (S/2-8E2A) to 16.5B / 3.1B / 690.94G (G/2-16E2A)", TABLE_1),
        (
            *(
                Computed(f"total-{name}", f"parameters of {title}", f"params_{name}", float(total), 0.0,
                         published=Published(text, TABLE_1))
                for name, title, total, _, _, text in SIZES
            ),
            *(
                Computed(f"active-{name}", f"active parameters of {title}", f"active_{name}", float(active), 0.0,
                         published=Published(text, TABLE_1))
                for name, title, _, active, _, text in SIZES
            ),
            *(
                Computed(f"gmac-{name}", f"multiply-accumulates of the linear layers of {title}", f"gmac_{name}", gmac,
                         0.0005, unit=" G", published=Published(f"{gmac} Gflops", TABLE_1))
                for name, title, _, _, gmac, _ in SIZES
            ),
            Computed("params-dit", "parameters of DiT-XL/2", "params_dit_xl", 675_129_632.0, 0.0, role="secondary",
                     published=Published("675M", "DiT paper")),
            Computed("gmac-dit", "multiply-accumulates of DiT-XL/2, attention's products counted", "gmac_full_dit_xl",
                     118.64, 0.0005, unit=" G", role="secondary", published=Published("118.64 Gflops", "DiT paper")),
        ),
    ),
)  # fmt: skip

METRICS = {
    "loss": "error of what the network predicts, on validation images: what settings were chosen by",
    "held_out_loss": "the same on test images: mean squared error of the velocity (flow) or the noise (ddpm), mean "
    "over ten fixed times, averaged weights",
    "kernel_distance": "squared kernel distance of generated from test images, unbiased, principal components, x1000",
    "frechet_distance": "squared Frechet distance of generated from test images in principal components",
    "precision": "generated images near test images, percent",
    "recall": "test images near generated images, percent",
    "class_accuracy": "generated images that a classifier takes for their class, percent",
    **{
        f"{label}_{where}": f"normalised information of the expert with the {label}, beyond chance, {title}"
        for label in ("position", "step", "class")
        for where, title in (("first", "first block"), ("last", "last block"), ("mean", "mean over blocks"))
    },
    "position_over_class": "information with position minus twice that with class, first block",
    "position_over_class_mean": "information with position minus twice that with class, mean over blocks",
    "step_over_class": "information with step minus that with class, mean over blocks",
    "step_over_class_first": "information with step minus that with class, first block",
    "position_fade": "half the first block's information with position minus the last block's",
    "usage_early": "entropy of expert usage over its most, noisiest fifth of the steps, mean over blocks",
    "usage_late": "the same over the last half of the steps",
    "usage_end": "the same over the last fifth of the steps",
    "early_concentration": "usage_late minus usage_early",
}

PAPER = Paper(
    slug="dit_moe",
    title="Scaling Diffusion Transformers to 16 Billion Parameters",
    short="DiT-MoE",
    area="Image generation",
    arxiv="2407.11633",
    year=2024,
    code="feizc/DiT-MoE",
    idea="Replace the MLP of every block of a diffusion transformer by a sparse mixture of SwiGLU experts: two of many "
    "by the token's own choice, and a shared one that is always on, with a loss that balances their use.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {"hidden": 16, "layers": 2, "heads": 2, "frequencies": 16, "steps": 3, "batch": 16, "limit": 64,
             "levels": 2, "samples": 20, "traced": 20, "sample_steps": 2, "components": 8, "evaluations": 1,
             "diffusion_steps": 1000},
            seeds=1,
            time_limit=300,
        ),
        "laptop": Preset(seeds=4, time_limit=900),
        "gpu": Preset(
            {"steps": 10_000, "evaluations": 5},
            settings=("cifar10",),
            arms={"cifar10": ("moe", "dense", "dense-total", "unshared")},
            time_limit=3600,
            memory_limit=32 * 2**30,
            needs="one GPU; CIFAR-10 from the hub or REPRO_DATA_DIR; Pillow for the hub's files",
        ),
        "published": Preset(
            settings=("imagenet-latents",),
            arms={"imagenet-latents": ("moe", "dense")},
            time_limit=60 * 24 * 3600,
            memory_limit=128 * 2**30,
            needs="eight GPUs for weeks; latents of ImageNet-1k under REPRO_DATA_DIR",
        ),
    },
    experiment="papers.dit_moe.experiment.run",
    accounting="papers.dit_moe.published.accounting",
    departures=(
        "Digits of 8 x 8 pixels in pixel space stand in for latents of ImageNet, eight blocks of width 32 for the "
        "paper's twelve to forty of 384 to 1408; experts are 2 D wide and not 4 D.",
        "The dense baselines have SwiGLU layers, as the experts have; the paper's are published models of other sizes.",
        "Quality is decided by the held-out loss, paired over seeds; distances of generated images stand beside it.",
        "The network is told 1000 t under rectified flow; the released code tells it t.",
    ),
    primary_metric="loss",
    metrics=METRICS,
)  # fmt: skip
