"""A task's scope: cancelling it starts the task's ladder."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import Cancelled, DeadlineExceeded
from threadsafe_timeout._introspection.frames import is_users
from threadsafe_timeout._pool import ladder as _ladder
from threadsafe_timeout._processes import started as _started
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes.catchable import in_library
from threadsafe_timeout._scopes.registration import Registration

if TYPE_CHECKING:
    from threadsafe_timeout._pool.task import TaskFuture
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["TaskScope", "run_in_scope"]


class TaskScope(_started.ProcessOwner):
    """A task's scope: cancelling it starts the task's ladder. (A registration for each task would cost as much as the
    scope does.)"""

    __slots__ = ("_fenced", "_softened", "catchable", "task")
    _of_task = True
    _fenced: bool
    task: TaskFuture | None  # until the task is released: contexts that inherit the scope may outlive it by far
    catchable: bool  # whether the task's own handlers are to see its deadline first
    _softened: bool  # whether that is all they have seen

    def _cancel(self, reason: str, *, interrupt: bool) -> bool:
        task = self.task
        if task is not None:
            self.name = task._task_name()
            if self._state != _around.DONE:  # also if it is about to be entered: the task has begun
                _ladder.begin(task, reason)
        return super()._cancel(reason, interrupt=interrupt)

    def _owed(self, frame: FrameType | None = None) -> Cancelled | DeadlineExceeded:
        cancelled = super()._owed(frame)
        assert isinstance(cancelled, Cancelled)
        # A busy library may have a handler of its own (`os.walk` passes over an OSError), and go on with less.
        if self.catchable and not in_library() and (frame is None or is_users(frame)):
            return self._soften(cancelled) or cancelled
        if self._thread == get_ident():
            self._softened = False
        return cancelled

    def _may_strike(self, frame: FrameType) -> bool:
        if self.catchable:
            return is_users(frame)
        return not self._softened  # raised by a call: as after an interrupt, there is the grace to come to an end

    def _soften(self, cancelled: Cancelled) -> DeadlineExceeded | None:
        """Once, in the task's own thread, for its own deadline."""
        task = self.task
        if not self.catchable or self._reason != "deadline" or self._thread != get_ident() or task is None:
            return None
        self.catchable = False
        self._softened = True
        error = task._timed_out(self._reason, cancelled._where)
        error._clean_up, error._attempt, error.scope = cancelled._clean_up, cancelled._attempt, self
        error.__cause__ = cancelled
        return error

    def _close(self, exc: BaseException | None, own: bool) -> bool:
        # A task that has caught its deadline, and returned without another call, has its result.
        return False if exc is None and self._softened else super()._close(exc, own)

    def _grace_seconds(self) -> float:
        task = self.task
        return task._crew.grace if task is not None else super()._grace_seconds()

    def _inherit(self, parent: CancelScope) -> None:
        # A task whose submitter is cancelled has no time left either.
        registration = Registration(self._cancelled_around)
        self._extra().registrations.append(registration)
        registration.attach(parent)

    def _cancelled_around(self) -> None:
        task = self.task
        if task is not None:
            _ladder.begin(task, "a scope around it")
        self._pursue()


def run_in_scope(scope: TaskScope, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    with scope:
        parent = scope._parent
        if parent is not None:
            if scope._extras is None:
                scope._inherit(parent)  # the system has given this thread the ident of the submitter's, which has ended
            try:
                _around.raise_if_cancelled()
            except Cancelled:
                if scope.task is not None:
                    scope.task._refused = True
                raise
        return function(*args, **kwargs) if kwargs else function(*args)  # the latter is cheaper
