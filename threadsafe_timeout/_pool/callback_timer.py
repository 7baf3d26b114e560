"""`Timer`: what `threading.Timer` does, at the price of one thread for all timers that wait.

Guarantees:

- A timer that waits is an entry in the heap of the one timer thread (see `timer`), and no thread of its own.
- Its function never runs on that thread, so one that blocks holds up neither a deadline nor another timer: when the
  time has come the timer becomes a thread, as the standard one is from its start.
- `cancel()` before that, from any thread, and the function does not run.
- The exit of the interpreter waits for timers that are no daemons, as it does for the standard ones; after Ctrl-C it
  does not.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from typing import Any

from threadsafe_timeout._checks import check_callable, check_seconds
from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout._timing.daemon_thread import DaemonThread, threads_inherit

__all__ = ["Timer"]

_logger = logging.getLogger("threadsafe_timeout")
_AGAIN = 1.0  # seconds until another try to start a thread where there was none to be had

_NEW, _WAITING, _DUE, _OVER = range(4)
_waiting: set[Timer] = set()  # those that wait or are due; guarded by _timer.lock, as is all below
_due: deque[Timer] = deque()  # to be started
_starter: threading.Thread | None = None  # what starts them, while there are any
_problem: RuntimeError | None = None  # why there was no thread to be had
_told = False  # the log has said so
_changed = threading.Condition(_timer.lock)  # notified when a timer leaves `_waiting`, or finds no thread


class Timer(threading.Timer):
    """Call `function(*args, **kwargs)` in `interval` seconds, unless `cancel()` comes first.

    It is a `threading.Timer` that needs no thread while it waits. `start`, `cancel`, `join`, `is_alive`, `daemon`,
    `name`, `args`, `kwargs`, `interval`, `function` and `finished` mean the same. The function runs in a thread that is
    started when the time has come. So it may block, or raise (see `threading.excepthook`), without delaying a deadline.
    It does not run in the scopes of the code that started the timer. To end a task, have it call `scope.cancel()`.

    Differences from the standard class:

    - Until it fires, a timer has no `ident` and is not in `threading.enumerate()`.
    - An interval that is not a number, or a function that cannot be called, raises at once.
    - After Ctrl-C the exit of the interpreter does not wait for it.
    - If no thread can be started when it fires, the log says so, and it tries again each second. At the exit of the
      interpreter the function then runs in the main thread.
    - A subclass with its own `run` gets a thread when it is started, as in `threading`.
    """

    def __init__(
        self,
        interval: float,
        function: Callable[..., object],
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises TypeError or ValueError for an argument that cannot be used, and names it."""
        _seconds(interval)
        check_callable("function", function)
        if args is not None and not isinstance(args, Iterable):
            raise TypeError(f"args must be the function's positional arguments, as a list or a tuple; got {args!r}")
        if kwargs is not None and not isinstance(kwargs, Mapping):
            raise TypeError(f"kwargs must be a dict of the function's keyword arguments, got {kwargs!r}")
        super().__init__(interval, function, args, kwargs)
        self._phase = _NEW  # guarded by _timer.lock
        self._entry: _timer.Entry | None = None  # the same
        self._fired = False
        self._begins_in = Context()  # its thread; guarded by _timer.lock
        self._left = threading.Event()  # it waits no more: it was cancelled, or its thread has begun

    def start(self) -> None:
        """Start the timer. It can be started once."""
        seconds = _seconds(self.interval)
        _tell()
        own_thread = type(self).run is not Timer.run
        context = _shield.context_outside() if threads_inherit() else Context()
        with _timer.lock:
            if self._phase != _NEW:
                raise RuntimeError("threads can only be started once")
            if not own_thread and not self.finished.is_set():
                self._begins_in = context
                self._wait(seconds)
                return
            self._phase = _OVER
        if own_thread:
            try:
                context.run(super().start)
            except RuntimeError:
                self._phase = _NEW
                raise
        self._left.set()

    def _wait(self, seconds: float) -> None:
        """The caller holds `timer.lock`."""
        entry = _timer.arm(_clock.monotonic() + seconds, self._fire)
        if not _timer.is_running():
            _timer.disarm(entry)
            raise RuntimeError("can't start new thread: the one that all timers share could not be started")
        self._phase, self._entry = _WAITING, entry
        _waiting.add(self)

    def cancel(self) -> None:
        """Stop the timer if its function has not been called yet. A function that is running goes on."""
        with _timer.lock:
            self.finished.set()
            if self._phase == _WAITING and self._entry is not None:
                _timer.disarm(self._entry)
                self._leave()

    def run(self) -> None:
        """What the timer's thread does. If you call it directly, it waits first, like that of `threading.Timer`."""
        if not self._fired:
            self.finished.wait(self.interval)
        if not self.finished.is_set():
            self.function(*self.args, **self.kwargs)
        self.finished.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the timer is cancelled or its function has returned, at most `timeout` seconds."""
        if self._phase == _NEW:
            raise RuntimeError("cannot join thread before it is started")
        _tell()
        until = None if timeout is None else _clock.monotonic() + timeout
        if threading.current_thread() is not self and not self._left.wait(timeout):
            return
        if self._started.is_set():  # type: ignore[attr-defined]  # of threads: it became one
            super().join(None if until is None else max(0.0, until - _clock.monotonic()))

    def is_alive(self) -> bool:
        """Whether the timer is waiting or its function is running."""
        return self._phase in (_WAITING, _DUE) or super().is_alive()

    def __repr__(self) -> str:
        state = ("initial", "waiting", "due", "running" if super().is_alive() else "stopped")[self._phase]
        return f"<Timer({self.name!r}, {state}{' daemon' if self.daemon else ''})>"

    def _leave(self) -> None:
        """It waits no more. The caller holds `timer.lock`."""
        self._phase = _OVER
        _waiting.discard(self)
        self._left.set()
        _changed.notify_all()

    def _fire(self) -> None:
        """In the timer thread, which has no time: another one starts this timer's."""
        with _timer.lock:
            if self._phase != _WAITING:
                return  # cancelled while it was being taken off the heap
            if self.finished.is_set():
                self._leave()
                return
            self._phase, self._fired = _DUE, True
            _due.append(self)
        _start_due()

    def _begin(self) -> None:
        """Become a thread. Raises RuntimeError if there is none to be had."""
        if not self._started.is_set():  # type: ignore[attr-defined]  # else who did this was struck just after
            self._begins_in.run(super().start)
        with _timer.lock:
            self._leave()

    def _run_here(self) -> None:
        try:
            self.run()
        except Exception:
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), self)))
        finally:
            with _timer.lock:
                self._leave()

    def _survives_fork(self) -> bool:
        return False  # nor does the thread of a standard one


def _seconds(interval: float) -> float:
    if isinstance(interval, (int, float)) and interval < 0:  # no bool is
        return 0.0  # at once, as ever
    return check_seconds("interval", interval)


def _start_due() -> None:
    global _starter
    with _timer.lock:
        if not _due or (_starter is not None and _starter.is_alive()):
            return
        _starter = DaemonThread(_start_all, "threadsafe-timeout-timers", _starter_ended)
        try:
            _starter.start()
        except RuntimeError as exc:
            _no_thread(exc)


def _start_all() -> None:
    global _starter
    while True:
        with _timer.lock:
            if not _due:
                _starter = None
                return
            timer = _due[0]
        try:
            timer._begin()
        except RuntimeError as exc:
            with _timer.lock:
                _no_thread(exc)
            _tell()
            return
        with _timer.lock:
            if _due and _due[0] is timer:
                _due.popleft()


def _starter_ended() -> None:
    """An exception that was thrown at it may have ended it: another one goes on."""
    with _timer.lock:
        if _starter is not None and _starter.ident == threading.get_ident():
            _timer.arm(_clock.monotonic(), _start_due)


def _no_thread(exc: RuntimeError) -> None:
    """The caller holds `timer.lock`."""
    global _starter, _problem
    _starter = None
    _changed.notify_all()  # the exit runs them
    if not _exit.exiting:
        _problem = exc
        _timer.arm(_clock.monotonic() + _AGAIN, _start_due)


def _tell() -> None:
    """Say so, once. Without the lock, which a log handler may want, and not in the timer thread, which has no time."""
    global _problem, _told
    with _timer.lock:
        problem, _problem = _problem, None
        if problem is None or _told:
            return
        _told = True
    _logger.warning(
        "threadsafe-timeout: no thread could be started for a Timer whose time has come (%s); it is tried again every "
        "%g s", problem, _AGAIN,
    )  # fmt: skip


def _finish() -> None:
    """At the exit of the interpreter: wait for the timers that are no daemons. From Python 3.12 on no thread can be
    started any more, so their functions run here."""
    while True:
        with _timer.lock:
            while not all(one.daemon for one in _waiting):
                due = next((one for one in _due if not one.daemon), None)
                if due is not None and _starter is None:  # there was no thread for it
                    _due.remove(due)
                    break
                _changed.wait()
            else:
                return
        due._run_here()


def _after_fork_in_child() -> None:
    """None of the timers lives on. What their locks were held by, neither."""
    global _starter, _changed
    _changed = threading.Condition(_timer.lock)
    with _timer.lock:
        _starter = None
        _due.clear()
        for timer in list(_waiting):
            timer._left = threading.Event()
            timer._leave()


_exit.afterwards.append(_finish)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
