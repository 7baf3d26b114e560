"""Keys from a terminal, one at a time, and the terminal as it was when it is over.

Guarantees: however the block is left, also by SIGTERM or SIGHUP, the terminal gets its mode back.

Not guaranteed: that after SIGKILL, or after the process was stopped by `kill -STOP`.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

__all__ = ["Keys", "keys_of_terminal"]

_NAMES = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"\x1b[B": "down", b"\x1bOB": "down",
    b"\x1b[5~": "page up", b"\x1b[6~": "page down",
    b"\x1b[H": "home", b"\x1bOH": "home", b"\x1b[1~": "home", b"\x1b[F": "end", b"\x1bOF": "end", b"\x1b[4~": "end",
    b"\r": "enter", b"\n": "enter", b"\x7f": "backspace", b"\x08": "backspace", b"\x1b": "escape",
}  # fmt: skip
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|O.)", re.DOTALL)
_REST = 0.05  # seconds for the rest of what a key sends, over a slow line


class Keys:
    """What is typed. `descriptor` None: nobody types, `read` only waits."""

    def __init__(self, descriptor: int | None, woken: int | None = None) -> None:
        self._descriptor = descriptor
        self._woken = woken  # readable when a signal has come
        self._pending = b""

    def read(self, seconds: float) -> list[str]:
        """The names of the keys typed, after the first or after `seconds`; `""` for the terminal's new size. Raises
        EOFError if the terminal is gone."""
        readable = self._wait(seconds)
        found = []
        if self._woken is not None and self._woken in readable:
            os.read(self._woken, 4096)
            found.append("")
        if self._descriptor is not None and self._descriptor in readable:
            self._fill()
            if self._pending.startswith(b"\x1b") and len(self._pending) < 3 and self._descriptor in self._wait(_REST):
                self._fill()
            found += self._take()
        return found

    def _wait(self, seconds: float) -> list[int]:
        watched = [one for one in (self._descriptor, self._woken) if one is not None]
        return select.select(watched, [], [], max(0.0, seconds))[0]

    def _fill(self) -> None:
        assert self._descriptor is not None
        try:
            data = os.read(self._descriptor, 1024)
        except OSError:  # what a terminal says that was closed
            data = b""
        if not data:
            raise EOFError
        self._pending += data

    def _take(self) -> Iterator[str]:
        while data := self._pending:
            found = _SEQUENCE.match(data)
            if found is not None:
                piece, known = found[0], _NAMES.get(found[0])
            elif data[:1] in _NAMES:
                piece, known = data[:1], _NAMES[data[:1]]
            else:
                piece = _letter(data)
                letter = piece.decode(errors="replace")
                known = letter if letter.isprintable() else None
            self._pending = data[len(piece) :]
            if known is not None:
                yield known


def _letter(data: bytes) -> bytes:
    """The first letter of UTF-8."""
    length = 1 if data[0] < 0xC0 else 2 if data[0] < 0xE0 else 3 if data[0] < 0xF0 else 4
    return data[:length]


@contextmanager
def keys_of_terminal() -> Iterator[Keys]:
    """In this block keys come as they are typed and are not shown. Without a terminal as standard input nothing comes.

    In the main thread only: it takes SIGTERM and SIGHUP, which leave the block by SystemExit, and SIGWINCH.
    """
    descriptor = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    read_end, write_end = os.pipe()
    for end in (read_end, write_end):
        os.set_blocking(end, False)
    before: dict[int, Any] = {}
    mode = _mode(descriptor)
    try:
        before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
        before[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda *_: _wake(write_end))
        _set_mode(descriptor, mode)
        yield Keys(descriptor, read_end)
    finally:
        _restore(descriptor, mode)
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        os.close(read_end)
        os.close(write_end)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _wake(descriptor: int) -> None:
    try:
        os.write(descriptor, b"w")
    except OSError:  # it is full: whoever reads it will wake
        pass


def _mode(descriptor: int | None) -> list[Any] | None:
    if descriptor is None:
        return None
    import termios

    try:
        return termios.tcgetattr(descriptor)
    except termios.error:  # it is gone
        return None


def _set_mode(descriptor: int | None, mode: list[Any] | None) -> None:
    """No echo, no waiting for the end of a line, and no Ctrl-Z, which would leave the screen as it is."""
    if descriptor is None or mode is None:
        return
    import termios

    local, characters = mode[3] & ~(termios.ECHO | termios.ICANON), list(mode[6])
    characters[termios.VMIN], characters[termios.VTIME], characters[termios.VSUSP] = 1, 0, b"\0"
    with suppress(termios.error):
        termios.tcsetattr(descriptor, termios.TCSADRAIN, [*mode[:3], local, *mode[4:6], characters])


def _restore(descriptor: int | None, mode: list[Any] | None) -> None:
    if descriptor is None or mode is None:
        return
    import termios

    with suppress(termios.error):
        termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)
