"""One task of the pool: its future, its scope, and the ladder it climbs when its time is up.

Guarantees:

- Exactly one of {result, exception, timeout} reaches the future: whoever wins `claim()` settles it, once.
- The ladder starts when any scope around the task is cancelled: its own deadline, `future.cancel()`, its token, or a
  scope of the submitter's. After `grace` the interrupt insists, after another `grace` the pool abandons the thread. A
  rung waits for the clean-up of the task, which has a grace from its own beginning.
- A task that is settled holds neither its function nor its arguments nor its context.

The future *is* the task: one object to make for each call, not three.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import DeadlineExceeded
from threadsafe_timeout._introspection.names import called
from threadsafe_timeout._pool import ladder as _ladder
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._pool import telling as _telling
from threadsafe_timeout._pool.ending import ended
from threadsafe_timeout._pool.future import CANCELLED, FINISHED, PENDING, RUNNING, FutureCondition, LightFuture
from threadsafe_timeout._pool.options import Outcome, TaskOptions
from threadsafe_timeout._pool.task_scope import TaskScope, run_in_scope
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._text import Place
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew

__all__ = ["TaskFuture", "cancelled_while_pending", "current_task", "fail_pending", "pass_over"]


_NO_OPTIONS = TaskOptions()
_NEVER = math.inf
# Whose outcome counts: nobody's yet; that of the worker whose hand it is in; that of whoever gave it up.
_UNCLAIMED, _BY_WORKER, _GIVEN_UP = 0, 1, 2


class TaskFuture(LightFuture):
    """The future of a call that was submitted, and the call until it is settled. Its `cancel()` asks a running task to
    stop (and still returns False then, as the standard one does)."""

    # Underscores all: programs hang attributes of their own on futures.
    _claimed = _UNCLAIMED  # guarded by the condition
    _owed: Outcome | None = None  # what it is to be settled with by the worker that finds the time
    _name: str | None = None  # kept when the function is let go
    _begun_at: float | None = None
    _rung: _timer.Entry | None = None  # the next rung; guarded by _timer.lock
    _number = 0  # of those that were submitted to its pool
    _refused = False  # it was cancelled before its function was called
    _reason: str | None = None  # why it is on the ladder
    _stuck_at: Place | None = None  # where its processes were ended
    _insisting = False  # it has climbed the second
    _bereft = False  # processes that it had started were ended while it ran: what it returns may lack a part
    _hurried = False  # a wait for it timed out, and its pool was left: the next rung is the last
    _undo: list[Callable[[], object]] | None = None  # what to take back when it ends
    _away: _telling.Away | None = None  # the process that it runs in
    _witnesses: tuple[Callable[[Outcome], object], ...] = ()  # called before it is settled while they are there

    def __init__(
        self,
        crew: Crew,
        options: TaskOptions,
        context: Context,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        # The hot path: what is not set here has its default in the class.
        self._condition = FutureCondition()
        self._crew = crew
        self._options = options
        self._call: tuple[Context, Callable[..., Any], Any, Any] | None = (context, function, args, kwargs)
        scope = _scope.prepare(_scope.new(TaskScope), None, options.timeout)
        scope._fenced = scope._softened = False
        scope.catchable = crew.catchable
        scope.task = self
        self._scope: TaskScope | None = scope

    def heed_options(self) -> None:
        """See to what few tasks have: a deadline that holds while it is pending, a token."""
        options = self._options
        undo: list[Callable[[], object]] = []
        if options.deadline is not None:
            with _timer.lock:
                expiry = _timer.arm(options.deadline, self._expire_pending)
            undo.append(lambda: _disarm(expiry))
        token = options.token
        if token is not None:
            registration = token.register(lambda: self._cancel(token.reason or "its token was cancelled"))
            undo.append(registration.unregister)
        self._undo = undo
        if self._claimed or self.done():  # meanwhile: who released it did not find these
            self.release()

    # For the user of the future

    def cancel(self) -> bool:
        return self._cancel("its future's cancel() was called")

    def cancel_pending(self) -> bool:
        """The standard `cancel()`, which leaves a running task alone."""
        return super().cancel()

    def _cancel(self, reason: str) -> bool:
        if self.cancel_pending():
            return True
        scope = self._scope
        if scope is not None:
            scope.cancel(reason)
        return False

    def hurry(self, reason: str) -> None:
        """Cancel it because a wait for it has timed out: it is abandoned after one `grace`."""
        self._hurried = True
        self._cancel(reason)

    def make_catchable(self) -> None:
        """Have its own handlers see its deadline first."""
        scope = self._scope
        if scope is not None:
            scope.catchable = True

    # For the worker

    def run(self) -> tuple[Any, BaseException | None]:
        """Run the call, in the submitter's context and under the task's scope: its result, and its error."""
        scope = self._scope
        assert self._call is not None
        assert scope is not None
        context, function, args, kwargs = self._call
        if self._options.deadline is not None:
            left = max(0.0, self._options.deadline - _clock.monotonic())
            scope._budget = left if scope._budget is None else min(left, scope._budget)
        if _observer.starting is not None:
            _observer.starting(self, context)
        try:
            result = context.run(run_in_scope, scope, function, args, kwargs)
            if self._rung is None and (scope._deadline == _NEVER or scope._deadline > _clock.monotonic()):
                return result, None
            return ended(self, scope, result, None)  # also past a deadline that nobody has noticed
        except BaseException as exc:
            return ended(self, scope, None, exc)
        finally:
            del self  # that frame's f_back is this one: the future would hold itself

    def begin(self) -> bool:
        """For the worker that took it: whether it is to run. One that another worker took and died with is, too."""
        with self._condition:
            if self._state is PENDING:
                self._state = RUNNING
                return True
            return self._state is RUNNING and not self._claimed

    def owned(self) -> bool:
        """For a worker that dies with it in its hand: whether it is for this worker to settle it."""
        return self._claimed == _BY_WORKER or self.claim(by=_BY_WORKER)

    def owe(self, outcome: Outcome) -> None:
        """Have it settled with that, by `settle_owed`: by the thread that has claimed it, or by the successor of its
        dead worker.

        An outcome that it has already stays, unless it was given to its `settle`, and what came of that is not known.
        """
        if self._owed is None or self._options is _NO_OPTIONS:
            self._owed = outcome

    def settle_owed(self) -> None:
        if self._owed is not None:
            self.settle(self._owed)
            self._owed = None

    def begun(self) -> bool:
        """Whether its function was, or may have been, called."""
        scope = self._scope
        return scope is None or scope._state != _around.NEW

    def claim(self, state: str = RUNNING, by: int = _GIVEN_UP) -> bool:
        """True for exactly one caller: the one whose outcome counts. Nobody can begin or cancel it any more."""
        with self._condition:
            if self._claimed or self._state is not state:
                return False
            self._claimed = by
            self._state = RUNNING
            return True

    def end(self, result: Any, error: BaseException | None) -> bool:
        """For the worker that ran it: give the future its outcome. False if the task was given up on before."""
        if self._options.settle is not None:
            if not self.claim(by=_BY_WORKER):
                return False
            self.settle(Outcome(result, error))
            return True
        # Read once: another thread may take it back.
        observe = _observer.ending_well if error is None else _observer.ending
        note = observe(self, error) if observe is not None else None
        condition = self._condition
        with condition:
            if self._claimed:
                return False
            self._claimed = _BY_WORKER
            # Dropped when this function is left: the finalisers of what the call held may do anything.
            _held, self._call = self._call, None
            if error is None:
                self._result = result
            else:
                self._exception = error
            self._state = FINISHED
            if condition.installed is not None or condition.waiting is not None:
                self._notify()
        if note is not None:
            note.finished(error)
        if self._undo is not None or self._rung is not None:
            self.release()
        else:  # release(), without the call
            scope, self._scope = self._scope, None
            if scope is not None:
                scope.task = None
        if self._done_callbacks:
            self._invoke_callbacks()
        return True

    def settle(self, outcome: Outcome) -> None:
        """Save the outcome if the task's options say so, then give it to the future. Only after `claim()`.

        If something was thrown at who did this before, it is gone on with.
        """
        if self.done():
            self.release()
            self.finish_telling()
            return
        self._name = self._name or self._options.name
        if outcome.error is not None:
            self._task_name()  # it may be told of; of one that ended well nobody asks
        observe = _observer.ending
        note = observe(self, outcome.error) if observe is not None else None
        for witness in self._witnesses:
            witness(outcome)
        hook, self._options = self._options.settle, _NO_OPTIONS  # once, whatever is thrown at this thread
        result, error = outcome.result, outcome.error
        if hook is not None:
            try:
                result, error = hook(outcome), None
            except BaseException as exc:
                # Without this frame, which holds the future: it would be a cycle.
                frames = exc.__traceback__
                result, error = None, exc.with_traceback(frames.tb_next if frames is not None else None)
        self.release()
        with self._condition:
            self._result, self._exception = result, error
            self._state = FINISHED
            self._notify()
        if note is not None:
            note.finished(error)
        self._invoke_callbacks()

    def add_witness(self, witness: Callable[[Outcome], object]) -> None:
        """If it is given up, or its worker dies, have `witness(outcome)` called before its future is done, in a thread
        that is not stuck. It must not raise."""
        with self._condition:
            self._witnesses = (*self._witnesses, witness)

    def remove_witness(self, witness: Callable[[Outcome], object]) -> None:
        """It may be running, or about to."""
        with self._condition:
            self._witnesses = tuple(one for one in self._witnesses if one != witness)

    def release(self) -> None:
        """Let go of everything the call held."""
        scope = self._scope
        if scope is not None:
            scope.task = None
        self._call = self._scope = None
        if self._rung is not None:
            _ladder.leave(self)
        if self._undo is not None:
            for undo in self._undo:
                undo()
            self._undo = None

    # For observers

    def _task_name(self) -> str:
        if self._name is None:
            call = self._call
            self._name = self._options.name or (f"#{self._number}" if call is None else called(*call[1:], self._number))
        return self._name

    def _loop_ended(self, kind: str, detail: str) -> None:
        """A guard has ended a loop in this task."""
        _telling.loop_ended(self, kind, detail)

    def elapsed(self) -> float:
        """Seconds since it started."""
        began = self._begun_at
        if began is None:
            scope = self._scope
            if scope is None or scope._state == _around.NEW:
                return 0.0
            began = self._begun_at = scope._entered_at
        return _clock.monotonic() - began

    def _was_abandoned(self) -> bool:
        return self._owed is not None and self.begun()

    @property
    def overdue(self) -> bool:
        """Whether it was asked to end and has not."""
        scope = self._scope
        return not self._claimed and (self._rung is not None or (scope is not None and scope._cancelled))

    def _timed_out(self, reason: str | None, where: Place | None) -> DeadlineExceeded:
        """What whoever asks for its outcome gets; `where` its deadline found it."""
        if self._refused:
            reason = f"a scope around it was cancelled ({reason}); it never started"
            return DeadlineExceeded(self._task_name(), reason=reason)
        return DeadlineExceeded(self._task_name(), self._options.timeout, self.elapsed(), reason, where)

    def timed_out_outcome(self, where: Place | None) -> Outcome:
        return Outcome(error=self._timed_out(self._reason, where))

    # For the timer. Methods, whose names begin like that: `fetchable` knows that they ask for no outcome.

    def _climb(self) -> None:
        _ladder.climb(self)

    def _abandon(self) -> None:
        _ladder.abandon(self)

    def _expire_pending(self) -> None:
        _ladder.expire_pending(self)


def current_task() -> TaskFuture | None:
    """The pool's task that this code runs in, or whose context it inherited; None outside of one. (An `AsyncPool`'s
    has the same methods as far as they are asked for.)"""
    scope = _around.current_scope()
    while scope is not None:
        if hasattr(type(scope), "task"):
            task: TaskFuture | None = scope.task  # type: ignore[attr-defined]
            return task
        scope = scope._parent
    return None


def _disarm(entry: _timer.Entry) -> None:
    with _timer.lock:
        _timer.disarm(entry)


def cancelled_while_pending(task: TaskFuture) -> None:
    """Cancel a task that never started, as the standard pool does on `shutdown(cancel_futures=True)`, and tell those
    who wait for it."""
    if task.cancel_pending():
        pass_over(task)


def pass_over(task: TaskFuture) -> None:
    """A task that is not to run after all: tell those who wait for it if it was cancelled."""
    with task._condition:  # two may come at the same time
        if task._state is not CANCELLED:
            return
        task.set_running_or_notify_cancel()
    task.release()
    with task._crew.lock:
        task._crew.counts.cancelled += 1


def fail_pending(task: TaskFuture, error: BaseException) -> None:
    """Fail a task that can never start."""
    if task.claim(PENDING):
        with task._crew.lock:
            task._crew.counts.failed += 1
        task.settle(Outcome(error=error))
    else:
        cancelled_while_pending(task)
