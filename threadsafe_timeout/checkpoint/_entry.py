"""One line of the journal on its way to the disk."""

from __future__ import annotations

import threading

from threadsafe_timeout._timing.daemon_thread import release

__all__ = ["Entry"]


class Entry:
    """One line on its way to the disk, and the thread that waits for it."""

    __slots__ = ("batch", "durable", "gate", "line", "next", "problem", "settled", "waiting")

    def __init__(self, line: bytes, durable: bool) -> None:
        self.line = line
        self.durable = durable
        self.settled = False
        self.problem: OSError | None = None
        self.waiting = True  # False once its thread has left: it must not be made leader
        self.batch: list[Entry] = []  # what it leads
        self.next: Entry | None = None  # whom to wake when woken
        self.gate = threading.Lock()  # released when settled, or when it becomes the leader
        self.gate.acquire()

    def again(self) -> Entry:
        """Its line once more, which nobody waits for."""
        other = Entry(self.line, self.durable)
        other.waiting = False
        return other

    def open_gate(self) -> None:
        release(self.gate)  # it may be open: handing on the lead may be interrupted and then happens twice
