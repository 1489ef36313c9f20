"""The coverage principle (arXiv 2505.20278): which inputs follow from observed ones by substituting fragments.

Inputs x in X^m, X = {0, ..., n-1}; D is a set of observed pairs (x, f(x)). For a proper subset I of the positions the
*fragment* of x is x_I and its *context* the rest.

Functional k-equivalence. Fragments a, a' of one I are k-equivalent in D when at least k contexts c were observed with
both, (a, c) and (a', c) in D, and the outputs agree in all of them. One contradiction is enough to tell them apart.

Substitution graph. Its vertices are inputs; x and x' are joined when they differ on some I only and x_I, x'_I are
k-equivalent. Cover_k(D) are the inputs whose connected component holds an observed one. Whoever matches patterns has
nothing to go by outside of it.

k-cutoff of an input: the largest k for which it is covered, 0 when it is not covered at all.

`Coverage` computes this for any data set of symbol tuples, whatever made them. `cosine_gap` is the paper's measure of
how far hidden states cluster by a label, and `swapped` the intervention behind its causal tracing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, triu
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Subset = tuple[int, ...]


class Evidence(NamedTuple):
    """Pairs of fragments that agree in at least one shared context.

    ``first``, ``second`` [P]: fragment ids, first < second. ``shared`` [P]: contexts observed with both. ``agreed``
    [P]: those of them in which the outputs are equal.
    """

    first: Ints
    second: Ints
    shared: Ints
    agreed: Ints

    def equivalent(self, k: int) -> Bools:
        """Which pairs are k-equivalent: k shared contexts or more and no contradiction."""
        return (self.shared >= k) & (self.agreed == self.shared)


def proper_subsets(arity: int) -> tuple[Subset, ...]:
    """Every subset of the positions but the empty one and all."""
    return tuple(s for r in range(1, arity) for s in itertools.combinations(range(arity), r))


def _joint(*parts: Ints) -> Ints:
    """Number from 0 on for every distinct row of columns [rows] of integers from 0 on."""
    out = parts[0].astype(np.int64)
    for part in parts[1:]:
        out = out * (int(part.max(initial=0)) + 1) + part
    return np.unique(out, return_inverse=True)[1].ravel()


class Coverage:
    """Coverage of a data set of tuples of symbols.

    Args:
        inputs: D's inputs [N, m], distinct, values in ``range(size)``.
        targets: D's outputs [N], integers.
        size: n.
        subsets: the I that are tried; None tries all proper ones. For a two-hop task ``[(0, 1)]`` is the one in which
            fragments are equivalent by construction.
        alike: for a subset, a label of every fragment [n^|I|]; only fragments of one label are ever joined. Give the
            true function values of fragments to leave out equivalences by chance. None: the definition as it stands.

    Raises:
        ValueError: for repeated inputs or values outside of ``range(size)``.
    """

    def __init__(
        self,
        inputs: Ints,
        targets: Ints,
        size: int,
        subsets: Sequence[Subset] | None = None,
        alike: Mapping[Subset, Ints] | None = None,
    ):
        self.inputs, self.targets, self.size = np.asarray(inputs), np.asarray(targets), size
        if self.inputs.size and not 0 <= self.inputs.min() <= self.inputs.max() < size:
            raise ValueError(f"values of inputs must be in range({size})")
        self.ids = self._number(self.inputs, range(self.arity))
        if len(np.unique(self.ids)) != len(self.ids):
            raise ValueError("an input occurs twice")
        self.subsets = tuple(subsets) if subsets is not None else proper_subsets(self.arity)
        alike = alike or {}
        self.evidence = {s: self._evidence(s, alike.get(s)) for s in self.subsets}

    @property
    def arity(self) -> int:
        """m."""
        return int(self.inputs.shape[1])

    def _number(self, inputs: Ints, positions: Sequence[int]) -> Ints:
        """One number for the values at some positions, [rows]."""
        out = np.zeros(len(inputs), np.int64)
        for p in positions:
            out = out * self.size + inputs[:, p]
        return out

    def _rest(self, subset: Subset) -> Subset:
        return tuple(p for p in range(self.arity) if p not in subset)

    def _evidence(self, subset: Subset, alike: Ints | None) -> Evidence:
        """Shared and agreeing contexts of all pairs: two sparse products of fragments by contexts."""
        fragment, context = self._number(self.inputs, subset), self._number(self.inputs, self._rest(subset))
        if alike is not None:  # contexts told apart by label, so that fragments of two labels share none
            context = context * (int(alike.max()) + 1) + alike[fragment]
        counts = []
        for columns in (_joint(context), _joint(context, self.targets)):
            ones = np.ones(len(fragment), np.int32)
            m = csr_array(coo_array((ones, (fragment, columns)), shape=(self.size ** len(subset), len(fragment) + 1)))
            counts.append(csr_array(triu(m @ m.T, 1)))
        shared, agreed = counts
        both = coo_array(shared.multiply(agreed.astype(bool)).tocsr().sorted_indices())
        same = coo_array(agreed.sorted_indices())
        return Evidence(*(x.astype(np.int64) for x in (*same.coords, both.data, same.data)))

    def classes(self, subset: Subset, k: int) -> Ints:
        """Class of every fragment of a subset, [n^|I|]: k-equivalent pairs, joined transitively."""
        found = self.evidence[subset]
        kept = found.equivalent(k)
        shape = (self.size ** len(subset),) * 2
        edges = coo_array((np.ones(kept.sum(), bool), (found.first[kept], found.second[kept])), shape=shape)
        return connected_components(edges, directed=False)[1].astype(np.int64)

    def components(self, vertices: Ints, k: int, outputs: Ints | None = None) -> Ints:
        """Connected component of every vertex [V, m] in the substitution graph, [V].

        A substitution may pass through inputs that are not among the vertices, as it may in the graph on all of X^m.
        ``outputs`` [V]: join only inputs of equal output, as the released code does.
        """
        labels = []
        for subset in self.subsets:
            parts = [
                self.classes(subset, k)[self._number(vertices, subset)],
                self._number(vertices, self._rest(subset)),
            ]
            labels.append(_joint(*parts, *([] if outputs is None else [outputs])))
        if len(labels) == 1:
            return labels[0]
        # vertices on one side, (subset, class, context) on the other
        starts = np.cumsum([len(vertices), *(int(x.max(initial=-1)) + 1 for x in labels)])
        rows = np.tile(np.arange(len(vertices)), len(labels))
        columns = np.concatenate([x + s for x, s in zip(labels, starts, strict=False)])
        edges = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(starts[-1], starts[-1]))
        return connected_components(edges, directed=False)[1][: len(vertices)].astype(np.int64)

    def covered(self, queries: Ints, k: int, outputs: Ints | None = None) -> Bools:
        """Which inputs [Q, m] are in Cover_k(D), [Q]. ``outputs`` [Q]: see `components`."""
        return self.answers(queries, k, outputs) >= 0

    def answers(self, queries: Ints, k: int, outputs: Ints | None = None) -> Ints:
        """What substitution answers, [Q]: the most frequent output observed in a query's component, -1 if none was."""
        vertices = np.concatenate([self.inputs, queries])
        every = None if outputs is None else np.concatenate([self.targets, outputs])
        component = self.components(vertices, k, every)
        here, there = component[: len(self.inputs)], component[len(self.inputs) :]
        pair = _joint(here, self.targets)
        often = np.bincount(pair)[pair]
        out = np.full(int(component.max(initial=0)) + 1, -1, np.int64)
        order = np.lexsort((-self.targets, often))  # of equally frequent outputs the smallest
        out[here[order]] = self.targets[order]
        return out[there]

    def cutoff(self, queries: Ints, limit: int = 20, outputs: Ints | None = None) -> Ints:
        """k-cutoff of every query, [Q], from 0 (uncovered) to ``limit``. Cover_k shrinks with k."""
        out = np.zeros(len(queries), np.int64)
        left = np.arange(len(queries))
        for k in range(1, limit + 1):
            mine = None if outputs is None else outputs[left]
            left = left[self.covered(queries[left], k, mine)]
            if not len(left):
                break
            out[left] = k
        return out


def cosine_gap(states: Tensor, groups: Tensor, among: Tensor | None = None, same_among: bool = True) -> float:
    """Intra-inter cosine gap: mean cosine of pairs in one group minus mean cosine of pairs in two groups.

    Args:
        states: [B, d].
        groups: LongTensor [B].
        among: LongTensor [B]; pairs are then taken only where ``among`` is equal (``same_among``), or only where it
            differs. Comparing like with like takes out what ``among`` itself adds to a cosine.

    Returns:
        the gap, in [-2, 2]; nan where one of the two kinds of pairs does not occur.
    """
    unit = nn.functional.normalize(states.double(), dim=-1)
    cosine = unit @ unit.T
    allowed = ~torch.eye(len(states), dtype=torch.bool, device=states.device)
    if among is not None:
        equal = among[:, None] == among[None]
        allowed &= equal if same_among else ~equal
    same = groups[:, None] == groups[None]
    return float(cosine[allowed & same].mean() - cosine[allowed & ~same].mean())


@contextmanager
def swapped(module: nn.Module, position: int, source: Tensor) -> Iterator[None]:
    """Within it, the output of a module at a position is that of other inputs of the batch: causal tracing.

    Args:
        module: gives [B, S, d], or a tuple that begins with it: a block or a feed-forward layer of any decoder.
        position: index in the sequence.
        source: LongTensor [B], for every row of the batch the row whose state it receives.
    """

    def hook(_m: nn.Module, _x: object, out: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        states = (out if isinstance(out, Tensor) else out[0]).clone()
        states[:, position] = states[source, position]
        return states if isinstance(out, Tensor) else (states, *out[1:])

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
