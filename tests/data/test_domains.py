"""Text of several domains, and the order in which they take turns."""

from __future__ import annotations

import json

import pytest
import torch

from repro.data import MissingData, load_language
from repro.data.domains import GENERATED, LETTERS, REAL, DomainData, domains
from repro.data.tokenizers import BYTE_EOS

LIMIT = 6000


@pytest.fixture(scope="module")
def data() -> DomainData:
    return load_language("domains", 24, limit=LIMIT)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def mixed() -> DomainData:
    return load_language("domains-mixed", 24, limit=LIMIT)  # type: ignore[return-value]


def text(data: DomainData, name: str) -> bytes:
    index = data.domains.index(name)
    return bytes(t for t in data.train.tokens[data.labels == index].tolist() if t != BYTE_EOS)


def domain_of(data: DomainData, rows: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.tensor([int((g == r).any()) for g in data.groups]).argmax() for r in rows.flatten()])


def test_domains_have_equal_parts_and_rows_stay_within_one(data):
    assert data.domains == (*REAL, *GENERATED)
    assert {len(g) for g in data.groups} == {(LIMIT - 1) // 24}
    for index, group in enumerate(data.groups):
        at = data.train.starts[group][:, None] + torch.arange(25)
        assert (data.labels[at] == index).all()


def test_micro_batches_are_of_one_domain_and_domains_take_turns(data):
    order = data.train_order(3, 12, seed=0)
    domain = domain_of(data, order).view(-1, 2)
    assert (domain[:, 0] == domain[:, 1]).all()
    for turn in domain[:, 0].view(3, 6):
        assert sorted(turn.tolist()) == list(range(6))
    assert domain[:6, 0].tolist() != domain[6:12, 0].tolist()


def test_the_order_does_not_depend_on_how_it_is_cut(data):
    whole = data.train_order(4, 16, seed=1).flatten()
    assert torch.equal(data.train_order(16, 4, seed=1).flatten(), whole)
    assert torch.equal(data.train_order(2, 16, seed=1).flatten(), whole[:32])
    assert not torch.equal(data.train_order(4, 16, seed=2).flatten(), whole)
    with pytest.raises(ValueError, match="micro-batches of 2"):
        data.train_order(1, 3, seed=0)


def test_an_epoch_reads_every_row_once(data):
    rows = len(data.groups[0]) // 2 * 2
    order = data.train_order(6 * rows // 2, 2, seed=0).flatten()
    assert len(order.unique()) == 6 * rows


def test_held_out_rows_and_their_domains(data):
    batches, labels = data.held_out_batches(4, 6), data.held_out_domains(4, 6)
    again = load_language("domains", 24, limit=LIMIT).held_out_batches(4, 6)
    for batch, same, label in zip(batches, again, labels, strict=True):
        assert torch.equal(batch.inputs, same.inputs)
        assert label.shape == batch.inputs.shape
        assert (label == label[:, :1]).all()
        assert (label[::2] == label[1::2]).all()
    assert torch.cat(labels)[:, 0].bincount().tolist() == [4] * 6
    finer = torch.cat([b.inputs for b in data.held_out_batches(12, 2)])
    assert torch.equal(finer, torch.cat([b.inputs for b in batches]))
    every = data.held_out_batches(10_000, 6)
    assert len(torch.cat([b.inputs for b in every])) <= data.held_out_rows


def test_rows_of_the_control_hold_every_domain(data, mixed):
    (labels,) = mixed.held_out_domains(1, 8)
    for row in labels:
        assert len(row.unique()) == 6
        assert (row.diff() != 0).sum() == 5
    assert len({tuple(row.tolist()) for row in labels}) > 1
    share = mixed.labels.bincount() / len(mixed.labels)
    assert (share - 1 / 6).abs().max() < 0.03
    assert mixed.domains == data.domains
    assert mixed.fingerprint != data.fingerprint


def test_generated_domains_are_what_they_say(data):
    for line in text(data, "sums").split(b"\n")[:-1]:
        left, right = line.split(b"=")
        assert sum(map(int, left.split(b"+"))) == int(right)
    pairs, depth = {b"()"[0]: b"()"[1], b"[]"[0]: b"[]"[1], b"{}"[0]: b"{}"[1], b"<>"[0]: b"<>"[1]}, 0
    stack: list[int] = []
    for byte in text(data, "brackets"):
        if byte in pairs:
            stack.append(pairs[byte])
        elif byte == 10:
            assert not stack
        else:
            assert stack.pop() == byte
        depth = max(depth, len(stack))
    assert 4 < depth <= 12


def test_both_splits_of_the_chains_follow_one_rule(data):
    chain = text(data, "chains")
    assert set(chain) <= set(LETTERS)
    index = data.domains.index("chains")
    later = data.held_out.tokens[data.held_out_labels == index].tolist()
    follow: dict[tuple[int, int], set[int]] = {}
    for a, b, c in [*zip(chain, chain[1:], chain[2:], strict=False), *zip(later, later[1:], later[2:], strict=False)]:
        follow.setdefault((a, b), set()).add(c)
    assert max(map(len, follow.values())) == 3
    assert bytes(later[:200]) not in chain


def test_seeds_make_other_data_and_no_seed_the_same(data):
    assert load_language("domains", 24, limit=LIMIT).fingerprint == data.fingerprint
    assert load_language("domains", 24, limit=LIMIT, seed=1).fingerprint != data.fingerprint


def test_no_sources(tmp_path):
    with pytest.raises(MissingData, match="no text for 'code'"):
        domains(24, root=tmp_path)


# --- SlimPajama by source ----------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A few documents in the hub's layout."""
    monkeypatch.setenv("REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REPRO_DATA_DIR", str(tmp_path / "data"))
    folder = tmp_path / "data" / "slimpajama" / "data"
    folder.mkdir(parents=True)
    for split, count in (("train", 30), ("validation", 12)):
        rows = [
            {"text": f"{name[-1]}{i} " * 20, "meta": {"redpajama_set_name": f"RedPajama{name}"}}
            for i in range(count)
            for name in ("Wiki", "Github")
        ]
        if split == "train":
            rows.append({"text": "rare", "meta": {"redpajama_set_name": "RedPajamaBook"}})
        (folder / f"{split}-00000-of-00001.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_slimpajama_by_source(local):
    data = load_language("slimpajama-domains", 16, tokenizer="bytes", micro_batch=2)
    assert isinstance(data, DomainData)
    assert data.domains == ("RedPajamaGithub", "RedPajamaWiki")
    batch = data.rows(data.train_order(1, 4, seed=0)[0])
    firsts = [{chr(t) for t in row.tolist() if chr(t) in "bi"} for row in batch.inputs]
    assert firsts[0] == firsts[1] != firsts[2] == firsts[3]
    labels = torch.cat(data.held_out_domains(2, 4))
    assert labels.flatten().bincount().tolist() == [64, 64]
    again = load_language("slimpajama-domains", 16, tokenizer="bytes", micro_batch=2)
    assert again.fingerprint == data.fingerprint


def test_slimpajama_without_sources_is_refused(local):
    for file in local.glob("*.jsonl"):
        file.write_text(json.dumps({"text": "no source"}))
    with pytest.raises(MissingData, match="do not name the source"):
        load_language("slimpajama-domains", 16, tokenizer="bytes")
