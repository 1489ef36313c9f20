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
        hardware = self.environment.get("hardware")
        named = hardware.get("device") if isinstance(hardware, dict) else None
        return (named if isinstance(named, str) else "").partition(":")[0] or "cpu"

    def to_json(self) -> str:
        """One line of strict JSON, keys in the order of the fields, floats to 9 significant digits; sealed anew when it
        has a digest."""
        content = plain(asdict(self))
        if not self.pictures:
            del content["pictures"]
        if "digest" in self.provenance:
            content["provenance"]["digest"] = ""
            content["provenance"]["digest"] = hashlib.sha256(_text(content).encode()).hexdigest()
        return _text(content)

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
        counted = {
            k: v for k, v in self.profile.items()
            if not (clocked(k) or k.startswith("peak_") or k.endswith("_built"))
        }  # fmt: skip
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
        for name, kinds in _PARTS.items():
            for part, value in raw.get(name, {}).items():
                if type(value) not in kinds.get(part, kinds.get("", (type(value),))):
                    raise BadRecord(f"{name}.{part} is {type(value).__name__}")
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
    """All that determines a run's result, whose hash is its key; of a device its kind counts. Numbers are as a record
    spells them, so that the key can be made again from the record."""
    return {
        "schema": SCHEMA, "paper": paper, "setting": setting, "arm": arm, "scale": scale, "seed": seed,
        "config": plain(config), "device": device.partition(":")[0], "code": code,
    }  # fmt: skip


_TYPES: dict[str, type] = {
    **dict.fromkeys(("key", "paper", "setting", "arm", "scale", "status", "code"), str),
    **dict.fromkeys(("seed", "schema"), int),
    **dict.fromkeys(
        ("config", "metrics", "curves", "profile", "data", "tables", "environment", "provenance", "error", "pictures"),
        dict,
    ),
}
#: Types of what is in a field and read by name; ``""`` stands for all of it.
_PARTS: dict[str, dict[str, tuple[type, ...]]] = {
    "environment": {"versions": (dict,), "hardware": (dict,)},
    "provenance": {"wall_s": (int, float), "started": (str,), "commit": (str,), "digest": (str,)},
    "error": {"": (str,)},
}
_REQUIRED = ("key", "paper", "setting", "arm", "scale", "seed", "status", "config", "code", "schema")
assert {f.name for f in fields(Record)} == set(_TYPES)

#: Integers beyond these are floats to most readers of JSON, so that they are written as such.
_LEAST, _MOST = -(2**63), 2**64 - 1
#: What JSON numbers become; bool is another type and does not pass.
_NUMBERS = {int, float}
_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _intact(text: str | bytes, record: Record) -> bool:
    digest = record.provenance["digest"]
    try:
        given = (text.decode() if isinstance(text, bytes) else text).strip()
        # once at most: a quote inside a string is escaped, and no other field can hold the hash of all of them
        head, found, rest = given.partition(f'"digest":"{digest}"')
        if found and hashlib.sha256(f'{head}"digest":""{rest}'.encode()).hexdigest() == digest:
            return True
        # in another layout: the content counts
        return json.loads(record.to_json())["provenance"]["digest"] == digest
    except (ValueError, TypeError):
        return False


def _decode(text: str | bytes) -> Any:
    """Decoded JSON; what only Python's own writer makes (NaN, lone surrogates) is left to Python's reader."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text, parse_int=_whole)


def _whole(digits: str) -> int | float:
    value = float(digits)
    return int(digits) if _LEAST <= value <= _MOST else value


def _wide(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRecord(f"{where}.{name} is {type(value).__name__}, not a number")
    return value


def printable(text: str) -> str:
    """One line that a terminal shows and does not obey: control characters and the like as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain(value: Any) -> Any:
    """The value in JSON's types, as a record spells it. Raises TypeError for what is not plain."""
    if isinstance(value, float):
        if math.isfinite(value):
            return float(f"{value:.9g}")
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, str):
        # halves of characters (of file names in messages, say) cannot be written
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {plain(str(k)): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if _LEAST <= value <= _MOST else plain(_wide(value))
    if hasattr(value, "item"):
        return plain(value.item())
    raise TypeError(f"a record holds plain values, not {type(value).__name__}")
