"""A sleep that ends with the scopes around it, whether anything is patched or not."""

from __future__ import annotations

import threading

from threadsafe_timeout._checks import check_seconds
from threadsafe_timeout._scopes.around import raise_if_cancelled
from threadsafe_timeout._scopes.registration import on_cancel
from threadsafe_timeout._timing import clock as _clock

__all__ = ["sleep"]


def sleep(seconds: float) -> None:
    """Sleep for `seconds`. Raises `Cancelled` as soon as an enclosing scope is cancelled, also without `install()`."""
    until = _clock.monotonic() + check_seconds("seconds", seconds)
    raise_if_cancelled()
    woken = threading.Lock()
    woken.acquire()
    registration = on_cancel(lambda: woken.release() if woken.locked() else None)
    try:
        while _clock.wait(woken, until - _clock.monotonic()):
            raise_if_cancelled()
    finally:
        registration.unregister()
    raise_if_cancelled()
