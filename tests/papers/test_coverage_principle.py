"""The coverage principle: coverage against brute-force graphs, its invariants, and the measures of representations."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

from papers.coverage_principle.experiment import (
    answered,
    by_cutoff,
    coverage_of,
    excess,
    fitted,
    language_model,
    rows_for_cover,
    run,
    same_bridge,
    share_covered,
    shared_weights,
    states,
    step_loss,
)
from papers.coverage_principle.method import Coverage, cosine_gap, proper_subsets, swapped
from papers.coverage_principle.paper import BUCKETS, PAPER, Config
from papers.coverage_principle.published import accounting, on_meta
from repro.data.base import Batch
from repro.data.multi_hop import multi_hop
from repro.runner import Context
from repro.training.initial import initialise


def brute_force(inputs, targets, size, subsets, k, vertices, outputs=None):
    """The definition, pair by pair: k-equivalence of every two fragments, then every edge of the graph on X^m."""
    data = {tuple(x): t for x, t in zip(inputs.tolist(), targets.tolist(), strict=True)}
    arity = inputs.shape[1]
    graph = nx.Graph()
    everything = list(itertools.product(range(size), repeat=arity))
    graph.add_nodes_from(everything)
    for subset in subsets:
        rest = [p for p in range(arity) if p not in subset]

        def join(fragment, context, subset=subset, rest=rest):
            x = [0] * arity
            for p, v in zip(subset, fragment, strict=True):
                x[p] = v
            for p, v in zip(rest, context, strict=True):
                x[p] = v
            return tuple(x)

        fragments = list(itertools.product(range(size), repeat=len(subset)))
        contexts = list(itertools.product(range(size), repeat=len(rest)))
        for a, b in itertools.combinations(fragments, 2):
            both = [(join(a, c), join(b, c)) for c in contexts]
            shown = [(x, y) for x, y in both if x in data and y in data]
            if len(shown) >= k and all(data[x] == data[y] for x, y in shown):
                graph.add_edges_from(both)
    return [nx.node_connected_component(graph, tuple(v)) for v in vertices.tolist()], data


@pytest.mark.parametrize(("task", "rows"), [("two-hop", 16), ("two-hop", 24), ("non-tree", 20)])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("subsets", [((0, 1),), None])
def test_equals_a_brute_force_graph(task, rows, k, subsets):
    drawn = multi_hop(task, 4, rows, 7)
    inputs, targets = drawn.domain[drawn.train], drawn.targets[drawn.train]
    ours = Coverage(inputs, targets, 4, subsets)
    components, data = brute_force(inputs, targets, 4, subsets or proper_subsets(3), k, drawn.domain)
    covered = ours.covered(drawn.domain, k)
    assert covered.tolist() == [any(x in data for x in c) for c in components]
    labels = ours.components(drawn.domain, k)
    for i, c in enumerate(components):
        assert {tuple(x) for x in drawn.domain[labels == labels[i]]} == c
    for answer, c in zip(ours.answers(drawn.domain, k), components, strict=True):
        shown = [data[x] for x in c if x in data]
        assert answer == (max(sorted(set(shown)), key=shown.count) if shown else -1)


def test_hand_example():
    """Fragments a1, a2 = (0, 0), (1, 0); contexts c1, c2, c3 = 0, 1, 2. More data can take coverage away."""
    inputs, targets = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1]]), np.array([5, 5, 7])
    asked = np.array([[1, 0, 1]])
    first = Coverage(inputs, targets, 3, [(0, 1)])
    assert first.answers(asked, 1).tolist() == [7]
    assert first.answers(asked, 2).tolist() == [-1]
    assert first.cutoff(asked).tolist() == [1]
    contradicted = Coverage(
        np.concatenate([inputs, [[1, 0, 2], [0, 0, 2]]]), np.concatenate([targets, [1, 2]]), 3, [(0, 1)]
    )
    assert contradicted.answers(asked, 1).tolist() == [-1]
    assert contradicted.cutoff(asked).tolist() == [0]


@pytest.mark.parametrize("task", ["two-hop", "non-tree"])
def test_coverage_shrinks_with_evidence_and_holds_the_data(task):
    drawn = multi_hop(task, 10, 250, 5)
    for cover in (coverage_of(drawn), coverage_of(drawn, chance=True)):
        before = np.ones(len(drawn.domain), bool)
        for k in range(1, 7):
            now = cover.covered(drawn.domain, k)
            assert now[drawn.train].all()
            assert not (now & ~before).any()
            before = now
        cutoff = cover.cutoff(drawn.domain, 5)
        for k in range(1, 6):
            assert np.array_equal(cutoff >= k, cover.covered(drawn.domain, k))
    assert 0 < np.mean(cutoff == 0) < 1


def test_true_equivalences_answer_truly_and_chance_ones_are_few_of_all_pairs():
    drawn = multi_hop("two-hop", 16, 600, 3)
    asked = drawn.of_type(0)
    sound, literal = coverage_of(drawn), coverage_of(drawn, chance=True)
    given = sound.answers(drawn.domain[asked], 1)
    assert (given[given >= 0] == drawn.targets[asked][given >= 0]).all()
    for cover in (sound, literal):
        label = same_bridge(drawn)
        found = cover.evidence[(0, 1)]
        kept = found.equivalent(1)
        true = label[found.first] == label[found.second]
        if cover is sound:
            assert true.all()
            genuine = kept.sum()
        else:
            assert kept[true].sum() == genuine
            # pairs of two bridges that share one context agree in it with probability 1/n
            once = (found.shared == 1) & kept & ~true
            pairs = Coverage(drawn.domain[drawn.train], np.zeros(600, int), 16, [(0, 1)]).evidence[(0, 1)]
            single = (pairs.shared == 1) & (label[pairs.first] != label[pairs.second])
            assert once.sum() / single.sum() == pytest.approx(1 / 16, abs=0.02)


def test_only_the_fragment_of_the_construction_matters_with_evidence():
    """Joining equal outputs only, as the released code: nothing that was joined soundly is lost."""
    drawn = multi_hop("two-hop", 12, 500, 2)
    asked = drawn.of_type(0)
    literal = coverage_of(drawn, chance=True)
    sound = coverage_of(drawn).covered(drawn.domain[asked], 2)
    code = literal.covered(drawn.domain[asked], 2, drawn.targets[asked])
    assert (code[sound]).all()
    answers = literal.answers(drawn.domain[asked], 1, drawn.targets[asked])
    assert (answers[answers >= 0] == drawn.targets[asked][answers >= 0]).all()


def test_bad_data_is_an_error():
    with pytest.raises(ValueError, match="twice"):
        Coverage(np.array([[0, 0, 0], [0, 0, 0]]), np.array([1, 2]), 3)
    with pytest.raises(ValueError, match="range"):
        Coverage(np.array([[0, 0, 3]]), np.array([1]), 3)


def test_rows_for_cover_is_the_least_number():
    drawn = multi_hop("two-hop", 12, 0, 4)
    rows = rows_for_cover(drawn, 2, 0.99)
    assert share_covered(drawn.with_rows(rows), 2) >= 0.99
    assert share_covered(drawn.with_rows(rows - 1), 2) < 0.99
    assert rows_for_cover(drawn, 1, 0.99) < rows < rows_for_cover(drawn, 3, 0.99)


@pytest.mark.parametrize(
    ("k", "sound", "literal", "by_output"), [(1, 600, 424, 445), (2, 900, 900, 900), (3, 1235, 1235, 1235)]
)
def test_chance_makes_fewer_rows_enough_at_the_least_evidence_only(k, sound, literal, by_output):
    """Geometric means over the draws of one tuning seed, n = 16, that the README gives. ``by_output``: joining inputs
    of equal output only, as the released code does."""

    def share(drawn, chance, outputs):
        asked = drawn.of_type(0)
        queries, given = drawn.domain[asked], drawn.targets[asked] if outputs else None
        return coverage_of(drawn, chance).covered(queries, k, given).mean() if len(asked) else 1.0

    def least(drawn, *options):
        low, high = 1, len(drawn.pool)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if share(drawn.with_rows(middle), *options) >= 0.99 else (middle + 1, high)
        return high

    draws = [multi_hop("two-hop", 16, 0, 100_000 * 1000 + i) for i in range(3)]
    for options, rows in (((False, False), sound), ((True, False), literal), ((True, True), by_output)):
        assert round(math.prod(least(d, *options) for d in draws) ** (1 / 3)) == rows


@pytest.mark.parametrize(("name", "least"), [("n16-700", 0), ("n16-1000", 1), ("n16-uneven", 1)])
def test_notes_of_settings_name_the_cutoffs_that_their_seeds_have(name, least):
    config = Config(**PAPER.resolve(name, "two-hop", "laptop"))
    found = set()
    for seed in range(3):
        drawn = multi_hop("two-hop", config.size, config.rows, seed, seen=config.seen, spread=config.spread)
        found |= set(coverage_of(drawn).cutoff(drawn.domain[drawn.of_type(0, config.tests, seed)], BUCKETS).tolist())
    (note,) = [setting.note for setting in PAPER.settings if setting.name == name]
    said = re.search(r"k-cutoffs from (\d+) to (\d+)", note)
    assert said
    assert (int(said[1]), int(said[2])) == (min(found), max(found))
    assert min(found) == least


def test_every_evidence_whose_exponent_is_judged_has_its_control():
    (claim,) = [c for c in PAPER.claims if c.id == "C1"]
    judged = {arm for c in claim.comparisons if c.name.startswith("theory-") for arm in c.terms}
    controls = {arm for c in claim.comparisons if c.role == "control" for arm in c.terms}
    assert judged == controls == {"cover-k1", "cover-k2", "cover-k3"}


# --- representations ---------------------------------------------------------------------------------------------


def test_cosine_gap_of_clusters_is_one_and_of_noise_is_nothing():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(8, (400,), generator=generator)
    assert cosine_gap(nn.functional.one_hot(groups, 8).float(), groups) == pytest.approx(1.0)
    gaps = [cosine_gap(torch.randn(400, 64, generator=generator), groups) for _ in range(40)]
    error = np.std(gaps, ddof=1) / math.sqrt(40)
    assert abs(np.mean(gaps)) < 3 * error


def test_cosine_gap_by_pairs():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 5, generator=generator)
    g, among = torch.randint(3, (2, 30), generator=generator)
    cosine = nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
    for same in (True, False):
        inner, outer = [], []
        for i, j in itertools.permutations(range(30), 2):
            if (among[i] == among[j]) == same:
                (inner if g[i] == g[j] else outer).append(cosine[i, j].item())
        assert cosine_gap(x, g, among, same) == pytest.approx(np.mean(inner) - np.mean(outer), abs=1e-6)
    assert math.isnan(cosine_gap(x, torch.zeros(30, dtype=torch.long)))


def tiny(layers: int = 2):
    config = Config(hidden=16, heads=2, layers=layers, size=6)
    return initialise(language_model(config, 6), 0, 0.3).eval()


def test_swapping_states_swaps_what_comes_of_them():
    model = tiny(1)
    ids = torch.tensor([[3, 4, 5], [6, 4, 5]])
    plain = model(input_ids=ids, use_cache=False).logits
    with torch.no_grad(), swapped(model.transformer.h[0], 2, torch.tensor([1, 0])):
        crossed = model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(crossed[:, 2], plain[[1, 0], 2])
    torch.testing.assert_close(crossed[:, :2], plain[:, :2])
    with swapped(model.transformer.h[0], 1, torch.tensor([0, 1])):
        torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, plain)
    torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, plain, rtol=0, atol=0)


def test_states_are_the_mlp_outputs_at_x2():
    model, drawn = tiny(), multi_hop("two-hop", 6, 50, 0)
    found = states(model, drawn, np.array([8, 35]), "cpu")
    assert [s.shape for s in found] == [(2, 16)] * 2
    kept = []
    handle = model.transformer.h[1].mlp.register_forward_hook(lambda _m, _x, out: kept.append(out))
    model(input_ids=torch.tensor([[1, 2], [5, 5]]) + 3, use_cache=False)
    handle.remove()
    torch.testing.assert_close(found[1], kept[0][:, 1])


# --- the experiment ----------------------------------------------------------------------------------------------


def test_answers_are_written_out_by_the_model_itself():
    model, drawn = tiny(), multi_hop("three-hop", 6, 50, 0)
    rows = np.arange(5)
    given = answered(model, drawn, rows, "bridges")
    ids = torch.from_numpy(drawn.domain[:5]) + 3
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False, eos_token_id=None
    )
    assert np.array_equal(given, expected[:, -1].numpy() - 3)


def test_the_loss_reads_answers_only():
    model, drawn = tiny(), multi_hop("two-hop", 6, 50, 0)
    batch = drawn.language().rows(torch.arange(4))
    plain = step_loss(model, batch)[0]
    changed = batch.targets.clone()
    changed[:, -1] = (changed[:, -1] - 2) % 6 + 3
    assert step_loss(model, Batch(batch.inputs, changed, batch.answers))[0] != plain
    logits = model(input_ids=batch.inputs, use_cache=False).logits
    expected = nn.functional.cross_entropy(logits[:, -1], batch.targets[:, -1])
    torch.testing.assert_close(plain, expected)


def test_buckets():
    cutoff = np.repeat([0, 1, 2, 3, 5], [40, 30, 30, 5, 30])
    hit = np.concatenate([np.arange(n) < round(p * n) for n, p in ((40, 0.1), (30, 0.2), (30, 0.5), (5, 0), (30, 0.9))])
    found = by_cutoff(cutoff, hit)
    assert found.inputs == {0: 40, 1: 30, 2: 30, 3: 5, 5: 30}
    assert found.accuracy[2] == pytest.approx(0.5)
    assert found.metrics["k_spearman"] == pytest.approx(1.0)
    assert found.metrics["bucket_gap"] == pytest.approx(0.7)
    assert math.isnan(by_cutoff(cutoff[:70], hit[:70]).metrics["k_spearman"])


def test_excess_is_over_the_best_answer_that_reads_one_input():
    drawn = multi_hop("two-hop", 6, 70, 0)
    table = np.zeros((6, 6), int)
    for row in drawn.train:
        table[drawn.domain[row, 2], drawn.targets[row]] += 1
    rows = drawn.of_type(0)
    by_x3 = (table.argmax(1)[drawn.domain[rows, 2]] == drawn.targets[rows]).mean()
    assert excess(drawn, rows, np.ones(len(rows))) <= 1 - by_x3
    assert excess(drawn, rows, np.zeros(len(rows))) < 0
    assert math.isnan(excess(drawn, rows[:0], np.ones(0)))


def test_weights_are_shared_by_both_tasks():
    one = Config(**PAPER.resolve("n16-1000", "two-hop", "laptop"))
    two = Config(**PAPER.resolve("n16-1000", "non-tree", "laptop"))
    weights = shared_weights(one, 3)
    assert weights == shared_weights(two, 3)
    assert sum(weights.values()) == pytest.approx(1)
    assert min(weights.values()) >= 0


def test_tasks_of_a_seed_share_initial_weights_and_size():
    models = [
        initialise(language_model(Config(**PAPER.resolve("n16-1000", arm, "laptop")), 16), 3).state_dict()
        for arm in ("two-hop", "non-tree", "two-hop-cot")
    ]
    for other in models[1:]:
        assert all(torch.equal(value, other[name]) for name, value in models[0].items())


def test_a_table_of_two_inputs_is_learned():
    """Sanity of training: the loss falls, and a run repeats to the bit."""
    config = Config(rows=60, size=6, hidden=32, heads=2, steps=60, batch=60, lr=3e-3)
    drawn = multi_hop("two-hop", 6, 60, 0)
    found = [fitted(config, drawn, Context(0), lambda m: {"loss": float(m.lm_head.weight.sum())}, 3) for _ in range(2)]
    assert found[0][1].evaluations == found[1][1].evaluations
    assert found[0][1].train_loss[-1] < 0.6 * found[0][1].train_loss[0]
    assert found[0][2]["train_tokens"] == 60 * 60 * 3


def test_kinds_of_runs():
    small: dict[str, Any] = {"steps": 2, "batch": 8, "hidden": 16, "heads": 2, "evaluations": 1, "tests": 50}
    small |= {"sizes": "8,12", "factors": "1.5,3", "draws": 1}
    out = run(Config(kind="scaling", **small), Context(0))
    assert out.profile["train_tokens"] == 2 * 2 * 2 * 8 * 3
    assert list(out.curves["accuracy_n12"]["x"]) == [216, 432]
    exact = run(Config(kind="coverage", k=2, **small), Context(0))
    assert exact.metrics["exponent"] == pytest.approx(
        math.log(exact.curves["rows_needed"]["y"][1] / exact.curves["rows_needed"]["y"][0]) / math.log(1.5)
    )
    with pytest.raises(ValueError, match="kind is one of"):
        run(Config(kind="guess"), Context(0))


# --- published size ----------------------------------------------------------------------------------------------


def test_accounting():
    out = accounting()
    assert out["params_m_4_layers"] == pytest.approx(67.8, abs=0.05)
    assert out["params_m_8_layers"] == pytest.approx(96.1, abs=0.05)
    assert out["params_m_xl"] == pytest.approx(1558, abs=1)
    assert out["combinations_k_n50"] == pytest.approx(61.25)
    assert 4500 < out["rows_covered_n50_k1"] < 7000
    assert out["rows_covered_n50_k1"] < out["rows_covered_n50_k2"] < out["rows_covered_n50_k3"] < 20000


def test_the_published_configuration_builds():
    config = Config(**PAPER.resolve("n50-10000", "two-hop", "published"))
    with torch.device("meta"):
        model = language_model(config, config.size)
    theirs = on_meta(8, 768, 12)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(
        sum(p.numel() for p in theirs.parameters()), rel=2e-4
    )
    assert (config.batch * 1, config.steps, config.lr) == (16384, 62500, 8e-4)
