"""A thread that is blocked inside a scope, for tests of what ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from threadsafe_timeout import CancelScope

LONG = 240.0  # seconds; far more than any of these tests takes, unless what it tests is broken


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
