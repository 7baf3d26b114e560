"""What an `AsyncPool` tells of its tasks: the events of the thread pool, and `blocked`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import DeadlineExceeded, PoolExhausted
from threadsafe_timeout._pool.events import Event, EventKind, describe
from threadsafe_timeout._pool.telling import put
from threadsafe_timeout._text import Place, place, shown
from threadsafe_timeout.engines._loop_watch import place_of_coroutine

if TYPE_CHECKING:
    from threadsafe_timeout._pool.options import Outcome
    from threadsafe_timeout.engines._async_crew import AsyncCrew
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["blocked", "event_of", "exhausted", "late", "never_started", "overran", "tell", "timed_out"]


def worker_of(task: AsyncTask) -> str | None:
    """The name of its slot, and of its asyncio task; None if it has not started."""
    slot = task._slot
    return slot.name if slot is not None else None


def event_of(task: AsyncTask, kind: EventKind, **more: Any) -> Event:
    """An `Event` about this task, as it is now."""
    where, stack = place_of_coroutine(task._running)
    return Event(
        kind, task._crew.prefix, task._task_name(), task._options.key, worker_of(task), task.elapsed(),
        **{"reason": task._scope.reason, "where": where, "stack": stack, **more},
    )  # fmt: skip


def tell(crew: AsyncCrew, task: AsyncTask, kind: EventKind, level: int, what: str) -> None:
    """Log that, with where it waits, and give the callbacks the `Event`."""
    if not crew.events.wanted(level):
        return
    put(crew.events, event_of(task, kind), level, what)


def timed_out(crew: AsyncCrew, task: AsyncTask, where: Place | None, *, caught: bool) -> None:
    """A deadline has ended it. It may have `caught` that, and have an outcome of its own."""
    if not crew.events.wanted(logging.WARNING):
        return
    budget = task._scope._budget
    text = f"task {describe(task._task_name(), task._options.key)} timed out after {task.elapsed():.1f} s"
    text += "" if budget is None else f" (limit {budget:.4g} s)"
    text += "" if where is None else f", at {place(where)}"
    text += "; it caught that, and its own outcome counts" if caught else ""
    _put(crew, logging.WARNING, text, event_of(task, "timed_out", reason="deadline", where=where, stack=""))


def overran(crew: AsyncCrew, task: AsyncTask, late: float, error: BaseException | None) -> None:
    """A task has ended by itself so many seconds after its deadline."""
    if not crew.events.wanted(logging.WARNING):
        return
    budget = task._scope._budget
    limit = "" if budget is None else f" (limit {budget:.4g} s)"
    outcome = "its result" if error is None else f"its {type(error).__name__}"
    name = describe(task._task_name(), task._options.key)
    text = (
        f"task {name} ended by itself {late:.1f} s after its deadline{limit}, and {outcome} counts: it, or something "
        "else, kept the event loop from running"
    )
    event = event_of(task, "overran", reason=f"{late:.1f} s late", where=None, stack="")
    _put(crew, logging.WARNING, text, event)


def never_started(crew: AsyncCrew, task: AsyncTask, error: DeadlineExceeded) -> None:
    """The deadline of a pending task has passed."""
    event = event_of(task, "timed_out", reason=error.reason)
    _put(crew, logging.WARNING, f"task {describe(task._task_name(), event.key)} timed out: {error.reason}", event)


def late(crew: AsyncCrew, task: AsyncTask, outcome: Outcome) -> None:
    """An abandoned task has ended after all."""
    if isinstance(outcome.error, asyncio.CancelledError):
        what = "its cancellation"
    else:
        what = "a result" if outcome.error is None else type(outcome.error).__name__
    event = event_of(task, "late", outcome=outcome)
    name = describe(task._task_name(), event.key)
    text = f"abandoned task {name} ended after all, with {what}; its outcome was already reported as a timeout, so this"
    _put(crew, logging.WARNING, f"{text} one is not counted", event)


def exhausted(crew: AsyncCrew, error: PoolExhausted) -> None:
    _put(crew, logging.ERROR, str(error), Event("exhausted", crew.prefix, error=error))


def blocked(crew: AsyncCrew, task: AsyncTask | None, where: Place | None, stack: str, since: float) -> None:
    """Something keeps the loop from running. Told by the timer thread."""
    if not crew.events.wanted(logging.WARNING):
        return
    at = "" if where is None else f" at {place(where)}"
    who = "something outside the pool's tasks"
    if task is not None:
        who = f"task {describe(task._task_name(), task._options.key)}"
    text = f"{who} blocks the event loop of pool {shown(crew.prefix)}{at}; nothing else runs in it for {since:.1f} s"
    event = Event(
        "blocked", crew.prefix, None if task is None else task._task_name(),
        None if task is None else task._options.key, None if task is None else worker_of(task),
        None if task is None else task.elapsed(), "the event loop is blocked", where, stack,
    )  # fmt: skip
    _put(crew, logging.WARNING, f"{text}:\n{stack}" if stack else text, event)


def loop_ended(task: AsyncTask, kind: str, detail: str) -> None:
    """A guard has ended a loop in this task: counted, and told to who listens."""
    crew = task._crew
    with crew.lock:
        crew.counts.loops += 1
    if crew.events.wanted(logging.INFO):
        event = event_of(task, "loop", reason=f"{kind}: {detail}")
        name = describe(task._task_name(), event.key)
        _put(crew, logging.INFO, f"task {name}: its loop was ended ({event.reason})", event)


def _put(crew: AsyncCrew, level: int, text: str, event: Event) -> None:
    crew.events.put(level, text, event)
    crew.events.tell()
