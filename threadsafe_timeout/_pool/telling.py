"""What is told of a task: where it is, and an `Event` of what has happened to it."""

from __future__ import annotations

import logging
import os
import threading
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._introspection.frames import frames_of_others, users_frame
from threadsafe_timeout._pool.events import Event, EventKind, describe
from threadsafe_timeout._text import Place, place, shown

if TYPE_CHECKING:
    from threadsafe_timeout._errors import DeadlineExceeded
    from threadsafe_timeout._pool.task import TaskFuture

__all__ = ["event_of", "loop_ended", "never_started", "tell", "thread_position", "timed_out"]

# Where a task begins, and where its outcome is saved.
_BEGINS = tuple(os.path.join(os.path.dirname(__file__), name) for name in ("task.py", "task_scope.py"))


def event_of(task: TaskFuture, kind: EventKind, **more: Any) -> Event:
    """An `Event` about this task, as it is now."""
    worker = task._crew.worker_of(task)
    where, stack = thread_position(worker.thread.ident if worker is not None else None)
    return Event(
        kind, task._crew.prefix, task._task_name(), task._options.key,
        worker.thread.name if worker is not None else None, task.elapsed(),
        task._reason, where, stack, **more,
    )  # fmt: skip


def tell(task: TaskFuture, kind: EventKind, level: int, what: str) -> None:
    """Log that, with where it is, and give the callbacks the `Event`."""
    events = task._crew.events
    if not events.wanted(level):
        return
    event = event_of(task, kind)
    where = "" if event.where is None else f" (at {place(event.where)})"
    name = describe(task._task_name(), event.key)
    text = f"task {name} {what} ({shown(event.reason)}); it has run for {event.elapsed:.1f} s{where}"
    if event.stack and kind != "overdue":
        text += f":\n{event.stack}"
    events.put(level, text, event)
    events.tell()


def timed_out(task: TaskFuture, where: Place | None, *, own: bool, caught: bool) -> None:
    """A deadline has ended a task, for its worker to tell: its `own`, or that of a scope around it. It may have
    `caught` that, and have an outcome of its own."""
    events, scope = task._crew.events, task._scope
    if not events.wanted(logging.WARNING):
        return
    elapsed, key, budget = task.elapsed(), task._options.key, scope._budget if scope is not None else None
    limit = "the deadline of a scope around it" if not own else "" if budget is None else f"limit {budget:.4g} s"
    text = f"task {describe(task._task_name(), key)} timed out after {elapsed:.1f} s" + (f" ({limit})" if limit else "")
    text += "" if where is None else f", at {place(where)}"
    if caught:
        text += "; it caught that, and its own outcome counts"
    worker = threading.current_thread().name
    event = Event("timed_out", task._crew.prefix, task._task_name(), key, worker, elapsed, "deadline", where)
    events.put(logging.WARNING, text, event)
    events.tell()


def never_started(task: TaskFuture, error: DeadlineExceeded) -> None:
    """The deadline of a pending task has passed; to be told with what is told next."""
    name, key = task._task_name(), task._options.key
    event = Event("timed_out", task._crew.prefix, name, key, elapsed=0.0, reason=error.reason)
    task._crew.events.put(logging.WARNING, f"task {describe(name, key)} timed out: {error.reason}", event)


def loop_ended(task: TaskFuture, kind: str, detail: str) -> None:
    """A guard has ended a loop in this task: counted, and told to who listens."""
    with task._crew.lock:
        task._crew.loops += 1
    events = task._crew.events
    if events.wanted(logging.INFO):
        event = replace(event_of(task, "loop"), reason=f"{kind}: {detail}")
        text = f"task {describe(task._task_name(), event.key)}: its loop was ended ({event.reason})"
        events.put(logging.INFO, text, event)
        events.tell()


def thread_position(ident: int | None) -> tuple[tuple[str, int, str] | None, str]:
    """Where a thread is: the user's file, line and function; and the stack, without the values of variables."""
    with frames_of_others(ident or -1) as tops:
        if ident not in tops:
            return None, ""
        where, frames = users_frame(tops[ident]), traceback.extract_stack(tops[ident])
    # From the task's own function on: what starts a thread and a worker is the same for all of them.
    ours = [number for number, entry in enumerate(frames) if entry.filename in _BEGINS]
    return where, "".join(traceback.format_list(frames[ours[-1] + 1 :] if ours else frames))
