"""What `multiprocessing.pool.ThreadPool` becomes: its API, its results and callbacks, on our threads.

The stock pool hands its tasks, one by one, from a thread of its own to a queue that its workers read. Here that queue
gives them to a `ThreadPoolExecutor`, and the outcomes go into the stock queue of results. All the rest is the stock
pool: the waits, their order, and the one thread that runs all callbacks.

Guarantees:

- With a `task_timeout`, or submitted inside a scope, each call of the function is a task with a deadline of its own, in
  the submitter's context: also each item of a chunk, so that one that is stuck does not take the others with it.
- Otherwise a chunk is one task, and nothing of the submitter's context is copied, as ever.
- Each task gives exactly one outcome, whatever becomes of its thread.
- The exit of the interpreter does not wait for tasks, as ever.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextvars import Context
from functools import partial
from multiprocessing import pool as stock
from typing import Any

from threadsafe_timeout._checks import check_whole
from threadsafe_timeout._errors import Cancelled, DeadlineExceeded
from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._pool.executor import ThreadPoolExecutor
from threadsafe_timeout._pool.mapping import submit_catchable
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import shield as _shield

__all__ = ["ThreadPool"]

_mapstar: Any = stock.mapstar  # type: ignore[attr-defined]  # private: calls a function for each item of a chunk
_starmapstar: Any = stock.starmapstar  # type: ignore[attr-defined]  # the same for starmap


class ThreadPool(stock.ThreadPool):
    """A `multiprocessing.pool.ThreadPool` whose tasks have deadlines and whose width survives those that ignore them.

    The deadline is the `task_timeout` setting, in seconds from the start of each task, and those of the scopes around
    the submitter. A task past it is cancelled, interrupted and abandoned as in `ThreadPoolExecutor`; `get()` and the
    iterators of `imap` raise its `DeadlineExceeded`, and `error_callback` gets it.
    """

    __module__ = "multiprocessing.pool"  # in its repr, where programs and logs know it from
    _state = stock.INIT  # what the finaliser asks of one that was refused

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> None:
        if processes is not None and processes is not True:
            processes = check_whole("processes", processes, -sys.maxsize)  # the stock pool says what is too few
        super().__init__(processes, initializer, initargs)

    def _setup_queues(self) -> None:
        super()._setup_queues()  # type: ignore[misc]  # private
        self._inqueue = _Workers(self._outqueue.put)  # type: ignore[attr-defined]  # set just now
        self._quick_put = self._inqueue.put

    def _repopulate_pool(self) -> None:
        # The last thing the stock pool does before it starts its own threads: its arguments have been checked.
        self._inqueue.start(self._processes, self._initializer, self._initargs)  # type: ignore[attr-defined]  # private
        # Programs look at its length; the stock pool joins each, and puts a None into the queue for each when it ends.
        self._pool.extend([self._inqueue] * self._processes)  # type: ignore[attr-defined]  # private

    @staticmethod
    def _help_stuff_finish(inqueue: _Workers, task_handler: Any, size: int) -> None:
        inqueue.discard_pending()

    # What a program calls; all the others call these.

    def apply_async(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # joblib maps with these.
        return super().apply_async(self._bound(func, type(func).__module__.startswith("joblib.")), *args, **kwargs)

    def _map_async(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return super()._map_async(self._bound(func, True), *args, **kwargs)  # type: ignore[misc]  # private

    def imap(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return super().imap(self._bound(func, True), *args, **kwargs)

    def imap_unordered(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return super().imap_unordered(self._bound(func, True), *args, **kwargs)

    def _bound(self, func: Callable[..., Any], catchable: bool) -> Any:
        """`func` with the context it is to run in, if that matters; `catchable`: its own handlers see its deadline."""
        if _around.current_scope() is None and not self._inqueue.limited:
            return func
        return _Bound(func, _shield.context_for_children(), catchable)


class _Bound:
    """A function and its submitter's context, on their way to the workers."""

    __slots__ = ("catchable", "context", "function")

    def __init__(self, function: Callable[..., Any], context: Context, catchable: bool) -> None:
        self.function = function
        self.catchable = catchable
        self.context = context


class _Workers:
    """All the workers of a pool, and the queue they read, as the stock pool sees them."""

    exitcode = None  # of a worker: it has not ended, and is not to be replaced

    def __init__(self, deliver: Callable[[tuple[Any, int, tuple[bool, Any]]], object]) -> None:
        self._deliver = deliver
        self._joined = False

    def start(self, width: int, initializer: Callable[..., object] | None, initargs: Iterable[Any]) -> None:
        self._executor = ThreadPoolExecutor(width, "ThreadPool", initializer, tuple(initargs))
        self._executor._crew.not_awaited_at_exit()
        self.limited = self._executor._task_timeout is not None or self._executor._saves
        if initializer is not None:
            # It runs in every worker at once, not when there is work for them: as ever, and programs count on it.
            with self._executor._crew.lock:
                for _ in range(width):
                    self._executor.submit(_nothing)

    def put(self, task: Any) -> None:
        """Have a task of the stock pool run. Never raises: its caller is the one thread that starts tasks."""
        if task is None:  # the pool was closed and this is the end of the queue
            self._executor.shutdown(wait=False)
            return
        job, index, function, args, kwargs = task

        def deliver(success: bool, value: Any) -> None:
            self._deliver((job, index, (success, value)))

        try:
            if isinstance(function, _Bound):
                submit = submit_catchable if function.catchable else _submit
                future = function.context.run(submit, self._executor.submit, function.function, *args, **kwargs)
            elif (function is _mapstar or function is _starmapstar) and isinstance(args[0][0], _Bound):
                bound, items = args[0]
                self._start_chunk(bound, items if function is _starmapstar else [(item,) for item in items], deliver)
                return
            else:
                future = self._executor.submit(function, *args, **kwargs)
        except BaseException as exc:
            deliver(False, _error(exc))
        else:
            future.add_done_callback(partial(_tell, deliver))

    def _start_chunk(
        self, bound: _Bound, items: Iterable[Iterable[Any]], deliver: Callable[[bool, Any], object]
    ) -> None:
        """Start a task for each item of a chunk, and deliver the list of results, or the first error."""
        lock = threading.Lock()
        arguments = list(items)
        results: list[Any] = [None] * len(arguments)
        errors: list[tuple[int, Any]] = []  # guarded by lock
        left = len(arguments)  # guarded by lock

        def ended(number: int, success: bool, value: Any) -> None:
            nonlocal left
            with lock:
                if success:
                    results[number] = value
                else:
                    errors.append((number, value))
                left -= 1
                if left:
                    return
            if errors:
                deliver(False, min(errors, key=lambda error: error[0])[1])
            else:
                deliver(True, results)

        for number, one in enumerate(arguments):
            try:
                future = bound.context.run(submit_catchable, self._executor.submit, bound.function, *one)
            except BaseException as exc:
                ended(number, False, _error(exc))
            else:
                future.add_done_callback(partial(_tell, partial(ended, number)))

    def discard_pending(self) -> None:
        """`terminate()`: what has not begun never will, what runs goes on, and nobody waits for it."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    def join(self) -> None:
        if not self._joined:  # the stock pool joins it once for each worker
            self._executor.shutdown(wait=True)
            self._joined = True


def _submit(submit: Callable[..., Future[Any]], function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    return submit(function, *args, **kwargs)


def _tell(deliver: Callable[[bool, Any], object], future: Future[Any]) -> None:
    if future.cancelled():
        return  # by discard_pending(): the pool was terminated, and nobody is told, as ever
    error = future.exception()
    if error is None:
        deliver(True, future.result())
    else:
        deliver(False, error)


def _error(exc: BaseException) -> BaseException:
    """What whoever asks for the result gets when a task could not be started."""
    if isinstance(exc, Cancelled):
        return DeadlineExceeded(reason=exc.scope.reason, where=place_of(exc))
    return exc


def _nothing() -> None:
    pass
