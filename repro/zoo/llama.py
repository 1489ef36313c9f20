"""The zoo's base model: a Llama of ten blocks that has read Python's standard library and can recall from context."""

from __future__ import annotations

from typing import Any

from repro.zoo.spec import ZooSpec

TEXT, RECALL = "stdlib-bpe", "recall-stdlib"


def stdlib_llama(seed: int, *, files: int = 0, **changes: Any) -> ZooSpec:
    """Four fifths library source, one fifth key-value recall, checkpoints at every quarter.

    Args:
        files: read that many files of the library only, the tokenizer included; 0: all.
        changes: other fields of the specification. Papers that change none share the model.
    """
    options = {TEXT: {"limit": files}, RECALL: {"files": files}} if files else {}
    values: dict[str, Any] = {
        "name": "stdlib-llama",
        "mixture": ((TEXT, 0.8), (RECALL, 0.2)),
        "data_options": options,
        "checkpoints": (0.25, 0.5, 0.75),
        "seed": seed,
        **changes,
    }
    return ZooSpec(**values)
