"""What the programs that start processes in a task note of them, and what their tasks are stuck in."""

from __future__ import annotations

import threading

from threadsafe_timeout._processes.tree import status

never = threading.Lock()  # what nobody is woken from
never.acquire()
stuck = threading.Event()
started: dict[str, tuple[int, int]] = {}


def note(pid: int, name: str = "child") -> int:
    """Have the test look for a process afterwards. Called when it is what it will be."""
    started[name] = pid, status(pid).started
    return pid


def forever():
    stuck.set()
    never.acquire()
