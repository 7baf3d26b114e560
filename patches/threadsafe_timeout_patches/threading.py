"""`threading`: waits end with the scope around them.

Everything in `threading`, `queue` and `concurrent.futures` that waits in Python code waits in `Condition.wait`:
Event, Semaphore, Barrier, Queue, Future. So that is what is patched, and nothing that does not block.

Guarantees:

- A cancelled waiter holds the condition's lock again when `Cancelled` leaves `wait`, as with any other exception. The
  scope's own locks are taken while it is released: there is no order between them and anybody's.
- A notification that meets a waiter just as it is cancelled goes on to the next one. (That may be one more than were
  sent. A notified thread checks again what it waits for; an Event, which does not, is left out: it notifies all.)
- A barrier that a cancelled party was waiting at is broken, as after a timeout: the others would wait for ever.
- `Thread.start` waits for the thread to begin, however cancelled the scope is: a start is never half done.
- A thread that a debugger has stopped goes on when the debugger says so, not when its deadline passes.
- With `thread_inherit_context` a thread inherits the scopes it is started in; in clean-up, what is left of the grace. A
  thread that the standard library or an installed package starts for itself (to feed a queue, to listen to one, to
  export metrics) does not: it happens to begin in a scope, and others need it when that is cancelled.

Not guaranteed: `wait` cannot raise before it has its lock back. Who holds that for ever holds the waiter too.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from sys import _getframe
from types import CodeType, FrameType, ModuleType
from typing import Any

from threadsafe_timeout._introspection.frames import is_installed
from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._scopes.catchable import CANCELLED
from threadsafe_timeout._timing.daemon_thread import DaemonThread, threads_inherit
from threadsafe_timeout_patches._waiting import (
    Remaining,
    called_by_asyncio,
    checked_timeout,
    held_lock,
    is_debugger,
    release,
    replace_attribute,
    wait,
)

__all__ = ["MODULES", "apply"]

MODULES = ("threading",)

_JOINERS = "_threadsafe_timeout_joiners"  # in a thread's __dict__: a deque of the locks its joiners wait for
_Wrapped = Callable[..., Any]


def apply(module: ModuleType, patching: Patching) -> None:
    _patch_condition(module, patching)
    _patch_barrier(module, patching)
    _patch_join(module, patching)
    if threads_inherit():
        _patch_start(module, patching)


def _patch_condition(module: ModuleType, patching: Patching) -> None:
    original, current_scope = module.Condition.wait, _around.current_scope
    event_wait, thread_start = module.Event.wait.__code__, module.Thread.start.__code__

    def condition_wait(self: Any, timeout: float | None = None) -> bool:
        if current_scope() is None:
            return original(self, timeout)  # type: ignore[no-any-return]  # the original is untyped
        callers, modules = _callers(_getframe(1))
        if thread_start in callers or any(map(is_debugger, modules)):
            return original(self, timeout)  # type: ignore[no-any-return]
        return _wait_in_scope(self, timeout, pass_on=event_wait not in callers)

    replace_attribute(patching, module.Condition, "wait", condition_wait)


def _callers(frame: FrameType | None) -> tuple[list[CodeType], list[object]]:
    """Who calls, and from which modules, from the inside out: as many as there may be if somebody has put a wrapper
    on top of ours. No frames: with what is raised in them, they would be a cycle."""
    codes: list[CodeType] = []
    modules: list[object] = []
    while frame is not None and len(codes) < 5:
        codes.append(frame.f_code)
        modules.append(frame.f_globals.get("__name__"))
        frame = frame.f_back
    return codes, modules


def _wait_in_scope(condition: Any, timeout: Any, *, pass_on: bool) -> bool:
    """The original's steps; what differs is where it waits, and what it does when it was notified and cancelled."""
    if not condition._is_owned():
        raise RuntimeError("cannot wait on un-acquired lock")
    waiter = held_lock()
    condition._waiters.append(waiter)
    saved = condition._release_save()
    got = cancelled = False

    def still_waiting() -> bool:
        condition._acquire_restore(saved)
        try:
            return waiter in condition._waiters
        finally:
            condition._release_save()

    try:
        got = wait(waiter, None if timeout is None else checked_timeout(timeout), still_waiting)
        return got
    except BaseException:  # Cancelled, or what an alarm's handler raised
        got, cancelled = False, True
        raise
    finally:
        condition._acquire_restore(saved)
        if not got:
            try:
                condition._waiters.remove(waiter)
            except ValueError:  # notified after all
                if cancelled and pass_on:
                    condition.notify()


def _patch_barrier(module: ModuleType, patching: Patching) -> None:
    original = module.Barrier._wait

    def barrier_wait(self: Any, timeout: float | None) -> None:
        try:
            original(self, timeout)
        except CANCELLED:
            if self._state == 0:  # still filling; and its lock is held here
                self._break()
            raise

    replace_attribute(patching, module.Barrier, "_wait", barrier_wait)


def _patch_join(module: ModuleType, patching: Patching) -> None:
    original, current_scope = module.Thread.join, _around.current_scope
    original_delete = module.Thread._delete

    def join(self: Any, timeout: float | None = None) -> None:
        if current_scope() is None or called_by_asyncio(_getframe(1)):
            original(self, timeout)
        else:
            _join_in_scope(original, self, timeout)

    def delete(self: Any) -> None:
        original_delete(self)
        for waiter in tuple(self.__dict__.get(_JOINERS, ())):
            release(waiter)

    replace_attribute(patching, module.Thread, "join", join)
    replace_attribute(patching, module.Thread, "_delete", delete)


def _join_in_scope(original: _Wrapped, thread: Any, timeout: Any) -> None:
    if not thread._initialized or not thread.is_alive() or thread is threading.current_thread():
        original(thread, timeout)  # it is over at once, with an error or without
        return
    if timeout is not None:
        timeout = max(timeout, 0)
        if math.isnan(timeout):
            original(thread, timeout)  # which is an error here, and not for a condition
        timeout = checked_timeout(timeout)
    remaining = Remaining(timeout)
    if thread is threading.main_thread():
        _join_end(original, thread, remaining)  # which does not end the way other threads do: capped, not woken
    elif _wait_for_delete(thread, timeout):
        _join_end(original, thread, remaining)


def _wait_for_delete(thread: Any, timeout: float | None) -> bool:
    """Wait for the last Python code that a thread runs, which takes it off the list of threads; False: timed out.

    How the interpreter itself waits for a thread (a lock that C code releases, and from 3.13 on not even that) can not
    be woken without telling everybody that the thread has ended.
    """
    joiners: deque[Any] = thread.__dict__.setdefault(_JOINERS, deque())
    waiter = held_lock()
    # First join the queue, then look whether it is on the list: it leaves the list first, then looks at the queue.
    joiners.append(waiter)

    def is_listed() -> bool:
        # Limbo first: one that was started just now goes from there to the list in one step.
        listed = thread in threading._limbo or threading._active.get(thread.ident) is thread  # type: ignore[attr-defined]
        return bool(listed)

    try:
        return not is_listed() or wait(waiter, timeout, is_listed)
    finally:
        joiners.remove(waiter)


def _join_end(original: _Wrapped, thread: Any, remaining: Remaining) -> None:
    while thread.is_alive():
        original(thread, remaining.seconds())
        _around.raise_if_cancelled()
        if not remaining.own:
            return


def _patch_start(module: ModuleType, patching: Patching) -> None:
    original, current_scope = module.Thread.start, _around.current_scope

    def start(self: Any) -> None:
        if current_scope() is None or isinstance(self, DaemonThread):  # which has a context of its own
            original(self)
            return
        # A thread that was given no context copies the one that this is called in.
        context = _shield.context_outside() if _serves_a_package(self) else _shield.context_for_children()
        context.run(original, self)

    replace_attribute(patching, module.Thread, "start", start)


def _serves_a_package(thread: Any) -> bool:
    """Whether what a thread runs is private to the standard library or an installed package, and not what the program
    gave it to run."""
    function = type(thread).run
    named = function is threading.Thread.run
    if named:
        function = getattr(thread, "_target", None)
    code = getattr(function, "__code__", None)
    if code is None or not is_installed(code.co_filename):
        return False
    if not named:
        return bool(function.__module__ != "threading")  # a Timer runs what it was given
    names = f"{function.__module__}.{function.__qualname__}".split(".")
    return any(name.startswith("_") and not name.startswith("__") for name in names)
