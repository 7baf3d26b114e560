"""Leaving a scope in another than the usual way: cancelled, or out of order."""

from __future__ import annotations

from types import FrameType

from threadsafe_timeout._errors import Cancelled
from threadsafe_timeout._scopes import expiry as _expiry
from threadsafe_timeout._scopes.around import current
from threadsafe_timeout._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["close", "misnested"]


def close(left: CancelScope, exc: BaseException | None, own: bool) -> bool:
    """Leave a cancelled scope: whether its edge swallows `exc`. `own`: it is what this scope asked a task for."""
    for clean_up in list(left._delivered.values()):
        clean_up.forget()
    _expiry.left(left, exc)
    if isinstance(exc, BaseExceptionGroup):
        return _close_group(left, exc, own)
    return left._close(exc, own or (isinstance(exc, Cancelled) and exc.scope is left))


def _close_group(left: CancelScope, group: BaseExceptionGroup[BaseException], own: bool) -> bool:
    """The same for what a task group makes of several errors: its own cancellation does not leave it in there."""
    mine, rest = group.split(lambda exc: isinstance(exc, Cancelled) and exc.scope is left)
    if mine is None:
        return left._close(group, own)
    if rest is not None and not left._fails:
        left.cancelled_caught = True
        raise rest from None
    return left._close(group, True)


def misnested(
    left: CancelScope, inside: CancelScope | None, frame: FrameType | None, exc: BaseException | None
) -> None:
    """`left` is not the innermost scope where it is left; `frame` is that of its block, and `exc` what it raised."""
    while inside is not None and inside._once:  # an alarm that was set in here ends here
        inside._unset()
        inside = inside._parent
    _take_out(left, inside, frame)
    if inside is left or exc is not None:  # what is being raised tells more
        return
    raise RuntimeError(
        f"{left!r} was left while {inside or 'no scope'} is the innermost one here: scopes must be left in the "
        "reverse order of being entered, in the same context (a generator that yields inside a scope is a usual "
        "cause)"
    )


def _take_out(left: CancelScope, inside: CancelScope | None, frame: FrameType | None) -> None:
    """Leave out of order: of the scopes from `inside` on, those stay in force whose blocks are callers of this
    one's, a generator's then; the others are suspended generators', or will never be left."""
    scopes = []
    while inside is not left:
        if inside is None:
            return  # left in another context, or taken out before
        scopes.append(inside)
        inside = inside._parent
    callers = set()
    while frame is not None and (frame := frame.f_back) is not None:
        callers.add(frame)
    innermost = left._parent
    for scope in reversed(scopes):
        if scope._frame in callers:
            scope._parent, scope._reset = innermost, None  # which would bring this one back
            innermost = scope
    current.set(innermost)
