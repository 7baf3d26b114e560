"""The processes that a pool's task has started, and their end when the task is given up.

Guarantees:

- What a task starts is noted on its scope, and on the scopes of the tasks around it. A task that starts nothing pays
  nothing for it.
- When a task is given up, what it has started is killed, with its descendants. What is started in the same moment in
  another thread is too: the task is fenced first and then looked through; who starts one notes it first and then looks
  at the fence.
- A process in a session of its own is left alone, unless this program holds the other end of its standard streams. So
  is one that was given to `keep_process`, and the workers of a pool of processes that others have used as well.
- Whoever waits for a process still gets its exit status: it is only reaped through its own object.

Not guaranteed: without /proc (macOS) only processes that have an object (`Popen`, `Process`) are ended, without their
descendants.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from threadsafe_timeout._processes.tree import is_running, status
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import deadlines as _deadlines
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._timing import timer as _timer

__all__ = [
    "Ended", "Entry", "ProcessOwner", "any_running", "end", "is_kept", "keep_process", "note", "owners",
    "refuse_if_given_up", "started_in", "uncounted",
]  # fmt: skip

_logger = logging.getLogger("threadsafe_timeout")
_FIRST_LOOK, _LAST_LOOK = 0.01, 2.0  # seconds after which a killed process is looked for, and reaped
_lock = threading.RLock()  # guards the making of a scope's list, and _kept; a finaliser may start a process
_ending = threading.RLock()  # whoever comes second finds that all have ended, and names none of them again
_kept: set[tuple[int, int | None]] = set()
_thread = threading.local()  # uncounted: what this thread starts is counted elsewhere


class Ended(NamedTuple):
    """A process that was ended."""

    name: str
    pid: int

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


class Entry(Protocol):
    """What a task has started."""

    starter: int  # the number of the process that started it
    ends_at_exit: bool  # whether the exit of the program would wait for it, and must not once its task is over

    @property
    def kept(self) -> bool:
        """Whether it outlives the task in any case."""

    @property
    def ends_with_its_task(self) -> bool:
        """Whether it ends as well when the task ended by itself, because its time was up."""

    def end(self) -> list[Ended]:
        """Kill what runs of it, and say what it was."""

    def is_over(self) -> bool:
        """Whether nothing of it runs. Reaps nothing."""

    def settle(self) -> bool:
        """Reap what was killed of it, and kill what was started since; whether there is nothing left."""


class ProcessOwner(_deadlines.FailScope):
    """The scope of a task, with what that has started."""

    __slots__ = ("_started",)  # not set before the first
    _started: list[Entry]


def owners() -> list[ProcessOwner]:
    """The scopes of the tasks that this thread works for, the innermost first. None for what is counted elsewhere."""
    found: list[ProcessOwner] = []
    if getattr(_thread, "uncounted", False):
        return found
    scope = _around.current_scope()
    while scope is not None:
        if isinstance(scope, ProcessOwner) and scope._state == _around.ACTIVE:
            found.append(scope)
        scope = scope._parent
    return found


def refuse_if_given_up() -> None:
    """Raise `Cancelled` in a thread whose task was given up: it starts nothing any more, but to clean up."""
    if _shield.is_fenced(_around.current_scope()):
        _around.raise_if_cancelled()


@contextmanager
def uncounted() -> Iterator[None]:
    """What this thread starts in here is not noted one by one."""
    before = getattr(_thread, "uncounted", False)
    _thread.uncounted = True
    try:
        yield
    finally:
        _thread.uncounted = before


def note(entry: Entry, of: Iterable[ProcessOwner]) -> None:
    """Note what was just started on the scopes of the tasks that have started it."""
    given_up = False
    for owner in of:
        with _lock:
            try:
                noted = owner._started
            except AttributeError:
                noted = owner._started = []
            if len(noted) % 64 == 63:  # a task may start thousands, one after the other
                noted[:] = [one for one in noted if not one.is_over()]
            noted.append(entry)
        given_up = given_up or owner._fenced
    if given_up and _around.cancelled_scope() is not None:  # else the thread has come back, and cleans up with it
        end([entry])


def started_in(scope: _scope.CancelScope) -> list[Entry]:
    """What the task of this scope has started and is not to be left alone."""
    try:
        noted = scope._started  # type: ignore[attr-defined]  # not set where nothing was started
    except AttributeError:
        return []
    here = os.getpid()  # a forked child has its parent's scopes, and is not to end what that has started
    return [entry for entry in list(noted) if entry.starter == here and not entry.kept]


def any_running(scope: _scope.CancelScope) -> bool:
    """Whether any of that runs."""
    return any(not entry.is_over() for entry in started_in(scope))


def end(entries: Iterable[Entry]) -> list[Ended]:
    """Kill what runs of them, and say what it was. They are reaped a moment later."""
    entries = list(entries)
    ended: list[Ended] = []
    with _ending:
        for entry in entries:
            try:
                ended += entry.end()
            except Exception:
                _logger.exception("threadsafe-timeout: a process of a task that was given up could not be ended")
    if ended:
        _look_again(entries, _FIRST_LOOK)
    return ended


def _look_again(entries: list[Entry], delay: float) -> None:
    def look() -> None:
        left = [entry for entry in entries if not _is_settled(entry)]
        if left and delay < _LAST_LOOK:
            _look_again(left, 2 * delay)

    _timer.call_later(delay, look)


def _is_settled(entry: Entry) -> bool:
    try:
        return entry.settle()
    except Exception:  # of an object of the program's
        _logger.debug("threadsafe-timeout: a process could not be looked at", exc_info=True)
        return True


def is_kept(pid: int, started: int | None) -> bool:
    """Whether it was given to `keep_process`."""
    return (pid, started) in _kept


def keep_process(process: Any) -> None:
    """Let a process go on when the task that started it is given up.

    `process` is a `subprocess.Popen`, a `multiprocessing.Process`, another object with a `pid`, or a pid. Its
    descendants go on with it. For a process that no task started, this does nothing. Raises ValueError for a process
    that has not been started, and TypeError for an object without a pid.
    """
    pid = process if isinstance(process, int) else getattr(process, "pid", process)
    if pid is None:
        raise ValueError(f"process must have been started, and {process!r} was not: call keep_process after its start")
    if not isinstance(pid, int) or isinstance(pid, bool):
        raise TypeError(f"process must be a Popen, a Process, another object with a pid, or a pid; got {process!r}")
    if pid <= 0:
        raise ValueError(f"process must be the number of a process (> 0), got {process!r}")
    found = status(pid)
    with _lock:
        _kept.difference_update([one for one in _kept if one[1] is not None and not is_running(one[0], one[1])])
        _kept.add((pid, found.started if found is not None else None))


def _after_fork_in_child() -> None:
    # What the parent's tasks have started is not the child's to end.
    global _lock, _ending
    _lock, _ending = threading.RLock(), threading.RLock()
    _thread.__dict__.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
