"""Published shapes: parameter counts that are known."""

from __future__ import annotations

import pytest
import torch

from repro.profiling.architectures import ARCHITECTURES, on_meta

KNOWN = {
    "tinyllama": 1_100_048_384, "llama-2-7b": 6_738_415_616, "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192, "llama-3.1-8b": 8_030_261_248, "mistral-7b": 7_241_732_096,
    "qwen2-7b": 7_615_616_512, "qwen-2.5-3b": 3_085_938_688,
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_parameters_of_published_models(name):
    model = on_meta(ARCHITECTURES[name], torch.bfloat16, "eager")
    assert sum(p.numel() for p in model.parameters()) == KNOWN[name]
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
