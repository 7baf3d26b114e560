"""Notices that a deadline is seen to much too late, in a program that has no pool: nothing else watches it then.

Guarantees:

- The timer thread, when it wakes up, compares when it was to do so with the clock. No other thread is there for it, and
  to enter a scope costs what it did.
- Time in which the whole process was stopped (Ctrl-Z, a debugger) does not count, on Linux.

Not guaranteed: while the interpreter stands still and no deadline passes, nothing is noticed.
"""

from __future__ import annotations

import sys
import threading

from threadsafe_timeout._environment.surroundings import has_gil
from threadsafe_timeout._log import logger
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer

if sys.platform == "linux":  # now: the timer thread must not wait for another's import
    import resource

__all__ = ["begin", "end", "wakeups", "was_awake"]

_AWAKE = 0.05  # the least share of the time for which the process must have been running
_USUAL = 4  # how often a thread wakes up to no account: at the end of its wait, and when the process goes on
_NAMED = 5  # threads

watched = False  # whether pools are at work, whose watch (`stalls`) says more
_after = 0.0
_before: int | None = None  # how often the timer thread had waited when it last looked; its own


def begin(after: float) -> None:
    """Warn of deadlines that are so many seconds late."""
    global _after
    _after = after
    if has_gil():
        _timer.looked = _look


def end() -> None:
    _timer.looked = bool


def _look(first: float | None) -> None:
    """For the timer thread, whenever it looks. `first` is when what is due first was to be seen."""
    global _before
    before, _before = _before, wakeups()
    if first is None or watched or type(_clock.get_clock()) is not _clock.SystemClock:
        return
    late = _clock.monotonic() - first
    if late >= _after and was_awake(before, late):
        _tell(late)


def _tell(late: float) -> None:
    from threadsafe_timeout._introspection.frames import frames_of_others, users_frame
    from threadsafe_timeout._text import place, shown
    from threadsafe_timeout._timing.daemon_thread import is_ours

    names, known = [], {thread.ident: thread.name for thread in threading.enumerate() if not is_ours(thread)}
    with frames_of_others() as frames:
        for ident, name in known.items():
            where = users_frame(frames.get(ident or -1))
            names.append(f"thread {shown(name)}" + ("" if where is None else f" (now at {place(where)})"))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    who = f"It was {'' if len(names) == 1 else 'one of these: '}{', '.join(names[:_NAMED])}{more}. " if names else ""
    logger().warning(
        "threadsafe-timeout: a deadline was noticed %.1f s late: the interpreter stood still, because a call of C held "
        "the GIL. %sTo be able to stop such a call, run it in a process of its own (a pool with isolate='process'), or "
        "the program with: threadsafe-timeout run --supervise", late, who, extra={"event": "stalled", "elapsed": late},
    )  # fmt: skip


def wakeups() -> int | None:
    """How often this thread has waited so far; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def was_awake(before: int | None, seconds: float) -> bool:
    """Whether this thread has asked for the GIL for some of that time: else all threads were stopped."""
    now = wakeups()
    return now is None or before is None or (now - before - _USUAL) * sys.getswitchinterval() > _AWAKE * seconds
