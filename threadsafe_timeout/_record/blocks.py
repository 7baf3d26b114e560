"""The deadlines of blocks that pass, for the files of a run: of one that was left, and of one that goes on for long."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._introspection.frames import place_of_frame
from threadsafe_timeout._introspection.secrets import without_known_secrets
from threadsafe_timeout._pool.telling import thread_position
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import expiry as _expiry
from threadsafe_timeout._timing import clock as _clock

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.scope import CancelScope
    from threadsafe_timeout._text import Place

__all__ = ["Blocks"]


class Blocks:
    """What was taken of them. Used by one thread at a time."""

    def __init__(self) -> None:
        self._open: list[weakref.ref[CancelScope]] = []

    def busy(self) -> bool:
        """Whether one is to be looked at again."""
        return bool(self._open)

    def lines(self) -> Iterator[dict[str, Any]]:
        """What is new, as events."""
        left = _expiry.left_ones
        for one in [left.popleft() for _ in range(len(left))]:
            yield {
                "kind": "scope", "t": one.t, "name": _name(one.name), "elapsed": one.elapsed, "deadline": one.limit,
                "where": one.where,
            }  # fmt: skip
        just = _expiry.open_ones
        self._open += [just.popleft() for _ in range(len(just))]
        waiting, self._open = self._open, []
        for reference in waiting:
            scope = reference()
            if scope is None or scope._state != _around.ACTIVE:
                continue
            if _clock.monotonic() < scope._delivered.cancelled_at + scope._delivered.grace:
                self._open.append(reference)
            else:
                yield _overdue(scope)


def _overdue(scope: CancelScope) -> dict[str, Any]:
    elapsed = _clock.monotonic() - scope._entered_at
    return {
        "kind": "overdue", "t": _clock.wall_time(), "task": _name(scope.name or "a block"), "elapsed": elapsed,
        "reason": "deadline", "where": _where(scope),
    }  # fmt: skip


def _where(scope: CancelScope) -> Place | None:
    frame = scope._frame
    if frame is None:
        return None
    if scope._task_cancellation is not None:  # a coroutine: its thread is somewhere else
        return place_of_frame(frame)
    return thread_position(scope._thread)[0]


def _name(name: str | None) -> str | None:
    return None if name is None else without_known_secrets(name)
