"""`threading.Lock` and `RLock`: taking one ends with the scope around it. Opt-in: `patches="+locks"`.

A lock is written in C and waits in C, where nothing wakes it but its release. So what `threading.Lock()` and
`threading.RLock()` make while this is installed is a stand-in around the real one: it takes that without waiting if it
is free, and only a thread inside a scope that finds it taken waits in a queue of the stand-in's, where a cancellation
reaches it. A release wakes the first of them. As with a real lock, a thread that comes at the right moment may be
faster.

Why opt-in, three reasons:

- `with lock:` around a clean-up that used to be sure to run may raise. So that it does not in practice, a wait is given
  up only when the lock could not be had within `PATIENCE` seconds of the cancellation: a lock that is merely busy is
  waited for as ever. One that is held for longer is what this is for.
- A real lock is taken and its `with` entered in one step. Here Ctrl-C may strike between the two, in Python code, and
  leave the lock taken, as it may with `threading.Condition`.
- Taking and releasing it costs 1.5 times as much (see docs/blocking-calls.md).

Guarantees:

- What the standard library and the packages in `PROTECTED` make are real locks; so are those made before `install()`.
- A cancelled waiter does not hold the lock, and those behind it in the queue get the lock all the same.
- `Condition` over a stand-in takes it back whatever is cancelled: `_acquire_restore` waits as ever.
"""

from __future__ import annotations

import math
from _thread import LockType, allocate_lock
from _thread import RLock as RealRLock
from collections import deque
from contextlib import suppress
from functools import partial
from operator import contains
from sys import _getframe
from types import ModuleType
from typing import Any

from threadsafe_timeout._errors import Cancelled
from threadsafe_timeout._patching.install import Patching, rebind
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes.catchable import library_call
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout_patches._waiting import (
    called_by_library,
    checked_timeout,
    held_lock,
    is_library,
    release,
    wait,
)

__all__ = ["MODULES", "OPT_IN", "PATIENCE", "apply"]

MODULES = ("threading",)
OPT_IN = True

PATIENCE = 0.5  # seconds a lock may be busy after the cancellation
_current_scope = _around.current_scope


def apply(module: ModuleType, patching: Patching) -> None:
    now: dict[int, tuple[Any, Any]] = {}
    for name, new in (("Lock", _Lock), ("RLock", _RLock)):
        old = getattr(module, name)
        setattr(module, name, new)
        patching.on_uninstall(partial(setattr, module, name, old))
        now[id(old)] = old, new
    # Not everywhere, as Patching.replace does: up to 3.12 Condition makes its waiters' locks with this function.
    rebind(now, is_library)
    patching.on_uninstall(partial(rebind, {id(new): (new, old) for old, new in now.values()}, is_library))


class _Kind(type):
    """`isinstance(x, type(threading.Lock()))` is true of real locks too, and their makers get real ones."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls.__dict__.get("_make") is not None and called_by_library(_getframe(1)):
            return cls.__dict__["_make"](*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def __instancecheck__(cls, instance: Any) -> bool:
        return super().__instancecheck__(instance) or (
            cls.__dict__.get("_make") is not None and type(instance) is cls.__dict__["_real"]
        )


class _StandIn(metaclass=_Kind):
    __slots__ = ("__weakref__", "_lock", "_take", "_waiting")
    _real: Any
    _make: Any

    def __init__(self) -> None:
        self._lock: Any = self._make()
        self._take = self._lock.acquire
        self._waiting: deque[LockType] = deque()  # needs no lock: whatever is done to it is one step of the deque's

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking and timeout == -1:
            return self._take(False) or self._wait(None)
        if not blocking or _current_scope() is None:
            return self._take(blocking, timeout)  # type: ignore[no-any-return]  # the C lock's
        self._make().acquire(True, timeout)  # free: it only looks at the timeout, and raises what is wrong with it
        return self._take(False) or self._wait(checked_timeout(timeout))

    def __enter__(self) -> bool:
        return self._take(False) or self._wait(None)

    def release(self) -> None:
        self._lock.release()
        if self._waiting:
            self._wake_one()

    def __exit__(self, kind: Any, exc: Any, traceback: Any) -> None:
        self._lock.release()
        if self._waiting:
            self._wake_one()

    def _wake_one(self) -> None:
        try:
            release(self._waiting.popleft())
        except IndexError:  # another was faster
            pass

    def _wait(self, timeout: float | None) -> bool:
        """Take the lock, which was taken a moment ago."""
        if _current_scope() is None:
            return self._take(True, -1 if timeout is None else timeout)  # type: ignore[no-any-return]
        with library_call():
            return self._wait_in_scope(timeout)

    def _wait_in_scope(self, timeout: float | None) -> bool:
        until = math.inf if timeout is None else _clock.monotonic() + timeout
        patient = math.inf  # how long it may still be busy, once there was a cancellation
        while True:
            waiter, taken = held_lock(), False
            # First into the queue, then try: who releases it releases first, then looks into this queue.
            self._waiting.append(waiter)
            try:
                taken = self._take(False) or (self._sleep(waiter, until, patient) and self._take(False))
            except Cancelled:
                patient = min(patient, _clock.monotonic() + PATIENCE)
            except BaseException:  # what an alarm's handler raised
                if waiter not in self._waiting:
                    self._wake_one()  # it was this one's turn: now it is the next one's
                raise
            finally:
                with suppress(ValueError):  # ValueError: it was woken
                    self._waiting.remove(waiter)
            # Tried once more by whoever leaves, so no wake-up is lost with him: if it is not free, its holder's release
            # wakes the next one.
            if taken or self._take(False):
                return True
            now = _clock.monotonic()
            if now >= patient:
                _around.raise_if_cancelled()
            if now >= until:
                return False

    def _sleep(self, waiter: LockType, until: float, patient: float) -> bool:
        left = min(until, patient) - _clock.monotonic()
        if patient == math.inf:
            return wait(waiter, None if left == math.inf else max(0.0, left), partial(contains, self._waiting, waiter))
        return _clock.wait(waiter, left)  # cancelled, and known to be

    def _release_save(self) -> Any:
        return self.release()

    def _acquire_restore(self, state: Any) -> None:
        self._take()

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()
        self._waiting.clear()

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle '{self._real.__module__}.{self._real.__qualname__}' object")

    def __repr__(self) -> str:
        return repr(self._lock)


class _Lock(_StandIn):
    """A stand-in for a lock of `_thread`."""

    __slots__ = ()
    _real, _make = LockType, staticmethod(allocate_lock)

    def locked(self) -> bool:
        return self._lock.locked()  # type: ignore[no-any-return]

    acquire_lock, release_lock, locked_lock = _StandIn.acquire, _StandIn.release, locked

    def _is_owned(self) -> bool:
        # What Condition does with a lock that has no owner.
        if self._take(False):
            self.release()
            return False
        return True


class _RLock(_StandIn):
    """A stand-in for an RLock of `_thread`."""

    __slots__ = ()
    _real, _make = RealRLock, RealRLock

    def _release_save(self) -> Any:
        state = self._lock._release_save()
        if self._waiting:
            self._wake_one()
        return state

    def _acquire_restore(self, state: Any) -> None:
        self._lock._acquire_restore(state)

    def _is_owned(self) -> bool:
        return self._lock._is_owned()  # type: ignore[no-any-return]

    def _recursion_count(self) -> int:
        return self._lock._recursion_count()  # type: ignore[no-any-return]

    if hasattr(RealRLock, "locked"):  # since 3.14

        def locked(self) -> bool:
            return self._lock.locked()  # type: ignore[no-any-return, attr-defined, unused-ignore]


for _cls, _name in ((_Lock, "lock"), (_RLock, "RLock")):
    _cls.__name__ = _cls.__qualname__ = _name
    _cls.__module__ = "_thread"
