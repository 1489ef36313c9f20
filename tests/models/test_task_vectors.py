"""Task vectors and merging: TIES against peft's, and the invariants of the others."""

from __future__ import annotations

import pytest
import torch
from peft.utils.merge_utils import ties as peft_ties

from repro.models.task_vectors import (
    apply,
    average,
    choose_tall_masks,
    consensus_mask,
    elect,
    flatten,
    l1_norm,
    masked,
    tall_mask,
    task_vector,
    ties,
    total,
    trim,
    unflatten,
)


def vectors(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"b.w": torch.randn(4, 5, generator=generator), "a": torch.randn(7, generator=generator)} for _ in range(count)
    ]


def equal(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance)


# --- arithmetic -----------------------------------------------------------------------------------------------


def test_a_task_vector_takes_base_to_tuned():
    base, tuned = ({"w": torch.randn(3), "steps": torch.tensor(k), "h": torch.randn(2).half()} for k in (1, 9))
    found = task_vector(tuned, base)
    assert set(found) == {"w", "h"}
    assert found["h"].dtype == torch.float32
    back = apply(base, found)
    torch.testing.assert_close(back["w"], tuned["w"])
    assert back["h"].dtype == torch.float16
    assert back["steps"] == 1
    equal(apply(base, found, 0.0), base)
    with pytest.raises(KeyError, match="nope"):
        apply(base, {"nope": torch.ones(1)})


@pytest.mark.parametrize(
    "other", [{"w": torch.ones(2)}, {"v": torch.ones(3)}, {"w": torch.ones(3), "v": torch.ones(1)}]
)
def test_states_that_differ_are_errors(other):
    base = {"w": torch.ones(3)}
    for function in (lambda: task_vector(other, base), lambda: total([base, other]), lambda: ties([base, other])):
        with pytest.raises(ValueError, match="differ in names or shapes"):
            function()
    with pytest.raises(ValueError, match="no state"):
        total([])


def test_sum_and_average():
    taus = vectors()
    equal(total(taus), {n: taus[0][n] + taus[1][n] + taus[2][n] for n in taus[0]})
    equal(average(taus), {n: v / 3 for n, v in total(taus).items()})
    equal(average([taus[0]] * 4), taus[0])
    assert l1_norm({"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([[-0.5]])}) == 3.5


def test_flatten_goes_by_name_and_back():
    tau = vectors()[0]
    row = flatten(tau)
    assert torch.equal(row[:7], tau["a"])
    equal(unflatten(row, tau), tau, rtol=0, atol=0)
    with pytest.raises(ValueError, match="27"):
        unflatten(row[:5], tau)


# --- TIES -----------------------------------------------------------------------------------------------------


def test_ties_by_hand():
    rows = [{"w": torch.tensor([1.0, -2.0, 0.1])}, {"w": torch.tensor([0.5, 3.0, 0.0])}]
    torch.testing.assert_close(ties(rows, keep=1.0)["w"], torch.tensor([0.75, 3.0, 0.1]))
    torch.testing.assert_close(ties(rows, keep=1.0, merge="sum")["w"], torch.tensor([1.5, 3.0, 0.1]))
    with pytest.raises(ValueError, match="merge is"):
        ties(rows, merge="max")


@pytest.mark.parametrize("seed", range(4))
def test_ties_is_peft_s_when_nothing_is_trimmed(seed):
    taus = vectors(4, seed)
    flat = [flatten(t) for t in taus]
    with pytest.warns(UserWarning, match="no pruning"):
        expected = peft_ties(flat, torch.ones(4), 1.0)
    torch.testing.assert_close(flatten(ties(taus, keep=1.0)), expected)


@pytest.mark.parametrize("seed", range(4))
def test_ties_is_peft_s_with_one_entry_fewer_kept(seed):
    """The authors' code keeps the k-th smallest magnitude too: of 27 entries int(27 * 0.5) + 1 = 14 here."""
    taus = vectors(3, seed)
    flat = [flatten(t) for t in taus]
    assert [int((trim(row, 0.5) != 0).sum()) for row in flat] == [14] * 3
    expected = peft_ties(flat, torch.ones(3), 14.5 / 27)
    torch.testing.assert_close(flatten(ties(taus, keep=0.5)), expected)


def test_trim_keeps_the_largest():
    row = torch.tensor([0.1, -5.0, 2.0, 0.3, -0.2, 4.0, 1.0, 0.0, 3.0, -0.4])
    assert trim(row, 0.2).nonzero().flatten().tolist() == [1, 5, 8]
    assert torch.equal(trim(row, 1.0), row)
    for share in (0.0, 0.05, 1.2):
        with pytest.raises(ValueError, match="cannot keep"):
            trim(row, share)


def test_columns_without_a_sign_take_the_majority_s():
    rows = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -2.0], [0.5, 0.0, -1.0]])
    assert elect(torch.cat((rows, -torch.ones(3, 2)), 1)).tolist() == [1, -1, -1, -1, -1]
    assert elect(torch.cat((rows, torch.ones(3, 2)), 1)).tolist() == [1, 1, -1, 1, 1]


# --- TALL masks and consensus ---------------------------------------------------------------------------------


def test_a_lone_task_needs_everything():
    (tau,) = vectors(1)
    mask = tall_mask(tau, total([tau]), 0.4)
    assert all(m.all() for m in mask.values())
    equal(masked(tau, mask), tau)


def test_masks_by_hand():
    tau, merged = {"w": torch.tensor([1.0, 1.0, 0.0, -1.0])}, {"w": torch.tensor([1.5, 6.0, 2.0, -2.0])}
    assert tall_mask(tau, merged, 0.5)["w"].tolist() == [True, False, False, True]
    assert tall_mask(tau, merged, 0.1)["w"].tolist() == [True, True, False, True]
    assert tall_mask(tau, merged, 1.0)["w"].tolist() == [True, False, False, False]


def test_consensus_counts_tasks():
    masks = [{"w": torch.tensor(m)} for m in ([True, True, False], [True, False, False], [True, True, False])]
    assert consensus_mask(masks, 2)["w"].tolist() == [True, True, False]
    assert consensus_mask(masks, 3)["w"].tolist() == [True, False, False]
    assert consensus_mask(masks, 0)["w"].all()
    assert not consensus_mask(masks, 4)["w"].any()


def test_masks_are_chosen_per_task_the_first_of_equals():
    taus = vectors(2)
    merged = total(taus)
    asked = []

    def accuracy(task, vector):
        asked.append(task)
        kept = float(sum((v != 0).sum() for v in vector.values()))
        return -kept if task == 0 else 1.0

    chosen = choose_tall_masks(taus, merged, accuracy, (0.2, 0.6))
    assert asked == [0, 0, 1, 1]
    equal(chosen[0], tall_mask(taus[0], merged, 0.6))
    equal(chosen[1], tall_mask(taus[1], merged, 0.2))
