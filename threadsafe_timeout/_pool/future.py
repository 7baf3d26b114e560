"""A standard future that costs less to make and to settle.

Guarantees:

- It is a `concurrent.futures.Future` for whoever asks: `wait`, `as_completed`, callbacks and asyncio work with it.
- Its condition is a lock with a list of waiters that is made when somebody waits: most futures of a batch are done
  before anybody does. All changes of state are made under it; the state is written last, and reading it takes no lock.
- `result` and `exception` end when a scope around the waiter is cancelled.
- `wait_expired` says whether somebody's wait with a timeout ended without it: `result`, `exception`, `wait` or
  `as_completed`, which take their waiters off the future when they end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures._base import (
    CANCELLED,
    CANCELLED_AND_NOTIFIED,
    FINISHED,
    LOGGER,
    PENDING,
    RUNNING,
    _AsCompletedWaiter,  # private, the same since 3.2, and asked for its class only
)
from sys import _getframe
from threading import Lock, RLock
from types import FrameType
from typing import Any

from threadsafe_timeout._checks import check_wait
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout._timing import clock as _clock

__all__ = ["CANCELLED", "FINISHED", "LOGGER", "PENDING", "RUNNING", "FutureCondition", "LightFuture"]

_reentrant: Any = type(RLock())


class FutureCondition(_reentrant):  # type: ignore[misc]  # the class of an RLock has no name to import
    """What `concurrent.futures` uses of a `threading.Condition`, at an eighth of what one costs to make. It keeps the
    future's waiters, too. The lists are guarded by the lock that it is."""

    waiting: list[Any] | None = None  # a lock for each thread that waits, held until it is notified
    installed: _Waiters | None = None

    def wait(self, timeout: float | None = None) -> bool:
        woken = Lock()
        woken.acquire()
        if self.waiting is None:
            self.waiting = []
        self.waiting.append(woken)
        saved = self._release_save()
        notified = False
        try:
            notified = _clock.wait(woken, timeout)
            return notified
        finally:
            self._acquire_restore(saved)
            if not notified and woken in self.waiting:
                self.waiting.remove(woken)

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        until = None if timeout is None else _clock.monotonic() + timeout
        while not (result := predicate()):
            left = None if until is None else until - _clock.monotonic()
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        for woken in (self.waiting or ())[:n]:
            if woken.locked():  # else something was thrown at who notified it, here
                woken.release()
        del (self.waiting or [])[:n]

    def notify_all(self) -> None:
        self.notify(sys.maxsize)


class _Waiters(list[Any]):
    """A future's waiters. It notes when one is taken out before the future is done."""

    expired = False
    looked_at = False  # it was no time limit: the timeout was 0, or there was another wait
    told = 0  # how many of them know that the future is finished

    def remove(self, waiter: Any) -> None:
        """What `wait` and `as_completed` end with, for each future."""
        if _expired(waiter):
            self.looked_at = self.looked_at or self.expired or _was_a_look(_getframe(1))
            self.expired = True
        super().remove(waiter)


def _expired(waiter: Any) -> bool:
    """Whether who removes its waiter does so because its timeout passed."""
    if isinstance(waiter, _AsCompletedWaiter):
        # Its generator is being closed, or it raises its TimeoutError right now.
        return isinstance(sys.exc_info()[1], TimeoutError)
    return not waiter.event.is_set()


def _was_a_look(waiting: FrameType) -> bool:
    """Whether `wait` or `as_completed`, in that frame, had no time to wait at all."""
    timeout = waiting.f_locals.get("timeout")
    return timeout is not None and timeout <= 0


_DONE = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})


class LightFuture(Future[Any]):
    """See the module."""

    # Not Future.__init__(): defaults of the class cost nothing. All guarded by the condition.
    _state: str = PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _done_callbacks: Any = ()  # a list as soon as there is one
    _given_up = False
    _looked_at = False  # see `_Waiters`
    _told = False  # that it is finished: those who waited

    def __init__(self) -> None:
        self._condition: Any = FutureCondition()

    @property
    def _waiters(self) -> Any:  # type: ignore[override]  # an attribute of the standard class
        if self._state == FINISHED and not self._told:
            self._notify(again=True)  # those who wait from now on see for themselves, and are not to be told
        condition = self._condition
        if condition.installed is None:
            condition.installed = _Waiters()
        elif self._state not in _DONE and self.wait_expired:
            self._looked_at = True
        return condition.installed

    @property
    def wait_expired(self) -> bool:
        """Whether somebody's wait with a timeout ended without it."""
        return self._given_up or getattr(self._condition.installed, "expired", False)

    @property
    def is_past_its_limit(self) -> bool:
        """Whether one wait with a timeout has expired, and that was all that anybody has wanted of it."""
        installed = self._condition.installed
        if self._looked_at or self._done_callbacks or self._condition.waiting:
            return False
        if installed is not None and (installed.looked_at or len(installed) > installed.told):
            return False
        return self.wait_expired

    # Reading one attribute needs no lock; it only ever goes forward.

    def cancelled(self) -> bool:
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        return self._state == RUNNING

    def done(self) -> bool:
        return self._state in _DONE

    def result(self, timeout: float | None = None) -> Any:
        try:
            if timeout is not None:
                timeout = check_wait("timeout", timeout)
            if self._state not in _DONE:
                self._await(timeout)
            if self._state != FINISHED:
                raise CancelledError()
            if self._exception is not None:
                raise self._exception
            return self._result
        finally:
            del self  # it would be a cycle: the future, its exception, the traceback, this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if timeout is not None:
            timeout = check_wait("timeout", timeout)
        if self._state not in _DONE:
            self._await(timeout)
        if self._state != FINISHED:
            raise CancelledError()
        return self._exception

    def _await(self, timeout: float | None) -> None:
        """Wait until the future is done. Raises TimeoutError, and `Cancelled` in a cancelled scope."""
        if self.wait_expired or (timeout is not None and timeout <= 0):
            self._looked_at = True
        scoped = _around.current_scope() is not None
        registration = _registration.on_cancel(self._wake) if scoped else None
        until = None if timeout is None else _clock.monotonic() + timeout
        try:
            condition = self._condition
            while self._state not in _DONE:
                with condition:
                    while self._state not in _DONE and not (scoped and _around.cancel_pending()):
                        left = None if until is None else until - _clock.monotonic()
                        if left is not None and left <= 0:
                            break
                        condition.wait(left)
                if self._state not in _DONE:
                    _around.raise_if_cancelled()  # returns after an alarm
                    if until is not None and until <= _clock.monotonic():
                        self._given_up = True
                        raise FutureTimeoutError
        finally:
            if registration is not None:
                registration.unregister()

    def _wake(self) -> None:
        condition = self._condition
        with condition:
            condition.notify_all()

    def _notify(self, *, again: bool = False) -> None:
        """Tell those who wait that it is finished. The caller holds the condition. `again`: where it was cut short."""
        condition = self._condition
        waiters = condition.installed
        while waiters is not None and waiters.told < len(waiters):
            waiter = waiters[waiters.told]
            if not again or self not in waiter.finished_futures:
                (waiter.add_result if self._exception is None else waiter.add_exception)(self)
            waiters.told += 1
        condition.notify_all()
        self._told = True

    def finish_telling(self) -> None:
        """After an exception was thrown at the thread that finished it: wake the waiters that it had not woken."""
        with self._condition:
            if not self._told:
                self._notify(again=True)
        self._invoke_callbacks()

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        with self._condition:
            if self._state not in _DONE:
                self._done_callbacks = [*self._done_callbacks, fn]
                return
        try:
            fn(self)
        except Exception:
            LOGGER.exception("exception calling callback for %r", self)

    def _invoke_callbacks(self) -> None:
        # One by one: if something is thrown at this thread in between, whoever cleans up calls the others.
        while self._done_callbacks:
            callback = self._done_callbacks.pop(0)
            try:
                callback(self)
            except Exception:
                LOGGER.exception("exception calling callback for %r", self)
