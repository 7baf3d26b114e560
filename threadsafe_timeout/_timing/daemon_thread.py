"""A daemon thread whose beginning and end are noticed, whatever is thrown at it.

Other libraries' `PyThreadState_SetAsyncExc` names a thread by its ident, and the system gives the ident of a thread
that has ended to the next one. So what is thrown too late may strike a thread that has not run a line of its own, in
the standard library's code. A standard thread that is struck there leaves who started it waiting for ever.

Not guaranteed: what strikes in the Python code of `threading.Condition` or `Event` leaves their locks held.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from _thread import LockType
from collections.abc import Callable
from contextvars import Context

from threadsafe_timeout._typing import Any

__all__ = ["DaemonThread", "acquire", "in_pieces", "is_ours", "join", "release", "threads_inherit"]

_PIECES = 10  # of a wait for another thread
_TAKES_CONTEXT = sys.version_info >= (3, 14)


def threads_inherit() -> bool:
    """Whether a thread begins in a copy of the context it was started in (`thread_inherit_context`, since 3.14)."""
    return bool(getattr(sys.flags, "thread_inherit_context", False))


def is_ours(thread: threading.Thread) -> bool:
    """Whether it is one of the library's own for the whole process, which runs nothing of the program's."""
    return thread.name.startswith("threadsafe-timeout-")


def release(lock: LockType) -> None:
    """Wake the thread that waits for `lock`, if nothing has. Without a look first: another may be doing the same."""
    try:
        lock.release()
    except RuntimeError:
        pass


def acquire(lock: LockType, seconds: float) -> bool:
    """Take a lock that another thread holds for a moment, unless it hangs; False if it does."""
    return in_pieces(lambda piece: lock.acquire(timeout=piece), seconds)


def join(thread: threading.Thread, seconds: float) -> None:
    """Wait for the end of a thread, unless it hangs. Raises RuntimeError if it was not started."""
    in_pieces(lambda piece: thread.join(piece) or not thread.is_alive(), seconds)  # type: ignore[func-returns-value]


def in_pieces(wait: Callable[[float], bool], seconds: float) -> bool:
    """Wait for another thread with `wait(seconds)`, which says whether it came; False if it never did.

    When the whole machine stands still, only one piece is over at once when it goes on, and the other thread has the
    rest to move on.
    """
    return any(wait(seconds / _PIECES) for _ in range(_PIECES))


class _Begun(threading.Event):
    """A thread's "I am here", which who starts it waits for; in C, where the standard one is made of Python code."""

    def __init__(self) -> None:
        self._said = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def is_set(self) -> bool:
        return self._said

    def set(self) -> None:
        self._said = True
        self.open()

    def open(self) -> None:
        """Let go who waits. A thread that never said it is, for `is_alive` and `join`, one that was not started."""
        release(self._gate)

    def wait(self, timeout: float | None = None) -> bool:
        begun = self._gate.acquire(timeout=-1 if timeout is None else timeout)
        if begun:
            self.open()  # for the next; the thread's end may have done it meanwhile
        return begun

    def _at_fork_reinit(self) -> None:
        pass  # one that has begun is done with it, and one that has not is not there in a child


class _Last:
    """What a thread lets go of last of all."""

    __slots__ = ("_begun", "_gone", "_thread")

    def __init__(self, thread: DaemonThread, begun: _Begun, gone: Callable[[], object]) -> None:
        self._thread = weakref.ref(thread)
        self._begun = begun
        self._gone = gone

    def __del__(self) -> None:
        self._begun.open()
        thread = self._thread()
        if thread is not None and thread._starter != threading.get_ident():  # else it was not to be had
            # Where it stays listed for ever if it was struck before it had moved on.
            threading._limbo.pop(thread, None)  # type: ignore[attr-defined]
        self._gone()


# By then the thread is off the list. A debugger that asks which thread runs this would put a dummy there, for
# good; so it is called what pydevd knows, by file and name, for the beginning and the end of a thread.
_Last.__del__.__code__ = _Last.__del__.__code__.replace(co_filename=threading.__file__, co_name="_bootstrap")


class DaemonThread(threading.Thread):
    """A daemon that runs `target`. When it has ended, or could not be started, it calls `gone`, at least once: it must
    be quick and not mind being called again, or being cut short by something thrown at this thread."""

    # What is replaced of the standard class is private, and has been the same since 3.0.

    def __init__(self, target: Callable[[], object], name: str, gone: Callable[[], object] = lambda: None) -> None:
        # It serves the whole process. With thread_inherit_context the scope it happens to begin in would bind it.
        outside: dict[str, Any] = {"context": Context()} if _TAKES_CONTEXT else {}
        super().__init__(target=target, name=name, daemon=True, **outside)
        self._starter = threading.get_ident()
        self._started = _Begun()
        # More than one: what strikes in a finaliser is swallowed, and the rest of it with that.
        self._last: Any = [_Last(self, self._started, gone) for _ in range(4)]

    @property
    def _bootstrap(self) -> Callable[[], object]:
        """What `start` has the new thread call. The interpreter lets go of it, in C, when the thread has ended;
        arguments and attributes of a thread stay if something strikes before its `run`."""
        begin = functools.partial(super()._bootstrap)  # type: ignore[misc]  # not in typeshed
        # A debugger that sees a thread begin asks, as of the bound method that this stands for, whose it is.
        begin.__dict__.update(last=self._last, __self__=self, __module__=threading.__name__, __name__="_bootstrap")
        self._last = None
        return begin

    def start(self) -> None:
        self._starter = threading.get_ident()
        super().start()
