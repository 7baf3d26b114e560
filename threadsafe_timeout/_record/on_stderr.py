"""Whether a line is to be seen on stderr, and putting it there."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

__all__ = ["heard", "is_terminal", "put", "say"]

_LOCK_WAIT = 1.0  # seconds that a line waits for a bar

# Handlers whose lines nobody sees on the terminal. (What others do with theirs is not known: taken to be seen.)
_ELSEWHERE = {
    "DatagramHandler", "FileHandler", "HTTPHandler", "NTEventLogHandler", "NullHandler", "SMTPHandler", "SocketHandler",
    "SysLogHandler",
}  # fmt: skip


def say(logger: logging.Logger, text: str, how: str, event: str = "summary") -> None:
    """Log it at INFO. Where that does not show it on stderr, put it there: if `how` is `on`, or on a terminal, unless
    the program wants nothing below a warning of this logger."""
    logged = logger.isEnabledFor(logging.INFO)
    if logged:
        logger.info("%s", text, extra={"event": event})
    if _wanted(logger, how) and not (logged and _shown(logger)):
        put(text)


def put(text: str) -> None:
    """Write a line to stderr, above the bars that the program's tqdm draws there."""
    with contextlib.ExitStack() as stack:
        above = _make_room(stack)
        with contextlib.suppress(OSError, ValueError):  # closed, or the terminal is gone
            sys.stderr.write(f"{above}{text}\n")  # one write: no other thread's output comes between
            sys.stderr.flush()


def _make_room(stack: contextlib.ExitStack) -> str:
    """Have tqdm's bars out of the way until `stack` is left; what is to be written before the line."""
    tqdm = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    if not getattr(tqdm, "_instances", None):
        return ""
    assert tqdm is not None
    try:
        lock = tqdm.get_lock()
        for one in getattr(lock, "locks", (lock,)):
            if not one.acquire(timeout=_LOCK_WAIT):  # a thread that was given up may hold it for ever
                return "\n"
            stack.callback(one.release)
        stack.enter_context(tqdm.external_write_mode(sys.stderr, nolock=True))
    except Exception:  # another kind of lock, a bar that fails to draw
        return "\n"
    return ""


def is_terminal(stream: Any) -> bool:
    """Whether what is written to it is seen by somebody at once."""
    try:
        return bool(stream.isatty())
    except Exception:  # closed, or it has no such method
        return False


def heard(logger: logging.Logger, how: str) -> bool:
    """Whether anybody would see such a line."""
    return logger.isEnabledFor(logging.INFO) or _wanted(logger, how)


def _wanted(logger: logging.Logger, how: str) -> bool:
    if sys.stderr is None:
        return False
    return how == "on" or (logger.level <= logging.INFO and is_terminal(sys.stderr))


def _shown(logger: logging.Logger) -> bool:
    one: logging.Logger | None = logger
    while one is not None:
        if any(handler.level <= logging.INFO and _shows(handler) for handler in one.handlers):
            return True
        one = one.parent if one.propagate else None
    return False


def _shows(handler: logging.Handler) -> bool:
    stream = getattr(handler, "stream", None)
    if stream is not None:
        return stream in (sys.stderr, sys.__stderr__) or is_terminal(stream)
    kinds = {cls.__name__ for cls in type(handler).__mro__ if cls.__module__ in ("logging", "logging.handlers")}
    return not kinds & _ELSEWHERE
