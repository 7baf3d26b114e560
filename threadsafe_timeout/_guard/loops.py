"""`find_loop` and `LoopGuard`: whether a conversation goes in circles, at once or turn by turn."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from threadsafe_timeout._guard.detector import Detector, Stage
from threadsafe_timeout._guard.detectors import ALL
from threadsafe_timeout._guard.experience import Experience
from threadsafe_timeout._guard.limits import Limit, limits_from
from threadsafe_timeout._guard.readers import Reader
from threadsafe_timeout._guard.streaks import NoActionStreak
from threadsafe_timeout._guard.turns import Heard, Said, Turn

__all__ = ["Loop", "LoopGuard", "find_loop"]

logger = logging.getLogger("threadsafe_timeout")
_MOST_NOTES = 100


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop that the guard found.

    - `kind`: what the result's `error_type` says: `search_loop`, `no_action_loop`, `repeat_loop`, …
    - `turn`: at which answer of the model, counted from 1, the limit was reached
    - `count`: how often it was seen by then
    - `limit`: the name of the limit
    - `detail`: a description for people; it contains no text of the model
    - `early`: whether it was ended before its limit, because no task of this run has left such a loop
    - `action`: `stop`, `warn` or `observe`
    """

    kind: str
    turn: int
    count: int
    detail: str
    limit: str
    action: str = "stop"
    early: bool = False


class LoopGuard:
    """Looks at one conversation, turn by turn, in bounded memory. One thread at a time may use it.

    - `limits`: keyword arguments with the names in docs/guards.md. A value is a number (`repeats=5` stops at 5), None
      or "off", or text like "warn:3+stop:5"
    - `extract(message)`: converts a message of your own kind to OpenAI's chat form
    - `is_search(message)`: says whether an answer only searches
    - `polls`, `search_tools`: names of tools that wait for something, and of tools that search
    - `experience`: shared by the guards of one run. It ends loops earlier if no task has left such a loop, separately
      for each `model`

    Raises TypeError or ValueError for a limit that does not exist or makes no sense. A message that cannot be read is
    skipped; `unread` counts them. Exceptions of `extract` and `is_search` are passed on.

        guard = LoopGuard(repeats=5)
        for message in conversation:
            if loop := guard.see(message):
                print(loop.kind, loop.detail)
    """

    def __init__(
        self,
        *,
        extract: Callable[[Any], Any] | None = None,
        is_search: Callable[[Any], bool] | None = None,
        polls: Iterable[str] = (),
        search_tools: Iterable[str] = (),
        experience: Experience | None = None,
        model: str = "",
        **limits: Any,
    ) -> None:
        self._limits = limits_from(limits)
        self._reader = Reader(extract, is_search, polls, search_tools)
        self._experience = experience
        self._model = model
        self._streak = NoActionStreak()
        watched: list[tuple[Detector, Limit]] = [
            (detector(self._streak), self._limits[detector.limit])
            for detector in ALL
            if self._limits[detector.limit] != Limit()
        ]
        self._said = [(one, limit) for one, limit in watched if type(one).said is not Detector.said]
        self._answered = [(one, limit) for one, limit in watched if type(one).answered is not Detector.answered]
        self._passed: dict[tuple[str, Stage], None] = {}  # of its loops, since it last called a tool
        self._turn: Turn | None = None
        self._joining: Said | None = None
        self._finished = False
        self._searches = 0  # turns in a row that only search, whether that has a limit or not
        self.turns = 0
        self.cut_answers = 0
        self.loop: Loop | None = None
        self.notes: deque[Loop] = deque(maxlen=_MOST_NOTES)  # what was to be warned of or observed, oldest first

    @property
    def unread(self) -> int:
        """How many messages could not be read."""
        return self._reader.unread

    def see(self, message: Any) -> Loop | None:
        """Look at a message, or a list of them. Returns the loop that should end this conversation, or None.

        Once there is a loop, every later call returns it.
        """
        for one in self._reader.read(message):
            self._take(one)
            if self.loop is not None:
                break
        return self.loop

    def say(self, response: Any) -> Loop | None:
        """Look at an answer of the model, in any readable form: one turn."""
        said = self._reader.answer(response)
        if said is not None:
            self._take(replace(said, joins=False))
        elif response is not None and not self._reader.unread:
            self._reader.unread += 1
        return self.loop

    def settle(self) -> Loop | None:
        """Declare that all results of the last answer have been seen."""
        self._join()
        if self.loop is None and self._turn is not None and not self._turn.closed:
            self._close(self._turn)
        return self.loop

    def finish(self) -> Loop | None:
        """Declare that the conversation is over. What it taught goes to `experience`. A second call does nothing."""
        loop = self.settle()
        if not self._finished:
            self._finished = True
            for limit, stage in self._passed:
                if self._experience is not None:
                    self._experience.lost(limit, stage.name, self._model)
        return loop

    def _take(self, one: Said | Heard) -> None:
        if isinstance(one, Heard):
            self._hear(one)
        elif one.joins:
            self._joining = one if self._joining is None else _join(self._joining, one)
        else:
            if self._joining is not None:
                one, self._joining = _join(self._joining, one), None
            self._say(one)

    def _join(self) -> None:
        if self._joining is not None:
            said, self._joining = self._joining, None
            self._say(said)

    def _say(self, said: Said) -> None:
        if self._turn is not None and not self._turn.closed:
            self._close(self._turn)
            if self.loop is not None:
                return
        self.turns += 1
        turn = self._turn = Turn(self.turns, said)
        self.cut_answers += said.cut is not None
        self._streak.said(turn)
        self._searches = self._searches + 1 if turn.only_searches else 0
        if self._passed and turn.acts and any(not action.look_up for action in said.actions):
            self._survived()
        for detector, limit in self._said:
            self._judge(detector, limit, detector.said(turn), turn)

    def _hear(self, heard: Heard) -> None:
        self._join()
        if self.loop is not None:
            return
        self._streak.taught(heard)
        turn = self._turn
        if turn is None or turn.closed or heard.by == "system":
            return
        turn.hear(heard)
        # A tool's result may be one of several; a call in the text has one answer.
        if not turn.said.structured or len(turn.heard) >= len(turn.said.actions):
            self._close(turn)

    def _close(self, turn: Turn) -> None:
        turn.closed = True
        self._streak.answered(turn)
        for detector, limit in self._answered:
            self._judge(detector, limit, detector.answered(turn), turn)

    def _judge(self, detector: Detector, limit: Limit, count: int, turn: Turn) -> None:
        if self.loop is not None:
            return
        if limit.stop is not None:
            if count >= limit.stop:
                self.loop = self._loop(detector, count, turn, "stop")
                return
            if self._ends_early(detector, turn):
                return
        if count and count == limit.warn:
            self.notes.append(self._loop(detector, count, turn, "warn"))
        elif count and count == limit.observe:
            self.notes.append(self._loop(detector, count, turn, "observe"))

    def _ends_early(self, detector: Detector, turn: Turn) -> bool:
        """Whether the run has taught that no loop is left from here on. A stage is asked for once."""
        stage = detector.stage() if self._experience is not None else None
        if stage is None or self._experience is None:
            return False
        passed = (detector.limit, stage)
        if passed in self._passed:
            return False
        if not self._experience.may_end(detector.limit, stage.name, stage.needed, self._model):
            self._passed[passed] = None
            return False
        self.loop = replace(self._loop(detector, stage.reached, turn, "stop"), early=True)
        return True

    def _survived(self) -> None:
        for limit, stage in self._passed:
            if self._experience is not None:
                self._experience.survived(limit, stage.name, self._model)
        self._passed.clear()

    def _loop(self, detector: Detector, count: int, turn: Turn, action: str) -> Loop:
        return Loop(detector.kind, turn.number, count, detector.explain(count), detector.limit, action)


def _join(first: Said, second: Said) -> Said:
    text = "\n".join(filter(None, (first.text, second.text)))
    actions = first.actions + second.actions[: max(0, 64 - len(first.actions))]
    cut = None if actions else second.cut or first.cut
    return Said(text, actions, cut, first.structured or second.structured, False, first.original)


def find_loop(messages: Iterable[Any], **limits: Any) -> Loop | None:
    """The loop at which a guard would have ended this conversation, or None. It takes the arguments of `LoopGuard`.

        find_loop([{"role": "user", "content": "…"}, {"role": "assistant", "tool_calls": […]}, …])
    """
    guard = LoopGuard(**limits)
    for message in [messages] if isinstance(messages, str) else messages:
        if guard.see(message) is not None:
            return guard.loop
    return guard.settle()
