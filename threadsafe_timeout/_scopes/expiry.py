"""Deadlines of blocks that have passed, for whoever records them. Nothing is done for a deadline that is met.

A pool's task tells of its own deadline itself; alarms are the program's. The rest is kept here until it is taken.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Callable

from threadsafe_timeout._introspection.places import place_of
from threadsafe_timeout._text import Place
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["Left", "begun", "expired", "hear", "left", "left_ones", "listen", "open_ones", "passed"]

_MOST = 200  # of a kind, until they are taken


class Left:
    """A block that was left after its deadline: when, its name, how long it took, what it had, where it was found."""

    __slots__ = ("elapsed", "limit", "name", "t", "where")

    def __init__(self, scope: CancelScope, where: Place | None) -> None:
        self.t = _clock.wall_time()
        self.name = scope.name
        self.elapsed = _clock.monotonic() - scope._entered_at
        self.limit = scope._budget
        self.where = where


hear: Callable[[], object] | None = None  # called when there is something to take; None: nobody wants to know
count = 0  # of those that were left since somebody wanted to know for the first time
first = 0  # how many there were when the present one began to
# Each step with these is one call of C:
open_ones: deque[weakref.ref[CancelScope]] = deque(maxlen=_MOST)  # those whose deadline has passed just now
left_ones: deque[Left] = deque()


def listen(wake: Callable[[], object] | None) -> None:
    """Have it called when there is something to take; None: nobody wants to know."""
    global hear, first
    if hear is None and wake is not None:
        first = count
        _clear()
    hear = wake


def passed(before: int | None = None) -> int:
    """How many were left after their deadline since there were `before`; by default, since `first`."""
    return count - (first if before is None else before)


def begun() -> int:
    """How many there were when somebody began to want to know: now, if nobody does."""
    return count if hear is None else first


def expired(scope: CancelScope) -> None:
    """Its deadline has passed, and its block goes on. Called by any thread."""
    if hear is not None and not _tells_itself(scope):
        open_ones.append(weakref.ref(scope))
        hear()


def left(scope: CancelScope, exc: BaseException | None) -> None:
    """Its block was left after that."""
    global count
    if hear is None or scope._reason != "deadline" or _tells_itself(scope):
        return
    count += 1
    if len(left_ones) >= _MOST:
        return
    left_ones.append(Left(scope, place_of(exc) or scope._delivered.place()))
    hear()


def _tells_itself(scope: CancelScope) -> bool:
    return scope._of_task or scope._through_coroutines or scope._once


def _in_child() -> None:
    """A forked child does not record what its parent does."""
    listen(None)
    _clear()


def _clear() -> None:
    open_ones.clear()
    left_ones.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
