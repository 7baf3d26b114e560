"""The detector of searches for the same in other words."""

from __future__ import annotations

import json
import re
from collections import deque

from threadsafe_timeout._guard.detector import REMEMBERED, Detector
from threadsafe_timeout._guard.streaks import NoActionStreak
from threadsafe_timeout._guard.turns import Turn

__all__ = ["Paraphrases"]

_WORD = re.compile(r"\w+")
_SEARCHES = re.compile(r"search|query|find|look_?up|retriev", re.IGNORECASE)
_DIGIT = re.compile(r"[0-9]")
_FRACTION = re.compile(r"\d+\.\d+")


def _fields(arguments: str) -> dict[str, str]:
    """The arguments of a call by name, if they have names."""
    if not arguments.startswith("{") or len(arguments) > 2000:
        return {}
    try:
        return {name: value if isinstance(value, str) else repr(value) for name, value in json.loads(arguments).items()}
    except (ValueError, AttributeError, RecursionError):
        return {}


def _walks(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two searches ask for the same in different places: files, pages, offsets."""
    if len(one) < 2 or one.keys() != other.keys():
        return False
    differ = [name for name in one if one[name] != other[name]]
    return 0 < len(differ) < len(one) and not any(" " in one[name] or " " in other[name] for name in differ)


def _counts(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two searches are for different numbers: a batch of look-ups."""
    return any(_DIGIT.search(word) for word in one - other) and any(_DIGIT.search(word) for word in other - one)


class Paraphrases(Detector):
    """Searches in a row for nearly the same words that bring nothing new. The same words in another file or on another
    page, and other numbers, are no paraphrase."""

    limit, kind = "paraphrases", "paraphrase_loop"
    alike = 0.85  # Jaccard index of the words of two queries

    def __init__(self, streak: NoActionStreak) -> None:
        super().__init__(streak)
        self._queries: deque[tuple[frozenset[str], dict[str, str]]] = deque(maxlen=8)
        self._turns: deque[Turn] = deque(maxlen=8)  # whose results have not been looked at
        self._found: set[int] = set()
        self._count = 0

    def answered(self, turn: Turn) -> int:
        actions = turn.said.actions
        if len(actions) != 1 or not (actions[0].search or _SEARCHES.search(actions[0].name)):
            if self._count:
                self._count = 0
                self._queries.clear()
                self._turns.clear()
                self._found.clear()
            return 0
        words = frozenset(_WORD.findall(actions[0].arguments[:1000].lower()))
        fields = _fields(actions[0].arguments)
        near = any(
            len(words & other) >= self.alike * len(words | other)
            and not (_walks(fields, others) or _counts(words, other))
            for other, others in self._queries
        )
        self._queries.append((words, fields))
        # Only searches for the same again are worth reading all the results for.
        new = not near or self._brings_new(turn)
        self._turns.append(turn)
        self._count = 1 if new else self._count + 1
        return self._count

    def _brings_new(self, turn: Turn) -> bool:
        while self._turns:
            self._keep(self._ids(self._turns.popleft()))
        found = self._ids(turn)
        new = not found <= self._found
        self._keep(found)
        return new

    def _keep(self, found: set[int]) -> None:
        if len(self._found) < 20 * REMEMBERED:
            self._found |= found

    def _ids(self, turn: Turn) -> set[int]:
        """The words of a result, but for those of its own query and for scores."""
        words = set(_WORD.findall(turn.said.actions[0].arguments[:1000].lower()))
        found = set()
        for one in turn.heard:
            found |= set(_WORD.findall(_FRACTION.sub(" ", one.text[:4000].lower())))
        return {hash(word) for word in found - words}

    def explain(self, count: int) -> str:
        return f"{count} searches in a row for nearly the same words, which brought nothing new"
