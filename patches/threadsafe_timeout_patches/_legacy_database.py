"""Which finished tasks the legacy runner's database has counted: so that a run that goes on counts none twice.

The database holds counters, not records: a result that is added again cannot be told from another one. So beside the
journal of tasks there is one of the database's updates, as long as the run has not ended. Before an update it says
which tasks are about to be counted, and how many tests the database had; after it, that they are. A kill in between is
resolved by looking at the database: it is replaced as a whole, so either all of them are in it or none.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from threadsafe_timeout.checkpoint import CheckpointWriter, open_run

__all__ = ["DATABASE", "Counted"]

DATABASE = Path("pilot_bench_cumulative_results", "master_database.json")


class Counted:
    """The keys of the tasks that are in the database."""

    def __init__(self, journal: Path, run: str) -> None:
        self.path = journal.with_suffix(f".counted{journal.suffix}")
        self.keys: set[str] = set()
        self._run = run
        self._lock = threading.RLock()
        self._writer: CheckpointWriter | None = None
        self._updates = 0
        self._waiting: list[str | None] = []  # given to the runner's saving, not yet counted; None: of no known task
        if self.path.exists():
            self._open()

    def _open(self) -> CheckpointWriter:
        if self._writer is None:
            self._writer, updates = open_run(self.path, config={"run": self._run}, resume="unfinished", retry=())
            self._updates = len(updates)
            total = _total()
            for record in updates.values():
                update = record.result
                if record.status == "counted" or total >= update["total"] + update["tests"]:
                    self.keys.update(update["keys"])
        return self._writer

    def saving(self, runner: Any, keys: list[str | None], force: bool, save: Callable[[], Any]) -> Any:
        """Run `save`, the runner's own, which takes note of `keys` and now and then counts what it has noted."""
        with self._lock:
            self._waiting += keys
            interval = getattr(runner, "checkpoint_interval", 0) or 0
            if not self._waiting or not (force or len(self._waiting) >= interval > 0):
                return save()
            before = _total()
            counting = [key for key in self._waiting if key is not None]
            update = {"keys": counting, "total": before, "tests": len(self._waiting)}
            writer = self._open()
            self._updates += 1
            name = f"update {self._updates}"
            writer.save(name, update, "counting")
            try:
                return save()
            finally:
                if _total() >= before + len(self._waiting):
                    writer.save(name, update, "counted")
                    self.keys.update(counting)
                    self._waiting.clear()
                else:  # it could not be written; the runner keeps the results, and counts them with the next ones
                    writer.save(name, {**update, "keys": []}, "postponed")

    def close(self, *, ended: bool) -> None:
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.close(ended=ended)
                if ended:  # it has served
                    with contextlib.suppress(OSError):
                        self.path.unlink()


def _total() -> int:
    """How many tests the database has counted; 0 if there is none."""
    try:
        return int(json.loads(DATABASE.read_bytes())["summary"]["total_tests"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
