"""The signal upon which faulthandler writes all stacks, and where they go.

That needs no GIL, so it works while a call of C holds it, when nothing written in Python can answer. Of those that want
the stacks, the supervisor of the program comes first, then the files of the run, then standard error.

Not guaranteed: a call of C that a signal interrupts, and that is not made again, ends early (`sleep()` called through
ctypes). Python's own calls are made again. faulthandler shows 100 threads at most, the newest.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import threading
from typing import Literal

__all__ = ["SIGNAL", "Target", "destination", "direct", "in_force", "undirect"]

# What the system does with it by default is nothing: one that is sent to the wrong process ends no process.
SIGNAL: int | None = getattr(signal, "SIGURG", None)

Target = Literal["supervisor", "run", "stderr"]
_ORDER: tuple[Target, ...] = ("supervisor", "run", "stderr")
_lock = threading.Lock()
_targets: dict[Target, int] = {}  # descriptors, which faulthandler writes to; guarded by _lock


def direct(target: Target, descriptor: int) -> bool:
    """Have the stacks written there from now on, unless another target comes first. False if that cannot be: the
    program handles the signal, or the system has none."""
    with _lock:
        if SIGNAL is None or (not _python_leaves_it(SIGNAL) if _targets else _handled(SIGNAL)):
            return False
        before = _targets.get(target)
        _targets[target] = descriptor
        try:
            _register(SIGNAL)
        except (OSError, RuntimeError, ValueError):  # not in this interpreter
            if before is None:
                del _targets[target]
            else:
                _targets[target] = before
            return False
        return True


def undirect(target: Target) -> None:
    """Take that back. The descriptor may be closed then."""
    with _lock:
        # What the program has put in its place meanwhile would be taken away with it.
        if _targets.pop(target, None) is not None and SIGNAL is not None and _python_leaves_it(SIGNAL):
            if _targets:
                _register(SIGNAL)
            else:
                faulthandler.unregister(SIGNAL)


def in_force() -> bool:
    """Whether the signal has the stacks written. (The program may have taken it for itself.)"""
    return SIGNAL is not None and bool(_targets) and _python_leaves_it(SIGNAL)


def destination() -> Target | None:
    """Where they are written."""
    return next((target for target in _ORDER if target in _targets), None) if in_force() else None


def _register(number: int) -> None:
    descriptor = next(_targets[target] for target in _ORDER if target in _targets)
    faulthandler.register(number, file=descriptor, all_threads=True, chain=False)


def _python_leaves_it(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_DFL


def _handled(number: int) -> bool:
    """Whether the program, or a library of it, written in Python or not, handles a signal or ignores it."""
    if not _python_leaves_it(number):
        return True
    try:
        with open("/proc/self/status", "rb") as status:
            fields = dict(line.split(b":", 1) for line in status if b":" in line)
        return any(int(fields[name], 16) >> (number - 1) & 1 for name in (b"SigCgt", b"SigIgn"))
    except (OSError, KeyError, ValueError):  # no /proc: what Python knows has to do
        return False


def _new_lock() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that is not there any more may have held the old one


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)
