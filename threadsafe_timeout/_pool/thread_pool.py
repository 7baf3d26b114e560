"""`ThreadPoolExecutor`: what `concurrent.futures.ThreadPoolExecutor` becomes.

An instance of the standard class (asyncio insists on that), on its own queue and worker loop.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.thread import ThreadPoolExecutor as StandardThreadPoolExecutor
from sys import _getframe
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from threadsafe_timeout._checks import check_callable, check_instant, check_seconds, check_wait
from threadsafe_timeout._environment import program as _program
from threadsafe_timeout._introspection.frames import is_installed
from threadsafe_timeout._pool import exit as _exit
from threadsafe_timeout._pool.arguments import (
    check_abandoned,
    check_buffersize,
    check_initializer,
    check_isolate,
    check_key,
    check_policies,
    check_threads,
    check_workers,
    isolated,
    writer_of,
)
from threadsafe_timeout._pool.crew import Crew
from threadsafe_timeout._pool.expired_waits import cancel_expired
from threadsafe_timeout._pool.health import PoolHealth, health_of
from threadsafe_timeout._pool.mapping import results
from threadsafe_timeout._pool.options import Outcome, TaskOptions
from threadsafe_timeout._pool.state import CrewOptions
from threadsafe_timeout._pool.task import TaskFuture
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._settings import Settings, settings
from threadsafe_timeout._timing import clock as _clock

if TYPE_CHECKING:
    from threadsafe_timeout._pool.events import Event, Listener
    from threadsafe_timeout._pool.saving import Key
    from threadsafe_timeout._scopes.tokens import CancelToken
    from threadsafe_timeout.checkpoint import CheckpointWriter

__all__ = ["StandardThreadPoolExecutor", "Submitter", "ThreadPoolExecutor"]

T = TypeVar("T")


def _next_name() -> str:
    number = StandardThreadPoolExecutor._counter()  # type: ignore[attr-defined]  # one sequence of names for both
    return f"ThreadPoolExecutor-{number}"


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
    - `isolate`: with `"process"`, each task runs in a process of its own, which can be killed (default: the `isolate`
      setting, `thread`).

    Leaving the `with` block, or `shutdown()`, waits for the tasks, except abandoned ones; tasks that `on_expired_wait`
    cancels get one `grace`. If the block raises, tasks whose `result(timeout)`, `wait`, `as_completed` or `map` had
    expired are cancelled and get one `grace`. After Ctrl-C all tasks are cancelled.

    Not guaranteed: an abandoned thread keeps its memory, locks and connections until it returns. A thread that never
    returns from C code is not stopped.
    """

    _by_setting = True  # whether it becomes what the setting `engine` says

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
        isolate: Literal["thread", "process"] | None = None,
    ) -> None:
        # Not super().__init__(): its queue, threads and semaphore are what this class replaces.
        self._max_workers = max_workers = check_workers(max_workers)
        check_initializer(initializer, initargs)
        _program.look(_getframe(1))
        check_threads()
        chosen = settings()
        self._task_timeout = _limit(chosen.task_timeout if task_timeout is None else task_timeout)
        grace = chosen.grace if grace is None else check_seconds("grace", grace)
        max_abandoned = check_abandoned(chosen.max_abandoned if max_abandoned is None else max_abandoned, max_workers)
        check_policies(on_exhausted, on_expired_wait)
        self._choose_engine(_getframe(1), check_isolate(isolate, chosen.isolate), chosen)
        self._checkpoint, self._opened = writer_of(checkpoint)
        self._thread_name_prefix = thread_name_prefix or _next_name()
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

    def _choose_engine(self, frame: FrameType, isolate: bool, chosen: Settings) -> None:
        """What its tasks run on; `frame` makes it."""
        self._isolate = isolate
        self._saves = chosen.save == "tasks" and not _is_asyncios(frame)
        self._prepares = isolate or self._saves  # one look for each task, as most pools do neither
        self._far = False  # whether its tasks run on other machines
        self._sends_prepared = isolate and chosen.task_factory is not None  # also those of a patched runner
        self._elsewhere: Callable[[Callable[..., Any]], Callable[..., Any]] = isolated
        if chosen.engine == "dask" and self._by_setting and not is_installed(frame.f_code.co_filename):
            from threadsafe_timeout.engines.cluster import run_on_shared

            self._run_elsewhere(run_on_shared(self._max_workers, chosen))

    def _run_elsewhere(self, elsewhere: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Have the function of every task replaced by what that makes of it."""
        self._elsewhere = elsewhere
        self._far = self._isolate = self._prepares = self._sends_prepared = True

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
            if self._sends_prepared and not options.here:
                fn = self._elsewhere(fn)
            return self._submit(options, fn, args, kwargs)
        _around.raise_if_cancelled()
        if self._prepares:
            return self._prepare_and_submit(self._default_options, self._isolate, fn, args, kwargs)
        task = TaskFuture(self._crew, self._default_options, _shield.context_for_children(), fn, args, kwargs)
        self._crew.submit(task)
        return task

    def _prepare_and_submit(
        self, options: TaskOptions, isolate: bool, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        """Submit a task that has no key, to run in a process of its own, to be saved, or both."""
        runs = self._elsewhere(fn) if isolate else fn
        if self._saves:
            from threadsafe_timeout.checkpoint._by_itself import submit_saved

            return submit_saved(self._submit, options, fn, runs, args, kwargs)
        return self._submit(options, runs, args, kwargs)

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
        isolate: Literal["thread", "process"] | None = None,
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
        - `isolate`: where the task runs, as for the pool.

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
        if self._far and isolate == "thread":
            raise ValueError("isolate must be 'process': the tasks of this pool run on other machines, in processes")
        return Submitter(self, options, key, check_isolate(isolate, "process" if self._isolate else "thread"))

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
        return results(self, fn, zip(*iterables, strict=False), buffersize, until)

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
                    task.hurry("a wait for it had timed out, and the `with` block of the pool raised")
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


def _limit(task_timeout: float | None) -> float | None:
    return None if task_timeout is None else check_seconds("task_timeout", task_timeout)


def _is_asyncios(frame: FrameType) -> bool:
    """Whether a pool that is made in that frame is a loop's own: its tasks are what others do off their loop."""
    return frame.f_globals.get("__name__") == "asyncio.base_events"


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

    def __init__(self, pool: ThreadPoolExecutor, options: TaskOptions, key: Key | None, isolate: bool) -> None:
        self._pool = pool
        self._options = options
        self._key = key
        self._isolate = isolate

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Like the pool's `submit`, with these options."""
        pool, writer = self._pool, self._pool._checkpoint
        if self._key is None or writer is None:
            return pool._prepare_and_submit(self._options, self._isolate, fn, args, kwargs)
        from threadsafe_timeout._pool.saving import saved

        if self._isolate:
            fn = pool._elsewhere(fn)
        fn, options = saved(writer, self._key, self._options, fn, args, kwargs)
        return pool._submit(options, fn, args, kwargs)
