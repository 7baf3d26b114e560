"""Tasks of which one at a time is to run: the suspects of a stall (see `_poison`).

Guarantees:

- A task that waits for its turn does not count that time: its deadline is put off.
- One that has had its turn for `longest` seconds loses it, and runs on: it may be waiting for what another one does.
- A task waits for its turn in a single wait. Looking every so often would be a sign of life in a program that stalls.
"""

from __future__ import annotations

import math
import threading
from typing import Any

from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes.registration import on_cancel
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import release
from threadsafe_timeout.checkpoint._format import Key

__all__ = ["Turns", "outermost_task"]


class Turns:
    """Whose turn it is, of some tasks."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._lock = threading.Lock()  # guards the rest
        self._running: Key | None = None
        self._since = 0.0
        self._waiting: list[threading.Lock] = []  # each is released when its thread is to look again

    def begin(self, key: Key, scope: Any) -> None:
        """Wait until it is the turn of the task `key`, which has that scope. Raises if that is cancelled."""
        deadline, begun = scope.deadline, _clock.monotonic()
        gate = threading.Lock()
        gate.acquire()
        scope.deadline = math.inf
        registration = on_cancel(lambda: release(gate))
        try:
            while not self._take(key, gate):
                _around.raise_if_cancelled()
                _clock.wait(gate, self._left())
        finally:
            registration.unregister()
            with self._lock:
                if gate in self._waiting:
                    self._waiting.remove(gate)
            if deadline != math.inf:
                scope.deadline = deadline + _clock.monotonic() - begun

    def end(self, key: Key) -> None:
        """That task is over."""
        with self._lock:
            if self._running != key:
                return
            self._running = None
            following = self._waiting[0] if self._waiting else None
        if following is not None:
            release(following)

    def _take(self, key: Key, gate: threading.Lock) -> bool:
        with self._lock:
            now = _clock.monotonic()
            if self._running is None or now >= self._since + self._longest:
                self._running, self._since = key, now
                return True
            if gate not in self._waiting:
                self._waiting.append(gate)
            return False

    def _left(self) -> float:
        return self._since + self._longest - _clock.monotonic()


def outermost_task() -> Any:
    """The scope of the task that this worker runs. None if this is no worker, or if the task is part of another one,
    which waits for it."""
    scope: Any = _around.task_scope()
    if scope is None or scope.task is None or scope.task._crew.inner:  # that saves for an event loop
        return None
    around = scope._parent
    while around is not None:
        if hasattr(type(around), "task"):
            return None
        around = around._parent
    return scope
