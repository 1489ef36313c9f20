"""From records to verdicts. Pure: the same paper and the same records give the same judgement.

Reads anything shaped like `repro.records.Record` (``setting``, ``arm``, ``scale``, ``seed``, ``status``,
``metrics``, ``profile``, ``key``), so that it can be tested on simulated data.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from repro.claims.contract import (
    ACCOUNTING,
    Claim,
    Comparison,
    Computed,
    Contrast,
    Equivalence,
    Match,
    NonInferiority,
    Ordering,
    Paper,
    Precondition,
    Published,
    Role,
    Superiority,
    Verdict,
)
from repro.claims.statistics import Interval, mean_interval, page_trend, seeds_to_settle

#: Under ``--placebo`` one arm of a pair takes the other's place as well, at seeds shifted by this much.
PLACEBO_SHIFT = 500


@dataclass(frozen=True, slots=True)
class Audited:
    """One matched quantity as measured: mean per arm, largest relative deviation, whether within tolerance."""

    quantity: str
    tolerance: float
    values: Mapping[str, float]
    deviation: float
    ok: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """What one comparison says in one setting at one scale."""

    claim: str
    comparison: str
    title: str
    role: Role
    setting: str
    scale: str
    verdict: Verdict
    reason: str
    unit: str = ""
    effect: Interval | None = None
    published: Published | None = None
    ratio: float | None = None
    audit: tuple[Audited, ...] = ()
    seeds: tuple[int, ...] = ()
    settle: int | None = None
    arms: Mapping[str, Interval] = field(default_factory=dict)
    records: tuple[str, ...] = ()
    computed: float | None = None
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim's verdict at one scale with the findings that it rests on."""

    claim: Claim
    scale: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    #: negative controls in which the effect was found although it should be absent
    tripped: tuple[Finding, ...] = ()


class _Bench:
    """Records of one paper at one scale, by (setting, arm, seed)."""

    def __init__(self, records: Iterable[Any], scale: str):
        self.cells: dict[tuple[str, str, int], Any] = {}
        self._seeds: dict[tuple[str, str], set[int]] = {}
        self.accounting: Any = None
        for record in records:
            if record.arm == ACCOUNTING:
                if record.status == "ok":
                    self.accounting = record
            elif record.scale == scale:
                self.cells[record.setting, record.arm, record.seed] = record
                self._seeds.setdefault((record.setting, record.arm), set()).add(record.seed)

    def seeds(self, setting: str, arm: str) -> set[int]:
        return self._seeds.get((setting, arm), set())

    def settings(self) -> list[str]:
        return list(dict.fromkeys(g for g, _ in self._seeds))

    def value(self, setting: str, arm: str, seed: int, metric: str) -> float:
        """nan for a run that did not end well or that lacks the metric: never silently dropped."""
        record = self.cells[setting, arm, seed]
        if record.status != "ok":
            return math.nan
        value = record.metrics.get(metric, math.nan)
        return float(value)


def judge(paper: Paper, records: Iterable[Any], scale: str, *, placebo: bool = False) -> list[Judgement]:
    """Verdict of every claim of a paper at a scale.

    ``placebo`` compares one arm of each pair with itself under other seeds (see `PLACEBO_SHIFT`), and asks whether an
    effect shows; only contrasts of two arms take part.
    """
    bench = _Bench(records, scale)
    return [_judge_claim(paper, claim, bench, scale, placebo) for claim in paper.claims]


def _judge_claim(paper: Paper, claim: Claim, bench: _Bench, scale: str, placebo: bool) -> Judgement:
    findings: list[Finding] = []
    for comparison in claim.comparisons:
        if isinstance(comparison, Computed):
            if not placebo:
                findings.append(_computed(claim, comparison, bench))
            continue
        if placebo and not (isinstance(comparison, Contrast) and placebo_arm(comparison)):
            continue
        tried = comparison.settings or tuple(s.name for s in paper.settings)
        present = set(bench.settings())
        for setting in tried:
            if setting in present:
                found = _compare(claim, comparison, setting, bench, scale, placebo)
                findings.append(_without_verdict(found) if scale == "smoke" else found)
        if not present & set(tried):
            findings.append(
                _finding(
                    claim,
                    comparison,
                    "",
                    scale,
                    "untested",
                    f"no {scale} records in any of its settings",
                    published=_published(claim, comparison),
                )
            )
    verdict = combine([f.verdict for f in findings if f.role == "primary"])
    if scale == "smoke" and claim.kind != "cost":
        verdict = "untested"
    tripped = tuple(f for f in findings if f.role == "control" and f.verdict in ("reproduced", "partly"))
    return Judgement(claim, scale, verdict, tuple(findings), tripped)


def _without_verdict(finding: Finding) -> Finding:
    """Smoke scale proves the machinery: its numbers are shown, nothing is concluded from them."""
    return replace(finding, verdict="untested", reason=f"smoke scale gives no verdict ({finding.reason})", settle=None)


def combine(verdicts: Sequence[Verdict]) -> Verdict:
    """One word for several findings: theirs when they agree, else ``mixed``. Untried ones do not vote."""
    tried = {v for v in verdicts if v != "untested"}
    if not tried:
        return "untested"
    return tried.pop() if len(tried) == 1 else "mixed"


def placebo_arm(comparison: Contrast) -> str | None:
    """The arm that plays both sides under a placebo: the one with the positive coefficient of a plain pair."""
    if sorted(comparison.terms.values()) != [-1, 1] or comparison.offset:
        return None
    return next(arm for arm, c in comparison.terms.items() if c > 0)


def _published(claim: Claim, comparison: Comparison) -> Published | None:
    if comparison.published is not None:
        return comparison.published
    return claim.published if comparison.role == "primary" else None


def _finding(
    claim: Claim, comparison: Comparison, setting: str, scale: str, verdict: Verdict, reason: str, **more: Any
):
    return Finding(
        claim.id, comparison.name, comparison.title, comparison.role, setting, scale, verdict, reason, **more
    )


def _computed(claim: Claim, comparison: Computed, bench: _Bench) -> Finding:
    published = _published(claim, comparison)
    record = bench.accounting
    common: dict[str, Any] = {
        "published": published,
        "unit": comparison.unit,
        "rule": f"within {comparison.tolerance:.2%} of {comparison.expected:g}",
    }
    if record is None or comparison.quantity not in record.metrics:
        return _finding(claim, comparison, "", "published", "untested", "the accounting has not run", **common)
    value = float(record.metrics[comparison.quantity])
    if not math.isfinite(value):
        return _finding(claim, comparison, "", "published", "inconclusive", f"computed {value}", **common)
    off = abs(value - comparison.expected)
    if off:
        off = off / abs(comparison.expected) if comparison.expected else math.inf
    verdict: Verdict = "reproduced" if off <= comparison.tolerance else "contradicted"
    reason = f"computed {value:,.6g}, published {comparison.expected:,.6g} ({off:+.2%} off)".replace("(+", "(")
    return _finding(
        claim,
        comparison,
        "",
        "published",
        verdict,
        reason,
        computed=value,
        ratio=value / comparison.expected if comparison.expected else None,
        records=(record.key,),
        **common,
    )


def _compare(
    claim: Claim, comparison: Contrast | Ordering, setting: str, bench: _Bench, scale: str, placebo: bool
) -> Finding:
    arms = comparison.arms
    twin = placebo_arm(comparison) if placebo and isinstance(comparison, Contrast) else None
    if twin is not None:
        arms = (twin,)
    missing = [a for a in arms if not bench.seeds(setting, a)]
    published = _published(claim, comparison)
    unit = "" if isinstance(comparison, Ordering) else "%" if comparison.relative_to else comparison.unit
    common: dict[str, Any] = {"published": published, "unit": unit, "rule": describe(comparison)}
    if missing:
        return _finding(claim, comparison, setting, scale, "untested", f"no records of {', '.join(missing)}", **common)
    shared = set.intersection(*(bench.seeds(setting, a) for a in arms))
    if twin is not None:
        shared = {s for s in shared if s < PLACEBO_SHIFT and s + PLACEBO_SHIFT in shared}
    seeds = tuple(sorted(shared))
    if twin is None:
        seeds = tuple(s for s in seeds if s < PLACEBO_SHIFT)
    common["seeds"] = seeds
    common["records"] = tuple(bench.cells[setting, a, s].key for a in arms for s in seeds)
    # an arm that only a precondition names may lack the metric
    relative_to = comparison.relative_to if isinstance(comparison, Contrast) else None
    measured = arms if twin is not None else tuple(a for a in arms if a in comparison.compared or a == relative_to)
    seen = {a: [bench.value(setting, a, s, comparison.metric) for s in seeds] for a in arms}
    common["arms"] = {
        a: mean_interval(v, bootstrap=False)
        for a, v in seen.items()
        if a in measured or any(math.isfinite(x) for x in v)
    }
    tried = seeds if twin is None else (*seeds, *(s + PLACEBO_SHIFT for s in seeds))
    cells = {(a, s): bench.cells[setting, a, s].status for a in arms for s in tried}
    lost = [f"{a} seed {s}: {status}" for (a, s), status in cells.items() if status != "ok"]
    if twin is None:
        common["audit"] = _audit(comparison.matched, comparison.compared, setting, seeds, bench)
    if lost:
        return _finding(claim, comparison, setting, scale, "inconclusive", "; ".join(lost), **common)
    if len(seeds) < comparison.min_seeds:
        values = _effects(comparison, setting, seeds, bench, twin) if isinstance(comparison, Contrast) else []
        effect = mean_interval(values) if values else None
        reason = f"{len(seeds)} paired seeds, {comparison.min_seeds} needed"
        return _finding(claim, comparison, setting, scale, "inconclusive", reason, effect=effect, **common)
    unfair = [a for a in common.get("audit", ()) if not a.ok]
    failed = [] if twin else [p for p in comparison.preconditions if not _holds(p, setting, seeds, bench)]
    blank = [
        f"{a} seed {s}"
        for a, s in cells
        if a in measured and not math.isfinite(bench.value(setting, a, s, comparison.metric))
    ]
    reasons = [f"{comparison.metric} is not finite: {', '.join(blank)}"] if blank else []

    if isinstance(comparison, Ordering):
        verdict, reason = _order(comparison, setting, seeds, bench)
        effect, ratio, settle = None, None, None
    else:
        effect = mean_interval(_effects(comparison, setting, seeds, bench, twin))
        # a placebo must show no effect, also where the claim is that two arms are alike
        verdict, reason, boundaries = decide(Superiority() if twin else comparison.rule, effect, unit)
        settle = seeds_to_settle(effect, boundaries) if verdict == "inconclusive" else None
        ratio = None
        # against a published effect on the wrong side of zero a ratio would read as agreement
        if published is not None and published.effect is not None and published.effect > 0:
            ratio = effect.mean / published.effect
    if failed:
        verdict, settle = "inconclusive", None
        reasons.insert(0, "precondition not met: " + "; ".join(p.title for p in failed))
    reason = "; ".join(reasons) or reason
    if unfair:
        verdict, settle = "unfair", None
        reason = "arms not matched: " + "; ".join(
            f"{a.quantity} differs by {a.deviation:.2%}, {a.tolerance:.2%} allowed" for a in unfair
        )
    return _finding(
        claim, comparison, setting, scale, verdict, reason, effect=effect, ratio=ratio, settle=settle, **common
    )


def _effects(c: Contrast, setting: str, seeds: Sequence[int], bench: _Bench, twin: str | None) -> list[float]:
    if twin is not None:
        pairs = [
            (bench.value(setting, twin, s, c.metric), bench.value(setting, twin, s + PLACEBO_SHIFT, c.metric))
            for s in seeds
        ]
        return [_percent(a - b, a) if c.relative_to else a - b for a, b in pairs]
    return [_contrast(c.terms, c.offset, c.metric, setting, s, bench, c.relative_to) for s in seeds]


def _contrast(
    terms: Mapping[str, float],
    offset: float,
    metric: str,
    setting: str,
    seed: int,
    bench: _Bench,
    relative_to: str | None,
) -> float:
    total = offset + sum(k * bench.value(setting, arm, seed, metric) for arm, k in terms.items())
    if relative_to is None:
        return total
    return _percent(total, bench.value(setting, relative_to, seed, metric))


def _percent(difference: float, base: float) -> float:
    """In percent of the size of ``base``: a negative base (a log-likelihood) must not turn the sign around."""
    return 100.0 * difference / abs(base) if base else math.nan


def _holds(p: Precondition, setting: str, seeds: Sequence[int], bench: _Bench) -> bool:
    values = [_contrast(p.terms, p.offset, p.metric, setting, s, bench, None) for s in seeds]
    return bool(mean_interval(values).low > 0)


def _audit(
    matched: Sequence[Match], arms: Sequence[str], setting: str, seeds: Sequence[int], bench: _Bench
) -> tuple[Audited, ...]:
    out = []
    for match in matched:
        values = {}
        for arm in arms:
            seen = [bench.cells[setting, arm, s].profile.get(match.quantity, math.nan) for s in seeds]
            values[arm] = sum(seen) / len(seen) if seen else math.nan
        low, high = min(values.values()), max(values.values())
        if not all(math.isfinite(v) for v in values.values()):
            deviation = math.inf
        elif high == low:
            deviation = 0.0
        else:
            deviation = high / low - 1 if low > 0 else math.inf
        out.append(Audited(match.quantity, match.tolerance, values, deviation, deviation <= match.tolerance + 1e-12))
    return tuple(out)


def decide(rule: Any, effect: Interval, unit: str = "") -> tuple[Verdict, str, tuple[float, ...]]:
    """Verdict of a rule on an interval, the reason in words, and the boundaries all of which more seeds would have to
    clear. Where clearing either of two would do (0, and the least that is asked), it is the farther one: it is cleared
    first."""
    low, high, mean = effect.low, effect.high, effect.mean
    shown = f"{mean:+.4g}{unit} [{low:+.4g}, {high:+.4g}]"
    if not (math.isfinite(low) and math.isfinite(high)):
        return "inconclusive", "the effect is not finite in every seed", (0.0,)
    if isinstance(rule, Superiority):
        need = rule.at_least
        if low > 0 and mean >= need:
            return "reproduced", f"{shown} is above 0" + (f" and at least {need:g}{unit}" if need else ""), (0.0,)
        if low > 0:
            return "partly", f"{shown} is above 0 but below the {need:g}{unit} the rule asks for", (0.0,)
        if high < 0:
            return "contradicted", f"{shown} is below 0", (0.0,)
        if high < need:
            return "contradicted", f"{shown} reaches 0 and excludes the {need:g}{unit} the rule asks for", (need,)
        first = need if mean < need and need - mean > abs(mean) else 0.0
        return "inconclusive", f"{shown} holds 0", (first,)
    if isinstance(rule, NonInferiority):
        margin, mean_at_least = rule.margin, rule.mean_at_least
        if low > -margin and (mean_at_least is None or mean >= mean_at_least):
            return "reproduced", f"{shown} stays above -{margin:g}{unit}", (-margin,)
        if low > -margin:
            reason = f"{shown} stays above -{margin:g}{unit} but its mean is below {mean_at_least:g}{unit}"
            return "partly", reason, (-margin,)
        if high < -margin:
            return "contradicted", f"{shown} is below -{margin:g}{unit}", (-margin,)
        return "inconclusive", f"{shown} holds -{margin:g}{unit}", (-margin,)
    if isinstance(rule, Equivalence):
        margin = rule.margin
        if -margin < low and high < margin:
            return "reproduced", f"{shown} lies within +-{margin:g}{unit}", (margin, -margin)
        if low >= margin or high <= -margin:
            return "contradicted", f"{shown} lies outside +-{margin:g}{unit}", (margin, -margin)
        return "inconclusive", f"{shown} crosses +-{margin:g}{unit}", (margin, -margin)
    raise TypeError(f"unknown rule {rule!r}")


def _order(c: Ordering, setting: str, seeds: Sequence[int], bench: _Bench) -> tuple[Verdict, str]:
    sign = 1.0 if c.lower_is_better else -1.0
    table = [[sign * bench.value(setting, a, s, c.metric) for a in c.order] for s in seeds]
    if not all(math.isfinite(v) for row in table for v in row):
        return "inconclusive", "the metric is not finite in every run"
    up, down = page_trend(table)
    means = [math.fsum(column) / len(column) for column in zip(*table, strict=True)]
    ranked = sorted(zip(means, c.order, strict=True), key=lambda found: found[0])
    less = " < " if c.lower_is_better else " > "
    signs = [" = " if a == b else less for (a, _), (b, _) in itertools.pairwise(ranked)]
    said = "measured " + "".join(name + sign for (_, name), sign in zip(ranked, [*signs, ""], strict=True))
    if up <= 0.025:
        follows = all(a < b for a, b in itertools.pairwise(means))
        return ("reproduced" if follows else "partly"), f"{said}; p = {up:.3g} for the stated order"
    if down <= 0.025:
        return "contradicted", f"{said}; p = {down:.3g} for the reverse order"
    return "inconclusive", f"{said}; p = {up:.3g} for the stated order"


def describe(comparison: Comparison) -> str:
    """The decision rule in a few words."""
    if isinstance(comparison, Ordering):
        less = " < " if comparison.lower_is_better else " > "
        return "Page's trend test, p <= 0.025: " + less.join(comparison.order)
    if isinstance(comparison, Computed):
        return f"within {comparison.tolerance:.2%} of {comparison.expected:g}"
    unit = "%" if comparison.relative_to else comparison.unit
    rule = comparison.rule
    if isinstance(rule, Superiority):
        return "95 % interval above 0" + (f", mean at least {rule.at_least:g}{unit}" if rule.at_least else "")
    if isinstance(rule, NonInferiority):
        mean = "" if rule.mean_at_least is None else f", mean at least {rule.mean_at_least:g}{unit}"
        return f"95 % interval above -{rule.margin:g}{unit}{mean}"
    return f"95 % interval within +-{rule.margin:g}{unit}"
