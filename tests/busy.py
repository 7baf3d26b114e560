"""A thread that is busy, and the end of its interruption."""

from __future__ import annotations

import os
import sys
import time

from threadsafe_timeout._interruption import pursuit as _pursuit


def loop() -> None:
    """Python code that meets no cooperative point: only the interrupt ends it."""
    counted = 0
    while True:
        counted += 1


def switched_off(seconds: float = 120) -> bool:
    """Whether the interrupt is off in the end: no thread is pursued, and its tool of `sys.monitoring` is given back. Both
    are the timer thread's to do, after the scope was left."""
    until = time.monotonic() + seconds
    while _pursuit._targets or _has_tool():
        if time.monotonic() > until:
            return False
        os.sched_yield()
    return True


def _has_tool() -> bool:
    return sys.version_info >= (3, 12) and any(sys.monitoring.get_tool(n) == "threadsafe-timeout" for n in range(6))
