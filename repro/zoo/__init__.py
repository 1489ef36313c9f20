"""Small language models pretrained here: built once, kept by content, shared by all papers that need one.

    from repro.zoo import obtain, stdlib_llama

    found = obtain(stdlib_llama(seed=0))  # minutes the first time, then at once
    model, tokenizer = found.model(), found.tokenizer()  # transformers' own LlamaForCausalLM
    half_trained = found.model(at=0.5)
    found.describe()  # what a record keeps

Importing this package imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from repro.zoo.spec import ZooSpec

if TYPE_CHECKING:
    from repro.zoo.build import ZooError, ZooModel, obtain
    from repro.zoo.llama import stdlib_llama

_WHERE = {"ZooError": "build", "ZooModel": "build", "obtain": "build", "stdlib_llama": "llama"}
__all__ = ["ZooError", "ZooModel", "ZooSpec", "obtain", "stdlib_llama"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"repro.zoo.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'repro.zoo' has no attribute {name!r}")
