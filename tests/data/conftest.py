from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="module")
def module_cache(tmp_path_factory):
    """A cache folder of the test module's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(folder))
        yield folder


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """The hub's client switched off, an empty cache, and no folder of real data."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REPRO_DATA_DIR", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


@pytest.fixture
def real_data():
    """The folder of real data; the test is skipped without one."""
    folder = os.environ.get("REPRO_DATA_DIR")
    if not folder:
        pytest.skip("REPRO_DATA_DIR names no folder of real data")
    return folder
