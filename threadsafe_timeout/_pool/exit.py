"""The end of the process: what is waited for, what is given up, and what is said about it.

- Healthy tasks are waited for, as ever. Overdue ones are given up, and their stacks are logged; first they have a grace
  to clean up, if they have begun with that.
- After Ctrl-C nothing is waited for longer than `INTERRUPTED_WAIT`: every task is cancelled, and what was running is
  named. An event loop ends what it runs first, in its own way; then the same holds for what it had given to pools.
- `leave()` ends the process for a pool that has lost its threads and was told to.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from threadsafe_timeout._pool import ladder as _ladder
from threadsafe_timeout._pool import observer as _observer
from threadsafe_timeout._pool.events import Event, describe
from threadsafe_timeout._pool.exit_streams import flush_streams, replace_streams
from threadsafe_timeout._pool.expired_waits import cancel_at_exit
from threadsafe_timeout._pool.telling import event_of
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout._timing.daemon_thread import DaemonThread

if TYPE_CHECKING:
    from threadsafe_timeout._pool.crew import Crew
    from threadsafe_timeout._pool.task import TaskFuture

__all__ = [
    "EXHAUSTED_STATUS", "INTERRUPTED_WAIT", "afterwards", "all_crews", "crews", "exiting", "hurry_interrupted",
    "keep_interrupted_status", "leave", "note_interrupted", "stop_interrupted",
]  # fmt: skip

logger = logging.getLogger("threadsafe_timeout")

INTERRUPTED_WAIT = 0.5  # seconds tasks get to end after Ctrl-C
_LEAST_TELLING = 0.2  # seconds in which what was running is said, though it took all of those
EXHAUSTED_STATUS = 75  # EX_TEMPFAIL of sysexits.h: try again
_SAVING_WAIT = 10.0  # seconds in which pending results are saved before the process is left
crews: weakref.WeakSet[Crew] = weakref.WeakSet()
# What else is done when the tasks have ended or were given up, unless the exit is Ctrl-C's.
afterwards: list[Callable[[], object]] = []
exiting = False


def stop_interrupted(interrupted: Iterable[Crew]) -> None:
    """Ctrl-C: cancel everything, wait a moment, say what was running."""
    interrupted = [crew for crew in interrupted if not crew.interrupted]
    until = _clock.monotonic() + INTERRUPTED_WAIT
    for crew in interrupted:
        crew.interrupted = True
        crew.close(cancel_pending=True)
        _hurry_all(crew, crew.running())
    for crew in interrupted:
        crew.join(max(0.0, until - _clock.monotonic()))
        crew.events.flush(max(_LEAST_TELLING, until - _clock.monotonic()))


def note_interrupted() -> None:
    """Ctrl-C has come, and an event loop winds down: what runs in pools now is not to be waited for when they are left.

    Nothing is cancelled yet: what the program still does, and submits, to end in good order is its own business. In a
    signal handler.
    """
    for crew in all_crews():
        crew.interrupted_tasks = weakref.WeakSet(crew.unfinished())


def hurry_interrupted(crew: Crew) -> None:
    """Called before a wait for a pool: what ran when Ctrl-C came gets `INTERRUPTED_WAIT` seconds to end."""
    tasks = [task for task in crew.unfinished() if task in crew.interrupted_tasks]
    if not tasks:
        return
    crew.interrupted_tasks = weakref.WeakSet()
    _hurry_all(crew, tasks)
    crew.events.tell()

    def give_up() -> None:
        for task in tasks:
            crew.abandon(task)

    # At that moment the wait ends, as after any other task that was given up.
    _timer.call_later(INTERRUPTED_WAIT, give_up)


def _hurry_all(crew: Crew, tasks: Iterable[TaskFuture]) -> None:
    running = set(crew.running())
    for task in tasks:
        task.hurry("interrupted by Ctrl-C")
    named = [task for task in tasks if task in running]
    if named:
        names = ", ".join(sorted({describe(task._task_name(), task._options.key) for task in named}))
        crew.events.put(
            logging.WARNING, f"interrupted while {len(named)} tasks were running: {names}",
            Event("interrupted", crew.prefix, task=names),
        )  # fmt: skip


def shut_down_all() -> None:
    """At interpreter exit."""
    global exiting
    exiting = True
    interrupted = isinstance(getattr(sys, "last_value", None), KeyboardInterrupt)
    try:
        if interrupted:
            stop_interrupted(all_crews())
        _wait_for_all()
        for finish in () if interrupted else afterwards:
            finish()
    except KeyboardInterrupt:
        stop_interrupted(all_crews())
        _wait_for_all()
    if all_crews():  # a program without pools finds its streams as it left them
        flush_streams()
    if interrupted:
        keep_interrupted_status()


def keep_interrupted_status() -> None:
    """The interpreter ends the process by SIGINT if a KeyboardInterrupt was the last thing its code ended with: a flag
    that any `exec` resets, such as those in modules with dataclasses that were imported just now."""
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")


def all_crews() -> list[Crew]:
    while True:
        try:
            return list(crews)
        except RuntimeError:  # a thread that still runs has made a pool, or dropped one, in the meantime
            continue


def _wait_for_all() -> None:
    remaining = [crew for crew in all_crews() if crew.awaited_at_exit]  # the others go on to the very end
    for crew in remaining:
        crew.close(by_exit=True)
    _give_up_overdue()
    for crew in remaining:
        hurry_interrupted(crew)
        cancel_at_exit(crew)
    for crew in remaining:
        crew.join()


def _give_up_overdue() -> None:
    for crew in all_crews():
        for task in crew.running():
            if task.overdue:
                _ladder.give_up_at_exit(task)


def _let_go_of_streams() -> None:
    """Among the last things that a process does: `.auto` is the first line, and functions of `atexit` run from the last
    registered to the first."""
    if any(crew.running() or crew.abandoned_alive() for crew in all_crews()):
        replace_streams()


def leave(crew: Crew) -> None:
    """Too many threads are stuck and the pool is to end the process, for a supervisor to start it again: save pending
    results, say where every task is, flush, and leave with `EXHAUSTED_STATUS`."""
    DaemonThread(functools.partial(_leave, crew), f"{crew.prefix}-exit").start()
    # Whatever hangs in there, a log handler or a disk, the process is left.
    _timer.call_later(2 * _SAVING_WAIT, _end)


def _leave(crew: Crew) -> None:
    until = _clock.monotonic() + _SAVING_WAIT
    with contextlib.suppress(Exception):
        crew.wait_settled(until)
        for task in crew.running():
            event = event_of(task, "exhausted")
            crew.events.put(
                logging.ERROR, f"task {describe(event.task or '', event.key)} was running here:\n{event.stack}", event
            )
            scope = task._scope
            if scope is not None:  # whoever starts the program again starts them again
                _ladder.end_processes(task, scope, all_of_them=True)
        crew.events.flush(max(0.0, until - _clock.monotonic()))
    with contextlib.suppress(Exception):
        logger.critical(
            "threadsafe-timeout: leaving the process with status %d: its threads are stuck; start it again and it "
            "goes on", EXHAUSTED_STATUS,
        )  # fmt: skip
    if (leaving := _observer.leaving) is not None:
        leaving(EXHAUSTED_STATUS)  # it may log
    with contextlib.suppress(Exception):
        logging.shutdown()
    flush_streams()
    _end()


def _end() -> None:
    os._exit(EXHAUSTED_STATUS)


def _after_fork_in_child() -> None:
    for crew in all_crews():
        crew.after_fork_in_child()


atexit.register(_let_go_of_streams)
# The hook that the standard pools use: atexit proper runs only after all non-daemon threads were joined.
try:
    threading._register_atexit(shut_down_all)  # type: ignore[attr-defined]  # not in typeshed; there since 3.9
except RuntimeError:  # it is too late: this is imported to record how the program ends, and no pool is to begin
    exiting = True
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
