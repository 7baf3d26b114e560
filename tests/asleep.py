"""Waiting until threads sleep where they are: for programs that are to get a signal, or to be cancelled, in a wait.

A signal that arrives on the way into a wait does not end it, in any Python program. And a task that is cancelled on the
way to what it is to be stuck in ends there and then. A thread that is at the same instruction as a moment ago may only
wait for a processor; whether it sleeps is what the system says of it (/proc).

Tests put this folder on the path of the programs they start (`ON_PATH`).
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable

from threadsafe_timeout._introspection.frames import current_frames

ON_PATH = {"PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
_PAUSE = 0.05  # seconds between two looks, in which a thread that waits for the GIL gets it


def others() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one is not threading.current_thread()]


def main_thread() -> list[threading.Thread]:
    return [threading.main_thread()]  # which is not among the others any more when the exit has begun


def wait_until_asleep(threads: Callable[[], list[threading.Thread]] = others, until: float = math.inf) -> None:
    """Wait until all of `threads()`, and there is one, sleep where they slept a moment before."""
    seen = None
    while (places := _places(threads())) is None or places != seen:
        assert time.monotonic() < until, "a thread did not get where it is to wait"
        seen = places
        time.sleep(_PAUSE)


def _places(threads: list[threading.Thread]) -> list[tuple[int | None, int, int | None]] | None:
    if not threads or not all(map(_sleeps, threads)):
        return None
    frames = current_frames()
    tops = [frames.get(one.ident) for one in threads]
    return [(one.ident, id(top), getattr(top, "f_lasti", None)) for one, top in zip(threads, tops, strict=True)]


def _sleeps(thread: threading.Thread) -> bool:
    try:
        with open(f"/proc/self/task/{thread.native_id}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "S"
    except OSError:  # it has ended; or there is no /proc
        return not os.path.exists("/proc/self/stat")
