"""A task in a process of its own: `isolate="process"`.

The pool's worker thread starts the process and waits for it, under the task's scope. Guarantees:

- When the task's scope is cancelled the process gets SIGTERM, on which the task may clean up; a `grace` later it is
  killed, and so is all that it has started and that is in its group or below it.
- If it dies by itself, whoever asks for the outcome gets `TaskProcessDied`, with the signal or the exit code.
- It is never forked from the program, which has threads, but from a fork server.

Not guaranteed: a descendant that has left both the group and the process's tree lives on if the process died by itself.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
from collections.abc import Callable
from typing import Any

from threadsafe_timeout._errors import Cancelled, TaskProcessDied
from threadsafe_timeout._introspection import dump_signal as _dump_signal
from threadsafe_timeout._introspection.names import name_of
from threadsafe_timeout._introspection.transparent import transparent
from threadsafe_timeout._patching import install as _install
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._processes.tree import is_pending, is_running, kill_tree, status
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import shield as _shield
from threadsafe_timeout._scopes.time_left import time_remaining
from threadsafe_timeout._settings import settings
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout.engines import _server
from threadsafe_timeout.engines._child import run_task, travelling_settings
from threadsafe_timeout.engines._reports import Reports
from threadsafe_timeout.engines._waiter import Waiter
from threadsafe_timeout.engines.sending import check_extra, pack_call, traceback_of

__all__ = ["Answer", "about_task", "isolated", "outcome_of", "run_packed", "task_name"]

_LOOK = 0.25  # seconds between two looks whether the process is there; its answer, or its end, is told at once
_LOOKS = 20  # of those: for pebble to say that a process has ended which has. A machine that stands still takes one


Answer = tuple[str, Any, str]
"""`result` or `error`, packed; `cancelled`, or `killed` on another machine, and where; `died` and the exit code. Then
the traceback, as text."""


def isolated(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which runs in a process of its own each time it is called."""
    check_extra()

    @transparent
    def run(*args: Any, **kwargs: Any) -> Any:
        _around.raise_if_cancelled()
        scope, name, remaining = _around.current_scope(), task_name(), time_remaining()
        about = about_task(pack_call(function, args, kwargs, factory=settings().task_factory), name)
        answer, pid = run_packed(about, remaining, scope._grace_seconds() if scope is not None else settings().grace)
        return outcome_of(answer, name, pid)

    run.__qualname__ = name_of(function, ())  # what log lines and errors call the task
    return run


def task_name() -> str | None:
    """The name of the task that this thread runs."""
    task = getattr(_around.current_scope(), "task", None)
    return task._task_name() if task is not None else None


def about_task(call: bytes, name: str | None) -> dict[str, Any]:
    """What the process of a task is told, but for its time."""
    return {
        "call": call, "settings": travelling_settings(), "name": name,
        "installed": _install.installed() is not None, "memory": settings().task_memory,
    }  # fmt: skip


def run_packed(about: dict[str, Any], remaining: float, grace: float) -> tuple[Answer, int]:
    """Run a task in a process of its own, under the scope around: its answer, and the number the process had."""
    task = getattr(_around.current_scope(), "task", None)
    phases = task is not None and _observer.llm_begins is not None
    blob = pickle.dumps(about | {"remaining": None if remaining == float("inf") else remaining, "phases": phases})
    process = _Process(blob, task)
    try:
        process.wait(grace)
        return process.answer(), process.pid
    except Cancelled as cancelled:  # it may also strike as an interrupt
        process.reports.take()
        cancelled._where = process.reports.away.where or cancelled._where
        raise
    finally:
        process.end()
        process.reports.close()
        if task is not None:
            task._away = None


def outcome_of(answer: Answer, name: str | None, pid: int) -> Any:
    """The result of a task; or its error, raised."""
    kind, value, text = answer
    if kind == "result":
        return pickle.loads(value)
    if kind == "error":
        raise traceback_of(pickle.loads(value), text)
    try:
        _around.raise_if_cancelled()
    except Cancelled as cancelled:
        if kind in ("cancelled", "killed"):
            cancelled._where = value or cancelled._where
        raise
    if kind == "cancelled":  # by somebody else's SIGTERM
        raise TaskProcessDied(name, -signal.SIGTERM, pid)
    raise TaskProcessDied(name, value if kind == "died" else None, pid)


class _Context:
    """What pebble starts a process with; this remembers the process."""

    def __init__(self) -> None:
        self._context = _server.context()
        self.process: Any = None

    def get_start_method(self) -> str:
        return "forkserver"

    def Pipe(self, duplex: bool = True) -> Any:  # noqa: N802  (pebble calls it)
        return self._context.Pipe(duplex)

    def Process(self, **options: Any) -> Any:  # noqa: N802  (the same)
        self.process = self._context.Process(**options)
        return self.process


class _Process:
    """One process, and its one task."""

    def __init__(self, blob: bytes, task: Any) -> None:
        """Raises if the scope around was cancelled meanwhile: packing a task, or the fork server's start, may take
        long."""
        from pebble import concurrent

        context = _Context()
        _around.raise_if_cancelled()
        reading, writing = context.Pipe(duplex=False)
        self.reports = Reports(reading, task)
        # Not process(function, context=…), nor mp_context=…: pebble would pass over the context, and fork.
        decorate: Any = concurrent.process
        start = decorate(daemon=True, context=context)(run_task)
        try:
            self._future: Any = _shield.context_outside().run(start, blob, writing)  # its thread is in no scope
        except BaseException:
            self.reports.close()
            raise
        finally:
            writing.close()
        self.pid: int = context.process.pid
        self.reports.away.pid = self.pid
        if task is not None:
            task._away = self.reports.away
        found = status(self.pid)
        self._started = found.started if found is not None else None
        self._waiter = Waiter()
        self._future.add_done_callback(self._waiter.wake)

    def wait(self, grace: float) -> None:
        """Until it has answered or ended; or until a grace after its task was cancelled, when it is killed."""
        with self._waiter.listening():
            self._wait(None)
        if self._future.done() or not self._runs():
            return
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGTERM)
        until, look, asked = _clock.monotonic() + grace, min(_LOOK, grace / 2), False
        while not asked and (left := until - _clock.monotonic()) > 0 and not self._future.done() and self._runs():
            self._wait(min(look, left))
            asked = self._ask_where()
        self._wait(until - _clock.monotonic())
        if not self._future.done():
            self.end()
            _around.raise_if_cancelled()  # not after pebble has noticed: the pool's next step is near

    def _ask_where(self) -> bool:
        """Have the stacks written, also if no handler of Python's can run there. False: not yet.

        Not while the main thread has not taken SIGTERM. Linux gives the second signal to another thread, which may take
        the first one too: then a main thread that waits in C would not run its handler.
        """
        self.reports.take()
        number = _dump_signal.SIGNAL
        if number is None or self._future.done() or not self._runs():
            return True
        if not self.reports.stacks or is_pending(self.pid, signal.SIGTERM):
            return False
        with contextlib.suppress(OSError):
            os.kill(self.pid, number)
        return True

    def _wait(self, seconds: float | None) -> None:
        until = None if seconds is None else _clock.monotonic() + seconds
        while not self._future.done() and self._runs():
            self.reports.take()
            left = _LOOK if until is None else min(_LOOK, until - _clock.monotonic())
            if left <= 0 or (self._waiter.wait_for(left) and until is None):
                return

    def _runs(self) -> bool:
        return self._started is None or is_running(self.pid, self._started)

    def end(self) -> None:
        """Kill what is left of it, and of its group."""
        if self._started is not None:
            kill_tree(self.pid, started=self._started)
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def answer(self) -> Answer:
        """`died`, and its exit code, if there is none. Raises if it is the scope that has ended it."""
        from pebble import ProcessExpired

        self.end_if_over()
        code = None
        try:
            for _ in range(_LOOKS):
                if not self._future.done():
                    self._waiter.wait_for(_LOOK)
            answer: Answer = pickle.loads(self._future.result(0))
            self.reports.take()
            return answer
        except ProcessExpired as exc:
            code = exc.exitcode
        except TimeoutError:  # something that has left the group holds its pipe
            pass
        _around.raise_if_cancelled()
        return "died", code, ""

    def end_if_over(self) -> None:
        """What it has started may hold its pipe open."""
        if not self._future.done():
            self.end()
