"""What an `AsyncPool` has: its slots, the tasks in them, and those that wait for one.

All of it belongs to the event loop's thread. Other threads cancel tasks and look on; they reach the loop by `call`.

- A slot is taken from a task's start until its outcome is in its future, on disk if it is saved.
- Whatever cancels a running task starts its ladder: `overdue`; one `grace` later `interrupting` (its scope cancels it
  again meanwhile, see `_scopes/coroutines`); after another it is abandoned: its outcome is the timeout, its slot is
  free, and what it returns later counts for nothing. It is cancelled again after each further grace.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import DeadlineExceeded, PoolExhausted
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._pool.events import Events
from threadsafe_timeout._pool.options import Outcome
from threadsafe_timeout._pool.state import Counts
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._text import Place
from threadsafe_timeout.engines import _async_events as _tell
from threadsafe_timeout.engines._async_ending import error_of, settled
from threadsafe_timeout.engines._async_slots import Slot, Slots
from threadsafe_timeout.engines._async_task import AsyncTask
from threadsafe_timeout.engines._loop_watch import LoopWatch, place_of_coroutine

if TYPE_CHECKING:
    from threadsafe_timeout._pool.executor import ThreadPoolExecutor
    from threadsafe_timeout._pool.observer import Ending
    from threadsafe_timeout.engines._async_health import Seen

__all__ = ["AsyncCounts", "AsyncCrew"]

logger = logging.getLogger("threadsafe_timeout")
_SAVERS = 16  # threads at most: those that save at the same time share one fsync


crews: weakref.WeakSet[AsyncCrew] = weakref.WeakSet()  # those that were entered


@dataclass(slots=True, eq=False)
class AsyncCounts(Counts):
    """How tasks have ended, and how many there were. Only the loop's thread writes them, but for `loops`."""

    submitted: int = 0
    late: int = 0


class AsyncCrew:
    """See the module."""

    inner = False  # as those of threads have it

    def __init__(self, limit: int, prefix: str, grace: float, max_abandoned: int) -> None:
        self.width = limit
        self.prefix = prefix
        self.grace = grace
        self.max_abandoned = max_abandoned
        self.events = Events(prefix)
        self.lock = threading.RLock()  # guards `counts.loops`, which guards in other threads add to
        self.loop: asyncio.AbstractEventLoop | None = None
        self.pending: deque[AsyncTask] = deque()
        self.running: dict[AsyncTask, None] = {}  # those that have a slot
        self.abandoned: dict[AsyncTask, None] = {}  # those that have not ended since
        self.slots = Slots(prefix)
        self.counts = AsyncCounts()
        self.closed = False
        self._watch: LoopWatch | None = None
        self.ident = 0
        self._unfinished = 0  # submitted, and no outcome yet
        self._filling = False
        self._idle: list[asyncio.Future[None]] = []  # waits until nothing is unfinished
        self._savers: ThreadPoolExecutor | None = None

    def open(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ident = threading.get_ident()
        self._watch = LoopWatch(self, self.loop)
        crews.add(self)

    def in_loop(self) -> bool:
        """Whether this is the loop's thread."""
        return threading.get_ident() == self.ident

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call it in the loop: now, if this is its thread. (When the loop is closed, nothing of it is left to do.)"""
        loop = self.loop
        if loop is None or self.in_loop():
            function(*args)
            return
        try:
            loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            pass

    # Tasks begin

    def submit(self, task: AsyncTask) -> None:
        if len(self.abandoned) > self.max_abandoned:
            raise self.exhausted()
        self.counts.submitted += 1
        self._unfinished += 1
        task._number = self.counts.submitted
        self.pending.append(task)
        if (stirred := _observer.stirred) is not None:
            stirred(self)
        if task._number == 1 and (opened := _observer.opened) is not None:
            opened(self)
        self.fill()

    def exhausted(self) -> PoolExhausted:
        holders = tuple((task._task_name(), place_of_coroutine(task._running)[0]) for task in self.abandoned)
        return PoolExhausted(self.prefix, len(self.abandoned), self.max_abandoned, holders, "coroutines")

    def fill(self) -> None:
        """Start tasks while there are slots. Not from within: an eager task may end before `start` returns."""
        if self._filling:
            return
        self._filling = True
        try:
            while self.pending and len(self.running) < self.width:
                task = self.pending.popleft()
                if task.begin():
                    self.running[task] = None
                    self.slots.take(task)
                    task.start()
        finally:
            self._filling = False
        if self.running and self._watch is not None:
            self._watch.begin()

    def off_loop(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Call it in a thread, outside every scope."""
        return asyncio.wrap_future(self._save(function, *args))

    def _save(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._savers is None:
            from threadsafe_timeout._pool.executor import ThreadPoolExecutor

            width = min(self.width, _SAVERS)
            self._savers = ThreadPoolExecutor(width, f"{self.prefix}-saver", task_timeout=float("inf"))
            self._savers._crew.inner = True
            self._savers._prepares = False  # its tasks are not saved, nor in a process of their own
        return Context().run(self._savers.submit, function, *args)

    # Tasks end

    def ended(self, task: AsyncTask, result: Any, raised: BaseException | None) -> None:
        """Its coroutine has ended."""
        if task in self.abandoned:
            del self.abandoned[task]
            self.counts.late += 1
            _tell.late(self, task, Outcome(result, raised))
            task.release()
            return
        if task._over:
            return
        error = error_of(task, raised)
        self._decide(task, Outcome(result if error is None else None, error))

    def destroyed(self, task: AsyncTask) -> None:
        """Its coroutine was destroyed: the loop was closed before it had ended."""
        self.abandoned.pop(task, None)
        self.running.pop(task, None)
        if not task._over:
            task._over = True
            self.counts.failed += 1
            self._unfinished -= 1
            task.settle(Outcome(error=asyncio.CancelledError()))
        task.release()

    def _decide(self, task: AsyncTask, outcome: Outcome) -> None:
        """That is its outcome. Save it, if that is asked for, then tell those who wait."""
        task.decided()
        if outcome.error is not None:
            task._task_name()  # it may be told of later, when its call is gone
        hook, witnesses = task._options.settle, task._witnesses
        observe = _observer.ending if hook is not None or outcome.error is not None else _observer.ending_well
        note = observe(task, outcome.error) if observe is not None else None
        if hook is None and not witnesses:
            self._finish(task, outcome, note)
            return
        try:
            saving = self._save(settled, task, hook, witnesses, outcome)
        except BaseException as error:  # no thread can be had
            logger.exception("threadsafe-timeout: pool %s: no thread to save in; the loop does it", self.prefix)
            del error
            self._finish(task, settled(task, hook, witnesses, outcome), note)
            return
        saving.add_done_callback(lambda done: self.call(self._finish, task, done.result(), note))

    def _finish(self, task: AsyncTask, outcome: Outcome, note: Ending | None = None) -> None:
        error, counts = outcome.error, self.counts
        given_up = task in self.abandoned
        if given_up:
            counts.given_up += 1
        elif error is None:
            counts.completed += 1
        else:
            counts.failed += 1
        counts.timed_out += isinstance(error, DeadlineExceeded)
        if not given_up:
            self.running.pop(task, None)
            task.release()
        task.settle(outcome)
        if note is not None:
            note.finished(error)
        self._finished()

    def _finished(self) -> None:
        self._unfinished -= 1
        if self.pending:
            self.fill()
        if not self._unfinished:
            for waiter in self._idle:
                if not waiter.done():
                    waiter.set_result(None)
            self._idle.clear()

    def pass_over(self, task: AsyncTask) -> None:
        """It was cancelled before it started."""
        if task._over:
            return
        task.decided()
        task.release()
        task.set_running_or_notify_cancel()  # tells those who wait
        self.counts.cancelled += 1
        self._finished()

    def fail_pending(self, task: AsyncTask, error: BaseException) -> None:
        """It can never start."""
        if task.begin():
            if isinstance(error, DeadlineExceeded):
                _tell.never_started(self, task, error)
            self._decide(task, Outcome(error=error))

    def cancel_pending(self) -> None:
        waiting = list(self.pending)
        self.pending.clear()
        for task in waiting:
            task.cancel_pending()

    # The ladder

    def overdue(self, task: AsyncTask) -> None:
        """Its scope was cancelled. Called by any thread."""
        self.call(self._begin_ladder, task)
        if self._watch is not None:
            self._watch.hurry()

    def _begin_ladder(self, task: AsyncTask) -> None:
        if task._over or task._rung is not None or not task._scope._state:
            return
        if self.events.wanted(logging.INFO):
            _tell.tell(self, task, "overdue", logging.INFO, "was cancelled")
        self._set_rung(task, self.grace)

    def _set_rung(self, task: AsyncTask, seconds: float) -> None:
        assert self.loop is not None
        task._rung = self.loop.call_later(seconds, self._climb, task)

    def _climb(self, task: AsyncTask) -> None:
        """It has not ended a `grace` later."""
        if task._over:
            return
        cancellation = task._scope._task_cancellation
        shielded = cancellation.shielded_for() if cancellation is not None else 0.0
        if shielded:
            self._set_rung(task, shielded + self.grace)
        elif task._insisting or task._hurried:
            self._abandon(task)
        else:
            task._insisting = True
            text = f"has not ended {self.grace:g} s after it was cancelled"
            _tell.tell(self, task, "interrupting", logging.WARNING, text)
            self._set_rung(task, self.grace)

    def _abandon(self, task: AsyncTask) -> None:
        """Nor after another."""
        where, _ = place_of_coroutine(task._running)
        error = task.timed_out(where)
        del self.running[task]
        self.abandoned[task] = None
        if task._slot is not None:
            task._slot.abandoned = True
        _shield.fence(task._scope, task._call[0])
        _forget(task._aio)
        text = "was abandoned: it swallows its cancellation, and its slot is free for the next"
        _tell.tell(self, task, "abandoned", logging.WARNING, text)
        if len(self.abandoned) > self.max_abandoned:
            self._exhaust()
        self._decide(task, Outcome(error=error))

    def _exhaust(self) -> None:
        error = self.exhausted()
        _tell.exhausted(self, error)
        waiting = list(self.pending)
        self.pending.clear()  # first: each that ends has the next one started
        for task in waiting:
            self.fail_pending(task, error)

    # For the watch, and for observers

    def overdue_tasks(self) -> list[AsyncTask]:
        return [task for task in (*list(self.running), *list(self.abandoned)) if task._scope._cancelled]

    def running_tasks(self) -> Iterable[AsyncTask]:
        return (*list(self.running), *list(self.abandoned))

    def blocked(self, task: AsyncTask | None, where: Place | None, stack: str, since: float) -> None:
        _tell.blocked(self, task, where, stack, since)

    @property
    def submitted(self) -> int:
        return self.counts.submitted

    def worker_of(self, task: AsyncTask) -> Slot | None:
        return task._slot

    def look(self, most: int) -> list[Seen]:
        """What its tasks do, at most so many of them; see `_async_health`."""
        from threadsafe_timeout.engines import _async_health

        return _async_health.look(self, most)

    def effective(self) -> int:
        """How many tasks run that are not overdue."""
        return sum(not task._scope._cancelled for task in list(self.running))

    def is_gone(self) -> bool:
        """Whether its counts are final: it was left, and nothing of it runs; or its loop is not there any more."""
        left = self.closed and self.over() and not self.abandoned
        return left or (self.loop is not None and self.loop.is_closed())

    def stats(self) -> dict[str, int]:
        counts, unfinished, running = self.counts, self._unfinished, len(self.running)
        given_up = sum(not task.done() for task in list(self.abandoned))  # and being saved
        return {
            "workers": self.width, "idle": self.width - running, "running": running,
            "pending": max(0, unfinished - running - given_up),
            "submitted": counts.submitted, "completed": counts.completed, "failed": counts.failed,
            "cancelled": counts.cancelled, "abandoned": counts.given_up, "abandoned_alive": len(self.abandoned),
            "late": counts.late, "timed_out": counts.timed_out, "loops": counts.loops,
        }  # fmt: skip

    def over(self) -> bool:
        """Whether every task has its outcome."""
        return not self._unfinished

    # The end

    def cancel_all(self, reason: str) -> None:
        """Cancel what is pending and what runs; what does not end is abandoned after one grace."""
        self.cancel_pending()
        for task in list(self.running):
            task._hurried = True
            task._scope.cancel(reason)

    async def join(self) -> None:
        """Wait until every task has its outcome."""
        while self._unfinished:
            assert self.loop is not None
            waiter = self.loop.create_future()
            self._idle.append(waiter)
            await waiter

    def leave(self) -> None:
        """All is over: let the threads go."""
        if self._watch is not None and not self.running:
            self._watch.end(for_good=True)
        if self._savers is not None:
            self._savers.shutdown(wait=False)
            self._savers = None


def _forget(aio: asyncio.Task[None] | None) -> None:
    """`asyncio.run` waits at its end for every task that it can find, and this one would not end."""
    if aio is not None:
        asyncio._unregister_task(aio)
        aio._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own way to expect that
