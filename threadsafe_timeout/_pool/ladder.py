"""The ladder that a task climbs when its time is up.

Rungs 1 and 2 (cancel, and wake what it waits in) are the scope's. These run in the timer thread, the first of them in
the thread that cancels:

- `begin`: the scope was cancelled. One `grace` later comes the next rung.
- `climb`: the interrupt insists. If the task waits for a process that it has started, most likely, that is killed.
- the last: the pool abandons the thread (see `replacing`).

A rung waits for the clean-up of the task, which has a grace from its own beginning.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from threadsafe_timeout._errors import DeadlineExceeded
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._pool.events import describe
from threadsafe_timeout._pool.telling import event_of, tell
from threadsafe_timeout._processes import started as _started
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

if TYPE_CHECKING:
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout._pool.task_scope import TaskScope
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["abandon", "begin", "climb", "end_processes", "expire_pending", "give_up_at_exit", "leave"]

_MOMENT = 0.25  # seconds: what a thread gets to end when its clean-up's time is over, or to begin with that at exit


def begin(task: TaskFuture, reason: str) -> None:
    """Its scope is cancelled."""
    with _timer.lock:
        if task._rung is not None or not _set_rung(task, task._climb):
            return
    task._reason = reason
    # Before what it waits in is woken: that is where it is, and the event comes before a wait for the pool ends.
    tell(task, "overdue", logging.INFO, "was cancelled")


def climb(task: TaskFuture) -> None:
    """It has not ended one `grace` later."""
    if task._claimed or _cleans_up(task, task._climb):
        return
    if task._hurried:
        task._crew.abandon(task)
        return
    with _timer.lock:
        if not _set_rung(task, task._abandon):
            return
    task._insisting = True
    scope = task._scope
    if scope is not None and scope._state == _around.ACTIVE:
        _pursuit.insist(scope._thread)
    what = f"has not ended {task._crew.grace:g} s after it was cancelled"
    if task._away is not None:
        what += f"; its process {task._away.pid} is being killed"
    tell(task, "interrupting", logging.WARNING, what)
    if scope is not None and not _was_delivered(scope) and _started.any_running(scope):
        # It is stuck in one of them, most likely: in its pipe. Noted first: it may return, with what came through
        # the pipe, as soon as that breaks.
        task._bereft = True
        task._bereft = end_processes(task, scope, all_of_them=True)


def abandon(task: TaskFuture) -> None:
    """Nor after another."""
    if not _cleans_up(task, task._abandon):
        task._crew.abandon(task)


def _cleans_up(task: TaskFuture, climb: Callable[[], object]) -> bool:
    """Whether its thread may be cleaning up. Then `climb` is called a moment after the grace of that, when what it
    waits in has ended."""
    scope = task._scope
    if scope is None or task._crew.interrupted:
        return False
    until = _clean_up.cleans_up_until(scope, scope._thread) if scope._state == _around.ACTIVE else -math.inf
    if until <= _clock.monotonic():
        return False
    with _timer.lock:
        return _set_rung(task, climb, until + _MOMENT) or True


def _set_rung(task: TaskFuture, climb: Callable[[], object], when: float | None = None) -> bool:
    """Arm the next rung, a grace from now or at `when`; False if the task has ended. The caller holds _timer.lock.

    First the rung, then the look at the claim; `leave` is called after the claim: one of them sees the other.
    """
    if task._rung is not None:
        _timer.disarm(task._rung)
    task._rung = _timer.arm(_clock.monotonic() + task._crew.grace if when is None else when, climb)
    if task._claimed:
        _timer.disarm(task._rung)
        return False
    return True


def leave(task: TaskFuture) -> None:
    """It has ended, or was given up: its outcome is claimed."""
    with _timer.lock:
        if task._rung is not None:
            _timer.disarm(task._rung)


def end_processes(task: TaskFuture, scope: TaskScope, *, all_of_them: bool) -> bool:
    """End what it has started: all, if it is given up; or those that nobody else sees to, if it has ended by itself.
    True if anything ran.

    The timer thread ends the processes of a task that is stuck in one of them. The task may return as soon as the
    first of them ends, and then the program may exit. So the task's own thread, too, ends all of them first.
    """
    entries = _started.started_in(scope)
    if not entries:
        return False
    event = event_of(task, "processes")  # where it is; it may go on as soon as they end
    task._stuck_at = task._stuck_at or event.where
    ended = _started.end(entry for entry in entries if all_of_them or entry.ends_with_its_task)
    if ended or any(entry.ends_at_exit for entry in entries):
        from threadsafe_timeout._processes import exit as _process_exit

        _process_exit.leave(entry for entry in entries if entry.ends_at_exit)
        _process_exit.was_ended({one.pid for one in ended})
    if ended:
        event = replace(event, pids=tuple(one.pid for one in ended))
        name = describe(task._task_name(), event.key)
        names = ", ".join(map(str, ended))
        what = "processes that it had started were ended"
        task._crew.events.put(logging.WARNING, f"task {name} is over ({event.reason}); {what}: {names}", event)
        task._crew.events.tell()
    return bool(ended)


def give_up_at_exit(task: TaskFuture) -> None:
    """Abandon it now; or as soon as it has cleaned up, or has had a moment to begin with that."""
    task._hurried = True
    scope = task._scope
    began = scope._delivered.cancelled_at + _MOMENT if scope is not None and scope._cancelled else -math.inf
    if task._crew.interrupted or began <= _clock.monotonic():
        climb(task)
        return
    with _timer.lock:
        _set_rung(task, task._climb, began)


def expire_pending(task: TaskFuture) -> None:
    """Its deadline has passed. If it is still pending, it is not to run."""
    reason = "its deadline passed while it waited for a worker; it never started"
    error = DeadlineExceeded(task._task_name(), reason=reason)
    task._crew.fail_soon(task, error)


def _was_delivered(scope: CancelScope | None) -> bool:
    """Whether a cancellation of a scope around has been raised: then it may be cleaning up, with processes."""
    while scope is not None:
        if scope._cancelled and scope._delivered:
            return True
        scope = scope._parent
    return False
