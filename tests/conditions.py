"""Waiting until something is so: as long as that takes, and no longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from threadsafe_timeout._processes.tree import status

T = TypeVar("T")
LONG = 240.0  # seconds: a safety net, less than pytest's
_PAUSE = 0.01


def until(found: Callable[[], T], about: Callable[[], object] = lambda: "it did not come") -> T:
    """The first value of `found()` that is true. `about()` says what there is instead, if none comes."""
    end = time.monotonic() + LONG
    while not (value := found()):
        assert time.monotonic() < end, about()
        time.sleep(_PAUSE)
    return value


def until_ended(pid: int) -> None:
    """That process is gone, or is a zombie."""
    until(lambda: (found := status(pid)) is None or not found.running, lambda: f"it still runs: {status(pid)}")


def join_listed(thread: threading.Thread, seconds: float) -> None:
    """Wait so long at most for the end of a thread that `threading.enumerate()` lists. One that is being started is
    listed already, and cannot be joined yet."""
    assert thread._started.wait(LONG)
    thread.join(seconds)


def said_in(path: Path) -> str:
    """What is written there, once that is there."""
    until(path.exists, lambda: f"{path} did not come")
    return path.read_text()
