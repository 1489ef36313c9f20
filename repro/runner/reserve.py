"""Two runners on one store do not do the same run twice: a run in progress is reserved by a lock on a file.

The lock ends with the process that holds it, however that ends, so that nothing has to be cleared by hand. Where locks
do not work (some network file systems) runs may be done twice; the store keeps the first record.
"""

from __future__ import annotations

import contextlib
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from repro.records import CannotStore, Record, Store
from repro.runner.plan import Run

if TYPE_CHECKING:
    from filelock import BaseFileLock

#: Folder of locks inside a store; a name that no paper can have.
FOLDER = ".running"


class Reservations:
    """The runs that this process has reserved in a store."""

    def __init__(self, store: Store):
        self.store = store
        self.held: dict[str, BaseFileLock] = {}
        self.others: set[str] = set()
        """Keys of the runs that another runner carried out meanwhile."""

    def next(self, waiting: deque[Run]) -> tuple[Run | None, Record | None]:
        """Take the next run out of ``waiting``: reserved for this process, or with the record that another runner made
        of it. Neither, and nothing taken, when others have all of them in hand.

        Raises CannotStore.
        """
        for _ in range(len(waiting)):
            run = waiting.popleft()
            if not self.take(run):
                waiting.append(run)
            elif record := self.store.get(run.paper, run.scale, run.key):
                self.release(run)
                self.others.add(run.key)
                return None, record
            else:
                return run, None
        return None, None

    def take(self, run: Run) -> bool:
        """Reserve a run; False when another runner has it. Raises CannotStore."""
        from filelock import FileLock, Timeout

        folder = self.store.root / FOLDER
        lock = FileLock(folder / run.key, timeout=0)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            return False
        except NotImplementedError:  # no locks on this file system
            return True
        except OSError as error:
            raise CannotStore(f"runs cannot be reserved in {folder}: {error.strerror or error}") from error
        self.held[run.key] = lock
        return True

    def release(self, run: Run) -> None:
        """Give a run back; nothing for one that is not held."""
        self._give_back(run.key)

    def close(self) -> None:
        """Give all back."""
        for key in list(self.held):
            self._give_back(key)

    def _give_back(self, key: str) -> None:
        lock = self.held.pop(key, None)
        if lock is not None:
            with contextlib.suppress(OSError):  # removed before it is let go: later ones then lock a file of their own
                Path(lock.lock_file).unlink()
            lock.release()
