"""`map`: a task for each item, and their results in order."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import islice
from sys import float_info
from typing import TYPE_CHECKING, Any, TypeVar

from threadsafe_timeout._pool.task import TaskFuture
from threadsafe_timeout._settings import settings
from threadsafe_timeout._timing import clock as _clock

if TYPE_CHECKING:
    from threadsafe_timeout._pool.executor import ThreadPoolExecutor

__all__ = ["results", "submit_catchable"]

T = TypeVar("T")


def results(
    executor: ThreadPoolExecutor, fn: Callable[..., T], inputs: Iterator[Any], ahead: int | None, until: float | None
) -> Iterator[T]:
    """See `ThreadPoolExecutor.map`. The first tasks are submitted now, not when the first result is asked for."""
    futures: deque[Any] = deque(submit_catchable(executor.submit, fn, *args) for args in islice(inputs, ahead))
    # Not the pool itself: its idle workers go home when nobody refers to it any more.
    return _results((lambda: None) if ahead is None else weakref.ref(executor), fn, inputs, futures, until)


def _results(
    pool: Callable[[], ThreadPoolExecutor | None], fn: Callable[..., T], inputs: Iterator[Any], futures: deque[Any],
    until: float | None,
) -> Iterator[T]:  # fmt: skip
    try:
        while futures:
            _submit_next(pool(), fn, inputs, futures)
            # Nor may what is yielded be kept while the caller is busy with it.
            yield _result_of(futures.popleft(), None if until is None else _left(until))
    except TimeoutError:
        if until is not None and until <= _clock.monotonic():
            for future in futures:
                future._given_up = True
        raise
    finally:
        for future in futures:
            _cancel_pending(future)


def submit_catchable(submit: Callable[..., Future[Any]], fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Submit a task whose deadline its own handlers see first."""
    future = submit(fn, *args, **kwargs)
    if isinstance(future, TaskFuture) and settings().catchable_timeout != "off":  # a subclass may return what it likes
        future.make_catchable()
    return future


def _submit_next(
    pool: ThreadPoolExecutor | None, fn: Callable[..., Any], inputs: Iterator[Any], futures: deque[Any]
) -> None:
    if pool is not None:
        for arguments in islice(inputs, 1):
            futures.append(submit_catchable(pool.submit, fn, *arguments))


def _cancel_pending(future: Any) -> None:
    if isinstance(future, TaskFuture):
        future.cancel_pending()
    else:  # a subclass has a `submit` of its own
        future.cancel()


def _left(until: float) -> float:
    """The seconds that a `map` may still wait. Not 0 when they have passed: that would be a look, and no time limit."""
    return max(until - _clock.monotonic(), float_info.min)


def _result_of(future: Any, timeout: float | None) -> Any:
    try:
        try:
            return future.result(timeout)
        finally:
            _cancel_pending(future)
    finally:
        del future  # it would be a cycle: the future, its exception, the traceback, this frame
