"""Tasks on tuples of symbols: composition of fixed permutations, and its negative control."""

from __future__ import annotations

import torch
from torch import Tensor

from repro.data.base import TupleData, order_seed


def composition(
    seed: int = 0, *, functions: int = 16, depth: int = 3, values: int = 12, held_out: float = 0.1
) -> TupleData:
    """In-token composition: the target of (v, f1, ..., f_depth) is f_depth(...f1(v)).

    The functions are fixed random permutations of the values, so that all ``values * functions**depth`` combinations
    follow from ``functions * values`` facts. Whoever applies one function after another needs the facts only; whoever
    answers in one step has to memorise combinations. A random share ``held_out`` of the combinations is never trained
    on; every function and every value stays in the training part.

    ``seed`` is the seed of the task itself, not of a run. Raises ValueError for a share outside (0, 1).
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1, not {held_out}")
    generator = torch.Generator().manual_seed(order_seed("composition", seed))
    tables = torch.stack([torch.randperm(values, generator=generator) for _ in range(functions)])
    sizes = (values, *[functions] * depth)
    symbols = _all_tuples(sizes)
    targets = symbols[:, 0]
    for step in range(1, depth + 1):
        targets = tables[symbols[:, step], targets]
    order = torch.randperm(len(symbols), generator=generator)
    cut = max(1, round(held_out * len(symbols)))
    inputs = symbols + _offsets(sizes)
    out, kept = order[:cut].sort().values, order[cut:].sort().values
    return TupleData(
        name="composition",
        sizes=sizes,
        classes=values,
        train_inputs=inputs[kept],
        train_targets=targets[kept],
        held_out_inputs=inputs[out],
        held_out_targets=targets[out],
        operations=depth,
        description=f"{depth} of {functions} fixed random permutations of {values} values applied one after another, "
        f"all in one position; {held_out:.0%} of the {len(symbols):,} combinations are held out.",
        details={"task_seed": seed},
    )


def lookup(seed: int = 0, *, functions: int = 16, depth: int = 3, values: int = 12, keys: int = 3) -> TupleData:
    """Negative control of `composition`: a random table over the same inputs.

    The answer is drawn independently for every combination of the first ``keys`` symbols (v, f1, f2 by default: 3,072
    entries); the other symbols do not matter. No operation follows another, so an arm that is better here is better
    for a reason other than composing. Nothing can generalise: evaluation is on the table that is trained.

    ``seed`` is the seed of the task itself, not of a run. Raises ValueError when there are not ``keys`` symbols.
    """
    if not 1 <= keys <= depth + 1:
        raise ValueError(f"keys must be between 1 and {depth + 1}, not {keys}")
    generator = torch.Generator().manual_seed(order_seed("lookup", seed))
    sizes = (values, *[functions] * depth)
    table = torch.randint(values, sizes[:keys], generator=generator)
    symbols = _all_tuples(sizes)
    targets = table[tuple(symbols[:, :keys].T)]
    inputs = symbols + _offsets(sizes)
    return TupleData(
        name="lookup",
        sizes=sizes,
        classes=values,
        train_inputs=inputs,
        train_targets=targets,
        held_out_inputs=inputs,
        held_out_targets=targets,
        operations=1,
        description=f"A fixed random table of {table.numel():,} entries over the inputs of the composition task; "
        "evaluated on the table itself, as there is nothing to generalise.",
        details={"task_seed": seed, "keys": keys},
    )


def _all_tuples(sizes: tuple[int, ...]) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(size) for size in sizes])


def _offsets(sizes: tuple[int, ...]) -> Tensor:
    return torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])
