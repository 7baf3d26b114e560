"""`ThreadPoolExecutor`: what `concurrent.futures.ThreadPoolExecutor` becomes.

An instance of the standard class (asyncio insists on that), on its own queue and worker loop.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.thread import ThreadPoolExecutor as StandardThreadPoolExecutor
from itertools import islice
from sys import _getframe
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from threadsafe_timeout._checks import check_callable, check_instant, check_seconds, check_wait, check_whole
from threadsafe_timeout._environment import program as _program
from threadsafe_timeout._environment.surroundings import threads_replaced_by
from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._pool.crew import Crew
from threadsafe_timeout._pool.expired_waits import POLICIES, cancel_expired
from threadsafe_timeout._pool.health import PoolHealth, health_of
from threadsafe_timeout._pool.task import Outcome, TaskFuture, TaskOptions
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._settings import settings
from threadsafe_timeout._timing import clock as _clock

if TYPE_CHECKING:
    from threadsafe_timeout._pool.events import Event, Listener
    from threadsafe_timeout._pool.saving import Key
    from threadsafe_timeout._scopes.tokens import CancelToken
    from threadsafe_timeout.checkpoint import CheckpointWriter

__all__ = ["StandardThreadPoolExecutor", "Submitter", "ThreadPoolExecutor"]

T = TypeVar("T")
# Abandoned threads that a process can afford. Each takes 25 to 60 KiB of memory and, in a network call, one of the 1024
# descriptors that a process usually may have: see docs/pool.md.
_CHEAP = 256


class ThreadPoolExecutor(StandardThreadPoolExecutor):
    """A thread pool whose tasks have deadlines and whose width survives the tasks that ignore them.

    Everything `concurrent.futures.ThreadPoolExecutor` accepts and does, and:

    - `task_timeout`: seconds a task may run, counted from its start (default: the `task_timeout` setting, none).
      A task past it is cancelled, then interrupted, then abandoned, `grace` seconds apart; its future gets
      `DeadlineExceeded`, and its worker is replaced.
    - `grace`: seconds between those rungs (default: the `grace` setting, 2).
    - `max_abandoned`: how many abandoned threads may be alive before `submit` raises `PoolExhausted`
      (default: 256, or twice the workers if that is more).
    - `on_exhausted`: `"raise"` does just that; `"exit"` also ends the process, with status 75, after saving what is
      owed and logging where every task is (default: the `on_exhausted` setting, `raise`).
    - `on_expired_wait`: what becomes of a task whose only wait with a timeout has expired, and whose outcome nobody can
      ask for any more, when the pool is left: `"cancel"`, `"single"` (only if it is the one task of a pool with one
      worker) or `"wait"`, as the standard pool (default: the `on_expired_wait` setting, `cancel`).
    - `checkpoint`: a `CheckpointWriter` in which tasks submitted `with_options(key=…)` are saved; or the path of a
      journal, which is opened, and closed (as a run that did not end) when `shutdown` has waited for the tasks.

    Leaving the `with` block, or `shutdown()`, waits for the tasks as ever, but not for abandoned ones, nor for those
    whose time limit has passed (`on_expired_wait`): these get one `grace`. Left by an exception, it cancels
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
        on_expired_wait: Literal["cancel", "single", "wait"] | None = None,
        checkpoint: CheckpointWriter | str | os.PathLike[str] | None = None,
    ) -> None:
        # Not super().__init__(): its queue, threads and semaphore are what this class replaces.
        if max_workers is None:
            count = getattr(os, "process_cpu_count", os.cpu_count)  # the former from 3.13 on, as in the standard pool
            max_workers = min(32, (count() or 1) + 4)
        if max_workers is not True:  # which has always been 1
            max_workers = check_whole("max_workers", max_workers, -sys.maxsize)
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if not isinstance(initargs, Iterable):
            raise TypeError(f"initargs must be the initializer's arguments, as a tuple; got {initargs!r}")
        _program.look(_getframe(1))
        other = threads_replaced_by()
        if other is not None:
            raise RuntimeError(f"this pool needs threads, and {other} has replaced them by greenlets")
        chosen = settings()
        if task_timeout is None:
            task_timeout = chosen.task_timeout
        self._task_timeout = None if task_timeout is None else check_seconds("task_timeout", task_timeout)
        grace = chosen.grace if grace is None else check_seconds("grace", grace)
        if max_abandoned is None:
            max_abandoned = max(_CHEAP, 2 * max_workers) if chosen.max_abandoned is None else chosen.max_abandoned
        max_abandoned = check_whole("max_abandoned", max_abandoned)
        if on_exhausted not in (None, "raise", "exit"):
            raise ValueError(f"on_exhausted must be 'raise' or 'exit', got {on_exhausted!r}")
        if on_expired_wait not in (None, *POLICIES):
            raise ValueError(f"on_expired_wait must be 'cancel', 'single' or 'wait', got {on_expired_wait!r}")
        self._checkpoint, self._opened = _writer_of(checkpoint)
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
            catchable=chosen.catchable_timeout == "all",
            on_expired_wait=on_expired_wait or chosen.on_expired_wait,
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
        task = TaskFuture(self._crew, self._default_options, _scope.context_for_children(), fn, args, kwargs)
        self._crew.submit(task)
        return task

    def _submit(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        _scope.raise_if_cancelled()
        task = TaskFuture(self._crew, options, _scope.context_for_children(), fn, args, kwargs)
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
        if key is not None and getattr(self._checkpoint, "_key", None) is None and not _is_key(key):
            raise TypeError(f"key must be a str, an int, or a function of the task's arguments; got {key!r}")
        if key is not None and self._checkpoint is None:
            raise ValueError("key= needs a place to save to: ThreadPoolExecutor(…, checkpoint=CheckpointWriter(path))")
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
        """As the standard `map`: results in order, the first timeout or exception met is raised, and leaving the
        iterator early cancels what is pending (not what runs). `chunksize` has no effect with threads. `buffersize`, on
        every version as on 3.14: so many tasks are submitted ahead of the results taken, instead of all at once.

        `fn` meets its task's deadline first as a `DeadlineExceeded` (a `TimeoutError`) that it can catch, so that an
        `except Exception` of its own can return a result all the same; see the `catchable_timeout` setting."""
        if buffersize is not None and not isinstance(buffersize, int):
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
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
                    yield _result_of(futures.popleft(), None if until is None else until - _clock.monotonic())
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
        """Counts, by name, as they are now:

        - threads: `workers`, those of them that are `idle` or `running` a task, and `abandoned_alive`;
        - tasks: `submitted`, `pending`, and by how they ended: `completed`, `failed` (also one that never started, when
          its deadline passed before), `cancelled` (before it started), `abandoned` (given up: its thread is stuck).
          When the pool is at rest these four add up to `submitted`; in between, a task may be on its way;
        - of those that failed or were abandoned, `timed_out` ended with `DeadlineExceeded`;
        - `late`: abandoned tasks that ended after all;
        - `replaced`: workers that took the place of another one, that was abandoned or died; `respawned`: of those that
          died;
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


def _is_key(key: object) -> bool:
    return callable(key) or (isinstance(key, (str, int)) and not isinstance(key, bool))


def _writer_of(checkpoint: Any) -> tuple[CheckpointWriter | None, CheckpointWriter | None]:
    """What a pool saves in; and the same again if it was opened here."""
    if checkpoint is None or (hasattr(checkpoint, "save") and hasattr(checkpoint, "started")):
        return checkpoint, None
    if not isinstance(checkpoint, (str, bytes, os.PathLike)):
        raise TypeError(f"checkpoint must be a CheckpointWriter, or the path of a journal; got {checkpoint!r}")
    from threadsafe_timeout.checkpoint import CheckpointWriter

    writer = CheckpointWriter(os.fsdecode(checkpoint))
    return writer, writer


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
            from threadsafe_timeout._pool.saving import saved

            fn, options = saved(writer, self._key, options, fn, args, kwargs)
        return self._pool._submit(options, fn, args, kwargs)



