"""`AsyncPool`: the thread pool's promises for coroutines.

Guarantees:

- At most `limit` tasks run at a time. Each ends by its deadline plus two `grace`, whatever it awaits: it is cancelled,
  cancelled again, then abandoned. Its slot is free then.
- A task that is saved has its record on disk before its future is done. The loop does not wait for the disk.
- Leaving the `async with` waits for every task, never past its deadline and grace. If the block
  raises, or is cancelled, the tasks are cancelled first.

Parts: `_async_task` (the future), `_async_scope`, `_async_crew` (slots and the ladder), `_loop_watch`, `_async_events`.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import replace
from itertools import count, islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from threadsafe_timeout._checks import check_callable, check_instant, check_seconds, check_wait, check_whole
from threadsafe_timeout._errors import DeadlineExceeded
from threadsafe_timeout._pool.arguments import check_abandoned, check_buffersize, check_key, writer_of
from threadsafe_timeout._pool.health import PoolHealth
from threadsafe_timeout._pool.options import Outcome, TaskOptions
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._settings import settings
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.engines._async_crew import AsyncCrew
from threadsafe_timeout.engines._async_health import health_of
from threadsafe_timeout.engines._async_task import AsyncTask

if TYPE_CHECKING:
    from threadsafe_timeout._pool.events import Event, Listener
    from threadsafe_timeout._pool.saving import Key
    from threadsafe_timeout._scopes.tokens import CancelToken
    from threadsafe_timeout.checkpoint import CheckpointWriter

__all__ = ["AsyncPool", "AsyncSubmitter", "AsyncTask"]

T = TypeVar("T")
_CoroutineFunction = Callable[..., Coroutine[Any, Any, T]]
_numbers = count()


class AsyncPool:
    """Runs coroutine functions, at most `limit` at a time, in the event loop that enters it.

        async with AsyncPool(100, task_timeout=60) as pool:
            task = pool.submit(fetch, url)
            print(await task)

    - `task_timeout`: seconds a task may run, counted from its start (default: the `task_timeout` setting, none).
      After that it is cancelled; if it goes on, it is cancelled again, then abandoned: its future gets
      `DeadlineExceeded`, and its slot is free.
    - `grace`: seconds between those steps (default: the `grace` setting, 2).
    - `max_abandoned`: how many abandoned coroutines may be alive before `submit` raises `PoolExhausted` and pending
      tasks fail with it (default: the `max_abandoned` setting; 256, or twice the limit if that is more).
    - `checkpoint`: a `CheckpointWriter` that saves the tasks submitted `with_options(key=…)`; or the path of a
      journal. The pool then opens the journal, and closes it (as a run that did not end) when it is left.
    - `name`: the pool's name in log lines and errors.

    A coroutine that blocks the loop is named in the log (event `blocked`). Past its deadline it is interrupted where
    that is safe.

    Leaving the block waits for the tasks, except abandoned ones. If the block raises or is cancelled, all tasks are
    cancelled and get one `grace`.

    Not guaranteed: a coroutine that blocks the loop in C code, or in an `async with` block, stops every task of
    the loop until it returns. A pool belongs to one loop; other threads may call `health()`, `stats()`, and the
    methods of its futures.
    """

    def __init__(
        self,
        limit: int,
        *,
        task_timeout: float | None = None,
        grace: float | None = None,
        max_abandoned: int | None = None,
        checkpoint: CheckpointWriter | str | os.PathLike[str] | None = None,
        name: str | None = None,
    ) -> None:
        limit = check_whole("limit", limit, 1)
        chosen = settings()
        if task_timeout is None:
            task_timeout = chosen.task_timeout
        self._task_timeout = None if task_timeout is None else check_seconds("task_timeout", task_timeout)
        grace = chosen.grace if grace is None else check_seconds("grace", grace)
        max_abandoned = check_abandoned(chosen.max_abandoned if max_abandoned is None else max_abandoned, limit)
        _check_name(name)
        self._checkpoint, self._opened = writer_of(checkpoint)
        self._saves = chosen.save == "tasks"
        self._default_options = TaskOptions(timeout=self._task_timeout)
        self._crew = AsyncCrew(limit, name or f"AsyncPool-{next(_numbers)}", grace, max_abandoned)

    async def __aenter__(self) -> Self:
        if self._crew.loop is not None:
            raise RuntimeError("this AsyncPool was entered before: make a new one")
        self._crew.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        if exc is not None:
            self._crew.closed = True
            self._crew.cancel_all("the `async with` block of its pool raised")
        await self.shutdown()
        return False

    async def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more tasks and, with `wait`, wait for the submitted ones, except abandoned ones.

        `cancel_futures` cancels pending tasks. If the wait is cancelled, all tasks are, and get one `grace` to end.
        """
        crew = self._crew
        crew.closed = True
        if cancel_futures:
            crew.cancel_pending()
        if not wait:
            return
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                await crew.join()
                break
            except asyncio.CancelledError as exc:  # again and again, maybe: the tasks' ladders bound the wait
                cancelled = cancelled or exc
                crew.cancel_all("its pool was left, and that was cancelled")
        try:
            await self._close_journal()
        finally:
            crew.leave()
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                del cancelled

    async def _close_journal(self) -> None:
        writer, self._opened = self._opened, None
        if writer is not None:
            await self._crew.off_loop(writer.close)

    def submit(self, fn: _CoroutineFunction[Any], /, *args: Any, **kwargs: Any) -> AsyncTask:
        """Schedule `fn(*args, **kwargs)`, a call of a coroutine function, and return a future that can be awaited.

        It runs in a copy of the caller's context, and so in the caller's scopes. Raises RuntimeError before the pool
        was entered and after it was left, and `PoolExhausted` when too many abandoned coroutines are alive.
        """
        if self._saves:
            return self._submit_saved(self._default_options, fn, args, kwargs)
        return self._submit(self._default_options, fn, args, kwargs)

    def _submit_saved(
        self, options: TaskOptions, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AsyncTask:
        """Submit a task that has no key, to be saved."""
        from threadsafe_timeout.checkpoint._by_itself import submit_saved_coroutine

        self._check_open(fn)
        return submit_saved_coroutine(self._submit, options, fn, args, kwargs)

    def _submit(
        self, options: TaskOptions, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], before: Any = None
    ) -> AsyncTask:
        crew = self._crew
        self._check_open(fn)
        _around.raise_if_cancelled()
        task = AsyncTask(crew, options, _shield.context_for_children(), fn, args, kwargs)
        if before is not None:
            task._before = before
        if options.deadline is not None or options.token is not None:
            _heed_options(task)
        crew.submit(task)
        return task

    def _check_open(self, fn: Any) -> None:
        crew = self._crew
        if crew.loop is None:
            raise RuntimeError("the AsyncPool was not entered: use `async with AsyncPool(…) as pool`")
        if not crew.in_loop():
            raise RuntimeError(
                "submit was called in another thread than the pool's event loop; there, use "
                "asyncio.run_coroutine_threadsafe"
            )
        if crew.closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if not callable(fn):
            if asyncio.iscoroutine(fn):
                fn.close()
                raise TypeError("submit takes a coroutine function and its arguments: submit(f, x), not submit(f(x))")
            raise TypeError(f"submit takes a coroutine function and its arguments, got {fn!r}")

    def with_options(
        self,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        token: CancelToken | None = None,
        key: Key | None = None,
        name: str | None = None,
        settle: Callable[[Outcome], Any] | None = None,
    ) -> AsyncSubmitter:
        """Options for single tasks, with the names and meanings of `ThreadPoolExecutor.with_options`.

            await pool.with_options(timeout=5, key="a").submit(fetch, url)

        `settle` is called in a thread of the pool's, outside every scope, and may block.
        """
        check_key(key, self._checkpoint)
        timeout = self._task_timeout if timeout is None else check_seconds("timeout", timeout)
        if deadline is not None:
            deadline = check_instant("deadline", deadline)
        if token is not None and not hasattr(token, "register"):
            raise TypeError(f"token must be a CancelToken (of a CancelSource, its .token), got {token!r}")
        _check_name(name)
        if settle is not None:
            check_callable("settle", settle)
        options = TaskOptions(timeout=timeout, deadline=deadline, token=token, name=name, settle=settle)
        return AsyncSubmitter(self, options, key)

    async def map(
        self, fn: _CoroutineFunction[T], *iterables: Iterable[Any], buffersize: int | None = None
    ) -> AsyncIterator[T]:
        """`async for result in pool.map(fn, items)`: results in order; the first error is raised.

        `buffersize` is how many tasks are submitted ahead of the results that were taken; by default all are, with
        the first one. Leaving the loop early cancels pending tasks, but not running ones, once the iterator is closed.
        """
        check_buffersize(buffersize)
        inputs = zip(*iterables, strict=False)
        tasks = deque(self.submit(fn, *args) for args in islice(inputs, buffersize))
        try:
            while tasks:
                result = await tasks[0]
                tasks.popleft()
                for args in islice(inputs, 0 if buffersize is None else 1):
                    tasks.append(self.submit(fn, *args))
                yield result
        finally:
            for task in tasks:
                task.cancel_pending()

    async def as_completed(
        self, tasks: Iterable[AsyncTask], *, timeout: float | None = None
    ) -> AsyncIterator[AsyncTask]:
        """`async for task in pool.as_completed(tasks)`: each of them as it is done.

        Raises TimeoutError if they are not done `timeout` seconds from now; the tasks go on.
        """
        check_wait("timeout", timeout)
        left = set(tasks)
        done: asyncio.Queue[AsyncTask] = asyncio.Queue()

        def tell(task: Any) -> None:
            self._crew.call(done.put_nowait, task)

        until = None if timeout is None else asyncio.get_running_loop().time() + timeout
        for task in left:
            task.add_done_callback(tell)
        try:
            while left:
                async with asyncio.timeout_at(until):
                    task = await done.get()
                left.discard(task)
                yield task
        finally:
            for task in left:
                task.remove_done_callback(tell)

    async def gather(self, *tasks: AsyncTask, return_exceptions: bool = False) -> list[Any]:
        """The results of all, in this order. The first error is raised as it comes; the others go on.

        With `return_exceptions`, errors are among the results. Cancelling who awaits this cancels the tasks.
        """
        try:
            async for task in self.as_completed(tasks):
                if not return_exceptions:
                    await task
        except asyncio.CancelledError:
            for task in tasks:
                task._cancel("whoever awaited it was cancelled")
            raise
        return [_outcome(task) if return_exceptions else await task for task in tasks]

    def stats(self) -> dict[str, int]:
        """Counts, by name, at this moment; the names are those of `ThreadPoolExecutor.stats`.

        `workers` is the limit, `idle` the free slots, `abandoned_alive` the coroutines that were given up and have not
        ended.
        """
        return self._crew.stats()

    def health(self) -> PoolHealth:
        """What each running task does, where it waits, and how much time it has.

        `worker` is the name of its slot, and of its asyncio task.
        """
        return health_of(self._crew)

    def on_event(self, callback: Callable[[Event], object]) -> Listener:
        """Have `callback(event)` called for each `Event` of the pool, in a thread of the pool's own (not in the loop).

        Returns a handle with `unregister()`. An exception of the callback is logged.
        """
        check_callable("callback", callback)
        return self._crew.events.listen(callback)

    def __repr__(self) -> str:
        crew = self._crew
        return f"<AsyncPool {crew.prefix!r} limit={crew.width} running={len(crew.running)} pending={len(crew.pending)}>"


class AsyncSubmitter:
    """An `AsyncPool` with options for the tasks submitted through it; see `AsyncPool.with_options`."""

    def __init__(self, pool: AsyncPool, options: TaskOptions, key: Key | None) -> None:
        self._pool = pool
        self._options = options
        self._key = key

    def submit(self, fn: _CoroutineFunction[Any], /, *args: Any, **kwargs: Any) -> AsyncTask:
        """Like the pool's `submit`, with these options."""
        options, writer, before = self._options, self._pool._checkpoint, None
        if self._key is None and self._pool._saves:
            return self._pool._submit_saved(options, fn, args, kwargs)
        if self._key is not None and writer is not None:
            from threadsafe_timeout._pool.saving import saved

            key = self._key(*args, **kwargs) if callable(self._key) else self._key
            # What it would run is not what is to run: noting that the task starts may wait for the disk.
            before, options = saved(writer, key, options, _nothing, (), {})
            options = replace(options, key=key)
        return self._pool._submit(options, fn, args, kwargs, before)


def _nothing() -> None:
    pass


def _check_name(name: object) -> None:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name must be a str, got {name!r}")


def _outcome(task: AsyncTask) -> Any:
    if task.was_cancelled or task.cancelled():
        return asyncio.CancelledError()
    error = task.exception()
    return task.result() if error is None else error


def _heed_options(task: AsyncTask) -> None:
    """See to what few tasks have: a deadline that holds while it is pending, a token."""
    crew, options = task._crew, task._options
    undo: list[Callable[[], object]] = []
    if options.deadline is not None:
        assert crew.loop is not None
        left = max(0.0, options.deadline - _clock.monotonic())
        undo.append(crew.loop.call_later(left, _expire_pending, task).cancel)
    token = options.token
    if token is not None:

        def cancel() -> None:
            task._cancel(token.reason or "its token was cancelled")

        undo.append(token.register(cancel).unregister)
    task._undo = undo


def _expire_pending(task: AsyncTask) -> None:
    reason = "its deadline passed while it waited for a slot; it never started"
    task._crew.fail_pending(task, DeadlineExceeded(task._task_name(), reason=reason))
