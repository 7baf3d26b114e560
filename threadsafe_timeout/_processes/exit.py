"""The exit of a program that has processes left from tasks that are over: it waits for none of them.

`multiprocessing` joins its processes at exit, an executor of processes its workers, and a queue the thread that feeds
its pipe: as long as that takes. Guarantees:

- A process whose `join` was cut short by a cancelled scope, and that still runs, is asked to end (SIGTERM) before that,
  and killed after a `grace`. So are, without being asked, the workers that are left of given-up tasks.
- A queue that such a task has put something into, and that nobody reads, is waited for as long.
- All others are waited for, as ever. What is ended is logged.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import threading
from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

from threadsafe_timeout._processes.children import ProcessChild
from threadsafe_timeout._processes.started import Ended, Entry, end
from threadsafe_timeout._processes.tree import descendants, is_running, kill_tree
from threadsafe_timeout._processes.workers import ExecutorWorkers, executors
from threadsafe_timeout._settings import settings
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

__all__ = ["Feeder", "before_executors_are_joined", "before_processes_are_joined", "leave", "was_ended"]

_logger = logging.getLogger("threadsafe_timeout")
_LOOK = 0.01  # seconds between two looks at what was asked to end
_LOOK_AT_EXECUTORS = 0.1  # the same, at executors that still do what somebody wants
_left: deque[Entry] = deque()
_registered: set[str] = set()


class Feeder:
    """The thread of a multiprocessing.Queue that writes what was put into its pipe."""

    ends_with_its_task, ends_at_exit, kept = False, True, False

    def __init__(self, queue: Any) -> None:
        self.starter = os.getpid()
        self._thread: threading.Thread = queue._thread
        self._join = queue._jointhread  # what the exit calls; None if nothing is to be waited for

    def end(self) -> list[Ended]:
        return []

    def is_over(self) -> bool:
        return not self._thread.is_alive()

    settle = is_over

    def give_up(self) -> None:
        if self._join is not None and not self.is_over():
            self._join.cancel()
            _logger.warning(
                "threadsafe-timeout: a multiprocessing.Queue holds something that a task had put before its time was "
                "up, and nobody reads it: the program exits without it"
            )


def leave(entries: Iterable[Entry]) -> None:
    """What is not to be waited for at exit, if there is still something of it by then."""
    for entry in list(_left):
        if entry.is_over():
            with contextlib.suppress(ValueError):  # another thread does the same
                _left.remove(entry)
    _left.extend(entry for entry in entries if not entry.kept and entry not in _left)


def was_ended(pids: Collection[int]) -> None:
    """These need not be ended at exit any more."""
    for entry in list(_left):
        if isinstance(entry, ProcessChild) and entry.pid in pids:
            with contextlib.suppress(ValueError):
                _left.remove(entry)


def before_processes_are_joined() -> None:
    """Have what is left ended before `multiprocessing` joins it. To be called when that has been imported."""
    if "processes" not in _registered:
        _registered.add("processes")
        atexit.register(_end_left)  # the last to be registered is the first to be called


def before_executors_are_joined() -> None:
    """The same for the workers of executors, which are joined earlier."""
    if "executors" not in _registered:
        _registered.add("executors")
        with contextlib.suppress(RuntimeError):  # the exit has begun: there is nothing left to wait for
            threading._register_atexit(_at_exit_of_threads)  # type: ignore[attr-defined]  # not in typeshed


def _end_left() -> None:
    here = os.getpid()
    left = [entry for entry in _left if entry.starter == here and not entry.kept and not entry.is_over()]
    _left.clear()
    if not left:
        return
    grace = settings().grace
    asked = [entry for entry in left if isinstance(entry, ProcessChild)]
    ended = _end_politely(asked, grace) if asked else []
    ended += end(entry for entry in left if entry not in asked)
    if ended:
        names = ", ".join(map(str, ended))
        _logger.warning(
            "threadsafe-timeout: processes that a time limit had left running were ended, so that the program can "
            "exit: %s", names,
        )  # fmt: skip
    until = _clock.monotonic() + grace
    for entry in left:
        if isinstance(entry, Feeder):
            entry._thread.join(max(0.0, until - _clock.monotonic()))
            entry.give_up()


def _end_politely(children: list[ProcessChild], grace: float) -> list[Ended]:
    """Ask them to end, then kill what is left of them after `grace` seconds."""
    ended = [Ended(child.name, child.pid) for child in children]
    below = [one for child in children for one in descendants(child.pid)]
    for child in children:
        child.terminate()
    until = _clock.monotonic() + grace
    never = threading.Lock()
    never.acquire()
    while _clock.monotonic() < until and not all(child.settle() for child in children):
        _clock.wait(never, _LOOK)
    for child in children:
        kill_tree(child.pid, started=child.started, other_sessions=False)
    for pid, started in below:  # orphans by now
        if is_running(pid, started):
            kill_tree(pid, started=started, other_sessions=False)
    return ended


def _at_exit_of_threads() -> None:
    _end_left()
    for workers in executors:
        if workers.clients:
            _watch(workers, hopeless=False)


def _watch(workers: ExecutorWorkers, hopeless: bool) -> None:
    """While the exit waits for an executor: once it has had nothing but work of tasks that are over for a `grace`, end
    it. By the timer thread: the interpreter starts no new one at exit."""
    futures = workers.unfinished()
    if not futures:
        return
    if not all(_is_given_up(workers, future) for future in futures):
        _timer.call_later(_LOOK_AT_EXECUTORS, functools.partial(_watch, workers, False))
    elif not hopeless:
        _timer.call_later(settings().grace, functools.partial(_watch, workers, True))
    else:
        names = ", ".join(map(str, workers.end()))
        _logger.warning(
            "threadsafe-timeout: workers that were busy for tasks that had been given up were ended, so that the "
            "program can exit: %s", names,
        )  # fmt: skip


def _is_given_up(workers: ExecutorWorkers, future: Any) -> bool:
    """Whether the task that had submitted it ran out of time."""
    return any(scope._cancelled for scope in workers.clients.get(future, ()))


def _after_fork_in_child() -> None:
    _left.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
