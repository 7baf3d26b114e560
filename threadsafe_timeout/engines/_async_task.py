"""One task of an `AsyncPool`: a standard future that can be awaited, and the coroutine until it has ended.

Guarantees:

- It has one outcome: that of the coroutine, or the timeout of whoever gave it up. The event loop's thread decides.
- `await` works in any event loop. Cancelling who awaits cancels the task, as awaiting an `asyncio.Task` does.
- `result()` and `exception()` never block the loop's own thread: there, before the end, they raise
  `asyncio.InvalidStateError`. Other threads wait, as for any future.
- A task that has ended holds neither its function nor its arguments nor its context.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextvars import Context
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import Cancelled, DeadlineExceeded
from threadsafe_timeout._introspection.names import called, name_of
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._pool.future import CANCELLED, FINISHED, PENDING, RUNNING, FutureCondition, LightFuture
from threadsafe_timeout._pool.options import Outcome, TaskOptions
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._text import Place
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.engines import _async_events as _tell
from threadsafe_timeout.engines._async_scope import AsyncTaskScope

if TYPE_CHECKING:
    from threadsafe_timeout.engines._async_crew import AsyncCrew
    from threadsafe_timeout.engines._async_slots import Slot

__all__ = ["AsyncTask", "cancelled_in"]

_NOTHING: tuple[Any, Any, Any, Any] = (None, None, (), {})


class AsyncTask(LightFuture):
    """The future of a coroutine function's call that was submitted; `await` it, or ask it as any other future.

    `cancel()` on a running task asks it to end, and returns False, as that of a thread pool's task does.
    """

    # Underscores all, as programs hang attributes of their own on futures. All but the state: in the loop's thread.
    _over = False  # its outcome is decided
    _name: str | None = None
    _aio: asyncio.Task[None] | None = None  # as soon as it was started
    _rung: asyncio.TimerHandle | None = None  # the next rung of the ladder
    _insisting = False
    _hurried = False  # the pool is left: the next rung is the last
    _refused = False  # a scope around it was cancelled before its function was called
    _undo: list[Callable[[], object]] | None = None  # what to take back when it is over
    _before: Callable[[], object] | None = None  # called off the loop before the coroutine function
    _witnesses: tuple[Callable[[Outcome], object], ...] = ()  # called off the loop before the future is done
    _running: Any = None  # the coroutine, to find where it is
    _number = 0
    _slot: Slot | None = None  # while it has one

    def __init__(
        self,
        crew: AsyncCrew,
        options: TaskOptions,
        context: Context,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self._condition = FutureCondition()
        self._crew = crew
        self._options = options
        self._call: tuple[Any, Any, Any, Any] = (context, function, args, kwargs)
        scope = _scope.prepare(_scope.new(AsyncTaskScope), None, options.timeout)
        scope._fenced = False
        scope.task = self
        self._scope = scope

    # For the user of the future

    def __await__(self) -> Generator[Any, None, Any]:
        if not self.done():
            yield from self._wait()
        try:
            if self._state != FINISHED:
                raise asyncio.CancelledError
            if self._exception is not None:
                raise self._exception
            return self._result
        finally:
            del self  # it would be a cycle: the future, its exception, the traceback, this frame

    def _wait(self) -> Generator[Any, None, None]:
        loop = asyncio.get_running_loop()
        ours = loop is self._crew.loop
        waiter = loop.create_future()

        def wake(_: object = None) -> None:
            if not waiter.done():
                waiter.set_result(None)

        def tell(_: object) -> None:
            if ours and self._crew.in_loop():
                wake()
                return
            try:
                loop.call_soon_threadsafe(wake)
            except RuntimeError:
                pass  # that loop was closed, and nobody waits in it

        self.add_done_callback(tell)
        try:
            yield from waiter
        except asyncio.CancelledError:
            self._cancel("whoever awaited it was cancelled")
            raise
        finally:
            self.remove_done_callback(tell)

    def remove_done_callback(self, fn: Callable[..., object]) -> int:
        """Take a callback back; how many were removed. (`asyncio.wait` asks for this.)"""
        with self._condition:
            before = len(self._done_callbacks)
            self._done_callbacks = [one for one in self._done_callbacks if one != fn]
            return before - len(self._done_callbacks)

    def result(self, timeout: float | None = None) -> Any:
        """The result, if it is done; other threads than the loop's wait for it, at most `timeout` seconds."""
        self._refuse_to_block()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What it raised, or None; as `result` otherwise."""
        self._refuse_to_block()
        return super().exception(timeout)

    def _refuse_to_block(self) -> None:
        if not self.done() and self._crew.in_loop():
            name = self._task_name()
            raise asyncio.InvalidStateError(f"task {name} is not done: `await` it (this would block its loop)")

    def cancel(self) -> bool:
        """Cancel a pending task: True. Ask a running one to end: False, as with a thread pool's."""
        return self._cancel("its future's cancel() was called")

    def _cancel(self, reason: str) -> bool:
        if self.cancel_pending():
            return True
        self._scope.cancel(reason)
        return False

    def cancel_pending(self) -> bool:
        """The standard `cancel()`, which leaves a running task alone."""
        if not super().cancel():
            return False
        self._crew.call(self._crew.pass_over, self)
        return True

    # For its crew

    def begin(self) -> bool:
        """Whether it is to run, and nobody can cancel it as a pending one any more."""
        with self._condition:
            if self._state is not PENDING:
                return False
            self._state = RUNNING
            return True

    def start(self) -> None:
        """Run it in the loop, from the next iteration on; with an eager task factory at once."""
        context, scope, by = self._call[0], self._scope, self._options.deadline
        if by is not None:
            left = max(0.0, by - _clock.monotonic())
            scope._budget = left if scope._budget is None else min(left, scope._budget)
        if _observer.starting is not None:
            _observer.starting(self, context)
        loop, slot = self._crew.loop, self._slot
        assert loop is not None
        assert slot is not None
        aio = loop.create_task(self._run(), name=slot.name, context=context)
        if self._over:
            return  # an eager one has ended
        self._aio = aio
        aio.add_done_callback(self._aio_done)

    async def _run(self) -> None:
        scope, result, raised = self._scope, None, None
        _, function, args, kwargs = self._call
        try:
            with scope:
                if scope._parent is not None:
                    scope.heed_parent()
                if self._before is not None:
                    await self._crew.off_loop(self._before)
                self._running = coroutine = function(*args, **kwargs)
                if type(coroutine) is not CoroutineType:
                    _check_awaitable(coroutine, function)
                result = await coroutine
        except GeneratorExit:  # its loop was closed, and this is the collector: nobody is there to be told
            self._crew.destroyed(self)
            raise
        except BaseException as exc:
            raised = exc.with_traceback(exc.__traceback__ and exc.__traceback__.tb_next)
        try:
            self._crew.ended(self, result, raised)
            if isinstance(raised, (KeyboardInterrupt, SystemExit)):
                raise raised
        finally:
            del raised, function, args, kwargs, self  # a traceback's frame that holds its exception is a cycle

    def _aio_done(self, aio: asyncio.Task[None]) -> None:
        """The asyncio task has ended; before its first step, if somebody has cancelled it by then."""
        if aio.cancelled() or aio.exception() is not None:
            self._crew.ended(self, None, asyncio.CancelledError())

    def settle(self, outcome: Outcome) -> None:
        """Give the future its outcome, and wake what waits for it."""
        with self._condition:
            self._result, self._exception = outcome.result, outcome.error
            self._state = FINISHED
            self._notify()
        self._invoke_callbacks()

    def decided(self) -> None:
        """Its outcome is decided: no rung comes any more."""
        self._over = True
        if self._rung is not None:
            self._rung.cancel()
            self._rung = None
        if self._undo is not None:
            for undo in self._undo:
                undo()
            self._undo = None

    def release(self) -> None:
        """Let go of everything the call held."""
        self._call, self._before, self._running, self._aio = _NOTHING, None, None, None
        self._scope.task = None
        slot, self._slot = self._slot, None
        if slot is not None:
            self._crew.slots.give_back(slot)

    def add_witness(self, witness: Callable[[Outcome], object]) -> None:
        """If it is given up, have `witness(outcome)` called before its future is done, off the loop."""
        self._witnesses = (*self._witnesses, witness)

    def remove_witness(self, witness: Callable[[Outcome], object]) -> None:
        self._witnesses = tuple(one for one in self._witnesses if one != witness)

    # For observers

    def _loop_ended(self, kind: str, detail: str) -> None:
        """A guard has ended a loop in this task."""
        _tell.loop_ended(self, kind, detail)

    def _task_name(self) -> str:
        if self._name is None:
            call = self._call
            named = call is not _NOTHING
            self._name = self._options.name or (called(*call[1:], self._number) if named else f"#{self._number}")
        return self._name

    def elapsed(self) -> float:
        """Seconds since it started."""
        scope = self._scope
        return _clock.monotonic() - scope._entered_at if scope._state else 0.0

    def timed_out(self, where: Place | None, reason: str | None = None) -> DeadlineExceeded:
        """What whoever asks for its outcome gets; `where` its deadline found it."""
        reason = reason or self._scope.reason
        if self._refused:
            reason = f"a scope around it was cancelled ({reason}); it never started"
            return DeadlineExceeded(self._task_name(), reason=reason)
        return DeadlineExceeded(self._task_name(), self._options.timeout, self.elapsed(), reason, where)

    def _was_abandoned(self) -> bool:
        return self in self._crew.abandoned

    @property
    def was_cancelled(self) -> bool:
        """Whether it was cancelled before it started."""
        return self._state is CANCELLED


def _check_awaitable(made: object, function: Callable[..., Any]) -> None:
    if not hasattr(made, "__await__"):
        raise TypeError(
            f"{name_of(function)} returned {type(made).__name__}, which cannot be awaited: an AsyncPool runs coroutine "
            "functions (async def); for others submit asyncio.to_thread"
        )


def cancelled_in(raised: BaseException | None) -> Cancelled | None:
    """The library's own cancellation, if that is what was raised; also in what a task group made of it."""
    while isinstance(raised, BaseExceptionGroup) and (group := raised.subgroup(Cancelled)) is not None:
        raised = group.exceptions[0]
    return raised if isinstance(raised, Cancelled) else None
