"""Waiting inside a scope: capped at the time it has left, woken by its cancellation, with no lock of anybody's held.

Guarantees:

- What wakes a waiter is the release of a lock (or an event descriptor) that nobody else knows: no other waiter is
  disturbed. The callback that does it, in the canceller's thread, takes no lock.
- Nothing polls: the thread sleeps until it is woken, its own timeout passes, or the scope's deadline does.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from _thread import LockType, allocate_lock
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from threadsafe_timeout._introspection.transparent import DEBUGGERS, PROTECTED
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout._scopes import time_left as _time_left
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing.daemon_thread import release
from threadsafe_timeout_patches._signatures import fitting

__all__ = [
    "Remaining",
    "called_by_asyncio",
    "called_by_library",
    "checked_timeout",
    "held_lock",
    "is_debugger",
    "is_library",
    "raised_by_alarm",
    "real",
    "release",
    "replace_attribute",
    "wait",
]


_INHERITED = object()


class Patches(Protocol):
    """What is used of `Patching` here."""

    def on_uninstall(self, undo: Callable[[], object]) -> None: ...


def held_lock() -> LockType:
    """A lock that is taken: acquiring it waits for somebody to release it. Never a patched one."""
    lock = allocate_lock()
    lock.acquire()
    return lock


def real(value: Any) -> float:
    """A number of seconds as the interpreter's own functions take it: with a fraction only as a float; since 3.15, as
    any real number (a Fraction, a Decimal). Raises TypeError with their words."""
    if isinstance(value, int | float):
        return value
    return math.ldexp(value, 0) if sys.version_info >= (3, 15) else operator.index(value)


def checked_timeout(timeout: Any) -> float:
    """A timeout that is not None, as a number >= 0. Raises what a lock would raise for it, with its words."""
    if not timeout > 0:
        return 0.0
    allocate_lock().acquire(True, timeout)  # free, so this only looks at its argument
    return float(real(timeout))


class Remaining:
    """How much longer to wait: the caller's own timeout, and what the scopes around have left."""

    __slots__ = ("_until",)

    def __init__(self, timeout: float | None) -> None:
        self._until = None if timeout is None else _clock.monotonic() + timeout

    @property
    def own(self) -> float:
        """Seconds left of the caller's own timeout; `inf` without one."""
        return math.inf if self._until is None else max(0.0, self._until - _clock.monotonic())

    def seconds(self) -> float | None:
        """The lesser of the two; None for no limit."""
        left = min(self.own, _time_left.time_remaining())
        return None if left == math.inf else left


def wait(woken: LockType, timeout: float | None, still_waiting: Callable[[], bool] = lambda: True) -> bool:
    """Acquire `woken`, which somebody else releases, within `timeout` seconds (None: no limit); False if they passed.

    For a thread inside a scope, holding no lock that a callback might want. Raises `Cancelled` when a scope around is
    cancelled; whether `woken` had been released as well is then for the caller to find out. After an alarm whose
    handler returned it goes on, unless `still_waiting()` says that `woken` had been released as well.
    """
    wakings: list[None] = []

    def wake() -> None:
        wakings.append(None)
        release(woken)

    registration = _registration.on_cancel(wake)
    remaining = Remaining(timeout)
    try:
        while True:
            got = _clock.wait(woken, remaining.seconds())
            _around.raise_if_cancelled()
            if got and wakings:
                wakings.clear()
                got = not still_waiting()
            if got or not remaining.own:
                return got
    finally:
        registration.unregister()


def called_by_asyncio(frame: FrameType) -> bool:
    """Whether `frame`, a caller's, is asyncio's own: it waits for tasks, which have a cancellation of their own."""
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.startswith("asyncio.")


def called_by_library(frame: FrameType) -> bool:
    """Whether `frame`, a caller's, is code whose locks and queues are its own business."""
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and is_library(name)


def is_debugger(module: object) -> bool:
    """Whether a module, by name, is a debugger's: a thread that is in there is in somebody's hands."""
    return isinstance(module, str) and module.partition(".")[0] in DEBUGGERS


def is_library(module: str) -> bool:
    """The standard library, ours, and the packages in which nothing may be interrupted half way (`PROTECTED`)."""
    package = module.partition(".")[0]
    return package in PROTECTED or package in sys.stdlib_module_names


def raised_by_alarm(exc: BaseException) -> bool:
    """Whether it is what the handler of an alarm raised."""
    traceback = exc.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_globals.get("__name__") == "threadsafe_timeout._interruption.alarm":
            return True
        traceback = traceback.tb_next
    return False


def replace_attribute(patching: Patches, owner: Any, name: str, new: Callable[..., Any]) -> None:
    """Put the function `new` where the class attribute `owner.name` is, inherited or its own.

    A plain function, because what is patched here is called too often for wrapt (0.1 against 0.6 µs). What somebody
    else has put on top by the time of the undoing stays; below it, ours does nothing outside scopes.
    """
    before, original = vars(owner).get(name, _INHERITED), getattr(owner, name)
    functools.update_wrapper(new, original, updated=())
    new = fitting(original, new)

    def undo() -> None:
        if vars(owner).get(name) is not new:
            return
        if before is _INHERITED:
            delattr(owner, name)
        else:
            setattr(owner, name, before)

    setattr(owner, name, new)
    patching.on_uninstall(undo)
