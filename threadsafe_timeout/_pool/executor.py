"""`ThreadPoolExecutor`: what `concurrent.futures.ThreadPoolExecutor` becomes.

An instance of the standard class (asyncio insists on that), on its own queue and worker loop.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.thread import ThreadPoolExecutor as StandardThreadPoolExecutor
from itertools import islice
from sys import _getframe, float_info
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from threadsafe_timeout._checks import check_callable, check_instant, check_seconds, check_wait
from threadsafe_timeout._environment import program as _program
from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._pool.arguments import (
    check_abandoned,
    check_buffersize,
    check_initializer,
    check_key,
    check_policies,
    check_threads,
    check_workers,
    writer_of,
)
from threadsafe_timeout._pool.crew import Crew
from threadsafe_timeout._pool.expired_waits import cancel_expired
from threadsafe_timeout._pool.health import PoolHealth, health_of
from threadsafe_timeout._pool.options import Outcome, TaskOptions
from threadsafe_timeout._pool.state import CrewOptions
from threadsafe_timeout._pool.task import TaskFuture
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._settings import settings
from threadsafe_timeout._timing import clock as _clock

if TYPE_CHECKING:
    from threadsafe_timeout._pool.events import Event, Listener
    from threadsafe_timeout._pool.saving import Key
    from threadsafe_timeout._scopes.tokens import CancelToken
    from threadsafe_timeout.checkpoint import CheckpointWriter

__all__ = ["StandardThreadPoolExecutor", "Submitter", "ThreadPoolExecutor"]

T = TypeVar("T")


class ThreadPoolExecutor(StandardThreadPoolExecutor):
    """A thread pool whose tasks may have deadlines, and which replaces workers that are stuck.

    It accepts and does everything that `concurrent.futures.ThreadPoolExecutor` does. In addition:

    - `task_timeout`: seconds a task may run, counted from its start (default: the `task_timeout` setting, none).
      After that the task is cancelled, then interrupted, then abandoned: its future gets `DeadlineExceeded`, and its
      worker is replaced.
    - `grace`: seconds between those steps (default: the `grace` setting, 2).
    - `max_abandoned`: how many abandoned threads may be alive before `submit` raises `PoolExhausted`
      (default: 256, or twice the workers if that is more).
    - `on_exhausted`: with `"raise"`, `submit` then raises `PoolExhausted`. With `"exit"`, pending results are saved,
      the stack of every task is logged, and the process exits with status 75 (default: the `on_exhausted` setting,
      `raise`).
    - `on_expired_wait`: what happens when the pool is left to a task whose only wait with a timeout has expired and
      whose outcome nothing can ask for any more. `"cancel"`: it is cancelled. `"single"`: only if it is the one task of
      a pool with one worker. `"wait"`: the pool waits for it, as the standard pool does (default: the
      `on_expired_wait` setting, `cancel`).
    - `checkpoint`: a `CheckpointWriter` that saves the tasks submitted `with_options(key=…)`; or the path of a journal.
      The pool then opens the journal, and closes it (as a run that did not end) when `shutdown` has waited for the
      tasks.

    Leaving the `with` block, or `shutdown()`, waits for the tasks, except abandoned ones; tasks that `on_expired_wait`
    cancels get one `grace`. If the block raises, tasks whose `result(timeout)`, `wait`, `as_completed` or `map` had
    expired are cancelled and get one `grace`. After Ctrl-C all tasks are cancelled.

    Not guaranteed: an abandoned thread keeps its memory, locks and connections until it returns. A thread that never
    returns from C code is not stopped.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        task_timeout: float | None = None,
        grace: float | None = None,
        max_abandoned: int | None = None,
        on_exhausted: Literal["raise", "exit"] | None = None,
        on_expired_wait: Literal["cancel", "single", "wait"] | None = None,
        checkpoint: CheckpointWriter | str | os.PathLike[str] | None = None,
    ) -> None:
        # Not super().__init__(): its queue, threads and semaphore are what this class replaces.
        max_workers = check_workers(max_workers)
        check_initializer(initializer, initargs)
        _program.look(_getframe(1))
        check_threads()
        chosen = settings()
        if task_timeout is None:
            task_timeout = chosen.task_timeout
        self._task_timeout = None if task_timeout is None else check_seconds("task_timeout", task_timeout)
        grace = chosen.grace if grace is None else check_seconds("grace", grace)
        max_abandoned = check_abandoned(chosen.max_abandoned if max_abandoned is None else max_abandoned, max_workers)
        check_policies(on_exhausted, on_expired_wait)
        self._checkpoint, self._opened = writer_of(checkpoint)
        self._max_workers = max_workers
        number = StandardThreadPoolExecutor._counter  # type: ignore[attr-defined]  # one sequence of names for both
        self._thread_name_prefix = thread_name_prefix or f"ThreadPoolExecutor-{number()}"
        self._default_options = TaskOptions(timeout=self._task_timeout)
        options = CrewOptions(
            width=max_workers, prefix=self._thread_name_prefix, grace=grace, max_abandoned=max_abandoned,
            on_exhausted=on_exhausted or chosen.on_exhausted, catchable=chosen.catchable_timeout == "all",
            on_expired_wait=on_expired_wait or chosen.on_expired_wait, initializer=initializer, initargs=initargs,
        )  # fmt: skip
        self._crew = Crew(options)
        # The crew does not know the executor: when nobody does any more, the idle workers go home.
        self._finalizer = weakref.finalize(self, self._crew.orphaned)
        self._finalizer.atexit = False

    # What programs, and the standard library's own tests, look at:

    @property
    def _shutdown(self) -> bool:  # type: ignore[override]  # an attribute of the standard class
        return self._crew.shut_down

    @property
    def _broken(self) -> str | bool:  # type: ignore[override]  # an attribute of the standard class
        return self._crew.broken or False

    @property
    def _work_queue(self) -> Any:  # type: ignore[override]  # an attribute of the standard class
        return _QueueView(self._crew)

    @property
    def _threads(self) -> set[Any]:  # type: ignore[override]  # an attribute of the standard class
        with self._crew.lock:
            return {worker.thread for worker in self._crew.workers}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Schedule `fn(*args, **kwargs)`. It runs in a copy of the caller's context, and so in the caller's scopes.

        Raises RuntimeError after `shutdown()`, and `PoolExhausted` when too many abandoned threads are alive. A
        cooperative point: raises `Cancelled` in a cancelled scope.
        """
        # A function that knows what it wants (a patched method of a runner, say) says so itself.
        # (Its type does: proxies answer to every name, and would call something far away.)
        prepare = getattr(type(fn), "__pool_task__", None)
        if prepare is not None:
            fn, options = prepare(fn, args, kwargs)
            return self._submit(options, fn, args, kwargs)
        _around.raise_if_cancelled()
        task = TaskFuture(self._crew, self._default_options, _shield.context_for_children(), fn, args, kwargs)
        self._crew.submit(task)
        return task

    def _submit(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        _around.raise_if_cancelled()
        task = TaskFuture(self._crew, options, _shield.context_for_children(), fn, args, kwargs)
        try:
            self._crew.submit(task)
        except BaseException:
            # It may be in the queue all the same, or running.
            if task.cancel_pending():
                task.release()
            raise
        if options.deadline is not None or options.token is not None:
            task.heed_options()
        return task

    def with_options(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        token: CancelToken | None = None,
        key: Key | None = None,
        name: str | None = None,
        settle: Callable[[Outcome], Any] | None = None,
    ) -> Submitter:
        """Options for single tasks. Submit them through the object that this returns.

            pool.with_options(timeout=5).submit(fn)

        - `timeout`: seconds the task may run, from its start (default: the pool's).
        - `deadline`: an instant in monotonic seconds (as `current_deadline()` returns) by which the task must have
          ended, however long it waited for a worker. If it is still pending then, it fails with `DeadlineExceeded` and
          never runs.
        - `token`: a `CancelToken` that cancels the task. If the task is pending, it never runs.
        - `key`: the key under which the pool's `checkpoint` saves the task, or a function of the task's arguments that
          returns it. The future is done only when the record is on disk: `done` with its result, `timeout` or `failed`
          with its error. If it cannot be saved at all, the log says so and the future gets its outcome.
        - `name`: the task's name in log lines and errors.
        - `settle`: a function that gets the task's `Outcome` before the future is done. It is called in a pool thread,
          outside every scope. Its return value is the future's result; an exception that it raises is the future's.

        Raises ValueError if `key` is given and the pool has no `checkpoint`.
        """
        check_key(key, self._checkpoint)
        timeout = self._task_timeout if timeout is None else check_seconds("timeout", timeout)
        if deadline is not None:
            deadline = check_instant("deadline", deadline)
        if token is not None and not hasattr(token, "register"):
            raise TypeError(f"token must be a CancelToken (of a CancelSource, its .token), got {token!r}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a str, got {name!r}")
        if settle is not None:
            check_callable("settle", settle)
        options = TaskOptions(timeout=timeout, deadline=deadline, token=token, name=name, settle=settle)
        return Submitter(self, options, key)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Like the standard `map`: results come in order, and the first error or timeout is raised.

        Leaving the iterator early cancels pending tasks, but not running ones.
        `chunksize` has no effect with threads. `buffersize` (also before Python 3.14) is how many tasks are submitted
        ahead of the results that were taken; by default all are submitted at once.

        `fn` first gets its task's deadline as a `DeadlineExceeded` (a `TimeoutError`) that it can catch, so that its
        own `except Exception` can return a result. See the `catchable_timeout` setting.
        """
        check_buffersize(buffersize)
        until = None if timeout is None else _clock.monotonic() + check_wait("timeout", timeout)
        inputs = zip(*iterables, strict=False)
        futures: deque[Any] = deque(_submit_catchable(self.submit, fn, *args) for args in islice(inputs, buffersize))
        # Not the pool itself: its idle workers go home when nobody refers to it any more.
        pool = (lambda: None) if buffersize is None else weakref.ref(self)

        def results() -> Iterator[T]:
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

        return results()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False, timeout: float | None = None) -> None:
        """Accept no more tasks and, with `wait`, wait for the submitted ones, except abandoned ones.

        `cancel_futures` cancels pending tasks. `timeout` is the most seconds to wait; the tasks go on after it.
        """
        timeout = check_wait("timeout", timeout)
        self._crew.close(cancel_pending=cancel_futures)
        if wait:
            _exit.hurry_interrupted(self._crew)
            if timeout is None:
                cancel_expired(self._crew, _getframe(1))
            if self._crew.join(timeout) and self._opened is not None:
                self._opened.close()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        if isinstance(exc, KeyboardInterrupt):
            _exit.stop_interrupted([self._crew])
            return False
        if exc is not None:
            for task in self._crew.unfinished():
                if task.wait_expired:
                    task.hurry("somebody's wait for it had expired, and the pool was left by an exception")
        self.shutdown(wait=True)
        return False

    def stats(self) -> dict[str, int]:
        """Counts, by name, at this moment:

        - `workers`, and how many of them are `idle` or `running` a task; `abandoned_alive` threads
        - tasks: `submitted` and `pending`; and by how they ended: `completed`, `failed` (also a task whose deadline
          passed before it started), `cancelled` (before it started), `abandoned` (its thread was stuck). When the pool
          is at rest, the last four add up to `submitted`; at other times a task may be between two of them
        - `timed_out`: how many of those that failed or were abandoned ended with `DeadlineExceeded`
        - `late`: abandoned tasks that ended after all
        - `replaced`: workers that took the place of an abandoned or dead one; `respawned`: those of a dead one
        - `loops`: loops of conversations that a guard ended in this pool's tasks
        """
        return self._crew.stats()

    def health(self) -> PoolHealth:
        """What each worker is doing, where, and since when it has made no progress. This stops no worker."""
        return health_of(self._crew)

    def on_event(self, callback: Callable[[Event], object]) -> Listener:
        """Have `callback(event)` called for each `Event` of the pool, in a thread of the pool's own.

        Returns a handle with `unregister()`. An exception of the callback is logged. A slow callback delays only the
        callbacks and log lines that come after it.
        """
        check_callable("callback", callback)
        return self._crew.events.listen(callback)


def _submit_catchable(submit: Callable[..., Future[Any]], fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
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
            futures.append(_submit_catchable(pool.submit, fn, *arguments))


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


class _QueueView:
    """What programs read of the standard pool's private queue, mostly `executor._work_queue.qsize()`."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew

    def qsize(self) -> int:
        return len(self._crew.tasks)

    def empty(self) -> bool:
        return not self._crew.tasks


class Submitter:
    """A pool with options for the tasks submitted through it; see `ThreadPoolExecutor.with_options`."""

    def __init__(self, pool: ThreadPoolExecutor, options: TaskOptions, key: Key | None) -> None:
        self._pool = pool
        self._options = options
        self._key = key

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Like the pool's `submit`, with these options."""
        options, writer = self._options, self._pool._checkpoint
        if self._key is not None and writer is not None:
            from threadsafe_timeout._pool.saving import saved

            fn, options = saved(writer, self._key, options, fn, args, kwargs)
        return self._pool._submit(options, fn, args, kwargs)
