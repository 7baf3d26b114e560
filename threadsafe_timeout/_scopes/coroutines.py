"""A scope in a coroutine: what it cancels is the asyncio task.

`asyncio.timeout` already knows when a task's cancellation is its own and when it came from elsewhere, so it is what a
scope enters, without a deadline; the scope's own timer, `cancel()` and tokens expire it. A shield around the awaiting
code postpones that until it is lowered or left.

asyncio cancels once. A clean-up may await whatever it likes then, for one `grace`: a task that is still inside the
scope after that is cancelled again, and again after each further grace, so that no clean-up hangs for ever.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._timing import clock as _clock

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["TaskCancellation"]


class TaskCancellation:
    """The cancellation of one task on behalf of one scope."""

    @classmethod
    def of_current_task(cls, scope: CancelScope) -> TaskCancellation | None:
        """For the task that runs; None if there is none (another event loop, a coroutine driven by hand)."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return None
        task = asyncio.current_task(loop)
        return None if task is None else cls(scope, loop, task)

    def __init__(self, scope: CancelScope, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        self._scope = scope
        self._loop = loop
        self._task = task
        self._again = 0  # how often the task was cancelled beyond the first time
        self._left = False
        # These, and the timeout, are touched in the loop's thread only.
        self._done = False
        self.asked_at: float | None = None  # when the task was cancelled: its clean-up has a grace from then on
        self._shields: list[CancelScope] = []
        self._timeout = asyncio.timeout(None)
        self._run(self._timeout.__aenter__())
        for shielded in self._shielded():
            shielded._shields.append(scope)

    def _shielded(self) -> Iterator[TaskCancellation]:
        """If the scope is a shield: the cancellations around that it holds up."""
        parent = self._scope._parent if self._scope._shield_until > -math.inf else None
        while parent is not None:
            task = parent._extras.task if parent._extras is not None else None
            if task is not None and task._loop is self._loop:
                yield task
            parent = parent._parent

    def cancel(self) -> None:
        """Cancel the task's awaits. From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._expire)
        except RuntimeError:
            pass  # the loop was closed, and the task with it

    def _expire(self) -> None:
        if self._done:
            return
        shielded = self._shielded_for()
        if shielded:
            self._loop.call_later(shielded, self._expire)  # lowered; or left sooner: see leave
            return
        self._done = True
        self.asked_at = _clock.monotonic()
        self._timeout.reschedule(self._loop.time())
        self._loop.call_later(self._grace(), self._cancel_again)

    def _cancel_again(self) -> None:
        """A grace has passed, and the task is in the scope still."""
        if self._left or self._task.done():
            return
        shielded = self._shielded_for()
        if not shielded:
            self._again += 1
            self._task.cancel()
        self._loop.call_later(shielded or self._grace(), self._cancel_again)

    def _grace(self) -> float:
        return max(self._scope._delivered.grace, _clean_up.SHORTEST)

    def _shielded_for(self) -> float:
        """Seconds until the last of the shields that are up is lowered; 0 if none is."""
        now = _clock.monotonic()
        up = [shield._shield_until - now for shield in self._shields if shield._frame is not None]  # still inside
        return max([0.0, *up])

    def leave(self, exc: BaseException | None) -> bool:
        """Leave the block; True if `exc` is the cancellation asked for here."""
        self._done = self._left = True
        for _ in range(self._again):
            self._task.uncancel()
        for task in self._shielded():
            task._shields.remove(self._scope)
            if task._scope._cancelled:
                self._loop.call_soon(task._expire)
        return self._run(self._timeout.__aexit__(type(exc) if exc is not None else None, exc, None))

    @staticmethod
    def _run(step: object) -> bool:
        """Run a coroutine of asyncio.timeout's, none of which awaits; True if it raised TimeoutError."""
        try:
            step.send(None)  # type: ignore[attr-defined]  # a coroutine
        except StopIteration:
            return False
        except TimeoutError:
            return True
        raise RuntimeError("asyncio.timeout waits on entry or exit: this version of Python is not supported")
