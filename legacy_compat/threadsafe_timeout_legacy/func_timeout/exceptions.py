"""What func_timeout.exceptions offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["RETRY_SAME_TIMEOUT", "FunctionTimedOut"]

RETRY_SAME_TIMEOUT = "RETRY_SAME_TIMEOUT"


class FunctionTimedOut(BaseException):  # func_timeout's name; a BaseException there too
    """A function did not return in time. `retry()` calls it again."""

    def __init__(
        self,
        msg: str = "",
        timedOutAfter: float | None = None,  # noqa: N803  # func_timeout's name
        timedOutFunction: Callable[..., Any] | None = None,  # noqa: N803  # func_timeout's name
        timedOutArgs: Sequence[Any] | None = None,  # noqa: N803  # func_timeout's name
        timedOutKwargs: Mapping[str, Any] | None = None,  # noqa: N803  # func_timeout's name
    ) -> None:
        self.timedOutAfter = timedOutAfter
        self.timedOutFunction = timedOutFunction
        self.timedOutArgs = timedOutArgs
        self.timedOutKwargs = timedOutKwargs
        self.msg = msg or self.getMsg()
        super().__init__(self.msg)

    def getMsg(self) -> str:  # noqa: N802  # func_timeout's name
        """What str() says."""
        name = getattr(self.timedOutFunction, "__name__", "Unknown Function")
        after = "Unknown" if self.timedOutAfter is None else f"{self.timedOutAfter:f}"
        return (
            f"Function {name} (args={self.timedOutArgs!r}) (kwargs={self.timedOutKwargs!r}) "
            f"timed out after {after} seconds.\n"
        )

    def retry(self, timeout: float | str | None = RETRY_SAME_TIMEOUT) -> Any:
        """Call the function again: with the same timeout, with another one (seconds), or with none (None)."""
        from threadsafe_timeout_legacy.func_timeout.dafunc import func_timeout

        if self.timedOutFunction is None:
            raise ValueError("this exception does not say which function timed out, so there is nothing to retry")
        args, kwargs = tuple(self.timedOutArgs or ()), dict(self.timedOutKwargs or {})
        if timeout is None:
            return self.timedOutFunction(*args, **kwargs)
        seconds = self.timedOutAfter if timeout == RETRY_SAME_TIMEOUT else float(timeout)
        return func_timeout(seconds, self.timedOutFunction, args=args, kwargs=kwargs)
