"""Pretrained models of other people: by hub id, or from a local folder of the same layout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from repro.data.errors import MissingData
from repro.data.hub_probe import locate


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """No progress bars of transformers inside: the runner has its own."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def hub_model(name: str, *, dtype: str = "float32", device: str = "cpu") -> Any:
    """A causal language model of transformers in evaluation mode, from a folder or the hub; no code of its own is run.

    ``name`` may end in ``@`` and a revision of the hub's repository (`repro.data.hub_probe.locate`).
    With several accelerators and ``device="cuda"`` it is spread over them (`accelerate`): the largest do not fit one.

    Raises:
        MissingData: when neither place has it; names the ways to get it.
        ValueError: for a dtype that torch does not have.
    """
    from transformers import AutoModelForCausalLM

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"torch has no dtype {dtype!r}")
    place = locate(name)
    options: dict[str, Any] = {"dtype": kind, "trust_remote_code": False}
    if place.revision:
        options["revision"] = place.commit
    spread = device == "cuda" and torch.cuda.device_count() > 1
    if spread:
        options["device_map"] = "auto"
    try:
        with no_bars():
            model: Any = AutoModelForCausalLM.from_pretrained(place.name, local_files_only=place.local, **options)
    except (OSError, ValueError) as error:
        raise MissingData(
            f"model {name!r} is absent ({place.problem or error}). Ways to get it: let the hub serve it (network, and "
            "for gated models a login, needed once; HF_HUB_OFFLINE=1 then uses the cached copy), or give a local "
            "folder that save_pretrained wrote."
        ) from error
    return (model if spread else model.to(device)).eval()
