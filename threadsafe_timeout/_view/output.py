"""Standard output of a command: lines that any terminal can show, and an end without a word if nobody reads on."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable

from threadsafe_timeout._text import escaped

__all__ = ["only_ascii", "quiet_if_closed", "say"]


def say(lines: Iterable[str]) -> None:
    """Lines on standard output, with what it cannot show escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        sys.stdout.write(escaped(line).encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


def only_ascii() -> bool:
    """Whether standard output cannot show bars."""
    try:
        "▁█".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return True
    return False


def quiet_if_closed(command: Callable[[], int]) -> int:
    """The exit status of `command`; 1 if standard output was closed meanwhile (`| head`)."""
    try:
        status = command()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
