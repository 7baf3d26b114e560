"""One task of the pool: its future, its scope, and the ladder it climbs when its time is up.

Guarantees:

- Exactly one of {result, exception, timeout} reaches the future: whoever wins `claim()` settles it, once.
- The ladder starts when any scope around the task is cancelled: its own deadline, `future.cancel()`, or a scope of
  the submitter's. After `grace` the thread is interrupted, after another `grace` the pool abandons it.
- A task that is settled holds neither its function nor its arguments nor its context.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextvars import Context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from threadsafe_timeout import _clock, _scope, _timer
from threadsafe_timeout._errors import Cancelled, DeadlineExceeded
from threadsafe_timeout._frames import current_frames, frames_of_others

if TYPE_CHECKING:
    from threadsafe_timeout._workers import Crew, Worker

__all__ = ["Outcome", "Task", "TaskFuture", "TaskOptions"]

logger = logging.getLogger("threadsafe_timeout")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: a `result`, or an `error`. An overdue task's error is a `DeadlineExceeded`."""

    result: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What one task wants: see `ThreadPoolExecutor.with_options`."""

    timeout: float | None = None
    name: str | None = None
    # Gets the outcome before the future does, outside every scope and in a pool thread that is not stuck; what it
    # returns is the future's result, what it raises the future's exception. This is where a task is saved.
    settle: Callable[[Outcome], Any] | None = None


class TaskFuture(Future[Any]):
    """A standard future whose waits end when a scope around the waiter is cancelled, and whose `cancel()` asks a
    running task to stop (it still returns False then, as the standard one does)."""

    _task: Task | None = None  # set while the task may run; cleared when it is settled

    def cancel(self) -> bool:
        if super().cancel():
            return True
        task = self._task
        if task is not None:
            task.scope.cancel("its future's cancel() was called")
        return False

    def result(self, timeout: float | None = None) -> Any:
        self._await(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._await(timeout)
        return super().exception(0)

    def _await(self, timeout: float | None) -> None:
        """Wait until the future is done. Raises TimeoutError, and `Cancelled` in a cancelled scope."""
        if self.done():
            return
        scoped = _scope.current_scope() is not None
        registration = _scope.on_cancel(self._wake) if scoped else None
        until = None if timeout is None else _clock.monotonic() + timeout
        try:
            with self._condition:
                while not self.done() and not (scoped and _scope.cancel_pending()):
                    left = None if until is None else until - _clock.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._condition.wait(left)
        finally:
            if registration is not None:
                registration.unregister()
        if not self.done():
            _scope.raise_if_cancelled()
            task = self._task
            if task is not None:
                task.wait_expired = True
            raise FutureTimeoutError

    def _wake(self) -> None:
        with self._condition:
            self._condition.notify_all()


class Task:
    """A call that was submitted, until its future is settled."""

    __slots__ = (
        "_claimed", "_rung", "args", "context", "crew", "function", "future", "kwargs", "name", "options", "scope",
        "started", "wait_expired", "worker",
    )  # fmt: skip

    def __init__(
        self,
        crew: Crew,
        options: TaskOptions,
        context: Context,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.crew = crew
        self.options = options
        self.context: Context | None = context
        self.function: Callable[..., Any] | None = function
        self.args: tuple[Any, ...] = args
        self.kwargs = kwargs
        self.name = options.name or getattr(function, "__qualname__", None) or type(function).__name__
        self.scope = _scope.deadline(options.timeout, name=self.name)
        self.future = TaskFuture()
        self.future._task = self
        self.worker: Worker | None = None  # guarded by crew.lock
        self.started: float | None = None
        self.wait_expired = False
        self._claimed = False  # guarded by crew.lock
        self._rung: _timer.Entry | None = None  # guarded by _timer.lock

    def run(self) -> Outcome:
        """Run the call, in the submitter's context and under the task's scope. Never raises."""
        assert self.context is not None
        return self.context.run(self._run)

    def _run(self) -> Outcome:
        assert self.function is not None
        self.started = _clock.monotonic()
        try:
            with self.scope:
                # Also on the scopes around: a task whose submitter is cancelled has no time left either.
                registration = _scope.on_cancel(self._begin_ladder)
                try:
                    _scope.raise_if_cancelled()
                    return Outcome(self.function(*self.args, **self.kwargs))
                finally:
                    registration.unregister()
        except Cancelled as exc:
            # A BaseException that reaches whoever asks for the result would end his whole batch.
            return Outcome(error=self._timed_out(exc.scope.reason))
        except BaseException as exc:  # what the standard pool does: it belongs to the future
            return Outcome(error=exc)
        finally:
            with _timer.lock:
                if self._rung is not None:
                    _timer.disarm(self._rung)

    def _timed_out(self, reason: str | None) -> DeadlineExceeded:
        return DeadlineExceeded(self.name, self.options.timeout, self.elapsed(), reason)

    def elapsed(self) -> float:
        """Seconds since it started."""
        return 0.0 if self.started is None else _clock.monotonic() - self.started

    def claim(self) -> bool:
        """True for exactly one caller: the one whose outcome counts."""
        with self.crew.lock:
            if self._claimed:
                return False
            self._claimed = True
            return True

    @property
    def overdue(self) -> bool:
        """Whether it was asked to end and has not."""
        return self._rung is not None and not self._claimed

    def settle(self, outcome: Outcome) -> None:
        """Save the outcome if the task's options say so, then give it to the future. Only after `claim()`."""
        future, hook = self.future, self.options.settle
        if hook is not None:
            try:
                outcome = Outcome(hook(outcome))
            except BaseException as exc:
                outcome = Outcome(error=exc)
        self.release()
        if outcome.error is None:
            future.set_result(outcome.result)
        else:
            future.set_exception(outcome.error)

    def release(self) -> None:
        """Let go of everything the call held."""
        self.future._task = None
        self.function = self.context = None
        self.args, self.kwargs = (), {}

    # The ladder. Rungs 1 and 2 (cancel, unblock) are the scope's; these run in the timer thread or in the canceller's.

    def _begin_ladder(self) -> None:
        with _timer.lock:
            if self._rung is None:
                self._rung = _timer.arm(_clock.monotonic() + self.crew.grace, self._climb)

    def _climb(self) -> None:
        with _timer.lock:
            self._rung = _timer.arm(_clock.monotonic() + self.crew.grace, self._abandon)
        logger.info(
            "threadsafe-timeout: task %s has not ended %g s after it was cancelled (%s)",
            self.name, self.crew.grace, self.scope.reason or "a scope around it",
            extra={"event": "overdue", "task": self.name},
        )  # fmt: skip

    def _abandon(self) -> None:
        self.crew.abandon(self)

    def timed_out_outcome(self) -> Outcome:
        return Outcome(error=self._timed_out(self.scope.reason or "the scope around it was cancelled"))

    def stack(self) -> str:
        """Where the task's thread is: file, line and function of each frame, without the values of variables."""
        thread = self.worker.thread if self.worker is not None else None
        with frames_of_others():
            frame = current_frames().get(thread.ident) if thread is not None and thread.ident else None
            if frame is None:
                return "(no Python frame)\n"
            frames = traceback.extract_stack(frame)
        # From the task's own function on: what starts a thread and a worker is the same for all of them.
        ours = [number for number, entry in enumerate(frames) if entry.filename == __file__]
        return "".join(traceback.format_list(frames[ours[-1] + 1 :] if ours else frames)) or "(in the pool itself)\n"


def cancelled_while_pending(task: Task) -> None:
    """Cancel a task that never started, as the standard pool does on `shutdown(cancel_futures=True)`."""
    future = task.future
    task.release()
    future.cancel()


def fail_pending(task: Task, error: BaseException) -> None:
    """Fail a task that can never start."""
    if task.future.set_running_or_notify_cancel() and task.claim():
        task.settle(Outcome(error=error))
