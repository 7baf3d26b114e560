"""A task's deadline that the task's own handlers can catch: raised inside it once, as an ordinary `DeadlineExceeded`.

`executor.map` and its like raise the first error they meet, and the other results are gone. The function that they call
often has an `except Exception` that makes a record of whatever goes wrong; a `BaseException` passes by it. So a task of
theirs meets its deadline first as a `TimeoutError`, and only from its next call on as `Cancelled`.

Libraries have handlers too. An HTTP client that retries what times out would eat it. So inside a `library_call` it is
`Cancelled` that is raised, and becomes the `DeadlineExceeded` where the outermost of those calls ends.
"""

from __future__ import annotations

import threading
from types import TracebackType

from threadsafe_timeout._errors import Cancelled, DeadlineExceeded

__all__ = ["CANCELLED", "in_library", "library_call"]

CANCELLED = (Cancelled, DeadlineExceeded)  # what a wait in a cancelled scope raises


class _Here(threading.local):
    depth = 0


_here = _Here()


def in_library() -> bool:
    """Whether this thread is inside a `library_call`."""
    return _here.depth > 0


class library_call:  # noqa: N801  # used like a function
    """Around a call into a library that handles errors by itself, such as a client that retries."""

    __slots__ = ()

    def __enter__(self) -> None:
        _here.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _here.depth -= 1
        if exc is not None and isinstance(exc, Cancelled) and not _here.depth:
            softened = exc.scope._soften(exc)
            if softened is not None:
                raise softened from exc
