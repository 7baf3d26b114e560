"""Answers that ended in an unclosed tag, counted over the run, and told once at its end."""

from __future__ import annotations

import atexit
import logging
import threading

__all__ = ["CutAnswers", "cut_answers"]

logger = logging.getLogger("threadsafe_timeout")


class CutAnswers:
    """The count of one process. Any thread may add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cut = 0  # guarded by _lock, as are those below
        self._mended = 0
        self._registered = False

    def add(self, cut: int, mended: int = 0) -> None:
        """So many answers were cut; `mended` of them got their closing tag."""
        if not cut:
            return
        with self._lock:
            self._cut += cut
            self._mended += mended
            first, self._registered = not self._registered, True
        if first:
            atexit.register(self.tell)

    def tell(self) -> None:
        """Say it, and begin anew."""
        with self._lock:
            cut, mended, self._cut, self._mended, registered = self._cut, self._mended, 0, 0, self._registered
            self._registered = False
        if registered:
            atexit.unregister(self.tell)
        if not cut:
            return
        told = (
            f"{mended:,} of them were mended (guard_repair)" if mended
            else 'guard_repair="cut-tags" would have mended those that name a tool'
        )  # fmt: skip
        logger.warning(
            "threadsafe-timeout: %s answers ended in an unclosed <tool_call> or its like: is the closing tag a stop "
            "sequence of the request? Then it is never part of the text, and the executor sees no call; %s",
            f"{cut:,}", told, extra={"event": "cut_answers"},
        )  # fmt: skip


cut_answers = CutAnswers()
