"""A checkout of its own, with one paper laid down by ``repro new``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repro.papers import ROOT


class Checkout:
    """A copy of the project without its papers, in which commands run."""

    def __init__(self, root: Path):
        self.root = root
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in ("REPRO_RESULTS", "REPRO_SITE", "REPRO_DATA_DIR")},
            "PYTHONPATH": str(root),
        }

    def command(self, *argv: str) -> list[str]:
        return [sys.executable, "-m", *argv]

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*argv), cwd=self.root, env=self.environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "site", "reference")
    for name in ("repro", "leaderboard"):
        shutil.copytree(ROOT / name, root / name, ignore=ignore)
    shutil.copytree(ROOT / "tests" / "contract", root / "tests" / "contract", ignore=ignore)
    (root / "papers").mkdir()
    for name in ("pyproject.toml", "papers/__init__.py"):
        shutil.copy(ROOT / name, root / name)
    return Checkout(root)
