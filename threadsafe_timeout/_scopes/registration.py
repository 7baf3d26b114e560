"""A callback that runs when one of some scopes is cancelled: how whatever a thread is blocked in gets woken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from threadsafe_timeout._log import logger
from threadsafe_timeout._scopes import clean_up as _clean_up
from threadsafe_timeout._scopes.around import chain, current, hidden_task, workers
from threadsafe_timeout._timing import clock as _clock
from threadsafe_timeout._timing import timer as _timer
from threadsafe_timeout._typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.clean_up import Evidence
    from threadsafe_timeout._scopes.scope import CancelScope

__all__ = ["Registration", "attach_here", "on_cancel", "run_all"]

# Not by the name that is imported: from 3.12 on, calling a method of that makes a bound method each time.
_current = current


class _Runnable(Protocol):
    def run(self) -> None: ...


def run_all(registrations: Iterable[_Runnable]) -> None:
    """Run each. What the first one raises (one that comes to a cooperative point may raise `Cancelled`) is raised when
    all have run: who listens is told only once."""
    failed: BaseException | None = None
    for registration in registrations:
        try:
            registration.run()
        except BaseException as exc:
            failed = failed or exc
    if failed is not None:
        raise failed


class Registration:
    """A callback that runs when one of some scopes is cancelled."""

    __slots__ = ("_alarms", "_callback", "_clean_up", "_running", "_scopes")

    def __init__(self, callback: Callable[[], object], alarms: bool = True) -> None:
        self._alarms = alarms  # whether it also runs for these, after which the thread may go on
        # Written under _timer.lock, and under _running once there is one.
        self._callback: Callable[[], object] | None = callback
        # Held while the callback runs, so that unregister() waits for it: what the callback wakes (a socket, say) may
        # be used again by someone else as soon as unregister() returns. Re-entrant: a callback may unregister itself.
        # Made when it runs: most never do, and every patched call in a scope has one of these.
        self._running: threading.RLock | None = None  # guarded by _timer.lock
        self._scopes: list[CancelScope] = []  # guarded by _timer.lock
        # What it was made in, and what wakes it when the grace of that is over. Guarded by _timer.lock.
        self._clean_up: tuple[Evidence | None, list[_timer.Entry]] | None = None

    def attach(self, scope: CancelScope | None) -> None:
        """Listen to `scope` and to all around it, up to a shield that is up; run at once if one is cancelled.

        In clean-up, of the scopes that were there when that began, it listens to none, and runs when its grace is over.
        """
        cancelled = False
        innermost = scope
        with _timer.lock:
            if self._callback is None:
                return
            now = _clock.monotonic()
            while scope is not None:
                if scope._once and not self._alarms:
                    scope = scope._parent
                    continue
                if scope._cancelled:
                    cancelled = True
                    break
                if scope._state < 2:  # not left
                    if scope._callbacks is None:
                        scope._callbacks = {}
                    scope._callbacks[self] = None
                    self._scopes.append(scope)
                if scope._shield_until > now:
                    break
                scope = scope._parent
            if cancelled:
                cancelled = not self._attach_in_clean_up(innermost, now)
        if cancelled:
            self.run()

    def _attach_in_clean_up(self, innermost: CancelScope | None, now: float) -> bool:
        """False if a scope from `innermost` on is cancelled and not kept out. The caller holds _timer.lock."""
        scopes = chain(innermost) if innermost is not None else []
        if self._clean_up is None:
            # In the thread it was made in. (Another one, which lowers a shield, finds none: a shield that is put up in
            # clean-up stays up as long as that may take.)
            self._clean_up = _clean_up.evidence(scopes), []
        evidence, entries = self._clean_up
        if evidence is None:
            return False
        for scope in scopes:
            if scope._once and not self._alarms:
                continue
            if scope._cancelled:
                until = evidence.keeps_out_until(scope)
                if until <= now:
                    return False
                entries.append(_timer.arm(until, self.run))
            elif evidence.precedes(scope):
                self._leave(scope)
            elif scope._state < 2 and scope not in self._scopes:
                scope._callbacks = scope._callbacks or {}
                scope._callbacks[self] = None
                self._scopes.append(scope)
        return True

    def _leave(self, scope: CancelScope) -> None:
        if scope._callbacks is not None:
            scope._callbacks.pop(self, None)
        if scope in self._scopes:
            self._scopes.remove(scope)

    def run(self) -> None:
        with _timer.lock:
            if self._callback is None:
                return
            running = self._running
            if running is None:
                running = self._running = threading.RLock()
        with running:
            if self._callback is not None:
                try:
                    self._callback()
                except Exception:
                    logger().exception("threadsafe-timeout: waking a cancelled call failed; it ends at its own timeout")

    def unregister(self) -> None:
        """Forget the callback. Once this returns it is not running and will not run."""
        with _timer.lock:
            for scope in self._scopes:
                if scope._callbacks is not None:
                    scope._callbacks.pop(self, None)
            self._scopes.clear()
            if self._clean_up is not None:
                for entry in self._clean_up[1]:
                    _timer.disarm(entry)
            running = self._running
            if running is None:
                self._callback = None
                return
        with running:
            self._callback = None


def on_cancel(callback: Callable[[], object], *, alarms: bool = True) -> Registration:
    """Have `callback` run when a scope around is cancelled; at once, in this thread, if one is already.

    An alarm counts as a scope. But its handler may return, and then what was woken goes on: a callback that does more
    than wake wants no `alarms`.
    """
    registration = Registration(callback, alarms)
    attach_here(registration)
    return registration


def attach_here(registration: Registration) -> None:
    """Have `registration` listen to the scopes around."""
    registration.attach(_current.get())
    if workers and (hidden := hidden_task()) is not None:
        registration.attach(hidden)
