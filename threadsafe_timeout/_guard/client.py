"""The guard for runners we know nothing about: it looks at what openai's and anthropic's clients send and receive.

Each request carries its conversation. Inside a scope (a pool's task, say) the guard keeps the conversations of that
scope apart by their first messages, and looks at what is new. Outside of scopes, and in what a guarded executor does,
it does nothing. Not seen are streams, conversations that the service keeps (`previous_response_id`), and those that are
cut to a constant length.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping
from typing import Any

from threadsafe_timeout._errors import LoopDetected
from threadsafe_timeout._guard.alike import fingerprint
from threadsafe_timeout._guard.conversation import Conversation
from threadsafe_timeout._guard.loops import LoopGuard
from threadsafe_timeout._guard.readers import get, role_of
from threadsafe_timeout._guard.watch import current_watch, limits_in_force, note_in_log, tell_pool
from threadsafe_timeout._scopes import around as _around
from threadsafe_timeout._scopes import scope as _scope
from threadsafe_timeout._settings import settings

__all__ = ["ClientGuard", "guard_of_request"]

logger = logging.getLogger("threadsafe_timeout")
_MOST_CONVERSATIONS = 16  # of one scope
_of_scopes: weakref.WeakKeyDictionary[_scope.CancelScope, dict[int, ClientGuard]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()  # guards _of_scopes and the dicts in it


class ClientGuard:
    """The guard of one conversation in one scope."""

    def __init__(self) -> None:
        self._begin()
        self._lock = threading.Lock()  # two requests of one conversation at a time look one after the other

    def _begin(self) -> None:
        self._guard = LoopGuard(**limits_in_force({}))
        self._conversation = Conversation(None)
        self._answers = 0  # of the model, in the last request
        self._told = False

    def asks(self, body: Any) -> None:
        """A request is about to be made. Raises LoopDetected if it is one too many and `client_guard` is `stop`."""
        mode, messages = settings().client_guard, messages_of(body) or []
        answers = sum(role_of(one) == "assistant" or str(get(one, "type")).endswith("_call") for one in messages)
        with self._lock:
            # Without an answer more than before it is the same question once more, to sample another answer, say, and
            # not the next turn: no loop, however alike the answers are. Where a loop was seen it is another attempt.
            if self._guard.turns and (answers < self._answers or (answers == self._answers and not self._guard.loop)):
                self._begin()
            self._answers = answers
            new = self._conversation.news(messages) if self._guard.turns else self._conversation.prompt(messages)
            self._guard.see(new)
            self._guard.settle()
            self._tell(mode)
            loop = self._guard.loop
        if loop is not None and mode == "stop":
            raise LoopDetected(loop.kind, loop.detail)

    def answered(self, answer: Any) -> None:
        """The client has its answer. A stream has none yet."""
        if role_of(answer) is None and not any(get(answer, name) for name in ("choices", "output")):
            return
        with self._lock:
            self._guard.say(answer)
            self._tell(settings().client_guard)

    def _tell(self, mode: str) -> None:
        while self._guard.notes:
            note_in_log(self._guard.notes.popleft(), "observed only")
        loop = self._guard.loop
        if loop is not None and not self._told:
            self._told = True
            note_in_log(loop, "the next request is refused" if mode == "stop" else "observed only (client_guard)")
            if mode == "stop":
                tell_pool(loop)


def _task_scope(scope: _scope.CancelScope) -> _scope.CancelScope:
    """The scope of the pool's task around, else the outermost one."""
    while scope._parent is not None and getattr(scope, "task", None) is None:
        scope = scope._parent
    return scope


def guard_of_request(body: Any) -> ClientGuard | None:
    """The guard for a request with this body; None if there is nothing to look at."""
    mode = settings().client_guard
    scope = _around.current_scope()
    if mode == "off" or scope is None or settings().loop_guard == "off" or current_watch.get() is not None:
        return None
    messages = messages_of(body)
    if not messages:
        return None
    first = next((one for one in messages if role_of(one) not in ("system", None)), messages[0])
    try:
        key = hash((fingerprint(str(get(body, "model"))), fingerprint(str(get(first, "content")))))
        with _lock:
            guards = _of_scopes.setdefault(_task_scope(scope), {})
            guard = guards.get(key)
            if guard is None:
                if len(guards) >= _MOST_CONVERSATIONS:
                    del guards[next(iter(guards))]
                guard = guards[key] = ClientGuard()
            return guard
    except TypeError:  # a scope that cannot be referred to weakly
        return None


def messages_of(body: Any) -> list[Any] | None:
    """The conversation in the body of a request: `messages`, or the `input` of the Responses API."""
    if not isinstance(body, Mapping):
        return None
    messages = body.get("messages")
    if messages is None:
        messages = body.get("input")
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
    return messages if isinstance(messages, list) else None
