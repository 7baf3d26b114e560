"""The detectors: each counts one kind of loop, in bounded memory, and says what it saw.

`said(turn)` comes when the model has answered, `answered(turn)` when what it was told about it is complete. Both return
how far the loop has come by that turn; 0: not at all. What each count means is in `explain`.
"""

from __future__ import annotations

import re

from threadsafe_timeout._guard.detector import REMEMBERED, Detector, Stage
from threadsafe_timeout._guard.paraphrases import Paraphrases
from threadsafe_timeout._guard.repetition import Cycles, Errors, Repeats
from threadsafe_timeout._guard.streaks import NoActionStreak
from threadsafe_timeout._guard.turns import Turn, opening

__all__ = ["ALL"]


class Searches(Detector):
    """Turns in a row that only search."""

    limit, kind = "searches", "search_loop"

    def __init__(self, streak: NoActionStreak) -> None:
        super().__init__(streak)
        self._count = 0

    def said(self, turn: Turn) -> int:
        self._count = self._count + 1 if turn.only_searches else 0
        return self._count

    def explain(self, count: int) -> str:
        return f"{count} search turns in a row"


class LookUps(Detector):
    """Turns in a row that search or read about tools, in a task that has not called one; the same thing again among
    them."""

    limit, kind = "look_ups", "search_loop"

    def __init__(self, streak: NoActionStreak) -> None:
        super().__init__(streak)
        self._count = 0
        self._known: set[tuple[int, int]] = set()
        self._again = False

    def said(self, turn: Turn) -> int:
        looks = turn.acts and not self.streak.called and all(action.look_up for action in turn.said.actions)
        if not looks:
            self._count, self._again = 0, False
            self._known.clear()
        else:
            self._count += 1
        return self._count if self._again else 0

    def answered(self, turn: Turn) -> int:
        if self._count and len(self._known) < REMEMBERED:
            seen = turn.call, turn.result
            self._again = self._again or seen in self._known
            self._known.add(seen)
        return 0

    def stage(self) -> Stage | None:
        needed = {6: 150, 7: 100}.get(self._count)
        return None if needed is None else Stage(f"{self._count} look-ups in a row", needed, self._count)

    def explain(self, count: int) -> str:
        again = ", some of them again" if self._again else ""
        return f"{count} turns in a row that only look things up{again}; no tool was called"


class CutTags(Detector):
    """Answers in a row that open a tag and do not close it. One counts for two if the executor has said what is wrong
    with it, and it is the same again. Else a task that has called a tool before gets one more."""

    limit, kind = "cut_tags", "no_action_loop"

    def said(self, turn: Turn) -> int:
        cut = self.streak.cut
        if not cut:
            return 0
        if self.streak.cut_told:
            return cut + 1
        return cut - 1 if self.streak.called else cut

    def stage(self) -> Stage | None:
        cut, told = self.streak.cut, self.streak.cut_told
        if cut == 2 and told:
            return Stage("2 cut tags, told of the first", 100, cut)
        needed = {1: 300, 2: 200, 3: 150}.get(cut)
        return None if needed is None else Stage(f"{cut} cut tag{'s' if cut > 1 else ''}", needed, cut)

    def explain(self, count: int) -> str:
        cut = self.streak.cut
        answers = f"{cut} answers in a row end" if cut > 1 else "an answer ends"
        return f"{answers} in an unclosed tag (a stop sequence that is the closing tag?)"


class SameResponse(Detector):
    """The same answer without an action, word for word, in a row."""

    limit, kind = "same_response", "no_action_loop"

    def said(self, turn: Turn) -> int:
        return 0 if turn.acts or not turn.said.text.strip() else self.streak.same

    def explain(self, count: int) -> str:
        return f"the same response without an action {count} times in a row"


class NoAction(Detector):
    """Turns in a row without an action that an executor waits for."""

    limit, kind = "no_action", "no_action_loop"

    def said(self, turn: Turn) -> int:
        return self.streak.length if self.streak.length and self.streak.by_executor else 0

    def stage(self) -> Stage | None:
        reached = self.streak.length == 4 and not self.streak.cut and self.streak.by_executor
        return Stage("4 turns without an action", 150, 4) if reached else None

    def explain(self, count: int) -> str:
        return f"{count} turns in a row without an action"


class Empty(Detector):
    """Answers in a row with nothing in them."""

    limit, kind = "empty", "empty_loop"

    def said(self, turn: Turn) -> int:
        return 0 if turn.acts else self.streak.empty

    def explain(self, count: int) -> str:
        return f"{count} empty answers in a row"


_DONE = re.compile(
    r"\b(?:tasks?|workflow|pipeline|steps?|work|everything)\b[^.\n]{0,60}\b(?:completed?|done|finished)\b"
    r"|<(?:done|task_complete)\b",
    re.IGNORECASE,
)


class Restarts(Detector):
    """A task that says it is done, is not heard, and calls again what it had called."""

    limit, kind = "restarts", "restart_loop"

    def __init__(self, streak: NoActionStreak) -> None:
        super().__init__(streak)
        self._calls: dict[int, None] = {}
        self._done = False
        self._told: set[str] = set()
        self._count = 0

    def said(self, turn: Turn) -> int:
        if not turn.acts:
            self._done = bool(_DONE.search(turn.said.text[-600:]))
            return 0
        again = self._done and turn.call in self._calls
        self._done = False
        self._calls[turn.call] = None
        if len(self._calls) > REMEMBERED:
            del self._calls[next(iter(self._calls))]
        if again:
            self._count += 1
        return self._count if again else 0

    def answered(self, turn: Turn) -> int:
        if self._done and turn.heard:
            # Words that were not said before are a person's who wants something else.
            told = opening(turn.heard[0].text)
            self._done = told in self._told
            if len(self._told) < REMEMBERED:
                self._told.add(told)
        return 0

    def explain(self, count: int) -> str:
        return f"the task said that it is done and began again, {count} times"


class Calls(Detector):
    """All the calls of a task. Many are no loop: by default they are only noted."""

    limit, kind = "calls", "calls_loop"

    def __init__(self, streak: NoActionStreak) -> None:
        super().__init__(streak)
        self._count = 0

    def said(self, turn: Turn) -> int:
        self._count += len(turn.said.actions)
        return self._count if turn.acts else 0

    def explain(self, count: int) -> str:
        return f"{count} calls in one task"


ALL: tuple[type[Detector], ...] = (
    Searches, LookUps, CutTags, SameResponse, NoAction, Empty, Repeats, Errors, Cycles, Paraphrases, Restarts, Calls,
)  # fmt: skip
