"""Looking at the frames of other threads, without the deadlock and the crash that has on 3.11.

There an allocation may start the garbage collector, whose callbacks are Python code that may give the GIL away. While
`sys._current_frames()` does so it holds the lock on the list of threads, which a thread that begins or ends waits for
(https://github.com/python/cpython/issues/106883; fixed in 3.11.9 the way it is done here). While `f_back` makes a frame
object, the thread whose frame it is may return from it. From 3.12 on the collector runs between instructions only.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["current_frames", "frames_of_others"]

_lock = threading.RLock()  # one at a time: a second would find the collector disabled, and enabled under its hands


@contextmanager
def frames_of_others() -> Iterator[None]:
    """In this block `f_back` of another thread's frame may be used, and `current_frames()`."""
    if sys.version_info >= (3, 12):
        yield
        return
    with _lock:
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()


def current_frames() -> dict[int, FrameType]:
    """The top frame of each thread, by its ident."""
    with frames_of_others():
        return sys._current_frames()
