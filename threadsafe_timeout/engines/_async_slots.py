"""The slots of an `AsyncPool`: what a worker is to a pool of threads, for those who look on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threadsafe_timeout.engines._async_task import AsyncTask

__all__ = ["Slot", "Slots"]


class Slot:
    """A place for one running task. A task that is abandoned keeps its slot until it ends; another one takes its place,
    as with threads."""

    __slots__ = ("abandoned", "doing", "name", "seen", "task")

    def __init__(self, name: str) -> None:
        self.name = name
        self.task: AsyncTask | None = None
        self.abandoned = False
        self.doing: Any = None  # what its task notes of itself, while the run is recorded
        self.seen: Any = None  # what the recorder has seen of that


class Slots:
    """The slots of one pool. The loop's thread gives and takes them."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._free: list[Slot] = []
        self._made = 0

    def take(self, task: AsyncTask) -> None:
        """A slot for a task that starts."""
        free = self._free
        slot = free.pop() if free else self._new()
        slot.task, task._slot = task, slot

    def _new(self) -> Slot:
        slot = Slot(f"{self._prefix}_{self._made}")
        self._made += 1
        return slot

    def give_back(self, slot: Slot) -> None:
        """Its task has ended."""
        slot.task, slot.abandoned = None, False
        self._free.append(slot)
