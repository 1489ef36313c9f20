"""The vocabulary in which a paper states its claims. Data only: nothing here trains, judges or prints.

A paper lists *arms* (treatments that are trained or evaluated), *settings* (the data sets or tasks on which
they meet) and *claims*. A claim holds *comparisons*; each says how it reads the records of runs: which arms,
which metric, which decision rule, and what the arms must be matched on. Verdicts are computed from that by
`repro.claims.judge`, so a changed rule re-judges stored records without retraining.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

SCALES = ("smoke", "laptop", "gpu", "published")
Scale = Literal["smoke", "laptop", "gpu", "published"]
Kind = Literal["quality", "behaviour", "cost"]
VERDICTS = ("reproduced", "partly", "contradicted", "inconclusive", "unfair", "untested", "mixed")
Verdict = Literal["reproduced", "partly", "contradicted", "inconclusive", "unfair", "untested", "mixed"]

#: Name of the arm, setting and scale under which the accounting of the published architecture is recorded.
ACCOUNTING = "accounting"


@dataclass(frozen=True, slots=True)
class Published:
    """A figure as the paper gives it.

    Args:
        text: the figure in the paper's own terms, for people, e.g. ``"1.20 -> 1.12 (-6.2 %)"``.
        source: where it stands: abstract, section, table, figure, or the released code.
        effect: the same figure in the unit of the comparison's effect, so that the two can be shown as a ratio.
        verified: False where the figure was recalled and not read in the source; pages then say so.
    """

    text: str
    source: str
    effect: float | None = None
    verified: bool = True


@dataclass(frozen=True, slots=True)
class Arm:
    """One treatment. ``options`` override the paper's configuration; ``at`` overrides them per scale."""

    name: str
    title: str
    role: Literal["method", "baseline", "ablation", "control"]
    options: Mapping[str, Any] = field(default_factory=dict)
    at: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Setting:
    """A data set or task on which arms meet, with the nuisance choices that go with it.

    Args:
        name: identifier, used on the command line and in file names.
        title: for people.
        data: short name of the data; ``--data`` selects the settings that carry it.
        source: ``generated``, ``bundled`` or ``real`` (a hub id or ``REPRO_DATA_DIR``).
        options: configuration overrides.
        default: whether a plain run includes it. Settings on real data are usually asked for by name.
        note: what this setting is for and what stands in for what, in a sentence.
    """

    name: str
    title: str
    data: str
    source: Literal["generated", "bundled", "real"]
    options: Mapping[str, Any] = field(default_factory=dict)
    default: bool = True
    note: str = ""


# --- decision rules -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Superiority:
    """The effect is above zero, and its mean at least ``at_least``.

    reproduced: 95 % interval above 0 and mean >= at_least; partly: interval above 0 but mean below at_least;
    contradicted: interval below 0, or (reaching 0) wholly below at_least; otherwise inconclusive.
    """

    at_least: float = 0.0


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """The 95 % interval of the effect stays above ``-margin`` ("no worse than, up to the margin").

    With ``mean_at_least`` the mean must also reach that value; if only the interval holds, the verdict is partly.
    contradicted: the interval lies wholly below -margin; otherwise inconclusive.
    """

    margin: float
    mean_at_least: float | None = None


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Two one-sided tests at 2.5 % each: the 95 % interval lies within ``(-margin, +margin)``.

    contradicted: the interval lies wholly outside; otherwise inconclusive.
    """

    margin: float


Rule = Superiority | NonInferiority | Equivalence


@dataclass(frozen=True, slots=True)
class Match:
    """The arms of a comparison must agree in ``quantity`` (a key of a run's profile) within ``tolerance``.

    The deviation is ``max/min - 1`` over the arms, each averaged over seeds.
    """

    quantity: str
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Precondition:
    """Something that must hold before a comparison means anything, else the verdict is ``inconclusive``.

    Holds when the 95 % interval of ``offset + sum(coefficient * metric(arm))`` lies above zero.
    """

    title: str
    terms: Mapping[str, float]
    metric: str
    offset: float = 0.0


# --- comparisons ----------------------------------------------------------------------------------------------

Role = Literal["primary", "secondary", "control"]


@dataclass(frozen=True, slots=True)
class Contrast:
    """A linear contrast of one metric over arms, paired by seed; positive values support the claim.

    ``effect(seed) = offset + sum_arm terms[arm] * metric(arm, seed)``, divided by ``metric(relative_to, seed)``
    and given in percent when ``relative_to`` names an arm.

    Args:
        name: identifier inside the claim.
        title: for people.
        terms: coefficient per arm. ``{"baseline": 1, "method": -1}`` for a loss.
        metric: key of a run's metrics.
        rule: decision rule.
        settings: names of the settings it is tried on, judged one by one; empty means every setting of the paper
            whose records hold all arms.
        relative_to: arm whose metric is the unit of the effect.
        offset: constant, for contrasts with a fixed value (``1 - ratio``).
        matched: what the arms must agree in; measured in every run. Empty where the arms differ by design.
        preconditions: what must hold first.
        role: ``primary`` decides the claim; ``secondary`` is shown beside it; ``control`` is a negative control, in
            which the effect should be absent, and trips when it is found.
        published: the paper's figure for this contrast, if it differs from the claim's.
        unit: of the effect, when not percent.
        min_seeds: fewer paired seeds give ``inconclusive``.
    """

    name: str
    title: str
    terms: Mapping[str, float]
    metric: str
    rule: Rule
    settings: tuple[str, ...] = ()
    relative_to: str | None = None
    offset: float = 0.0
    matched: tuple[Match, ...] = ()
    preconditions: tuple[Precondition, ...] = ()
    role: Role = "primary"
    published: Published | None = None
    unit: str = ""
    min_seeds: int = 3

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm whose records are read, in order of mention."""
        names = [*self.terms, *([self.relative_to] if self.relative_to else [])]
        for condition in self.preconditions:
            names.extend(condition.terms)
        return tuple(dict.fromkeys(names))

    @property
    def compared(self) -> tuple[str, ...]:
        """The arms that are matched against each other."""
        return tuple(self.terms)


@dataclass(frozen=True, slots=True)
class Ordering:
    """The arms rank in the stated order of the metric, best (lowest) first: Page's trend test over seeds.

    reproduced: exact one-sided p <= 0.025 for the stated order and the means follow it strictly;
    partly: p <= 0.025 but two neighbours are swapped in the mean; contradicted: p <= 0.025 for the reverse order.
    """

    name: str
    title: str
    order: tuple[str, ...]
    metric: str
    settings: tuple[str, ...] = ()
    lower_is_better: bool = True
    matched: tuple[Match, ...] = ()
    role: Role = "primary"
    published: Published | None = None
    min_seeds: int = 3
    preconditions: tuple[Precondition, ...] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        return self.order

    @property
    def compared(self) -> tuple[str, ...]:
        return self.order


@dataclass(frozen=True, slots=True)
class Computed:
    """A quantity recomputed on the published architecture, exactly, against the paper's figure.

    reproduced: relative difference within ``tolerance``: the rounding of the published figure, or more where the
    figure is measured, rounded further in the text, or derived. Pages show the tolerance beside the difference.
    """

    name: str
    title: str
    quantity: str
    expected: float
    tolerance: float
    unit: str = ""
    role: Role = "primary"
    published: Published | None = None


Comparison = Contrast | Ordering | Computed


@dataclass(frozen=True, slots=True)
class Claim:
    """One falsifiable sentence of a paper.

    Args:
        id: as in the paper's card, ``C1``.
        statement: the sentence, in the paper's sense, with its condition.
        kind: ``quality`` needs training or evaluation, ``behaviour`` is an analysis finding, ``cost`` an accounting.
        published: the paper's figure and where it stands.
        comparisons: how records decide it.
        untested: for a claim or a part of it that cannot be tried here: why. With no comparisons the claim's
            verdict is ``untested``; with some, the text is shown as the part that stays open.
    """

    id: str
    statement: str
    kind: Kind
    published: Published
    comparisons: tuple[Comparison, ...] = ()
    untested: str = ""
    headline: bool = False


@dataclass(frozen=True, slots=True)
class Preset:
    """What a scale runs.

    Args:
        options: configuration overrides for this scale.
        per_setting: further overrides per setting.
        settings: settings run by default at this scale; empty means those marked default.
        arms: per setting, the arms to run; a setting not named runs every arm that a comparison reads there.
        seeds: how many seeds, counted from 0.
        time_limit: seconds for one run.
        memory_limit: bytes of resident memory for one run.
        needs: what the scale needs beyond two cores, for ``repro doctor``.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    per_setting: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    arms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: int = 3
    time_limit: float = 900.0
    memory_limit: int = 6 * 2**30
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """A learning curve released by the authors, drawn behind ours: ``file`` is a CSV beside paper.py."""

    arm: str
    column: str
    title: str


@dataclass(frozen=True, slots=True)
class PublishedCurves:
    """Where the authors' released curves stand and how they map to arms. Facts only; drawn, never judged."""

    file: str
    x: str
    metric: str
    source: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Paper:
    """A paper: facts, arms, settings, claims and presets. Lives in ``papers/<slug>/paper.py`` as ``PAPER``.

    Args:
        config: a dataclass type whose fields, with their types and defaults, are the paper's configuration.
        experiment: dotted name of the function ``run(config, context) -> Outcome``.
        accounting: dotted name of the function ``() -> dict[str, float]`` that recomputes the cost claims at the
            published size; empty where the paper has none.
    """

    slug: str
    title: str
    short: str
    area: str
    arxiv: str
    year: int
    idea: str
    config: type
    arms: tuple[Arm, ...]
    settings: tuple[Setting, ...]
    claims: tuple[Claim, ...]
    presets: Mapping[str, Preset]
    experiment: str
    accounting: str = ""
    venue: str = ""
    code: str = ""
    curves: PublishedCurves | None = None
    departures: tuple[str, ...] = ()
    primary_metric: str = "loss"
    metrics: Mapping[str, str] = field(default_factory=dict)

    @property
    def subtitle(self) -> str:
        """The title without the short name and its colon in front, for where the name stands before it."""
        return self.title.removeprefix(f"{self.short}:").strip()

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises KeyError."""
        return next_named(self.arms, name)

    def setting(self, name: str) -> Setting:
        """The setting of that name. Raises KeyError."""
        return next_named(self.settings, name)

    def claim(self, id: str) -> Claim:
        """The claim of that id. Raises KeyError."""
        for claim in self.claims:
            if claim.id == id:
                return claim
        raise KeyError(id)

    def arms_in(self, setting: str, claims: Sequence[str] = ()) -> tuple[str, ...]:
        """Arms that the comparisons (of ``claims``, or of all) read in a setting, in the paper's order."""
        wanted: set[str] = set()
        for claim in self.claims:
            if claims and claim.id not in claims:
                continue
            for comparison in claim.comparisons:
                if isinstance(comparison, Computed):
                    continue
                if not comparison.settings or setting in comparison.settings:
                    wanted.update(comparison.arms)
        return tuple(arm.name for arm in self.arms if arm.name in wanted)

    def resolve(self, setting: str, arm: str, scale: str, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The full configuration of a run: defaults < setting < preset < preset for the setting < arm < overrides.

        Raises KeyError for an unknown arm, setting or scale and ValueError for an unknown option.
        """
        preset = self.presets[scale]
        values = {f.name: default_of(f) for f in fields(self.config)}
        the_arm = self.arm(arm)
        layers = (
            self.setting(setting).options,
            preset.options,
            preset.per_setting.get(setting, {}),
            the_arm.options,
            the_arm.at.get(scale, {}),
            overrides or {},
        )
        for layer in layers:
            for key, value in layer.items():
                if key not in values:
                    raise ValueError(f"{self.slug}: no option named {key!r}")
                values[key] = value
        return values


def next_named(items: Sequence[Any], name: str) -> Any:
    """The first item whose ``name`` is ``name``. Raises KeyError."""
    for item in items:
        if item.name == name:
            return item
    raise KeyError(name)


def default_of(f: Any) -> Any:
    """The default of a dataclass field. Raises ValueError where it has none: every option needs one."""
    if f.default is not MISSING:
        return f.default
    if f.default_factory is not MISSING:
        return f.default_factory()
    raise ValueError(f"option {f.name!r} has no default")
