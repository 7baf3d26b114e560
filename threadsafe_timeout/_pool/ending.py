"""How a task ended that raised something, or that was cancelled while it ran."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import Cancelled, DeadlineExceeded
from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._pool import ladder as _ladder
from threadsafe_timeout._pool.telling import overran, timed_out
from threadsafe_timeout._timing import clock as _clock

if TYPE_CHECKING:
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout._pool.task_scope import TaskScope

__all__ = ["NOTICEABLE", "ended"]

NOTICEABLE = 0.25  # seconds past its deadline: on a busy machine the thread that watches deadlines is late itself


def ended(
    task: TaskFuture, scope: TaskScope, result: Any, raised: BaseException | None
) -> tuple[Any, BaseException | None]:
    """The result and the error that its future gets, for the worker that ran it; `raised` is what left the task. If a
    deadline ended it, that is told, before anybody can hear of the outcome."""
    if task._rung is not None and (raised is not None or task._bereft):
        _ladder.end_processes(task, scope, all_of_them=task._bereft)
    error = _error_of(task, raised)
    expired = _expired(task, scope, raised)
    if expired and not task._claimed:  # else it was given up, and that was told
        place = error.where if isinstance(error, DeadlineExceeded) else scope._delivered.place()
        timed_out(task, place, own=expired == "own", caught=not isinstance(error, DeadlineExceeded))
    elif not task._claimed and not (scope._cancelled and scope.reason != "deadline"):
        late = _clock.monotonic() - scope._deadline
        if late > NOTICEABLE:
            overran(task, late, error)
    return (result if error is None else None), error


def _error_of(task: TaskFuture, raised: BaseException | None) -> BaseException | None:
    if isinstance(raised, Cancelled):
        # A BaseException that reaches whoever asks for the result would end his whole batch.
        return task._timed_out(raised.scope.reason, place_of(raised))
    if _cancelled_in(raised) is not None or (task._bereft and not isinstance(raised, DeadlineExceeded)):
        # A scope around the task was cancelled, in a task group; or its processes were ended, and it failed, or lacks
        # a part, because of that.
        error = task._timed_out(task._reason, task._stuck_at or place_of(raised))
        error.__cause__ = raised
        return error
    # The future gets whatever it is, as in the standard pool, from the task's own frame on.
    return raised if raised is None else raised.with_traceback(_theirs(raised))


def _expired(task: TaskFuture, scope: TaskScope, raised: BaseException | None) -> str:
    """Whose deadline ended it: its `own`, that of a scope `around` it; or neither, the empty string."""
    cancelled = _cancelled_in(raised)
    if cancelled is not None:
        return "" if cancelled.scope.reason != "deadline" else "own" if cancelled.scope is scope else "around"
    if task._bereft or scope._delivered.here() is not None:
        return "own" if scope.reason == "deadline" else ""
    return ""


def _cancelled_in(raised: BaseException | None) -> Cancelled | None:
    while isinstance(raised, BaseExceptionGroup) and (group := raised.subgroup(Cancelled)) is not None:
        raised = group.exceptions[0]
    return raised if isinstance(raised, Cancelled) else None


def _theirs(exc: BaseException) -> TracebackType | None:
    """The traceback from the task's function on; what called it if it could not be called."""
    raised = exc.__traceback__
    below = raised.tb_next if raised is not None else None
    return (below.tb_next or below) if below is not None else None
