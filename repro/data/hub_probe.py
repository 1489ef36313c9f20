"""Whether the hub has something, asked without waiting long."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

#: Seconds to wait for the hub before calling it out of reach.
PATIENCE = 4.0
_YES = ("1", "TRUE", "YES", "ON")


class Answer(NamedTuple):
    """What the hub says about a repository: the commit of the revision, or why it says nothing."""

    commit: str | None
    problem: str | None
    offline: bool


def probe(hub_id: str, kind: Literal["dataset", "model"] = "dataset", revision: str | None = None) -> Answer:
    """Ask the hub for ``hub_id``; waits no longer than about `PATIENCE` seconds, and not at all when the hub's client
    is switched off (``HF_HUB_OFFLINE``, ``HF_DATASETS_OFFLINE``)."""
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE or (kind == "dataset" and os.environ.get("HF_DATASETS_OFFLINE", "0").upper() in _YES):
        return Answer(None, "the hub's client is offline and holds no copy", True)
    try:
        info = HfApi().repo_info(hub_id, repo_type=kind, revision=revision, timeout=PATIENCE)
    except Exception as error:  # every way in which a network can fail
        return Answer(None, f"{type(error).__name__} from the hub", False)
    return Answer(info.sha, None, False)
