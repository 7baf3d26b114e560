"""Whether this is the main thread, the one in which the real signal handlers run.

Apart from `alarm`, which takes far longer to load: most programs patch `signal` and set no alarm in another thread.
"""

from __future__ import annotations

import os
import threading
from threading import get_ident

__all__ = ["off_main_thread"]

_main = threading.main_thread().ident  # changed by a fork only


def off_main_thread() -> bool:
    """Whether the real signal handlers cannot run in this thread."""
    return get_ident() != _main


def _after_fork_in_child() -> None:
    """The thread that forked is the child's main thread."""
    global _main
    _main = get_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
