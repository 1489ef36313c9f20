"""What the whole suite would take on so many accelerators: the plan, with durations, through `repro.runner.simulate`.

Durations, the first that there is:

1. measured: records of the scale and the device themselves (of few papers yet at gpu scale);
2. derived: laptop seconds x ratio of the work x ratio of the throughputs, see `Throughput` and `ratio`;
3. drawn: a paper that is not written yet, or of which nothing can be derived, is a whole paper drawn from the others.

    python -m repro.bench.forecast              # seconds; writes docs/scale-out.json and its section of the page

Every stated figure stands in this module, and is written beside the results. Imports no torch.
"""

from __future__ import annotations

import math
import random
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from repro import papers
from repro.bench import pages
from repro.claims import ACCOUNTING, Paper
from repro.records import Record, load
from repro.records.provenance import commit
from repro.runner import Run, plan
from repro.runner.simulate import Job, Order, Schedule, scaled, simulate

#: Papers of the suite, seeds of each run, accelerators, and how much longer or shorter runs might be.
PAPERS, SEEDS = 85, 5
SLOTS = (8, 64, 512)
FACTORS = (0.5, 1.0, 2.0)
#: Seconds that presets allow a run of the gpu scale.
LIMIT = 3600
#: Times that the papers which are not written are drawn.
DRAWS = 100
#: Parameters of models of the hub.
HUB = {
    "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T": 1.10e9,
    "mistralai/Mistral-7B-v0.1": 7.24e9,
    "HuggingFaceH4/zephyr-7b-beta": 7.24e9,
    "microsoft/unixcoder-base": 1.26e8,
}
#: FLOPs forward of one example of a data set, through the model that the gpu scale has for it.
FORWARD = {
    "cifar100": 1.4e8,  # ResNet-32, images of 32 x 32
    "cifar10": 1e8,  # a block of convolutions
    "mnist": 8e7,
    "movielens": 2e5,  # seven features of 30, one cross layer, one hidden layer of 192
    "clip-tasks": 8.8e9,  # ViT-B/32, images of 224 x 224
}
#: Examples of data sets whose trainings count epochs, and nodes of graphs that are trained whole.
EXAMPLES = {"cifar100": 50_000, "cifar10": 45_000, "mnist": 55_000}
NODES = {"dblp": 26_128}
#: What profiles call the seconds that base models took to make, and whether this run made them.
BASES = (("pretrain_s", "zoo_built"), ("base_pretrain_s", "base_zoo_built"), ("bench_train_s", "parts_built"))
#: Rows of the vocabulary where the configuration leaves them to the tokenizer: that of DeepSeek-V2-Lite.
VOCABULARY = 102_400


@dataclass(frozen=True)
class Throughput:
    """What an accelerator is assumed to do.

    Attributes:
        flops: sustained FLOP/s: about a third of an A100's peak in bfloat16, a tenth of an H100's.
        step_s: seconds that a training step takes at least, however small the model: kernels have to be launched.
        start_s: seconds of a run before its first step: imports, data, weights from a local disk.
    """

    flops: float = 1e14
    step_s: float = 0.005
    start_s: float = 30.0


class Unknown(ValueError):
    """A configuration of which the work cannot be derived; the message says what is missing."""


# --- work of a configuration ---------------------------------------------------------------------------------------


def examples(config: Mapping[str, Any]) -> float:
    """Tokens, images or rows that a run goes through, up to what is the same at both scales. Raises Unknown."""
    c, data = config, config.get("data", "")
    if "tasks" in c and "validation" in c:  # merging: images of all tasks are classified
        return c["tasks"] * (c["validation"] + c["test"])
    if "epochs" in c:
        if data not in EXAMPLES:
            raise Unknown(f"how many examples {data!r} has")
        return c["epochs"] * EXAMPLES[data] * len(str(c.get("nets", "one")).split())
    length = c.get("sequence") or c.get("positions") or c.get("code_length", 0) + c.get("query_length", 0) or 1
    if c.get("steps") and "batch" in c:
        return c["steps"] * c["batch"] * length
    if "eval_batches" in c:
        return c["eval_batches"] * c["batch"] * length
    raise Unknown("a number of steps or of batches")


def forward(config: Mapping[str, Any]) -> float:
    """FLOPs forward of one example, at gpu scale. Raises Unknown."""
    c = config
    if c.get("data") in FORWARD:
        return FORWARD[c["data"]]
    if c.get("model") in HUB:
        return 2 * HUB[c["model"]]
    if "layers" in c and "hidden" in c and isinstance(c["hidden"], int):
        return 2 * (c["layers"] * (4 * c["hidden"] ** 2 + mlp(c)) + c["hidden"] * (c.get("vocab") or VOCABULARY))
    raise Unknown("the size of the model")


def mlp(config: Mapping[str, Any]) -> float:
    """Active parameters of a feed-forward layer: three matrices for each active expert, or two of four times the
    width."""
    c = config
    if "experts" not in c:
        return 8 * c["hidden"] ** 2
    active = c["k"] * c.get("k_scale", 1.0) * c.get("passes", 1) if "k" in c else c.get("active", 1)
    shared = max(c.get("shared_experts", c.get("shared", 0)), 0)
    return 3 * c["hidden"] * c.get("expert_width", c.get("width", c["hidden"])) * (active + shared)


def steps(config: Mapping[str, Any]) -> float:
    """Training steps; 0 where there are none."""
    if "epochs" in config:
        return config["epochs"] * EXAMPLES.get(config.get("data", ""), 0) / config["batch"]
    return float(config.get("steps", 0))


def ratio(record: Record, config: Mapping[str, Any]) -> float:
    """Work of a run with this configuration at gpu scale over that of a laptop record. Raises Unknown.

    Examples over examples, times FLOPs forward over FLOPs forward; the laptop's are those that its profile counted. A
    graph that is trained whole goes by nodes and the square of the width.
    """
    data, profile = config.get("data", ""), record.profile
    if data in NODES:
        then = record.config["authors"] + record.config["papers"]
        return NODES[data] / then * (config["width"] / record.config["width"]) ** 2
    if "epochs" in config:
        return examples(config) / profile["train_samples"] * forward(config) / counted(profile)
    return examples(config) / examples(record.config) * forward(config) / counted(profile)


def counted(profile: Mapping[str, float]) -> float:
    """FLOPs forward of one example as a profile has them, or as its parameters tell. Raises Unknown."""
    if profile.get("train_flops") and profile.get("train_samples") and "train_tokens" not in profile:
        return profile["train_flops"] / profile["train_samples"] / 3
    for name in ("forward_flops_per_token", "forward_flops"):
        if profile.get(name):
            return profile[name]
    if profile.get("params_total"):
        return 2 * profile["params_total"]
    raise Unknown("what the laptop's model computes")


# --- durations ---------------------------------------------------------------------------------------------------


def sustained(records: Iterable[Record]) -> float | None:
    """Median FLOP/s of the trainings in these records; None where none was timed and counted."""
    rates = [
        r.profile["train_flops"] / r.profile["train_s"]
        for r in records if r.profile.get("train_flops") and r.profile.get("train_s")
    ]  # fmt: skip
    return statistics.median(rates) if rates else None


def job(record: Record) -> Job:
    """A record as a job: its seconds, and apart from them those of the base model that it made or found.

    The runs whose base models took the same time to make share one: a record keeps that time, not the name.
    """
    wall = float(record.provenance.get("wall_s", 0.0))
    for seconds, made in (
        ("pretrain_s", "zoo_built"),
        ("base_pretrain_s", "base_zoo_built"),
        ("bench_train_s", "parts_built"),
    ):
        if seconds in record.profile and made in record.profile:
            base_s = record.profile[seconds]
            own = wall - base_s if record.profile[made] and wall > base_s else wall
            return Job(own, f"{record.paper} {base_s:.6g}", base_s)
    return Job(wall)


def measured(runs: Sequence[Run], records: Sequence[Record]) -> list[Job]:
    """Each run as long as its record says; as the median of its arm where it has none, of its paper where that has none
    either."""
    exact = {(r.setting, r.arm, r.seed): job(r) for r in records}
    arms: dict[tuple[str, str], list[float]] = {}
    for r in records:
        arms.setdefault((r.setting, r.arm), []).append(job(r).seconds)
    every = statistics.median(job(r).seconds for r in records)
    return [
        exact.get((run.setting, run.arm, run.seed)) or Job(statistics.median(arms.get((run.setting, run.arm), [every])))
        for run in runs
    ]


def derived(runs: Sequence[Run], records: Sequence[Record], rate: float, to: Throughput) -> list[Job]:
    """Runs at gpu scale, from the laptop records of the same arm, or of the paper where the arm has none.

    Args:
        rate: FLOP/s that the laptop sustained.

    Raises:
        Unknown: when the work cannot be derived.
    """
    laptop = [r for r in records if r.scale == "laptop" and r.status == "ok"]
    out, known = [], {}
    for run in runs:
        if run.arm == ACCOUNTING:
            out.append(Job(sum(float(r.provenance["wall_s"]) for r in records if r.arm == ACCOUNTING)))
            continue
        cell = run.setting, run.arm
        if cell not in known:
            like = [r for r in laptop if r.arm == run.arm] or laptop
            if not like:
                raise Unknown("laptop records")
            work = statistics.median(job(r).seconds * ratio(r, run.config) for r in like) * rate / to.flops
            known[cell] = min(to.start_s + max(work, steps(run.config) * to.step_s), run.time_limit)
        out.append(Job(known[cell]))
    return out


# --- the suite ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """One paper's plan with durations."""

    paper: str
    basis: str
    jobs: tuple[Job, ...]

    @property
    def hours(self) -> float:
        """Of one place."""
        return sum(job.seconds for job in self.jobs) / 3600


def part(paper: Paper, records: Sequence[Record], rate: float, to: Throughput) -> Part:
    """A paper at gpu scale. Raises Unknown."""
    runs = plan(paper, "gpu", seeds=SEEDS, device="cuda")
    there = [r for r in records if r.scale == "gpu" and r.status == "ok"]
    if there:
        return Part(paper.slug, "measured", tuple(measured(runs, there)))
    return Part(paper.slug, "derived", tuple(derived(runs, records, sustained(records) or rate, to)))


def suite(parts: Sequence[Part], draw: random.Random, count: int = PAPERS) -> list[Job]:
    """A plan of so many papers: those that there are, and others drawn from them, in an order that is drawn too."""
    whole = [*parts, *draw.choices(parts, k=count - len(parts))]
    draw.shuffle(whole)
    return [job for one in whole for job in one.jobs]


def spread(values: Sequence[float]) -> list[float]:
    """5th, 50th and 95th percentile."""
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))] for q in (0.05, 0.5, 0.95)]


def outcomes(plans: Sequence[Sequence[Job]]) -> list[dict[str, Any]]:
    """Every number of places, order and factor, over the plans drawn: percentiles."""
    out = []
    for slots in SLOTS:
        for factor in FACTORS:
            for order in ("plan", "longest") if factor == 1 else ("plan",):
                found = [simulate(scaled(jobs, factor), slots, order) for jobs in plans]
                out.append({"slots": slots, "factor": factor, "order": order, **percentiles(found)})
    return out


def percentiles(found: Sequence[Schedule]) -> dict[str, Any]:
    """What is told of some schedules."""
    return {
        "runs": spread([len(s.starts) for s in found]),
        "hours": spread([s.work / 3600 for s in found]),
        "makespan_h": spread([s.makespan / 3600 for s in found]),
        "bound_h": spread([s.bound / 3600 for s in found]),
        "critical_h": spread([s.critical / 3600 for s in found]),
        "utilisation": spread([s.utilisation for s in found]),
    }


def started(record: Record) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(record.provenance["started"]).timestamp()


def check(records: Sequence[Record]) -> dict[str, Any] | None:
    """The simulator against the clock: records of one paper in the order in which they began, on two places.

    Of records that were not made in one go (a minute, and more than the longest run, without a beginning) the most
    that were; None for fewer than ten.
    """
    goes: list[list[Record]] = []
    rest = sorted(records, key=started)
    longest = max((float(r.provenance["wall_s"]) for r in rest), default=0.0)
    for record in rest:
        if not goes or started(record) - started(goes[-1][-1]) > max(60.0, longest):
            goes.append([])
        goes[-1].append(record)
    ordered: list[Record] = max(goes, key=len, default=[])
    if len(ordered) < 10:
        return None
    walls = [float(r.provenance["wall_s"]) for r in ordered]
    took = max(started(r) + w for r, w in zip(ordered, walls, strict=True)) - started(ordered[0])
    said = simulate([Job(w) for w in walls], 2).makespan
    return {"paper": ordered[0].paper, "runs": len(ordered), "clock_s": took, "simulated_s": said}


def forecast(known: Sequence[Paper], records: Sequence[Record], draws: int = DRAWS) -> dict[str, Any]:
    """The whole document."""
    to, by_paper = Throughput(), {p.slug: [r for r in records if r.paper == p.slug] for p in known}
    rates = [rate for found in by_paper.values() if (rate := sustained(found)) is not None]
    rate = statistics.median(rates)
    parts, missing, laptop = [], {}, []
    for paper in known:
        found = by_paper[paper.slug]
        try:
            parts.append(part(paper, found, rate, to))
        except (Unknown, KeyError) as problem:
            missing[paper.slug] = str(problem).strip("'\"")
        here = [r for r in found if r.scale == "laptop" and r.status == "ok"]
        if here:
            laptop += measured(plan(paper, "laptop"), here)
    chance = random.Random(0)
    plans = [suite(parts, chance) for _ in range(draws)]
    checks = [c for found in by_paper.values() if (c := check([r for r in found if r.scale == "laptop"]))]
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "provenance": commit(),
        "assumed": {
            **asdict(to), "laptop_flops": rate, "papers": PAPERS, "seeds": SEEDS, "draws": draws,
            "records": len(records),
        },
        "papers": [
            {
                "paper": p.paper, "basis": p.basis, "runs": len(p.jobs), "hours": p.hours,
                "longest_s": max(j.seconds for j in p.jobs), "median_s": statistics.median(j.seconds for j in p.jobs),
            }
            for p in parts
        ],
        "missing": missing,
        "gpu": outcomes(plans),
        "laptop": [
            {"slots": slots, "order": order, **percentiles([simulate(laptop, slots, order)])}
            for slots in (2, *SLOTS) for order in ("plan", "longest")
        ],
        "check": checks,
    }  # fmt: skip


# --- the page ----------------------------------------------------------------------------------------------------


def hours(value: float) -> str:
    """``0.42 h``, ``17 h``."""
    return f"{value:.2g} h" if value < 10 else f"{value:,.0f} h"


def between(values: Sequence[float], show: Any = hours) -> str:
    """Median and the two ends."""
    low, middle, high = values
    return show(middle) if low == high else f"{show(middle)} ({show(low)} to {show(high)})"


def percent(value: float) -> str:
    """``97 %``."""
    return f"{100 * value:.0f} %"


ORDERS: dict[Order, str] = {"plan": "as planned", "longest": "longest first"}


def basis(papers: Sequence[Mapping[str, Any]]) -> str:
    """Which papers have records of this scale."""
    there = [str(p["paper"]) for p in papers if p["basis"] == "measured"]
    if not there:
        return "No record of this scale exists yet."
    return f"Records of this scale exist of {', '.join(there)}, of some runs; the others are derived."


def over_limit(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence on the papers whose runs would be ended if they took twice as long."""
    named = [p["paper"] for p in parts if p["longest_s"] * max(FACTORS) > LIMIT]
    if not named:
        return []
    return [
        f"Twice as long, the longest runs of {', '.join(named)} would pass the hour that a run may take, and be ended."
    ]


def tables(document: Mapping[str, Any]) -> str:
    """The section of docs/scale-out.md."""
    a, gpu = document["assumed"], document["gpu"]
    written = len(document["papers"])
    drawn = a["papers"] - written
    one = next(c for c in gpu if c["factor"] == 1)
    planned = {(c["slots"], c["factor"]): c for c in gpu if c["order"] == "plan"}
    out = [
        f"{document['started'][:10]}, from {a['records']:,} records: {a['papers']} papers, {a['seeds']} seeds, "
        f"{between(one['runs'], lambda v: f'{v:,.0f}')} runs, {between(one['hours'])} of one GPU. {written} papers are "
        f"there, {drawn} are drawn from them, {a['draws']} times; in brackets the 5th and 95th percentile of that.",
        pages.table(
            ["GPUs", "order", "makespan", "GPUs busy", "longest run", "no order can beat"],
            [
                [f"{c['slots']}", ORDERS[c["order"]], between(c["makespan_h"]), between(c["utilisation"], percent),
                 between(c["critical_h"]), between(c["bound_h"])]
                for c in gpu if c["factor"] == 1
            ], "llrrrr",
        ),
        "The same with all runs half and twice as long as assumed, in the order of the plan:",
        pages.table(
            ["GPUs", *(f"x {f:g}" for f in FACTORS)],
            [
                [f"{slots}", *(between(planned[slots, f]["makespan_h"]) for f in FACTORS)]
                for slots in SLOTS
            ], "lrrr",
        ),
        *over_limit(document["papers"]),
        f"{basis(document['papers'])} Seconds at gpu scale = seconds of the laptop's record x work of the gpu "
        f"preset over work of the laptop's x FLOP/s that the laptop sustained (its own per paper, "
        f"{a['laptop_flops'] / 1e9:.0f} GFLOP/s where it was not timed) over {a['flops'] / 1e12:.0f} TFLOP/s, at least "
        f"{1000 * a['step_s']:g} ms a training step, and {a['start_s']:g} s to start; no more than the preset's time "
        "limit. Work is examples x FLOPs forward of one. Papers:",
        pages.table(
            ["paper", "basis", "runs", "median run", "longest run", "GPU hours"],
            [
                [p["paper"], p["basis"], f"{p['runs']}", f"{p['median_s']:,.0f} s", f"{p['longest_s']:,.0f} s",
                 f"{p['hours']:.1f}"]
                for p in document["papers"]
            ], "llrrrr",
        ),
        *(f"{slug}: drawn, as {why} is not known." for slug, why in document["missing"].items()),
        "The laptop scale of the papers that are there, whose durations are measured; a run makes its base model where "
        "none that has ended did:",
        pages.table(
            ["cores", "order", "makespan", "cores busy", "longest run"],
            [
                [f"{c['slots']}", ORDERS[c["order"]], between(c["makespan_h"]), between(c["utilisation"], percent),
                 between(c["critical_h"])]
                for c in document["laptop"]
            ], "llrrr",
        ),
        "The simulator against the clock, for records that two processes made in one go. Where some of them have been "
        "replaced since, the clock has their time and the simulator has not:",
        pages.table(
            ["paper", "runs", "took", "simulated", "ratio"],
            [
                [c["paper"], f"{c['runs']}", f"{c['clock_s']:,.0f} s", f"{c['simulated_s']:,.0f} s",
                 f"{c['simulated_s'] / c['clock_s']:.3f}"]
                for c in document["check"]
            ], "lrrrr",
        ),
    ]  # fmt: skip
    return "\n\n".join(out)


def main() -> int:
    """Compute and write; 1 when no paper could be derived."""
    known, broken = papers.load_all()
    for problem in broken:
        print(problem, file=sys.stderr)
    found = load(papers.ROOT / "leaderboard" / "reference")
    document = rounded(forecast(known, found.records))
    pages.keep("forecast", document)
    pages.write("forecast", tables(document))
    print(tables(document))
    return 0


def rounded(value: Any) -> Any:
    """Numbers to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else value
    if isinstance(value, dict):
        return {name: rounded(v) for name, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
