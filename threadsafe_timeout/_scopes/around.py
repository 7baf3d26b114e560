"""The scopes around the code that runs: which they are, and whether one of them is cancelled.

A cancellation is met here, in the thread that it is for. Every cooperative point and every patched call asks
`cancelled_scope()` or has `raise_if_cancelled()` raise, which walk outwards from the innermost scope:

- up to the nearest shield that is still up;
- to the *outermost* scope that is cancelled. Unwinding that far is what all of them ask for;
- not to one that this thread cleans up after (see `clean_up`), as long as that has its grace.

Where the walk begins is the context's innermost scope, `current`. A pool's thread is in the scope of its task as well,
whatever its context says. Nothing here takes a lock, but to cancel a scope whose deadline is found to have passed.
"""

from __future__ import annotations

import math
from contextvars import Context, ContextVar
from threading import get_ident

from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = [
    "ACTIVE", "DONE", "NEW", "cancel_pending", "cancelled_scope", "chain", "check_cancelled", "current",
    "current_scope", "hidden_task", "kept_out", "raise_if_cancelled", "run_due_alarms", "take_over", "task_scope",
    "workers",
]  # fmt: skip

NEW, ACTIVE, DONE = range(3)  # the states of a scope
current: ContextVar[CancelScope | None] = ContextVar("threadsafe_timeout_scope", default=None)


class _Worker(Protocol):
    """A thread of a pool, as scopes see it."""

    def scope_in_force(self) -> CancelScope | None:
        """The scope of the task it runs, or was given up in."""


# By thread ident. Each thread of a pool enters and removes itself; read without a lock.
workers: dict[int, _Worker] = {}


def task_scope() -> CancelScope | None:
    """If this is a thread of a pool: the scope of the task it runs. The context may not know it: one that was copied
    elsewhere, and entered in the task (`Context.run`), has only the scopes there."""
    worker = workers.get(get_ident())
    scope = worker.scope_in_force() if worker is not None else None
    return scope if scope is not None and scope._state is ACTIVE else None


def hidden_task() -> CancelScope | None:
    """`task_scope()`, if the context does not know it and no shield keeps it out."""
    task, scope, now = task_scope(), current.get(), _clock.monotonic()
    while scope is not None:
        if scope is task or scope._shield_until > now:
            return None
        scope = scope._parent
    return task


def current_scope() -> CancelScope | None:
    """The innermost scope around, or None."""
    scope = current.get()
    return task_scope() if scope is None and workers else scope


def chain(scope: CancelScope | None = None, *, shielded: bool = False) -> list[CancelScope]:
    """The scopes from `scope` (the innermost one around) outwards, up to a shield that is up (or beyond it, if
    `shielded`); with that of the task, if this is a thread of a pool."""
    scope = scope or current.get()
    task = task_scope() if workers else None
    found: list[CancelScope] = []
    now = _clock.monotonic()
    while scope is not None or task is not None:
        if scope is None:
            scope, task = task, None
            continue
        if scope is task:
            task = None
        found.append(scope)
        if scope._shield_until > now and not shielded:
            break
        scope = scope._parent
    return found


def kept_out(scopes: list[CancelScope]) -> tuple[float, CancelScope | None]:
    """In clean-up: until when the cancelled ones of `scopes` are kept out (`inf` if none is cancelled), and the
    outermost one that is not."""
    cancelled = [scope for scope in scopes if scope._cancelled]
    if not cancelled:
        return math.inf, None
    evidence = _clean_up.evidence(scopes)
    if evidence is None:
        return -math.inf, cancelled[-1]
    now, earliest, found = _clock.monotonic(), math.inf, None
    for scope in cancelled:
        until = evidence.keeps_out_until(scope)
        earliest = min(earliest, until)
        if until <= now:
            found = scope
    return earliest, found


def cancelled_scope(*, always: bool = False) -> CancelScope | None:
    """The outermost cancelled scope around, or None. Not one that a shield keeps out; nor one that this thread cleans
    up after, unless `always`."""
    scope = current.get()
    hidden: object = workers  # true while the context may hide the scope of this thread's task
    if scope is None:
        if not hidden or (scope := task_scope()) is None:
            return None
        hidden = None
    now = _clock.monotonic()
    found = None
    while scope is not None:
        scope._progress = now
        if scope._deadline <= now and not scope._cancelled:
            scope._expire()  # the timer thread may be a moment late; a scope that was left stays as it was
        if scope._cancelled:
            found = scope
        if scope._of_task and scope._thread == get_ident():
            hidden = None
        if scope._shield_until > now and not (always and scope._inherited):
            break
        scope = scope._parent
        if scope is None and hidden:
            scope, hidden = task_scope(), None
    if found is not None and not always:
        return kept_out(chain())[1]
    return found


def cancel_pending() -> bool:
    """Whether a scope around is cancelled. Only reads: to be used by code that holds a lock that a callback may want,
    where `cancelled_scope()`, which may expire a scope and so run callbacks, could deadlock."""
    if current.get() is None and not workers:
        return False
    scopes = chain()
    return any(scope._cancelled for scope in scopes) and kept_out(scopes)[1] is not None


def raise_if_cancelled(*, always: bool = False) -> None:
    """Raise `Cancelled` if a scope around is cancelled: what every cooperative point does. `always`: also in clean-up.

    An alarm that is due has its handler run, which may raise something of its own, or nothing: whoever was woken from
    a wait and comes out of here goes on waiting.
    """
    while (scope := cancelled_scope(always=always)) is not None:
        scope._deliver()


def check_cancelled() -> None:
    """Raise `Cancelled` if an enclosing scope is cancelled. Call it in loops that reach no other cooperative point.

    It does not raise in clean-up that still has its grace, nor under a `shield`.
    """
    while (scope := cancelled_scope()) is not None:
        scope._deliver()


def run_due_alarms() -> None:
    """Run the handlers of alarms that are due: for code that learns of cancelled scopes in another way."""
    while (scope := cancelled_scope()) is not None and scope._once:
        scope._deliver()


def take_over(context: Context) -> None:
    """Have here the alarms that there are in `context`, a copy of the present one in which handlers have run."""
    current.set(context[current])
