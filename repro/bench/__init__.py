"""How fast the library is: its experts against plain loops, transformers and a dense layer, whole steps, the harness.

Contenders are timed in turn within every repetition, so that a slow moment of the machine falls on all of them, and
compared by the ratio of their times within a repetition. Importing this package imports no torch.
"""

from repro.bench.document import FOLDER, GROUPS, SCHEMA, BadDocument, path_of, read, write
from repro.bench.summary import GOALS, MEASURES, Goal, Line, bounds, geometric_mean, lines, means, outcomes
from repro.bench.timing import Quartiles, Timings, measure

__all__ = [
    "FOLDER", "GOALS", "GROUPS", "MEASURES", "SCHEMA", "BadDocument", "Goal", "Line", "Quartiles", "Timings",
    "bounds", "geometric_mean", "lines", "means", "measure", "outcomes", "path_of", "read", "write",
]  # fmt: skip
