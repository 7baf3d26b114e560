"""What func_timeout.dafunc offers."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from threadsafe_timeout._errors import Cancelled
from threadsafe_timeout._introspection.names import name_of
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout_legacy.func_timeout.exceptions import FunctionTimedOut
from threadsafe_timeout_legacy.func_timeout.StoppableThread import StoppableThread

__all__ = ["func_set_timeout", "func_timeout"]

F = TypeVar("F", bound=Callable[..., Any])


class _Call:
    """One call in its own thread."""

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._call = functools.partial(function, *args, **kwargs)
        self.scope = _scope.CancelScope(name=name_of(function, args))
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = False
        self._woken = threading.Lock()
        self._woken.acquire()
        self._guard = threading.Lock()  # a lock may be released once only, and two may want to

    def run(self) -> None:
        try:
            with self.scope:
                self.result = self._call()
            self.ended = not self.scope.cancelled_caught
        except Cancelled:
            pass  # a scope around the caller, who hears of it by himself
        except BaseException as error:
            self.error = error
            self.ended = True
        finally:
            self.wake()

    def wake(self) -> None:
        with self._guard:
            if self._woken.locked():
                self._woken.release()

    def wait(self, seconds: float | None) -> None:
        """Until it has ended, a scope around is cancelled, or the time is up."""
        registration = _registration.on_cancel(self.wake)
        try:
            _clock.wait(self._woken, seconds)
        finally:
            registration.unregister()


def func_timeout(
    timeout: float | None,
    func: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Return what `func` returns, or raise `FunctionTimedOut` after `timeout` seconds (None: never)."""
    args, kwargs = args or (), kwargs or {}
    call = _Call(func, args, kwargs)
    thread = StoppableThread(target=contextvars.copy_context().run, args=(call.run,), daemon=True)
    thread.start()
    call.wait(None if timeout is None else max(0.0, timeout))
    if call.ended:
        thread.join()
        if call.error is not None:
            try:
                raise call.error
            finally:
                call.error = None  # its traceback refers to this frame
        return call.result
    _around.raise_if_cancelled()
    call.scope.cancel("func_timeout")
    call.wait(min(0.1, (timeout or 0.0) / 50))  # a function that gives in at once is not left running
    raise FunctionTimedOut("", timeout, func, args, kwargs)


def func_set_timeout(
    timeout: float | Callable[..., float],
    allowOverride: bool = False,  # noqa: N803  # func_timeout's name
) -> Callable[[F], F]:
    """Decorator: every call gets `timeout` seconds, or what `timeout(*args, **kwargs)` returns.

    With `allowOverride` a call may be given another limit as `forceTimeout=seconds`.
    """
    if not callable(timeout):
        try:
            timeout = float(timeout)
        except (TypeError, ValueError):
            raise ValueError(
                f"timeout must be a number of seconds, or a function of the arguments that returns one; got {timeout!r}"
            ) from None

    def decorate(func: F) -> F:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if allowOverride and "forceTimeout" in kwargs:
                seconds = kwargs.pop("forceTimeout")
            else:
                seconds = timeout(*args, **kwargs) if callable(timeout) else timeout
            return func_timeout(seconds, func, args=args, kwargs=kwargs)

        return wrapper  # type: ignore[return-value]  # the same signature, and forceTimeout

    return decorate
