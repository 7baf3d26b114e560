"""A timer of the system that sends a thread a signal, unless it is set again in time.

It needs no GIL, no thread and no process, and it is nobody else's: faulthandler's `dump_traceback_later` has one timer
for the process, which belongs to the program (pytest's `faulthandler_timeout` uses it), and cannot be asked whether it
runs. The signal goes to one thread, ours, so that it interrupts no call of the program's.

On 64-bit Linux only. A forked child does not have it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

__all__ = ["KernelTimer"]

_CLOCK_MONOTONIC = 1
_SIGEV_THREAD_ID = 4


class _SigEvent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p), ("signo", ctypes.c_int), ("notify", ctypes.c_int), ("thread", ctypes.c_int),
        ("rest", ctypes.c_char * 64),
    )  # fmt: skip


class _Times(ctypes.Structure):
    """`struct itimerspec`: once, after so long."""

    _fields_ = (
        ("every_seconds", ctypes.c_long), ("every_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long),
    )  # fmt: skip


class KernelTimer:
    """Raises OSError if there can be none."""

    def __init__(self, number: int, thread: int) -> None:
        """Send the signal `number` to the thread with the native id `thread`."""
        if sys.platform != "linux" or ctypes.sizeof(ctypes.c_void_p) != 8:
            raise OSError("no such timers here")
        self._c = _library()
        self._id = ctypes.c_void_p()
        event = _SigEvent(None, number, _SIGEV_THREAD_ID, thread)
        if self._c.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._id)):
            raise OSError(ctypes.get_errno(), "timer_create")

    def set(self, seconds: float) -> None:
        """Have it go off after so many seconds, and not before; 0: not at all."""
        whole = int(seconds)
        times = _Times(0, 0, whole, int((seconds - whole) * 1e9))
        self._c.timer_settime(self._id, 0, ctypes.byref(times), None)

    def delete(self) -> None:
        self._c.timer_delete(self._id)


def _library() -> Any:
    c = ctypes.CDLL(None, use_errno=True)
    if not hasattr(c, "timer_create"):  # before glibc 2.34
        c = ctypes.CDLL("librt.so.1", use_errno=True)
    c.timer_settime.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    c.timer_delete.argtypes = [ctypes.c_void_p]
    return c
