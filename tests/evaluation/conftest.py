from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def word_data(tmp_path_factory):
    """A small set of word problems in a cache of its own, with the hub switched off."""
    from repro.data.word_problems import word_problems

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        yield word_problems(128, limit=300, held_out=40)
