"""One training on several processes, and one that is taken up again."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from repro.data.base import IGNORED, Batch
from repro.training.distributed import CannotShare, blocks, share
from repro.training.parallel import launch
from repro.training.resume import FACTS, STATE, CannotKeep, Checkpoints
from tests.training import distributed_jobs as jobs

#: Relative difference of losses; float32 sums in another order, over a dozen steps.
CLOSE = 1e-6
#: Absolute difference of weights: AdamW moves one by up to the learning rate, 1e-2, whatever its gradient's size.
NEAR = 1e-5
CASES = {
    "ddp": {"strategy": "ddp"},
    "fsdp": {"strategy": "fsdp"},
    "ddp, padded rows in three passes": {"strategy": "ddp", "accumulate": 3, "padded": True},
    "fsdp, padded rows in three passes": {"strategy": "fsdp", "accumulate": 3, "padded": True},
    "ddp, balance over exchanged counts": {"strategy": "ddp", "exchanged": True},
    "fsdp, balance over exchanged counts": {"strategy": "fsdp", "exchanged": True},
    "ddp, balance over the batch": {"strategy": "ddp", "whole": True},
    "fsdp, balance over the batch": {"strategy": "fsdp", "whole": True},
    "ddp, frozen on the way": {"strategy": "ddp", "freeze": 5},
}


@pytest.fixture(scope="module")
def alone():
    return dict(zip(CASES, [jobs.run(**case) for case in CASES.values()], strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def shared(folder):
    """Processes to what each of them found, by case; of two processes also what they did when they were stopped."""
    found = {}
    for processes in (2, 4):
        cases = dict(CASES)
        for strategy in ("ddp", "fsdp") if processes == 2 else ():
            kept = {"strategy": strategy, "folder": str(folder / strategy), "every": 5}
            cases |= {f"{strategy}, stopped": {**kept, "stop": 7}, f"{strategy}, taken up": kept}
        ranks = launch(jobs.each, processes, *cases.values())
        found[processes] = [dict(zip(cases, rank, strict=True)) for rank in ranks]
    return found


@pytest.mark.slow
def test_exchanged_counts_make_a_difference(alone):
    """What the cases hold together is not the same loss under three names."""
    whole, exchanged, each = (alone[f"ddp{of}"]["loss"] for of in (
        ", balance over the batch", ", balance over exchanged counts", ""
    ))  # fmt: skip
    assert exchanged == pytest.approx(whole, rel=CLOSE)
    assert exchanged != pytest.approx(each, rel=10 * CLOSE)


def same(found, expected, tolerance=CLOSE):
    assert found["loss"] == pytest.approx(expected["loss"], rel=tolerance)
    assert found["train_loss"] == pytest.approx(expected["train_loss"], rel=tolerance)
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], weight, rtol=0, atol=NEAR)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", list(CASES)[:6])
def test_several_processes_take_the_steps_of_one(alone, shared, case, processes):
    expected = alone[case]
    assert expected["loss"][-1] < expected["loss"][0] - 0.1
    for rank in shared[processes]:
        found = rank[case]
        same(found, expected)
        assert found["loss"] == shared[processes][0][case]["loss"]
        # what is left is an ordinary model with the weights that were measured
        assert found["kinds"] == expected["kinds"]
        assert found["again"] == found["loss"][-1]


@pytest.mark.slow
def test_shards_are_shards(alone, shared):
    whole = alone["ddp"]["held"][0]
    for processes, ranks in shared.items():
        assert {rank["ddp"]["held"][0] for rank in ranks} == {whole}
        parts = [rank["fsdp"]["held"][0] for rank in ranks]
        assert sum(parts) == whole
        assert max(parts) < 1.2 * whole / processes


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_loss_over_the_whole_batch_is_refused(shared, strategy):
    for ranks in shared.values():
        for rank in ranks:
            assert rank[f"{strategy}, balance over the batch"].startswith("CannotShare: the auxiliary loss of a batch")


@pytest.mark.slow
def test_freezing_between_steps_is_refused(shared):
    for ranks in shared.values():
        assert all(rank["ddp, frozen on the way"].startswith("CannotShare: parameters are frozen") for rank in ranks)


def test_shares_are_the_rows_in_order():
    batch = jobs.batches(1, padded=True)[0]
    parts = [share(batch, rank, 4) for rank in range(4)]
    for whole, *rows in zip(batch, *(p.batch for p in parts), strict=True):
        assert torch.equal(torch.cat(rows), whole)
    counts = [p.batch.tokens for p in parts]
    assert len(set(counts)) > 1
    assert [p.weight * batch.tokens for p in parts] == pytest.approx([4 * c for c in counts])
    assert torch.equal(share(torch.arange(6), 1, 3).batch, torch.tensor([2, 3]))
    plain = share((torch.arange(4), torch.zeros(4, 2)), 0, 2)
    assert type(plain.batch) is tuple
    assert plain.weight == 1.0


def test_what_has_no_equal_shares_is_refused():
    with pytest.raises(CannotShare, match="6 rows of a batch do not divide between 4"):
        share(torch.zeros(6, 2), 0, 4)
    with pytest.raises(CannotShare, match="different numbers of rows"):
        share((torch.zeros(4), torch.zeros(2)), 0, 2)
    with pytest.raises(CannotShare, match="a dict has no rows"):
        share({}, 0, 2)
    ids = torch.zeros(4, 3, dtype=torch.long)
    targets = ids.clone()
    targets[:2] = IGNORED
    with pytest.raises(CannotShare, match="no target that counts"):
        share(Batch(ids, targets, ids), 1, 2)


def test_blocks_are_the_members_of_the_outermost_lists():
    assert blocks(jobs.Tiny()) == ["Block"]
    assert blocks(nn.ModuleList([nn.Linear(1, 1), nn.Sequential(nn.ModuleList([jobs.Block()]))])) == ["Sequential"]


def equal(found, expected):
    for name in ("loss", "train_loss", "seen", "again"):
        assert found[name] == expected[name]
    assert found["counted"][0] == expected["counted"][0]
    assert torch.equal(found["counted"][1], expected["counted"][1])
    for name, weight in expected["weights"].items():
        assert torch.equal(found["weights"][name], weight), name


@pytest.mark.parametrize("every", [0, 1, 5])
def test_a_training_taken_up_has_the_bits_of_one_that_went_through(tmp_path, every):
    torch.manual_seed(1)
    expected = jobs.run(dropout=0.2)
    torch.manual_seed(1)
    with pytest.raises(jobs.Stop):
        jobs.run(dropout=0.2, folder=str(tmp_path), every=every, stop=7)
    torch.manual_seed(2)
    found = jobs.run(dropout=0.2, folder=str(tmp_path), every=every)
    assert len(found["held"]) == {0: 6, 1: 5, 5: 7}[every]
    equal(found, expected)


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    torch.manual_seed(1)
    expected = jobs.run(dropout=0.2)
    for damage in ("cut", "flipped facts", "gone"):
        folder = tmp_path / damage
        torch.manual_seed(1)
        with pytest.raises(jobs.Stop):
            jobs.run(dropout=0.2, folder=str(folder), stop=9)
        kept = sorted((folder / "training-0").iterdir())
        assert [k.name for k in kept] == ["000000006", "000000009"]
        if damage == "cut":
            content = (kept[1] / STATE).read_bytes()
            (kept[1] / STATE).write_bytes(content[: len(content) // 2])
        elif damage == "gone":
            (kept[1] / FACTS).unlink()
        else:
            (kept[1] / FACTS).write_text("{")
        found = jobs.run(dropout=0.2, folder=str(folder))
        assert len(found["held"]) == 6
        equal(found, expected)


def test_a_checkpoint_of_another_torch_is_not_taken_up(tmp_path):
    with pytest.raises(jobs.Stop):
        jobs.run(folder=str(tmp_path), stop=9)
    for path in tmp_path.glob(f"*/*/{FACTS}"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"torch": "1.0"}))
    assert len(jobs.run(folder=str(tmp_path))["held"]) == 12


def test_the_nth_training_of_a_run_is_taken_up_by_the_nth(tmp_path):
    model, optimizer = nn.Linear(1, 1), torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    keep = Checkpoints(tmp_path)
    assert [keep.begin(model, optimizer, {}) for _ in range(2)] == [0, 0]
    assert keep.place == tmp_path / "training-1"


def test_a_training_with_an_unknown_state_is_not_kept(tmp_path):
    model = nn.Linear(1, 1)
    with pytest.raises(CannotKeep, match="before_step"):
        Checkpoints(tmp_path).begin(model, torch.optim.AdamW(model.parameters()), None)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_shared_trainings_are_taken_up_whole(alone, shared, folder, strategy):
    for rank in shared[2]:
        assert rank[f"{strategy}, stopped"] == "Stop: "
        assert len(rank[f"{strategy}, taken up"]["held"]) == 7
        same(rank[f"{strategy}, taken up"], alone[strategy])
    # and by another number of processes
    newest = sorted((folder / strategy / "training-0").iterdir())[-1]
    assert json.loads((newest / FACTS).read_text())["step"] == 10
    found = jobs.run(folder=str(folder / strategy), every=5)
    assert len(found["held"]) == 2
    same(found, alone[strategy])
