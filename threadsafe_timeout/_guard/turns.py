"""What the guard keeps of a conversation: what the model said, what it heard, and fingerprints instead of texts."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from threadsafe_timeout._guard.alike import LONGEST, fingerprint, may_be_alike, result_fingerprint, shortened

__all__ = ["Action", "Heard", "Said", "Turn", "opening"]

_MOST_HEARD = 16  # results of one turn that are kept


def opening(text: str) -> str:
    """The first words of a text without its digits: the same for two messages made from one template."""
    return " ".join(re.sub(r"\d+", "#", text[:80]).split())[:40]


@dataclass(frozen=True, slots=True)
class Action:
    """One tool call of a turn. `search` and `look_up` are known of the tags `<tool_search>` and `<tool_info>`, and of
    the tools the user names; `poll` of the tools on the allow-list."""

    name: str
    arguments: str
    id: str | None = None
    search: bool = False
    look_up: bool = False
    poll: bool = False

    @property
    def key(self) -> int:
        return hash((self.name, self.arguments))


@dataclass(frozen=True, slots=True)
class Said:
    """One answer of the model. `cut` is the tag it opened and did not close, if it has no other action."""

    text: str
    actions: tuple[Action, ...] = ()
    cut: str | None = None
    structured: bool = False  # the calls are fields of the message, not tags in its text
    joins: bool = False  # an item of a longer answer: the next one belongs to the same turn
    original: object = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What the model is told `by` a tool, a user (a person or an executor) or the system prompt. `error` is None where
    only the text can tell."""

    text: str
    by: str = "user"
    call_id: str | None = None
    error: bool | None = None


class Turn:
    """One turn: an answer of the model, and what it was told about it. What is compared is worked out when it is asked
    for: most turns are unlike the one before in what they call, and then their texts need not be looked at."""

    __slots__ = ("_alike", "_call", "_mark", "_result", "closed", "heard", "number", "said")

    def __init__(self, number: int, said: Said) -> None:
        self.number = number
        self.said = said
        self.heard: list[Heard] = []
        self.closed = False  # all that is heard about it has been
        self._alike: tuple[int, bool] | None = None  # the number of the turn it was compared with last, and the outcome
        self._mark: int | None = None
        self._call: int | None = None
        self._result: int | None = None

    @property
    def acts(self) -> bool:
        return bool(self.said.actions)

    @property
    def only_searches(self) -> bool:
        return self.acts and all(action.search for action in self.said.actions)

    @property
    def polls(self) -> bool:
        return any(action.poll for action in self.said.actions)

    @property
    def mark(self) -> int:
        """Equal for turns with the same text."""
        if self._mark is None:
            self._mark = fingerprint(self.said.text)
        return self._mark

    @property
    def call(self) -> int:
        """Equal for turns with the same calls."""
        if self._call is None:
            actions = self.said.actions
            self._call = actions[0].key if len(actions) == 1 else hash(tuple(action.key for action in actions))
        return self._call

    @property
    def result(self) -> int:
        """Equal for turns that were told the same."""
        if self._result is None:
            self._result = hash(tuple(result_fingerprint(one.text) for one in self.heard))
        return self._result

    def hear(self, heard: Heard) -> None:
        """Keep what was said about it, a bounded part of it."""
        if len(self.heard) < _MOST_HEARD:
            text = heard.text
            self.heard.append(heard if len(text) <= 2 * LONGEST else replace(heard, text=shortened(text)))

    def told_exactly(self, other: Turn) -> bool:
        """Whether both were told the same, letter by letter."""
        return [one.text for one in self.heard] == [one.text for one in other.heard]

    def told_like(self, other: Turn) -> bool:
        """Whether both were told the same, times and durations aside."""
        if self._alike is None or self._alike[0] != other.number:
            self._alike = other.number, self._is_told_like(other)
        return self._alike[1]

    def _is_told_like(self, other: Turn) -> bool:
        if len(self.heard) != len(other.heard):
            return False
        differ = [(a.text, b.text) for a, b in zip(self.heard, other.heard, strict=True) if a.text != b.text]
        if not all(may_be_alike(*pair) for pair in differ):
            return False
        return not differ or self.result == other.result

    def again(self, other: Turn) -> bool:
        """Whether this is the other turn once more: the same calls, and told the same."""
        return self.call == other.call and self.told_like(other)
