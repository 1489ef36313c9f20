"""Plan, executors, progress. Imports no torch until a run starts."""

from repro.runner.errors import NoCluster
from repro.runner.execute import Summary, default_store, default_workers, execute
from repro.runner.outcome import Context, Outcome
from repro.runner.plan import BadRequest, Run, plan, unknown
from repro.runner.progress import Live, Progress, Silent

__all__ = [
    "BadRequest", "Context", "Live", "NoCluster", "Outcome", "Progress", "Run", "Silent", "Summary", "default_store",
    "default_workers", "execute", "plan", "unknown",
]  # fmt: skip
