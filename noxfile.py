"""Sessions for people and for CI. All of them share one environment, which is installed once.

nox -l                                          what there is
nox -s reproduce-coe                            the claims of one paper
nox -s reproduce-coe -- --scale smoke --set steps=5
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv-repro"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
STAMP = VENV / "installed"
#: One thread per process: runs are parallel processes, and two threads on small matrices only wait for each other.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
#: Seconds that Ctrl-C leaves a command to put its records down.
PATIENCE = 15.0

nox.needs_version = ">=2024.3.2"
nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "none"


def fingerprint() -> str:
    """What the environment depends on: the declared and pinned packages, the interpreter and this folder."""
    digest = hashlib.sha256(f"{sys.version}\0{sys.executable}\0{ROOT}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update(b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()


def prepare(session: nox.Session) -> None:
    """Install the shared environment, unless it already is what `fingerprint` says."""
    wanted = fingerprint()
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return
    if sys.version_info < (3, 11):  # noqa: UP036 - nox may run on an older one
        session.error(f"Python 3.11 or newer is needed; nox runs on {sys.version.split()[0]}")
    STAMP.unlink(missing_ok=True)
    base = VENV / "python"
    if not base.is_file() or base.read_text() != sys.version:
        shutil.rmtree(VENV, ignore_errors=True)
        session.run_install(sys.executable, "-m", "virtualenv", "--quiet", str(VENV), external=True)
        base.write_text(sys.version)
    session.log("installing once into %s; later starts skip this", VENV.name)
    pip = [str(BIN / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    session.run_install(*pip, "-c", "constraints.txt", "-e", ".[dev]", external=True)
    STAMP.write_text(wanted)


def run(session: nox.Session, *command: str) -> None:
    """Run a Python module with its arguments in the shared environment."""
    prepare(session)
    environment = {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}
    session.run(
        str(BIN / "python"), "-m", *command, env=environment, external=True, log=False, interrupt_timeout=PATIENCE
    )


def title(folder: Path) -> str:
    """First heading of the paper's README, or the folder's name."""
    try:
        lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("# ")), folder.name)


def paper_session(folder: Path) -> None:
    """Register the session of one paper."""
    slug = folder.name.replace("_", "-")

    def reproduce_one(session: nox.Session) -> None:
        run(session, "repro", "run", slug, *session.posargs)

    reproduce_one.__doc__ = f"Run and judge the claims of {title(folder)}."
    named: Callable[..., object] = nox.session(name=f"reproduce-{slug}")
    named(reproduce_one)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; arguments after -- go to pytest."""
    run(session, "pytest", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """The long form of the fault tests: 200 kills at random moments, and as many damaged records."""
    os.environ.setdefault("REPRO_FAULT_ROUNDS", "200")
    run(session, "pytest", "tests/runner/test_faults.py", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """The long form of the fuzz tests, at examples that are drawn anew: records, command line, site."""
    os.environ.setdefault("REPRO_FUZZ_EXAMPLES", "1500")
    run(session, "pytest", "tests/fuzz", *session.posargs)


@nox.session
def reproduce(session: nox.Session) -> None:
    """Run and judge the claims of all papers."""
    run(session, "repro", "run", "all", *session.posargs)


@nox.session
def smoke(session: nox.Session) -> None:
    """Run all papers at smoke scale: seconds each, proves the machinery, gives no verdict."""
    run(session, "repro", "run", "all", "--scale", "smoke", *session.posargs)


@nox.session
def leaderboard(session: nox.Session) -> None:
    """Build the leaderboard page from reference and local records."""
    run(session, "repro", "leaderboard", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    run(session, "ruff", "check", ".")
    run(session, "ruff", "format", "--check", ".")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check types with mypy."""
    run(session, "mypy", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Time the fast paths against transformers and plain references, and the harness."""
    run(session, "repro", "bench", *session.posargs)


@nox.session
def scaling(session: nox.Session) -> None:
    """Measure how many places the executors keep busy, and what 10,000 runs cost; half an hour. Writes docs/."""
    run(session, "repro.bench.scaling", *session.posargs)


@nox.session
def forecast(session: nox.Session) -> None:
    """Simulate the whole suite on 8, 64 and 512 accelerators, from measured run times. Writes docs/."""
    run(session, "repro.bench.forecast", *session.posargs)


for paper in sorted((ROOT / "papers").glob("[a-z]*/paper.py")):
    paper_session(paper.parent)
