"""What the journal of a run holds, to be set beside what its events say.

A task is in the journal before its future is done; events are written some time after. So where a run was killed the
journal may have tasks that no event tells of.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from threadsafe_timeout._view.fields import number, text, whole

__all__ = ["Journal", "read_journal"]

_OUTCOMES = {"done": "done", "failed": "failed", "timeout": "timed_out", "loop": "loops"}


@dataclass(frozen=True)
class Journal:
    """`of_run`: the finished tasks that this run saved, by the names of its totals; a status of another name counts
    as done. `finished`: those of all runs that used the file. `problem`: why it could not be read."""

    path: str
    of_run: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    in_flight: int = 0
    torn: bool = False
    problem: str | None = None


def read_journal(run: dict[str, Any]) -> Journal | None:
    """The journal that the run names. None if it saves nothing."""
    path = text(run.get("journal"))
    if not path:
        return None
    path = os.path.join(text(run.get("cwd")), path)
    from threadsafe_timeout.checkpoint import CheckpointError, load_checkpoint

    try:
        loaded = load_checkpoint(path)
    except (CheckpointError, OSError) as error:
        return Journal(path, problem=str(error))
    pid, began = whole(run.get("pid")), number(run.get("t")) or 0.0
    of_run: Counter[str] = Counter()
    in_flight = unsaved = 0
    for record in loaded.values():
        if record.status == "started":
            in_flight += 1
        elif record.status == "unsaved":  # its result is not there, and it runs again
            unsaved += 1
        elif record.status == "poison":  # no task of a pool: it was marked when the journal was opened
            continue
        elif record.pid == pid and record.time >= began - 1:  # the first event is written after the first record
            of_run[_OUTCOMES.get(record.status, "done")] += 1
    return Journal(path, of_run, len(loaded) - in_flight - unsaved, in_flight, loaded.torn is not None)
