"""Tasks of a pool that are saved without code of the program: the setting `save="tasks"`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._errors import DeadlineExceeded, TaskPoisoned
from threadsafe_timeout._introspection.frames import is_users
from threadsafe_timeout._introspection.names import name_of
from threadsafe_timeout._introspection.transparent import transparent
from threadsafe_timeout._pool.options import Outcome, TaskOptions
from threadsafe_timeout._pool.task import current_task
from threadsafe_timeout.checkpoint._call import Call, NotSaved, call_of
from threadsafe_timeout.checkpoint._errors import CheckpointClosed
from threadsafe_timeout.checkpoint._format import UNSAVED
from threadsafe_timeout.checkpoint._program_run import ProgramRun, program_run
from threadsafe_timeout.checkpoint._records import Record
from threadsafe_timeout.checkpoint._same import Changed, bring_back, what_changes

if TYPE_CHECKING:
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["submit_saved", "submit_saved_coroutine"]

log = logging.getLogger("threadsafe_timeout")
_within: ContextVar[str] = ContextVar("threadsafe_timeout_saved_within", default="")  # the key of the task around

Submit = Callable[[TaskOptions, Callable[..., Any], Any, Any], "Future[Any]"]
SubmitCoroutine = Callable[..., "AsyncTask"]


def submit_saved(
    submit: Submit,
    options: TaskOptions,
    function: Callable[..., Any],
    runs: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Future[Any]:
    """Submit a call of `function` that is saved, or whose saved result is returned. `runs` is what to call for it."""
    task = _task_of(function, args, kwargs)
    if task is None:
        return submit(options, runs, args, kwargs)
    try:
        return submit(_saving(task, options), task.around(runs), args, kwargs)
    except BaseException:
        task.not_submitted()
        raise


def submit_saved_coroutine(
    submit: SubmitCoroutine,
    options: TaskOptions,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> AsyncTask:
    """The same for a coroutine function. What reads or writes the journal is done off the loop, but for opening it."""
    task = _task_of(function, args, kwargs)
    if task is None:
        return submit(options, function, args, kwargs)
    try:
        return submit(_saving(task, options), task.around_coroutine(function), args, kwargs, task.before_coroutine)
    except BaseException:
        task.not_submitted()
        raise


def _saving(task: _Task, options: TaskOptions) -> TaskOptions:
    return replace(options, settle=_Settle(task, options.settle), saves=True)


def _task_of(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Task | None:
    around = current_task()
    if around is not None and not isinstance(around._options.settle, _Settle | None):
        return None  # the program saves the task around: if that one runs again, it is to be run, with all its parts
    within = _within.get()
    try:
        call = call_of(function, args, kwargs, within)
    except NotSaved as found:
        if found.own or _submitted_by_program(sys._getframe(1)):
            run = program_run()
            if run is not None:
                run.tell(found.name, "the tasks of %s are not saved: %s", found.name, found.reason)
        return None
    except Exception:
        log.exception("threadsafe-timeout: a task is not saved: its arguments have no fingerprint")
        return None
    run = program_run()
    if run is None:
        return None
    for where, kind in call.left_out:
        run.tell(
            f"{call.name} {where}", "the tasks of %s are saved without regard to %s, which is %s: two tasks that "
            "differ only there are told apart by their order", call.name, where or "what it refers to", kind,
        )  # fmt: skip
    return _Task(run, call, function, args, kwargs, within)


def _submitted_by_program(frame: FrameType | None) -> bool:
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in ("threadsafe_timeout", "threadsafe_timeout_patches"):
            return is_users(frame)
        frame = frame.f_back
    return False


class _Settle:
    """What is to be done with a task's outcome before its future is done: save it, then what the program wants."""

    def __init__(self, task: _Task, settle: Callable[[Outcome], Any] | None) -> None:
        self._task = task
        self._settle = settle

    def __call__(self, outcome: Outcome) -> Any:
        self._task.save(outcome)
        if self._settle is not None:
            return self._settle(outcome)
        if outcome.error is not None:
            raise outcome.error
        return outcome.result


class _Task:
    """One call, from its submission on."""

    def __init__(
        self,
        run: ProgramRun,
        call: Call,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        within: str,
    ) -> None:
        self._run = run
        self._call = call
        self._again = function, args, kwargs, within
        self._over = False
        self._started = False
        self._brought_back: tuple[Any] | None = None  # the result, for a coroutine
        self._number, self._key, self._record = run.take(call.key)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What the pool is to call."""
        task = self

        @transparent
        def run(*args: Any, **kwargs: Any) -> Any:
            within = _within.set(task._key)
            try:
                if task._record is not None:
                    try:
                        return task._bring_back(task._record)
                    except Changed as problem:
                        task._not_brought_back(problem)
                task._start()
                return function(*args, **kwargs)
            finally:
                _within.reset(within)

        self._name(run)
        return run

    def before_coroutine(self) -> None:
        """Before the coroutine is made, in a thread."""
        if self._record is not None:
            try:
                self._brought_back = (self._bring_back(self._record),)
                return
            except Changed as problem:
                self._not_brought_back(problem)
        self._start()

    def around_coroutine(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What the pool is to call then."""
        task = self

        @transparent
        async def run(*args: Any, **kwargs: Any) -> Any:
            if task._brought_back is not None:
                return task._brought_back[0]
            within = _within.set(task._key)
            try:
                return await function(*args, **kwargs)
            finally:
                _within.reset(within)

        self._name(run)
        return run

    def _name(self, run: Any) -> None:
        original, args, _, _ = self._again
        run.__qualname__ = name_of(original, args)  # what log lines and errors call the task
        run.__wrapped__ = original  # where they look for the names of arguments

    def _bring_back(self, record: Record) -> Any:
        result = bring_back(record)
        if result is None:
            self._run.tell(
                f"{self._call.name} None", "tasks of %s had returned None, and are not run again: what they did "
                "elsewhere in the program's memory is not done", self._call.name,
            )  # fmt: skip
        return result

    def _not_brought_back(self, problem: Changed) -> None:
        self._record = None
        self._run.tell(
            f"{self._call.name} changed", "saved results of %s cannot be brought back (%s); its tasks run again",
            self._call.name, problem,
        )  # fmt: skip

    def _start(self) -> None:
        self._started = True
        try:
            self._run.writer.started(self._key)
        except CheckpointClosed:  # the program is at its end, or has uninstalled
            self._started = False
        except TaskPoisoned:
            self._started = False
            raise

    def save(self, outcome: Outcome) -> None:
        error = outcome.error
        cancelled = _is_cancelled(error)
        if self._started and not cancelled:
            try:
                if error is None:
                    self._save_result(outcome.result)
                else:
                    # Its text may hold anything; that it failed, and where, is enough to know what ran.
                    status = "timeout" if isinstance(error, DeadlineExceeded) else "failed"
                    self._run.writer.save(self._key, None, status, error=error)
            except Exception:
                log.exception("threadsafe-timeout: task %s was not saved; its future still gets its outcome", self._key)
        if error is not None and self._record is None:
            self._give_back()
        # One that somebody cancelled (Ctrl-C, its future's `cancel`) is not done with, as its own deadline's is.
        if not cancelled and not (isinstance(error, DeadlineExceeded) and error.reason not in (None, "deadline")):
            self._end()

    def _save_result(self, result: object) -> None:
        changes = what_changes(result)
        if changes is None:
            self._run.writer.save(self._key, result)
            return
        self._run.writer.save(self._key, None, UNSAVED)
        self._run.tell(
            f"{self._call.name} result", "results of %s cannot be saved: %s, which would not come back from the "
            "journal as it is; tasks with such results run again when the run is resumed", self._call.name, changes,
        )  # fmt: skip

    def _give_back(self) -> None:
        """The program may submit it again: then it is the same task, also after a kill."""
        function, args, kwargs, within = self._again
        try:
            now = call_of(function, args, kwargs, within, anew=True)
        except Exception:  # as it is now, it has no fingerprint
            return
        # Not if something in it has no fingerprint, or has changed: then the next is another task, perhaps.
        if now.key == self._call.key and not now.left_out:
            self._run.give_back(self._call.key, self._number)

    def not_submitted(self) -> None:
        if not self._over:
            self._give_back()
            self._end()

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._again = self._again[0], (), {}, ""
            self._run.over()


def _is_cancelled(error: BaseException | None) -> bool:
    """Whether asyncio has cancelled a coroutine, and no scope of ours."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)
