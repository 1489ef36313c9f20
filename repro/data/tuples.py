"""Tasks on tuples of symbols: composition of fixed permutations, and its negative controls."""

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


def lookup(seed: int = 0, *, sizes: tuple[int, ...] = (192, 256), classes: int = 12) -> TupleData:
    """Negative control of `composition`: memory, and nothing to compose.

    As many inputs as the composition task has (49,152), but each is shown as two symbols, as if (v, f1) and (f2, f3)
    had names of their own, and the answer is drawn at random for every pair: one fact an input, none follows from
    another, and no symbol has to be combined with more than one other. An arm that is better here is better at storing
    or at learning fast. Nothing can generalise: evaluation is on the table that is trained.

    ``seed`` is the seed of the task itself, not of a run.
    """
    generator = torch.Generator().manual_seed(order_seed("lookup", seed))
    symbols = _all_tuples(sizes)
    targets = torch.randint(classes, (len(symbols),), generator=generator)
    return _table(
        "lookup",
        sizes,
        classes,
        symbols,
        targets,
        f"A fixed random answer of {classes} for each of {len(symbols):,} pairs of symbols; evaluated on that table.",
        {"task_seed": seed},
    )


def lookup_joint(seed: int = 0, *, functions: int = 16, depth: int = 3, values: int = 12, groups: int = 8) -> TupleData:
    """Second control of `composition`: its very inputs with random answers.

    The answer is drawn at random for each combination of all symbols, the last one taken modulo ``groups`` (24,576
    entries). As in composition the answer depends on four symbols jointly, but not through any chain of functions: what
    an arm gains here it gains by depth, for mixing many symbols, and not by composing. Evaluated on the table itself.

    ``seed`` is the seed of the task itself, not of a run. Raises ValueError when ``groups`` exceeds ``functions``.
    """
    if not 1 <= groups <= functions:
        raise ValueError(f"groups must be between 1 and {functions}, not {groups}")
    generator = torch.Generator().manual_seed(order_seed("joint lookup", seed))
    sizes = (values, *[functions] * depth)
    table = torch.randint(values, (*sizes[:-1], groups), generator=generator)
    symbols = _all_tuples(sizes)
    targets = table[(*symbols[:, :-1].T, symbols[:, -1] % groups)]
    return _table(
        "lookup-joint",
        sizes,
        values,
        symbols,
        targets,
        f"The inputs of the composition task with a fixed random answer for each of {table.numel():,} combinations; "
        "evaluated on the table itself.",
        {"task_seed": seed, "groups": groups},
    )


def _table(
    name: str,
    sizes: tuple[int, ...],
    classes: int,
    symbols: Tensor,
    targets: Tensor,
    description: str,
    details: dict[str, int],
) -> TupleData:
    inputs = symbols + _offsets(sizes)
    return TupleData(
        name=name,
        sizes=sizes,
        classes=classes,
        train_inputs=inputs,
        train_targets=targets,
        held_out_inputs=inputs,
        held_out_targets=targets,
        operations=1,
        description=description,
        details=details,
    )


def _all_tuples(sizes: tuple[int, ...]) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(size) for size in sizes])


def _offsets(sizes: tuple[int, ...]) -> Tensor:
    return torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])
