"""What the tests of pools that are left after a wait share: a task that ends when it is let go."""

from __future__ import annotations

import contextlib
import threading
import time

from threadsafe_timeout import ThreadPoolExecutor

GRACE = 0.05
SOON = 0.02
DEFAULT = "default"


def note(*_):
    """What a program would print."""


class Prompt(ThreadPoolExecutor):
    """Its `submit` returns when a worker that is free is in `task`, or has ended: a thread may need longer than SOON for
    that, and a task that has not begun is cancelled."""

    def __init__(self, task, width, **options):
        super().__init__(width, **options)
        self._task = task

    def submit(self, fn, /, *args, **kwargs):
        before = self._task.calls
        future = super().submit(fn, *args, **kwargs)
        until = time.monotonic() + 120
        while not (future.done() or self._task.calls > before or self._is_behind(future)):
            assert time.monotonic() < until, "no worker has begun with the task"
            time.sleep(0.001)
        return future

    def _is_behind(self, future):
        return not future.running() and self.stats()["running"] >= self._max_workers


class Task:
    """A task that ends when it is let go; it waits in C, where nothing reaches it."""

    def __init__(self):
        self._gate = threading.Lock()
        self._gate.acquire()
        self._calls = []
        self.pools = []

    @property
    def calls(self):
        return len(self._calls)

    def acquire(self, *_):  # no interrupt strikes in a function of this name, on the way to the wait
        self._calls.append(None)
        if self._gate.acquire(timeout=120):
            self._gate.release()
        return "late"

    __call__ = acquire

    def let_go(self):
        with contextlib.suppress(RuntimeError):
            self._gate.release()

    def pool(self, width=1, **options):
        self.pools.append(Prompt(self, width, grace=GRACE, **options))
        return self.pools[-1]
