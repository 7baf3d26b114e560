"""`@checkpointed` on an `async def`: the same records, and the disk is waited for in threads.

Guarantees:

- What is awaited is done only when its record is on disk. Cancelling who awaits does not lose the record: the save is
  waited for, however often the task is cancelled, at most `SAVING` seconds.
- Exactly one outcome of a call is saved: its own, or that an `AsyncPool` has given its task up.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import Cancelled
from threadsafe_timeout._pool.executor import ThreadPoolExecutor
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.checkpoint._format import Key
from threadsafe_timeout.checkpoint._function import SAVING, CheckpointedFunction, OneOutcome, P, R, status_of

if TYPE_CHECKING:
    from threadsafe_timeout.checkpoint._writer import CheckpointWriter

__all__ = ["CheckpointedCoroutine"]

log = logging.getLogger("threadsafe_timeout.checkpoint")
_THREADS = 16  # those that save at the same time share one fsync


class CheckpointedCoroutine(CheckpointedFunction[P, R]):
    """An `async def` decorated with `@checkpointed`. Any number of tasks may await it, in any loop."""

    _savers: ThreadPoolExecutor | None = None  # guarded by _lock

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if hasattr(inspect, "markcoroutinefunction"):  # since 3.12
            inspect.markcoroutinefunction(self)

    def close(self, *, ended: bool = True) -> None:
        super().close(ended=ended)
        with self._lock:
            savers, self._savers = self._savers, None
        if savers is not None:
            savers.shutdown(wait=True)

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._call(self._key(*args, **kwargs), args, kwargs)  # type: ignore[return-value]  # R is a coroutine

    async def _call(self, key: Key, args: Any, kwargs: Any) -> Any:
        writer = self._writer or await self._off_loop(lambda: self.writer)
        saved = self._finished.get(key)
        if saved is not None:
            return self._replay(saved)
        call = _Call(self, writer, key)
        await self._off_loop(writer.started, key)
        with call:
            try:
                result = await self.__wrapped__(*args, **kwargs)  # type: ignore[misc]  # R is a coroutine
            except (Exception, asyncio.CancelledError, Cancelled) as exc:
                await call.failed(exc)
                raise
            line = await call.save(result, "done")
        if line is not None:
            self._remember(writer, key, line)
        return result

    async def _off_loop(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call it in a thread, outside every scope, and see it through: a cancellation comes when it is done."""
        with self._lock:
            if self._savers is None:
                self._savers = ThreadPoolExecutor(_THREADS, "checkpointed", task_timeout=float("inf"))
                self._savers._crew.inner = True
            future = asyncio.wrap_future(Context().run(self._savers.submit, function, *args))
        until = _clock.monotonic() + SAVING
        cancelled: asyncio.CancelledError | None = None
        while not future.done() and _clock.monotonic() < until:
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError as exc:
                cancelled = cancelled or exc
            except Exception:
                break
        if cancelled is not None:
            if future.done() and not future.cancelled():
                future.exception()  # looked at: the cancellation tells more
            raise cancelled
        return await future


class _Call(OneOutcome):
    """One call of a coroutine function."""

    def __init__(self, function: CheckpointedCoroutine[Any, Any], writer: CheckpointWriter, key: Key) -> None:
        super().__init__(writer, key)
        self._function = function

    def __enter__(self) -> None:
        self._begin()

    def __exit__(self, *_: object) -> None:
        self._end()

    async def failed(self, exc: BaseException) -> None:
        """Save what it raised. A cancellation is saved if it is that of a scope around."""
        error = exc
        if isinstance(exc, (asyncio.CancelledError, Cancelled)):
            scope = exc.scope if isinstance(exc, Cancelled) else _around.cancelled_scope(always=True)
            if scope is None:
                return
            error = self._timed_out(scope, exc)
        try:
            await self.save(error, status_of(error))
        except asyncio.CancelledError:
            if not isinstance(exc, asyncio.CancelledError):
                raise

    async def save(self, outcome: object, status: str) -> bytes | None:
        line: bytes | None = await self._function._off_loop(self._save, outcome, status)
        return line
