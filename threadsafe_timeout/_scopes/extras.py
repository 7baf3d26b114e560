"""What few scopes have: a token to listen to, and what is to be undone at the edge. And a task to cancel."""

from __future__ import annotations

import sys
from collections.abc import Callable

from threadsafe_timeout._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.coroutines import TaskCancellation
    from threadsafe_timeout._scopes.registration import Registration
    from threadsafe_timeout._scopes.scope import CancelScope
    from threadsafe_timeout._scopes.tokens import CancelToken, TokenRegistration

__all__ = ["Extras", "enter_task", "listen"]


class Extras:
    """The extras of one scope, made when it needs the first of them."""

    __slots__ = ("asked", "pursued", "registrations", "token")

    def __init__(self, token: CancelToken | None) -> None:
        self.token = token
        self.pursued = False
        self.asked = False  # whether asyncio has cancelled the task for the scope; set when that is left
        self.registrations: list[Registration | TokenRegistration] = []

    def leave(self) -> bool:
        """At the edge; whether the scope's thread was to be interrupted."""
        for registration in self.registrations:
            registration.unregister()
        self.registrations.clear()
        return self.pursued


def listen(scope: CancelScope) -> None:
    """On entry: listen to the scope's token."""
    token = scope._extras.token if scope._extras is not None else None
    if token is not None:
        registration = token.register(lambda: scope.cancel(token.reason or "cancelled"))
        scope._extra().registrations.append(registration)
    if scope._cancelled:
        scope._pursue()


_for_current_task: Callable[[CancelScope], TaskCancellation | None] | None = None


def enter_task(scope: CancelScope) -> None:
    """On entry, in a coroutine: have the asyncio task cancelled with the scope."""
    global _for_current_task
    if _for_current_task is None:
        if "asyncio" not in sys.modules:
            return
        from threadsafe_timeout._scopes.coroutines import for_current_task

        _for_current_task = for_current_task  # an import statement for each scope would cost more
    scope._task_cancellation = task = _for_current_task(scope)
    if scope._cancelled and task is not None:
        task.cancel()
