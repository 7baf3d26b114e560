"""The detectors: each counts one kind of loop, in bounded memory, and says what it saw.

`said(turn)` comes when the model has answered, `answered(turn)` when what it was told about it is complete. Both return
how far the loop has come by that turn; 0: not at all. What each count means is in `explain`.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

from threadsafe_timeout._guard.streaks import NoActionStreak
from threadsafe_timeout._guard.turns import Turn, opening

__all__ = ["ALL", "Detector", "Stage"]

_REMEMBERED = 256  # calls and results of a task that are known again
_UNKNOWN = 3  # so many more of the same are needed where the results are not seen


class Stage(NamedTuple):
    """A point on the way to a limit. `name` is for a person; `needed`: so many loops must have got there, and none been
    left, before one is ended there; `count` is what a loop ended there says."""

    name: str
    needed: int
    count: int


class Detector:
    """One kind of loop. `limit` is the name of its threshold, `kind` what a result's `error_type` says."""

    limit = ""
    kind = ""

    def __init__(self, streak: NoActionStreak) -> None:
        self.streak = streak

    def said(self, turn: Turn) -> int:
        return 0

    def answered(self, turn: Turn) -> int:
        return 0

    def stage(self) -> Stage | None:
        """How far the loop has come, where the run may have taught that none is left from there on."""
        return None

    def explain(self, count: int) -> str:
        """For a person. No text of the model's: what a runner makes of a message is decided by its words."""
        raise NotImplementedError


class Searches(Detector):
    """Turns in a row that only search."""

    limit, kind = "searches", "search_loop"

    def __init__(self, streak: NoActionStreak) -> None:
        super().__init__(streak)
        self._count = 0

    def said(self, turn: Turn) -> int:
        only = turn.acts and all(action.search for action in turn.said.actions)
        self._count = self._count + 1 if only else 0
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
        if self._count and len(self._known) < _REMEMBERED:
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


_ERROR = re.compile(
    r"\s*(?:[❌🚫⚠️]|(?:<\w+>|[{\[(\"'])*\s*(?:error|exception|traceback|fail(?:ed|ure)\b|fatal|permission denied"
    r"|command not found|no such file))",
    re.IGNORECASE,
)
_TRANSIENT = re.compile(
    r"time(?:d)?[ _-]?out|rate[ _-]?limit|too many requests|\b(?:429|502|503|504|529)\b|unavailable|overloaded|busy"
    r"|try again|retry|connection|temporar|not (?:yet )?ready|in progress|pending",
    re.IGNORECASE,
)


def _is_error(turn: Turn) -> bool:
    return any(one.error or (one.error is None and _ERROR.match(one.text[:60])) for one in turn.heard)


class _SameAgain(Detector):
    """Consecutive turns with the same calls and the same results."""

    def __init__(self, streak: NoActionStreak) -> None:
        super().__init__(streak)
        self._count = 0
        self._last: Turn | None = None

    def _again(self, turn: Turn, counts: bool) -> int:
        if not counts:
            self._count, self._last = 0, None
            return 0
        self._count = self._count + 1 if self._last is not None and turn.again(self._last) else 1
        self._last = turn
        return self._count


class Repeats(_SameAgain):
    """The same call with the same result, in a row. A tool that polls may."""

    limit, kind = "repeats", "repeat_loop"

    def answered(self, turn: Turn) -> int:
        count = self._again(turn, turn.acts and not turn.polls and not _is_error(turn))
        return count if turn.heard else max(0, count - _UNKNOWN)

    def explain(self, count: int) -> str:
        if self._last is not None and not self._last.heard:
            return f"the same call {count + _UNKNOWN} times in a row"
        return f"the same call with the same result {count} times in a row"


class Errors(_SameAgain):
    """The same call with the same error, in a row. An error that may pass (a rate limit, a timeout) counts half."""

    limit, kind = "errors", "error_loop"

    def answered(self, turn: Turn) -> int:
        count = self._again(turn, turn.acts and not turn.polls and _is_error(turn))
        passing = count > 1 and any(_TRANSIENT.search(one.text[:2000]) for one in turn.heard)
        return count // 2 if passing else count

    def explain(self, count: int) -> str:
        return f"the same call with the same error {self._count} times in a row"


class Cycles(Detector):
    """Two to five calls that come again and again in the same order, with the same results. Where they are one call whose
    results come again, the results have to be the same letter by letter: what asks one thing all the time mostly waits."""

    limit, kind = "cycles", "cycle_loop"

    def __init__(self, streak: NoActionStreak) -> None:
        super().__init__(streak)
        self._turns: deque[Turn | None] = deque(maxlen=5)
        self._run = [0] * 6  # by period: how many turns in a row equal the one that many turns before
        self._one_call = 0  # how many turns in a row make the same call as the one before
        self._period = 0

    def _comes_again(self, turn: Turn, period: int) -> bool:
        other = self._turns[-period] if period <= len(self._turns) else None
        if other is None or other.call != turn.call:
            return False
        return turn.told_exactly(other) if self._one_call >= period > 1 else turn.told_like(other)

    def answered(self, turn: Turn) -> int:
        known = turn.acts and not turn.polls
        last = self._turns[-1] if self._turns else None
        self._one_call = self._one_call + 1 if known and last is not None and last.call == turn.call else 0
        best = 0
        for period in range(1, 6):
            self._run[period] = self._run[period] + 1 if known and self._comes_again(turn, period) else 0
            whole = self._run[period] // period + 1
            if period > 1 and whole > best and self._run[1] < period:
                best, self._period = whole, period
        self._turns.append(turn if known else None)
        if known and not turn.heard:
            best = max(0, best - _UNKNOWN)
        return best if best > 1 else 0

    def explain(self, count: int) -> str:
        return f"a cycle of {self._period} calls with the same results, for the {count}th time"


_WORD = re.compile(r"\w+")
_SEARCHES = re.compile(r"search|query|find|look_?up|retriev", re.IGNORECASE)
_FRACTION = re.compile(r"\d+\.\d+")


class Paraphrases(Detector):
    """Searches in a row for nearly the same words that bring nothing new."""

    limit, kind = "paraphrases", "paraphrase_loop"
    alike = 0.85  # Jaccard index of the words of two queries

    def __init__(self, streak: NoActionStreak) -> None:
        super().__init__(streak)
        self._queries: deque[frozenset[str]] = deque(maxlen=8)
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
        near = any(len(words & other) >= self.alike * len(words | other) for other in self._queries)
        self._queries.append(words)
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
        if len(self._found) < 20 * _REMEMBERED:
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
        if len(self._calls) > _REMEMBERED:
            del self._calls[next(iter(self._calls))]
        if again:
            self._count += 1
        return self._count if again else 0

    def answered(self, turn: Turn) -> int:
        if self._done and turn.heard:
            # Words that were not said before are a person's who wants something else.
            told = opening(turn.heard[0].text)
            self._done = told in self._told
            if len(self._told) < _REMEMBERED:
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
