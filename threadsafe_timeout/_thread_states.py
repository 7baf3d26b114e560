"""Where each thread's `PyThreadState` is (3.11 only: `_interrupt_trace` writes the trace hook into it).

A state belongs to its thread and is freed when that ends, and the interpreter's list of them cannot be walked safely
from Python: the GIL may change hands between two steps. So each thread tells its own when it first enters a scope, and
takes it back, under `lock`, from the finaliser of its thread-local storage, which runs before the state is freed. Who
holds `lock` and finds a thread in `states` may use its state.
"""

from __future__ import annotations

import threading
from threading import get_ident
from typing import Any

__all__ = ["ThisThread", "lock", "states"]

lock = threading.RLock()
states: dict[int, int] = {}  # thread ident -> address; guarded by lock


class _Entry:
    """Lives as long as its thread does."""

    def __init__(self) -> None:
        import ctypes

        this: Any = ctypes.PyDLL(None).PyThreadState_Get  # called with the GIL held
        this.restype = ctypes.c_void_p
        self._ident = get_ident()
        with lock:
            states[self._ident] = this()

    def __del__(self, lock: Any = lock, states: dict[int, int] = states) -> None:  # bound early: it may run at exit
        with lock:
            states.pop(self._ident, None)


class ThisThread(threading.local):
    """`here` exists in a thread from its first use on."""

    def __init__(self) -> None:
        self.here = _Entry()
