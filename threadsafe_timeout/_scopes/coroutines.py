"""A scope in a coroutine: what it cancels is the asyncio task.

A scope tells its own cancellation from one that came from elsewhere as `asyncio.timeout` does: it counts the requests
(`Task.cancelling()`) on entry, takes back its own at the edge (`Task.uncancel()`), and what leaves the block is its own
only if no other request is left. A shield around the awaiting code postpones the request until it is lowered or left.

asyncio cancels once. A clean-up may await whatever it likes then, for one `grace`: a task that is still inside the
scope after that is cancelled again, and again after each further grace, so that no clean-up hangs for ever.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._timing import clock as _clock

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["TaskCancellation", "for_current_task"]

_running_loop = asyncio._get_running_loop
_current_task = asyncio.current_task

_new = object.__new__


class TaskCancellation:
    """The cancellation of one task on behalf of one scope."""

    # Every scope in a coroutine has one: slots, and nothing that few of them need.
    __slots__ = ("_again", "_cancelling", "_scope", "_shields", "_task", "asked_at")

    # These are touched in the loop's thread only.
    _scope: CancelScope | None  # until that is left
    _task: asyncio.Task[Any]
    _cancelling: int
    _again: int  # how often the task was cancelled beyond the first time
    _shields: list[CancelScope] | None
    asked_at: float | None  # when the task was cancelled: its clean-up has a grace from then on

    def _is_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._task.get_loop() is loop

    def hold_up(self, shield: CancelScope) -> None:
        """`shield`, which is entered in here, holds it up."""
        self._shields = [*(self._shields or ()), shield]

    def cancel(self) -> None:
        """Cancel the task's awaits. From any thread."""
        try:
            self._task.get_loop().call_soon_threadsafe(self._expire)
        except RuntimeError:
            pass  # the loop was closed, and the task with it

    def _expire(self) -> None:
        if self._scope is None or self.asked_at is not None:
            return
        shielded = self.shielded_for()
        if shielded:
            self._call_later(shielded, self._expire)  # lowered; or left sooner: see leave
            return
        self.asked_at = _clock.monotonic()
        self._task.cancel()
        self._call_later(self._grace(self._scope), self._cancel_again)

    def _cancel_again(self) -> None:
        """A grace has passed, and the task is in the scope still."""
        if self._scope is None or self._task.done():
            return
        shielded = self.shielded_for()
        if not shielded:
            self._again += 1
            self._task.cancel()
        self._call_later(shielded or self._grace(self._scope), self._cancel_again)

    def _call_later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._task.get_loop().call_later(seconds, callback)

    def _grace(self, scope: CancelScope) -> float:
        return max(scope._delivered.grace, _clean_up.SHORTEST)

    def shielded_for(self) -> float:
        """Seconds until the last of the shields that are up is lowered; 0 if none is."""
        if not self._shields:
            return 0.0
        now = _clock.monotonic()
        up = [shield._shield_until - now for shield in self._shields if shield._frame is not None]  # still inside
        return max([0.0, *up])

    def leave(self, exc: BaseException | None) -> bool:
        """Leave the block; True if `exc` is the cancellation asked for here."""
        scope, self._scope = self._scope, None
        if scope is not None and scope._shield_until > -math.inf:
            for held_up in _held_up_by(scope, self._task.get_loop()):
                held_up.lower(scope)
        if self.asked_at is None or scope is None:
            return False
        scope._extra().asked = True
        for _ in range(self._again):
            self._task.uncancel()
        return self._task.uncancel() <= self._cancelling and isinstance(exc, asyncio.CancelledError)

    def lower(self, shield: CancelScope) -> None:
        """`shield` is left: what it has held up comes now."""
        self._shields = [one for one in self._shields or () if one is not shield]
        if self._scope is not None and self._scope._cancelled:
            self._task.get_loop().call_soon(self._expire)


def for_current_task(scope: CancelScope) -> TaskCancellation | None:
    """For the task that runs; None if there is none (another event loop, a coroutine driven by hand)."""
    loop = _running_loop()
    task = None if loop is None else _current_task(loop)
    if loop is None or task is None:
        return None
    # In one straight line: a call of the class would cost as much as all of this again.
    new: TaskCancellation = _new(TaskCancellation)
    new._scope = scope
    new._task = task
    new._cancelling = task.cancelling()
    new._again = 0
    new._shields = new.asked_at = None
    if scope._shield_until > -math.inf:
        for held_up in _held_up_by(scope, loop):
            held_up.hold_up(scope)
    return new


def _held_up_by(shield: CancelScope, loop: asyncio.AbstractEventLoop) -> Iterator[TaskCancellation]:
    """The cancellations around in that loop."""
    scope = shield._parent
    while scope is not None:
        task = scope._task_cancellation
        if task is not None and task._is_in(loop):
            yield task
        scope = scope._parent
