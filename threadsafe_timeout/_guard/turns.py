"""What the guard keeps of a conversation: what the model said, what it heard, and fingerprints instead of texts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

__all__ = ["LONGEST", "Action", "Heard", "Said", "Turn", "fingerprint", "opening", "result_fingerprint", "shortened"]

# Of a longer text the beginning and the end are compared, so that the cost of a turn is bounded.
LONGEST = 8_000
# What differs between two results that say the same: dates, times of day, durations, addresses of objects. Other
# numbers stay: a counter that goes up is progress.
_FLEETING = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?|\d\d?:\d\d:\d\d(?:[.,]\d+)?"
    r"|0x[0-9a-fA-F]{6,}|\d+(?:\.\d+)? ?(?:ms|seconds?|secs?|s|minutes?)\b"
)


def shortened(text: str) -> str:
    """The text, or the beginning and the end of a long one with its length between them."""
    if len(text) <= 2 * LONGEST:
        return text
    return f"{text[:LONGEST]}\0{len(text)}\0{text[-LONGEST:]}"


def fingerprint(text: str) -> int:
    """The same number for texts that differ in white space only. Valid within this process."""
    return hash(" ".join(shortened(text).split()))


def result_fingerprint(text: str) -> int:
    """The same number for results that differ in white space, times and durations only."""
    return hash(" ".join(_FLEETING.sub("#", shortened(text)).split()))


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


@dataclass(slots=True)
class Turn:
    """One turn: an answer of the model, and what it was told about it."""

    number: int
    said: Said
    mark: int  # fingerprint of the text
    heard: list[Heard] = field(default_factory=list)
    closed: bool = False  # all that is heard about it has been

    @property
    def acts(self) -> bool:
        return bool(self.said.actions)

    @property
    def polls(self) -> bool:
        return any(action.poll for action in self.said.actions)

    @property
    def call(self) -> int:
        """Equal for turns with the same calls."""
        actions = self.said.actions
        return actions[0].key if len(actions) == 1 else hash(tuple(action.key for action in actions))

    @property
    def result(self) -> int | None:
        """Equal for turns that were told the same; None if nothing was."""
        if not self.heard:
            return None
        if len(self.heard) == 1:
            return result_fingerprint(self.heard[0].text)
        return hash(tuple(result_fingerprint(one.text) for one in self.heard))
