"""Turns without an action, counted: what four of the detectors look at.

A conversation is an executor's if its calls are tags in the text. In one whose calls are fields of the message (tools
of an API), a turn without a call is an answer, and nothing is counted but the same answer to the same words again.
A person who answers is told from an executor by what an executor says: nothing, or long texts from few templates.
"""

from __future__ import annotations

from collections import deque

from threadsafe_timeout._guard.tags import mentions_tags
from threadsafe_timeout._guard.turns import Heard, Turn, opening

__all__ = ["NoActionStreak"]

_SHORTEST_TEMPLATE = 25


class NoActionStreak:
    """The turns without an action at the end of a conversation."""

    def __init__(self) -> None:
        self.tags = False  # the conversation knows the tags
        self.structured = False  # its calls are fields of the message
        self.called = False  # a tool was called, and not only looked up
        self._heard: deque[str] = deque(maxlen=16)  # openings of what was said to the turns of this streak
        self._reset()

    def _reset(self) -> None:
        self.length = 0
        self.cut = 0
        self._cut: str | None = None  # what the last answer called and did not close
        self.cut_told = False  # that was answered before with more than a word, and is the same again
        self.same = 0
        self.empty = 0
        self._last: Turn | None = None
        self._before: Turn | None = None  # the one before, if it had the same text
        self._told_same = True  # each turn of the same text so far was told the same
        self._heard.clear()

    def taught(self, heard: Heard) -> None:
        """A prompt, or an executor's answer."""
        if not self.tags and heard.by != "tool" and mentions_tags(heard.text[:20_000]):
            self.tags = True

    def said(self, turn: Turn) -> None:
        said = turn.said
        self.structured = self.structured or said.structured
        self.tags = self.tags or (not said.structured and (turn.acts or said.cut is not None))
        if turn.acts:
            if any(not action.look_up for action in said.actions):
                self.called = True
            if self.length:
                self._reset()
            return
        self.length += 1
        self.cut = self.cut + 1 if said.cut is not None else 0
        cut = None if said.cut is None else said.cut or said.text[-200:]
        self.cut_told = self.cut_told and cut is not None and cut == self._cut
        self._cut = cut
        last = self._last
        again = last is not None and turn.mark == last.mark and (self._told_same or self.by_executor)
        if not again:
            self._told_same = True
        self.same = self.same + 1 if again else 1
        self._before = last if again else None
        self._last = turn
        self.empty = self.empty + 1 if not said.text.strip() else 0

    def answered(self, turn: Turn) -> None:
        if turn.acts:
            return
        text = turn.heard[0].text.strip() if turn.heard else ""
        self.cut_told = self.cut_told or (turn.said.cut is not None and len(text) >= _SHORTEST_TEMPLATE)
        self._heard.append(opening(text) if len(text) >= _SHORTEST_TEMPLATE else ("" if not text else f"\0{text[:40]}"))
        if self._before is not None and self._told_same:
            self._told_same = turn.told_like(self._before)
        if text and len(text) < _SHORTEST_TEMPLATE:
            self._told_same = False  # short words are a person's

    def _executors(self) -> bool:
        return self.tags and not self.structured

    @property
    def by_executor(self) -> bool:
        """Whether an executor, and no person, answers the turns of this streak."""
        if not self._executors():
            return False
        if any(text.startswith("\0") for text in self._heard):
            return False  # short words: a person's
        said = [text for text in self._heard if text]
        return len(set(said)) <= (len(self._heard) + 1) // 2
