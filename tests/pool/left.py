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
    """Its `submit` returns when a worker that is free has taken the task: a thread may need longer than SOON for that,
    and a task that has not begun is cancelled."""

    def submit(self, fn, /, *args, **kwargs):
        future = super().submit(fn, *args, **kwargs)
        until = time.monotonic() + 120
        while not (future.running() or future.done()) and self.stats()["running"] < self._max_workers:
            assert time.monotonic() < until, "no worker has taken the task"
            time.sleep(0.001)
        return future


class Task:
    """A task that ends when it is let go; it waits in C, where nothing reaches it."""

    def __init__(self):
        self._gate = threading.Lock()
        self._gate.acquire()
        self.pools = []
        self.calls = 0

    def __call__(self, *_):
        self.calls += 1
        if self._gate.acquire(timeout=120):
            self._gate.release()
        return "late"

    def let_go(self):
        with contextlib.suppress(RuntimeError):
            self._gate.release()

    def pool(self, width=1, **options):
        self.pools.append(Prompt(width, grace=GRACE, **options))
        return self.pools[-1]
