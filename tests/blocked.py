"""A thread that is blocked inside a scope, and a task that is stuck after its time: for tests of what ends them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from threadsafe_timeout import CancelScope
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing import clock as _clock

LONG = 240.0  # seconds; far more than any of these tests takes, unless what it tests is broken


def expire(seconds: float = 0.02) -> None:
    """Let the scope around end soon. One with little time from the start may end before the call has begun, and all
    the tasks of a pool with little time would have to be quick, on a busy machine too."""
    scope = _around.current_scope()
    assert scope is not None
    scope.deadline = _clock.monotonic() + seconds


def acquire(gate: threading.Event, go: threading.Event | None = None) -> str:
    """A task whose time ends when it has begun (and `go` is set), and which is stuck until the gate opens. The name says
    that no interrupt may strike in it: one that came on the way to the wait would end the task that is to be stuck."""
    if go is not None:
        go.wait(LONG)
    expire()
    gate.wait(120)
    return "late"


overdue = acquire


class Blocked:
    """A thread that calls something inside a scope of its own, and by now waits in it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.scope = CancelScope()
        self.entered = threading.Event()
        self.result: object = None
        self.error: BaseException | None = None
        self.returned = False
        self._call = call
        self.thread = threading.Thread(target=self._run, daemon=True)  # a failing test must not keep pytest from ending
        self.thread.start()
        self.entered.wait()
        until = time.monotonic() + LONG
        while not self.scope._callbacks and self.thread.is_alive():  # what it waits in is registered there
            assert time.monotonic() < until, "what it waits in is not patched"
            time.sleep(0)

    def _run(self) -> None:
        with self.scope:
            self.entered.set()
            try:
                self.result, self.returned = self._call(), True  # in one line: an interrupt comes between lines
            except Exception as exc:
                self.error = exc

    def join(self) -> Blocked:
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        if self.error is not None:
            raise self.error
        return self

    def cancel(self) -> Blocked:
        self.scope.cancel()
        return self.join()
