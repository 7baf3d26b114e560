"""What stopit.threadstop offers."""

from __future__ import annotations

import ctypes

from threadsafe_timeout_legacy.stopit.utils import BaseTimeout, base_timeoutable

__all__ = ["ThreadingTimeout", "async_raise", "threading_timeoutable"]


def async_raise(target_tid: int, exception: type[BaseException]) -> None:
    """Post `exception` (a class) to the thread with that ident, to appear wherever it happens to be.

    As unsafe as it always was: it may skip a `finally` or leave a lock held. To stop a thread cleanly, cancel the scope
    it is in. Raises ValueError if there is no such thread.
    """
    post = ctypes.pythonapi.PyThreadState_SetAsyncExc
    posted = post(ctypes.c_ulong(target_tid), ctypes.py_object(exception))
    if posted == 0:
        raise ValueError(f"Invalid thread ID {target_tid}")
    if posted > 1:
        post(ctypes.c_ulong(target_tid), None)
        raise SystemError("PyThreadState_SetAsyncExc failed")


class ThreadingTimeout(BaseTimeout):
    """Limits how long a block may take, in any thread."""


class threading_timeoutable(base_timeoutable):  # noqa: N801  # stopit's name
    """Decorator: a call given `timeout=seconds` returns `default` if it takes longer."""

    to_ctx_mgr = ThreadingTimeout
