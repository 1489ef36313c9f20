"""LiNeS (arXiv 2410.17146): facts, arms, settings, claims. Data only; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from repro.claims import (
    Arm,
    Claim,
    Computed,
    Contrast,
    Equivalence,
    Match,
    NonInferiority,
    Ordering,
    Paper,
    Precondition,
    Preset,
    Published,
    Setting,
    Superiority,
)


@dataclass(frozen=True)
class Config:
    """Configuration of a run."""

    data: str = "glyphs"  # glyphs | clip-tasks
    kind: str = "classes"  # what differs between the tasks of glyphs: classes | styles
    # the edit
    what: str = "merge"  # merge all models | single: edit each of them
    merge: str = "sum"  # sum (task arithmetic) | ties | consensus
    scaling: str = "lines"  # lines | plain: one factor for all layers
    schedule: str = "linear"  # linear | reversed | permuted | quadratic | uniform
    grid: str = "paper"  # paper | fine: four times as many values
    keep: float = 0.2  # of each update's entries, TIES
    weight: float = 2.0  # of the target task when alpha is chosen
    # measuring
    validation: int = 200  # images per task that choose coefficients
    test: int = 500
    curve_images: int = 100  # test images per task for each alpha
    # the bench of glyphs
    tasks: int = 8
    base_classes: int = 120
    base_images: int = 20000
    images: int = 2000
    layers: int = 6
    hidden: int = 48
    steps: int = 1500
    lr: float = 3e-3
    tune_steps: int = 200
    tune_lr: float = 1.2e-3
    head_noise: float = 2.0
    # published models
    model: str = "openai/clip-vit-base-patch32"
    tuned: str = "tanganke/clip-vit-base-patch32_{task}"
    only: str = ""  # tasks by name; all eight when empty
    batch: int = 256


PLAIN: dict[str, Any] = {"scaling": "plain"}
SINGLE: dict[str, Any] = {"what": "single"}
ARMS = (
    Arm("ta", "task arithmetic", "baseline", PLAIN),
    Arm("ta-lines", "task arithmetic + LiNeS", "method"),
    Arm("ties", "TIES", "baseline", {"merge": "ties", **PLAIN}),
    Arm("ties-lines", "TIES + LiNeS", "method", {"merge": "ties"}),
    Arm("consensus", "consensus", "baseline", {"merge": "consensus", **PLAIN}),
    Arm("consensus-lines", "consensus + LiNeS", "method", {"merge": "consensus"}),
    Arm("ta-fine", "task arithmetic, grid four times as fine", "baseline", {"grid": "fine", **PLAIN}),
    Arm("ta-quadratic", "task arithmetic, factor growing with squared depth", "ablation", {"schedule": "quadratic"}),
    Arm("ta-permuted", "task arithmetic, factors in random order", "control", {"schedule": "permuted"}),
    Arm("ta-reversed", "task arithmetic, factor falling with depth", "control", {"schedule": "reversed"}),
    Arm("single-lines", "one fine-tuned model + LiNeS", "method", SINGLE),
    Arm("single-uniform", "one fine-tuned model, all layers scaled alike", "baseline", {**SINGLE, **PLAIN}),
    Arm("single-reversed", "one fine-tuned model, factor falling with depth", "control",
        {"schedule": "reversed", **SINGLE}),
)  # fmt: skip

REAL: dict[str, Any] = {"data": "clip-tasks", "validation": 1000, "test": 2000, "curve_images": 500}
SETTINGS = (
    Setting(
        "classes",
        "Glyphs: tasks of new classes",
        "glyphs",
        "generated",
        {"data": "glyphs", "kind": "classes"},
        note="A ViT pretrained on glyphs, fine-tuned on eight tasks of new glyphs with frozen heads that are right in "
        "outline only; stands in for CLIP and its eight tasks. What has to change is what strokes mean together.",
    ),
    Setting(
        "styles",
        "Glyphs: tasks of new styles (negative control)",
        "glyphs",
        "generated",
        {"data": "glyphs", "kind": "styles", "tasks": 6, "head_noise": 0.0},
        note="The same pretrained ViT, fine-tuned on known glyphs drawn in six styles that it never saw, with heads "
        "that are right for plain images. What has to change is how pixels are read, in the first layers, which LiNeS "
        "shrinks.",
    ),
    Setting(
        "clip-vit-b-32",
        "CLIP ViT-B/32 on eight tasks",
        "clip-tasks",
        "real",
        {**REAL, "model": "openai/clip-vit-base-patch32", "tuned": "tanganke/clip-vit-base-patch32_{task}"},
        default=False,
        note="Published towers, fine-tuned by others than the paper's authors, with heads made of class names.",
    ),
    Setting(
        "clip-vit-l-14",
        "CLIP ViT-L/14 on eight tasks",
        "clip-tasks",
        "real",
        {**REAL, "model": "openai/clip-vit-large-patch14", "tuned": "tanganke/clip-vit-large-patch14_{task}"},
        default=False,
        note="As ViT-B/32.",
    ),
)
CLIP = ("clip-vit-b-32", "clip-vit-l-14")
MAIN = ("classes", *CLIP)

SAME = (Match("train_samples"), Match("params_total"))
EQUAL = (*SAME, Match("evaluations"))
POINTS = " points"
GAP = Precondition(
    "task arithmetic leaves more than a point to the fine-tuned models", {"ta": -1.0}, "normalised", 99.0
)
APART = Precondition("fine-tuning gains more than five points", {"ta": -1.0}, "zero_shot", 95.0)
FORGETS = Precondition(
    "fine-tuning costs more than a point on control tasks", {"single-lines": 1.0}, "forgotten", -1.0
)  # fmt: skip
SHALLOW = Precondition(
    "without the first block's update, target accuracy falls by more than ten points", {"single-lines": -1.0},
    "target_at_zero", 90.0,
)  # fmt: skip


def gain(
    name: str, title: str, method: str, baseline: str, settings: tuple[str, ...] = MAIN, *, rule: Any = None,
    metric: str = "normalised", role: Any = "primary", matched: tuple[Match, ...] = EQUAL, published: Any = None,
    conditions: tuple[Precondition, ...] = (GAP, APART),
) -> Contrast:  # fmt: skip
    """Points of accuracy of ``method`` minus those of ``baseline``."""
    return Contrast(
        name, title, {method: 1.0, baseline: -1.0}, metric, rule or Superiority(), settings, matched=matched,
        preconditions=conditions, role=role, unit=POINTS, published=published,
    )  # fmt: skip


def more_control(name: str, title: str, terms: dict[str, float], role: Any = "secondary") -> Contrast:
    """Control accuracy beyond that of scaling all layers alike, where both have the same target accuracy."""
    return Contrast(
        name, f"{title}, at equal target accuracy, mean over alpha", terms, "over_uniform", Superiority(), MAIN,
        matched=EQUAL, preconditions=(FORGETS,), role=role, unit=POINTS,
    )  # fmt: skip


REVIEWS = "reviews that quote the paper's tables"
CODE = "released code"
EUROSAT = Published(
    "target EuroSAT, alpha = 0.1: target 99.87 -> 98.70; seven controls over zero-shot 73.2 % -> 99.9 %",
    f"{CODE}, notebook",
)
CLAIMS = (
    Claim(
        "C1",
        "After LiNeS a fine-tuned model keeps its accuracy on the target task, and that on control tasks returns to "
        "the level of the pretrained model.",
        "quality",
        Published(
            "ViT-B/32, each of 8 tasks as target: control 48.3 (pretrained) -> 38.0 (fine-tuned) -> 48.0 (LiNeS); "
            "target 90.5 -> 90.3",
            REVIEWS,
        ),
        (
            Contrast(
                "back", "share of the control loss that is back, minus one half; alpha chosen among those that keep "
                "the target within 1 % on validation", {"single-lines": 1.0}, "recovered_kept", Superiority(), MAIN,
                offset=-50.0, preconditions=(FORGETS,), unit=" % of the loss",
                published=Published("97 % of the loss is back", REVIEWS, 47.1),
            ),
            Contrast(
                "target", "target accuracy at that alpha, minus the fine-tuned model's", {"single-lines": 1.0},
                "target_kept", NonInferiority(1.0), MAIN, offset=-100.0, preconditions=(FORGETS,), unit=" %",
                published=Published("90.5 -> 90.3", REVIEWS),
            ),
            Contrast(
                "back-tradeoff", "share of the control loss that is back, minus one half; alpha chosen as in the "
                "released code", {"single-lines": 1.0}, "recovered", Superiority(), MAIN, offset=-50.0,
                preconditions=(FORGETS,), role="secondary", unit=" % of the loss",
                published=Published("97 % of the loss is back", REVIEWS, 47.1),
            ),
            Contrast(
                "target-tradeoff", "target accuracy at that alpha, minus the fine-tuned model's", {"single-lines": 1.0},
                "target", NonInferiority(1.0), MAIN, offset=-100.0, preconditions=(FORGETS,), role="secondary",
                unit=" %", published=EUROSAT,
            ),
            Contrast(
                "deep", "target accuracy without the first block's update (alpha = 0), minus 95 % of the fine-tuned "
                "model's: what has to change lies deep", {"single-lines": 1.0}, "target_at_zero", Superiority(), MAIN,
                offset=-95.0, preconditions=(FORGETS,), role="secondary", unit=" %",
                published=Published("no figure; the reason that the paper gives", REVIEWS),
            ),
            Contrast(
                "back-uniform", "share of the control loss that is back, LiNeS minus scaling all layers alike, each at "
                "its best alpha that keeps the target within 1 % on validation",
                {"single-lines": 1.0, "single-uniform": -1.0}, "recovered_kept", Superiority(), MAIN, matched=EQUAL,
                preconditions=(FORGETS,), role="secondary", unit=" % of the loss",
            ),
            more_control("uniform", "the stronger test: LiNeS minus scaling all layers alike", {"single-lines": 1.0}),
            Contrast(
                "back-reversed", "negative control: share of the control loss that is back when the factor falls with "
                "depth, minus one half", {"single-reversed": 1.0}, "recovered_kept", Superiority(), MAIN, offset=-50.0,
                preconditions=(FORGETS,), role="control", unit=" % of the loss",
                published=Published("none", "the paper as quoted by reviews has no reversed schedule"),
            ),
            more_control("direction", "growing with depth minus falling with depth",
                         {"single-lines": 1.0, "single-reversed": -1.0}),
            more_control("reversed", "negative control: falling with depth minus all layers alike",
                         {"single-reversed": 1.0}, "control"),
        ),
    ),
    Claim(
        "C2",
        "LiNeS improves the merge of eight models by task arithmetic, at an equal number of evaluations.",
        "quality",
        Published("+4.5 points of accuracy over a base of about 70, ViT-B/32", REVIEWS),
        (
            gain("gain", "task arithmetic with LiNeS minus without", "ta-lines", "ta"),
            gain("depth", "all layers alike minus falling with depth", "ta", "ta-reversed",
                 published=Published("none", "the paper as quoted by reviews has no reversed schedule")),
            gain("absolute", "the gain in points of plain accuracy", "ta-lines", "ta", metric="accuracy",
                 role="secondary", published=Published("+4.5", REVIEWS, 4.5)),
            gain("fine", "with LiNeS minus without, lambda searched on a grid four times as fine", "ta-lines",
                 "ta-fine", ("classes",), role="secondary", matched=SAME),
            Ordering(
                "order", "growing with depth, all layers alike, falling with depth",
                ("ta-lines", "ta", "ta-reversed"), "normalised", MAIN, lower_is_better=False, matched=EQUAL,
                role="secondary", preconditions=(GAP, APART),
            ),
            gain("quadratic", "growing with depth linearly minus with its square", "ta-lines", "ta-quadratic",
                 ("classes",), role="secondary"),
            gain("permuted", "growing with depth minus the same factors in random order", "ta-lines", "ta-permuted",
                 ("classes",), role="secondary"),
            gain("styles", "negative control, tasks that need the first layers: with LiNeS minus without", "ta-lines",
                 "ta", ("styles",), role="control", conditions=(GAP, APART, SHALLOW)),
            gain("styles-reversed", "on those tasks: falling with depth minus growing", "ta-reversed", "ta-lines",
                 ("styles",), role="secondary", conditions=(GAP, APART, SHALLOW)),
        ),
        headline=True,
    ),
    Claim(
        "C3",
        "LiNeS improves TIES and consensus merging too, up to 20 tasks and ViT-L/14.",
        "quality",
        Published("20 tasks, ViT-L/14: task arithmetic +3.1, TIES +4.0, consensus +2.3 points", REVIEWS),
        (
            gain("ties", "TIES with LiNeS minus without", "ties-lines", "ties",
                 published=Published("+4.0 points, 20 tasks, ViT-L/14", REVIEWS)),
            gain("consensus", "consensus with LiNeS minus without", "consensus-lines", "consensus",
                 published=Published("+2.3 points, 20 tasks, ViT-L/14", REVIEWS)),
        ),
        untested="14 and 20 tasks are not run: the published settings hold the eight tasks whose data and models are "
        "named here.",
    ),
    Claim(
        "C4",
        "Gains on language tasks are smaller and can be nil.",
        "quality",
        Published("T5-large: TIES, 7 tasks 71.6 -> 72.0; consensus, 11 tasks 67.5 -> 67.5", REVIEWS),
        untested="The fine-tuned T5-large models of those tasks are not released in a form that could be named here, "
        "and half a point is below what models of laptop size resolve. The edit itself works on T5 (tests).",
    ),
    Claim(
        "C5",
        "LiNeS improves soups of models fine-tuned on one task.",
        "quality",
        Published("ImageNet, 70-odd ViT-B/32: best single 80.36, greedy soup 81.01 -> 81.16", REVIEWS),
        untested="The published gain is 0.15 points. With 500 test images a task, half a point is not resolved here.",
    ),
    Claim(
        "C6",
        "LiNeS costs nothing: no training, no more hyper-parameters to search than the merge it replaces, no inference "
        "overhead.",
        "cost",
        Published("one hyper-parameter; as many evaluations as the baseline", f"{CODE}, its page"),
        (
            Computed("extra", "parameters that the edited ViT-B/32 has more", "extra_parameters_vit-b-32", 0.0, 0.0,
                     published=Published("none", f"{CODE}, its page")),
            Computed("single", "values of alpha tried for one fine-tuned model", "evaluations_single", 11.0, 0.0,
                     role="secondary", published=Published("1.0, 0.9, ..., 0.0", CODE)),
            Computed("ta", "values of beta tried for task arithmetic, as many as of lambda", "evaluations_ta", 10.0,
                     0.0, role="secondary", published=Published("0.1, 0.2, ..., 1.0 for both", CODE)),
            Computed("ties", "values tried for TIES", "evaluations_ties", 15.0, 0.0, role="secondary",
                     published=Published("0.1, 0.2, ..., 1.5 for both", CODE)),
            *(
                Computed(f"scalars-{name}", f"multiplications of the whole edit, {title}", f"edited_scalars_{name}",
                         expected, 0.0, role="secondary",
                         published=Published(f"{expected:,.0f} parameters of the tower", "released models"))
                for name, title, expected in (
                    ("vit-b-32", "ViT-B/32", 87_849_216.0), ("vit-b-16", "ViT-B/16", 86_192_640.0),
                    ("vit-l-14", "ViT-L/14", 303_966_208.0),
                )
            ),
            Contrast(
                "searched", "evaluations of the tasks, with LiNeS minus without", {"ta-lines": 1.0, "ta": -1.0},
                "evaluations", Equivalence(1e-6), MAIN, unit="",
            ),
            Contrast(
                "inference", "FLOPs of an image through the merged model, with LiNeS minus without",
                {"ta-lines": 1.0, "ta": -1.0}, "forward_flops", Equivalence(1e-6), MAIN, unit="",
            ),
        ),
    ),
)  # fmt: skip

STYLE_ARMS = ("ta", "ta-lines", "ta-reversed", "single-lines")
CLIP_ARMS = (
    "ta", "ta-lines", "ta-reversed", "ties", "ties-lines", "consensus", "consensus-lines", "single-lines",
    "single-uniform", "single-reversed",
)  # fmt: skip
METRICS = {
    "error": "merges: 100 minus normalised accuracy; one model: 100 minus (2 target + control) / 3",
    "normalised": "accuracy over the fine-tuned model's, mean over tasks, percent",
    "accuracy": "accuracy, mean over tasks, percent",
    "accuracy_tuned": "accuracy of each task's fine-tuned model, mean, percent",
    "zero_shot": "accuracy of the pretrained model over the fine-tuned models', mean over tasks, percent",
    "coefficient": "lambda or beta of a merge, or mean alpha, chosen on validation images",
    "alpha": "factor of the first block in a merge with LiNeS",
    "evaluations": "values of the coefficient that were tried, each an evaluation of all tasks",
    "mask_evaluations": "evaluations that choosing TALL masks took",
    "forward_flops": "FLOPs of one image through the model",
    "target": "target accuracy over the fine-tuned model's, alpha as in the released code, percent",
    "control": "control accuracy over the pretrained model's, alpha as in the released code, percent",
    "target_kept": "target accuracy, alpha with the best control accuracy that keeps the target within 1 %",
    "control_kept": "control accuracy at that alpha",
    "control_tuned": "control accuracy of the fine-tuned model over the pretrained model's, percent",
    "forgotten": "100 minus that",
    "target_at_zero": "target accuracy at alpha = 0 over the fine-tuned model's, percent",
    "recovered": "percent of what fine-tuning cost on control tasks that is back, alpha as in the released code",
    "recovered_kept": "the same, alpha with the best control accuracy that keeps the target within 1 %",
    "over_uniform": "control accuracy minus that of scaling all layers alike at the same target accuracy, mean over "
    "alpha below 1; points that the latter's curve does not reach are left out",
}

PAPER = Paper(
    slug="lines",
    title="LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model Merging",
    short="LiNeS",
    area="Model merging",
    arxiv="2410.17146",
    year=2024,
    venue="ICLR 2025",
    code="wang-kee/LiNeS",
    idea="Multiply the update of layer l by a factor that grows linearly with depth. Shallow layers stay near their "
    "pretrained values, which other tasks need, and deep layers keep what fine-tuning taught them. This undoes "
    "forgetting in a fine-tuned model and lessens interference in a merge of several.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {
                "tasks": 2,
                "base_classes": 20,
                "base_images": 400,
                "images": 100,
                "layers": 3,
                "hidden": 16,
                "steps": 20,
                "tune_steps": 10,
                "validation": 20,
                "test": 40,
                "curve_images": 20,
            },
            per_setting={"styles": {"tasks": 2}},
            arms={"styles": ("ta", "ta-lines", "single-lines")},
            seeds=1,
            time_limit=300,
        ),
        "laptop": Preset(arms={"styles": STYLE_ARMS}, seeds=4, time_limit=900),
        "gpu": Preset(
            settings=("clip-vit-b-32",),
            arms={"clip-vit-b-32": ("ta", "ta-lines", "ta-reversed", "ties", "ties-lines")},
            time_limit=3600,
            memory_limit=64 * 2**30,
            needs="one GPU with 16 GiB; CLIP ViT-B/32, eight fine-tuned towers and their data sets from the hub or "
            "REPRO_DATA_DIR; Pillow",
        ),
        "published": Preset(
            {"test": 0, "validation": 5000},
            settings=CLIP,
            arms=dict.fromkeys(CLIP, CLIP_ARMS),
            time_limit=24 * 3600,
            memory_limit=128 * 2**30,
            needs="one GPU with 24 GiB, hours; CLIP ViT-B/32 and ViT-L/14, eight fine-tuned towers of each, eight data "
            "sets; Pillow",
        ),
    },
    experiment="papers.lines.experiment.run",
    accounting="papers.lines.published.accounting",
    departures=(
        "A ViT of six blocks pretrained here on glyphs stands in for CLIP; heads are class means of its own features "
        "with a random part in the place of text-derived ones.",
        "Reversed, permuted and quadratic schedules, scaling all layers alike, a finer grid for the baseline, and "
        "tasks that need the first layers are added.",
        "The published scale uses towers fine-tuned by FusionBench and heads of plain class names, not the authors' "
        "checkpoints, which are pickled objects of another library. Its validation images are from the training "
        "splits, which the towers have seen.",
    ),
    primary_metric="error",
    metrics=METRICS,
)  # fmt: skip
