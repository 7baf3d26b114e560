"""What few scopes have: a token to listen to, a task to cancel, and what is to be undone at the edge."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadsafe_timeout._scopes.coroutines import TaskCancellation
    from threadsafe_timeout._scopes.registration import Registration
    from threadsafe_timeout._scopes.scope import CancelScope
    from threadsafe_timeout._scopes.tokens import CancelToken, TokenRegistration

__all__ = ["Extras", "enter_task", "listen"]


class Extras:
    """The extras of one scope, made when it needs the first of them."""

    __slots__ = ("pursued", "registrations", "task", "token")

    def __init__(self, token: CancelToken | None) -> None:
        self.token = token
        self.pursued = False
        self.task: TaskCancellation | None = None
        self.registrations: list[Registration | TokenRegistration] = []

    def leave(self, exc: BaseException | None) -> bool:
        """At the edge; True if `exc` is the task's cancellation that the scope asked for."""
        for registration in self.registrations:
            registration.unregister()
        self.registrations.clear()
        task, self.task = self.task, None
        return task is not None and task.leave(exc)


def listen(scope: CancelScope) -> None:
    """On entry: listen to the scope's token."""
    token = scope._extras.token if scope._extras is not None else None
    if token is not None:
        registration = token.register(lambda: scope.cancel(token.reason or "cancelled"))
        scope._extra().registrations.append(registration)
    if scope._cancelled:
        scope._pursue()


def enter_task(scope: CancelScope) -> None:
    """On entry, in a coroutine: have the asyncio task cancelled with the scope."""
    if "asyncio" not in sys.modules:
        return
    from threadsafe_timeout._scopes.coroutines import TaskCancellation

    task = TaskCancellation.of_current_task(scope)
    if task is not None:
        scope._extra().task = task
        if scope._cancelled:
            task.cancel()
