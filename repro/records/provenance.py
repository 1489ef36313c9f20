"""Where a record comes from: the code that made it, the packages, the machine, the commit."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from repro.data.registry import module_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "transformers", "datasets", "lm_eval", "numpy", "pandas", "scipy", "scikit-learn", "peft")
#: Parts of the library that cannot change what a run computes.
_OUTSIDE = (
    "repro.claims", "repro.cli", "repro.runner", "repro.records", "repro.report", "repro.api", "repro.papers",
    "repro.data.registry",
)  # fmt: skip
#: What of the tree decides a run.
_CODE = ("repro", "papers", "pyproject.toml")
#: A paper's facts: only what a run takes out of them (its configuration) counts, so that claims can be edited freely.
_FACTS = re.compile(r"papers\.\w+\.paper\Z")


@functools.lru_cache
def code_hash(module: str, root: Path = ROOT, also: tuple[str, ...] = ()) -> str:
    """Hash of a module, of the modules in ``also``, and of every project module that they import, directly or not.

    Follows the import statements of ``repro`` and ``papers`` without running them, and hashes syntax trees without
    docstrings: comments, formatting and docstrings do not make a record stale, code does. Decision rules, the runner
    and the command line are left out: they do not change what a run computes. Of a ``paper.py`` only the definitions
    count that a module imports from it by name, with what they refer to. YAML files count with the package in whose
    folder they lie (lm-eval tasks). Data sets are found by name and not by import: `run_code` adds the one of a run.

    Raises FileNotFoundError when the module itself is absent.
    """
    seen: dict[str, bytes] = {}
    facts: dict[str, set[str]] = {}
    queue = [module, *also]
    while queue:
        name = queue.pop()
        if name in seen or name in ("repro", "papers") or name.startswith(_OUTSIDE):
            continue
        path = _source(name, root)
        if path is None:
            if name == module:
                raise FileNotFoundError(f"no source of {module} under {root}")
            continue
        tree = ast.parse(path.read_bytes())
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        queue.append(name.rpartition(".")[0])
        for imported, names in _imports(tree, package):
            if names and _FACTS.match(imported):
                facts.setdefault(imported, set()).update(names)
                queue.append(imported.rpartition(".")[0])
            else:
                queue.extend([imported, *(f"{imported}.{n}" for n in names)])
        _strip_docstrings(tree)
        seen[name] = ast.dump(tree).encode()
        if path.name == "__init__.py":
            seen[name] += b"".join(file.read_bytes() for file in sorted(path.parent.glob("*.yaml")))
    for name, wanted in facts.items():
        path = _source(name, root)
        if path is not None and name not in seen:
            seen[name] = _definitions(ast.parse(path.read_bytes()), wanted)
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(name.encode() + b"\0" + seen[name] + b"\0")
    return digest.hexdigest()[:16]


#: What the runner puts in force on a kind of device, beside what a run imports.
_ON_DEVICE = {"cuda": ("repro.models.dispatch_cuda",)}


def run_code(entry: str, config: Mapping[str, Any], device: str = "cpu") -> str:
    """Hash of the code behind a run: that of its entry (a dotted function name), of the data set its configuration
    names as ``data``, and of what is in force on its device only.

    Raises FileNotFoundError when the entry's module is absent.
    """
    source = module_of(str(config.get("data", "")))
    there = _ON_DEVICE.get(device.partition(":")[0], ())
    return code_hash(entry.rpartition(".")[0], also=(*((source,) if source else ()), *there))


def _definitions(tree: ast.Module, wanted: set[str]) -> bytes:
    """The top-level statements that bind the names wanted or what those refer to."""
    _strip_docstrings(tree)
    out, todo = [], set(wanted)
    left = [s for s in tree.body if not isinstance(s, (ast.Import, ast.ImportFrom))]
    while found := [s for s in left if _bound(s) & todo]:
        left = [s for s in left if s not in found]
        out += found
        todo |= {n.id for s in found for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return "\n".join(sorted(ast.dump(s) for s in out)).encode()


def _bound(statement: ast.stmt) -> set[str]:
    if isinstance(statement, (ast.ClassDef, ast.FunctionDef)):
        return {statement.name}
    # names inside comprehensions are their own: only the targets of the statement itself bind
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return {n.id for t in targets if t is not None for n in ast.walk(t) if isinstance(n, ast.Name)}


def _source(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(tree: ast.AST, package: str) -> list[tuple[str, tuple[str, ...]]]:
    """Modules of the project that a module imports, each with the names taken from it."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.extend((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *([base] if base else [])])
            found.append((base, tuple(alias.name for alias in node.names)))
    return [(name, names) for name, names in found if name.split(".")[0] in ("repro", "papers")]


def _strip_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and body:
            first = body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = body[1:]


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
    """Versions and hardware, as a record carries them. Names no host, user or path."""
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
