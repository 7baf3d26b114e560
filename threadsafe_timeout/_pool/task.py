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

import logging
import math
import traceback
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass, replace
from threading import get_ident
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import Cancelled, DeadlineExceeded
from threadsafe_timeout._interruption import pursuit as _pursuit
from threadsafe_timeout._introspection.frames import frames_of_others, is_users, users_frame
from threadsafe_timeout._introspection.names import name_of
from threadsafe_timeout._pool.events import Event, EventKind, describe
from threadsafe_timeout._pool.future import CANCELLED, FINISHED, PENDING, RUNNING, FutureCondition, LightFuture
from threadsafe_timeout._processes import started as _started
from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._scopes.catchable import in_library
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._scopes.tokens import CancelToken

__all__ = ["Outcome", "TaskFuture", "TaskOptions", "current_task"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended: its `result`, or its `error`. The error of an overdue task is a `DeadlineExceeded`."""

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
    deadline: float | None = None
    token: CancelToken | None = None
    key: str | int | None = None


_NO_OPTIONS = TaskOptions()
_MOMENT = 0.25  # seconds: what a thread gets to end when its clean-up's time is over, or to begin with that at exit
# Whose outcome counts: nobody's yet; that of the worker whose hand it is in; that of whoever gave it up.
_UNCLAIMED, _BY_WORKER, _GIVEN_UP = 0, 1, 2


class _TaskScope(_started.ProcessOwner):
    """A task's scope: cancelling it starts the task's ladder. (A registration for each task would cost as much as the
    scope does.)"""

    __slots__ = ("_fenced", "_softened", "catchable", "task")
    _of_task = True
    _fenced: bool
    task: TaskFuture | None  # until the task is released: contexts that inherit the scope may outlive it by far
    catchable: bool  # whether the task's own handlers are to see its deadline first
    _softened: bool  # whether that is all they have seen

    def _cancel(self, reason: str, *, interrupt: bool) -> bool:
        task = self.task
        if task is not None:
            self.name = task._task_name()
            if self._state != _scope._DONE:  # also if it is about to be entered: the task has begun
                task._begin_ladder(reason)
        return super()._cancel(reason, interrupt=interrupt)

    def _owed(self, frame: FrameType | None = None) -> Cancelled | DeadlineExceeded:
        cancelled = super()._owed(frame)
        assert isinstance(cancelled, Cancelled)
        # A busy library may have a handler of its own (`os.walk` passes over an OSError), and go on with less.
        if self.catchable and not in_library() and (frame is None or is_users(frame)):
            return self._soften(cancelled) or cancelled
        if self._thread == get_ident():
            self._softened = False
        return cancelled

    def _may_strike(self, frame: FrameType) -> bool:
        if self.catchable:
            return is_users(frame)
        return not self._softened  # raised by a call: as after an interrupt, there is the grace to come to an end

    def _soften(self, cancelled: Cancelled) -> DeadlineExceeded | None:
        """Once, in the task's own thread, for its own deadline."""
        task = self.task
        if not self.catchable or self._reason != "deadline" or self._thread != get_ident() or task is None:
            return None
        self.catchable = False
        self._softened = True
        error = task._timed_out(self._reason)
        error._clean_up, error._attempt, error.scope = cancelled._clean_up, cancelled._attempt, self
        error.__cause__ = cancelled
        return error

    def _close(self, exc: BaseException | None, own: bool) -> bool:
        # A task that has caught its deadline, and returned without another call, has its result.
        return False if exc is None and self._softened else super()._close(exc, own)

    def _grace_seconds(self) -> float:
        task = self.task
        return task._crew.grace if task is not None else super()._grace_seconds()

    def _inherit(self, parent: _scope.CancelScope) -> None:
        # A task whose submitter is cancelled has no time left either.
        registration = _scope.Registration(self._cancelled_around)
        self._extra().registrations.append(registration)
        registration.attach(parent)

    def _cancelled_around(self) -> None:
        task = self.task
        if task is not None:
            task._begin_ladder("a scope around it")
        self._pursue()


class TaskFuture(LightFuture):
    """The future of a call that was submitted, and the call until it is settled. Its `cancel()` asks a running task to
    stop (and still returns False then, as the standard one does)."""

    # Underscores all: programs hang attributes of their own on futures.
    _claimed = _UNCLAIMED  # guarded by the condition
    _owed: Outcome | None = None  # what it is to be settled with by the worker that finds the time
    _name: str | None = None  # kept when the function is let go
    _begun_at: float | None = None
    _rung: _timer.Entry | None = None  # the next rung; guarded by _timer.lock
    _reason: str | None = None  # why it is on the ladder
    _insisting = False  # it has climbed the second
    _bereft = False  # processes that it had started were ended while it ran: what it returns may lack a part
    _hurried = False  # somebody waited for it, in vain, and left: the next rung is the last
    _undo: list[Callable[[], object]] | None = None  # what to take back when it ends
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
        scope = _scope._prepare(_scope._new(_TaskScope), None, options.timeout)
        scope._fenced = scope._softened = False
        scope.catchable = crew.catchable
        scope.task = self
        self._scope: _TaskScope | None = scope

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

    # For who holds the future

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
        """Cancel it, on behalf of somebody who has waited for it long enough: it is abandoned after one `grace`."""
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
        try:
            result = context.run(_run_in_scope, scope, function, args, kwargs)
            if self._bereft:
                self.end_processes(scope, all_of_them=True)
                return None, self._timed_out(self._reason)
            return result, None
        except Cancelled as exc:
            if self._rung is not None:
                self.end_processes(scope, all_of_them=self._bereft)
            # A BaseException that reaches whoever asks for the result would end his whole batch.
            return None, self._timed_out(exc.scope.reason)
        except BaseException as exc:
            if self._rung is not None:
                self.end_processes(scope, all_of_them=self._bereft)
            if isinstance(exc, BaseExceptionGroup) and exc.subgroup(Cancelled) is not None:
                error = self._timed_out(self._reason)  # a scope around the task was cancelled, in a task group
                error.__cause__ = exc
                return None, error
            # The future gets whatever it is, as in the standard pool, from the task's own frame on.
            return None, self._error_of(exc.with_traceback(_theirs(exc)))
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
        """Have it settled with that, by `settle_owed`: by who has claimed it, or in whose hand it was struck since.

        What it is owed already stays, unless it was given to its `settle`, and what came of that is not known.
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
        return scope is None or scope._state != _scope._NEW

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
        self._task_name()  # from the options, too
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
            self._leave_ladder()
        if self._undo is not None:
            for undo in self._undo:
                undo()
            self._undo = None

    # For who looks on

    def _task_name(self) -> str:
        if self._name is None:
            call = self._call
            self._name = self._options.name or ("?" if call is None else name_of(call[1], call[2]))
        return self._name

    def elapsed(self) -> float:
        """Seconds since it started."""
        began = self._begun_at
        if began is None:
            scope = self._scope
            if scope is None or scope._state == _scope._NEW:
                return 0.0
            began = self._begun_at = scope._entered_at
        return _clock.monotonic() - began

    @property
    def overdue(self) -> bool:
        """Whether it was asked to end and has not."""
        scope = self._scope
        return not self._claimed and (self._rung is not None or (scope is not None and scope._cancelled))

    def _timed_out(self, reason: str | None) -> DeadlineExceeded:
        return DeadlineExceeded(self._task_name(), self._options.timeout, self.elapsed(), reason)

    def _error_of(self, error: BaseException) -> BaseException:
        """What a task failed with; one whose processes were ended, most likely because of that: its time was up."""
        if not self._bereft or isinstance(error, DeadlineExceeded):
            return error
        timed_out = self._timed_out(self._reason)
        timed_out.__cause__ = error
        return timed_out

    def timed_out_outcome(self) -> Outcome:
        return Outcome(error=self._timed_out(self._reason))

    # The ladder. Rungs 1 and 2 (cancel, unblock) are the scope's; these run in the timer thread or in the canceller's.

    def _begin_ladder(self, reason: str) -> None:
        with _timer.lock:
            if self._rung is not None or not self._set_rung(self._climb):
                return
        self._reason = reason
        # Before what it waits in is woken: that is where it is, and who has left the pool has been told.
        self._tell("overdue", logging.INFO, "was cancelled")

    def _climb(self) -> None:
        if self._claimed or self._cleans_up(self._climb):
            return
        if self._hurried:
            self._crew.abandon(self)
            return
        with _timer.lock:
            if not self._set_rung(self._abandon):
                return
        self._insisting = True
        scope = self._scope
        if scope is not None and scope._state == _scope._ACTIVE:
            _pursuit.insist(scope._thread)
        self._tell("interrupting", logging.WARNING, f"has not ended {self._crew.grace:g} s after it was cancelled")
        if scope is not None and not _was_delivered(scope) and _started.any_running(scope):
            # It is stuck in one of them, most likely: in its pipe. Noted first: it may return, with what came through
            # the pipe, as soon as that breaks.
            self._bereft = True
            self._bereft = self.end_processes(scope, all_of_them=True)

    def end_processes(self, scope: _TaskScope, *, all_of_them: bool) -> bool:
        """End what it has started: all, if it is given up; or those that nobody else sees to, if it has ended by
        itself. True if anything ran.

        The timer thread ends the processes of a task that is stuck in one of them. The task may return as soon as the
        first of them ends, and then the program may exit. So the task's own thread, too, ends all of them first.
        """
        entries = _started.started_in(scope)
        if not entries:
            return False
        event = self.event("processes")  # where it is; it may go on as soon as they end
        ended = _started.end(entry for entry in entries if all_of_them or entry.ends_with_its_task)
        if ended or any(entry.ends_at_exit for entry in entries):
            from threadsafe_timeout._processes import exit as _process_exit

            _process_exit.leave(entry for entry in entries if entry.ends_at_exit)
            _process_exit.was_ended({one.pid for one in ended})
        if ended:
            event = replace(event, pids=tuple(one.pid for one in ended))
            name = describe(self._task_name(), event.key)
            names = ", ".join(map(str, ended))
            what = "processes that it had started were ended"
            self._crew.events.put(logging.WARNING, f"task {name} is over ({event.reason}); {what}: {names}", event)
            self._crew.events.tell()
        return bool(ended)

    def _set_rung(self, climb: Callable[[], object], when: float | None = None) -> bool:
        """Arm the next rung, a grace from now or at `when`; False if the task has ended. The caller holds _timer.lock.

        First the rung, then the look at the claim; `_leave_ladder` is called after the claim: one of them sees the
        other.
        """
        if self._rung is not None:
            _timer.disarm(self._rung)
        self._rung = _timer.arm(_clock.monotonic() + self._crew.grace if when is None else when, climb)
        if self._claimed:
            _timer.disarm(self._rung)
            return False
        return True

    def _leave_ladder(self) -> None:
        with _timer.lock:
            if self._rung is not None:
                _timer.disarm(self._rung)

    def _abandon(self) -> None:
        if not self._cleans_up(self._abandon):
            self._crew.abandon(self)

    def _cleans_up(self, climb: Callable[[], object]) -> bool:
        """Whether its thread may be cleaning up. Then `climb` is called a moment after the grace of that, when what it
        waits in has ended."""
        scope = self._scope
        if scope is None or self._crew.interrupted:
            return False
        until = _clean_up.cleans_up_until(scope, scope._thread) if scope._state == _scope._ACTIVE else -math.inf
        if until <= _clock.monotonic():
            return False
        with _timer.lock:
            return self._set_rung(climb, until + _MOMENT) or True

    def give_up_at_exit(self) -> None:
        """Abandon it now; or as soon as it has cleaned up, or has had a moment to begin with that."""
        self._hurried = True
        scope = self._scope
        began = scope._delivered.cancelled_at + _MOMENT if scope is not None and scope._cancelled else -math.inf
        if self._crew.interrupted or began <= _clock.monotonic():
            self._climb()
            return
        with _timer.lock:
            self._set_rung(self._climb, began)

    def _expire_pending(self) -> None:
        """Its deadline has passed. If it is still pending, it is not to run."""
        error = DeadlineExceeded(
            self._task_name(), reason="its deadline passed while it waited for a worker; it never started"
        )
        self._crew.fail_soon(self, error)

    def _tell(self, kind: EventKind, level: int, what: str) -> None:
        events = self._crew.events
        if not events.wanted(level):
            return
        event = self.event(kind)
        where = "" if event.where is None else " (at {}:{}, in {})".format(*event.where)
        name = describe(self._task_name(), event.key)
        text = f"task {name} {what} ({shown(event.reason)}); it has run for {event.elapsed:.1f} s{where}"
        if event.stack and kind != "overdue":
            text += f":\n{event.stack}"
        events.put(level, text, event)
        events.tell()

    def loop_ended(self, kind: str, detail: str) -> None:
        """A guard has ended a loop in this task: counted, and told to who listens."""
        with self._crew.lock:
            self._crew.loops += 1
        events = self._crew.events
        if events.wanted(logging.INFO):
            event = replace(self.event("loop"), reason=f"{kind}: {detail}")
            text = f"task {describe(self._task_name(), event.key)}: its loop was ended ({event.reason})"
            events.put(logging.INFO, text, event)
            events.tell()

    def event(self, kind: EventKind, **more: Any) -> Event:
        """An `Event` about this task, as it is now."""
        worker = self._crew.worker_of(self)
        where, stack = thread_position(worker.thread.ident if worker is not None else None)
        return Event(
            kind, self._crew.prefix, self._task_name(), self._options.key,
            worker.thread.name if worker is not None else None, self.elapsed(),
            self._reason, where, stack, **more,
        )  # fmt: skip


def current_task() -> TaskFuture | None:
    """The pool's task that this thread runs, or whose context it inherited; None outside of one."""
    scope = _scope.current_scope()
    while scope is not None:
        if isinstance(scope, _TaskScope):
            return scope.task
        scope = scope._parent
    return None


def _run_in_scope(scope: _TaskScope, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    with scope:
        parent = scope._parent
        if parent is not None:
            if scope._extras is None:
                scope._inherit(parent)  # the system has given this thread the ident of the submitter's, which has ended
            _scope.raise_if_cancelled()
        return function(*args, **kwargs) if kwargs else function(*args)  # the latter is cheaper


def _theirs(exc: BaseException) -> TracebackType | None:
    """The traceback from the task's function on; what called it if it could not be called."""
    raised = exc.__traceback__
    below = raised.tb_next if raised is not None else None
    return (below.tb_next or below) if below is not None else None


def _was_delivered(scope: _scope.CancelScope | None) -> bool:
    """Whether a cancellation of a scope around has been raised: then it may be cleaning up, with processes."""
    while scope is not None:
        if scope._cancelled and scope._delivered:
            return True
        scope = scope._parent
    return False


def _disarm(entry: _timer.Entry) -> None:
    with _timer.lock:
        _timer.disarm(entry)


def thread_position(ident: int | None) -> tuple[tuple[str, int, str] | None, str]:
    """Where a thread is: the user's file, line and function; and the stack, without the values of variables."""
    with frames_of_others(ident or -1) as tops:
        if ident not in tops:
            return None, ""
        where, frames = users_frame(tops[ident]), traceback.extract_stack(tops[ident])
    # From the task's own function on: what starts a thread and a worker is the same for all of them.
    ours = [number for number, entry in enumerate(frames) if entry.filename == __file__]
    return where, "".join(traceback.format_list(frames[ours[-1] + 1 :] if ours else frames))


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
        task._crew.cancelled += 1


def fail_pending(task: TaskFuture, error: BaseException) -> None:
    """Fail a task that can never start."""
    if task.claim(PENDING):
        with task._crew.lock:
            task._crew.failed += 1
        task.settle(Outcome(error=error))
    else:
        cancelled_while_pending(task)
