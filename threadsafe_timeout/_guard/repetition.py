"""The detectors of calls that come again with the same results: one by one, with an error, in a cycle."""

from __future__ import annotations

import re
from collections import deque

from threadsafe_timeout._guard.detector import Detector
from threadsafe_timeout._guard.streaks import NoActionStreak
from threadsafe_timeout._guard.turns import Turn

__all__ = ["Cycles", "Errors", "Repeats"]

_UNKNOWN = 3  # so many more of the same are needed where the results are not seen
_ERROR = re.compile(
    r"\s*(?:[❌🚫⚠️]|(?:<\w+>|[{\[(\"'])*\s*(?:[\w.]{0,50}(?:error|exception)|traceback|fail(?:ed|ure)\b|fatal"
    r"|permission denied|command not found|no such file))",
    re.IGNORECASE,
)
_TRANSIENT = re.compile(
    r"time(?:d)?[ _-]?out|rate[ _-]?limit|too many requests|\b(?:429|502|503|504|529)\b|unavailable|overloaded|busy"
    r"|try again|retry|connection|temporar|not (?:yet )?ready|in progress|pending",
    re.IGNORECASE,
)
_WAITING = re.compile(
    r"\b(?:pending|queued|running|in[ _-]progress|processing|still \w+ing|waiting"
    r"|starting|initiali[sz]ing|provisioning|building|deploying)\b"
    r"|(?:\bnot|n't)(?: yet| been)? (?:ready|done|finished|complete)",
    re.IGNORECASE,
)
_SHORT = 300  # a longer result is more than a word on how far something is
# What moves something by a step, and is told no more than that it did.
_STEP = re.compile(
    r"(?:^|[\W_]|(?<=[a-z])(?=[A-Z]))(?:press|key|hotkey|scroll|swipe|click|tap|move|step|next|forward|back|undo|redo|go"
    r"|increment|add|turn|advance)(?:$|[\W_0-9]|(?=[A-Z]))",
    re.IGNORECASE,
)
_STEPS = 3  # so many of them count as one


def _waits(turn: Turn) -> bool:
    """Whether the call waits for something: its name says so, or a short result does."""
    return turn.polls or any(len(one.text) < _SHORT and _WAITING.search(one.text) for one in turn.heard)


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
    """The same call with the same result, in a row. What waits for something may; of what moves something by a step,
    three count as one."""

    limit, kind = "repeats", "repeat_loop"

    def answered(self, turn: Turn) -> int:
        count = self._again(turn, turn.acts and not _is_error(turn))
        if count < 2:
            return count
        if _waits(turn):
            return self._again(turn, False)
        if turn.heard and all(_STEP.search(action.name) for action in turn.said.actions):
            return count // _STEPS
        return count if turn.heard else max(0, count - _UNKNOWN)

    def explain(self, count: int) -> str:
        heard = self._last is None or self._last.heard
        return f"the same call{' with the same result' if heard else ''} {self._count} times in a row"


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
    """Two to five calls that come again and again in the same order, with the same results. Where they are one call
    whose results come again, these have to be the same letter by letter: what asks one thing all the time mostly waits.
    """

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
        return best if best > 1 and not self._waits() else 0

    def _waits(self) -> bool:
        return any(turn is not None and _waits(turn) for turn in list(self._turns)[-self._period :])

    def explain(self, count: int) -> str:
        return f"a cycle of {self._period} calls with the same results, for the {count}th time"
