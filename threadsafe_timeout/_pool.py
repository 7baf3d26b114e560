"""`ThreadPoolExecutor`: what `concurrent.futures.ThreadPoolExecutor` becomes.

An instance of the standard class (asyncio insists on that), on its own queue and worker loop.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.thread import ThreadPoolExecutor as StandardThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from threadsafe_timeout import _clock, _exit, _scope
from threadsafe_timeout._health import PoolHealth, health_of
from threadsafe_timeout._scope import check_seconds
from threadsafe_timeout._settings import settings
from threadsafe_timeout._task import Outcome, TaskFuture, TaskOptions
from threadsafe_timeout._workers import Crew

if TYPE_CHECKING:
    from threadsafe_timeout._events import Event, Listener
    from threadsafe_timeout._saving import Key
    from threadsafe_timeout._tokens import CancelToken
    from threadsafe_timeout.checkpoint import CheckpointWriter

__all__ = ["StandardThreadPoolExecutor", "Submitter", "ThreadPoolExecutor"]

T = TypeVar("T")


class ThreadPoolExecutor(StandardThreadPoolExecutor):
    """A thread pool whose tasks have deadlines and whose width survives the tasks that ignore them.

    Everything `concurrent.futures.ThreadPoolExecutor` accepts and does, and:

    - `task_timeout`: seconds a task may run, counted from its start (default: the `task_timeout` setting, none).
      A task past it is cancelled, then interrupted, then abandoned, `grace` seconds apart; its future gets
      `DeadlineExceeded`, and its worker is replaced.
    - `grace`: seconds between those rungs (default: the `grace` setting, 2).
    - `max_abandoned`: how many abandoned threads may be alive before `submit` raises `PoolExhausted`
      (default: twice the workers).
    - `on_exhausted`: `"raise"` does just that; `"exit"` also ends the process, with status 75, after saving what is
      owed and logging where every task is (default: the `on_exhausted` setting, `raise`).
    - `checkpoint`: a `CheckpointWriter` in which tasks submitted `with_options(key=…)` are saved.

    Leaving the `with` block waits for the tasks as ever, but not for abandoned ones. Left by an exception, it cancels
    the tasks for which a `result(timeout)`, `wait`, `as_completed` or `map` with a timeout had waited in vain, and
    gives them one `grace`; left by Ctrl-C, it cancels all of them.

    Not guaranteed: an abandoned thread keeps what it holds until it returns; a thread that never returns from C code
    is not stopped.
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
        checkpoint: CheckpointWriter | None = None,
    ) -> None:
        # Not super().__init__(): its queue, threads and semaphore are what this class replaces.
        if max_workers is None:
            count = getattr(os, "process_cpu_count", os.cpu_count)  # the former from 3.13 on, as in the standard pool
            max_workers = min(32, (count() or 1) + 4)
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        chosen = settings()
        if task_timeout is None:
            task_timeout = chosen.task_timeout
        self._task_timeout = None if task_timeout is None else check_seconds("task_timeout", task_timeout)
        grace = chosen.grace if grace is None else check_seconds("grace", grace)
        if max_abandoned is None:
            max_abandoned = 2 * max_workers if chosen.max_abandoned is None else chosen.max_abandoned
        if max_abandoned < 0:
            raise ValueError(f"max_abandoned must be >= 0, got {max_abandoned}")
        if on_exhausted not in (None, "raise", "exit"):
            raise ValueError(f"on_exhausted must be 'raise' or 'exit', got {on_exhausted!r}")
        self._checkpoint = checkpoint
        self._max_workers = max_workers
        number = StandardThreadPoolExecutor._counter  # type: ignore[attr-defined]  # one sequence of names for both
        self._thread_name_prefix = thread_name_prefix or f"ThreadPoolExecutor-{number()}"
        self._default_options = TaskOptions(timeout=self._task_timeout)
        self._crew = Crew(
            width=max_workers,
            prefix=self._thread_name_prefix,
            grace=grace,
            max_abandoned=max_abandoned,
            on_exhausted=on_exhausted or chosen.on_exhausted,
            initializer=initializer,
            initargs=initargs,
        )
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
        """Schedule `fn(*args, **kwargs)` in a copy of the caller's context, so under the scopes around the caller.

        Raises RuntimeError after `shutdown()`, `PoolExhausted` when too many abandoned threads are alive. A cooperative
        point: raises `Cancelled` in a cancelled scope, whose tasks would not run anyway.
        """
        # A function that knows what it wants (a patched method of a runner, say) says so itself.
        # (Its type does: proxies answer to every name, and would call something far away.)
        prepare = getattr(type(fn), "__pool_task__", None)
        if prepare is not None:
            fn, options = prepare(fn, args, kwargs)
            return self._submit(options, fn, args, kwargs)
        _scope.raise_if_cancelled()
        task = TaskFuture(self._crew, self._default_options, copy_context(), fn, args, kwargs)
        self._crew.submit(task)
        return task

    def _submit(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        _scope.raise_if_cancelled()
        task = TaskFuture(self._crew, options, copy_context(), fn, args, kwargs)
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
        """Options for the tasks submitted through what this returns: `pool.with_options(timeout=5).submit(fn)`.

        `timeout`: seconds the task may run from its start (default: the pool's). `deadline`: an instant in monotonic
        seconds (as `current_deadline()` gives) by which it must have ended, however long it waited for a worker; past
        it a task that is still pending fails with `DeadlineExceeded` and never runs. `token`: cancels the task; a
        pending one never runs and its future is cancelled. `name`: what log lines and errors call it. `settle`: called
        with the task's `Outcome` before its future reports done, in a pool thread and outside every scope; what it
        returns is the future's result, what it raises its exception.

        `key`: what the task is saved under in the pool's `checkpoint`, or a function of the task's arguments that
        returns it. Its future reports done only when its record is on disk: `done` with its result, `timeout` or
        `failed` with its error. If it cannot be saved at all, the log says so and the future gets its outcome.
        Raises ValueError if the pool has no `checkpoint`.
        """
        if key is not None and self._checkpoint is None:
            raise ValueError("key= needs a place to save to: ThreadPoolExecutor(…, checkpoint=CheckpointWriter(path))")
        timeout = self._task_timeout if timeout is None else check_seconds("timeout", timeout)
        if deadline is not None:
            deadline = _scope._instant("deadline", deadline)
        options = TaskOptions(timeout=timeout, deadline=deadline, token=token, name=name, settle=settle)
        return Submitter(self, options, key)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """As the standard `map`: results in order, the first timeout or exception met is raised, and leaving the
        iterator early cancels what is pending (not what runs). `chunksize` has no effect with threads."""
        until = None if timeout is None else _clock.monotonic() + timeout
        futures: list[Any] = [self.submit(fn, *arguments) for arguments in zip(*iterables, strict=False)]

        def results() -> Iterator[T]:
            try:
                futures.reverse()
                while futures:
                    # Nor may what is yielded be kept while the caller is busy with it.
                    yield _result_of(futures.pop(), None if until is None else until - _clock.monotonic())
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
        """Take no more tasks and, with `wait`, wait for those there are, except abandoned ones.

        `cancel_futures` cancels pending tasks. `timeout` bounds the wait (seconds); when it passes the tasks go on.
        """
        self._crew.close(cancel_pending=cancel_futures)
        if wait:
            self._crew.join(timeout)

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
        """Counts, by name, as they are now:

        - threads: `workers`, those of them that are `idle` or `running` a task, and `abandoned_alive`;
        - tasks: `submitted`, `pending`, and by how they ended: `completed`, `failed` (also one that never started, when
          its deadline passed before), `cancelled` (before it started), `abandoned` (given up: its thread is stuck).
          When the pool is at rest these four add up to `submitted`; in between, a task may be on its way;
        - `late`: abandoned tasks that ended after all; `respawned`: workers that died and were replaced;
        - `loops`: loops of conversations that a guard ended in this pool's tasks.
        """
        return self._crew.stats()

    def health(self) -> PoolHealth:
        """What each worker is doing, where, and since when it has made no progress. A look that stops nothing."""
        return health_of(self._crew)

    def on_event(self, callback: Callable[[Event], object]) -> Listener:
        """Have `callback(event)` called for each rung a task climbs (see `Event`), in a thread of the pool's own.

        Returns a handle with `unregister()`. What the callback raises is logged. One that takes its time delays the
        callbacks and log lines behind it, and nothing else.
        """
        return self._crew.events.listen(callback)


def _cancel_pending(future: Any) -> None:
    if isinstance(future, TaskFuture):
        future.cancel_pending()
    else:  # a subclass has a `submit` of its own
        future.cancel()


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
        """As the pool's `submit`, with these options."""
        options, writer = self._options, self._pool._checkpoint
        if self._key is not None and writer is not None:
            from threadsafe_timeout._saving import saved

            fn, options = saved(writer, self._key, options, fn, args, kwargs)
        return self._pool._submit(options, fn, args, kwargs)



