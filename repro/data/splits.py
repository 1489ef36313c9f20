"""What data sets of arrays in three splits have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from repro.data.base import epochs, fingerprint

if TYPE_CHECKING:
    from torch import Tensor

Rows = TypeVar("Rows", bound=Any)


class Splits(Generic[Rows]):
    """Base of a data class with these fields, whose splits are named tuples of arrays, one of them ``labels`` [N]."""

    name: str
    train: Rows
    validation: Rows
    test: Rows
    source: str
    details: Mapping[str, Any]
    fingerprint: str

    def __post_init__(self) -> None:
        if not self.fingerprint:
            mark = fingerprint(*self.train, *self.validation, *self.test)
            object.__setattr__(self, "fingerprint", mark)

    def split(self, name: str) -> Rows:
        """By name. Raises ValueError for one that there is not."""
        if name not in ("train", "validation", "test"):
            raise ValueError(f"a split is train, validation or test, not {name!r}")
        return getattr(self, name)

    def train_order(self, steps: int, batch: int, seed: int) -> Tensor:
        """Indices of training rows, LongTensor [steps, batch]: each epoch a fresh shuffle.

        The same for every arm of a seed; a longer order starts with the shorter one.
        """
        return epochs(len(self.train.labels), steps, batch, seed)

    def described(self, **own: Any) -> dict[str, Any]:
        """What a record keeps about its data, with what is the data set's ``own``; JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "train_rows": len(self.train.labels),
            "validation_rows": len(self.validation.labels),
            "held_out_rows": len(self.test.labels),
            **own,
            **self.details,
        }
