"""Loss above the source: zero for the source itself, and taken apart rightly."""

from __future__ import annotations

import pytest
import torch

from repro.data.base import IGNORED
from repro.data.markov import FIRST_ID, markov_sources
from repro.evaluation.domain_losses import excess

SOURCES = markov_sources(2, 0, symbols=4)


def oracle(rows, sources=SOURCES):
    """Logits of the source of every target."""
    tokens = rows.inputs - FIRST_ID
    logits = torch.full((*rows.inputs.shape, FIRST_ID + 4), -1e9)
    before = torch.cat([tokens[:, :1], tokens[:, :-1]], 1)
    logits[..., FIRST_ID:] = sources.chances[rows.domains, before, tokens].log().float()
    return logits


def test_the_source_itself_has_none():
    for rows in (SOURCES.pure(torch.tensor([0, 1, 1]), 12, 0), SOURCES.spliced([0, 1], 5, 12, 4, 0)):
        found = excess(oracle, rows, 2)
        assert found.mean == pytest.approx(0, abs=1e-5)
        assert found.domains == pytest.approx([0, 0], abs=1e-5)


def test_by_domain_by_half_and_by_place_after_a_change():
    rows = SOURCES.spliced([0, 1], 40, 12, 4, 0)

    def predict(part):
        """A nat worse on domain 1, two more on the first target after a change, four more in the second half."""
        worse = (part.domains == 1).float()
        worse[:, 1:] += 2.0 * (part.domains[:, 1:] != part.domains[:, :-1])
        worse[:, 6:] += 4.0
        logits = oracle(part)
        chance = logits.softmax(-1).gather(-1, part.targets.clamp(min=0)[..., None]).squeeze(-1)
        other = torch.full_like(logits, -1e9)  # the target's chance is e^-worse times as large, the rest elsewhere
        other[..., 0] = (1 - chance * (-worse).exp()).clamp(min=1e-9).log()
        return other.scatter(-1, part.targets.clamp(min=0)[..., None], (chance.log() - worse)[..., None])

    found = excess(predict, rows, 7)
    assert found.settled_domains[1] - found.settled_domains[0] == pytest.approx(1.0, abs=0.2)
    assert found.settled > 4 > found.mean
    assert len(found.after) >= 4
    assert found.after[0] - found.after[1] == pytest.approx(2.0, abs=0.6)
    late = rows._replace(targets=rows.targets.clone(), domains=torch.zeros_like(rows.domains))
    late.targets[:, 6:] = IGNORED
    assert excess(oracle, late).after == []


def test_nothing_that_counts_is_an_error():
    rows = SOURCES.pure(torch.tensor([0]), 4, 0)
    with pytest.raises(ValueError, match="no target counts"):
        excess(oracle, rows._replace(targets=torch.full_like(rows.targets, IGNORED)))
