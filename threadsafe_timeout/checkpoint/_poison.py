"""Tasks that bring the program down: what a journal says of them, and what becomes of them.

Under `run --supervise`, the journal is set beside how earlier starts of the program ended (`_processes/lives`):

- A task that is the only suspect of two such ends, or the only one that two in a row have in common, is marked: its
  status is `poison`. Each has been tried once more by then. It is not run again.
- Of the suspects of the last end one at a time runs, so that the next end has one of them at most.
- A mark holds until a program opens the journal with `poison` among the statuses to `retry`; not for marks that the
  same supervisor's starts have given reason for.

Not guaranteed: tasks of an `AsyncPool` share a thread, and run beside each other all the same. They are marked only if
one alone was in flight.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

from threadsafe_timeout._errors import TaskPoisoned
from threadsafe_timeout._processes import lives as _lives
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._text import shown
from threadsafe_timeout.checkpoint import _format
from threadsafe_timeout.checkpoint._format import POISON, STARTED, Key
from threadsafe_timeout.checkpoint._records import attempts_in
from threadsafe_timeout.checkpoint._turns import Turns, outermost_task

__all__ = ["Past"]

log = logging.getLogger("threadsafe_timeout.checkpoint")
_NAMED, _NAME = 5, 100  # suspects in the log; characters of a key that the supervisor is told


class Past:
    """What is known of the tasks of a journal when it is opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._marked: dict[Key, tuple[float, tuple[str, ...]]] = {}  # when, and how the starts ended that it was in
        self._in_flight: list[dict[Key, _lives.Thread | None]] = [{} for _ in _lives.earlier]
        self.attempts = attempts_in(path, self._see)
        found = [_lives.suspects(*pair) for pair in zip(_lives.earlier, self._in_flight, strict=True)]
        self.guilty: dict[Key, list[str]] = {}  # those to be marked
        for key in _lives.twice(found):
            how = tuple(end.how for end, suspects in zip(_lives.earlier, found, strict=True) if key in suspects)
            if key not in self._marked or self._marked[key][0] < _lives.earlier[0].since:
                self.guilty[key] = [*how]
                self._marked[key] = math.inf, how
        self._suspects = set(found[-1] - self._marked.keys()) if found else set[Key]()
        self._turns = Turns(_lives.patience / 2) if len(self._suspects) > 1 else None
        self._tell()

    def _see(self, raw: bytes, fields: dict[str, Any]) -> None:
        """One line of the journal."""
        key, event = fields["key"], fields["event"]
        if event == POISON:
            result = json.loads(_format.result_bytes(raw) or b"{}")
            self._marked[key] = fields["time"], tuple(map(str, result.get("ended", ())))
        elif event != STARTED:
            self._marked.pop(key, None)
        for end, in_flight in zip(_lives.earlier, self._in_flight, strict=True):
            if fields["pid"] == end.pid and end.since <= fields["time"] <= end.until:
                if event == STARTED:
                    thread = fields.get("thread")
                    in_flight[key] = _lives.Thread(*thread) if thread else None
                else:
                    in_flight.pop(key, None)

    def _tell(self) -> None:
        for key in self.guilty:
            log.error("%s", self.refusal(key), extra={"event": POISON, "key": key})
        if self._suspects:
            some = sorted(map(shown, self._suspects))
            more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
            log.warning(
                "%s: the program was started again, because %s while these tasks ran: %s%s. They run once more, %s",
                self._path, _lives.earlier[-1].how, ", ".join(some[:_NAMED]), more,
                "one at a time" if len(some) > 1 else "and a task that brings it down again is not run a third time",
            )  # fmt: skip

    def forgive(self) -> None:
        """Tasks that were marked before this supervisor's first start may run."""
        since = _lives.earlier[0].since if _lives.earlier else math.inf
        self._marked = {key: mark for key, mark in self._marked.items() if mark[0] >= since}

    def refusal(self, key: Key, name: str | None = None) -> TaskPoisoned | None:
        """What to raise instead of running a task; None if it may run."""
        mark = self._marked.get(key)
        if mark is None:
            return None
        _lives.tell({"poison": str(key)[:_NAME], "name": name and name[:_NAME]})
        return TaskPoisoned(key, self._path, mark[1], name)

    # Called by the writer, in the threads of the tasks

    def begins(self, key: Key) -> None:
        """Raises TaskPoisoned if it is not to run. A suspect may wait for another one."""
        task = getattr(_around.task_scope(), "task", None) if key in self._marked else None
        refusal = self.refusal(key, task._task_name() if task is not None else None)
        if refusal is not None:
            raise refusal
        if self._turns is not None and key in self._suspects and (scope := outermost_task()) is not None:
            self._turns.begin(key, scope)

    def ends(self, key: Key) -> None:
        """It has its outcome."""
        if self._turns is not None and key in self._suspects:
            self._suspects.discard(key)
            self._turns.end(key)
