"""Whether the hub has something, asked without waiting long, and at which commit."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, NamedTuple

#: Seconds to wait for the hub before calling it out of reach.
PATIENCE = 4.0
_YES = ("1", "TRUE", "YES", "ON")
_WITH_REVISION = re.compile(r"(\w[\w.-]*(?:/\w[\w.-]*)?)@(.*)")


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


class Place(NamedTuple):
    """Where a model is.

    Attributes:
        name: a folder, or the hub's id.
        revision: the one asked for.
        answer: what the hub says of it; None for a folder.
    """

    name: str
    revision: str | None
    answer: Answer | None

    @property
    def commit(self) -> str | None:
        """What to load: the commit that the hub names, else the revision asked for."""
        return (self.answer and self.answer.commit) or self.revision

    @property
    def local(self) -> bool:
        """Whether nothing but files that are here can be had."""
        return self.answer is None or self.answer.problem is not None

    @property
    def problem(self) -> str | None:
        """Why the hub says nothing."""
        return self.answer and self.answer.problem


def split_revision(name: str) -> tuple[str, str | None]:
    """A hub id that may end in ``@`` and a revision, in its two parts; a path stays whole."""
    found = _WITH_REVISION.fullmatch(name)
    return (found[1], found[2] or None) if found else (name, None)


def locate(name: str) -> Place:
    """A model by folder, or by hub id with or without ``@`` and a revision (commit, tag or branch); asks the hub.

    A run is pinned by a commit. Of tags and branches the hub's cache knows nothing when it is loaded by commit, so that
    without the hub only ``@`` and the commit finds it again.
    """
    if Path(name).expanduser().is_dir():
        return Place(name, None, None)
    hub_id, revision = split_revision(name)
    return Place(hub_id, revision, probe(hub_id, "model", revision))
