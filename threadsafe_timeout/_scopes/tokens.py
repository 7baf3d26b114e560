"""Cancellation for code that wants to be told: a source cancels, its token is the read-only view to hand out."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import weakref
from collections.abc import Callable

from threadsafe_timeout._checks import check_callable, check_seconds
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import registration as _registration
from threadsafe_timeout._scopes.registration import run_all
from threadsafe_timeout._text import shown
from threadsafe_timeout._timing import clock as _clock

__all__ = ["CancelSource", "CancelToken", "TokenRegistration"]

_logger = logging.getLogger("threadsafe_timeout")


class TokenRegistration:
    """The handle of a callback registered on a token; `unregister()` forgets it. Also a context manager."""

    __slots__ = ("_callback", "_lock", "_token")

    def __init__(self, token: CancelToken, callback: Callable[[], object]) -> None:
        self._token = token
        self._callback: Callable[[], object] | None = callback  # guarded by _lock
        self._lock = threading.RLock()  # held while the callback runs, so that unregister() waits for it

    def run(self) -> None:
        with self._lock:
            callback, self._callback = self._callback, None
            if callback is not None:
                try:
                    callback()
                except Exception:
                    _logger.exception("threadsafe-timeout: a cancelled token's callback failed; the others still run")

    def unregister(self) -> None:
        """Forget the callback. Once this returns it is not running (unless it is what calls) and will not run."""
        with self._token._lock:
            self._token._registrations.pop(self, None)
        with self._lock:
            self._callback = None

    def __enter__(self) -> TokenRegistration:
        return self

    def __exit__(self, *exc: object) -> None:
        self.unregister()


class CancelToken:
    """Says whether its `CancelSource` was cancelled. Code that has the token can look, wait, or register a callback.

    Get one from `CancelSource().token` or `CancelToken.linked(...)`. `CancelScope(token=...)` is cancelled with its
    token.
    """

    def __init__(self) -> None:
        # Re-entrant: a finaliser may cancel or unregister while its thread holds it.
        self._lock = threading.RLock()
        self._reason: str | None = None  # guarded by _lock; the first one wins
        self._registrations: dict[TokenRegistration, None] = {}  # guarded by _lock; in order of registration

    @classmethod
    def linked(cls, *tokens: CancelToken) -> CancelToken:
        """A token that is cancelled as soon as one of `tokens` is, for the same reason."""
        linked = cls()
        # Weakly: a token for the whole process outlives the many that are linked to it.
        view = weakref.ref(linked)
        for token in tokens:
            registration = token.register(functools.partial(_pass_on, view, token))
            weakref.finalize(linked, registration.unregister).atexit = False
        return linked

    @property
    def cancelled(self) -> bool:
        """Whether its source was cancelled."""
        return self._reason is not None

    @property
    def reason(self) -> str | None:
        """Why it was cancelled, or None. Later reasons do not replace the first one."""
        return self._reason

    def register(self, callback: Callable[[], object]) -> TokenRegistration:
        """Have `callback` called once, in the thread that cancels the token; at once if it is cancelled already.

        An exception of the callback is logged. Keep the returned handle, and call its `unregister()` when the callback
        is no longer needed.
        """
        check_callable("callback", callback)
        registration = TokenRegistration(self, callback)
        with self._lock:
            if self._reason is None:
                self._registrations[registration] = None
                return registration
        registration.run()
        return registration

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the token is cancelled, at most `timeout` seconds (None: no limit). True if it is cancelled.

        A cooperative point: raises `Cancelled` if an enclosing scope is cancelled first.
        """
        if timeout is not None:
            check_seconds("timeout", timeout)
        woken = threading.Lock()
        woken.acquire()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # token and scope at the same moment
                woken.release()

        with self.register(wake):
            _around.raise_if_cancelled()
            around = _registration.on_cancel(wake)
            until = None if timeout is None else _clock.monotonic() + timeout
            try:
                while _clock.wait(woken, None if until is None else until - _clock.monotonic()):
                    if self.cancelled:
                        break
                    _around.raise_if_cancelled()  # returns after an alarm
            finally:
                around.unregister()
        if not self.cancelled:
            _around.raise_if_cancelled()
        return self.cancelled

    def _cancel(self, reason: str) -> bool:
        with self._lock:
            if self._reason is not None:
                return False
            self._reason = reason
            registrations = list(self._registrations)
            self._registrations.clear()
        run_all(registrations)
        return True

    def __repr__(self) -> str:
        return f"<CancelToken {'cancelled: ' + shown(self._reason) if self._reason is not None else 'not cancelled'}>"


def _pass_on(view: weakref.ref[CancelToken], token: CancelToken) -> None:
    linked = view()
    if linked is not None:
        linked._cancel(token.reason or "cancelled")


class CancelSource:
    """Cancels a token. Keep the source, and hand out `source.token`."""

    def __init__(self) -> None:
        self._token = CancelToken()

    @property
    def token(self) -> CancelToken:
        """The token to hand out."""
        return self._token

    def cancel(self, reason: str = "cancelled") -> bool:
        """Cancel the token, from any thread. Its callbacks run before this returns.

        Returns False if it was cancelled already.
        """
        return self._token._cancel(reason)
