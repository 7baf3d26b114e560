"""Where in the program an error came from. Only strings and numbers are kept: no frame, and so no variable, lives
longer because somebody wants to know."""

from __future__ import annotations

from threadsafe_timeout._errors import Cancelled, DeadlineExceeded
from threadsafe_timeout._introspection.frames import users_place
from threadsafe_timeout._text import Place

__all__ = ["place_of"]


def place_of(error: BaseException | None) -> Place | None:
    """File, line and function of the program's code that raised `error`, or that its deadline found at work; None if
    that is not known. Of a group, that of the first member that tells of a cancellation, else of the first."""
    while isinstance(error, BaseExceptionGroup):
        cancelled = error.subgroup(Cancelled)
        error = (cancelled or error).exceptions[0]
    if isinstance(error, DeadlineExceeded):
        return error.where  # its traceback may be of somebody who waited for it
    if isinstance(error, Cancelled) and error._where is not None:
        return error._where
    return users_place(error.__traceback__) if error is not None else None
