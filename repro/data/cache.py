"""A folder of finished data sets, addressed by what made them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.records.provenance import code_hash, run_key

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Folder for everything that can be made again: ``REPRO_CACHE``, else ``~/.cache/repro``. May not exist yet."""
    return Path(os.environ.get("REPRO_CACHE") or Path.home() / ".cache" / "repro").expanduser()


def cached(name: str, identity: Mapping[str, Any], module: str, build: Callable[[], Dataset]) -> Dataset:
    """The data set that ``build`` returns, kept as Arrow and read back memory-mapped the next time.

    The address is the hash of ``identity`` (JSON), of the code of ``module`` and of what it imports here: an edited
    generator never reads what its earlier version wrote. Several processes may build at the same time; one wins.
    """
    from datasets import Dataset, load_from_disk

    def read() -> Dataset:
        found = load_from_disk(str(place))
        assert isinstance(found, Dataset)
        return found

    key = run_key({"identity": identity, "code": code_hash(module)})
    place = cache_dir() / "data" / f"{name}-{key}"
    if place.is_dir():
        try:
            return read()
        except Exception as error:  # a damaged cache is no reason to fail: it can be made again
            log.warning("cached data set %s is damaged (%s): building it again", place.name, error)
            shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=place.parent))
    try:
        with quiet():
            build().save_to_disk(str(work), num_shards=1)
        (work / "identity.json").write_text(json.dumps(dict(identity), indent=1, sort_keys=True))
        try:
            work.rename(place)
        except OSError:
            if not place.is_dir():
                raise
        return read()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def column(table: Dataset, name: str) -> np.ndarray:
    """A column of numbers, or of lists of numbers put one after another, as one array."""
    import numpy as np

    chunks = table.data.column(name).chunks
    flat = [chunk.flatten() if hasattr(chunk, "flatten") else chunk for chunk in chunks]
    return np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in flat])


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of ``datasets`` inside: the runner has its own."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()
