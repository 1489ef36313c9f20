"""The bench of adapters: what is shared, what a row is, and that adapters learn their domain."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from repro.evaluation.domain_losses import excess
from repro.models.adapters import AdapterBank
from repro.training.adapter_bench import BenchSpec, adapter_bench, mixed_rows

SPEC = BenchSpec(
    symbols=5, domains=2, others=2, sequence=16, piece=4, layers=2, hidden=16, heads=2, width=32, steps=60, batch=16,
    adapter_steps=60, adapter_batch=16, adapter_lr=4e-2, test=64, seed=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def benches(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        return adapter_bench(SPEC, 20), adapter_bench(replace(SPEC, same=True), 20), adapter_bench(SPEC, 20)


def test_models_are_made_once(benches):
    first, same, again = benches
    assert (first.built, same.built, again.built) == (3, 1, 0)
    assert first.describe() == again.describe()
    assert first.describe()["fingerprint"] != same.describe()["fingerprint"]
    for a, b in zip(first.model.parameters(), same.model.parameters(), strict=True):
        assert torch.equal(a, b)
    path = next(iter(first.adapters[0].factors))
    for mine, other in zip(first.adapters[0].factors[path], same.adapters[0].factors[path], strict=True):
        assert torch.equal(mine, other)
    assert not torch.equal(same.adapters[0].factors[path][1], same.adapters[1].factors[path][1])
    assert first.profile()["bench_train_tokens"] == (60 + 2 * 60) * 16 * 16


def test_an_adapter_is_of_use_in_its_domain_only(benches):
    bench = benches[0]
    bank = AdapterBank(bench.model, bench.adapters)

    def losses(gates):
        with bank.gated(gates):
            return excess(lambda rows: bench.model(rows.inputs).logits, bench.tests["pure"]).domains

    base, *alone = losses(None), losses(bank.one(0)), losses(bank.one(1))
    for own in range(2):
        assert alone[own][own] < base[own]
        assert alone[own][own] < alone[1 - own][own]
    bank.release()


def test_rows_are_pure_and_spliced_by_turns(benches):
    rows = mixed_rows(SPEC, [0, 1], 20, "test")
    changes = (rows.domains[:, 1:] != rows.domains[:, :-1]).sum(1)
    assert (changes[0::2] == 0).all()
    assert (changes[1::2] >= 3).all()
    assert (benches[1].mixed.domains == 0).all()
    assert set(benches[0].tests["pure"].domains[:, 0].tolist()) == {0, 1}
