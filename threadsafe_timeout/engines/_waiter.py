"""What a thread of a pool waits in for a task that runs elsewhere: until it is woken, or the task cancelled."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes.registration import on_cancel
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import release

__all__ = ["Waiter"]


class Waiter:
    """One thread waits; any may wake it, also before it waits."""

    def __init__(self) -> None:
        self._woken = threading.Lock()
        self._woken.acquire()

    def wake(self, _: object = None) -> None:
        release(self._woken)

    def wait_for(self, seconds: float) -> bool:
        """Whether it was woken; else the seconds have passed."""
        return _clock.wait(self._woken, seconds)

    def pause(self, seconds: float) -> None:
        """The same, and raise if the task was cancelled."""
        with self.listening():
            self.wait_for(seconds)
        _around.raise_if_cancelled()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Be woken also if a scope around is cancelled."""
        registration = on_cancel(self.wake, alarms=False)
        try:
            yield
        finally:
            registration.unregister()
