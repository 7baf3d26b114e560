"""A terminal that a bar shares with the program: what the program writes goes where it would without the bar.

The streams of the program are watched: their `write` is one that erases the bar first. It is drawn again only where a
line of the program has ended. So a prompt, or a bar of the program's own, stays as it is.

Not guaranteed: what does not go through `sys.stdout` and `sys.stderr`, such as the output of child processes, may stand
behind the bar.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from threadsafe_timeout._record.on_stderr import is_terminal

__all__ = ["Screen"]

_WAIT = 1.0  # seconds that the program's output waits for the bar
_ERASE = "\r\x1b[K"


class Screen:
    """The terminal of a program, and the bar at its end."""

    def __init__(self) -> None:
        self._write, self._flush = sys.stderr.write, sys.stderr.flush  # before they are watched
        self._lock = threading.RLock()  # held while anything is written; under it no other is taken
        # All guarded by _lock:
        self.drawn = False
        self._at_start = True  # whether the cursor is at the beginning of a line, but for the bar
        self._watched: list[tuple[Any, Callable[[str], int]]] = []
        for stream in {id(one): one for one in (sys.stderr, sys.stdout)}.values():
            if _can_be_watched(stream):
                self._watch(stream)

    @staticmethod
    def is_there() -> bool:
        """Whether standard error is a terminal that can be drawn on, and nobody else does."""
        return _can_be_watched(sys.stderr) and os.environ.get("TERM") not in ("dumb", "unknown")

    def _watch(self, stream: Any) -> None:
        original = stream.write

        def write(text: str) -> int:
            with contextlib.ExitStack() as stack:
                # If the lock is not to be had, the terminal hangs, or what held it is gone.
                if text and self._lock.acquire(timeout=_WAIT):
                    stack.callback(self._lock.release)
                    self._erase()
                    self._at_start = text.endswith("\n")
                return int(original(text))

        stream.write = write
        self._watched.append((stream, write))

    def _erase(self) -> None:
        if self.drawn:
            self.drawn = False
            self._put(_ERASE)

    def _put(self, text: str) -> None:
        self._write(text)
        self._flush()

    def show(self, bar: str) -> None:
        """Draw the bar, if there is room for it."""
        with self._lock:
            if self._at_start and self._watched:
                self.drawn = True
                self._put(_ERASE + bar)

    def hide(self) -> None:
        """Erase it until it is shown again."""
        with self._lock:
            self._erase()

    def close(self) -> None:
        """Erase it for good, and leave the streams alone."""
        if self._lock.acquire(timeout=_WAIT):
            try:
                self._unwatch()
                self._erase()
            finally:
                self._lock.release()

    def _unwatch(self) -> None:
        watched, self._watched = self._watched, []
        for stream, write in watched:
            if vars(stream).get("write") is write:  # else somebody has put another on top, which calls this one
                del stream.write

    def in_child(self) -> None:
        """This process was forked. The bar is the parent's."""
        self._lock = threading.RLock()
        self.drawn = False
        self._unwatch()


def _can_be_watched(stream: Any) -> bool:
    """Whether it is an ordinary one, on a terminal. (Another may be one of rich's, under a display of its own.)"""
    return type(stream) is io.TextIOWrapper and "write" not in vars(stream) and is_terminal(stream)
