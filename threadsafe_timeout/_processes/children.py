"""A process that a task has started: how it is ended and reaped, and when it is left alone."""

from __future__ import annotations

import os
import signal
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from threadsafe_timeout._processes.started import Ended, is_kept
from threadsafe_timeout._processes.tree import (
    HAS_PROC,
    group_is_running,
    holds_other_end,
    is_running,
    kill_tree,
    status,
)

__all__ = ["Child", "ProcessChild"]


class Child:
    """A process that was started by itself: a `Popen`, a `multiprocessing.Process`, a fork."""

    ends_with_its_task = ends_at_exit = False

    def __init__(self, pid: int, handle: Any = None, reap: Callable[[Any], object] | None = None) -> None:
        found = status(pid)
        self.starter = os.getpid()
        self.pid = pid
        self.name = found.name if found is not None else "process"
        self.started = found.started if found is not None else None
        # Weakly: a Popen that is let go of closes its pipes.
        self._handle = (lambda: None) if handle is None else weakref.ref(handle)
        self._reap = reap

    @property
    def kept(self) -> bool:
        return is_kept(self.pid, self.started)

    def is_running(self) -> bool:
        if self.started is not None:
            return is_running(self.pid, self.started)
        if HAS_PROC:
            return False  # it had ended and been reaped before it was noted
        handle = self._handle()
        return handle is not None and self._reap is not None and self._reap(handle) is None

    def end(self) -> list[Ended]:
        if not self._has_something_running() or self._is_left_alone():
            return []
        ended = Ended(self._name(), self.pid)
        return [ended] if kill_tree(self.pid, started=self.started, other_sessions=False) else []

    def _name(self) -> str:
        found = status(self.pid)
        return found.name if found is not None else self.name  # it may run another program since

    def _has_something_running(self) -> bool:
        if self.is_running():
            return True
        # A shell that has ended, perhaps, and was not reaped; what it started in its group may hold the pipe.
        found = status(self.pid)
        return found is not None and found.started == self.started and self._leads_running_group()

    def _leads_running_group(self) -> bool:
        return self.pid != os.getpgrp() and group_is_running(self.pid)

    def _is_left_alone(self) -> bool:
        try:
            if os.getsid(self.pid) == os.getsid(0):
                return False
        except OSError:
            return False
        return not self._has_open_pipe() and not (HAS_PROC and holds_other_end(self.pid))

    def _has_open_pipe(self) -> bool:
        handle = self._handle()
        pipes = [getattr(handle, name, None) for name in ("stdin", "stdout", "stderr")]
        return any(pipe is not None and not pipe.closed for pipe in pipes)

    def is_over(self) -> bool:
        return HAS_PROC and not self._has_something_running()

    def settle(self) -> bool:
        handle = self._handle()
        if handle is not None and self._reap is not None:
            self._reap(handle)
        return not self.is_running()


class ProcessChild(Child):
    """A `multiprocessing.Process`, for whose end the exit of the program would wait."""

    def __init__(self, process: Any, managed: bool = False) -> None:
        super().__init__(process.pid, process, _exit_code)
        self.name = process.name
        self.ends_with_its_task = not managed

    def _name(self) -> str:
        return self.name

    def terminate(self) -> None:
        """Ask it to end."""
        if self.is_running():
            with suppress(OSError):  # it has ended just now
                os.kill(self.pid, signal.SIGTERM)


def _exit_code(process: Any) -> int | None:
    """Which is what reaps it."""
    with suppress(ValueError):  # it was closed, and so had been reaped
        return process.exitcode  # type: ignore[no-any-return]
    return -1
