"""The legacy batch runner (`batch_test_runner`, `interactive_executor`), unmodified.

- Each `_run_single_test_safe(task)` gets the task's own `timeout` as a deadline, counted from its start, and its
  result is on disk before its future reports done. One that does not end gives the timeout record the runner would
  have built itself.
- A run that was killed goes on: a task that has a saved result returns it at once, through the runner's own path. What
  the runner's database had counted before the kill is not counted again.
- `InteractiveExecutor` is guarded: see `threadsafe_timeout.guard_interactive`.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import wrapt

from threadsafe_timeout._errors import Cancelled, DeadlineExceeded, TaskPoisoned
from threadsafe_timeout._guard.guard import guard_interactive
from threadsafe_timeout._guard.tally import cut_answers
from threadsafe_timeout._introspection.transparent import transparent
from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._pool.options import Outcome, TaskOptions
from threadsafe_timeout._processes import lives as _lives
from threadsafe_timeout._scopes import deadlines as _deadlines
from threadsafe_timeout._settings import settings
from threadsafe_timeout._text import shown
from threadsafe_timeout.checkpoint import CheckpointWriter, Ordinals, Record, open_run, task_fingerprint
from threadsafe_timeout.checkpoint._program_run import journal_path
from threadsafe_timeout_patches._legacy_database import Counted

__all__ = ["CLASSES", "MODULES", "apply"]

MODULES = ("batch_test_runner", "interactive_executor")
CLASSES = ("BatchTestRunner", "InteractiveExecutor")
logger = logging.getLogger("threadsafe_timeout")

_TASK_FIELDS = (
    "model", "task_type", "prompt_type", "difficulty", "is_flawed", "flaw_type", "tool_success_rate", "task_instance",
)  # fmt: skip


def apply(module: ModuleType, patching: Patching) -> None:
    runner = getattr(module, "BatchTestRunner", None)
    if runner is not None and hasattr(runner, "_run_single_test_safe"):
        run = Run()
        patching.wrap_object(runner, "_run_single_test_safe", run.never_called, kind=run.wrapper())
        if hasattr(runner, "_checkpoint_save"):
            patching.wrap_object(runner, "_checkpoint_save", run.saving)
        patching.on_uninstall(run.close)
    executor = vars(module).get("InteractiveExecutor")
    if executor is not None and executor.__module__ in {module.__name__, "__main__"}:
        guard_interactive(executor, wrap=patching.wrap)
        patching.on_uninstall(cut_answers.tell)


class Run:
    """One run of the runner: its journal, and the key of each of its tasks."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._writer: CheckpointWriter | None = None  # guarded by _lock, as is all below
        self._opened = False
        self._finished: dict[Any, Record] = {}
        self._ordinals = Ordinals()
        # The runner puts a task it was refused for its rate back into its queue: it keeps its key. The task is held so
        # that its id is not given to another.
        self._keys: dict[int, tuple[object, str]] = {}
        self._outstanding = 0
        self._results: dict[int, tuple[object, str]] = {}  # by id: a result, held for that, and its key
        self._counted: Counted | None = None

    def wrapper(self) -> type[wrapt.FunctionWrapper[..., Any]]:
        """The descriptor that stands in for `_run_single_test_safe`."""
        run = self

        class BoundSafeTest(wrapt.BoundFunctionWrapper):  # type: ignore[type-arg]  # wrapt's are generic in stubs only
            def __pool_task__(self, args: Any, kwargs: Any) -> tuple[Callable[..., Any], TaskOptions]:
                return run.prepare(self.__wrapped__, args, kwargs)

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return run_inline(*run.prepare(self.__wrapped__, args, kwargs), args, kwargs)

        class SafeTest(wrapt.FunctionWrapper):  # type: ignore[type-arg]
            __bound_function_wrapper__ = BoundSafeTest

        return SafeTest

    @staticmethod
    def never_called(wrapped: Callable[..., Any], _instance: Any, args: Any, kwargs: Any) -> Any:
        """For a call through the class, `BatchTestRunner._run_single_test_safe(runner, task)`: the original."""
        return wrapped(*args, **kwargs)

    def prepare(self, original: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Callable[..., Any], TaskOptions]:
        """What to run for one task, and how."""
        task = args[0] if args else kwargs.get("task")
        key, saved = self._take(task)
        if saved is not None:
            result = poison_record(task, saved) if isinstance(saved, TaskPoisoned) else saved.result
            self._note(result, key)
            return (lambda *_args, **_kwargs: result), TaskOptions(name=key, here=True)
        timeout = getattr(task, "timeout", None)
        limit = settings().task_timeout
        if limit is None and isinstance(timeout, int | float) and timeout > 0:
            limit = float(timeout)
        with self._lock:
            saves = self._writer is not None
        options = TaskOptions(limit, key, lambda outcome: self._settle(task, key, outcome), saves=saves)
        return (self._noting(original, key) if _lives.supervised else original), options

    def _noting(self, original: Callable[..., Any], key: str) -> Callable[..., Any]:
        """Have the journal say that it starts: if the program stalls, it is known what ran then."""

        @transparent
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                writer = self._writer
            if writer is not None:
                writer.started(key)
            return original(*args, **kwargs)

        return run

    def _take(self, task: object) -> tuple[str, Record | TaskPoisoned | None]:
        with self._lock:
            self._open()
            known = self._keys.get(id(task))
            if known is None:
                key = self._ordinals.number(_fingerprint(task))
                self._keys[id(task)] = (task, key)
            else:
                key = known[1]
            saved: Record | TaskPoisoned | None = self._finished.get(key) if known is None else None
            if self._writer is not None:
                saved = self._writer.past.refusal(key) or saved
            if saved is None:
                self._outstanding += 1
            return key, saved

    def _settle(self, task: object, key: str, outcome: Outcome) -> Any:
        """Turn a timeout into the runner's own record of one, save, and pass on."""
        error = outcome.error
        result = timeout_record(task, error) if isinstance(error, DeadlineExceeded) else outcome.result
        status = "failed" if error is not None and result is None else _status(result)
        with self._lock:
            writer = self._writer
            self._outstanding -= 1
        if writer is not None:
            try:
                writer.save(key, error if status == "failed" else result, status, error=error)
            except Exception:
                told = shown(key)
                logger.exception("threadsafe-timeout: task %s was not saved; the runner still gets its result", told)
        self._note(result, key)
        if status == "failed" and error is not None:
            raise error
        return result

    def _note(self, result: object, key: str) -> None:
        with self._lock:
            if result is not None and self._counted is not None:  # else nobody asks, and the result may be let go
                self._results[id(result)] = result, key

    def saving(self, original: Callable[..., Any], runner: Any, args: Any, kwargs: Any) -> Any:
        """Around the runner's `_checkpoint_save(results, task_model=None, force=False)`."""
        given = dict(zip(("results", "task_model", "force"), args, strict=False)) | kwargs
        with self._lock:
            counted = self._counted
            known = [(result, self._results.get(id(result), (None, None))[1]) for result in given.get("results") or ()]
        if counted is None or not getattr(runner, "enable_database_updates", True):
            return original(*args, **kwargs)
        fresh = [(result, key) for result, key in known if key is None or key not in counted.keys]
        given["results"] = [result for result, _ in fresh]
        keys = [key for _, key in fresh]
        return counted.saving(runner, keys, bool(given.get("force")), lambda: original(**given))

    def _open(self) -> None:
        """Open the journal when the first task comes. The caller holds `_lock`."""
        if self._opened:
            return
        self._opened = True
        chosen = settings()
        path = journal_path(chosen)
        if path is None:
            return
        # A child process of the runner saves what it finishes in a file of its own; whether the run ended, and so what
        # a next one takes up, is for the program that was started to know.
        child = multiprocessing.parent_process() is not None
        if child:
            path = path.with_suffix(f".{os.getpid()}{path.suffix}")
        config = {"runner": Path(sys.argv[0]).name, "arguments": sys.argv[1:]}
        resume = cast(Literal["unfinished", "always", "never"], "never" if child else chosen.resume)
        self._writer, self._finished = open_run(path, config=config, resume=resume, retry=chosen.retry)
        if not child:
            self._counted = Counted(path, self._writer.run)
        atexit.register(self.close)
        if self._finished:
            logger.warning(
                "threadsafe-timeout: going on with the run in %s: %d finished tasks return their saved results",
                path, len(self._finished), extra={"event": "resumed"},
            )  # fmt: skip

    def close(self) -> None:
        """The end of the program. The run has ended if every task was settled and nothing was raised through."""
        with self._lock:
            writer, self._writer = self._writer, None
            counted, self._counted = self._counted, None
            if writer is not None:
                atexit.unregister(self.close)
                ended = self._outstanding == 0 and getattr(sys, "last_value", None) is None
                writer.close(ended=ended)
                if counted is not None:
                    counted.close(ended=ended)


def run_inline(fn: Callable[..., Any], options: TaskOptions, args: Any, kwargs: Any) -> Any:
    """Run one task outside a pool, with the same deadline and the same saving."""
    try:
        with _deadlines.deadline(options.timeout, name=options.name):
            outcome = Outcome(fn(*args, **kwargs))
    except DeadlineExceeded as exc:
        outcome = Outcome(error=exc)
    except Cancelled:
        raise  # of a scope around: its owner settles
    except Exception as exc:
        outcome = Outcome(error=exc)
    if options.settle is not None:
        return options.settle(outcome)
    if outcome.error is not None:
        raise outcome.error
    return outcome.result


def _fingerprint(task: object) -> str:
    try:
        return task_fingerprint(task, ignore=("timeout",))  # it may be changed between a run and its resumption
    except Exception:
        logger.debug("no fingerprint of %s; its repr has to do", type(task).__name__, exc_info=True)
        return f"{type(task).__name__}-{hash(repr(task)) & 0xFFFFFFFF:08x}"


def _status(result: Any) -> str:
    kind = result.get("error_type") if isinstance(result, dict) else None
    if not isinstance(kind, str):
        return "done"
    return "loop" if kind.endswith("_loop") else "timeout" if kind == "timeout" else "done"


def timeout_record(task: object, error: DeadlineExceeded) -> dict[str, Any]:
    """The record the runner makes of a task that timed out; its statistics count one by this text."""
    seconds = error.budget if error.budget is not None else error.elapsed or 0.0
    return _failure_record(task, f"Test timeout after {seconds:g} seconds", "timeout", error.elapsed)


def poison_record(task: object, error: TaskPoisoned) -> dict[str, Any]:
    """The same of one that is not run, because it brings the program down."""
    return _failure_record(task, str(error), "poison", 0.0)


def _failure_record(task: object, text: str, kind: str, seconds: float | None) -> dict[str, Any]:
    return {
        "success": False,
        "success_level": "failure",
        "error": text,
        "error_type": kind,
        "execution_time": seconds,
        "tool_calls": [],
        "turns": 0,
        "workflow_score": 0.0,
        "phase2_score": 0.0,
        "quality_score": 0.0,
        "final_score": 0.0,
        "conversation_history": [],
        "execution_history": [],
        "executed_tools": [],
        "tool_coverage_rate": 0.0,
        "format_error_count": 0,
        "format_issues": [],
        "api_issues": [],
        "required_tools": list(getattr(task, "required_tools", None) or []),
        **{name: getattr(task, name, None) for name in _TASK_FIELDS},
    }
