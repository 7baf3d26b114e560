"""How much time the code that runs has left."""

from __future__ import annotations

import math

from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._scopes.around import DONE, chain, current, hidden_task, workers
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["current_deadline", "time_remaining"]
# Not by the name that is imported: from 3.12 on, calling a method of that makes a bound method each time.
_current = current


def current_deadline() -> float:
    """The earliest deadline of the enclosing scopes, in monotonic seconds.

    `inf` if there is none, `-inf` if one of the scopes is cancelled.
    """
    scope = _current.get()
    if scope is None and not workers:
        return math.inf
    earliest = _earliest(scope)
    if workers:
        earliest = min(earliest, _earliest(hidden_task()))
    return earliest if earliest != -math.inf else _earliest_in_clean_up()


def time_remaining() -> float:
    """Seconds until the earliest deadline of the enclosing scopes.

    `inf` if there is none, 0 if it has passed or a scope is cancelled.
    """
    earliest = current_deadline()
    return earliest if earliest == math.inf else max(0.0, earliest - _clock.monotonic())


def _earliest_in_clean_up() -> float:
    scopes = chain()
    evidence = _clean_up.evidence(scopes)
    if evidence is None:
        return -math.inf
    earliest = math.inf
    for scope in scopes:
        if scope._cancelled:
            earliest = min(earliest, evidence.keeps_out_until(scope))
        elif scope._state is not DONE and not evidence.precedes(scope):
            earliest = min(earliest, scope._deadline)
    return earliest if earliest > _clock.monotonic() else -math.inf


def _earliest(scope: CancelScope | None) -> float:
    earliest = math.inf
    while scope is not None:
        if scope._cancelled:
            return -math.inf
        if scope._state is not DONE and scope._deadline < earliest:
            earliest = scope._deadline
        if scope._shield_until > -math.inf and scope._shield_until > _clock.monotonic():
            # What is outside comes through when the shield is lowered, not before.
            return min(earliest, max(scope._shield_until, _earliest(scope._parent)))
        scope = scope._parent
    return earliest
