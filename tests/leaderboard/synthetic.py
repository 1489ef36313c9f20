"""Records and papers made up for tests. They never stand under ``leaderboard/reference``."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repro.claims import (
    ACCOUNTING,
    Arm,
    Claim,
    Computed,
    Contrast,
    Equivalence,
    Match,
    Ordering,
    Paper,
    Preset,
    Published,
    Setting,
    Superiority,
)
from repro.papers import load_paper
from repro.records import Record
from repro.records.provenance import run_key
from repro.report import current_code

HARDWARE = {"cpu": "Example CPU", "cores": 2, "memory_gib": 7.8, "system": "Linux x86_64", "device": "cpu"}
PROVENANCE = {"commit": "0123456789ab", "dirty": False, "started": "2026-01-01T10:00:00+00:00", "wall_s": 31.5}
#: Offsets of the final loss in percent of the baseline's, as the card's pilot suggests them.
GAINS = {
    "moe": 0.0, "moe-strict": 1.5, "coe": 18.0, "coe-2x": 21.0, "moe-2x": 4.0, "moe-3x": 6.0, "moe-deep2": 15.0,
    "moe-deep3": 22.0, "coe-pool": 12.0, "coe-shared-gate": 22.0, "coe-frozen-gate": 21.5, "coe-outer": -8.0,
    "coe-both": 12.0, "coe-init": 9.0, "dense": -4.0, "dense-c2": -6.0, "coe-c3": 24.0, "coe-c4": 25.0,
    "moe-long": 30.0, "coe-long": 42.0,
}  # fmt: skip
LEVELS = {
    "composition": 1.25,
    "lookup": 2.1,
    "lookup-joint": 2.1,
    "word-problems": 0.62,
    "stdlib": 2.08,
    "gsm8k": 1.4,
    "metamath": 1.2,
    "slimpajama": 3.1,
}
#: How much of the gain a kind of data shows: all in composition, none in a random table, reversed in library source.
SHARE = {
    "composition": 1.0,
    "lookup": 0.02,
    "lookup-joint": 0.02,
    "word-problems": 0.12,
    "stdlib": -0.1,
    "gsm8k": 0.1,
    "metamath": 0.2,
    "slimpajama": 0.0,
}


def coe_records(
    seeds: Sequence[int] = (0, 1, 2),
    scale: str = "laptop",
    *,
    code: str | None = None,
    settings: Sequence[str] | None = None,
    shift: float = 0.0,
    points: int = 30,
) -> list[Record]:
    """Records of every arm of Chain-of-Experts, shaped like the runner's, with made-up numbers."""
    paper = load_paper("coe")
    names = settings or [s.name for s in paper.settings if s.default]
    out = [
        coe_record(setting, arm, seed, scale, code=code, shift=shift, points=points)
        for setting in names
        for arm in paper.arms_in(setting)
        for seed in seeds
    ]
    return [*out, coe_accounting(code)]


def coe_record(
    setting: str,
    arm: str,
    seed: int,
    scale: str = "laptop",
    *,
    code: str | None = None,
    shift: float = 0.0,
    points: int = 30,
) -> Record:
    """One made-up record."""
    paper = load_paper("coe")
    config = paper.resolve(setting, arm, scale)
    data, prenorm = str(config["data"]), config["residual"] == "prenorm"
    level = LEVELS[data] * (0.97 if prenorm else 1.0)
    common = random.Random(f"{setting}/{seed}").gauss(0, 0.08)
    own = random.Random(f"{setting}/{arm}/{seed}").gauss(0, 0.006)
    gain = (GAINS.get(arm, 0.0) * SHARE[data] + shift * (arm == "coe")) / 100
    final = level * (1 + common) * (1 - gain + own)
    steps = int(config["steps"]) * int(config["length_scale"])
    x = [max(1, round(steps * (i + 1) / points)) for i in range(points)]
    y = [final + (level * 2.2 - final) * math.exp(-6 * (i + 1) / points) for i in range(points)]
    passes = int(config["passes"])
    k = int(config["k"] * config["k_scale"]) + int(config["k_extra"])
    width = int(config["experts"] * config["pool_scale"])
    total = 70_000 * int(config["layers"]) * int(config["depth_scale"]) + width * 6_144 + passes * width * 64
    tokens = steps * int(config["batch"]) * int(config["sequence"])
    flops = 6.0 * tokens * (70_000 * int(config["depth_scale"]) + passes * (k + 1) * 6_144)
    tables: dict = {}
    if passes == 2:
        tables["coactivation"] = {
            f"layer {layer}": [[round(100 / (1 + abs(i - j - 3))) for j in range(width)] for i in range(width)]
            for layer in range(int(config["layers"]))
        }
    return Record(
        key=run_key({"setting": setting, "arm": arm, "seed": seed, "scale": scale, "code": code, "shift": shift}),
        paper="coe",
        setting=setting,
        arm=arm,
        scale=scale,
        seed=seed,
        status="ok",
        config=config,
        code=current_code(paper.experiment, str(config["data"])) if code is None else code,
        metrics={
            "loss": final,
            "final_loss": y[-1],
            "answer_loss": final * 0.7,
            "accuracy": max(0.0, min(1.0, 1.2 - final / 2)),
            "coactivation_ratio": 1.6 if arm == "coe-shared-gate" else 0.7 + own,
            "coactivation_asymmetry_excess": 0.3 + own,
            "load_balance": 0.9 + own,
        },
        curves={
            "loss": {"x": x, "y": y, "of": "step"},
            "train_loss": {"x": x, "y": [v * 0.98 for v in y], "of": "step"},
        },
        profile={
            "train_tokens": tokens,
            "params_total": total,
            "params_active": total - (width - k) * 6_144,
            "train_flops": flops,
            "forward_flops_per_token": flops / (3 * tokens),
            "routed_passes": passes * k,
            "expert_passes": passes * (k + 1),
            "peak_memory_bytes": 3.1e8 + total * 16,
            "wall_s": 20 + flops / 2e10,
            "tokens_per_s": tokens / (20 + flops / 2e10),
        },
        data={"name": data, "kind": "generated", "fingerprint": hashlib.sha256(data.encode()).hexdigest()[:16]},
        tables=tables,
        environment={
            "versions": {"python": "3.12.3", "torch": "2.13.0", "numpy": "2.4.0"},
            "hardware": HARDWARE,
        },
        provenance={**PROVENANCE, "started": f"2026-01-0{1 + seed % 9}T10:00:00+00:00"},
    )  # fmt: skip


def coe_accounting(code: str | None = None) -> Record:
    """The accounting at the published size, with the card's numbers."""
    paper = load_paper("coe")
    metrics = {
        "memory_saving_pool": 17.6, "memory_saving_deep2": 42.1, "memory_saving_deep3": 59.2,
        "memory_gb_moe": 11.70, "memory_gb_coe_n48": 9.64, "memory_gb_deep2": 20.21, "memory_gb_deep3": 28.72,
        "params_mi_moe": 544.51, "params_mi_coe": 544.75, "params_mi_coe_n48": 412.63, "params_mi_deep2": 1089.01,
        "params_mi_deep3": 1633.52, "combinations_ratio_64": 91.208, "combinations_ratio_63": 91.6,
    }  # fmt: skip
    return Record(
        key=run_key({"accounting": "coe", "code": code}),
        paper="coe",
        setting=ACCOUNTING,
        arm=ACCOUNTING,
        scale="published",
        seed=0,
        status="ok",
        config={},
        code=current_code(paper.accounting) if code is None else code,
        metrics=metrics,
        provenance={"commit": "0123456789ab", "dirty": False, "started": "2026-01-01T10:00:00+00:00", "wall_s": 1.2},
    )


HOSTILE = "<script>alert('x')</script>\"'>&\u2028</script><img src=x onerror=alert(1)>"
RIGHT_TO_LEFT = "\u202e\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627"


def hostile_records() -> list[Record]:
    """Records of Chain-of-Experts with markup, right-to-left text, very long names and numbers that are none."""
    base = coe_record("composition", "moe", 0)
    return [
        replace(
            base, key="hostile-" + "k" * 60, setting=HOSTILE, arm=RIGHT_TO_LEFT + "a" * 3000, seed=7,
            metrics={"loss": math.nan, HOSTILE: math.inf, "final_loss": -math.inf},
            profile={"wall_s": math.nan, "params_total": math.inf, HOSTILE: 1.0},
            data={"name": HOSTILE},
            environment={"versions": {HOSTILE: HOSTILE}, "hardware": {"cpu": HOSTILE, "device": "cpu"}},
            provenance={"commit": HOSTILE, "started": HOSTILE},
        ),
        replace(
            base, key="hostile-failed", arm="coe", seed=8, status="failed", metrics={}, curves={},
            error={"type": HOSTILE, "message": HOSTILE, "traceback": HOSTILE * 20},
        ),
        replace(
            base, key="hostile-nan", seed=9, status="diverged", metrics={"loss": math.nan},
            curves={
                "loss": {"x": [1, 2, 3], "y": [1.0, math.nan, math.inf], "of": HOSTILE},
                HOSTILE: {"x": [1], "y": [2.0]},
            },
        ),
    ]  # fmt: skip


# --- many papers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Config:
    """Configuration of a made-up paper."""

    steps: int = 100
    data: str = "a"


AREAS = (
    "MoE language models",
    "vision transformers",
    "distillation",
    "federated learning",
    "parameter-efficient tuning",
)


def made_up_paper(number: int) -> Paper:
    """A paper with three to six claims over two settings."""
    draw = random.Random(number)
    figure = round(draw.uniform(1, 12), 1)
    claims = [
        Claim(
            "C1", f"The method {number} beats the baseline by {figure} % at equal tokens.", "quality",
            Published(f"-{figure} %", "Table 1", figure),
            (
                Contrast("vs-base", "method against baseline", {"base": 1.0, "new": -1.0}, "loss",
                         Superiority(figure / 2), (), "base",
                         matched=(Match("train_tokens"), Match("params_total", 0.01))),
                Contrast("shuffled", "negative control: shuffled", {"base": 1.0, "placebo": -1.0}, "loss",
                         Superiority(figure / 2), (), "base", role="control"),
            ),
            headline=True,
        ),
        Claim(
            "C2", "Both end at the same accuracy.", "behaviour", Published("equal", "Fig. 3"),
            (Contrast("same", "gap", {"base": 1.0, "new": -1.0}, "accuracy", Equivalence(0.05), unit=" points"),),
        ),
        Claim(
            "C3", "The method saves memory at the published size.", "cost", Published("-30 %", "abstract", 30.0),
            (Computed("memory", "saving", "saving", 30.0, 0.05, "%"),),
        ),
        *(
            Claim(
                f"C{4 + i}", "The arms rank as stated.", "quality", Published("new < base < placebo", "Table 2"),
                (Ordering("order", "order", ("new", "base", "placebo"), "loss"),),
            )
            for i in range(draw.randrange(4))
        ),
    ]  # fmt: skip
    settings = (
        Setting("a", "Generated A", "a", "generated", {"data": "a"}),
        Setting("b", "Generated B", "b", "generated", {"data": "b"}),
    )
    return Paper(
        slug=f"made_up_{number:02d}",
        title=f"A Made-Up Method Number {number}: Learning to Do Something Useful with Long Titles",
        short=f"MUM-{number}",
        area=AREAS[number % len(AREAS)],
        arxiv=f"25{number % 12 + 1:02d}.{10000 + number}",
        year=2023 + number % 3,
        idea="It does one thing differently and says so.",
        config=Config,
        arms=(
            Arm("base", "baseline", "baseline"),
            Arm("new", "the method", "method"),
            Arm("placebo", "shuffled", "control"),
        ),
        settings=settings,
        claims=tuple(claims),
        presets={"smoke": Preset(), "laptop": Preset()},
        experiment="papers.coe.paper.run",
        accounting="papers.coe.paper.accounting",
        departures=("Smaller.",),
    )


def made_up_records(paper: Paper, seeds: Iterable[int] = (0, 1, 2), points: int = 30) -> list[Record]:
    """Records of a made-up paper."""
    draw = random.Random(paper.slug)
    gain, noise = draw.gauss(4, 5), draw.uniform(0.2, 3)
    out = []
    for setting in paper.settings:
        for arm in paper.arms:
            config = paper.resolve(setting.name, arm.name, "laptop")
            for seed in seeds:
                own = random.Random(f"{paper.slug}{setting.name}{arm.name}{seed}")
                base = 2.0 + random.Random(f"{paper.slug}{seed}").gauss(0, 0.1)
                loss = base * (1 - (gain * (arm.name == "new") + own.gauss(0, noise)) / 100)
                x = [3 * (i + 1) for i in range(points)]
                y = [loss + 3 * math.exp(-i / 5) for i in range(points)]
                out.append(
                    Record(
                        key=run_key({"p": paper.slug, "s": setting.name, "a": arm.name, "n": seed}), paper=paper.slug,
                        setting=setting.name, arm=arm.name, scale="laptop", seed=seed, status="ok", config=config,
                        code=current_code(paper.experiment, str(config.get("data", ""))),
                        metrics={"loss": loss, "final_loss": y[-1], "accuracy": min(1.0, loss / 3)},
                        curves={"loss": {"x": x, "y": y, "of": "step"}, "train_loss": {"x": x, "y": y, "of": "step"}},
                        profile={"train_tokens": 1e5, "params_total": 2e5 + (arm.name == "new"), "params_active": 1e5,
                                 "train_flops": 1e12, "forward_flops_per_token": 3e6, "peak_memory_bytes": 4e8,
                                 "wall_s": 31.5 + own.random(), "tokens_per_s": 9000.0},
                        data={"name": setting.data, "kind": "generated", "fingerprint": "0" * 16},
                        environment={"versions": {"python": "3.12.3", "torch": "2.13.0"}, "hardware": HARDWARE},
                        provenance=PROVENANCE,
                    )
                )  # fmt: skip
    out.append(
        replace(
            out[0], key=run_key({"accounting": paper.slug}), setting=ACCOUNTING, arm=ACCOUNTING, scale="published",
            config={}, code=current_code(paper.accounting), metrics={"saving": round(draw.uniform(25, 33), 1)},
            curves={}, profile={},
        )
    )  # fmt: skip
    return out


def write(records: Iterable[Record], root: Path) -> None:
    """Write records as a store has them, one file each, without the care for crashes that costs time."""
    for r in records:
        path = root / r.paper / r.scale / f"{r.key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(r.to_json() + "\n", encoding="utf-8")


def write_benchmark(folder: Path) -> None:
    """A made-up result of ``repro bench``, with markup where names stand."""
    spread, ratio = {"q1": 1.0, "median": 1.25, "q3": 1.5}, {"q1": 0.7, "median": 0.8, "q3": 0.9}
    timed = {"ms": spread, "ours_over": ratio}
    contenders = {
        "ours": {"ms": spread}, "naive": {"skipped": HOSTILE}, "transformers grouped_mm": timed, "roof": timed,
    }  # fmt: skip
    origin = {
        "started": "2026-01-01T10:00:00+00:00", "load": 0.1, "code": "0" * 16, "provenance": PROVENANCE,
        "environment": {"hardware": HARDWARE, "versions": {"torch": "2.13.0"}},
    }  # fmt: skip
    cells = [
        {"name": name, "mode": mode, "way": "lean", "repetitions": 30, "contenders": contenders, "tokens_per_s": speed}
        for mode, speed in (("forward", 0), ("forward+backward", 0), ("step", 40_000))
        for name in ("T=512 d=64 f=32 N=16 K=4", HOSTILE)
    ]
    seconds = [{"name": "import repro", "repetitions": 3, "seconds": spread}, {"name": HOSTILE, "error": HOSTILE}]
    groups = {
        "layer": {**origin, "cells": [c for c in cells if c["mode"] != "step"]},
        "step": {**origin, "cells": [c for c in cells if c["mode"] == "step"]},
        "harness": {**origin, "cells": seconds},
    }
    folder.mkdir(parents=True)
    (folder / "cpu-0.json").write_text(json.dumps({"schema": 1, "device": "cpu", "groups": groups}))
    (folder / "cpu-1.json").write_text("{")


def hostile_paper() -> Paper:
    """A paper whose every text tries to be markup."""
    base = made_up_paper(84)
    claims = tuple(
        replace(c, statement=HOSTILE, published=Published(HOSTILE, HOSTILE, c.published.effect), untested=HOSTILE)
        for c in base.claims
    )
    return replace(
        base,
        slug="hostile",
        title=HOSTILE,
        short=HOSTILE,
        area=HOSTILE,
        idea=HOSTILE + RIGHT_TO_LEFT,
        departures=(HOSTILE, "`<b>code</b>`"),
        claims=claims,
    )
