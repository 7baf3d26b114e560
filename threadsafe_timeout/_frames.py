"""Looking at the frames of other threads, without the deadlock and the crash that has on 3.11.

There an allocation may start the garbage collector, whose callbacks are Python code that may give the GIL away. While
`sys._current_frames()` does so it holds the lock on the list of threads, which a thread that begins or ends waits for
(https://github.com/python/cpython/issues/106883; fixed in 3.11.9 the way it is done here). While `f_back` makes a frame
object, the thread whose frame it is may return from it. From 3.12 on the collector runs between instructions only.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["current_frames", "frames_of_others", "is_installed", "users_frame"]

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


if sys.version_info < (3, 12) and hasattr(os, "register_at_fork"):
    # Before the timer's lock, which is taken inside this one: what is registered last comes first. A child that is
    # forked in the middle of such a block would have no collector, and nobody to give the lock back.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


# Packages that wait on behalf of the code that is of interest, besides the standard library.
_PLUMBING = frozenset({
    "anthropic", "anyio", "h11", "httpcore", "httpcore2", "httpx", "httpx2", "openai", "requests", "threadsafe_timeout",
    "threadsafe_timeout_patches", "urllib3", "wrapt",
})  # fmt: skip
_STANDARD = os.path.dirname(os.__file__) + os.sep  # a string, as co_filename is
_INSTALLED = ("site-packages", "dist-packages")


def _is_standard(filename: str) -> bool:
    return filename.startswith((_STANDARD, "<frozen")) and not _is_in_packages(filename)


def _is_in_packages(filename: str) -> bool:
    return any(directory in filename for directory in _INSTALLED)


def is_installed(filename: str) -> bool:
    """Whether a file is the standard library's or an installed package's: not the program's own."""
    return _is_standard(filename) or _is_in_packages(filename)


def users_frame(frame: FrameType | None) -> tuple[str, int, str] | None:
    """File, line and function of the innermost frame that is neither the standard library's, nor this library's, nor an
    HTTP client's: where the user's code is. The innermost of all if there is none. In `frames_of_others()`."""
    innermost = frame
    while frame is not None:
        code = frame.f_code
        module = frame.f_globals.get("__name__") or ""
        standard = _is_standard(code.co_filename)
        testing = module.startswith("threadsafe_timeout.testing")
        if not standard and (testing or module.partition(".")[0] not in _PLUMBING):
            return code.co_filename, frame.f_lineno, code.co_qualname
        frame = frame.f_back
    if innermost is None:
        return None
    return innermost.f_code.co_filename, innermost.f_lineno, innermost.f_code.co_qualname
