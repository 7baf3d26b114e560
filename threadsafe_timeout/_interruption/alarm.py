"""An alarm set in one thread: what `signal.alarm()` is off the main thread.

Guarantees:

- The handler runs in the thread that set the alarm, where a scope's `Cancelled` could be raised: at a cooperative
  point, in a patched wait (which is woken for it, and goes on if the handler returns), or, in busy Python code, by the
  interrupt. What it raises is raised there.
- Once per expiry, as a signal would: an exception that somebody swallows is not raised again.
- Never after the alarm was unset; unset returns when the handler is not running, because it is the same thread.
- If it cannot run, because a pool's task is stuck in a call that nothing interrupts, and it looks as if it would raise,
  it counts as the task's deadline: one `grace` later the task is cancelled, after another it is given up.
- Never in a child thread or a task that inherited the context.
- Never outside what set it. There is no `with` block, so that is: the innermost function that is on the stack now and
  was when the alarm was set. An alarm that is found to have outlived it (what is left is the machinery that runs
  threads and pools) is dropped, and the log says so. One that was set within a scope ends with that.

It is a scope without a block: it stands in the context where scopes do, so all that waits on behalf of scopes waits on
its behalf as well. It has no deadline, though, that would cap a wait: its handler may return.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator
from signal import SIG_DFL, SIGALRM
from sys import _getframe
from threading import get_ident
from types import FrameType, FunctionType
from typing import Any

from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._interruption.code_map import code_map
from threadsafe_timeout._introspection.frames import frames_of_others
from threadsafe_timeout._scopes.around import ACTIVE, DONE, current, workers
from threadsafe_timeout._scopes.clean_up import NOBODY
from threadsafe_timeout._scopes.scope import CancelScope
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

__all__ = ["Alarm", "Handler", "unset_all"]

Handler = Callable[[int, FrameType | None], Any] | int | None

_logger = logging.getLogger("threadsafe_timeout")
_set: set[Alarm] = set()  # guarded by _timer.lock
_OURS = frozenset({"threadsafe_timeout", "threadsafe_timeout_patches"})
# When only these are left of what was running, the thread has gone on to something else.
_RUNS_TASKS = frozenset({"concurrent", "multiprocessing", "threading"})


_LOOKS = 10  # in one grace, at a thread that does not take its alarm


class Alarm(CancelScope):
    """One alarm of the calling thread, set on construction: in `seconds`, and then every `interval` seconds (0: once).

    `handler` is what a signal's handler can be; it may be replaced while this is set. `before`: the alarm it replaces.
    """

    __slots__ = ("_armed_in", "_due", "_expiries", "_interval", "_when", "handler")
    _once = True

    def __init__(self, seconds: float, interval: float, handler: Handler, before: Alarm | None = None) -> None:
        self.name = None
        self._deadline = math.inf
        self._delivered = NOBODY
        self.cancelled_caught = False
        self._budget = self._reason = self._callbacks = self._frame = self._reset = None
        self._extras = self._task_cancellation = None
        self._entered_by = -1
        self._thread = get_ident()
        self.handler = handler
        self._interval = interval
        self._due = False  # guarded by _timer.lock
        self._expiries = 0  # that found it not due; guarded by _timer.lock
        # The functions that are running. They are the same ones later if they are the same objects, so these are kept
        # until the alarm is unset.
        self._armed_in = tuple(_stack())
        self._parent = scope = current.get()
        while isinstance(scope, Alarm):  # unset while a scope was inside it, or another thread's
            self._parent = scope = scope._parent
        self._entered_at = _clock.monotonic()
        self._when = self._entered_at + seconds
        current.set(self)
        with _timer.lock:
            _set.add(self)
            if before is not None and before._callbacks:
                # It is set by the handler of the one before, while the thread is in a wait, which is to hear of it too.
                self._callbacks, before._callbacks = before._callbacks, None
                for registration in self._callbacks:
                    registration._scopes.append(self)
            self._entry = _timer.arm(self._when, self._fire)

    # A child thread that inherited the context sees an alarm that was left. The timer thread acts for this one.

    @property
    def _cancelled(self) -> bool:  # type: ignore[override]  # an attribute of scopes, where it need not be computed
        return self._due and self._is_here()

    @property
    def _state(self) -> int:  # type: ignore[override]  # the same
        return ACTIVE if self._armed_in and self._is_here() else DONE

    def _is_here(self) -> bool:
        return get_ident() == self._thread or _timer.in_timer_thread()

    def remaining(self) -> tuple[float, float]:
        """Seconds until it goes off (0: it has), and the interval."""
        if self._entry is None:
            return 0.0, 0.0
        return max(0.0, self._when - _clock.monotonic()), self._interval

    def unset(self) -> None:
        """Once this returns its handler is not run any more."""
        with _timer.lock:
            _set.discard(self)
            self._armed_in = ()
            self._due = False
            if self._entry is not None:
                _timer.disarm(self._entry)
                self._entry = None
        _pursuit.dismiss(self)
        if current.get() is self:
            current.set(self._parent)

    _unset = unset

    def _fire(self) -> None:
        """In the timer thread."""
        with _timer.lock:
            if not self._armed_in:
                return  # unset while it was being taken off the heap
            if self._interval:
                # Those that were missed count as one with this, as signals do.
                missed = (_clock.monotonic() - self._when) // self._interval
                self._when += self._interval * (1 + max(0, missed))
                self._entry = _timer.arm(self._when, self._fire)
            else:
                self._entry = None
        if not callable(self.handler):
            if self.handler == SIG_DFL:
                self._warn("its handler was SIG_DFL, which would have ended the process, so it did nothing")
            self._drop_if_over()
        elif self._has_outlived():
            self._drop()
        else:
            with _timer.lock:
                first = not self._due
                self._due = bool(self._armed_in)
                self._expiries += first
                callbacks = list(self._callbacks or ()) if self._due else []
            for registration in callbacks:
                registration.run()
            _pursuit.pursue(self)
            if first and self._will_raise():
                self._watch_stuck(self._expiries, None, 0)
            if not self._due:  # its handler ran meanwhile
                _pursuit.dismiss(self)

    def _watch_stuck(self, expiry: int, before: tuple[int, int] | None, still: int) -> None:
        """In a pool's task: if it has not been delivered for one `grace`, and the thread has not moved between any two
        looks, it never will be. What set it wanted an end: so it is the task's deadline, and the pool has a way out.

        A thread that moves gets it from the interrupt, or at its next wait, however late.
        """
        task = self._task()
        with frames_of_others() as frames:
            at = _place(frames.get(self._thread))
        with _timer.lock:
            if task is None or at is None or not self._due or expiry != self._expiries:
                return
            still = still + 1 if at == before else 0
            if still < _LOOKS:
                look = functools.partial(self._watch_stuck, expiry, at, still)
                _timer.arm(_clock.monotonic() + task._crew.grace / _LOOKS, look)
                return
        task.hurry("an alarm of its own went off and cannot reach it: its thread is in a call that nothing interrupts")

    def _task(self) -> Any:
        """The pool's task in which it was set, or None."""
        scope = self._parent
        while scope is not None:
            task = getattr(scope, "task", None)
            if task is not None:
                return task
            scope = scope._parent
        worker = workers.get(self._thread)  # the context may be a copy of one from elsewhere
        return getattr(worker.scope_in_force(), "task", None) if worker is not None else None

    def _has_outlived(self) -> bool:
        """Whether it surely has. A thread that moves while its stack is walked may seem to; it will find out itself."""
        with frames_of_others(self._thread) as frames:
            if not frames:
                return False  # without the GIL nobody can tell from outside
            return not self._reaches(frames.get(self._thread)) and self._is_still(frames.get(self._thread))

    def _is_still(self, frame: FrameType | None) -> bool:
        with frames_of_others() as frames:
            return frames.get(self._thread) is frame

    def _drop(self) -> None:
        self.unset()
        self._warn("what had set it was no longer running, so it was dropped")

    def _drop_if_over(self) -> None:
        if self._entry is None:
            self.unset()

    def _deliver(self, frame: FrameType | None = None) -> None:
        if frame is None:
            frame = next(_stack(), None)
        with _timer.lock:
            due, self._due = self._due, False
        _pursuit.dismiss(self)
        if not due:
            return
        if not self._reaches(frame):
            self._drop()
            return
        self._drop_if_over()
        handler = self.handler
        if callable(handler):  # and still not SIG_IGN
            handler(int(SIGALRM), frame)

    def _reaches(self, frame: FrameType | None) -> bool:
        """Whether a function that was running when it was set, or one that called it, is still running at `frame`."""
        while frame is not None:
            if frame in self._armed_in:
                return str(frame.f_globals.get("__name__")).partition(".")[0] not in _RUNS_TASKS
            frame = frame.f_back
        return False

    def _is_over(self, frame: FrameType | None) -> bool:
        return not self._reaches(frame)

    def _will_raise(self) -> bool:
        """Whether the handler looks as if it would: a `raise` in it, or in what it calls by name."""
        return _has_raise(self.handler, 3)

    def _warn(self, what: str) -> None:
        name = next((thread.name for thread in threading.enumerate() if thread.ident == self._thread), "that ended")
        _logger.warning(
            "threadsafe-timeout: an alarm of thread %s went off and %s; call signal.alarm(0) when what it was for is "
            "done, before the old handler is put back",
            shown(name), what, extra={"event": "alarm"},
        )  # fmt: skip


def _place(frame: FrameType | None) -> tuple[int, int] | None:
    return None if frame is None else (id(frame), frame.f_lasti)


def _stack() -> Iterator[FrameType]:
    """The frames of this thread, from the inside outwards, without this library's."""
    frame: FrameType | None = _getframe(1)
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _OURS:
            yield frame
        frame = frame.f_back


def _has_raise(function: object, depth: int) -> bool:
    if isinstance(function, functools.partial):
        function = function.func
    elif not inspect.isroutine(function):
        function = getattr(type(function), "__call__", None)  # noqa: B004  # not whether, but which
    function = inspect.unwrap(getattr(function, "__func__", function))  # type: ignore[arg-type]  # any object will do
    if not isinstance(function, FunctionType):
        return False
    code = function.__code__
    if "RAISE_VARARGS" in code_map(code).names.values():
        return True
    called = [function.__globals__.get(name) for name in code.co_names]
    called += [cell.cell_contents for cell in function.__closure__ or ()]
    return depth > 0 and any(_has_raise(inner, depth - 1) for inner in called if inspect.isroutine(inner))


def unset_all() -> None:
    """Unset the alarms of every thread."""
    for alarm in list(_set):
        alarm.unset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=unset_all)  # a child inherits no alarms
