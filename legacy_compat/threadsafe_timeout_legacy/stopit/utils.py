"""What stopit.utils offers: the exception, and the base of the context managers and decorators."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from threadsafe_timeout._errors import DeadlineExceeded, ThreadsafeTimeoutError
from threadsafe_timeout._scopes.deadlines import deadline

__all__ = ["LOG", "BaseTimeout", "TimeoutException", "base_timeoutable"]

LOG = logging.getLogger("stopit")
LOG.addHandler(logging.NullHandler())

F = TypeVar("F", bound=Callable[..., Any])


class TimeoutException(ThreadsafeTimeoutError, TimeoutError):  # stopit's name
    """The block took longer than it was allowed to."""


class BaseTimeout:
    """Limits how long a block may take, in seconds.

    With `swallow_exc=False` the block's edge raises `TimeoutException`; otherwise look at `state` (the object is false
    if the block was stopped).
    """

    EXECUTED, EXECUTING, TIMED_OUT, INTERRUPTED, CANCELED = range(5)

    def __init__(self, seconds: float, swallow_exc: bool = True) -> None:
        self.seconds = seconds
        self.swallow_exc = swallow_exc
        self.state = self.EXECUTED
        self._scope = deadline(None)

    def __bool__(self) -> bool:
        return self.state in (self.EXECUTED, self.EXECUTING, self.CANCELED)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in state: {self.state}>"

    def _limit(self) -> float | None:
        return self.seconds

    def __enter__(self) -> Self:
        self.state = self.EXECUTING
        self._scope = deadline(self._limit(), name=type(self).__name__)
        self._scope.__enter__(sys._getframe(1))  # the block's frame, where the interrupt may appear
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            self._scope.__exit__(kind, exc, traceback)
        except DeadlineExceeded as missed:
            self.state = self.TIMED_OUT
            LOG.warning("Code block execution exceeded %s seconds timeout", self.seconds, exc_info=exc)
            if self.swallow_exc:
                return True
            raise TimeoutException(str(missed)) from missed
        if kind is None:
            self.state = self.EXECUTED
        elif issubclass(kind, TimeoutException):
            self.state = self.INTERRUPTED
            LOG.warning("Code block execution exceeded %s seconds timeout", self.seconds, exc_info=exc)
            return self.swallow_exc
        return False

    def cancel(self) -> None:
        """The rest of the block may take as long as it likes."""
        self.state = self.CANCELED
        self._scope.deadline = float("inf")


class base_timeoutable:  # noqa: N801  # stopit's name
    """Decorator: a call given `timeout=seconds` returns `default` if it takes longer."""

    to_ctx_mgr: type[BaseTimeout] = BaseTimeout

    def __init__(self, default: Any = None, timeout_param: str = "timeout") -> None:
        self.default = default
        self.timeout_param = timeout_param

    def __call__(self, func: F) -> F:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            timeout = kwargs.pop(self.timeout_param, None)
            if not timeout:
                return func(*args, **kwargs)
            result = self.default
            with self.to_ctx_mgr(timeout, swallow_exc=True):
                result = func(*args, **kwargs)
            return result

        return wrapper  # type: ignore[return-value]  # the same signature, and the timeout parameter
