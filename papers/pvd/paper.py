"""PVD (arXiv 2211.15977): facts, arms, settings, claims. Data only; imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from repro.claims import (
    Arm,
    Claim,
    Computed,
    Contrast,
    Match,
    NonInferiority,
    Paper,
    Precondition,
    Preset,
    Published,
    Setting,
    Superiority,
)

#: Kinds of fields, in the order of the paper: Instant-NGP, NeRF, TensoRF, Plenoxels.
KINDS = ("hash", "mlp", "vm", "dense")
TITLES = {"hash": "hash grid", "mlp": "MLP", "vm": "VM tensor", "dense": "dense grid"}
#: dB that a student may lose and still count as close.
CLOSE = 1.5

#: Arguments of the fields by size.
SHAPES: dict[str, dict[str, dict[str, int]]] = {
    "small": {
        "hash": {"levels": 6, "log2_rows": 13, "coarsest": 8, "finest": 64, "hidden": 32},
        "mlp": {"octaves": 5, "layers": 5, "width": 64, "skip": 2, "inner": 12, "hidden": 32},
        "vm": {"resolution": 32, "density_rank": 4, "colour_rank": 12, "hidden": 32},
        "dense": {"resolution": 32, "degree": 2},
    },
    "middle": {
        "hash": {"levels": 10, "log2_rows": 17, "coarsest": 16, "finest": 512, "hidden": 64},
        "mlp": {"octaves": 8, "layers": 8, "width": 128, "skip": 3, "inner": 20, "hidden": 64},
        "vm": {"resolution": 128, "density_rank": 8, "colour_rank": 24, "hidden": 64},
        "dense": {"resolution": 96, "degree": 3},
    },
    "published": {
        "hash": {"levels": 14, "log2_rows": 19, "coarsest": 16, "finest": 2048, "hidden": 64},
        "mlp": {"octaves": 10, "layers": 8, "width": 256, "skip": 3, "inner": 28, "hidden": 64},
        "vm": {"resolution": 300, "density_rank": 16, "colour_rank": 48, "hidden": 64},
        "dense": {"resolution": 128, "degree": 3},
    },
}


@dataclass(frozen=True)
class Config:
    """Configuration of a run."""

    data: str = "analytic-scene"  # analytic-scene | blender-scene
    scene: str = "lego"  # of blender-scene
    density: float = 30.0  # inside of generated solids, per unit of length
    image: int = 40  # pixels along an edge; 0: those of real pictures
    train_views: int = 24
    validation_views: int = 2
    test_views: int = 6
    # the fields
    size: str = "small"  # small | middle | published
    student: str = "mlp"  # hash | mlp | vm | dense
    teacher: str = "hash"
    clip_min: float = -2.0  # of the log-density
    clip_max: float = 7.0
    inward: bool = False  # gradients that lead back into that range pass the clamp
    # how it learns
    learns: str = "teacher"  # views: from pictures | teacher | all-pairs: every kind from every kind
    whole: bool = False  # from pictures: samples along all of the ray, as the original NeRF
    wrong_scene: bool = False  # the teacher knows another scene
    order: str = "progressive"  # progressive | together | points | pixels | reversed
    first: float = 2 / 30  # share of the training where stages 1 and 2 end
    second: float = 5 / 30
    compares: str = "clamped"  # densities as clamped logarithms | log | sigma
    distance: str = "norm"  # norm | mse | l1 | smooth-l1
    inherit: bool = True  # the student takes over modules of the same name and shape
    weight_pixels: float = 1.0
    weight_feature: float = 2e-3
    weight_colour: float = 2e-3
    weight_density: float = 2e-3
    decay: float = 0.995  # of the feature's weight a step, of 30,000
    sparsity: float = 1e-4
    # training
    steps: int = 500  # of the run's own field
    view_steps: int = 500  # of teachers and references
    pair_steps: int = 250
    references: bool = True  # the same network from pictures is trained too, for speed-ups
    share_of_whole: float = (
        0.0  # steps: as many as take this share of the FLOPs of the original NeRF's training; 0: steps
    )
    loss: str = "norm"  # of pixels of pictures: norm | mse
    rays: int = 256
    samples: int = 24  # in occupied cells, a ray
    whole_samples: int = 64  # along all of a ray
    whole_clip: float = -10.0  # least log-density where samples lie everywhere
    test_samples: int = 32
    cells: int = 32  # of the grid of occupied cells, along an edge
    threshold: float = 0.3
    refresh: int = 25
    lr: float = 0.0  # 0: that of the kind in `rates`, or in `view_rates` from pictures
    rates: str = "hash=4e-2 mlp=5e-3 vm=4e-2 dense=8e-2"
    view_rates: str = "hash=4e-2 mlp=2e-2 vm=8e-2 dense=1.6e-1"
    whole_rates: str = "mlp=2e-2"
    slow: float = 0.1  # rate of the networks on VM planes over that of the planes
    evaluations: int = 20


def by_kind(text: str, kind: str) -> float:
    """The entry for ``kind`` in a text of ``name=number``. Raises ValueError without one."""
    found = dict(pair.split("=") for pair in text.split())
    if kind not in found:
        raise ValueError(f"nothing is given for {kind} in {text!r}")
    return float(found[kind])


VIEWS: dict[str, Any] = {"learns": "views"}
ARMS = (
    Arm("distil", "PVD, hash grid to MLP", "method"),
    Arm("distil-fifth", "PVD with a fifth of the original NeRF's FLOPs", "method", {"share_of_whole": 0.2}),
    Arm("distil-tenth", "PVD with a tenth of the original NeRF's FLOPs", "method", {"share_of_whole": 0.1}),
    Arm("scratch-nerf", "MLP from pictures, samples along all of the ray", "baseline", {**VIEWS, "whole": True}),
    Arm("scratch", "MLP from pictures, samples in occupied cells", "baseline", VIEWS),
    Arm("scratch-mse", "the same with squared error", "baseline", {**VIEWS, "loss": "mse"}),
    Arm("scratch-hash", "hash grid from pictures (the teacher)", "baseline", {**VIEWS, "student": "hash"}),
    Arm("scratch-vm", "VM tensor from pictures", "baseline", {**VIEWS, "student": "vm"}),
    Arm("scratch-dense", "dense grid from pictures", "baseline", {**VIEWS, "student": "dense"}),
    Arm("all-pairs", "PVD, every kind to every kind", "method", {"learns": "all-pairs"}),
    Arm("distil-vm", "PVD, hash grid to VM tensor", "method", {"student": "vm"}),
    Arm("distil-dense", "PVD, hash grid to dense grid", "method", {"student": "dense"}),
    Arm("distil-hash", "PVD, MLP to hash grid", "method", {"student": "hash", "teacher": "mlp"}),
    Arm("distil-fresh", "PVD, nothing inherited", "ablation", {"inherit": False}, {"laptop": {"lr": 2e-2}}),
    Arm("together", "all losses from the first step", "ablation", {"order": "together"}),
    Arm("pixels", "rendered pixels alone", "ablation", {"order": "pixels"}),
    Arm("points", "points alone, never pixels", "ablation", {"order": "points"}),
    Arm("distil-sigma", "PVD, densities compared as they are", "ablation", {"compares": "sigma"}),
    Arm("distil-log", "PVD, logarithms of densities compared unclamped", "ablation", {"compares": "log"}),
    Arm("distil-inward", "PVD, clamp lets inward gradients pass", "ablation", {"inward": True}),
    Arm("reversed", "PVD, stages in reverse", "control", {"order": "reversed"}),
    Arm("distil-wrong", "PVD from a teacher of another scene", "control", {"wrong_scene": True}),
)

SETTINGS = (
    Setting(
        "solids", "Textured soft solids", "analytic-scene", "generated", {"data": "analytic-scene"},
        note="Five soft balls and boxes with textures, drawn anew for every seed, 40 x 40 pixels; stands in for "
        "NeRF-Synthetic.",
    ),
    Setting(
        "fog", "The same solids, a tenth as dense (negative control)", "analytic-scene", "generated",
        {"data": "analytic-scene", "density": 3.0, "references": False},
        note="Pictures show how dense fog is, so no density is in the thousands: how densities are compared should not "
        "matter.",
    ),
    Setting(
        "lego", "Lego of NeRF-Synthetic", "blender-scene", "real", {"data": "blender-scene", "scene": "lego"},
        default=False, note="800 x 800 pixels, averaged down to 400 at gpu scale.",
    ),
)  # fmt: skip
MAIN, OWN, FOG = ("solids", "lego"), ("solids",), ("fog",)

ABSTRACT = "abstract"
UNREAD = "tables of the paper, values not read"
CODE = "recomputed from the released defaults"
DB, DOUBLINGS = " dB", " doublings"
STEPS = (Match("train_steps"), Match("train_rays"), Match("params_total"))
BUDGET = (Match("flops_over_share", 0.1), Match("params_total"))
TAUGHT = Precondition(
    "the teacher is better than the student's kind from pictures", {"scratch-hash": 1.0, "scratch": -1.0}, "psnr"
)


def gain(
    name: str, title: str, method: str, baseline: str, settings: tuple[str, ...] = MAIN, *, rule: Any = None,
    role: Any = "primary", matched: tuple[Match, ...] = STEPS, published: Any = None,
    conditions: tuple[Precondition, ...] = (),
) -> Contrast:  # fmt: skip
    """Test PSNR of ``method`` minus that of ``baseline``, dB."""
    return Contrast(
        name, title, {method: 1.0, baseline: -1.0}, "psnr", rule or Superiority(), settings, matched=matched,
        preconditions=conditions, role=role, unit=DB, published=published,
    )  # fmt: skip


def speed(
    name: str, title: str, metric: str, arm: str = "distil", published: Any = None, least: float = math.log2(5)
) -> Contrast:  # fmt: skip
    """Doublings of speed of an arm; ``least`` are asked."""
    return Contrast(
        name, title, {arm: 1.0}, metric, Superiority(least), MAIN, role="secondary", unit=DOUBLINGS,
        published=published,
    )  # fmt: skip


FASTER = Published("10 to 20 times faster", ABSTRACT, math.log2(10))
SUPERIOR = Published("superior, no figure", ABSTRACT)
CLAIMS = (
    Claim(
        "C1",
        "Distilling a hash grid into an MLP reaches the quality of that MLP trained from pictures 10 to 20 times "
        "faster.",
        "quality",
        Published("10 to 20 times faster, at superior quality", ABSTRACT),
        (
            gain("fifth", "distilled with a fifth of the FLOPs minus from pictures as the original NeRF, 0.1 dB "
                 "allowed",
                 "distil-fifth", "scratch-nerf", rule=NonInferiority(0.1), matched=BUDGET, conditions=(TAUGHT,),
                 published=SUPERIOR),
            gain("quality", "at equal steps and samples: distilled minus from pictures", "distil", "scratch",
                 conditions=(TAUGHT,), published=SUPERIOR),
            gain("tenth", "distilled with a tenth of the FLOPs minus from pictures as the original NeRF, 0.1 dB "
                 "allowed",
                 "distil-tenth", "scratch-nerf", rule=NonInferiority(0.1), matched=BUDGET, conditions=(TAUGHT,),
                 role="secondary", published=SUPERIOR),
            gain("quality-mse", "the same as quality, pictures with squared error", "distil", "scratch-mse",
                 role="secondary", published=SUPERIOR),
            gain("quality-nerf", "distilled minus from pictures as the original NeRF, equal steps", "distil",
                 "scratch-nerf", role="secondary", published=SUPERIOR),
            gain("fresh", "nothing inherited, equal steps and samples: distilled minus from pictures", "distil-fresh",
                 "scratch", role="secondary", published=Published("none: inheritance is in the code only", CODE)),
            gain("inheritance", "distilled minus the same without inheritance", "distil", "distil-fresh",
                 role="secondary", published=Published("none: inheritance is in the code only", CODE)),
            speed("flops", "FLOPs to the final quality of the original NeRF's way, fivefold asked", "speedup_flops",
                  published=FASTER),
            speed("time", "the same in processor time", "speedup_time", published=FASTER),
            speed("time-teacher", "the same with the teacher's own training", "speedup_with_teacher_time",
                  published=FASTER),
            speed("steps", "steps to the final quality of training from pictures in occupied cells", "speedup_steps",
                  published=Published("none: the paper compares with the original NeRF", ABSTRACT), least=0.0),
            Contrast("fifth-time", "processor time of the training with a fifth of the FLOPs, fivefold asked",
                     {"scratch-nerf": 1.0, "distil-fifth": -1.0}, "log2_train_time", Superiority(math.log2(5)), MAIN,
                     role="secondary", unit=DOUBLINGS, published=FASTER),
            gain("wrong", "negative control, a teacher of another scene: distilled minus from pictures", "distil-wrong",
                 "scratch", OWN, role="control"),
            *(
                Contrast(f"poor-{s}", "negative control, a teacher worse than the student's kind: "
                         f"{TITLES['mlp']} to {TITLES[s]}, student minus the lower of the two", {"all-pairs": 1.0},
                         f"margin_mlp_{s}", Superiority(), OWN, role="control", unit=DB)
                for s in KINDS
                if s != "mlp"
            ),
        ),
        untested="The published factor compares with the original NeRF's coarse and fine networks on a GPU; here the "
        "original's way is one network with 64 samples along all of the ray.",
        headline=True,
    ),
    Claim(
        "C2",
        "Any kind converts to any other: each of the pairs ends close to the lower of its teacher's quality and what "
        "its own kind reaches from pictures.",
        "quality",
        Published("a table of all pairs, values unknown", UNREAD, verified=False),
        (
            Contrast("pairs", "pairs of different kinds within 1.5 dB, of 12: at least 10 asked", {"all-pairs": 1.0},
                     "pairs_close", Superiority(), MAIN, offset=-9.5, unit=" pairs"),
            *(
                Contrast(f"{t}-{s}", f"{TITLES[t]} to {TITLES[s]}: PSNR beyond the lower of the two, 1.5 dB allowed",
                         {"all-pairs": 1.0}, f"margin_{t}_{s}", NonInferiority(CLOSE), MAIN, role="secondary", unit=DB)
                for t in KINDS
                for s in KINDS
                if t != s
            ),
        ),
        untested="SSIM and LPIPS of pairs, LLFF and Tanks and Temples are not run.",
    ),
    Claim(
        "C3",
        "Distilling progressively, from features over points to pixels, is better than distilling rendered pixels "
        "alone at equal budget.",
        "quality",
        Published("ablation, values unknown", UNREAD, verified=False),
        (
            gain("pixels", "progressive minus pixels alone", "distil", "pixels"),
            gain("together", "progressive minus all losses from the first step", "distil", "together"),
            gain("losses", "all losses from the first step minus pixels alone", "together", "pixels", role="secondary"),
            gain("points", "progressive minus points alone", "distil", "points", role="secondary"),
            gain("reversed", "negative control, stages in reverse (the feature, last, has no weight left): minus all "
                 "losses from the first step", "reversed", "together", OWN, role="control"),
        ),
        untested="The single terms are not left out one by one.",
    ),
    Claim(
        "C4",
        "Densities have to be compared as clamped logarithms for distillation to be stable.",
        "behaviour",
        Published("ablation, values unknown", UNREAD, verified=False),
        (
            gain("sigma", "clamped logarithms minus densities as they are, unclamped, 1 dB asked", "distil",
                 "distil-sigma", rule=Superiority(1.0)),
            gain("log", "clamped logarithms minus unclamped ones, 1 dB asked", "distil", "distil-log",
                 rule=Superiority(1.0)),
            Contrast("stable", "runs that died with densities as they are, minus those with clamped logarithms",
                     {"distil-sigma": 1.0, "distil": -1.0}, "dead", Superiority(), MAIN, matched=STEPS,
                     role="secondary", unit=" runs"),
            gain("inward", "a clamp that lets inward gradients pass minus the published one", "distil-inward", "distil",
                 role="secondary", published=Published("none: not in the paper", UNREAD)),
            gain("fog", "negative control, fog: clamped logarithms minus densities as they are, 1 dB asked", "distil",
                 "distil-sigma", FOG, rule=Superiority(1.0), role="control"),
        ),
    ),
    Claim(
        "C5",
        "Conversion trades storage: an MLP has 0.44 M parameters, a hash grid 10.6 M, a VM tensor 17.3 M and a dense "
        "grid 58.7 M.",
        "cost",
        Published("0.44 M, 10.6 M, 17.3 M, 58.7 M", CODE),
        (
            *(
                Computed(f"parameters-{kind}", f"parameters of the {TITLES[kind]}", f"parameters_{kind}", expected, 0.0,
                         published=Published(f"{expected:,.0f}", CODE))
                for kind, expected in (
                    ("hash", 10_616_496.0), ("mlp", 443_548.0), ("vm", 17_346_032.0), ("dense", 58_720_256.0),
                )
            ),
            *(
                Computed(f"storage-{kind}", f"float32 storage of the {TITLES[kind]}", f"storage_mib_{kind}", expected,
                         0.005, unit=" MiB", role="secondary", published=Published(f"{expected:g} MiB", CODE))
                for kind, expected in (("hash", 40.5), ("mlp", 1.69), ("vm", 66.2), ("dense", 224.0))
            ),
            *(
                Computed(f"ratio-{kind}", f"parameters of the {TITLES[kind]} over those of the MLP",
                         f"ratio_{kind}_mlp", expected, 0.005, unit=" times", role="secondary",
                         published=Published(f"{expected:g} times", CODE))
                for kind, expected in (("hash", 23.9), ("dense", 132.0))
            ),
            Computed("macs-mlp", "multiply-accumulates of a point, MLP", "point_macs_mlp", 0.44e6, 0.01,
                     role="secondary", published=Published("about 0.44 M", CODE)),
            Computed("macs-hash", "multiply-accumulates of a point, hash grid, without interpolation",
                     "point_macs_hash", 9.1e3, 0.01, role="secondary", published=Published("9.1 k", CODE)),
        ),
    ),
)  # fmt: skip

METRICS = {
    "error_db": "minus PSNR on test views, dB",
    "validation_error_db": "minus PSNR on validation views, dB",
    "psnr": "PSNR on test views, mean, dB; of all-pairs: mean over pairs of different kinds",
    "ssim": "SSIM on test views, mean",
    "dead": "1 when all pictures are one colour; of all-pairs: share of such pairs",
    "density_error": "mean difference of opacity over a twentieth of the unit of length from the scene's, percent",
    "parameters": "parameters of the field",
    "log2_train_flops": "logarithm to base 2 of the training's FLOPs, with the teacher's passes",
    "log2_train_time": "logarithm to base 2 of the training's processor seconds",
    "teacher_psnr": "PSNR of the teacher on test views, dB",
    "behind_teacher_db": "PSNR of the teacher minus that of the student, dB",
    "inherited": "parameters that the student took over",
    "speedup_flops": "FLOPs of the original NeRF's way to its final validation PSNR - 0.1 dB over the student's to the "
    "same, doublings; 0 where the student does not get there",
    "speedup_time": "the same in processor time",
    "speedup_with_teacher_time": "the same with the teacher's training",
    "speedup_steps": "the same in steps, against pictures with samples in occupied cells",
    "reached": "1 when the student gets there, for speedup_flops",
    "pairs_close": "pairs of different kinds within 1.5 dB of the lower of teacher and own kind from pictures, of 12",
    "mean_margin": "mean over pairs of different kinds of PSNR beyond the lower of the two, dB",
    **{
        f"margin_{t}_{s}": f"PSNR of a {TITLES[s]} taught by a {TITLES[t]} minus the lower of the teacher's and of its "
        "own kind's from pictures, dB"
        for t in KINDS
        for s in KINDS
    },
}
GPU_ARMS = (
    "distil", "distil-fifth", "distil-tenth", "scratch-nerf", "scratch", "scratch-mse", "scratch-hash", "all-pairs",
    "distil-fresh", "together", "pixels", "points", "distil-sigma", "distil-log", "distil-inward",
)  # fmt: skip
PUBLISHED: dict[str, Any] = {
    "size": "published", "image": 0, "train_views": 0, "validation_views": 8, "test_views": 0, "steps": 30_000,
    "view_steps": 40_000, "pair_steps": 30_000, "rays": 4096, "samples": 128, "whole_samples": 192, "test_samples": 256,
    "cells": 128, "refresh": 16, "evaluations": 60, "rates": "hash=1e-2 mlp=1e-3 vm=1e-2 dense=1e-2",
    "view_rates": "hash=1e-2 mlp=1e-3 vm=1e-2 dense=1e-2", "whole_rates": "mlp=1e-3", "loss": "mse",
}  # fmt: skip

PAPER = Paper(
    slug="pvd",
    title="One is All: Bridging the Gap Between Neural Radiance Fields Architectures with Progressive Volume "
    "Distillation",
    short="PVD",
    area="Distillation",
    arxiv="2211.15977",
    year=2022,
    venue="AAAI 2023",
    code="megvii-research/AAAI2023-PVD",
    idea="A trained radiance field of any kind (MLP, hash grid, low-rank or dense tensor) teaches one of any other, "
    "without images. Both are asked about the same points of random rays, and are brought together from the inside "
    "out: features first, then density and colour of points, then rendered pixels.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {"image": 16, "train_views": 3, "validation_views": 1, "test_views": 1, "steps": 8, "view_steps": 8,
             "pair_steps": 4, "rays": 32, "samples": 8, "whole_samples": 16, "test_samples": 8, "cells": 8,
             "evaluations": 2},
            seeds=1,
            time_limit=300,
        ),
        "laptop": Preset(seeds=4, time_limit=900),
        "gpu": Preset(
            {"size": "middle", "image": 100, "train_views": 80, "test_views": 8, "steps": 5000, "view_steps": 5000,
             "pair_steps": 2500, "rays": 2048, "samples": 48, "whole_samples": 128, "test_samples": 96, "cells": 64,
             "rates": "hash=1e-2 mlp=2e-3 vm=1e-2 dense=2e-2", "view_rates": "hash=1e-2 mlp=2e-3 vm=1e-2 dense=2e-2",
             "whole_rates": "mlp=2e-3"},
            per_setting={"lego": {"image": 400, "train_views": 0, "test_views": 20}},
            settings=("solids",),
            time_limit=3600,
            memory_limit=32 * 2**30,
            needs="one GPU; with --data blender-scene NeRF-Synthetic's lego under REPRO_DATA_DIR, and Pillow",
        ),
        "published": Preset(
            PUBLISHED,
            settings=("lego",),
            arms={"lego": GPU_ARMS},
            time_limit=24 * 3600,
            memory_limit=64 * 2**30,
            needs="one GPU with 24 GiB, days for all arms; NeRF-Synthetic's lego under REPRO_DATA_DIR, and Pillow",
        ),
    },
    experiment="papers.pvd.experiment.run",
    accounting="papers.pvd.published.accounting",
    departures=(
        "Generated scenes of 40 x 40 pixels and small fields stand in for NeRF-Synthetic and the published sizes.",
        "Every ray of a lesson has a camera of its own, where the released code takes the rays of one picture.",
        "From pictures the loss is the un-squared norm that students have, which is better here; squared error is an "
        "arm.",
        "A fixed number of samples is spread over the occupied length of a ray.",
        "Without inheritance, a teacher of another scene, stages in reverse, fog, and a clamp that lets inward "
        "gradients pass are added.",
    ),
    primary_metric="error_db",
    metrics=METRICS,
)  # fmt: skip
