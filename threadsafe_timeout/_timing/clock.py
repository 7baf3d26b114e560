"""The only module that touches `time.*`.

`SystemClock` keeps its own references, taken at import: a test tool that replaces `time.monotonic` to freeze time
must not freeze deadlines, and our own `time.sleep` patch must not be what the clock sleeps with.
"""

from __future__ import annotations

import sys
import time
from functools import partial

from threadsafe_timeout._typing import Protocol

__all__ = ["Clock", "SystemClock", "get_clock", "monotonic", "set_clock", "thread_time", "wait", "wall_time"]


class Waitable(Protocol):
    """What a clock can wait on: a lock that somebody else releases."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...


class Clock(Protocol):
    """Where deadlines get their time from."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""

    def time(self) -> float:
        """Seconds since the epoch, for records that people read."""

    def wait(self, lock: Waitable, seconds: float | None) -> bool:
        """Acquire `lock` within `seconds` (None: no limit); False if the time passed first."""


class SystemClock:
    """The machine's own clocks."""

    # Through a partial: freezegun looks through every module for the functions themselves, and replaces them.
    monotonic = staticmethod(partial(time.monotonic))
    time = staticmethod(partial(time.time))

    def wait(self, lock: Waitable, seconds: float | None) -> bool:
        # A lock takes at most TIMEOUT_MAX (292 years here, 49 days where C has 32 bits): the caller looks again.
        return lock.acquire(True, -1 if seconds is None else min(max(seconds, 0.0), _LONGEST_WAIT))


_LONGEST_WAIT = 1e6
_clock: Clock = SystemClock()
# Read on every scope entry: a module global bound to the clock's own method saves an attribute look-up each.
monotonic = _clock.monotonic
wall_time = _clock.time
wait = _clock.wait


def thread_time(native_id: int | None) -> float | None:
    """Seconds another thread of this process has computed, by its native id; None where the system does not tell."""
    if native_id is None or sys.platform != "linux":
        return None
    try:
        return time.clock_gettime(~native_id << 3 | 6)  # the kernel's name for it: CPUCLOCK_PERTHREAD, CPUCLOCK_SCHED
    except OSError:
        return None  # it ended


def get_clock() -> Clock:
    """The clock in force."""
    return _clock


def set_clock(clock: Clock) -> Clock:
    """Put `clock` in force for the whole process and return the one it replaces. Meant for tests."""
    global _clock, monotonic, wall_time, wait
    previous, _clock = _clock, clock
    monotonic, wall_time, wait = clock.monotonic, clock.time, clock.wait
    return previous
