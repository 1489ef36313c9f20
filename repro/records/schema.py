"""What a run leaves. A record is JSON, immutable, and carries the pedigree of every number in it.

Numbers that JSON lacks are written as the strings ``"nan"``, ``"inf"`` and ``"-inf"``. A record whose provenance has a
``digest`` is sealed: written with the SHA-256 of its own text (the digest left empty), so that a flipped bit or an
edited number is noticed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import orjson

SCHEMA = 1
#: Kinds of pictures, with their media types.
PICTURES = {"png": "image/png", "svg": "image/svg+xml"}
STATUSES = ("ok", "diverged", "failed", "timeout", "memory")


class BadRecord(ValueError):
    """A record that cannot be read: not JSON, truncated, of another schema version, or malformed."""


@dataclass(frozen=True, slots=True)
class Record:
    """One finished run.

    Attributes:
        key: content address of the run: hash of code, configuration, paper, setting, arm, scale, seed and device.
        status: ``ok``, ``diverged`` (a loss that is not finite), ``failed``, ``timeout`` or ``memory``.
        config: the full configuration as resolved.
        code: hash of the code that made the record (see `repro.records.provenance.code_hash`).
        metrics: final scalars; what comparisons read.
        curves: series over training: ``{name: {"x": [...], "y": [...], "of": "step"}}``.
        profile: measured or counted per run with one profiler for all arms: ``train_tokens``, ``params_total``,
            ``params_active``, ``train_flops``, ``peak_memory_bytes``, ``wall_s``... What matching is audited on.
        data: name, kind and fingerprint of the data read.
        tables: small arrays for the page (co-activation matrices and the like).
        pictures: what a reader looks at rather than reads, by name: ``kind`` (``png`` or ``svg``), ``text`` (what it
            shows, in words) and ``data`` (base64). Absent in the text of a record that has none.
        environment: package versions and hardware.
        provenance: commit, whether the tree was dirty, start (UTC), wall time in seconds.
        error: type, message and traceback when the run did not end well.
    """

    key: str
    paper: str
    setting: str
    arm: str
    scale: str
    seed: int
    status: str
    config: dict[str, Any]
    code: str
    metrics: dict[str, float] = field(default_factory=dict)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    profile: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA
    pictures: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def device_kind(self) -> str:
        """``cpu`` or ``cuda``, without the number of the device; ``cpu`` where the record does not say."""
        return str(self.environment.get("hardware", {}).get("device", "cpu")).partition(":")[0]

    def to_json(self) -> str:
        """One line of strict JSON, keys in the order of the fields, floats to 9 significant digits; sealed anew when it
        has a digest."""
        content = plain(asdict(self))
        if not self.pictures:
            del content["pictures"]
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return _seal(text) if "digest" in self.provenance else text

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """The record in ``text``. Raises BadRecord, also for one whose seal is broken."""
        try:
            raw = _decode(text)
        except (ValueError, RecursionError) as error:
            raise BadRecord(f"not JSON: {error}") from None
        record = cls.from_dict(raw)
        if "digest" in record.provenance and not _intact(text, record):
            raise BadRecord("its content is not what its digest says: damaged or edited")
        return record

    @property
    def identity(self) -> dict[str, Any]:
        """All that determines a run's result; `key` is its hash."""
        return identity(
            self.paper, self.setting, self.arm, self.scale, self.seed, self.config, self.device_kind, self.code
        )

    @property
    def results(self) -> dict[str, Any]:
        """What the run found, as JSON has it: the same again wherever the run is a pure function. Timings are not among
        it."""
        metrics = {name: value for name, value in self.metrics.items() if not clocked(name)}
        return plain({"status": self.status, "metrics": metrics, "curves": self.curves, "tables": self.tables})

    @property
    def counts(self) -> dict[str, float]:
        """What was counted for the audit of fairness, without what was timed, read off the machine's memory, or tells
        which of several runs built what they share."""
        chance = ("peak_", "zoo_built")
        counted = {k: v for k, v in self.profile.items() if not clocked(k) and not k.startswith(chance)}
        return dict(plain(counted))

    @property
    def read(self) -> dict[str, Any]:
        """What data and model the run read. Without the model's address in the cache, which is made of its code."""
        return {k: v for k, v in self.data.items() if k != "model_key"}

    @classmethod
    def from_dict(cls, raw: Any) -> Record:
        """The record in a decoded JSON object. Raises BadRecord."""
        if not isinstance(raw, dict):
            raise BadRecord("not a JSON object")
        if raw.get("schema") != SCHEMA:
            raise BadRecord(f"schema {raw.get('schema')!r}, this version reads {SCHEMA}")
        unknown = raw.keys() - _TYPES.keys()
        if unknown:
            raise BadRecord(f"unknown field {sorted(unknown)[0]!r}")
        for name, kind in _TYPES.items():
            if type(raw.get(name)) is kind:
                continue
            if name not in raw:
                if name in _REQUIRED:
                    raise BadRecord(f"field {name!r} is missing")
                continue
            if not isinstance(raw[name], kind) or isinstance(raw[name], bool):
                raise BadRecord(f"field {name!r} is {type(raw[name]).__name__}, not {kind.__name__}")
        if raw["status"] not in STATUSES:
            raise BadRecord(f"status {raw['status']!r}")
        for name in ("metrics", "profile"):
            values = raw.setdefault(name, {})
            if not set(map(type, values.values())) <= _NUMBERS:
                raw[name] = {k: _number(name, k, v) for k, v in values.items()}
        for name, curve in raw.get("curves", {}).items():
            if not isinstance(curve, dict) or not all(isinstance(curve.get(axis), list) for axis in "xy"):
                raise BadRecord(f"curve {name!r} has no x and y lists")
            if len(curve["x"]) != len(curve["y"]):
                raise BadRecord(f"curve {name!r} has {len(curve['x'])} x and {len(curve['y'])} y")
            for axis in "xy":
                if not set(map(type, curve[axis])) <= _NUMBERS:
                    curve[axis] = [_number("curves", name, v) for v in curve[axis]]
        for name, picture in raw.get("pictures", {}).items():
            parts = picture.items() if isinstance(picture, dict) else ()
            if {k for k, v in parts if isinstance(v, str)} != {"kind", "text", "data"} or picture[
                "kind"
            ] not in PICTURES:
                raise BadRecord(f"picture {name!r} is none of {', '.join(PICTURES)} with a text and data")
        return cls(**raw)


def clocked(name: str) -> bool:
    """Whether a clock decides a metric: it has ``time``, ``s`` or ``seconds`` as a word of its name."""
    return not {"time", "s", "seconds"}.isdisjoint(name.split("_"))


def identity(
    paper: str, setting: str, arm: str, scale: str, seed: int, config: dict[str, Any], device: str, code: str
) -> dict[str, Any]:
    """All that determines a run's result, whose hash is its key; of a device its kind counts."""
    return {
        "schema": SCHEMA, "paper": paper, "setting": setting, "arm": arm, "scale": scale, "seed": seed,
        "config": config, "device": device.partition(":")[0], "code": code,
    }  # fmt: skip


_TYPES: dict[str, type] = {
    **dict.fromkeys(("key", "paper", "setting", "arm", "scale", "status", "code"), str),
    **dict.fromkeys(("seed", "schema"), int),
    **dict.fromkeys(
        ("config", "metrics", "curves", "profile", "data", "tables", "environment", "provenance", "error", "pictures"),
        dict,
    ),
}
_REQUIRED = ("key", "paper", "setting", "arm", "scale", "seed", "status", "config", "code", "schema")
assert {f.name for f in fields(Record)} == set(_TYPES)

#: What JSON numbers become; bool is another type and does not pass.
_NUMBERS = {int, float}
_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


_DIGEST = '"digest":"'


def _seal(text: str) -> str:
    # the last one: of what follows the provenance nothing has such a name, and a quote inside a string is escaped
    head, mark, tail = text.rpartition(_DIGEST)
    rest = tail[tail.find('"') :]
    return head + mark + hashlib.sha256(f"{head}{mark}{rest}".encode()).hexdigest() + rest


def _intact(text: str | bytes, record: Record) -> bool:
    try:
        given = (text.decode() if isinstance(text, bytes) else text).strip()
        if _DIGEST in given and _seal(given) == given:
            return True
        # in another layout: the content counts
        return json.loads(record.to_json())["provenance"]["digest"] == record.provenance["digest"]
    except (ValueError, TypeError):
        return False


def _decode(text: str | bytes) -> Any:
    """Decoded JSON; what only Python's own writer makes (NaN, lone surrogates) is left to Python's reader."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRecord(f"{where}.{name} is {type(value).__name__}, not a number")
    return value


def plain(value: Any) -> Any:
    """The value in JSON's types, as a record spells it. Raises TypeError for what is not plain."""
    if isinstance(value, float):
        if math.isfinite(value):
            return float(f"{value:.9g}")
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"a record holds plain values, not {type(value).__name__}")
