"""How a task of an `AsyncPool` ended: what its future gets, and what is told of its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import DeadlineExceeded
from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._pool.ending import NOTICEABLE
from threadsafe_timeout._pool.options import Outcome
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.engines import _async_events as _tell
from threadsafe_timeout.engines._async_task import cancelled_in

if TYPE_CHECKING:
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["error_of", "settled"]


def error_of(task: AsyncTask, raised: BaseException | None) -> BaseException | None:
    """What its future gets for what its coroutine raised. If a deadline ended it, or passed meanwhile, that is told."""
    error, scope = _error_of(task, raised), task._scope
    expired = scope._cancelled and scope.reason == "deadline"
    if expired and (error is not raised or scope._delivered or _was_asked(task)):
        where, caught = place_of(error) or place_of(raised), not isinstance(error, DeadlineExceeded)
        _tell.timed_out(task._crew, task, where, caught=caught)
    elif expired or not scope._cancelled:
        late = _clock.monotonic() - scope._deadline
        if late > NOTICEABLE:
            _tell.overran(task._crew, task, late, error)
    return error


def _error_of(task: AsyncTask, raised: BaseException | None) -> BaseException | None:
    cancelled = cancelled_in(raised)
    asked = isinstance(raised, asyncio.CancelledError) and task._scope._cancelled
    if cancelled is None and not asked:
        return raised
    reason = cancelled.scope.reason if cancelled is not None else task._scope.reason
    error = task.timed_out(place_of(raised), reason)
    error.__cause__ = raised
    return error


def _was_asked(task: AsyncTask) -> bool:
    """Whether asyncio has cancelled it: so it has met that, and caught it if it says nothing of it."""
    extras = task._scope._extras
    return extras is not None and extras.asked


def settled(
    task: AsyncTask, hook: Callable[[Outcome], Any] | None, witnesses: Iterable[Callable[[Outcome], object]],
    outcome: Outcome,
) -> Outcome:  # fmt: skip
    """What the future gets when its outcome has been saved. In a thread of the pool's."""
    if task in task._crew.abandoned:
        for witness in witnesses:
            witness(outcome)
    if hook is None:
        return outcome
    try:
        return Outcome(hook(outcome))
    except BaseException as error:
        return Outcome(error=error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
