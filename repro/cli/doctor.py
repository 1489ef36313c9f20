"""``repro doctor``: what this machine has, and what each scale would need."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

from repro import papers
from repro.claims import SCALES, Preset

PACKAGES = (
    "torch", "transformers", "datasets", "lm_eval", "accelerate", "peft", "ray", "numpy", "pandas", "scipy", "altair",
    "playwright",
)  # fmt: skip


def doctor() -> int:
    """Print it."""
    from tabulate import tabulate

    print("This machine\n")
    print(tabulate([*machine(), *accelerators(), *places()], tablefmt="plain"))
    print("\nPackages\n")
    print(tabulate([(name, version(name)) for name in PACKAGES], tablefmt="plain"))
    print("\nReal data (REPRO_DATA_DIR)\n")
    print("\n".join(f"  {line}" for line in real_data()))
    print("\nWhat the scales need\n")
    headers = ("paper", "scale", "runs by default", "one run at most", "memory", "beyond two cores")
    print(tabulate(needs(), headers=headers, maxcolwidths=[None, None, None, None, None, 60]))
    return 0


def machine() -> list[tuple[str, str]]:
    """Python, cores and memory."""
    rows = [("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows.append(("cores", f"{usable} usable, {os.cpu_count()} in all"))
    try:
        import psutil

        memory = psutil.virtual_memory()
        rows.append(("memory", f"{memory.available / 2**30:.1f} GiB free of {memory.total / 2**30:.1f} GiB"))
    except ImportError:
        rows.append(("memory", "unknown: psutil is not installed"))
    return rows


def accelerators() -> list[tuple[str, str]]:
    """GPUs as torch sees them; never fails."""
    try:
        import torch

        if not torch.cuda.is_available():
            return [("gpu", f"none that torch {torch.__version__} can use")]
        out = []
        for i in range(torch.cuda.device_count()):
            found = torch.cuda.get_device_properties(i)
            out.append(("gpu", f"{found.name}, {found.total_memory / 2**30:.0f} GiB (cuda {torch.version.cuda})"))
        return out
    except Exception as error:  # a broken driver must not keep the doctor from reporting the rest
        return [("gpu", f"unknown: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")]


def places() -> list[tuple[str, str]]:
    """Where things are kept and how much room there is."""
    cache = Path(os.environ.get("REPRO_CACHE") or Path.home() / ".cache" / "repro")
    return [
        ("records", f"{Path(os.environ.get('REPRO_RESULTS', 'results')) / 'records'} ({_free(Path.cwd())} free)"),
        ("cache", f"{cache} ({_free(cache)} free)"),
    ]


def version(package: str) -> str:
    """Installed version, or that there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def real_data() -> list[str]:
    """What the folder of real data holds, a line each."""
    named = os.environ.get("REPRO_DATA_DIR")
    if not named:
        return ["not set; papers run on generated and bundled data, real data would come from the hub"]
    folder = Path(named).expanduser()
    if not folder.is_dir():
        return [f"{named}: no such folder"]
    found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [f"{p.name}: {_size(p)}" for p in found] or [f"{named}: empty"]


def needs() -> list[tuple[str, ...]]:
    """Per paper and scale: number of runs, limits, and what else it takes."""
    rows: list[tuple[str, ...]] = []
    for paper in papers.load_all()[0]:
        for scale in SCALES:
            preset = paper.presets.get(scale)
            if preset is not None:
                settings = preset.settings or tuple(s.name for s in paper.settings if s.default)
                cells = sum(len(preset.arms.get(s, paper.arms_in(s))) for s in settings)
                rows.append((paper.slug.replace("_", "-"), scale, str(cells * preset.seeds), *_limits(preset)))
    return rows


def _limits(preset: Preset) -> tuple[str, str, str]:
    return f"{preset.time_limit:g} s", f"{preset.memory_limit / 2**30:g} GiB", preset.needs or "nothing"


def _free(path: Path) -> str:
    while not path.exists():
        path = path.parent
    return f"{shutil.disk_usage(path).free / 2**30:.0f} GiB"


def _size(folder: Path) -> str:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return f"{len(files)} files, {sum(p.stat().st_size for p in files) / 2**20:.1f} MiB"
