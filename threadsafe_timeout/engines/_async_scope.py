"""The scope of one task of an `AsyncPool`: cancelling it, from any thread, starts the task's ladder in the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes.registration import Registration
from threadsafe_timeout._scopes.scope import CancelScope

if TYPE_CHECKING:
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["AsyncTaskScope"]


class AsyncTaskScope(CancelScope):
    """See the module. It swallows nothing: the caller looks at what the task raised."""

    __slots__ = ("_fenced", "task")
    _through_coroutines = True
    _fenced: bool
    task: AsyncTask | None  # until the task is over: contexts that inherit the scope may outlive it by far

    def _cancel(self, reason: str, *, interrupt: bool) -> bool:
        if not super()._cancel(reason, interrupt=interrupt):
            return False
        task = self.task
        if task is not None:
            task._crew.overdue(task)
        return True

    def _close(self, exc: BaseException | None, own: bool) -> bool:
        self.cancelled_caught = own
        return False

    def _grace_seconds(self) -> float:
        task = self.task
        return task._crew.grace if task is not None else super()._grace_seconds()

    def _pursue(self, *, woken: bool = False) -> None:
        """Not yet. In most cases the loop is idle and cancels the task itself; see `_loop_watch`."""

    def interrupt(self) -> None:
        """Have the loop's thread interrupted when it runs this task: the loop is blocked, and the time is up."""
        super()._pursue()

    def stand_down(self) -> None:
        """The loop runs again, and cancels the task by itself: interrupt nothing."""
        if self._extras is not None and self._extras.pursued:
            from threadsafe_timeout._interruption import pursuit as _pursuit

            _pursuit.dismiss(self)

    def _inherit(self, parent: CancelScope) -> None:
        # The submitter's scopes cancel its own asyncio task, and not this one.
        registration = Registration(self._cancelled_around)
        self._extra().registrations.append(registration)
        registration.attach(parent)

    def _cancelled_around(self) -> None:
        self._cancel("a scope around it was cancelled", interrupt=False)

    def heed_parent(self) -> None:
        """Called when it has just been entered in a scope of the submitter's. Raises `Cancelled` if that is cancelled:
        a task whose submitter has no time left does not start."""
        if self._parent is not None and (self._extras is None or not self._extras.registrations):
            self._inherit(self._parent)
        try:
            _around.raise_if_cancelled()
        except BaseException:
            if self.task is not None:
                self.task._refused = True
            raise
