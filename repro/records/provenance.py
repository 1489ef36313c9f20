"""Where a record comes from: the code that made it, the packages, the machine, the commit."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from repro.data.registry import place_of
from repro.records.definitions import reach

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "torch", "transformers", "datasets", "lm_eval", "numpy", "pandas", "scipy", "scikit-learn", "peft", "triton",
)  # fmt: skip
#: Parts of the library that cannot change what a run computes.
OUTSIDE = (
    "repro.claims", "repro.cli", "repro.runner", "repro.records", "repro.report", "repro.api", "repro.papers",
    "repro.data.registry",
)  # fmt: skip
#: Where a constant that is the name of a data set stands for that data set.
_NAMING = ("papers", "repro.zoo")
#: What of the tree decides a run.
_CODE = ("repro", "papers", "pyproject.toml")


@functools.lru_cache
def code_hash(module: str, root: Path = ROOT, also: tuple[str, ...] = ()) -> str:
    """Hash of a module, of the modules in ``also``, and of every definition of the project that they reach.

    Comments, formatting, docstrings and the places of definitions do not count (`repro.records.definitions`). Decision
    rules, the runner and the command line are left out: they do not change what a run computes. YAML files count with
    the package in whose folder they lie (lm-eval tasks). Data sets are found by name and not by import: `run_code` adds
    the one of a run.

    Raises FileNotFoundError when one of the modules is absent.
    """
    return reach(root, OUTSIDE, _NAMING).hash((name, "") for name in (module, *also))


#: What the runner puts in force on a kind of device, beside what a run imports.
_ON_DEVICE = {"cuda": ("repro.models.dispatch_cuda",)}


@functools.lru_cache
def entry_code(entry: str, data: str = "", device: str = "cpu") -> str:
    """Hash of what a function (its dotted name) reaches, of what the data set of that name does, and of what is in
    force on a kind of device only.

    Raises FileNotFoundError when the function is absent.
    """
    return reach(ROOT, OUTSIDE, _NAMING).hash(_roots(entry, data, device))


def reached(entry: str, data: str = "", device: str = "cpu") -> list[str]:
    """Dotted names of the definitions that `entry_code` is the hash of."""
    return reach(ROOT, OUTSIDE, _NAMING).names(_roots(entry, data, device))


def _roots(entry: str, data: str, device: str) -> list[tuple[str, str]]:
    module, _, function = entry.rpartition(".")
    source = place_of(data)
    return [(module, function), *([source] if source else []), *((name, "") for name in _ON_DEVICE.get(device, ()))]


def run_code(entry: str, config: Mapping[str, Any], device: str = "cpu") -> str:
    """`entry_code` of a run's entry, of the data set its configuration names as ``data``, and of its device."""
    return entry_code(entry, str(config.get("data", "")), device.partition(":")[0])


def earlier_codes(entry: str, data: str = "", device: str = "cpu") -> dict[str, str]:
    """Hashes that records of a run carry from earlier ways to count (whole modules, say), each with the `entry_code` of
    that same code: while it is unchanged, those records are not stale."""
    return _earlier().get(f"{entry} {data}".strip(), {}) if device == "cpu" else {}


@functools.lru_cache
def _earlier() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("earlier_codes.json").read_text())
    return found


def run_key(identity: Mapping[str, Any]) -> str:
    """Content address of a run: hash of everything that determines its result."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_fingerprint(path: Path | str) -> str:
    """First 16 hex digits of the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


@functools.lru_cache
def environment(device: str = "cpu") -> dict[str, Any]:
    """Versions and hardware, as a record carries them. Names no host, user or path.

    A device on which the same run need not give the same bits says so (``repeats``).
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    hardware: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        hardware["threads"] = torch.get_num_threads()
        if device.startswith("cuda") and torch.cuda.is_available():
            hardware["gpu"] = torch.cuda.get_device_name()
            hardware["gpu_memory_gib"] = round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1)
            versions["cuda"] = str(torch.version.cuda)
            if not torch.are_deterministic_algorithms_enabled():
                hardware["repeats"] = "not to the last digit"
    return {"versions": versions, "hardware": hardware}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.lru_cache
def commit() -> dict[str, Any]:
    """Commit of the working tree and whether its code had changes; empty outside a git checkout.

    Records and tables that a run writes are no changes: they do not make the next one suspect.
    """
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, timeout=10)
        state = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", *_CODE],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    if head.returncode:
        return {}
    return {"commit": head.stdout.strip()[:12], "dirty": bool(state.stdout.strip())}
