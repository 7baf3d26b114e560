"""What an executor hands to its turn method: where the conversation is in it, what is new, and how to add a line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from threadsafe_timeout._guard.readers import get, role_of

__all__ = ["Conversation", "with_line"]

_FAR = 200  # messages to look back through


class Conversation:
    """Finds the messages that came after the model's last answer, turn by turn.

    `where` is the name of an attribute of the executor, a function of the executor, or None: the first list among the
    arguments of the turn method.
    """

    def __init__(self, where: str | Callable[[Any], Any] | None) -> None:
        self._where = where
        self._last: object = None

    def messages(self, executor: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any] | None:
        """The conversation, or None if it is not handed over."""
        if isinstance(self._where, str):
            found = get(executor, self._where)
        elif self._where is not None:
            found = self._where(executor)
        else:
            found = next((value for value in (*args, *kwargs.values()) if isinstance(value, list)), None)
        return found if isinstance(found, list) else None

    def answered(self, response: object) -> None:
        """The model has answered."""
        self._last = response

    def prompt(self, messages: list[Any]) -> list[Any]:
        """What the model reads before its first answer."""
        return [one for one in messages[:_FAR] if role_of(one) in ("system", "user")]

    def news(self, messages: list[Any]) -> list[Any]:
        """What came after the last answer; nothing if that cannot be told."""
        tail = messages[-_FAR:]
        for place in range(len(tail) - 1, -1, -1):
            one = tail[place]
            if one is self._last or role_of(one) == "assistant" or self._is_last_text(one):
                return tail[place + 1 :]
        # A client that keeps the conversation itself is handed only what is new.
        known = all(role_of(one) in ("user", "tool") or str(get(one, "type")).endswith("_output") for one in tail)
        return tail if known else []

    def _is_last_text(self, one: Any) -> bool:
        return isinstance(self._last, str) and isinstance(one, str) and one == self._last


def with_line(messages: list[Any], line: str) -> list[Any] | None:
    """A copy of the conversation in which the model reads one line more; None if its form is not known.

    The line goes into the last message if that is the user's: some services want users and assistants to take turns.
    """
    last = messages[-1] if messages else None
    if isinstance(last, str):
        return [*messages, line]
    if not isinstance(last, Mapping):
        return None
    content = last.get("content")
    if last.get("role") == "user" and isinstance(content, str):
        return [*messages[:-1], {**last, "content": f"{content}\n\n{line}"}]
    if last.get("role") == "user" and isinstance(content, list):
        return [*messages[:-1], {**last, "content": [*content, {"type": "text", "text": line}]}]
    return [*messages, {"role": "user", "content": line}]
