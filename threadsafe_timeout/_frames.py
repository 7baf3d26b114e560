"""`sys._current_frames()`, without the deadlock it has on 3.11.

There it allocates while it holds the lock on the list of threads. An allocation may start the garbage collector, whose
callbacks are Python code that may give the GIL away, to a thread that wants that lock to begin or to end
(https://github.com/python/cpython/issues/106883; fixed in 3.11.9 the way it is done here). From 3.12 on the collector
runs between instructions only.
"""

from __future__ import annotations

import gc
import sys
import threading
from types import FrameType

__all__ = ["current_frames"]

_lock = threading.Lock()  # one at a time: the second would find the collector disabled, and enabled under its hands


def _without_collector() -> dict[int, FrameType]:
    with _lock:
        enabled = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if enabled:
                gc.enable()


current_frames = _without_collector if sys.version_info < (3, 12) else sys._current_frames
