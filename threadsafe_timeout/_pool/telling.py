"""What is told of a task: where it is, and an `Event` of what has happened to it."""

from __future__ import annotations

import logging
import os
import threading
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._introspection.frames import frames_of_others, users_frame
from threadsafe_timeout._pool.events import Event, EventKind, Events, describe
from threadsafe_timeout._text import Place, place, shown

if TYPE_CHECKING:
    from threadsafe_timeout._errors import DeadlineExceeded
    from threadsafe_timeout._pool.task import TaskFuture

__all__ = ["Away", "event_of", "loop_ended", "never_started", "overran", "put", "tell", "thread_position", "timed_out"]

# Where a task begins, and where its outcome is saved.
_BEGINS = tuple(os.path.join(os.path.dirname(__file__), name) for name in ("task.py", "task_scope.py"))


class Away:
    """What is known of a task that runs in a process of its own. What its worker does is only to wait for that."""

    __slots__ = ("frames", "pid", "where")

    def __init__(self) -> None:
        self.pid: int | None = None
        self.frames: list[Place] = []  # where it stands, the innermost last, if it has told
        self.where: Place | None = None

    @property
    def stack(self) -> str:
        return "".join(f'  File "{file}", line {line}, in {name}\n' for file, line, name in self.frames)


def event_of(task: TaskFuture, kind: EventKind, **more: Any) -> Event:
    """An `Event` about this task, as it is now."""
    worker = task._crew.worker_of(task)
    if task._away is not None:
        where, stack = task._away.where, task._away.stack
    else:
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
    put(events, event_of(task, kind), level, what)


def put(events: Events, event: Event, level: int, what: str) -> None:
    """Have told that the task of `event`, which may be a coroutine, `what`."""
    where = "" if event.where is None else f" (at {place(event.where)})"
    name = describe(event.task or "", event.key)
    text = f"task {name} {what} ({shown(event.reason)}); it has run for {event.elapsed:.1f} s{where}"
    if event.stack and event.kind != "overdue":
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


def overran(task: TaskFuture, late: float, error: BaseException | None) -> None:
    """A task has ended by itself so many seconds after its deadline, for its worker to tell."""
    events, scope = task._crew.events, task._scope
    if not events.wanted(logging.WARNING):
        return
    elapsed, key, budget = task.elapsed(), task._options.key, scope._budget if scope is not None else None
    limit = "" if budget is None else f" (limit {budget:.4g} s)"
    outcome = "its result" if error is None else f"its {type(error).__name__}"
    text = (
        f"task {describe(task._task_name(), key)} ended by itself {late:.1f} s after its deadline{limit}, and "
        f"{outcome} counts: it caught its cancellation, or a call of C did not let it be interrupted"
    )
    worker = threading.current_thread().name
    event = Event("overran", task._crew.prefix, task._task_name(), key, worker, elapsed, f"{late:.1f} s late")
    events.put(logging.WARNING, text, event)
    events.tell()


def never_started(task: TaskFuture, error: DeadlineExceeded) -> None:
    """The deadline of a pending task has passed; to be told with what is told next."""
    name, key = task._task_name(), task._options.key
    event = Event("timed_out", task._crew.prefix, name, key, elapsed=0.0, reason=error.reason)
    task._crew.events.put(logging.WARNING, f"task {describe(name, key)} timed out: {error.reason}", event)


def loop_ended(task: TaskFuture, kind: str, detail: str, where: Place | None = None) -> None:
    """A guard has ended a loop in this task: counted, and told to who listens."""
    with task._crew.lock:
        task._crew.counts.loops += 1
    events = task._crew.events
    if events.wanted(logging.INFO):
        event = event_of(task, "loop")
        event = replace(event, reason=f"{kind}: {detail}", where=where or event.where)
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
