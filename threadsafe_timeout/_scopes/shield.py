"""Shields: a block that the scopes outside do not cancel, for a bounded time.

What a clean-up starts elsewhere (a thread, a task of a pool) has a shield as well, for what is left of the grace:
`context_for_children` puts it into the context that the other starts in. And a task that its pool has given up is
fenced: no shield keeps its scope out any more.
"""

from __future__ import annotations

import math
from contextvars import Context, copy_context
from sys import _getframe
from threading import get_ident
from types import FrameType, TracebackType

from threadsafe_timeout._checks import check_seconds
from threadsafe_timeout._scopes.around import ACTIVE, chain, current, kept_out, workers
from threadsafe_timeout._scopes.scope import CancelScope, prepare
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import ClassVar, Self

__all__ = ["Shield", "context_for_children", "context_outside", "fence", "is_fenced", "shield"]
# Not by the name that is imported: from 3.12 on, calling a method of that makes a bound method each time.
_current = current


def shield(grace: float, *, name: str | None = None) -> CancelScope:
    """A block that the scopes outside do not cancel for `grace` seconds. Use it for clean-up that must finish.

    After that, it is cancelled like any other block. Scopes inside it apply as usual.
    """
    scope = Shield(name=name)
    scope._grace = check_seconds("grace", grace)
    scope._shield_until = -math.inf
    scope._lowering = None
    return scope


class Shield(CancelScope):
    """Keeps what is outside from cancelling the block, for a bounded time."""

    __slots__ = ("_grace", "_lowering", "_shield_until")
    _grace: float
    _lowering: _timer.Entry | None  # guarded by _timer.lock; a deadline of its own has the other entry
    # For other threads that look at this one: a new set whenever one changes. Replaced under _timer.lock.
    active: ClassVar[frozenset[Shield]] = frozenset()

    def __enter__(self, _frame: FrameType | None = None) -> Self:
        self._shield_until = _clock.monotonic() + self._grace
        super().__enter__(_frame or _getframe(1))
        if is_fenced(self._parent):
            self._shield_until = -math.inf
        else:
            # In clean-up it keeps out what the clean-up does: another thread lowers it, and cannot ask this one.
            until, _ = kept_out(chain(self._parent))
            if until != math.inf:
                self._shield_until = max(self._shield_until, until)
        with _timer.lock:
            Shield.active |= {self}
            self._lowering = _timer.arm(self._shield_until, self._lower)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        with _timer.lock:
            Shield.active -= {self}
            if self._lowering is not None:
                _timer.disarm(self._lowering)
        return super().__exit__(kind, exc, traceback)

    def _lower(self) -> None:
        """Let what is outside through: those who wait inside now hear of it, at once if it has happened already."""
        with _timer.lock:
            waiting = list(self._callbacks or ())
        for registration in waiting:
            registration.attach(self._parent)


class Inherited(Shield):
    """What the children of a clean-up have left of its grace: a shield that nobody enters, in their context."""

    __slots__ = ()
    _inherited = True

    def __init__(self, until: float) -> None:
        prepare(self, None, None)
        self._parent, self._thread, self._frame, self._entered_by = _current.get(), get_ident(), None, -1
        self._entered_at = _clock.monotonic()
        self._state = ACTIVE
        self._shield_until = until
        with _timer.lock:
            self._lowering = _timer.arm(until, self._lower)


def context_for_children() -> Context:
    """A copy of the present context, to start a task in elsewhere. In clean-up it has a shield for what is left of the
    grace."""
    context = copy_context()
    if _current.get() is not None or workers:
        until, refused = kept_out(chain())
        if until != math.inf and refused is None:
            context.run(_current.set, Inherited(until))
    return context


def context_outside() -> Context:
    """A copy of the present context without the scopes around."""
    context = copy_context()
    context.run(_current.set, None)
    return context


def fence(scope: CancelScope, context: Context) -> None:
    """No shield keeps a pool's `scope` out any more: neither those that are up in `context`, where its thread is, nor
    new ones."""
    scope._fenced = True  # type: ignore[misc]  # it has the slot: see _task
    inner = context.get(current)
    while inner is not None and inner is not scope:
        if isinstance(inner, Shield):
            inner._shield_until = -math.inf
            inner._lower()
        inner = inner._parent


def is_fenced(scope: CancelScope | None) -> bool:
    """Whether `scope`, or one around it, is that of a task that was given up."""
    while scope is not None and not scope._fenced:
        scope = scope._parent
    return scope is not None
