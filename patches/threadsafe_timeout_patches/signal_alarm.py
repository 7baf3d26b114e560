"""SIGALRM off the main thread: every thread has an alarm and a handler of its own. The main thread keeps the real ones.

`signal.signal()` refuses to work in a thread, and an alarm that is set there goes off in the main one. Here a thread's
`alarm()` and `setitimer(ITIMER_REAL)` are its own, and so is what `signal(SIGALRM, …)` sets; return values and
errors are the real ones. A thread that has set no handler has the process's. How and where it runs: see
`threadsafe_timeout._interruption.alarm`.

`SIG_DFL`, which would end the process, is logged; legacy code puts the old handler back before it turns the alarm off.
`wrapt_timeout_decorator` looks which thread it is in before it uses signals: for it, every thread will do.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import threading
from collections.abc import Callable
from operator import index
from types import BuiltinFunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._interruption.main_thread import off_main_thread
from threadsafe_timeout._patching.install import Patching
from threadsafe_timeout._timing import preload as _preload
from threadsafe_timeout_patches._builtin import stand_in
from threadsafe_timeout_patches._waiting import real

if TYPE_CHECKING:
    from threadsafe_timeout._interruption.alarm import Alarm

__all__ = ["MODULES", "SUPPORTED", "apply"]

MODULES = ("signal", "wrapt_timeout_decorator.wrap_helper")
SUPPORTED = {"wrapt-timeout-decorator": ">=1.3.12,<2"}

_ALARM = "threadsafe_timeout._interruption.alarm"
_LONGEST = 9223372036.0  # seconds that the interpreter's own type for durations can hold
_INT_MAX, _UINT_MAX = 2**31 - 1, 2**32 - 1


class _Thread:
    """What SIGALRM is in one thread."""

    def __init__(self) -> None:
        self.handler: Any = None  # None: the process's
        self.alarm: Alarm | None = None

    def set(self, seconds: float, interval: float, handler_of: Callable[[_Thread], Any]) -> tuple[float, float]:
        """Set the alarm (0 seconds: none) and return what was left of the one before, and its interval."""
        before, self.alarm = self.alarm, None
        left = (0.0, 0.0)
        if before is not None:
            left = before.remaining()
            before.unset()
        if seconds:
            if _ALARM not in sys.modules:
                _preload.load(_ALARM)
            from threadsafe_timeout._interruption.alarm import Alarm  # only for a program that sets one

            self.alarm = Alarm(seconds, interval, handler_of(self), before)
        return left

    def __del__(self) -> None:
        # The thread has ended, and its number may be another's soon.
        if self.alarm is not None:
            self.alarm.unset()


class _Local(threading.local):
    def __init__(self) -> None:
        self.thread = _Thread()


def apply(module: ModuleType, patching: Patching) -> None:
    if module.__name__ != "signal":
        patching.replace(module, "is_in_main_thread", lambda: True)
        return
    if not hasattr(module, "SIGALRM"):
        return
    for name, function in _functions(module).items():
        new = stand_in(module, name, function)
        # Some are written in Python, and are bound.
        patching.replace(module, name, new if isinstance(getattr(module, name), BuiltinFunctionType) else new.func)
    patching.on_uninstall(_unset_all)


def _unset_all() -> None:
    alarm = sys.modules.get(_ALARM)
    if alarm is not None:
        alarm.unset_all()


def _functions(module: Any) -> dict[str, Any]:
    """The stand-ins, by name."""
    local, real_getsignal, SIGALRM = _Local(), module.getsignal, int(module.SIGALRM)  # noqa: N806  # its name

    def handler_of(thread: _Thread) -> Any:
        return real_getsignal(SIGALRM) if thread.handler is None else thread.handler

    functions = (*_of_handlers(module, local, handler_of), *_of_timers(module, local, handler_of))
    return {function.__name__: function for function in functions}


def _of_handlers(module: Any, local: _Local, handler_of: Callable[[_Thread], Any]) -> tuple[Callable[..., Any], ...]:
    real_signal, real_getsignal, real_siginterrupt = module.signal, module.getsignal, module.siginterrupt
    SIGALRM = int(module.SIGALRM)  # noqa: N806  # its name

    def signal(signalnum: Any, handler: Any) -> Any:
        if not off_main_thread() or module._enum_to_int(signalnum) != SIGALRM:
            return real_signal(signalnum, handler)
        thread = local.thread
        before = handler_of(thread)
        thread.handler = _checked(module, handler)
        if thread.alarm is not None:
            thread.alarm.handler = thread.handler
        return before

    def getsignal(signalnum: Any) -> Any:
        if not off_main_thread() or not _is(signalnum, SIGALRM):
            return real_getsignal(signalnum)
        return handler_of(local.thread)

    def siginterrupt(signalnum: Any, flag: Any, /) -> None:
        if not off_main_thread() or not _is(signalnum, SIGALRM):
            return real_siginterrupt(signalnum, flag)  # type: ignore[no-any-return]  # None
        index(flag)  # no system call is interrupted by this alarm

    return signal, getsignal, siginterrupt


def _of_timers(module: Any, local: _Local, handler_of: Callable[[_Thread], Any]) -> tuple[Callable[..., Any], ...]:
    real_alarm, real_setitimer, real_getitimer = module.alarm, module.setitimer, module.getitimer
    ITIMER_REAL = module.ITIMER_REAL  # noqa: N806  # its name

    def alarm(seconds: Any, /) -> int:
        if not off_main_thread():
            return real_alarm(seconds)  # type: ignore[no-any-return]  # an int
        whole = index(seconds)
        if not -_INT_MAX - 1 <= whole <= _INT_MAX:
            raise OverflowError("Python int too large to convert to C int")
        left, _ = local.thread.set(whole & _UINT_MAX, 0.0, handler_of)
        # To the nearest second, and never 0 while one was running: what the kernel's does.
        return max(1, int(left + 0.5)) if left else 0

    def setitimer(which: Any, seconds: Any, interval: Any = 0.0, /) -> tuple[float, float]:
        if not off_main_thread() or not _is(which, ITIMER_REAL):
            return real_setitimer(which, seconds, interval)  # type: ignore[no-any-return]  # a tuple
        first, next_ones = _seconds(seconds), _seconds(interval)
        if first < 0 or next_ones < 0:
            raise module.ItimerError(errno.EINVAL, os.strerror(errno.EINVAL))
        return local.thread.set(first, next_ones, handler_of)

    def getitimer(which: Any, /) -> tuple[float, float]:
        if not off_main_thread() or not _is(which, ITIMER_REAL):
            return real_getitimer(which)  # type: ignore[no-any-return]  # a tuple
        alarm = local.thread.alarm
        return (0.0, 0.0) if alarm is None else alarm.remaining()

    return alarm, setitimer, getitimer


def _is(given: Any, number: int) -> bool:
    try:
        return index(given) == number
    except TypeError:
        return False  # the original says what is wrong with it


def _checked(module: Any, handler: Any) -> Any:
    handler = module._int_to_enum(module._enum_to_int(handler), module.Handlers)
    if callable(handler) or handler in (module.SIG_DFL, module.SIG_IGN):
        return handler
    raise TypeError("signal handler must be signal.SIG_IGN, signal.SIG_DFL, or a callable object")


def _seconds(value: Any) -> float:
    """A duration, in microseconds' steps, with the errors of the interpreter's own conversion."""
    seconds = real(value)
    if math.isnan(seconds):
        raise ValueError("Invalid value NaN (not a number)")
    if not -_LONGEST <= seconds <= _LONGEST:
        raise OverflowError("timestamp out of range for platform time_t")
    return math.ceil(seconds * 1e6) / 1e6
