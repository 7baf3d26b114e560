"""A callback that runs when one of some scopes is cancelled: how whatever a thread is blocked in gets woken."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from threadsafe_timeout import _clock, _timer

if TYPE_CHECKING:
    from threadsafe_timeout._scope import CancelScope

__all__ = ["Registration"]

_logger = logging.getLogger("threadsafe_timeout")


class Registration:
    """A callback that runs when one of some scopes is cancelled."""

    __slots__ = ("_callback", "_lock", "_scopes")

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback  # guarded by _lock
        # Held while the callback runs, so that unregister() waits for it: what the callback wakes (a socket, say) may
        # be used again by someone else as soon as unregister() returns. Re-entrant: a callback may unregister itself.
        self._lock = threading.RLock()
        self._scopes: list[CancelScope] = []  # guarded by _timer.lock

    def attach(self, scope: CancelScope | None) -> None:
        """Listen to `scope` and to all around it, up to a shield that is up; run at once if one is cancelled."""
        cancelled = False
        with _timer.lock:
            now = _clock.monotonic()
            while scope is not None:
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
            self.run()

    def run(self) -> None:
        with self._lock:
            if self._callback is not None:
                try:
                    self._callback()
                except Exception:
                    _logger.exception("threadsafe-timeout: waking a cancelled call failed; it ends at its own timeout")

    def unregister(self) -> None:
        """Forget the callback. Once this returns it is not running and will not run."""
        with _timer.lock:
            for scope in self._scopes:
                if scope._callbacks is not None:
                    scope._callbacks.pop(self, None)
            self._scopes.clear()
        with self._lock:
            self._callback = None
