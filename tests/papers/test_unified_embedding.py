"""Unified Embedding: against plain embeddings, against its own algebra, and its collisions against theory."""

from __future__ import annotations

import math
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from papers.unified_embedding.method import (
    SingleLayer,
    UnifiedEmbedding,
    codes_of_values,
    expected_collisions,
    gradient_parts,
    measured_collisions,
    pairwise_angles,
)
from papers.unified_embedding.paper import EQUAL, PAPER, Config
from repro.data.click_logs import AVAZU_SIZES, CRITEO_SIZES
from repro.models.dcn import ClickModel
from repro.models.feature_tables import FeatureTables, proportional_rows

SIZES = (40, 30, 8, 2)


def batch(rows=64, sizes=SIZES, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(n, (rows,), generator=generator) for n in sizes], -1)


def with_codes(embedding, codes):
    """An embedding that looks up given codes."""
    embedding.codes = lambda ids: codes(ids)
    return embedding


# --- parity and invariants ------------------------------------------------------------------------------------------


def test_with_an_injective_code_map_it_is_collisionless_bit_for_bit():
    whole = FeatureTables(SIZES, 5)
    shared = UnifiedEmbedding([1] * len(SIZES), sum(SIZES), 5)
    offsets = torch.tensor([0, 40, 70, 78])
    with_codes(shared, lambda ids: ids + offsets)
    shared.embedding.load_state_dict(whole.embedding.state_dict())
    assert torch.equal(shared(batch()), whole(batch()))


def test_one_feature_is_the_hash_trick():
    shared, table = UnifiedEmbedding([1], 7, 3, seed=4), FeatureTables([50], 3, [7], seed=4)
    ids = torch.arange(50)[:, None]
    # the salts are named differently, (0, 0) and 0: with the same words the two are one
    table.hash.load_state_dict(shared.hash.state_dict())
    table.embedding.load_state_dict(shared.embedding.state_dict())
    assert torch.equal(shared.codes(ids), table.codes(ids))
    assert torch.equal(shared(ids), table(ids))


@pytest.mark.parametrize("chunks", [[1, 1, 1, 1], [2, 1, 3, 1]])
def test_outputs_and_gradients_are_those_of_torch_s_embeddings(chunks):
    ids = batch()
    mine = UnifiedEmbedding(chunks, 11, 4, seed=1)
    weights = torch.randn(len(ids), mine.width)
    (mine(ids) * weights).sum().backward()
    codes = mine.codes(ids)
    plain = nn.Embedding.from_pretrained(mine.embedding.weight.detach().clone(), freeze=False)
    (plain(codes).flatten(1) * weights).sum().backward()
    bag = nn.EmbeddingBag.from_pretrained(mine.embedding.weight.detach().clone(), freeze=False, mode="sum")
    bagged = bag(codes.flatten(), torch.arange(codes.numel())).view(len(ids), -1)
    (bagged * weights).sum().backward()
    torch.testing.assert_close(mine(ids), bagged)
    torch.testing.assert_close(mine.embedding.weight.grad, plain.weight.grad)
    torch.testing.assert_close(mine.embedding.weight.grad, bag.weight.grad)
    # a row's gradient is the sum over all (feature, value) that have it
    by_row = torch.zeros(11, 4).index_add_(0, codes.flatten(), weights.view(-1, 4))
    torch.testing.assert_close(mine.embedding.weight.grad, by_row)


def test_rows_permuted_with_their_codes_change_nothing():
    ids, mine = batch(), UnifiedEmbedding([1] * 4, 11, 4, seed=1)
    before, codes = mine(ids), mine.codes
    order = torch.randperm(11)
    with torch.no_grad():
        mine.embedding.weight.copy_(mine.embedding.weight[order])
    with_codes(mine, lambda x, of=codes: order.argsort()[of(x)])
    assert torch.equal(mine(ids), before)


def test_chunks_with_one_hash_are_a_wider_row():
    """Two chunks of width d from two tables are one lookup of width 2 d in the tables set side by side."""
    ids, mine = batch(), UnifiedEmbedding([2] * 4, 11, 3, tables=2, seed=1)
    with torch.no_grad():
        words = mine.hash.words
        words[1::2] = words[0::2]
    codes = mine.codes(ids)
    assert torch.equal(codes[:, 1::2], codes[:, 0::2] + 11)
    side = torch.cat(mine.embedding.weight.split(11), -1)
    assert torch.equal(mine(ids), side[codes[:, 0::2]].flatten(1))


def test_tables_are_taken_in_turn():
    mine = UnifiedEmbedding([1, 3, 2], 10, 2, tables=4)
    assert mine.columns.tolist() == [0, 1, 1, 1, 2, 2]
    assert (mine.codes(batch(sizes=(9, 9, 9))) // 10).unique(dim=0).tolist() == [[0, 1, 2, 3, 0, 1]]
    assert mine.width == 12
    with pytest.raises(ValueError, match="chunk"):
        UnifiedEmbedding([1, 0], 10, 2)


def test_parameters_do_not_depend_on_the_number_of_features():
    for features in (1, 4, 100):
        assert sum(p.numel() for p in UnifiedEmbedding([1] * features, 50, 6).parameters()) == 300


def test_salts_tell_features_apart_and_seeds_change_the_pattern():
    ids = torch.arange(500)[:, None].expand(500, 2)
    salted = UnifiedEmbedding([1, 1], 1000, 2, seed=3).codes(ids)
    unsalted = UnifiedEmbedding([1, 1], 1000, 2, seed=3, salted=False).codes(ids)
    other = UnifiedEmbedding([1, 1], 1000, 2, seed=4).codes(ids)
    assert (unsalted[:, 0] == unsalted[:, 1]).all()
    assert (salted[:, 0] == salted[:, 1]).double().mean() < 0.02
    assert (salted == other).double().mean() < 0.02
    assert torch.equal(salted, UnifiedEmbedding([1, 1], 1000, 2, seed=3).codes(ids))


def test_ids_need_no_vocabulary():
    ids = torch.tensor([[2**62, -1], [7, 2**40]])
    codes = UnifiedEmbedding([1, 1], 13, 2).codes(ids)
    assert codes.min() >= 0
    assert codes.max() < 13


# --- the single-layer model -----------------------------------------------------------------------------------------


def test_one_row_gives_a_constant_logit():
    model = ClickModel(UnifiedEmbedding([1, 1], 1, 4), SingleLayer(2, 4), 2)
    assert model.logits(batch(sizes=(9, 5))).unique().numel() == 1


def test_theta_starts_parallel_and_may_be_kept_so():
    free, kept = SingleLayer(3, 8, seed=5), SingleLayer(3, 8, seed=5, parallel=True)
    assert pairwise_angles(free.theta).max() < 1e-3
    assert torch.equal(free.theta, kept.theta)
    assert free.theta.requires_grad
    assert not kept.theta.requires_grad
    torch.testing.assert_close(
        pairwise_angles(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])),
        torch.tensor([90.0, 180.0, 90.0], dtype=torch.float64),
    )


def test_an_update_along_an_orthogonal_direction_is_invisible():
    """A step on a loss that only feature 2 reaches moves the row that it shares with feature 1, and leaves feature 1's
    part of the log-odds, exactly; a step on feature 1's own loss does not."""
    embedding, head = UnifiedEmbedding([1, 1], 1, 4), SingleLayer(2, 4)
    with torch.no_grad():
        head.theta.copy_(torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]))
    ids, labels = batch(16, sizes=(9, 5)), (torch.arange(16) % 3 == 0).float()

    def part(feature):
        """Of the log-odds, what one feature gives."""
        return head(embedding(ids) * F.one_hot(torch.tensor(feature), 2).repeat_interleave(4))

    optimizer = torch.optim.SGD(embedding.parameters(), 0.5)
    for feature, invisible in ((1, True), (0, False)):
        row, before = embedding.embedding.weight.detach().clone(), part(0).detach()
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(part(feature), labels).backward()
        optimizer.step()
        assert not torch.equal(embedding.embedding.weight, row)
        assert torch.equal(part(0), before) == invisible


def test_the_parts_of_the_gradient_are_its_whole():
    ids = batch(200)
    embedding = UnifiedEmbedding([1] * 4, 6, 5, seed=2)
    head = SingleLayer(4, 5)
    with torch.no_grad():
        head.theta.copy_(torch.randn(4, 5))
    labels = (torch.arange(200) % 3 == 0).float()
    z = head(embedding(ids))
    F.binary_cross_entropy_with_logits(z, labels).backward()
    residuals = (torch.sigmoid(z) - labels).detach() / 200
    codes = embedding.codes(ids)
    for feature, value in ((0, int(ids[0, 0])), (1, int(ids[3, 1])), (3, 1)):
        parts = gradient_parts(head.theta.detach(), ids, codes, residuals, feature, value)
        row = codes[ids[:, feature] == value, feature][0]
        torch.testing.assert_close(sum(parts), embedding.embedding.weight.grad[row])
        for part in parts[:2]:  # along theta_t
            assert abs(F.cosine_similarity(part, head.theta[feature].detach(), dim=0)) > 1 - 1e-5
    own = gradient_parts(head.theta.detach(), ids, codes, residuals, 0, int(ids[0, 0])).own
    alone = residuals[ids[:, 0] == ids[0, 0]].sum() * head.theta[0].detach()
    torch.testing.assert_close(own, alone)
    with pytest.raises(ValueError, match="value"):
        gradient_parts(head.theta, ids, codes, residuals, 0, 10_000)


# --- collisions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["shared", "split", "fair"])
def test_collisions_are_as_many_as_theory_says(kind):
    """Mean over 100 hash functions, within three standard errors, feature by feature."""
    sizes, rows, draws = (120, 60, 20, 3), 50, 100
    split = proportional_rows(sizes, rows, whole_up_to=3 if kind == "fair" else 0)
    found = []
    for seed in range(draws):
        made = (
            UnifiedEmbedding([1] * 4, rows, 1, seed=seed)
            if kind == "shared" else FeatureTables(sizes, 1, split, seed=seed)
        )  # fmt: skip
        found.append(measured_collisions(codes_of_values(made, sizes)))
    expected = expected_collisions(sizes, rows if kind == "shared" else split)
    for name in ("intra", "inter"):
        values = torch.stack([getattr(c, name) for c in found])
        error = values.std(0) / math.sqrt(draws)
        assert ((values.mean(0) - getattr(expected, name)).abs() <= 3 * error + 1e-12).all(), name
    if kind == "shared":  # a value of feature t meets N / N_t times fewer of its own feature than in a split table
        exact = expected_collisions(sizes, [n / sum(sizes) * rows for n in sizes]).intra / expected.intra
        torch.testing.assert_close(exact, sum(sizes) / torch.tensor(sizes, dtype=torch.float64))


def test_collisionless_tables_have_none():
    whole = FeatureTables(SIZES, 1)
    found = measured_collisions(codes_of_values(whole, SIZES))
    assert found.intra.sum() == found.inter.sum() == 0
    assert expected_collisions(SIZES, [None] * 4).intra.sum() == 0


# --- experiment -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    from papers.unified_embedding.experiment import run
    from repro.runner import Context

    arms = ("collisionless", "multiplex-50", "split-50", "fair-10", "multiplex-10", "chunks-2-10", "parallel-split-10")
    return {a: run(Config(**PAPER.resolve("clicks", a, "smoke")), Context(seed=7)) for a in arms}


def test_arms_of_a_seed_share_data_and_size(outcomes):
    assert len({o.data["fingerprint"] for o in outcomes.values()}) == 1
    for one, other in (("multiplex-50", "split-50"), ("multiplex-10", "fair-10"), ("multiplex-10", "chunks-2-10")):
        for match in EQUAL:
            assert outcomes[one].profile[match.quantity] == outcomes[other].profile[match.quantity]
    assert outcomes["collisionless"].profile["params_total"] > outcomes["multiplex-50"].profile["params_total"]
    for outcome in outcomes.values():
        assert set(outcome.metrics) <= set(PAPER.metrics)
        assert outcome.metrics["best_auc"] == outcome.data["best_auc"]


def test_collisions_are_counted(outcomes):
    assert outcomes["collisionless"].metrics["intra"] == outcomes["collisionless"].metrics["inter"] == 0
    assert outcomes["split-50"].metrics["inter"] == 0
    assert outcomes["split-50"].metrics["intra"] > outcomes["multiplex-50"].metrics["intra"] > 0
    assert outcomes["multiplex-10"].metrics["intra_ratio"] == pytest.approx(1, abs=0.2)
    assert outcomes["fair-10"].tables["collisions"]["intra"][3:] == [0, 0, 0, 0]
    assert "intra" not in outcomes["chunks-2-10"].metrics
    assert outcomes["parallel-split-10"].metrics["angle"] < 1e-3


def test_angles_are_swept_from_large_to_small():
    from papers.unified_embedding.experiment import run
    from repro.runner import Context

    options = {"budgets": "10,100", "angle_steps": 60, "angle_lr": 2e-2}
    found = run(Config(**PAPER.resolve("clicks-even", "angles", "smoke", options)), Context(seed=1))
    assert found.curves["angle_by_rows"]["x"] == [100, 10]
    assert found.metrics["angle_smallest"] == found.curves["angle_by_rows"]["y"][1]
    assert abs(found.metrics["angle_rank"]) == pytest.approx(1)
    assert found.profile["train_tokens"] == 2 * 60 * 512
    assert set(found.metrics) <= set(PAPER.metrics)


def test_what_does_not_exist_is_an_error():
    from papers.unified_embedding.experiment import run
    from repro.runner import Context

    for options, words in (
        ({"kind": "x"}, "kind"), ({"head": "x"}, "head"), ({"table": "x"}, "table"), ({"chunks": 3}, "chunks"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            run(Config(**PAPER.resolve("clicks", "multiplex-10", "smoke", options)), Context(seed=0))


@pytest.fixture(scope="module")
def criteo_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    (folder / "criteo").mkdir()
    draw = random.Random(0)
    lines = []
    for i in range(600):
        dense = [str(draw.randint(-1, 30)) for _ in range(13)]
        values = [f"{draw.randint(0, 12):08x}" for _ in range(26)]
        lines.append("\t".join([str(i % 2), *dense, *values]))
    (folder / "criteo" / "train.txt").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("arm", ["multiplex-10", "split-10", "collisionless"])
def test_the_published_configuration_on_small_files(criteo_files, monkeypatch, tmp_path, arm):
    from papers.unified_embedding.experiment import run
    from repro.runner import Context

    monkeypatch.setenv("REPRO_DATA_DIR", str(criteo_files))
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path))
    small = {"steps": 3, "batch": 32, "evaluations": 1}
    outcome = run(Config(**PAPER.resolve("criteo", arm, "published", small)), Context(seed=0))
    assert outcome.data["dense"] == 13
    head = 2 * (1027 * 1027 + 1027) + 1028 * 748 + 749 * 748 + 749
    rows = outcome.profile["params_total"] - head
    values = sum(outcome.data["sizes"])
    assert rows == 39 * (values if arm == "collisionless" else round(values / 10))
    assert math.isfinite(outcome.metrics["loss"])


# --- published figures ----------------------------------------------------------------------------------------------


def test_published_sizes():
    from papers.unified_embedding.published import accounting

    counted = accounting()
    assert counted["mb_criteo_100"] * 1e6 == 25_054_380
    assert counted["mb_avazu_100"] * 1e6 == 32_363_264
    # the replication's number of values; the published 791 and 158 kB are smaller by 3.5 %
    assert counted["mb_movielens_100"] * 1e6 == 13_653 * 30 * 4 == 1_638_360
    assert counted["kb_movielens_50"] == pytest.approx(819, abs=0.5)
    assert counted["kb_movielens_10"] == pytest.approx(164, abs=0.5)
    assert (counted["tables_split"], counted["tables_multiplex"]) == (26, 1)
    # a value meets at most ten of its own feature's in a tenth of the rows of its own table, and hardly one in a shared
    assert counted["intra_split_criteo_10"] > 9 > 1.3 > counted["intra_multiplex_criteo_10"]
    assert counted["one_row_features_criteo_10"] == sum(n < 20 for n in CRITEO_SIZES)
    assert counted["one_row_features_avazu_1"] == sum(n < 200 for n in AVAZU_SIZES)
