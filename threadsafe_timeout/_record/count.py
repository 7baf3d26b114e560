"""How often something has happened."""

from __future__ import annotations

import itertools

__all__ = ["Count"]


class Count:
    """Any thread adds to it, in one step of C: a lock might be taken for ever in a forked child. One thread at a time
    reads it."""

    def __init__(self) -> None:
        self.add = itertools.count().__next__
        self._reads = 0  # each of which adds one

    def total(self) -> int:
        found = self.add() - self._reads
        self._reads += 1
        return found
