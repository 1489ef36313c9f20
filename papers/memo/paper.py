"""MEMO (arXiv 2205.13218): facts, arms, settings, claims. Data only; imports no torch."""

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
    Paper,
    Precondition,
    Preset,
    Published,
    Setting,
    Superiority,
)

#: Names of the memory budgets, the smallest first, by how many there are.
POINTS = {
    1: ("large",),
    2: ("small", "large"),
    3: ("small", "middle", "large"),
    5: ("small", "second", "middle", "fourth", "large"),
}


@dataclass(frozen=True)
class Config:
    """Configuration of a run."""

    data: str = "textures"  # textures | cifar100
    stream: str = "classes"  # classes: new ones in every task | stationary: all classes in all tasks
    first: int = 4  # classes of the first task, and of each later one
    step: int = 4
    train: int = 150  # generated images of a class
    test: int = 100
    limit: int = 0  # images read of each split of real data; 0: all
    # the learner
    specialised: str = "last"  # what every task gets anew: last | last-two | all (DER) | first | none (one backbone)
    train_base: bool = True  # generalised part learns after the first task
    block: str = "copied"  # how a new block starts: copied | drawn | idle: drawn and not trained
    distil: str = "none"  # none | icarl | wa
    alpha_aux: float = 1.0
    align: bool = True  # weight alignment of the head
    enlarge: bool = False  # alignment may also enlarge the rows of new classes, as published
    predict: str = "head"  # head | mean: nearest mean of exemplars
    # memory
    nets: str = "8:4 8:6 8:8"  # depth:width of networks that expanding methods take, one for each budget
    exemplars: int = 150  # of the base method, which defines the budgets
    memory: str = "aligned"  # aligned: what the networks leave of the budget | same: exemplars for all
    points: str = "all"  # all budgets | large: the last one
    fill: bool = True  # exemplars that classes do not divide go to the first classes
    # training
    lr: float = 0.1
    first_epochs: int = 20
    epochs: int = 15
    batch: int = 64
    first_weight_decay: float = 5e-4
    weight_decay: float = 2e-4
    schedule: str = "cosine"  # cosine | steps
    first_milestones: str = ""  # shares of the epochs
    milestones: str = ""
    crop: int = 0
    brightness: float = 0.0


LARGE: dict[str, Any] = {"points": "large"}
SINGLE: dict[str, Any] = {"specialised": "none"}
#: Best of one grid at laptop scale where it is not the default (tuning.jsonl); ablations learn at their method's rate.
FAST: dict[str, dict[str, Any]] = {"laptop": {"lr": 0.2}}
ARMS = (
    Arm("replay", "replay, one backbone", "baseline", {**SINGLE, "align": False}, FAST),
    Arm("icarl", "iCaRL, one backbone", "baseline", {**SINGLE, "align": False, "distil": "icarl", "predict": "mean"},
        FAST),
    Arm("wa", "WA, one backbone", "baseline", {**SINGLE, "distil": "wa"}),
    Arm("der", "DER, a backbone per task", "baseline", {"specialised": "all"}, FAST),
    Arm("memo", "MEMO, a last stage per task", "method"),
    Arm("memo-equal", "MEMO with DER's number of exemplars", "method", {**LARGE, "memory": "same"}),
    Arm("memo-frozen", "MEMO, generalised part frozen after the first task", "ablation",
        {**LARGE, "train_base": False}),
    Arm("memo-two", "MEMO, the last two stages per task", "ablation", {**LARGE, "specialised": "last-two"}),
    Arm("memo-drawn", "MEMO, new blocks drawn at random", "ablation", {**LARGE, "block": "drawn"}),
    Arm("memo-no-aux", "MEMO without auxiliary loss", "ablation", {**LARGE, "alpha_aux": 0.0}),
    Arm("memo-enlarged", "MEMO with weight alignment that may enlarge, as published", "ablation",
        {**LARGE, "enlarge": True}),
    Arm("memo-no-align", "MEMO without weight alignment", "ablation", {**LARGE, "align": False}),
    Arm("wa-no-align", "WA without weight alignment", "ablation", {**LARGE, **SINGLE, "distil": "wa", "align": False}),
    Arm("front", "stem and first stage per task, later stages shared", "control", {**LARGE, "specialised": "first"}),
    Arm("idle", "MEMO with new blocks drawn at random and not trained, DER's number of exemplars", "control",
        {**LARGE, "block": "idle", "memory": "same"}),
)  # fmt: skip

SETTINGS = (
    Setting(
        "textures",
        "Textured objects, five tasks of four classes",
        "textures",
        "generated",
        {"data": "textures", "stream": "classes"},
        note="Five shapes in four patterns, arriving four classes at a time; stands in for CIFAR-100. A backbone costs "
        "98 exemplars.",
    ),
    Setting(
        "stationary",
        "Textured objects, all classes in every task (negative control)",
        "textures",
        "generated",
        {"data": "textures", "stream": "stationary", **LARGE},
        note="As many images in as many tasks, dealt at random: nothing new comes, so no part should have to change "
        "for a task.",
    ),
    Setting(
        "cifar100",
        "CIFAR-100, ten tasks of ten classes",
        "cifar100",
        "real",
        {"data": "cifar100", "stream": "classes", "first": 10, "step": 10, "crop": 4, "brightness": 63 / 255},
        default=False,
        note="The paper's B0 Inc10, ResNet-32.",
    ),
)
MAIN = ("textures", "cifar100")

POINT = " points"
SURVEY = "CIL survey of the same group, table of its code's page"
FIGURE = "CIL survey of the same group, figure, read to about a point"
DERIVED = "arithmetic on the released networks"
FORGETS = Precondition("replay forgets more than five points", {"replay": 1.0}, "forgetting", -5.0)
BUYS = Precondition(
    "from the smallest to the largest memory exemplars bring iCaRL more than a point", {"icarl": 1.0},
    "gain_of_memory", -1.0,
)  # fmt: skip


def same_memory(point: str) -> tuple[Match, ...]:
    """Arms hold the same bytes, up to an exemplar a class, which the released code's rounding can leave unused."""
    return (Match(f"memory_bytes_{point}", 0.04),)


def gain(
    name: str, title: str, method: str, baseline: str, metric: str, rule: Any, matched: tuple[Match, ...] = (), *,
    settings: tuple[str, ...] = MAIN, role: Any = "primary", published: Any = None,
    conditions: tuple[Precondition, ...] = (FORGETS, BUYS),
) -> Contrast:  # fmt: skip
    """Points of accuracy of ``method`` minus those of ``baseline``."""
    return Contrast(
        name, title, {method: 1.0, baseline: -1.0}, metric, rule, settings, matched=matched, preconditions=conditions,
        role=role, unit=POINT, published=published,
    )  # fmt: skip


def change(
    name: str, title: str, arm: str, metric: str, least: float, setting: tuple[str, ...] = MAIN,
    role: Any = "primary", unit: str = " doublings",
) -> Contrast:  # fmt: skip
    """By how much the last stage changes more than the first, beyond ``least``."""
    return Contrast(name, title, {arm: 1.0}, metric, Superiority(), setting, offset=-least, role=role, unit=unit)


def ablation(arm: str, title: str) -> Contrast:
    """MEMO minus MEMO without one of its pieces, at the largest memory."""
    return gain(
        f"against-{arm.removeprefix('memo-')}", title, "memo", arm, "average_large", Superiority(),
        same_memory("large"), settings=("textures",), role="secondary",
        published=Published("none in what was read", SURVEY), conditions=(),
    )  # fmt: skip


AHEAD = NonInferiority(0.5, mean_at_least=0.0)
CLOSE = Equivalence(3.0)
#: Length of the published memory range in MiB, which turns areas into points of accuracy.
RANGE = 23.5 - 7.6
EXTRA = {
    14: (171_856.0, 223.8, 495.0, 2013.0),
    20: (269_072.0, 350.4, 768.0, 3153.0),
    26: (366_288.0, 476.9, 1040.0, 4292.0),
    32: (463_504.0, 603.5, 1312.0, 5431.0),
}

CLAIMS = (
    Claim(
        "C1",
        "A saved CIFAR backbone costs as much memory as 603 exemplars; with memory aligned to DER's over ten tasks of "
        "CIFAR-100, MEMO affords 3312 exemplars where DER has 2000.",
        "cost",
        Published("603; 3312 exemplars", "title; command on the code's page"),
        (
            Computed("rate", "exemplars that one ResNet-32 costs", "exemplars_per_copy_32", 603.0, 0.001,
                     published=Published("603", "title")),
            Computed("aligned", "exemplars of MEMO where DER has 2000, ten tasks", "aligned_memo_32", 3312.0, 0.0,
                     published=Published("3312", "command on the code's page")),
            Computed("single", "exemplars of a single backbone where DER has 2000, ten tasks", "aligned_single_32",
                     7431.0, 0.0, role="secondary", published=Published("7431", DERIVED)),
            *(
                Computed(f"{name}-{depth}", f"{title}, ResNet-{depth}", f"{quantity}_{depth}", figures[place], 3e-4,
                         role="secondary", published=Published(f"{figures[place]:,g}", DERIVED))
                for depth, figures in EXTRA.items()
                for place, (name, quantity, title) in enumerate((
                    ("size", "parameters", "parameters"),
                    ("cost", "exemplars_per_copy", "exemplars that a copy costs"),
                    ("extra-memo", "extra_memo", "exemplars of MEMO beyond DER's, ten tasks"),
                    ("extra-single", "extra_single", "exemplars of a single backbone beyond DER's, ten tasks"),
                ))
            ),
            *(
                Computed(f"budget-{place}", f"memory of the {place} budget", f"budget_mib_{place}", expected, 0.01,
                         unit=" MiB", role="secondary", published=Published(f"{expected:g} MB", "released code"))
                for place, expected in zip(POINTS[5], (7.6, 12.4, 16.0, 19.8, 23.5), strict=True)
            ),
            Computed("conv2", "parameters of the two-layer network of the smallest budget", "parameters_conv2", 38976.0,
                     0.0, role="secondary", published=Published("38,976", DERIVED)),
            Computed("resnet18", "parameters of ResNet-18 without classifier", "parameters_resnet18", 11_176_512.0, 0.0,
                     role="secondary", published=Published("11,176,512", DERIVED)),
            Computed("imagenet", "exemplars of ImageNet that one ResNet-18 costs", "exemplars_per_copy_resnet18", 297.0,
                     0.001, role="secondary", published=Published("297", DERIVED)),
        ),
    ),
    Claim(
        "C2",
        "With all methods given the same memory, MEMO is at least as accurate as DER and as methods with a single "
        "backbone once the memory is large.",
        "quality",
        Published("CIFAR-100, AUC-A / AUC-L over 7.6 to 23.5 MB: MEMO 10.85 / 9.03, DER 10.74 / 8.95, iCaRL 10.81 / "
                  "8.64, FOSTER 11.12 / 9.03; ImageNet-100: MEMO 713.0 / 654.6, DER 699.0 / 639.1", SURVEY),
        (
            gain("der", "average accuracy at the largest memory, MEMO minus DER", "memo", "der", "average_large", AHEAD,
                 same_memory("large")),
            gain("icarl", "average accuracy at the largest memory, MEMO minus iCaRL", "memo", "icarl", "average_large",
                 AHEAD, same_memory("large")),
            gain("wa", "average accuracy at the largest memory, MEMO minus WA", "memo", "wa", "average_large", AHEAD,
                 same_memory("large"), role="secondary"),
            gain("replay", "average accuracy at the largest memory, MEMO minus replay", "memo", "replay",
                 "average_large", AHEAD, same_memory("large"), role="secondary"),
            gain("last", "accuracy after the last task at the largest memory, MEMO minus DER", "memo", "der",
                 "last_large", AHEAD, same_memory("large"), role="secondary"),
            gain("middle", "average accuracy at the middle memory, MEMO minus DER", "memo", "der", "average_middle",
                 AHEAD, same_memory("middle"), role="secondary"),
            gain("auc-average", "area under average accuracy over memory (AUC-A, over its range), MEMO minus DER",
                 "memo", "der", "auc_average", AHEAD, role="secondary",
                 published=Published("10.85 and 10.74", SURVEY, 100 * (10.85 - 10.74) / RANGE)),
            gain("auc-last", "area under last accuracy over memory (AUC-L, over its range), MEMO minus DER", "memo",
                 "der", "auc_last", AHEAD, role="secondary",
                 published=Published("9.03 and 8.95", SURVEY, 100 * (9.03 - 8.95) / RANGE)),
            gain("auc-icarl", "AUC-A over its range, MEMO minus iCaRL", "memo", "icarl", "auc_average", AHEAD,
                 role="secondary", published=Published("10.85 and 10.81", SURVEY, 100 * (10.85 - 10.81) / RANGE)),
            ablation("memo-frozen", "MEMO minus MEMO with a frozen generalised part"),
            ablation("memo-two", "MEMO minus the last two stages per task"),
            ablation("memo-drawn", "MEMO minus MEMO with new blocks drawn at random"),
            ablation("memo-no-aux", "MEMO minus MEMO without auxiliary loss"),
            ablation("memo-enlarged", "MEMO minus MEMO whose weight alignment may enlarge new rows, as published"),
            ablation("memo-no-align", "MEMO minus MEMO without weight alignment"),
            gain("wa-alignment", "WA minus WA without weight alignment, at the largest memory", "wa", "wa-no-align",
                 "average_large", Superiority(), same_memory("large"), settings=("textures",), role="secondary",
                 published=Published("none in what was read", SURVEY), conditions=()),
            gain("front", "negative control: shallow stages per task and deep ones shared, minus DER", "front", "der",
                 "average_large", AHEAD, same_memory("large"), role="control"),
            gain("deep", "deep stages per task (MEMO) minus shallow ones", "memo", "front", "average_large",
                 Superiority(), same_memory("large"), role="secondary",
                 published=Published("none in what was read", SURVEY)),
        ),
        untested="ImageNet-100 is not run, and FOSTER is not among the methods.",
        headline=True,
    ),
    Claim(
        "C3",
        "At the smallest memory saving models does not pay: methods with a single backbone are ahead of those that "
        "expand.",
        "behaviour",
        Published("7.6 MB: DER and MEMO 54 to 55 % average accuracy, iCaRL, WA and FOSTER 63 to 66 %; the curves cross "
                  "before 12.4 MB", FIGURE),
        (
            *(
                gain(f"icarl-{arm}", f"average accuracy at the smallest memory, iCaRL minus {title}", "icarl", arm,
                     "average_small", Superiority(2.0), same_memory("small"), conditions=(FORGETS,),
                     published=Published("about ten points", FIGURE, 10.0))
                for arm, title in (("der", "DER"), ("memo", "MEMO"))
            ),
            *(
                gain(f"{single}-{arm}", f"average accuracy at the smallest memory, {name} minus {title}", single, arm,
                     "average_small", Superiority(2.0), same_memory("small"), role="secondary", conditions=(FORGETS,),
                     published=Published("about ten points for WA", FIGURE))
                for single, name in (("wa", "WA"), ("replay", "replay"))
                for arm, title in (("der", "DER"), ("memo", "MEMO"))
            ),
            gain("crossed", "at the next memory the curves have crossed: MEMO minus iCaRL", "memo", "icarl",
                 "average_middle", Superiority(), same_memory("middle"), settings=("textures",), role="secondary",
                 conditions=(FORGETS,),
                 published=Published("crossing before 12.4 MB", FIGURE)),
        ),
    ),
    Claim(
        "C4",
        "From task to task deep blocks change much more than shallow ones, in the gradients' norms, in the shift of "
        "weights and in the similarity of features.",
        "behaviour",
        Published("figure without numbers in what was read", "recalled from the paper's figure", verified=False),
        (
            change("shift", "mean squared shift of a weight over a task, last stage over first, beyond twofold",
                   "replay", "shift_log2", 1.0),
            change("cka", "CKA of the first with the last task's features, first stage minus last, beyond 0.1",
                   "replay", "cka_gap", 0.1, unit=""),
            change("gradient", "norm of the gradient, last stage over first", "replay", "gradient_log2", 0.0,
                   role="secondary"),
            change("gradient-rms", "the same for each weight: the last stage has twelve times as many", "replay",
                   "gradient_rms_log2", 0.0, role="secondary"),
            change("total", "shift summed over the weights, of which the last stage has twelve times as many, beyond "
                   "twofold", "replay", "total_shift_log2", 1.0, role="secondary"),
            change("relative", "shift over the mean squared weight, beyond twofold", "replay", "relative_shift_log2",
                   1.0, role="secondary"),
            change("shift-der", "shift of a new backbone of DER from the one before, beyond twofold", "der",
                   "shift_log2", 1.0, role="secondary"),
            change("cka-der", "CKA of DER's first and last backbone, first stage minus last, beyond 0.1", "der",
                   "cka_gap", 0.1, role="secondary", unit=""),
            change("shift-stationary", "negative control, tasks that do not differ: shift beyond twofold", "replay",
                   "shift_log2", 1.0, ("stationary",), "control"),
            change("cka-stationary", "negative control, tasks that do not differ: CKA gap beyond 0.1", "replay",
                   "cka_gap", 0.1, ("stationary",), "control", unit=""),
        ),
    ),
    Claim(
        "C5",
        "With the same number of exemplars MEMO is close to DER and saves fewer parameters.",
        "quality",
        Published("3.63 M against 4.64 M parameters after ten tasks; accuracy within one to two points", FIGURE),
        (
            gain("close", "average accuracy at equal exemplars, MEMO minus DER", "memo-equal", "der", "average_equal",
                 CLOSE, (Match("exemplars_equal"),), conditions=(FORGETS,)),
            Computed("memo", "parameters of MEMO after ten tasks, ResNet-32", "expanded_memo_32", 3_626_896.0, 0.0,
                     published=Published("3.63 M", DERIVED)),
            Computed("der", "parameters of DER after ten tasks, ResNet-32", "expanded_der_32", 4_635_040.0, 0.0,
                     published=Published("4.64 M", DERIVED)),
            gain("last", "accuracy after the last task at equal exemplars, MEMO minus DER", "memo-equal", "der",
                 "last_equal", CLOSE, (Match("exemplars_equal"),), role="secondary", conditions=(FORGETS,)),
            Contrast("fewer", "parameters saved, DER minus MEMO, of DER's", {"der": 1.0, "memo-equal": -1.0},
                     "parameters", Superiority(), MAIN, relative_to="der", role="secondary",
                     published=Published("3.63 M against 4.64 M", DERIVED, 21.7)),
            gain("single", "negative control: one backbone (iCaRL) minus DER at equal exemplars", "icarl", "der",
                 "average_equal", CLOSE, (Match("exemplars_equal"),), role="control", conditions=(FORGETS,)),
            gain("idle", "negative control: new blocks drawn at random and not trained, minus DER", "idle", "der",
                 "average_equal", CLOSE, (Match("exemplars_equal"),), role="control", conditions=(FORGETS,)),
        ),
    ),
)  # fmt: skip

METRICS = {
    "error": "100 minus average accuracy, mean over the memory budgets",
    **{f"average_{p}": f"mean over tasks of accuracy on all classes seen, {p} memory, percent" for p in POINTS[5]},
    **{f"last_{p}": f"accuracy on all classes after the last task, {p} memory, percent" for p in POINTS[5]},
    **{f"exemplars_{p}": f"exemplars that the {p} memory affords" for p in POINTS[5]},
    "average_equal": "average accuracy with the base configuration's network and exemplars, percent",
    "last_equal": "last accuracy with the base configuration's network and exemplars, percent",
    "gain_of_memory": "average accuracy at the largest minus that at the smallest memory, points",
    "auc_average": "area under average accuracy over memory, over the range of memory, percent",
    "auc_last": "area under last accuracy over memory, over the range of memory, percent",
    "forgetting": "best accuracy of a task minus its last, mean over all tasks but the last, largest memory, points",
    "new_accuracy": "accuracy on the classes of a task once it is learned, mean over tasks, largest memory, percent",
    "parameters": "parameters saved after the last task, without heads, largest memory",
    "shift_log2": "mean squared shift of a weight over a task, last stage over first, log2",
    "total_shift_log2": "the same summed over weights, log2",
    "relative_shift_log2": "mean squared shift over the mean squared weight, log2",
    "gradient_log2": "norm of the gradient, last stage over first, log2",
    "gradient_rms_log2": "root mean square of the gradient, last stage over first, log2",
    "cka_gap": "CKA of the features after the first and the last task, first stage minus last",
}

PAPER = Paper(
    slug="memo",
    title="A Model or 603 Exemplars: Towards Memory-Efficient Class-Incremental Learning",
    short="MEMO",
    area="Continual learning",
    arxiv="2205.13218",
    year=2022,
    venue="ICLR 2023",
    code="wangkiw/ICLR23-MEMO",
    idea="Saved models count in the memory budget of class-incremental learning as exemplars do. Shallow layers hardly "
    "change from task to task, so share them, give every task a copy of the deep block only, and spend what that saves "
    "on exemplars.",
    config=Config,
    arms=ARMS,
    settings=SETTINGS,
    claims=CLAIMS,
    presets={
        "smoke": Preset(
            {
                "first": 10,
                "step": 10,
                "train": 8,
                "test": 4,
                "nets": "8:2 8:3 8:4",
                "exemplars": 40,
                "first_epochs": 1,
                "epochs": 1,
                "batch": 32,
            },
            seeds=1,
            time_limit=300,
        ),
        "laptop": Preset(seeds=4, time_limit=900),
        "gpu": Preset(
            {"exemplars": 2000, "nets": "conv2:64 20:16 32:16", "batch": 128, "first_epochs": 40, "epochs": 30},
            settings=("cifar100",),
            arms={"cifar100": ("replay", "icarl", "wa", "der", "memo", "memo-equal", "front")},
            time_limit=3600,
            memory_limit=64 * 2**30,
            needs="one GPU with 16 GiB; CIFAR-100 from the hub or REPRO_DATA_DIR",
        ),
        "published": Preset(
            {
                "exemplars": 2000,
                "nets": "conv2:64 14:16 20:16 26:16 32:16",
                "fill": False,
                "enlarge": True,
                "batch": 128,
                "lr": 0.1,
                "schedule": "steps",
                "first_epochs": 200,
                "epochs": 170,
                "first_milestones": "0.3 0.6 0.85",
                "milestones": "0.47 0.705 0.882",
            },
            settings=("cifar100",),
            time_limit=7 * 24 * 3600,
            memory_limit=64 * 2**30,
            needs="one GPU with 24 GiB, days; CIFAR-100 from the hub or REPRO_DATA_DIR",
        ),
    },
    experiment="papers.memo.experiment.run",
    accounting="papers.memo.published.accounting",
    departures=(
        "Textured objects of 16 x 16 pixels and a ResNet-8 of half the usual width stand in for CIFAR-100 and "
        "ResNet-32; a backbone costs 98 exemplars.",
        "Networks of the smaller budgets are narrower, not shallower, as a ResNet-8 cannot lose a block.",
        "Classes arrive in an order of the run's seed, not that of seed 1993.",
        "Weight alignment only shrinks rows of new classes at laptop and gpu scale, in all arms that use it; where "
        "they are the smaller ones nothing is scaled. As published, when it may also enlarge them, it is an ablation.",
        "Shallow stages per task, idle new blocks and tasks that do not differ are added as negative controls.",
    ),
    primary_metric="error",
    metrics=METRICS,
)  # fmt: skip
